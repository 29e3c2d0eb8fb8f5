//! URLs of the API server, from checked names only: some of them come from guests.

use dask_wasm_operator_core::{
    names::{NameError, check_dns_label, check_dns_subdomain},
    object::{NamespacedName, Resource},
};
use thiserror::Error;

/// A name that must not become part of a URL.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("{what} {problem}")]
pub struct PathError {
    /// What is named.
    pub what: &'static str,
    /// What is wrong with it.
    pub problem: NameError,
}

/// The path of a collection: of one namespace, or of all.
pub(crate) fn collection(resource: &Resource, namespace: Option<&str>) -> Result<String, PathError> {
    let check = |what, checked: Result<(), NameError>| checked.map_err(|problem| PathError { what, problem });
    let kind = &resource.kind;
    check("the API version", check_dns_label(&kind.version))?;
    check("the plural name", check_dns_label(&resource.plural))?;
    let mut path = if kind.group.is_empty() {
        format!("/api/{}", kind.version)
    } else {
        check("the API group", check_dns_subdomain(&kind.group))?;
        format!("/apis/{}/{}", kind.group, kind.version)
    };
    if let Some(namespace) = namespace.filter(|_| resource.namespaced) {
        check("the namespace", check_dns_label(namespace))?;
        path.push_str("/namespaces/");
        path.push_str(namespace);
    }
    path.push('/');
    path.push_str(&resource.plural);
    Ok(path)
}

/// The path of one object.
pub(crate) fn object(resource: &Resource, at: &NamespacedName) -> Result<String, PathError> {
    if resource.namespaced && at.namespace.is_none() {
        return Err(PathError { what: "the namespace", problem: NameError::Empty });
    }
    check_dns_subdomain(&at.name).map_err(|problem| PathError { what: "the name", problem })?;
    Ok(format!("{}/{}", collection(resource, at.namespace.as_deref())?, at.name))
}

/// Adds a query parameter.
pub(crate) fn with_parameter(mut path: String, name: &str, value: &str) -> String {
    path.push(if path.contains('?') { '&' } else { '?' });
    path.push_str(name);
    path.push('=');
    for byte in value.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            path.push(char::from(byte));
        } else {
            path.push_str(&format!("%{byte:02X}"));
        }
    }
    path
}

#[cfg(test)]
mod tests {
    use dask_wasm_operator_core::object::GroupVersionKind;

    use super::*;

    fn resource(group: &str, version: &str, kind: &str, plural: &str, namespaced: bool) -> Resource {
        Resource { kind: GroupVersionKind::new(group, version, kind), plural: plural.into(), namespaced }
    }

    #[test]
    fn paths_are_those_of_the_api() {
        let deployments = resource("apps", "v1", "Deployment", "deployments", true);
        let at = NamespacedName::new("n", "a");
        assert_eq!(object(&deployments, &at).unwrap(), "/apis/apps/v1/namespaces/n/deployments/a");
        assert_eq!(collection(&deployments, None).unwrap(), "/apis/apps/v1/deployments");
        let nodes = resource("", "v1", "Node", "nodes", false);
        let node = NamespacedName { namespace: None, name: "n.example".into() };
        assert_eq!(object(&nodes, &node).unwrap(), "/api/v1/nodes/n.example");
    }

    #[test]
    fn names_cannot_leave_their_place() {
        let config_maps = resource("", "v1", "ConfigMap", "configmaps", true);
        for name in ["", "x?force=true", "x/status", "../../kube-system/secrets/s", "x#f", "?", "..", ".", "x%2f"] {
            assert!(object(&config_maps, &NamespacedName::new("n", name)).is_err(), "{name}");
        }
        for namespace in ["", "../kube-system", "a/b", "a?b"] {
            assert!(object(&config_maps, &NamespacedName::new(namespace, "x")).is_err(), "{namespace}");
            assert!(collection(&config_maps, Some(namespace)).is_err(), "{namespace}");
        }
        assert!(object(&config_maps, &NamespacedName { namespace: None, name: "x".into() }).is_err());
        for plural in ["", "secrets/x", "pods?x"] {
            assert!(collection(&resource("", "v1", "X", plural, true), None).is_err());
        }
        assert!(collection(&resource("a/b", "v1", "X", "x", true), None).is_err());
        assert!(collection(&resource("", "v1/x", "X", "x", true), None).is_err());
    }

    #[test]
    fn parameters_are_escaped() {
        let path = with_parameter("/x".into(), "fieldManager", "dask-plugin/a/b");
        assert_eq!(with_parameter(path, "force", "true&x=1"), "/x?fieldManager=dask-plugin%2Fa%2Fb&force=true%26x%3D1");
    }
}
