//! Clusters that are made, scaled without a scheduler to ask, and deleted.

use dask_wasm_operator_test_integration::{
    manifests::{self, SIMPLE},
    objects::{CLUSTER, condition, text},
};
use serde_json::Value;

use super::{Flow, World, crash_at_every_write};
use crate::snapshot::Snapshot;

#[test]
fn fault_10_creating_a_cluster_survives_a_crash_at_every_write() {
    crash_at_every_write(&Creation).unwrap();
}

#[test]
fn scaling_survives_a_crash_at_every_write() {
    crash_at_every_write(&Scaling).unwrap();
}

#[test]
fn deleting_a_cluster_survives_a_crash_at_every_write() {
    crash_at_every_write(&Deletion).unwrap();
}

struct Creation;

impl Flow for Creation {
    // Deployments, Service and group, ordinals and VirtualService.
    const WRITES: usize = 8;
    const COMES_LATER: bool = true;

    async fn run(&self, world: &mut World<'_>) -> anyhow::Result<()> {
        world.create(&manifests::cluster(SIMPLE, 3)).await?;
        world.until_final(|seen| has_workers(seen, 3)).await
    }
}

struct Scaling;

impl Flow for Scaling {
    // The group's replicas and ordinals twice, two Deployments more, four less.
    const WRITES: usize = 10;

    async fn prepare(&self, world: &mut World<'_>) -> anyhow::Result<()> {
        // One comes first, so that it is the one that stays in the end.
        world.create(&manifests::cluster(SIMPLE, 1)).await?;
        world.until_final(|seen| has_workers(seen, 1)).await?;
        world.scale(CLUSTER, SIMPLE, 3).await?;
        world.until_final(|seen| has_workers(seen, 3)).await
    }

    async fn run(&self, world: &mut World<'_>) -> anyhow::Result<()> {
        for workers in [5, 1] {
            world.scale(CLUSTER, SIMPLE, workers).await?;
            world.until_final(|seen| has_workers(seen, workers)).await?;
        }
        Ok(())
    }
}

struct Deletion;

impl Flow for Deletion {
    // Kubernetes collects what has owners; the operator need not write at all.
    const WRITES: usize = 0;

    async fn prepare(&self, world: &mut World<'_>) -> anyhow::Result<()> {
        world.create(&manifests::cluster(SIMPLE, 3)).await?;
        world.until_final(|seen| has_workers(seen, 3)).await
    }

    async fn run(&self, world: &mut World<'_>) -> anyhow::Result<()> {
        world.delete(CLUSTER, SIMPLE).await?;
        world.until_final(Snapshot::is_empty).await
    }
}

/// Whether there is all of a cluster with this many workers, shown in every status, and nothing else.
fn has_workers(seen: &Snapshot, workers: u32) -> bool {
    let count = |kind| seen.of_kind(kind).count();
    let deployments = workers as usize + 1;
    let reason = |object: &Value, type_: &str| text(condition(object, type_), "/reason").to_owned();
    // No pod ever starts here.
    let shown = seen.of_kind("DaskCluster").chain(seen.of_kind("DaskWorkerGroup")).all(|object| {
        object["status"]["replicas"] == workers
            && reason(object, "Progressing") == "WorkersStarting"
            && reason(object, "Degraded") == "AsWanted"
    });
    let rolled_out =
        |deployment: &Value| deployment["metadata"]["annotations"]["deployment.kubernetes.io/revision"] == "1";
    shown
        && [count("Deployment"), count("ReplicaSet")] == [deployments; 2]
        && seen.of_kind("Deployment").all(rolled_out)
        && ["DaskCluster", "DaskWorkerGroup", "Service", "VirtualService", "DaskPluginRecord"].map(count) == [1; 5]
}
