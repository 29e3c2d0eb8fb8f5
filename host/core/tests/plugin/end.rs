//! The end of what a handler is about.

use std::sync::Arc;

use dask_wasm_operator_core::{
    contract::{
        Outcome, Trigger,
        TriggerRequest::{Deleted, Observed},
    },
    pipeline::MountedHandler,
    plugin::Mounted,
    retry::Retry,
};
use serde_json::json;

use crate::world::{Puppet, World, annotations, child, children, handler, problems};

/// One child and one annotation.
fn answering() -> Arc<Puppet> {
    Puppet::new(|call| match call.trigger {
        Trigger::Deleted => Ok(Outcome::default()),
        _ => {
            let made = children([child("ConfigMap", "one", json!({"data": {"a": "b"}}))])?;
            Ok(Outcome { children: made.children, ..annotations(&[json!({"a": "b"})])? })
        }
    })
}

fn annotation(world: &World) -> Option<String> {
    let cluster = world.get("DaskCluster", "simple")?;
    cluster["metadata"]["annotations"]["a"].as_str().map(str::to_owned)
}

/// A handler that is about subjects of another namespace.
fn unfitting(guest: &Arc<Puppet>) -> Arc<MountedHandler> {
    let handler = handler("p", &[Observed, Deleted], guest);
    let mounted = Mounted::new(&handler.declaration, &["elsewhere".to_owned()]).unwrap();
    Arc::new(MountedHandler { mounted, ..handler })
}

#[test]
fn the_end_of_a_subject_is_told_once() {
    let mut world = World::new();
    let guest = answering();
    let plugin = Arc::new(handler("p", &[Observed, Deleted], &guest));
    world.settle(&plugin);
    guest.take_calls();
    world.delete("DaskCluster", "simple");
    world.reconcile(&plugin);
    world.reconcile(&plugin);
    assert_eq!(guest.take_calls(), ["Deleted"]);
}

#[test]
fn a_subject_that_lost_its_labels_is_let_go_and_lives_on() {
    let mut world = World::new();
    let guest = answering();
    let plugin = Arc::new(handler("p", &[Observed, Deleted], &guest));
    world.settle(&plugin);
    guest.take_calls();
    assert_eq!(annotation(&world).as_deref(), Some("b"));
    world.hide("DaskCluster", "simple");
    world.reconcile(&plugin);
    assert_eq!(guest.take_calls(), Vec::<String>::new());
    assert_eq!((annotation(&world), world.get("ConfigMap", "one")), (None, None));
    // That it goes later is nothing that this handler is about.
    world.delete("DaskCluster", "simple");
    world.reconcile(&plugin);
    assert_eq!(guest.take_calls(), Vec::<String>::new());
}

#[test]
fn a_subject_that_does_not_fit_any_more_is_let_go_and_its_end_is_not_told() {
    let mut world = World::new();
    let guest = answering();
    let fitting = Arc::new(handler("p", &[Observed, Deleted], &guest));
    world.settle(&fitting);
    guest.take_calls();
    let unfitting = unfitting(&guest);
    world.settle(&unfitting);
    assert_eq!((annotation(&world), world.get("ConfigMap", "one")), (None, None));
    world.delete("DaskCluster", "simple");
    world.reconcile(&unfitting);
    assert_eq!(guest.take_calls(), Vec::<String>::new());
}

/// What is refused at the end: the deletion of the child, or the withdrawal of the patch.
const REFUSED: [(&str, &str); 2] = [("ConfigMap", "one"), ("DaskCluster", "simple")];

#[test]
fn what_can_t_be_removed_at_the_end_is_told_and_tried_again_and_keeps_nothing_else() {
    for is_seen in [true, false] {
        for (kind, name) in REFUSED {
            let mut world = World::new();
            let guest = answering();
            let fitting = Arc::new(handler("p", &[Observed, Deleted], &guest));
            world.settle(&fitting);
            let handler = if is_seen { unfitting(&guest) } else { fitting };
            if !is_seen {
                world.hide("DaskCluster", "simple");
            }
            world.refuse(kind, name, "a webhook is against it");
            for _ in 0..20 {
                let report = world.reconcile(&handler);
                assert!(matches!(report.retry, Some(Retry::After(_))), "{kind}: {:?}", report.retry);
                let problems = problems(&report);
                assert!(problems[0].starts_with("Forbidden: p/h: "), "{problems:?}");
                assert!(problems[0].contains(&format!("refuses {kind}")), "{problems:?}");
                let remains = report.findings.problems[0].waits_for.as_ref().map(|object| object.at.name.clone());
                assert_eq!(remains.as_deref(), Some(name), "it is told there");
                assert!(problems[0].ends_with(&format!(" ns1/{name}: “a webhook is against it”")), "{problems:?}");
            }
            let left = (world.get("ConfigMap", "one").is_some(), annotation(&world).is_some());
            assert_eq!(left, (kind == "ConfigMap", kind == "DaskCluster"), "what is not refused is done");
            world.refuse_nothing();
            let last = world.reconcile(&handler);
            assert_eq!((last.writes, last.retry, problems(&last)), (1, None, Vec::new()));
            assert_eq!((annotation(&world), world.get("ConfigMap", "one")), (None, None));
        }
    }
}

#[test]
fn what_is_gone_with_its_namespace_is_not_tried_again() {
    let mut world = World::new();
    let guest = answering();
    let plugin = Arc::new(handler("p", &[Observed], &guest));
    world.settle(&plugin);
    world.delete("DaskCluster", "simple");
    let report = world.reconcile(&plugin);
    assert_eq!((report.retry, problems(&report)), (None, Vec::new()));
}

#[test]
fn what_is_left_in_an_object_that_does_not_fit_concerns_its_handler_until_it_is_gone() {
    let mut world = World::new();
    let guest = answering();
    let fitting = Arc::new(handler("p", &[Observed], &guest));
    let unfitting = unfitting(&guest);
    assert!(world.concerns(&fitting) && !world.concerns(&unfitting));
    world.settle(&fitting);
    // Also in a process that remembers nothing.
    world.restart();
    assert!(world.concerns(&unfitting));
    world.settle(&unfitting);
    assert!(!world.concerns(&unfitting));
    assert!(world.state(&unfitting).is_spent(), "nothing is remembered of it");
}
