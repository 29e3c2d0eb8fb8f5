//! Fewer workers, without losing what they hold.

use anyhow::ensure;
use dask_wasm_operator_test_integration::{
    manifests::{SIMPLE, SIMPLE_GROUP},
    objects::{GROUP, names},
};

use super::{Flow, World, crash_at_every_write};
use crate::snapshot::worker_name;

#[test]
#[ignore = "starts Dask anew for each crash, for minutes: cargo xtask test --full"]
fn retirement_survives_a_crash_at_every_write() {
    crash_at_every_write(&Retirement).unwrap();
}

struct Retirement;

const WORKERS: u32 = 3;

impl Flow for Retirement {
    // The record twice, two workers, two statuses.
    const WRITES: usize = 5;
    const LANES: usize = 3;
    const DASK: bool = true;

    async fn prepare(&self, world: &mut World<'_>) -> anyhow::Result<()> {
        let (objects, dask) = world.with_dask()?;
        objects.running_simple(dask, WORKERS).await?;
        let group = objects.get(GROUP, SIMPLE_GROUP).await?;
        // Data that can't be computed again, on each worker, and the most of it on the oldest, which so is the one that stays.
        for ordinal in 0..WORKERS {
            let (worker, size) = (worker_name(&group, ordinal), 1000 * (WORKERS - ordinal));
            dask.run(&format!(
                "workers = client.scheduler_info()['workers']\n\
                 worker, = [address for address in workers if workers[address]['name'] == '{worker}']\n\
                 client.publish_dataset(client.scatter(bytes({size}), workers=[worker], hash=False), name='{ordinal}')"
            ))?;
        }
        Ok(())
    }

    async fn run(&self, world: &mut World<'_>) -> anyhow::Result<()> {
        let (objects, dask) = world.with_dask()?;
        let before = objects.workers(SIMPLE_GROUP).await?;
        objects.scale(GROUP, SIMPLE_GROUP, 1).await?;
        let left = objects.until_workers(SIMPLE_GROUP, 1).await?;
        for gone in names(&before).into_iter().filter(|worker| !names(&left).contains(worker)) {
            dask.kill_workers(gone);
        }
        objects.until_running(SIMPLE, 1).await?;
        let sizes =
            dask.run("print([len(client.get_dataset(name).result()) for name in sorted(client.list_datasets())])")?;
        ensure!(sizes == "[3000, 2000, 1000]", "of the data there is {sizes}");
        Ok(())
    }
}
