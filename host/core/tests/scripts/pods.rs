//! The pods of a script, as far as it speaks of them.

use dask_wasm_operator_core::{memory::MemoryCluster, object::Object, time::rfc3339};
use serde_json::{Value, json};

/// The end of a ReplicaSet's name.
const HASH: &str = "5d4f9c7b68";

/// Gives a Deployment a pod that waits for these words of kubelet: `ImagePullBackOff: not found`; or, where they begin with
/// `Unschedulable`, one that no node takes. It goes with the Deployment.
pub(crate) fn wait(cluster: &MemoryCluster, deployment: &Object, words: &str) {
    let name = &deployment.metadata.name;
    let set = format!("{name}-{HASH}");
    let label = |key: &str| deployment.metadata.labels.get(key);
    let owner = |kind: &str, name: &str, uid: &str| json!([{"apiVersion": "apps/v1", "kind": kind, "name": name, "uid": uid, "controller": true}]);
    let namespace = deployment.metadata.namespace.as_deref();
    let set_key = cluster
        .create(json!({
            "apiVersion": "apps/v1", "kind": "ReplicaSet",
            "metadata": {"name": set, "namespace": namespace,
                "ownerReferences": owner("Deployment", name, &deployment.metadata.uid)},
        }))
        .unwrap();
    let set_uid = cluster.objects().iter().find(|object| object.key() == set_key).unwrap().metadata.uid.clone();
    let whole = deployment.to_value();
    let spec = &whole["spec"]["template"]["spec"];
    cluster
        .create(json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": {
                "name": format!("{set}-x7k2p"), "namespace": namespace,
                "labels": {
                    "dask.org/cluster-name": label("dask.org/cluster-name"),
                    "dask.org/component": label("dask.org/component"),
                    "pod-template-hash": HASH,
                },
                "ownerReferences": owner("ReplicaSet", &set, &set_uid),
            },
            "spec": spec,
            "status": waiting(spec, words),
        }))
        .unwrap();
}

/// The status of a pod that waits for these words.
pub(crate) fn waiting(pod_spec: &Value, words: &str) -> Value {
    let (reason, message) = words.split_once(": ").unwrap_or((words, ""));
    match reason {
        "Unschedulable" => json!({"phase": "Pending", "conditions": [
            {"type": "PodScheduled", "status": "False", "reason": reason, "message": message}]}),
        reason => json!({"phase": "Pending", "containerStatuses": [
            {"name": container_of(pod_spec), "restartCount": 0,
                "state": {"waiting": {"reason": reason, "message": message}}}]}),
    }
}

/// Takes that pod away.
pub(crate) fn end(cluster: &MemoryCluster, deployment: &Object) {
    let set = format!("{}-{HASH}", deployment.metadata.name);
    let objects = cluster.objects();
    let found = objects.iter().find(|object| object.kind.kind == "ReplicaSet" && object.metadata.name == set);
    found.into_iter().for_each(|set| cluster.delete(&set.key()));
}

/// The status of the pod of a job that runs, or has ended.
pub(crate) fn runner_status(pod: &Value, phase: &str, exit_code: i64, now: u64) -> Value {
    let before = &pod["status"]["containerStatuses"][0]["state"]["running"]["startedAt"];
    let started = before.as_str().map_or_else(|| rfc3339(now), str::to_owned);
    let state = match phase {
        "Running" => json!({"running": {"startedAt": started}}),
        _ => {
            let reason = if exit_code == 0 { "Completed" } else { "Error" };
            json!({"terminated": {"exitCode": exit_code, "reason": reason, "startedAt": started, "finishedAt": rfc3339(now)}})
        }
    };
    json!({"phase": phase, "startTime": started,
        "containerStatuses": [{"name": container_of(&pod["spec"]), "restartCount": 0, "state": state}]})
}

fn container_of(pod_spec: &Value) -> &str {
    pod_spec["containers"][0]["name"].as_str().unwrap_or_default()
}
