//! The kinds that `render` knows: the built-in ones, those that definitions among the files define, and those that plugins are
//! granted.

use dask_wasm_operator_cluster::discovery::{KindError, KindTable, ServedKind};
use dask_wasm_operator_core::{
    contract::KindReference,
    memory::built_in_kinds,
    object::{GroupVersionKind, Resource},
    spec::DaskPluginSpec,
};
use serde_json::{Value, json};

/// All versions of each kind, the one in which objects are kept first.
pub(super) struct Kinds(Vec<ServedKind>);

impl Kinds {
    pub(super) fn built_in() -> Self {
        let kinds = built_in_kinds().into_iter();
        let kinds = kinds.map(|(resource, short_names)| served(resource, None, short_names.iter().copied()));
        Self(kinds.collect())
    }

    /// Adds what a CustomResourceDefinition defines, the stored version first.
    pub(super) fn define(&mut self, definition: &Value) {
        let text = |pointer: &str| definition.pointer(pointer).and_then(Value::as_str);
        let list = |pointer: &str| definition.pointer(pointer).and_then(Value::as_array).into_iter().flatten();
        let (Some(group), Some(kind)) = (text("/spec/group"), text("/spec/names/kind")) else { return };
        self.0.retain(|known| (&*known.resource.kind.group, &*known.resource.kind.kind) != (group, kind));
        let is_stored = |version: &&Value| version["storage"] == json!(true);
        let is_served = |version: &&Value| version["served"] != json!(false);
        let stored = list("/spec/versions").filter(is_stored);
        let others = list("/spec/versions").filter(|version| is_served(version) && !is_stored(version));
        for name in stored.chain(others).filter_map(|version| version["name"].as_str()) {
            let resource = Resource {
                kind: GroupVersionKind::new(group, name, kind),
                plural: text("/spec/names/plural").unwrap_or_default().to_owned(),
                namespaced: text("/spec/scope") == Some("Namespaced"),
            };
            let short_names = list("/spec/names/shortNames").filter_map(Value::as_str);
            self.0.push(served(resource, text("/spec/names/singular"), short_names));
        }
    }

    /// Kinds that are granted are taken to be served, in namespaces and in version v1, unless a definition says more.
    pub(super) fn assume_granted(&mut self, spec: &DaskPluginSpec) {
        for grant in &spec.grants.create {
            let kind = GroupVersionKind::new(&grant.group, "v1", &grant.kind);
            if !self.0.iter().any(|known| known.resource.kind.same_kind(&kind)) {
                let plural = format!("{}s", grant.kind.to_lowercase());
                self.0.push(served(Resource { kind, plural, namespaced: true }, None, std::iter::empty()));
            }
        }
    }

    /// Whether an object of this kind and version can be given.
    pub(super) fn check(&self, kind: &GroupVersionKind) -> Result<(), String> {
        let known: Vec<_> = self.0.iter().filter(|known| known.resource.kind.same_kind(kind)).collect();
        let versions: Vec<_> = known.iter().map(|known| known.resource.kind.version.as_str()).collect();
        match versions.as_slice() {
            [] => Err(format!("the kind {kind} is not known; give its CustomResourceDefinition too")),
            versions if versions.contains(&kind.version.as_str()) => Ok(()),
            versions => Err(format!(
                "the kind {kind} is not known in version {:?}, but in {}",
                kind.version,
                versions.join(", ")
            )),
        }
    }

    /// Each kind once, in the version in which its objects are kept.
    pub(super) fn resources(&self) -> Vec<Resource> {
        let mut resources: Vec<Resource> = Vec::new();
        for known in &self.0 {
            if !resources.iter().any(|resource| resource.kind.same_kind(&known.resource.kind)) {
                resources.push(known.resource.clone());
            }
        }
        resources
    }

    /// As [`KindTable::resolve`]. Whatever version is named, objects are seen in the one in which they are kept.
    pub(super) fn resolve(&self, reference: &KindReference) -> Result<Resource, String> {
        let table: KindTable = self.0.iter().cloned().collect();
        match table.resolve(reference) {
            Ok(found) => {
                let kind = &found.resource.kind;
                let kept = table.versions(&kind.group, &kind.kind).next().unwrap_or(found);
                Ok(kept.resource.clone())
            }
            Err(KindError::Unknown { reference, .. }) => {
                Err(format!("the kind {reference} is not known; give its CustomResourceDefinition as a FILE too"))
            }
            Err(KindError::Ambiguous { reference, candidates }) => {
                Err(format!("{reference} could be {}; name the group too", candidates.join(" or ")))
            }
        }
    }
}

fn served<'a>(resource: Resource, singular: Option<&str>, short_names: impl Iterator<Item = &'a str>) -> ServedKind {
    ServedKind {
        singular: singular.map_or_else(|| resource.kind.kind.to_lowercase(), str::to_owned),
        resource,
        short_names: short_names.map(str::to_owned).collect(),
        subresources: Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn resolve(kinds: &Kinds, name: &str) -> Result<String, String> {
        let reference = KindReference { group: None, version: None, name: name.to_owned() };
        kinds.resolve(&reference).map(|resource| format!("{}/{}", resource.kind, resource.kind.version))
    }

    fn widgets() -> Value {
        json!({
            "spec": {
                "group": "x.io", "scope": "Namespaced",
                "names": {"kind": "Widget", "plural": "widgets", "shortNames": ["wd"]},
                "versions": [
                    {"name": "v1beta1", "served": true, "storage": false},
                    {"name": "v1", "served": true, "storage": true},
                    {"name": "v1alpha1", "served": false, "storage": false},
                ],
            },
        })
    }

    #[test]
    fn built_in_and_defined_kinds_have_their_short_names() {
        let mut kinds = Kinds::built_in();
        assert_eq!(resolve(&kinds, "svc").unwrap(), "Service/v1");
        assert_eq!(resolve(&kinds, "dsk").unwrap(), "DaskCluster.kubernetes.dask.org/v1");
        assert!(resolve(&kinds, "wd").unwrap_err().contains("give its CustomResourceDefinition"));
        assert!(resolve(&kinds, "events").unwrap_err().contains("name the group too"));
        kinds.define(&widgets());
        assert_eq!(resolve(&kinds, "wd").unwrap(), "Widget.x.io/v1");
    }

    #[test]
    fn an_object_may_be_given_in_any_served_version_and_is_kept_in_one() {
        let mut kinds = Kinds::built_in();
        kinds.define(&widgets());
        for (version, is_good) in [("v1", true), ("v1beta1", true), ("v1alpha1", false), ("v2", false)] {
            assert_eq!(kinds.check(&GroupVersionKind::new("x.io", version, "Widget")).is_ok(), is_good, "{version}");
        }
        let beta = KindReference { group: None, version: Some("v1beta1".to_owned()), name: "widget".to_owned() };
        assert_eq!(kinds.resolve(&beta).unwrap().kind.version, "v1");
        assert_eq!(kinds.resources().iter().filter(|resource| resource.kind.kind == "Widget").count(), 1);
        let clashes = kinds.check(&GroupVersionKind::new("autoscaling", "v1", "HorizontalPodAutoscaler")).unwrap_err();
        assert!(clashes.ends_with("in version \"v1\", but in v2"), "{clashes}");
    }
}
