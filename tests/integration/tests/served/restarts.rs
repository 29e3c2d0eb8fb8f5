//! A restart of the operator is nobody's news, and what others write where the operator does stops nothing.

use std::collections::BTreeMap;

use anyhow::ensure;
use dask_wasm_operator_test_support::wait_for;
use serde_json::json;

use crate::{
    endpoints::{free_port, get},
    manifests,
    objects::{AUTOSCALER, CLUSTER, EVENT, GROUP, JOB, Kind, TIMEOUT, name, text},
    stage::{Stage, on_stage, on_stage_with},
};

const QUOTA: Kind<'_> = Kind("v1", "ResourceQuota");

/// A few restarts belong to every run.
const SOME: usize = 4;

/// The version of each Dask object and Event: one that did not change has not been written in between.
async fn versions(stage: &Stage) -> anyhow::Result<BTreeMap<String, String>> {
    let mut versions = BTreeMap::new();
    for kind in [CLUSTER, GROUP, JOB, AUTOSCALER, EVENT] {
        for object in stage.list(kind, "").await? {
            let note = text(&object, "/note");
            let key = format!("{} {} {note}", kind.1, name(&object));
            versions.insert(key, text(&object, "/metadata/resourceVersion").to_owned());
        }
    }
    Ok(versions)
}

/// Waits until every subject has had a pass and its status was looked at, as often as there are subjects.
async fn looked(stage: &Stage, port: u16) -> anyhow::Result<()> {
    let mut subjects = BTreeMap::new();
    for (handler, kind) in [("cluster", CLUSTER), ("workergroup", GROUP), ("job", JOB), ("autoscaler", AUTOSCALER)] {
        subjects.insert(format!("{handler}-status"), stage.list(kind, "").await?.len());
    }
    wait_for("a look at every subject", TIMEOUT, async || {
        let metrics = get(port, "/metrics").await?.1;
        let count = |handler: &str| {
            let name = format!("dask_operator_reconcile_duration_seconds_count{{handler=\"{handler}\"}} ");
            metrics.lines().find_map(|line| line.strip_prefix(&name)?.parse::<usize>().ok()).unwrap_or(0)
        };
        Ok(subjects.iter().all(|(handler, subjects)| count(handler) >= *subjects).then_some(()))
    })
    .await
}

async fn nothing_changes_over(restarts: usize) -> anyhow::Result<()> {
    let port = free_port()?;
    on_stage_with(&json!({}), &[&format!("--admin-address=127.0.0.1:{port}")], async |stage| {
        stage.running_cluster("simple", 2).await?;
        stage.create(&manifests::cluster("dotted.name", 1)).await?;
        stage.until_condition(CLUSTER, "dotted.name", ["Degraded", "True", "InvalidName"]).await?;
        stage.create(&manifests::autoscaler("simple", 0, 3)).await?;
        stage.until_condition(AUTOSCALER, "simple", ["Available", "False", "SchedulerNotReady"]).await?;
        stage.create(&manifests::autoscaler("nobody", 0, 3)).await?;
        stage.until_condition(AUTOSCALER, "nobody", ["Degraded", "True", "ClusterNotFound"]).await?;
        stage.create(&manifests::job("job")).await?;
        stage.until(JOB, "job", "made", |job| job["status"]["jobStatus"] == "ClusterCreated").await?;
        stage.until_running("job", 1).await?;
        // From now on no Deployment can be made.
        let hard = json!({"count/deployments.apps": "1"});
        let quota =
            json!({"apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": "few"}, "spec": {"hard": hard}});
        stage.create(&quota).await?;
        let counted = |quota: &serde_json::Value| quota["status"]["used"].is_object();
        stage.until(QUOTA, "few", "in force", counted).await?;
        for refused in ["refused", "paused"] {
            stage.create(&manifests::cluster(refused, 1)).await?;
            stage.until_condition(CLUSTER, refused, ["Degraded", "True", "Forbidden"]).await?;
            stage.until_event(CLUSTER, refused, "Forbidden").await?;
        }
        let pause = json!({"metadata": {"annotations": {"operator.dask.org/paused": "true"}}});
        stage.merge(CLUSTER, "paused", &pause).await?;
        stage.until_condition(CLUSTER, "paused", ["Progressing", "False", "Paused"]).await?;
        stage.until_event(CLUSTER, "paused", "Paused").await?;

        let before = versions(stage).await?;
        for number in 0..restarts {
            if number % 2 == 0 {
                stage.stop().await?
            } else {
                stage.operator.kill()?
            }
            stage.start().await?;
            looked(stage, port).await?;
            let after = versions(stage).await?;
            let changed: Vec<_> = after.iter().filter(|(key, version)| before.get(*key) != Some(*version)).collect();
            ensure!(changed.is_empty(), "restart {number} changed {changed:#?}");
        }
        Ok(())
    })
    .await
}

#[tokio::test]
async fn a_restart_changes_no_status_and_repeats_no_event() -> anyhow::Result<()> {
    nothing_changes_over(SOME).await
}

#[tokio::test]
#[ignore = "takes minutes: cargo xtask test --full"]
async fn nor_do_fifty() -> anyhow::Result<()> {
    nothing_changes_over(50).await
}

#[tokio::test]
async fn a_number_in_an_annotation_stops_nobody() -> anyhow::Result<()> {
    on_stage(async |stage| {
        stage.running_cluster("simple", 2).await?;
        let record = stage.get(GROUP, "simple-default").await?["metadata"]["annotations"].clone();
        let ranges: Vec<_> = (0..100_u64).map(|n| format!("{}-{}", n * 100_001, n * 100_001 + 99_999)).collect();
        let ranges = format!(r#"{{"next":20000000,"workers":"{}"}}"#, ranges.join(","));
        for text in [r#"{"next":4294967295,"workers":""}"#, &ranges] {
            let patch = json!({"metadata": {"annotations": {"operator.dask.org/worker-ordinals": text}}});
            stage.merge(GROUP, "simple-default", &patch).await?;
            stage
                .until(GROUP, "simple-default", "recorded anew", |group| group["metadata"]["annotations"] == record)
                .await?;
        }
        let note = stage.until_event(GROUP, "simple-default", "RecordLost").await?;
        ensure!(note.contains("operator.dask.org/worker-ordinals"), "{note}");
        stage.running_cluster("other", 1).await.map(drop)
    })
    .await
}
