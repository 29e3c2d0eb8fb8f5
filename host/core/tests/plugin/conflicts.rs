//! Fields that others hold are handed over at the next call, until an answer is applied without them.

use std::sync::{Arc, Mutex};

use dask_wasm_operator_core::{
    contract::{Call, Child, Conflict, Failure, Outcome, TriggerRequest::Observed},
    ports::CallError,
};
use serde_json::json;

use crate::world::{Puppet, World, annotations, child, children, handler, problems};

/// What each call was told.
type Told = Arc<Mutex<Vec<Vec<Conflict>>>>;

const NONE: [Conflict; 0] = [];

fn telling(answer: impl Fn(&Call) -> Result<Outcome, CallError> + Send + 'static) -> (Arc<Puppet>, Told) {
    let told = Told::default();
    let notes = Arc::clone(&told);
    let guest = Puppet::new(move |call| {
        notes.lock().unwrap().push(call.conflicts.clone());
        answer(call)
    });
    (guest, told)
}

fn take(told: &Told) -> Vec<Vec<Conflict>> {
    std::mem::take(&mut told.lock().unwrap())
}

/// One that is named otherwise than the child's key.
fn one() -> Child {
    let labels = json!({"metadata": {"name": "one", "labels": {"a.b/c": "wanted"}}, "data": {"a": "b", "c": "d"}});
    Child { key: "the-key".to_owned(), ..child("ConfigMap", "one", labels) }
}

fn conflict(child: Option<&str>, path: &str) -> Conflict {
    Conflict { child: child.map(str::to_owned), path: path.to_owned(), manager: "given".to_owned() }
}

#[test]
fn a_guest_hears_of_a_conflict_at_its_next_call_and_no_more_when_it_is_gone() {
    let mut world = World::new();
    let (guest, told) = telling(|_| children([one()]));
    let plugin = Arc::new(handler("p", &[Observed], &guest));
    world.settle(&plugin);
    assert_eq!(take(&told), [NONE]);
    world.edit("ConfigMap", "one", |object| {
        object["data"]["a"] = json!("edited");
        object["metadata"]["labels"]["a.b/c"] = json!("edited");
    });
    let report = world.reconcile(&plugin);
    assert_eq!(take(&told), [NONE], "nobody knew of it before something was applied");
    let problems = problems(&report);
    assert_eq!(problems.len(), 1, "{problems:?}");
    assert!(
        problems[0].contains("ConfigMap ns1/one") && problems[0].contains(".data.a is held by “given”"),
        "{problems:?}"
    );
    world.reconcile(&plugin);
    let both = [conflict(Some("the-key"), "data.a"), conflict(Some("the-key"), "metadata.labels[\"a.b/c\"]")];
    assert_eq!(take(&told), std::slice::from_ref(&both));
    // Who took the fields gives them back.
    world.edit("ConfigMap", "one", |object| {
        object["data"].as_object_mut().unwrap().remove("a");
        object["metadata"]["labels"].as_object_mut().unwrap().remove("a.b/c");
    });
    world.settle(&plugin);
    assert_eq!(take(&told), [both]);
    world.edit("DaskCluster", "simple", |cluster| cluster["spec"]["idleTimeout"] = json!(1));
    world.settle(&plugin);
    assert_eq!(take(&told), [NONE]);
    assert_eq!(world.get("ConfigMap", "one").unwrap()["data"], json!({"a": "b", "c": "d"}));
}

#[test]
fn a_guest_that_leaves_the_field_to_its_holder_is_done() {
    let mut world = World::new();
    let (guest, told) = telling(|call| {
        let taken = call.conflicts.iter().any(|conflict| conflict.path == "data.a");
        let data = if taken { json!({"c": "d"}) } else { json!({"a": "b", "c": "d"}) };
        children([child("ConfigMap", "one", json!({"data": data}))])
    });
    let plugin = Arc::new(handler("p", &[Observed], &guest));
    world.settle(&plugin);
    world.edit("ConfigMap", "one", |object| object["data"]["a"] = json!("edited"));
    world.reconcile(&plugin);
    let report = world.reconcile(&plugin);
    assert!(problems(&report).is_empty() && report.retry.is_none(), "{report:?}");
    assert_eq!(world.get("ConfigMap", "one").unwrap()["data"], json!({"a": "edited", "c": "d"}));
    assert_eq!(take(&told).last(), Some(&vec![conflict(Some("one"), "data.a")]));
}

#[test]
fn a_call_that_fails_in_between_loses_no_conflict_and_one_of_the_subject_has_no_key() {
    let mut world = World::new();
    world.edit("DaskCluster", "simple", |cluster| cluster["metadata"]["annotations"] = json!({"a": "given"}));
    let (guest, told) = telling(|_| annotations(&[json!({"a": "b"})]));
    let plugin = Arc::new(handler("p", &[Observed], &guest));
    world.reconcile(&plugin);
    guest.answers({
        let told = Arc::clone(&told);
        move |call| {
            told.lock().unwrap().push(call.conflicts.clone());
            Err(CallError::Handler(Failure::Temporary { message: "later".to_owned(), retry_after: None }))
        }
    });
    world.reconcile(&plugin);
    world.reconcile(&plugin);
    let held = vec![conflict(None, "metadata.annotations.a")];
    assert_eq!(take(&told), [vec![], held.clone(), held]);
}

#[test]
fn what_a_child_that_is_gone_was_about_is_not_handed_over() {
    let mut world = World::new();
    let (guest, told) = telling(|_| children([one()]));
    let plugin = Arc::new(handler("p", &[Observed], &guest));
    world.settle(&plugin);
    world.edit("ConfigMap", "one", |object| object["data"]["a"] = json!("edited"));
    world.reconcile(&plugin);
    world.delete("ConfigMap", "one");
    take(&told);
    world.settle(&plugin);
    assert_eq!(take(&told), [NONE]);
}
