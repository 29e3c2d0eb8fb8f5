//! Everything in a namespace that matters, in a form that is the same for each namespace: what differs by nature (uids, and
//! names made of them, times, addresses) is replaced by what it stands for.

use std::{collections::BTreeSet, fmt};

use anyhow::Context;
use kube::{
    ResourceExt,
    api::{ApiResource, DynamicObject, ListParams},
};
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};

use crate::site::{Site, dask, resource};

/// Objects by kind and name, ordered. Two of the same key would be a duplicate, and stay visible as such.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Snapshot {
    entries: Vec<(String, Value)>,
}

fn kinds() -> Vec<ApiResource> {
    vec![
        dask("DaskCluster"),
        dask("DaskWorkerGroup"),
        resource("plugins.dask.org/v1alpha1", "DaskPluginRecord"),
        resource("apps/v1", "Deployment"),
        resource("apps/v1", "ReplicaSet"),
        resource("v1", "Service"),
        resource("networking.istio.io/v1", "VirtualService"),
    ]
}

impl Snapshot {
    /// What is in the namespace of a site now.
    pub(crate) async fn take(site: &Site) -> anyhow::Result<Self> {
        let mut objects = Vec::new();
        for kind in kinds() {
            let list = site.api(&kind).list(&ListParams::default()).await;
            let list = list.with_context(|| format!("listing {}", kind.plural))?;
            for mut object in list.items {
                object.types =
                    Some(kube::core::TypeMeta { api_version: kind.api_version.clone(), kind: kind.kind.clone() });
                objects.push(object);
            }
        }
        let mut substitutes = substitutes(&objects);
        substitutes.push((site.namespace.clone(), "NAMESPACE".to_owned()));
        let mut entries = Vec::new();
        for object in &objects {
            let text = serde_json::to_string(&essence(object)).context("writing an object")?;
            let text = substitutes.iter().fold(text, |text, (from, to)| text.replace(from, to));
            let value: Value = serde_json::from_str(&text).context("reading an object")?;
            let name = value["metadata"]["name"].as_str().unwrap_or_default();
            entries.push((format!("{} {name}", value["kind"].as_str().unwrap_or_default()), value));
        }
        entries.sort_by(|(left, left_value), (right, right_value)| {
            (left, left_value.to_string()).cmp(&(right, right_value.to_string()))
        });
        Ok(Self { entries })
    }

    /// The objects of a kind.
    pub(crate) fn of_kind<'a>(&'a self, kind: &'a str) -> impl Iterator<Item = &'a Value> {
        self.entries.iter().map(|(_, value)| value).filter(move |value| value["kind"] == kind)
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// How this differs from what was expected, field by field.
    pub(crate) fn differences(&self, expected: &Self) -> String {
        let count = |snapshot: &Self, key: &str| snapshot.entries.iter().filter(|(other, _)| other == key).count();
        let mut lines = Vec::new();
        for (key, value) in &expected.entries {
            match self.entries.iter().find(|(other, _)| other == key) {
                Some((_, found)) => compare(key, found, value, &mut lines),
                None => lines.push(format!("{key} is missing")),
            }
        }
        for (key, _) in self.entries.iter().filter(|(key, _)| count(self, key) > count(expected, key)) {
            lines.push(format!("{key} is too much"));
        }
        lines.join("\n")
    }
}

fn compare(path: &str, found: &Value, expected: &Value, lines: &mut Vec<String>) {
    match (found, expected) {
        (Value::Object(found), Value::Object(expected)) => {
            let names: BTreeSet<_> = found.keys().chain(expected.keys()).collect();
            let field = |fields: &Map<String, Value>, name| fields.get(name).cloned().unwrap_or_default();
            for name in names {
                compare(&format!("{path}.{name}"), &field(found, name), &field(expected, name), lines);
            }
        }
        _ if found == expected => {}
        _ => lines.push(format!("{path} is {found}, not {expected}")),
    }
}

impl fmt::Display for Snapshot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.entries.iter().try_for_each(|(key, value)| writeln!(f, "  {key}: {value}"))
    }
}

/// What differs from namespace to namespace, and what it stands for: uids, and the suffixes of workers, which are made of
/// the group's uid and an ordinal. In the order in which they are to be replaced.
fn substitutes(objects: &[DynamicObject]) -> Vec<(String, String)> {
    let mut uids = Vec::new();
    let mut suffixes = Vec::new();
    for object in objects {
        let (Some(uid), Some(types)) = (object.uid(), &object.types) else { continue };
        if types.kind == "DaskWorkerGroup" {
            let record = object.annotations().get("operator.dask.org/worker-ordinals");
            let next = record.and_then(|record| serde_json::from_str::<Value>(record).ok()?["next"].as_u64());
            for ordinal in 0..next.unwrap_or(0) {
                let digest = Sha256::digest(format!("{uid}:{ordinal}"));
                let suffix: String = digest[..5].iter().map(|byte| format!("{byte:02x}")).collect();
                suffixes.push((format!("-worker-{suffix}"), format!("-worker-#{ordinal}")));
            }
        }
        uids.push((uid, format!("uid-of-{}-{}", types.kind, object.name_any())));
    }
    uids.append(&mut suffixes);
    uids
}

/// An object without what the API server or another controller makes of it.
fn essence(object: &DynamicObject) -> Value {
    let kind = object.types.as_ref().map(|types| types.kind.as_str()).unwrap_or_default();
    let owners: Vec<_> = object.owner_references().iter().map(|owner| json!(owner)).collect();
    if kind == "ReplicaSet" {
        // One for each template that a Deployment has had.
        let owner = object.owner_references().first().map(|owner| owner.name.clone());
        return json!({"kind": kind, "metadata": {"name": owner, "ownerReferences": owners}});
    }
    let mut spec = object.data["spec"].clone();
    if let Some(spec) = spec.as_object_mut().filter(|_| kind == "Service") {
        spec.retain(|field, _| !field.starts_with("clusterIP"));
    }
    let mut annotations = object.annotations().clone();
    // A hash over names of this namespace; what it is made of is compared.
    if let Some(hash) = annotations.get_mut("operator.dask.org/template-hash") {
        *hash = "HASH".to_owned();
    }
    let mut status = object.data["status"].clone();
    without_incidentals(&mut status);
    json!({
        "kind": kind,
        "metadata": {
            "name": object.name_any(),
            "labels": object.labels(),
            "annotations": annotations,
            "ownerReferences": owners,
            "deleted": object.metadata.deletion_timestamp.is_some(),
        },
        "spec": spec,
        "status": if kind.starts_with("Dask") { status } else { Value::Null },
    })
}

/// Removes times, and hashes over names of one namespace.
fn without_incidentals(value: &mut Value) {
    match value {
        Value::Object(fields) => {
            fields.retain(|name, _| !(name.ends_with("Time") || name.ends_with("At") || name == "digest"));
            fields.values_mut().for_each(without_incidentals);
        }
        Value::Array(items) => items.iter_mut().for_each(without_incidentals),
        _ => {}
    }
}
