//! Which lists are merged by keys, and which maps are one value: what the schemas of the API server say. By names, because
//! no schema is at hand.

use serde_json::{Map, Value};

use crate::{object::GroupVersionKind, spec::DASK_GROUP};

/// How a kind is merged.
#[derive(Clone, Copy)]
pub(super) struct Rules<'a> {
    kind: &'a GroupVersionKind,
}

/// How the items of a list are told apart.
enum Items {
    /// Not at all: the list is one value.
    Whole,
    /// By these keys.
    Keyed(&'static [&'static str]),
    /// Each is a value of its own.
    Values,
}

/// The name under which [`Rules::is_whole`] is asked for the items of a list.
pub(super) const ITEM: &str = "[]";

impl<'a> Rules<'a> {
    pub(super) fn of(kind: &'a GroupVersionKind) -> Self {
        Self { kind }
    }

    pub(super) fn is_built_in(self) -> bool {
        self.kind.is_built_in()
    }

    /// Whether the API server counts the changes of what is specified.
    pub(super) fn has_generation(self) -> bool {
        let counted = [
            "CronJob",
            "DaemonSet",
            "Deployment",
            "Ingress",
            "Job",
            "NetworkPolicy",
            "Pod",
            "PodDisruptionBudget",
            "ReplicaSet",
            "ReplicationController",
            "StatefulSet",
        ];
        !self.is_built_in() || counted.contains(&&*self.kind.kind)
    }

    /// Whether changes of annotations count, too.
    pub(super) fn counts_annotations(self) -> bool {
        self.is_built_in() && self.kind.kind == "Deployment"
    }

    /// Takes out what the API server does not store: nulls, and what is empty, in its own types.
    pub(super) fn drop_empty(self, object: &mut Value) {
        if self.is_built_in() {
            drop_below(object);
        } else if let Some(metadata) = object.get_mut("metadata") {
            drop_below(metadata);
        }
    }

    fn items(self, above: &str, name: &str) -> Items {
        let is_built_in = self.is_built_in();
        match name {
            "ownerReferences" if above == "metadata" => Items::Keyed(&["uid"]),
            "finalizers" if above == "metadata" => Items::Values,
            _ if !is_built_in && self.kind.group != DASK_GROUP => Items::Whole,
            "conditions" => Items::Keyed(&["type"]),
            "topologySpreadConstraints" => Items::Keyed(&["topologyKey", "whenUnsatisfiable"]),
            "ports" if above == "service" || above == "spec" && self.kind.kind == "Service" => {
                Items::Keyed(&["port", "protocol"])
            }
            _ if !is_built_in => Items::Whole,
            "ports" if matches!(above, "containers" | "initContainers" | "ephemeralContainers") => {
                Items::Keyed(&["containerPort", "protocol"])
            }
            "containers"
            | "initContainers"
            | "ephemeralContainers"
            | "env"
            | "volumes"
            | "imagePullSecrets"
            | "resourceClaims"
            | "schedulingGates"
            | "claims"
            | "secrets" => Items::Keyed(&["name"]),
            "volumeMounts" => Items::Keyed(&["mountPath"]),
            "volumeDevices" => Items::Keyed(&["devicePath"]),
            "hostAliases" => Items::Keyed(&["ip"]),
            _ => Items::Whole,
        }
    }

    /// Whether a map is one value.
    pub(super) fn is_whole(self, above: &str, name: &str) -> bool {
        match name {
            ITEM => matches!(above, "ownerReferences" | "imagePullSecrets"),
            "labelSelector" | "namespaceSelector" => true,
            "selector"
            | "podSelector"
            | "nodeSelector"
            | "secretKeyRef"
            | "configMapKeyRef"
            | "fieldRef"
            | "resourceFieldRef"
            | "requiredDuringSchedulingIgnoredDuringExecution" => self.is_built_in(),
            _ => false,
        }
    }

    /// The steps to the items of a list; none if it is one value, or an item lacks a key.
    pub(super) fn steps(self, above: &str, name: &str, list: &[Value]) -> Option<Vec<String>> {
        match self.items(above, name) {
            Items::Whole => None,
            Items::Keyed(keys) => list.iter().map(|item| step(keys, item)).collect(),
            Items::Values => Some(list.iter().map(|item| format!("v:{item}")).collect()),
        }
    }
}

/// Keys stand in the order of their names.
fn step(keys: &[&str], item: &Value) -> Option<String> {
    let key = |name: &&str| {
        let by_default = (*name == "protocol").then(|| Value::from("TCP"));
        Some(((*name).to_owned(), item.get(*name).cloned().or(by_default)?))
    };
    let keys: Map<String, Value> = keys.iter().map(key).collect::<Option<_>>()?;
    Some(format!("k:{}", Value::from(keys)))
}

/// Maps that may be absent. Others stand for a choice even if they are empty, as `emptyDir` does.
const MAPS: [&str; 9] =
    ["annotations", "binaryData", "data", "labels", "limits", "matchLabels", "nodeSelector", "requests", "stringData"];

fn drop_below(value: &mut Value) {
    let is_dropped = |name: &str, value: &Value| match value {
        Value::Null => true,
        Value::Array(items) => items.is_empty(),
        Value::Object(fields) => fields.is_empty() && MAPS.contains(&name),
        _ => false,
    };
    match value {
        Value::Object(fields) => {
            fields.values_mut().for_each(drop_below);
            fields.retain(|name, value| !is_dropped(name, value));
        }
        Value::Array(items) => items.iter_mut().for_each(drop_below),
        _ => {}
    }
}
