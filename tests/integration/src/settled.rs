//! What there is in a namespace when nothing is on its way any more: the only kind of picture that may be compared with
//! another.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::bail;
use dask_wasm_operator_test_support::wait_for;
use serde_json::Value;

use crate::objects::{
    DEPLOYMENT, Kind, Objects, POD, REPLICA_SET, TIMEOUT, controller, is_being_deleted, name, text, uid,
};

/// An object, and the name of its kind.
#[derive(Clone, Debug)]
pub struct Listed {
    pub kind: &'static str,
    pub object: Value,
}

/// What Kubernetes makes of a Deployment.
const WORKLOADS: [Kind<'_>; 3] = [DEPLOYMENT, REPLICA_SET, POD];

impl Objects {
    /// Waits until everything is settled, and answers the objects of these kinds as they are then, all at the same moment.
    ///
    /// Settled is what nobody works on any more: nothing is being deleted or left to the garbage collector, and the controllers
    /// of Kubernetes have made of every Deployment what they make of it. `unfinished` says what else is not final.
    pub async fn settled(
        &self,
        kinds: &[Kind<'static>],
        unfinished: impl Fn(&[Listed]) -> Option<String>,
    ) -> anyhow::Result<Vec<Listed>> {
        let others = WORKLOADS.into_iter().filter(|other| kinds.iter().all(|kind| kind.1 != other.1));
        let looked_at: Vec<_> = kinds.iter().copied().chain(others).collect();
        let mut before = None;
        let settled = wait_for("everything to be settled", TIMEOUT, async || {
            let seen = self.listed(&looked_at).await?;
            // Kinds are listed one after the other. If nothing has another version the second time, it was all there at once.
            let versions =
                seen.iter().map(|Listed { object, .. }| text(object, "/metadata/resourceVersion").to_owned());
            let versions = Some(versions.collect::<Vec<_>>());
            let is_same = std::mem::replace(&mut before, versions.clone()) == versions;
            if let Some(reason) = unsettled(&looked_at, &seen).or_else(|| unfinished(&seen)) {
                bail!(reason);
            }
            Ok(is_same.then_some(seen))
        })
        .await?;
        Ok(settled.into_iter().filter(|listed| kinds.iter().any(|kind| kind.1 == listed.kind)).collect())
    }

    /// The objects of these kinds, by kind and name.
    pub async fn listed(&self, kinds: &[Kind<'static>]) -> anyhow::Result<Vec<Listed>> {
        let mut listed = Vec::new();
        for kind in kinds {
            let objects = self.list(*kind, "").await?;
            listed.extend(objects.into_iter().map(|object| Listed { kind: kind.1, object }));
        }
        Ok(listed)
    }
}

/// What the garbage collector or another controller of Kubernetes has still to do, if anything.
fn unsettled(kinds: &[Kind<'_>], seen: &[Listed]) -> Option<String> {
    let uids: BTreeSet<&str> = seen.iter().map(|listed| uid(&listed.object)).collect();
    let mut children: BTreeMap<&str, Vec<&Value>> = BTreeMap::new();
    for Listed { object, .. } in seen {
        children.entry(controller(object)).or_default().push(object);
    }
    let is_gone =
        |owner: &Value| kinds.iter().any(|kind| kind.1 == text(owner, "/kind")) && !uids.contains(text(owner, "/uid"));
    seen.iter().find_map(|Listed { kind, object }| {
        let of_it = || children.get(uid(object)).into_iter().flatten().copied();
        let owners = object["metadata"]["ownerReferences"].as_array().map(Vec::as_slice).unwrap_or_default();
        let unsettled = if is_being_deleted(object) {
            Some("is being deleted")
        } else if !owners.is_empty() && owners.iter().all(is_gone) {
            Some("waits for the garbage collector: its owner is gone")
        } else {
            match *kind {
                "Deployment" => behind(object, "is not rolled out", of_it(), |set| count(set, "/status/readyReplicas")),
                "ReplicaSet" => {
                    behind(object, "does not know of all its pods", of_it(), |pod| u64::from(is_ready(pod)))
                }
                _ => None,
            }
        };
        unsettled.map(|unsettled| format!("{kind} {} {unsettled}", name(object)))
    })
}

/// These words, unless the status of a Deployment or ReplicaSet is that of its present specification and children.
fn behind<'a>(
    object: &Value,
    words: &'static str,
    children: impl Iterator<Item = &'a Value>,
    ready: impl Fn(&Value) -> u64,
) -> Option<&'static str> {
    let replicas = count(object, "/status/replicas");
    let is_right = object["status"]["observedGeneration"] == object["metadata"]["generation"]
        && replicas == count(object, "/spec/replicas")
        && count(object, "/status/readyReplicas") == children.map(ready).sum::<u64>();
    (!is_right).then_some(words)
}

fn count(object: &Value, pointer: &str) -> u64 {
    object.pointer(pointer).and_then(Value::as_u64).unwrap_or_default()
}

fn is_ready(pod: &Value) -> bool {
    let conditions = pod["status"]["conditions"].as_array().into_iter().flatten();
    conditions.into_iter().any(|condition| condition["type"] == "Ready" && condition["status"] == "True")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::objects::{CLUSTER, GROUP};

    fn listed(kind: &'static str, uid: &str, owner: Option<(&str, &str)>, rest: &Value) -> Listed {
        let owners = owner.map(|(kind, uid)| json!([{"kind": kind, "uid": uid, "controller": true}]));
        let mut object = rest.clone();
        let metadata = json!({"name": "a", "uid": uid, "ownerReferences": owners, "generation": 1});
        let metadata = metadata.as_object().cloned().unwrap_or_default();
        object["metadata"] =
            metadata.into_iter().chain(rest["metadata"].as_object().cloned().unwrap_or_default()).collect();
        Listed { kind, object }
    }

    #[test]
    fn what_is_deleted_or_has_no_owner_any_more_is_not_settled() {
        let kinds = [CLUSTER, GROUP];
        let group = |owner| listed("DaskWorkerGroup", "2", Some(owner), &json!({}));
        let cluster = |rest: &Value| listed("DaskCluster", "1", None, rest);
        let with_its_owner = [cluster(&json!({})), group(("DaskCluster", "1"))];
        assert_eq!(unsettled(&kinds, &with_its_owner), None);
        assert_eq!(unsettled(&kinds, &[group(("Elsewhere", "3"))]), None, "nobody looked for its owner");
        let gone = "DaskWorkerGroup a waits for the garbage collector: its owner is gone";
        assert_eq!(unsettled(&kinds, &[group(("DaskCluster", "1"))]).as_deref(), Some(gone));
        let deleted = cluster(&json!({"metadata": {"deletionTimestamp": "2026-01-01T00:00:00Z"}}));
        assert_eq!(unsettled(&kinds, &[deleted]).as_deref(), Some("DaskCluster a is being deleted"));
    }

    #[test]
    fn a_deployment_is_settled_with_its_pods() {
        let status = |replicas: u32, ready: u32, generation: u32| {
            let status = json!({"replicas": replicas, "readyReplicas": ready, "observedGeneration": generation});
            json!({"spec": {"replicas": 1}, "status": status})
        };
        let of = |deployment: &Value, set: &Value, is_ready: &str| {
            let ready = json!({"status": {"conditions": [{"type": "Ready", "status": is_ready}]}});
            let all = [
                listed("Deployment", "1", None, deployment),
                listed("ReplicaSet", "2", Some(("Deployment", "1")), set),
                listed("Pod", "3", Some(("ReplicaSet", "2")), &ready),
            ];
            unsettled(&WORKLOADS, &all)
        };
        assert_eq!(of(&status(1, 1, 1), &status(1, 1, 1), "True"), None);
        assert_eq!(of(&status(1, 0, 1), &status(1, 0, 1), "False"), None);
        let not_rolled_out = Some("Deployment a is not rolled out".to_owned());
        for behind in [status(1, 1, 0), status(0, 1, 1), status(1, 0, 1)] {
            assert_eq!(of(&behind, &status(1, 1, 1), "True"), not_rolled_out, "{behind}");
        }
        let unknown = Some("ReplicaSet a does not know of all its pods".to_owned());
        assert_eq!(of(&status(1, 0, 1), &status(1, 0, 1), "True"), unknown);
        assert_eq!(of(&status(1, 1, 1), &status(1, 1, 1), "False"), unknown);
    }
}
