//! An autoscaler that raises the number of workers to its minimum.

use dask_wasm_operator_test_integration::{
    manifests::{self, SIMPLE, SIMPLE_GROUP},
    objects::{AUTOSCALER, name},
};

use super::{Flow, World, crash_at_every_write};

#[test]
fn autoscaling_survives_a_crash_at_every_write() {
    crash_at_every_write(&Autoscaling).unwrap();
}

struct Autoscaling;

impl Flow for Autoscaling {
    // The owner, the group's replicas and record, the worker, three statuses.
    const WRITES: usize = 6;
    const DASK: bool = true;

    async fn prepare(&self, world: &mut World<'_>) -> anyhow::Result<()> {
        world.running_cluster(SIMPLE, 1).await?;
        world.run_pod_of("simple-scheduler").await?;
        // While a worker is pending there are to be no more.
        for worker in world.workers(SIMPLE_GROUP).await? {
            world.run_pod_of(name(&worker)).await?;
        }
        Ok(())
    }

    async fn run(&self, world: &mut World<'_>) -> anyhow::Result<()> {
        let mut autoscaler = manifests::autoscaler(SIMPLE, 2, 3);
        autoscaler["spec"]["intervalSeconds"] = 1.into();
        world.create(&autoscaler).await?;
        world.until_workers(SIMPLE_GROUP, 2).await?;
        world.until_running(SIMPLE, 2).await?;
        world
            .until(AUTOSCALER, SIMPLE, "at its minimum", |autoscaler| {
                let status = &autoscaler["status"];
                status["desiredReplicas"] == 2 && status["currentReplicas"] == 2 && status["lastScaleTime"].is_string()
            })
            .await?;
        Ok(())
    }
}
