//! Everything in a namespace that matters, in a form that is the same for each namespace: what differs by nature (uids, and
//! names made of them, times, addresses) is replaced by what it stands for.

use std::{collections::BTreeSet, fmt};

use anyhow::Context;
use dask_wasm_operator_test_integration::{
    objects::{
        AUTOSCALER, CLUSTER, DEPLOYMENT, GROUP, JOB, Kind, Objects, PLUGIN_RECORD, REPLICA_SET, SERVICE,
        VIRTUAL_SERVICE, condition, controller, is_being_deleted, name, uid,
    },
    settled::Listed,
};
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};

/// Objects by kind and name, ordered. Two of the same key would be a duplicate, and stay visible as such.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Snapshot {
    entries: Vec<(String, Value)>,
}

/// The kinds of these objects.
pub(crate) const KINDS: [Kind<'_>; 9] =
    [CLUSTER, GROUP, JOB, AUTOSCALER, PLUGIN_RECORD, DEPLOYMENT, REPLICA_SET, SERVICE, VIRTUAL_SERVICE];

impl Snapshot {
    /// What is in a namespace now: something may be on its way.
    pub(crate) async fn take(namespace: &Objects) -> anyhow::Result<Self> {
        Self::of(&namespace.namespace, &namespace.listed(&KINDS).await?)
    }

    /// What is in a namespace when it is final and nothing is on its way any more: neither for Kubernetes nor for the
    /// operator with the example plugin.
    pub(crate) async fn settled(namespace: &Objects, is_final: impl Fn(&Self) -> bool) -> anyhow::Result<Self> {
        let unfinished = |seen: &[Listed]| {
            untold(seen).or_else(|| match Self::of(&namespace.namespace, seen) {
                Ok(seen) if is_final(&seen) => None,
                Ok(seen) => Some(format!("there is\n{seen}")),
                Err(error) => Some(format!("{error:#}")),
            })
        };
        Self::of(&namespace.namespace, &namespace.settled(&KINDS, unfinished).await?)
    }

    fn of(namespace: &str, objects: &[Listed]) -> anyhow::Result<Self> {
        let mut substitutes = substitutes(objects);
        substitutes.push((namespace.to_owned(), "NAMESPACE".to_owned()));
        let mut entries = Vec::new();
        for Listed { kind, object } in objects {
            let text = essence(kind, object).to_string();
            let text = substitutes.iter().fold(text, |text, (from, to)| text.replace(from, to));
            let value: Value = serde_json::from_str(&text).context("reading an object")?;
            entries.push((format!("{kind} {}", name(&value)), value));
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

/// What the operator and the example plugin have still to make or to tell, if anything: what they make of Services, and the
/// status of what has workers.
pub(crate) fn untold(seen: &[Listed]) -> Option<String> {
    let of_kind =
        |kind: Kind<'static>| seen.iter().filter(move |listed| listed.kind == kind.1).map(|listed| &listed.object);
    let is_served = |service: &&Value| {
        [VIRTUAL_SERVICE, PLUGIN_RECORD].iter().all(|kind| of_kind(*kind).any(|object| is_owned_by(object, service)))
    };
    if let Some(service) = of_kind(SERVICE).find(|service| !is_served(service)) {
        return Some(format!("the plugin has still to serve Service {}", name(service)));
    }
    let is_ready = |deployment: &&Value| deployment["status"]["readyReplicas"] == 1;
    let tells_of_workers = |object: &Value, group: &Value| {
        let workers: Vec<_> = of_kind(DEPLOYMENT).filter(|deployment| controller(deployment) == uid(group)).collect();
        let (exist, ready) = (workers.len(), workers.into_iter().filter(is_ready).count());
        let status = &object["status"];
        status["observedGeneration"] == object["metadata"]["generation"]
            && (&status["replicas"], &status["readyReplicas"]) == (&json!(exist), &json!(ready))
    };
    let is_told = |cluster: &Value| {
        let mut schedulers = of_kind(DEPLOYMENT).filter(|deployment| controller(deployment) == uid(cluster));
        let is_available = if schedulers.any(|scheduler| is_ready(&scheduler)) { "True" } else { "False" };
        let group = of_kind(GROUP).find(|group| name(group) == format!("{}-default", name(cluster)));
        condition(cluster, "Available")["status"] == is_available
            && group.is_some_and(|group| tells_of_workers(cluster, group))
    };
    let groups = of_kind(GROUP).filter(|group| !tells_of_workers(group, group)).map(|group| (GROUP.1, group));
    let clusters = of_kind(CLUSTER).filter(|cluster| !is_told(cluster)).map(|cluster| (CLUSTER.1, cluster));
    let (kind, object) = groups.chain(clusters).next()?;
    Some(format!("the status of {kind} {} does not tell of all its parts", name(object)))
}

fn is_owned_by(object: &Value, owner: &Value) -> bool {
    let owners = object["metadata"]["ownerReferences"].as_array();
    owners.into_iter().flatten().any(|reference| reference["uid"] == owner["metadata"]["uid"])
}

/// What differs from namespace to namespace, and what it stands for: uids, and the suffixes of workers, which are made of
/// the group's uid and an ordinal. In the order in which they are to be replaced.
fn substitutes(objects: &[Listed]) -> Vec<(String, String)> {
    let mut uids = Vec::new();
    let mut suffixes = Vec::new();
    for Listed { kind, object } in objects {
        let uid = uid(object);
        let record = object["metadata"]["annotations"]["operator.dask.org/worker-ordinals"].as_str();
        let next = record.and_then(|record| serde_json::from_str::<Value>(record).ok()?["next"].as_u64());
        for ordinal in 0..next.and_then(|next| u32::try_from(next).ok()).unwrap_or(0) {
            suffixes.push((worker_suffix(uid, ordinal), format!("-worker-#{ordinal}")));
        }
        uids.push((uid.to_owned(), format!("uid-of-{kind}-{}", name(object))));
    }
    uids.append(&mut suffixes);
    uids
}

/// The name of a worker of a group, by its ordinal.
pub(crate) fn worker_name(group: &Value, ordinal: u32) -> String {
    format!("{}{}", name(group), worker_suffix(uid(group), ordinal))
}

fn worker_suffix(group_uid: &str, ordinal: u32) -> String {
    let digest = Sha256::digest(format!("{group_uid}:{ordinal}"));
    let suffix: String = digest[..5].iter().map(|byte| format!("{byte:02x}")).collect();
    format!("-worker-{suffix}")
}

/// An object without what the API server or another controller makes of it.
fn essence(kind: &str, object: &Value) -> Value {
    let owners = &object["metadata"]["ownerReferences"];
    if kind == "ReplicaSet" {
        // One for each template that a Deployment has had.
        return json!({"kind": kind, "metadata": {"name": owners[0]["name"], "ownerReferences": owners}});
    }
    let mut spec = object["spec"].clone();
    if let Some(spec) = spec.as_object_mut().filter(|_| kind == "Service") {
        spec.retain(|field, _| !field.starts_with("clusterIP"));
    }
    let mut annotations = object["metadata"]["annotations"].clone();
    // The hash is over names of this namespace; what it is made of is compared.
    for (annotation, stands_for) in [("template-hash", "HASH"), ("taken-over-at", "TIME")] {
        if let Some(value) = annotations.get_mut(format!("operator.dask.org/{annotation}")) {
            *value = stands_for.into();
        }
    }
    let mut status = object["status"].clone();
    without_incidentals(&mut status);
    json!({
        "kind": kind,
        "metadata": {
            "name": name(object),
            "labels": object["metadata"]["labels"],
            "annotations": annotations,
            "ownerReferences": owners,
            "deleted": is_being_deleted(object),
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
