//! Clusters that end when nobody uses them.

use anyhow::ensure;
use dask_wasm_operator_test_support::wait_for;
use serde_json::json;

use crate::{
    endpoints::{free_port, get, metric},
    manifests::SIMPLE,
    objects::{CLUSTER, TIMEOUT},
    stage::on_stage_with_dask,
};

#[tokio::test]
async fn an_idle_cluster_is_deleted_and_an_event_says_why() -> anyhow::Result<()> {
    on_stage_with_dask(&[], async |stage, dask| {
        stage.running_simple(dask, 1).await?;
        stage.merge(CLUSTER, SIMPLE, &json!({"spec": {"idleTimeout": 1}})).await?;
        let note = stage.until_event(CLUSTER, SIMPLE, "IdleTimeout").await?;
        ensure!(note.contains("spec.idleTimeout"), "{note}");
        stage.until_gone(CLUSTER, SIMPLE).await
    })
    .await
}

#[tokio::test]
async fn a_busy_cluster_stays() -> anyhow::Result<()> {
    let port = free_port()?;
    on_stage_with_dask(&[&format!("--admin-address=127.0.0.1:{port}")], async |stage, dask| {
        stage.running_simple(dask, 1).await?;
        dask.run("import time\nwork = client.submit(time.sleep, 600)\nclient.publish_dataset(work, name='work')")?;
        stage.merge(CLUSTER, SIMPLE, &json!({"spec": {"idleTimeout": 1}})).await?;
        wait_for("three answers whether it is idle", TIMEOUT, async || {
            let (_, metrics) = get(port, "/metrics").await?;
            let answers = metrics.lines().filter(|line| line.contains("call=\"idle_since\",result=\"Success\""));
            Ok((metric(&answers.collect::<Vec<_>>().join("\n"), "dask_operator_scheduler_calls_total") >= 3.0)
                .then_some(()))
        })
        .await?;
        let cluster = stage.get(CLUSTER, SIMPLE).await?;
        ensure!(cluster["status"]["idleSince"].is_null(), "{cluster:#}");
        ensure!(cluster["metadata"]["deletionTimestamp"].is_null(), "{cluster:#}");
        Ok(())
    })
    .await
}
