//! From a DaskJob to its end. Pods run where a test says so.

use anyhow::ensure;
use dask_wasm_operator_test_support::wait_for;
use serde_json::{Value, json};

use crate::{
    manifests,
    objects::{CLUSTER, GROUP, JOB, POD, TIMEOUT, controller, text, uid},
    stage::{Stage, on_stage},
};

const RUNNER: &str = "simple-runner";

impl Stage {
    async fn until_job(&self, status: &str) -> anyhow::Result<Value> {
        self.until(JOB, "simple", status, |job| text(job, "/status/jobStatus") == status).await
    }
}

#[tokio::test]
async fn a_job_makes_its_cluster_and_its_pod_and_removes_the_cluster_at_its_end() -> anyhow::Result<()> {
    on_stage(async |stage| {
        let job = stage.create(&manifests::job("simple")).await?;
        let status = stage.until_job("ClusterCreated").await?["status"].clone();
        assert_eq!(status, json!({"jobStatus": "ClusterCreated", "clusterName": "simple", "jobRunnerPodName": RUNNER}));
        stage.until_running("simple", 1).await?;
        let pod = stage.get(POD, RUNNER).await?;
        assert_eq!(controller(&pod), uid(&job));
        assert_eq!(pod["metadata"]["labels"]["dask.org/component"], "job-runner");

        stage.run_runner(RUNNER, "Running", None).await?;
        let status = stage.until_job("Running").await?["status"].clone();
        assert_eq!(status["startTime"], "2026-01-01T00:00:00Z");
        stage.run_runner(RUNNER, "Succeeded", Some(0)).await?;
        let status = stage.until_job("Successful").await?["status"].clone();
        assert_eq!(status["endTime"], "2026-01-01T00:00:00Z");
        stage.until_gone(CLUSTER, "simple").await?;
        assert_eq!(uid(&stage.get(POD, RUNNER).await?), uid(&pod), "its log can be read");
        Ok(())
    })
    .await
}

#[tokio::test]
async fn a_job_that_fails_is_tried_as_often_as_it_says() -> anyhow::Result<()> {
    on_stage(async |stage| {
        let mut job = manifests::job("simple");
        job["spec"]["backoffLimit"] = 1.into();
        stage.create(&job).await?;
        let first = stage.until_there(POD, RUNNER).await?;
        stage.run_runner(RUNNER, "Failed", Some(3)).await?;
        stage.until_new(POD, RUNNER, &first).await?;
        stage.run_runner(RUNNER, "Failed", Some(4)).await?;
        stage.until_job("Failed").await?;
        let note = stage.until_event(JOB, "simple", "RunnerFailed").await;
        stage.until_gone(CLUSTER, "simple").await?;
        ensure!(note?.contains("exit code"), "the Event says how it failed");
        Ok(())
    })
    .await
}

#[tokio::test]
async fn a_suspended_job_waits_and_is_deleted_some_time_after_its_end() -> anyhow::Result<()> {
    on_stage(async |stage| {
        let mut job = manifests::job("simple");
        job["spec"]["suspend"] = true.into();
        job["spec"]["ttlSecondsAfterFinished"] = 0.into();
        stage.create(&job).await?;
        stage.until_job("JobCreated").await?;
        ensure!(stage.find(CLUSTER, "simple").await?.is_none(), "nothing is made of a suspended job");
        stage.merge(JOB, "simple", &json!({"spec": {"suspend": false}})).await?;
        stage.until_there(POD, RUNNER).await?;
        stage.run_runner(RUNNER, "Succeeded", Some(0)).await?;
        stage.until_gone(JOB, "simple").await?;
        wait_for("the pod to go with its job", TIMEOUT, async || {
            Ok(stage.find(POD, RUNNER).await?.is_none().then_some(()))
        })
        .await
    })
    .await
}

#[tokio::test]
async fn a_job_waits_until_the_name_of_its_cluster_is_free() -> anyhow::Result<()> {
    on_stage(async |stage| {
        let foreign = stage.running_cluster("simple", 1).await?;
        let job = stage.create(&manifests::job("simple")).await?;
        let note = stage.until_event(JOB, "simple", "ForeignObject").await?;
        ensure!(note.contains("DaskCluster") && note.contains("delete or rename it"), "{note}");
        let status = stage.until_job("JobCreated").await?["status"].clone();
        assert_eq!(status, json!({"jobStatus": "JobCreated"}));
        ensure!(stage.find(POD, RUNNER).await?.is_none(), "it does not run on a cluster of somebody else");
        stage.delete(CLUSTER, "simple").await?;
        let own = stage.until_new(CLUSTER, "simple", &foreign).await?;
        assert_eq!(controller(&own), uid(&job));
        stage.until_there(POD, RUNNER).await?;
        Ok(())
    })
    .await
}

#[tokio::test]
async fn the_cluster_of_a_job_can_be_scaled() -> anyhow::Result<()> {
    on_stage(async |stage| {
        stage.create(&manifests::job("simple")).await?;
        stage.until_running("simple", 1).await?;
        stage.scale(CLUSTER, "simple", 3).await?;
        stage.until_workers("simple-default", 3).await?;
        stage.merge(JOB, "simple", &json!({"metadata": {"labels": {"team": "red"}}})).await?;
        let labelled = |object: &Value| object["metadata"]["labels"]["team"] == "red";
        let cluster = stage.until(CLUSTER, "simple", "labelled", labelled).await?;
        assert_eq!(cluster["spec"]["worker"]["replicas"], 3);
        let group = stage.until(GROUP, "simple-default", "labelled", labelled).await?;
        assert_eq!(group["spec"]["worker"]["replicas"], 3);

        stage.merge(JOB, "simple", &json!({"spec": {"cluster": {"spec": {"worker": {"replicas": 2}}}}})).await?;
        stage.until_workers("simple-default", 2).await?;
        Ok(())
    })
    .await
}
