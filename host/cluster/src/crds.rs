//! Which custom resources are installed, and in what form: asked of the discovery, no right is needed for it.

use crate::discovery::KindTable;

/// A kind of ours in the cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InstalledKind {
    /// Versions that are served, the preferred one first.
    pub versions: Vec<String>,
    /// Whether the preferred version has a status subresource: ours have, the Python operator's have not.
    pub has_status_subresource: bool,
}

/// How a kind is installed; none: it is not.
pub fn installed(table: &KindTable, group: &str, kind: &str) -> Option<InstalledKind> {
    let preferred = table.versions(group, kind).next()?;
    Some(InstalledKind {
        versions: table.versions(group, kind).map(|served| served.resource.kind.version.clone()).collect(),
        has_status_subresource: preferred.subresources.iter().any(|subresource| subresource == "status"),
    })
}

#[cfg(test)]
mod tests {
    use dask_wasm_operator_core::object::{GroupVersionKind, Resource};

    use super::*;
    use crate::discovery::ServedKind;

    #[test]
    fn the_preferred_version_tells_of_the_status() {
        let served = |version: &str, subresources: &[&str]| ServedKind {
            resource: Resource {
                kind: GroupVersionKind::new("kubernetes.dask.org", version, "DaskCluster"),
                plural: "daskclusters".into(),
                namespaced: true,
            },
            singular: "daskcluster".into(),
            short_names: vec![],
            subresources: subresources.iter().map(|name| (*name).to_owned()).collect(),
        };
        let table: KindTable = [served("v1", &["scale", "status"]), served("v1beta1", &[])].into_iter().collect();
        let found = installed(&table, "kubernetes.dask.org", "DaskCluster").unwrap();
        assert_eq!(found.versions, ["v1", "v1beta1"]);
        assert!(found.has_status_subresource);
        assert_eq!(installed(&table, "kubernetes.dask.org", "DaskJob"), None);
    }
}
