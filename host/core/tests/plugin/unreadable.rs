//! Subjects and children of plugins that are there and can't be read as a whole.

use std::sync::Arc;

use dask_wasm_operator_core::{
    contract::TriggerRequest::{Created, Deleted, Observed},
    object::{GroupVersionKind, Resource},
    pipeline::MountedHandler,
};
use serde_json::json;

use crate::world::{Puppet, World, child, children, handler, problems};

fn answering() -> Arc<Puppet> {
    Puppet::new(|_| children([child("ConfigMap", "one", json!({"data": {"a": "b"}}))]))
}

#[test]
fn fault_01_a_subject_that_can_not_be_read_is_not_handed_over_and_keeps_its_children() {
    for restarts in [false, true] {
        let mut world = World::new();
        let guest = answering();
        let plugin = Arc::new(handler("p", &[Created, Observed, Deleted], &guest));
        world.settle(&plugin);
        world.settle(&plugin);
        guest.take_calls();
        let before = world.get("ConfigMap", "one");
        world.blur("DaskCluster", "simple", "metadata.labels");
        if restarts {
            world.restart();
        }
        let report = world.reconcile(&plugin);
        assert!(report.alive && report.writes == 0 && report.events.is_empty(), "its own status says it: {report:?}");
        assert!(guest.take_calls().is_empty());
        assert_eq!(world.get("ConfigMap", "one"), before);
        world.focus();
        world.settle(&plugin);
        assert_eq!(world.get("ConfigMap", "one"), before);
        assert_eq!(guest.take_calls().is_empty(), !restarts, "nothing has changed since it was asked");
        world.blur("DaskCluster", "simple", "spec.a");
        world.reconcile(&plugin);
        world.delete("DaskCluster", "simple");
        world.settle(&plugin);
        assert!(world.get("ConfigMap", "one").is_none(), "it is gone with its subject");
    }
}

#[test]
fn fault_01_a_subject_without_a_status_of_ours_is_told_by_an_event() {
    let mut world = World::new();
    let guest = answering();
    world
        .watched
        .cluster
        .create(json!({
            "apiVersion": "v1", "kind": "Service", "metadata": {"name": "simple", "namespace": "ns1"}, "spec": {},
        }))
        .unwrap();
    let kind = GroupVersionKind::new("", "v1", "Service");
    let subject = Resource { kind, plural: "services".to_owned(), namespaced: true };
    let plugin = Arc::new(MountedHandler { subject, ..handler("p", &[Observed], &guest) });
    world.blur("Service", "simple", "metadata.annotations.x");
    let report = world.reconcile(&plugin);
    let told: Vec<_> = report.events.iter().map(|event| (&*event.reason, &*event.message)).collect();
    assert_eq!(told, [("InvalidSpec", "Service simple: metadata.annotations.x: is odd; correct this field")]);
    assert!(guest.take_calls().is_empty());
}

#[test]
fn fault_01_a_child_that_can_not_be_read_is_left_as_it_is() {
    let mut world = World::new();
    let guest = answering();
    let plugin = Arc::new(handler("p", &[Observed], &guest));
    world.settle(&plugin);
    let before = world.get("ConfigMap", "one");
    for path in ["metadata.labels", "data.a"] {
        world.blur("ConfigMap", "one", path);
        world.restart();
        let report = world.reconcile(&plugin);
        assert_eq!(world.get("ConfigMap", "one"), before);
        assert_eq!(
            problems(&report),
            [format!(
                "Unreadable: ConfigMap ns1/one can't be read and is left as it is: {path}: is odd; correct this field, or delete it"
            )]
        );
    }
    // Who can't prove that it is theirs does not remove it.
    world.blur("ConfigMap", "one", "metadata.labels");
    guest.answers(|_| children([]));
    world.restart();
    world.settle(&plugin);
    assert!(world.get("ConfigMap", "one").is_some());
    world.blur("ConfigMap", "one", "data.a");
    world.restart();
    world.settle(&plugin);
    assert!(world.get("ConfigMap", "one").is_none(), "it is not wanted, and surely theirs");
}
