//! A cluster that ends because its scheduler is idle.

use dask_wasm_operator_test_integration::{manifests::SIMPLE, objects::CLUSTER};
use serde_json::json;

use super::{Flow, World, crash_at_every_write};
use crate::snapshot::Snapshot;

#[test]
fn idle_shutdown_survives_a_crash_at_every_write() {
    crash_at_every_write(&IdleShutdown).unwrap();
}

struct IdleShutdown;

impl Flow for IdleShutdown {
    // Its status, the Event, its end.
    const WRITES: usize = 3;
    const DASK: bool = true;

    async fn prepare(&self, world: &mut World<'_>) -> anyhow::Result<()> {
        world.running_cluster(SIMPLE, 1).await?;
        world.run_pod_of("simple-scheduler").await
    }

    async fn run(&self, world: &mut World<'_>) -> anyhow::Result<()> {
        world.merge(CLUSTER, SIMPLE, &json!({"spec": {"idleTimeout": 1}})).await?;
        world.until_event(CLUSTER, SIMPLE, "IdleTimeout").await?;
        world.until_final(Snapshot::is_empty).await
    }
}
