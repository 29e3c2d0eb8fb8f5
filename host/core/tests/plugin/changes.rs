//! What a change of a subject is to a handler, by what the subject was and what it is.

use dask_wasm_operator_core::{
    contract::TriggerRequest::{self, Deleted, Observed},
    object::{Object, Part},
    pipeline::MountedHandler,
    plugin::{Filtered, Mounted, Projection},
};
use serde_json::{Value, json};

use crate::world::{Puppet, annotations, handler};

/// A handler that is about objects with a label, and sees a part of their spec.
fn seeing(triggers: &[TriggerRequest], paths: &[&str]) -> MountedHandler {
    let mut handler = handler("p", triggers, &Puppet::new(|_| annotations(&[])));
    handler.declaration.subscription.labels = Some("team=ours".to_owned());
    handler.mounted = Mounted::new(&handler.declaration, &[]).unwrap();
    let paths: Vec<_> = paths.iter().map(|path| (*path).to_owned()).collect();
    handler.projection = Some(Projection::parse(&paths).unwrap());
    handler
}

fn subject(change: impl FnOnce(&mut Value)) -> Object {
    let held = |manager: &str| json!({"manager": manager, "operation": "Apply", "fieldsV1": {"f:metadata": {"f:annotations": {"f:a": {}}}}});
    let mut value = json!({
        "apiVersion": "kubernetes.dask.org/v1", "kind": "DaskCluster",
        "metadata": {"name": "simple", "namespace": "ns1", "uid": "u", "resourceVersion": "1",
            "labels": {"team": "ours", "other": "1"}, "annotations": {"a": "1"},
            "managedFields": [held("dask-plugin/p/h"), held("somebody")]},
        "spec": {"idleTimeout": 1, "worker": {"replicas": 1}}, "status": {"phase": "Running"},
    });
    change(&mut value);
    Object::from_value(&value).unwrap()
}

fn filtered(handler: &MountedHandler, change: impl FnOnce(&mut Value)) -> Filtered {
    handler.filter(Some(&subject(|_| {})), Some(&subject(change)))
}

#[test]
fn a_change_that_touches_nothing_that_a_handler_sees_is_not_its_concern() {
    let handler = seeing(&[Observed], &["spec.worker"]);
    let elsewhere: [fn(&mut Value); 6] = [
        |object| object["metadata"]["resourceVersion"] = json!("2"),
        |object| object["status"]["phase"] = json!("Pending"),
        |object| object["spec"]["idleTimeout"] = json!(2),
        |object| object["metadata"]["labels"]["other"] = json!("2"),
        |object| object["metadata"]["annotations"]["a"] = json!("2"),
        |object| object["metadata"]["managedFields"][1]["fieldsV1"] = json!({"f:spec": {}}),
    ];
    for change in elsewhere {
        assert_eq!(filtered(&handler, change), Filtered::Unchanged, "{}", subject(change).to_json());
    }
    assert_eq!(filtered(&handler, |object| object["spec"]["worker"]["replicas"] = json!(2)), Filtered::Updated);
}

#[test]
fn what_a_handler_is_called_for_without_seeing_it_is_its_concern() {
    let handler = seeing(&[Observed], &["spec.worker"]);
    let beside: [fn(&mut Value); 6] = [
        |object| object["metadata"]["uid"] = json!("another object of this name"),
        |object| object["metadata"]["deletionTimestamp"] = json!("2026-11-22T18:30:00Z"),
        |object| object["metadata"]["annotations"]["operator.dask.org/paused"] = json!("true"),
        |object| object["metadata"]["annotations"]["plugins.dask.org/retry"] = json!("p"),
        // Somebody takes what it holds of the subject.
        |object| object["metadata"]["managedFields"][0]["fieldsV1"] = json!({}),
        |object| object["metadata"]["managedFields"] = json!([]),
    ];
    for change in beside {
        assert_eq!(filtered(&handler, change), Filtered::Updated, "{}", subject(change).to_json());
    }
    let of_ends = seeing(&[Observed, Deleted], &["spec.worker"]);
    let status = |object: &mut Value| object["status"]["phase"] = json!("Pending");
    assert_eq!(filtered(&of_ends, status), Filtered::Updated, "it is told the last state");
    let whole = MountedHandler { projection: None, ..seeing(&[Observed], &[]) };
    assert_eq!(filtered(&whole, status), Filtered::Updated);
}

#[test]
fn a_subject_comes_and_goes_by_what_no_handler_sees() {
    let handler = seeing(&[Observed], &["spec.worker"]);
    let (ours, theirs) = (subject(|_| {}), subject(|object| object["metadata"]["labels"]["team"] = json!("theirs")));
    assert_eq!(handler.filter(Some(&ours), Some(&theirs)), Filtered::Removed);
    assert_eq!(handler.filter(Some(&theirs), Some(&ours)), Filtered::Added);
    assert_eq!(handler.filter(None, Some(&ours)), Filtered::Added, "what it was is not known after a restart");
    assert_eq!(handler.filter(None, Some(&theirs)), Filtered::Outside);
}

#[test]
fn what_is_kept_of_subjects_holds_what_decides_about_them() {
    let handler = seeing(&[Observed], &["spec.worker"]);
    assert!(handler.part().includes(&handler.mounted.part()));
    assert_eq!(handler.part(), Part::Fields(["spec".to_owned()].into()));
}
