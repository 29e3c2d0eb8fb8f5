//! What kopf, the framework of the Python operator, has to find on an object in order not to take it for a new one. Pure.
//!
//! kopf compares each object with what it noted when it last handled it, in an annotation; without the annotation the object
//! is new, and its handlers of creation are run: a job that has ended would run again. kopf's finalizer is not set here: it
//! does that by itself, where it needs one, as soon as it sees the object.

use std::collections::BTreeSet;

use dask_wasm_operator_core::{
    dask::handed_back,
    dask::{KOPF_LAST_HANDLED, WORKER_ORDINALS},
};
use serde_json::{Map, Value, json};

use super::objects::text;

/// Prefix of annotations that kopf takes for those of operators made with it, as such or behind a further `name.`.
const KOPF_PREFIX: &str = "kopf.zalando.org";

/// What of a status the Python operator's handlers look at, by kind: it is noted, too.
fn noted_status(kind: &str) -> Option<&'static str> {
    match kind {
        "DaskCluster" | "Pod" => Some("phase"),
        "DaskJob" => Some("jobStatus"),
        _ => None,
    }
}

/// The merge patch that hands an object over: what will not be true any more goes, and kopf takes what is handled for handled.
/// None: nothing is to be written.
///
/// `object` must be read with the Python operator's definitions installed: what these drop, kopf does not see. `suspended`:
/// the jobs, `namespace/name`, that wait to be resumed, which it knows nothing of.
pub(super) fn hand_back(object: &Value, suspended: &BTreeSet<String>) -> Option<Value> {
    let mut object = object.clone();
    let is_handled = is_handled(&object, suspended);
    let annotations = object["metadata"].get_mut("annotations").and_then(Value::as_object_mut);
    let mut patch = annotations.as_deref().map(handed_back).unwrap_or_default();
    if let Some(annotations) = annotations {
        annotations.extend(patch.clone());
        annotations.retain(|_, value| !value.is_null());
    }
    if is_handled {
        let noted = format!("{}\n", Value::Object(essence(&object)));
        patch.insert(KOPF_LAST_HANDLED.to_owned(), noted.into());
    }
    (!patch.is_empty()).then(|| json!({"metadata": {"annotations": patch}}))
}

/// Whether there is nothing left to be made of it.
pub(super) fn is_handled(object: &Value, suspended: &BTreeSet<String>) -> bool {
    let annotation = |name: &str| object["metadata"]["annotations"].get(name).is_some();
    match text(object, "/kind") {
        "DaskCluster" => !["", "Created"].contains(&text(object, "/status/phase")),
        "DaskWorkerGroup" => annotation(WORKER_ORDINALS) || annotation(KOPF_LAST_HANDLED),
        "DaskJob" => {
            let key = format!("{}/{}", text(object, "/metadata/namespace"), text(object, "/metadata/name"));
            !["", "JobCreated"].contains(&text(object, "/status/jobStatus")) || suspended.contains(&key)
        }
        "Service" | "Pod" => true,
        // Being new only gives an autoscaler its cluster as owner.
        _ => false,
    }
}

/// What kopf compares: everything but the status and what Kubernetes and kopf itself write into the metadata.
fn essence(object: &Value) -> Map<String, Value> {
    let mut essence = object.as_object().cloned().unwrap_or_default();
    for field in ["apiVersion", "kind", "metadata", "status"] {
        essence.remove(field);
    }
    let mut metadata = Map::new();
    for field in ["labels", "annotations"] {
        let Some(Value::Object(entries)) = object["metadata"].get(field) else { continue };
        let mut entries = entries.clone();
        if field == "annotations" {
            let managed = managed_prefixes(&entries);
            entries.retain(|name, _| !is_ignored(name, &managed));
        }
        if !entries.is_empty() {
            metadata.insert(field.to_owned(), Value::Object(entries));
        }
    }
    if !metadata.is_empty() {
        essence.insert("metadata".to_owned(), Value::Object(metadata));
    }
    let kind = text(object, "/kind");
    let status = match noted_status(kind) {
        Some(field) => object["status"].get(field).map(|value| json!({field: value})),
        None if kind == "Service" => object.get("status").filter(|status| **status != json!({})).cloned(),
        None => None,
    };
    if let Some(status) = status {
        essence.insert("status".to_owned(), status);
    }
    essence
}

/// Prefixes of which an annotation says that another operator made with kopf uses them.
fn managed_prefixes(annotations: &Map<String, Value>) -> BTreeSet<String> {
    annotations.keys().filter_map(|name| name.strip_suffix("/kopf-managed")).map(str::to_owned).collect()
}

