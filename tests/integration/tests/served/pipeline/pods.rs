//! What is wrong with the pods of schedulers and workers is told where people look.

use anyhow::ensure;
use serde_json::{Value, json};

use crate::{
    objects::{CLUSTER, GROUP, name},
    stage::on_stage,
};

/// As kubelet reports of a pod that waits for this reason.
fn waiting(container: &str, reason: &str, message: &str) -> Value {
    let state = json!({"waiting": {"reason": reason, "message": message}});
    let container = json!({
        "name": container, "image": "dask", "imageID": "", "ready": false, "restartCount": 0, "state": state,
    });
    json!({"phase": "Pending", "podIP": "10.0.0.9", "podIPs": [{"ip": "10.0.0.9"}], "containerStatuses": [container]})
}

#[tokio::test]
async fn why_a_schedulers_pod_fails_is_in_its_clusters_condition() -> anyhow::Result<()> {
    on_stage(async |stage| {
        stage.running_cluster("simple", 1).await?;
        stage.until_condition(CLUSTER, "simple", ["Available", "False", "SchedulerNotReady"]).await?;
        let pulling = waiting("scheduler", "ImagePullBackOff", "Back-off pulling image \"dask:nope\"");
        stage.report_pod_of("simple-scheduler", &pulling).await?;
        let message = stage.until_condition(CLUSTER, "simple", ["Available", "False", "SchedulerImage"]).await?;
        ensure!(message.contains("dask:nope") && message.contains("spec.scheduler.spec"), "{message}");
        assert_eq!(stage.until_event(CLUSTER, "simple", "SchedulerImage").await?, message);
        let full =
            json!({"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "0/3 nodes"});
        stage.report_pod_of("simple-scheduler", &json!({"conditions": [full], "containerStatuses": []})).await?;
        let message =
            stage.until_condition(CLUSTER, "simple", ["Available", "False", "SchedulerUnschedulable"]).await?;
        ensure!(message.contains("0/3 nodes"), "{message}");
        stage.run_pod_of("simple-scheduler").await?;
        stage.until_condition(CLUSTER, "simple", ["Available", "True", "SchedulerAvailable"]).await?;
        Ok(())
    })
    .await
}

#[tokio::test]
async fn why_workers_fail_is_counted_in_their_groups_condition() -> anyhow::Result<()> {
    on_stage(async |stage| {
        stage.running_cluster("simple", 3).await?;
        let workers = stage.until_workers("simple-default", 3).await?;
        stage.run_pod_of(name(&workers[0])).await?;
        for worker in &workers[1..] {
            let refused = waiting("worker", "CreateContainerConfigError", "secret \"x\" not found");
            stage.report_pod_of(name(worker), &refused).await?;
        }
        let failing = ["Available", "False", "WorkersNotStarting"];
        stage
            .until(GROUP, "simple-default", "two failing workers", |group| {
                let conditions = group["status"]["conditions"].as_array().into_iter().flatten();
                let message = |condition: &Value| condition["message"].as_str().unwrap_or_default().to_owned();
                conditions.map(message).any(|message| message.starts_with("2 of 3 workers: "))
            })
            .await?;
        let message = stage.until_condition(GROUP, "simple-default", failing).await?;
        ensure!(
            message.contains("secret \"x\" not found”; create Secret x, or correct what names it in spec.worker.spec"),
            "{message}"
        );
        Ok(())
    })
    .await
}
