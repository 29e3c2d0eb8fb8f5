//! A rolling update with a real scheduler: what the replaced workers held is with the new ones.

use std::collections::BTreeSet;

use anyhow::ensure;
use dask_wasm_operator_test_integration::{
    manifests::{SIMPLE, SIMPLE_GROUP},
    objects::{CLUSTER, GROUP, TIMEOUT, name, text},
};
use dask_wasm_operator_test_support::wait_for;
use serde_json::{Value, json};

use super::{Flow, World, crash_at_every_write};

#[test]
#[ignore = "starts Dask anew for each crash, for minutes: cargo xtask test --full"]
fn a_rolling_update_survives_a_crash_at_every_write() {
    crash_at_every_write(&RollingUpdate).unwrap();
}

struct RollingUpdate;

impl Flow for RollingUpdate {
    // The group's template, its record for each step, two workers more, two less, statuses.
    const WRITES: usize = 8;
    const LANES: usize = 3;
    const DASK: bool = true;

    async fn prepare(&self, world: &mut World<'_>) -> anyhow::Result<()> {
        let (objects, dask) = world.with_dask()?;
        objects.running_simple(dask, 2).await?;
        dask.run("client.publish_dataset(client.scatter(list(range(10)), hash=False), name='data')")?;
        let strategy = json!({"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0}});
        objects.merge(CLUSTER, SIMPLE, &json!({"spec": {"updateStrategy": strategy}})).await?;
        objects
            .until(GROUP, SIMPLE_GROUP, "told of the strategy", |group| {
                text(group, "/spec/updateStrategy/type") == "RollingUpdate"
                    && group["status"]["observedGeneration"] == group["metadata"]["generation"]
            })
            .await?;
        Ok(())
    }

    async fn run(&self, world: &mut World<'_>) -> anyhow::Result<()> {
        let (objects, dask) = world.with_dask()?;
        let mut known: BTreeSet<String> =
            objects.workers(SIMPLE_GROUP).await?.iter().map(|worker| name(worker).to_owned()).collect();
        let mut cluster = objects.get(CLUSTER, SIMPLE).await?;
        let containers = &mut cluster["spec"]["worker"]["spec"]["containers"];
        containers[0]["image"] = "new".into();
        objects.merge(CLUSTER, SIMPLE, &json!({"spec": {"worker": {"spec": {"containers": containers}}}})).await?;
        wait_for("every worker to be a new one", 2 * TIMEOUT, async || {
            let workers = objects.workers(SIMPLE_GROUP).await?;
            for worker in workers.iter().map(name) {
                if known.insert(worker.to_owned()) {
                    objects.run_pod_of(worker).await?;
                    dask.add_worker(worker)?;
                }
            }
            let group = objects.get(GROUP, SIMPLE_GROUP).await?;
            Ok(is_updated(&group, &workers).then_some(()))
        })
        .await?;
        objects.until_running(SIMPLE, 2).await?;
        let data = dask.run("print(client.gather(client.get_dataset('data')))")?;
        ensure!(data == format!("{:?}", Vec::from_iter(0..10)), "of the data there is {data}");
        Ok(())
    }
}

fn is_updated(group: &Value, workers: &[Value]) -> bool {
    let status = &group["status"];
    let images = workers.iter().map(|worker| text(worker, "/spec/template/spec/containers/0/image"));
    workers.len() == 2
        && images.into_iter().all(|image| image == "new")
        && status["observedGeneration"] == group["metadata"]["generation"]
        && status["outdatedReplicas"] == 0
        && status["readyReplicas"] == 2
}
