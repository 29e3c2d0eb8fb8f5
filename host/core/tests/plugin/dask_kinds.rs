//! Children that are Dask objects: handlers of our own write to them, too.

use std::sync::Arc;

use dask_wasm_operator_core::{contract::TriggerRequest::Observed, pipeline::MountedHandler};
use serde_json::{Value, json};

use crate::world::{Puppet, World, child, children, handler, problems};

/// A child of each Dask kind.
const CHILDREN: [(&str, &str); 4] =
    [("DaskAutoscaler", "simple"), ("DaskWorkerGroup", "simple-extra"), ("DaskCluster", "side"), ("DaskJob", "once")];

fn pod() -> Value {
    json!({"containers": [{"name": "c", "image": "i", "args": ["dask"]}]})
}

fn cluster() -> Value {
    let service = json!({"type": "ClusterIP", "selector": {"a": "b"}, "ports": [{"name": "tcp-comm", "port": 8786}]});
    json!({"scheduler": {"spec": pod(), "service": service}, "worker": {"replicas": 1, "spec": pod()}})
}

fn spec(kind: &str) -> Value {
    match kind {
        "DaskAutoscaler" => json!({"cluster": "simple", "minimum": 1, "maximum": 5}),
        "DaskWorkerGroup" => json!({"cluster": "simple", "worker": {"replicas": 2, "spec": pod()}}),
        "DaskCluster" => cluster(),
        _ => json!({"job": {"spec": pod()}, "cluster": {"spec": cluster()}}),
    }
}

fn plugin() -> (Arc<Puppet>, Arc<MountedHandler>) {
    let guest = Puppet::new(|_| children(CHILDREN.map(|(kind, name)| child(kind, name, json!({"spec": spec(kind)})))));
    let plugin = Arc::new(handler("p", &[Observed], &guest));
    (guest, plugin)
}

/// All that have something to do have done it, and the plugin has no complaint.
fn settle(world: &mut World, plugin: &Arc<MountedHandler>) {
    for _ in 0..3 {
        world.run_dask();
        let report = world.settle(plugin);
        assert_eq!((problems(&report), report.retry), (Vec::new(), None));
    }
}

#[test]
fn they_are_made_kept_repaired_and_pruned_although_reconcilers_write_to_them() {
    let mut world = World::new();
    let (guest, plugin) = plugin();
    settle(&mut world, &plugin);
    for (kind, name) in CHILDREN {
        let made = world.get(kind, name).unwrap();
        assert_eq!(made["metadata"]["ownerReferences"].as_array().map(Vec::len), Some(1), "{kind}");
        for taken in ["labels", "annotations", "ownerReferences"] {
            world.edit(kind, name, |object| drop(object["metadata"].as_object_mut().unwrap().remove(taken)));
            settle(&mut world, &plugin);
            let repaired = world.get(kind, name).unwrap();
            assert_eq!(repaired["metadata"][taken], made["metadata"][taken], "{kind}");
            assert_eq!(repaired["metadata"]["uid"], made["metadata"]["uid"], "{kind}");
        }
        world.delete(kind, name);
        settle(&mut world, &plugin);
        assert_ne!(world.get(kind, name).unwrap()["metadata"]["uid"], made["metadata"]["uid"], "{kind}");
    }
    world.restart();
    settle(&mut world, &plugin);
    guest.answers(|_| children([]));
    world.restart();
    world.settle(&plugin);
    for (kind, name) in CHILDREN {
        assert_eq!(world.get(kind, name), None, "{kind}");
    }
    assert!(world.get("DaskWorkerGroup", "simple-default").is_some());
}

/// As an earlier version of the operator left them: both had set the owner.
#[test]
fn those_whose_owner_a_reconciler_has_set_as_well_are_still_the_plugin_s() {
    let mut world = World::new();
    let (guest, plugin) = plugin();
    settle(&mut world, &plugin);
    world.set_owner_as("dask-operator/autoscaler", "DaskAutoscaler", "simple");
    world.set_owner_as("dask-operator/workergroup", "DaskWorkerGroup", "simple-extra");
    settle(&mut world, &plugin);
    guest.answers(|_| children([]));
    world.restart();
    world.settle(&plugin);
    for (kind, name) in &CHILDREN[..2] {
        assert_eq!(world.get(kind, name), None, "{kind}");
    }
}
