//! The end of what a handler is about.

use std::sync::Arc;

use dask_wasm_operator_core::{
    contract::{
        Outcome, Trigger,
        TriggerRequest::{Deleted, Observed},
    },
    pipeline::MountedHandler,
};
use serde_json::json;

use crate::world::{Puppet, World, annotations, child, children, handler};

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

#[test]
fn the_end_of_a_subject_is_told_once() {
    let mut world = World::new();
    let guest = answering();
    let plugin = Arc::new(handler("p", &[Observed, Deleted], &guest));
    world.settle(&plugin);
    guest.take_calls();
    world.delete("DaskCluster", "simple");
    world.pass(&plugin);
    world.pass(&plugin);
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
    world.pass(&plugin);
    assert_eq!(guest.take_calls(), Vec::<String>::new());
    assert_eq!((annotation(&world), world.get("ConfigMap", "one")), (None, None));
    // That it goes later is nothing that this handler is about.
    world.delete("DaskCluster", "simple");
    world.pass(&plugin);
    assert_eq!(guest.take_calls(), Vec::<String>::new());
}

#[test]
fn a_subject_that_does_not_fit_any_more_is_let_go_and_its_end_is_not_told() {
    let mut world = World::new();
    let guest = answering();
    let fitting = Arc::new(handler("p", &[Observed, Deleted], &guest));
    world.settle(&fitting);
    guest.take_calls();
    let elsewhere = ["elsewhere".to_owned()];
    let mounted = dask_wasm_operator_core::plugin::Mounted::new(&fitting.declaration, &elsewhere).unwrap();
    let unfitting = Arc::new(MountedHandler { mounted, ..handler("p", &[Observed, Deleted], &guest) });
    world.settle(&unfitting);
    assert_eq!((annotation(&world), world.get("ConfigMap", "one")), (None, None));
    world.delete("DaskCluster", "simple");
    world.pass(&unfitting);
    assert_eq!(guest.take_calls(), Vec::<String>::new());
}
