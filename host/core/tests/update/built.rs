//! Builders change what the cluster wants of its children, before it is applied.

use std::{
    future::ready,
    sync::Arc,
    sync::atomic::{AtomicBool, Ordering},
};

use dask_wasm_operator_core::{
    pipeline::Builder,
    ports::Pending,
    wanted::{Problem, Snapshot, WantedChild},
};
use serde_json::{Value, json};

use crate::{
    left_alone::pods,
    world::{World, cluster, rolling},
};

/// Appends to the node selector of the pods of Deployments.
struct Appends(&'static str);

impl Builder for Appends {
    fn build<'a>(&'a self, _: &'a Snapshot, mut child: WantedChild) -> Pending<'a, Result<WantedChild, Problem>> {
        if child.object["kind"] == "Deployment" {
            let label = &mut child.object["spec"]["template"]["spec"]["nodeSelector"]["built"];
            *label = json!(format!("{}{}", label.as_str().unwrap_or_default(), self.0));
        }
        Box::pin(ready(Ok(child)))
    }
}

/// Can't tell how Deployments should be, while it is ill.
struct Ill(Arc<AtomicBool>);

impl Builder for Ill {
    fn build<'a>(&'a self, _: &'a Snapshot, child: WantedChild) -> Pending<'a, Result<WantedChild, Problem>> {
        let is_ill = self.0.load(Ordering::Relaxed) && child.object["kind"] == "Deployment";
        Box::pin(ready(if is_ill { Err(Problem::passing("BuilderIll", "the builder is ill")) } else { Ok(child) }))
    }
}

fn built(deployment: &Value) -> &Value {
    &deployment["spec"]["template"]["spec"]["nodeSelector"]["built"]
}

#[test]
fn each_builder_sees_what_the_one_before_has_made() {
    let mut world = World::new([cluster(2, json!(null))]);
    world.builders = vec![Box::new(Appends("a")), Box::new(Appends("b"))];
    world.settle();
    let deployments: Vec<_> = pods(&world).into_keys().collect();
    assert_eq!(deployments.len(), 3);
    for name in deployments {
        assert_eq!(built(&world.value("Deployment", &name)), "ab", "{name}");
    }
    assert_eq!(world.settle(), [], "nothing is left to do");
}

/// The belief that is attacked: that only the cluster's spec changes templates.
#[test]
fn a_builder_that_comes_or_goes_restarts_no_worker() {
    let mut world = World::settled(cluster(2, json!(null)));
    let before = pods(&world);
    world.builders = vec![Box::new(Appends("a"))];
    world.settle();
    assert_eq!(pods(&world), before);
    assert_eq!(world.value("DaskWorkerGroup", "c-default")["status"]["outdatedReplicas"], 2);
    world.builders.clear();
    world.settle();
    assert_eq!(pods(&world), before);
    assert_eq!(world.value("DaskWorkerGroup", "c-default")["status"]["outdatedReplicas"], 0);
}

#[test]
fn unless_the_update_strategy_says_so() {
    let mut world = World::settled(cluster(2, rolling(json!(1), json!(0))));
    world.builders = vec![Box::new(Appends("a"))];
    for _ in 0..20 {
        world.wait(10_000);
    }
    let built: Vec<_> = world.workers().iter().map(|worker| built(&worker.to_value()).clone()).collect();
    assert_eq!(built, ["a", "a"]);
}

#[test]
fn what_a_builder_can_not_tell_is_held_back_and_what_there_is_stays() {
    held_back(json!(null));
    held_back(rolling(json!(1), json!(0)));
}

fn held_back(strategy: Value) {
    let is_ill = Arc::new(AtomicBool::new(true));
    let mut world = World::new([cluster(2, strategy)]);
    world.builders = vec![Box::new(Ill(Arc::clone(&is_ill)))];
    let problems = world.settle();
    assert!(problems.iter().any(|problem| problem.reason == "BuilderIll"), "{problems:?}");
    assert_eq!(pods(&world).len(), 0, "no Deployment is made");
    world.object("Service", "c-scheduler");
    assert_eq!(world.condition("DaskCluster", "c", "Degraded").1, "BuilderIll");

    is_ill.store(false, Ordering::Relaxed);
    world.settle();
    let before = pods(&world);
    assert_eq!(before.len(), 3);
    assert_eq!(world.condition("DaskCluster", "c", "Degraded").1, "AsWanted");

    is_ill.store(true, Ordering::Relaxed);
    world.edit("DaskCluster", "c", |cluster| cluster["metadata"]["labels"]["team"] = json!("a"));
    world.set_image("worker", "new");
    for _ in 0..5 {
        world.wait(10_000);
    }
    assert_eq!(pods(&world), before, "nothing of it is pruned or changed");
}
