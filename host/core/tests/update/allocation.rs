//! Workers in batches.

use std::{num::NonZeroU32, time::Duration};

use dask_wasm_operator_core::dask::{Environment, Reconciler, WorkerAllocation};
use serde_json::json;

use crate::{
    kubernetes::Kill,
    world::{SECOND, World, cluster},
};

fn batches(replicas: u32, size: u32, delay: u64) -> World {
    let allocation = WorkerAllocation { batch_size: NonZeroU32::new(size).unwrap(), delay: Duration::from_secs(delay) };
    let environment = Environment { worker_allocation: Some(allocation), ..Environment::default() };
    World::within(environment, [cluster(replicas, json!(null))])
}

#[test]
fn fault_25_a_batch_follows_the_other_after_the_delay_also_after_a_restart() {
    let mut world = batches(7, 3, 10);
    world.settle();
    assert_eq!(world.workers().len(), 3);
    let next = world.reconcile(Reconciler::WorkerGroup).requeue_after;
    assert!(next.is_some_and(|next| (10..=11).contains(&next.as_secs())), "{next:?}");
    world.wait(5 * SECOND);
    world.restart();
    world.settle();
    assert_eq!(world.workers().len(), 3, "a new process does not begin anew");
    world.wait(6 * SECOND);
    assert_eq!(world.workers().len(), 6);
    world.wait(11 * SECOND);
    assert_eq!(world.workers().len(), 7);
    assert_eq!(world.reconcile(Reconciler::WorkerGroup).requeue_after, None);
}

#[test]
fn a_batch_that_was_cut_off_is_completed() {
    let mut world = batches(7, 3, 10);
    world.reconcile(Reconciler::Cluster);
    // The record, and two of the workers.
    world.kubernetes.kill(Some(Kill { at: 3, written: false }));
    world.reconcile(Reconciler::WorkerGroup);
    assert_eq!(world.workers().len(), 2);
    world.restart();
    world.settle();
    assert_eq!(world.workers().len(), 3);
}

#[test]
fn without_a_delay_each_reconcile_makes_a_batch() {
    let mut world = batches(7, 3, 0);
    world.reconcile(Reconciler::Cluster);
    for expected in [3, 6, 7] {
        world.reconcile(Reconciler::WorkerGroup);
        assert_eq!(world.workers().len(), expected);
    }
}

#[test]
fn a_group_that_is_scaled_down_between_batches_makes_no_more() {
    let mut world = batches(7, 3, 10);
    world.settle();
    world.edit("DaskWorkerGroup", "c-default", |group| group["spec"]["worker"]["replicas"] = json!(2));
    world.wait(60 * SECOND);
    assert_eq!(world.workers().len(), 2);
}