fn is_ignored(annotation: &str, managed: &BTreeSet<String>) -> bool {
    let Some((prefix, _)) = annotation.split_once('/') else { return false };
    annotation == "kubectl.kubernetes.io/last-applied-configuration"
        || managed.contains(prefix)
        || prefix.strip_suffix(KOPF_PREFIX).is_some_and(|before| before.is_empty() || before.ends_with('.'))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn noted(object: &Value) -> Value {
        let patch = hand_back(object, &BTreeSet::new()).unwrap();
        serde_json::from_str(text(&patch["metadata"]["annotations"], "/kopf.zalando.org~1last-handled-configuration"))
            .unwrap()
    }

    #[test]
    fn what_is_noted_is_what_kopf_compares() {
        let cluster = json!({
            "apiVersion": "kubernetes.dask.org/v1", "kind": "DaskCluster",
            "metadata": {
                "name": "simple", "uid": "u", "labels": {"a": "b"},
                "annotations": {
                    KOPF_LAST_HANDLED: "old", "x.kopf.zalando.org/y": "", "mine.example/kopf-managed": "yes", "mine.example/z": "",
                    "kubectl.kubernetes.io/last-applied-configuration": "{}", "keep.example/k": "v",
                },
            },
            "spec": {"worker": {"replicas": 2}},
            "status": {"phase": "Running"},
        });
        let expected = json!({
            "metadata": {"labels": {"a": "b"}, "annotations": {"keep.example/k": "v"}},
            "spec": {"worker": {"replicas": 2}},
            "status": {"phase": "Running"},
        });
        assert_eq!(noted(&cluster), expected);
        let pod =
            json!({"kind": "Pod", "metadata": {}, "spec": {}, "status": {"phase": "Succeeded", "podIP": "10.0.0.1"}});
        assert_eq!(noted(&pod), json!({"spec": {}, "status": {"phase": "Succeeded"}}));
        let service = json!({"kind": "Service", "metadata": {}, "spec": {}, "status": {"loadBalancer": {}}});
        assert_eq!(noted(&service), json!({"spec": {}, "status": {"loadBalancer": {}}}));
    }

    #[test]
    fn what_is_not_made_yet_is_left_new() {
        let object = |kind: &str, status: Value| json!({"kind": kind, "metadata": {"namespace": "n", "name": "x"}, "spec": {}, "status": status});
        let none = BTreeSet::new();
        for (kind, status, handled) in [
            ("DaskCluster", json!({}), false),
            ("DaskCluster", json!({"phase": "Created"}), false),
            ("DaskCluster", json!({"phase": "Pending"}), true),
            ("DaskWorkerGroup", json!({}), false),
            ("DaskJob", json!({"jobStatus": "JobCreated"}), false),
            ("DaskJob", json!({"jobStatus": "Successful"}), true),
            ("DaskAutoscaler", json!({}), false),
        ] {
            assert_eq!(hand_back(&object(kind, status.clone()), &none).is_some(), handled, "{kind} {status}");
        }
        let waits = BTreeSet::from(["n/x".to_owned()]);
        assert!(hand_back(&object("DaskJob", json!({})), &waits).is_some(), "a suspended job would run");
    }

    #[test]
    fn records_that_the_python_operator_would_make_untrue_go() {
        let annotations = json!({
            "operator.dask.org/copied-replicas": "3", "operator.dask.org/taken-over-at": "2026-11-22T18:30:00Z",
            "operator.dask.org/worker-ordinals": r#"{"next":5,"workers":"0-2"}"#, "operator.dask.org/paused": "true",
        });
        let group = json!({"kind": "DaskWorkerGroup", "metadata": {"annotations": annotations}, "spec": {}});
        let patch = hand_back(&group, &BTreeSet::new()).unwrap();
        let annotations = &patch["metadata"]["annotations"];
        let left = json!({
            "operator.dask.org/copied-replicas": null, "operator.dask.org/taken-over-at": null,
            "operator.dask.org/worker-ordinals": r#"{"next":5}"#, KOPF_LAST_HANDLED: annotations[KOPF_LAST_HANDLED],
        });
        assert_eq!(annotations, &left);
        let expected =
            json!({"operator.dask.org/worker-ordinals": r#"{"next":5}"#, "operator.dask.org/paused": "true"});
        assert_eq!(noted(&group)["metadata"]["annotations"], expected, "as kopf will see it");
        let autoscaler =
            json!({"kind": "DaskAutoscaler", "metadata": {"annotations": {"operator.dask.org/taken-over-at": "x"}}});
        let expected = json!({"metadata": {"annotations": {"operator.dask.org/taken-over-at": null}}});
        assert_eq!(hand_back(&autoscaler, &BTreeSet::new()), Some(expected));
    }
}
