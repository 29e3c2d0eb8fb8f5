//! A changed template changes nothing that runs.

use anyhow::ensure;
use serde_json::{Value, json};

use crate::{
    manifests,
    objects::{CLUSTER, DEPLOYMENT, GROUP, condition, name, uid},
    stage::{Stage, image, on_stage},
};

const NEW: &str = "ghcr.io/dask/dask:new";

/// Gives the containers of a section of a cluster another image.
async fn set_image(stage: &Stage, section: &str, image: &str) -> anyhow::Result<()> {
    let mut containers = stage.get(CLUSTER, "simple").await?["spec"][section]["spec"]["containers"].take();
    containers[0]["image"] = json!(image);
    stage.merge(CLUSTER, "simple", &json!({"spec": {section: {"spec": {"containers": containers}}}})).await?;
    Ok(())
}

/// Has the pod of a Deployment run, and its Deployment know of it.
async fn run(stage: &Stage, deployment: &str) -> anyhow::Result<Value> {
    stage.run_pod_of(deployment).await?;
    stage.until(DEPLOYMENT, deployment, "ready", |deployment| deployment["status"]["readyReplicas"] == 1).await
}

async fn running_workers(stage: &Stage, count: usize) -> anyhow::Result<Vec<Value>> {
    for worker in &stage.until_workers("simple-default", count).await? {
        run(stage, name(worker)).await?;
    }
    stage.until_workers("simple-default", count).await
}

async fn until_outdated(stage: &Stage, count: u32) -> anyhow::Result<Value> {
    stage
        .until(GROUP, "simple-default", &format!("of {count} outdated workers"), |group| {
            let status = &group["status"];
            status["outdatedReplicas"] == count && status["observedGeneration"] == group["metadata"]["generation"]
        })
        .await
}

#[tokio::test]
async fn workers_of_an_older_template_are_left_alone_until_they_are_deleted() -> anyhow::Result<()> {
    on_stage(async |stage| {
        stage.running_cluster("simple", 2).await?;
        let workers = running_workers(stage, 2).await?;
        set_image(stage, "worker", NEW).await?;
        let group = until_outdated(stage, 2).await?;
        let degraded = condition(&group, "Degraded");
        assert_eq!((&degraded["status"], &degraded["reason"]), (&json!("True"), &json!("TemplateOutdated")));
        let message = degraded["message"].as_str().unwrap_or_default();
        let named =
            |worker| message.contains(&format!("Deployment “{}” was made from an older template", name(worker)));
        ensure!(
            workers.iter().any(named) && message.contains("delete it to have it recreated (and 1 more)"),
            "{message}"
        );
        for worker in &workers {
            let now = stage.get(DEPLOYMENT, name(worker)).await?;
            assert_eq!((uid(&now), &now["spec"]), (uid(worker), &worker["spec"]));
        }

        // A new one has the new template, and so has one that takes the place of a deleted one.
        stage.scale(GROUP, "simple-default", 3).await?;
        let all = stage.until_workers("simple-default", 3).await?;
        let added = all.iter().find(|worker| workers.iter().all(|old| name(old) != name(worker)));
        assert_eq!(added.map(image), Some(NEW));
        stage.delete(DEPLOYMENT, name(&workers[0])).await?;
        assert_eq!(image(&stage.until_new(DEPLOYMENT, name(&workers[0]), &workers[0]).await?), NEW);
        until_outdated(stage, 1).await?;

        running_workers(stage, 3).await?;
        // Back to the former one: it is those who follow the new one that are outdated then.
        set_image(stage, "worker", manifests::IMAGE).await?;
        until_outdated(stage, 2).await?;
        Ok(())
    })
    .await
}

#[tokio::test]
async fn so_is_the_scheduler() -> anyhow::Result<()> {
    on_stage(async |stage| {
        stage.running_cluster("simple", 1).await?;
        run(stage, "simple-scheduler").await?;
        let scheduler = stage.get(DEPLOYMENT, "simple-scheduler").await?;
        set_image(stage, "scheduler", NEW).await?;
        let message = stage.until_condition(CLUSTER, "simple", ["Degraded", "True", "TemplateOutdated"]).await?;
        ensure!(message.contains("Deployment “simple-scheduler”"), "{message}");
        let cluster = stage.until_running("simple", 1).await?;
        assert_eq!(cluster["status"]["outdatedReplicas"], 1);
        let now = stage.get(DEPLOYMENT, "simple-scheduler").await?;
        assert_eq!((uid(&now), image(&now)), (uid(&scheduler), manifests::IMAGE));

        stage.delete(DEPLOYMENT, "simple-scheduler").await?;
        assert_eq!(image(&stage.until_new(DEPLOYMENT, "simple-scheduler", &scheduler).await?), NEW);
        stage.until_condition(CLUSTER, "simple", ["Degraded", "False", "AsWanted"]).await?;
        Ok(())
    })
    .await
}

#[tokio::test]
async fn labels_go_to_objects_and_never_to_pods() -> anyhow::Result<()> {
    on_stage(async |stage| {
        stage.running_cluster("simple", 1).await?;
        let before = stage.get(DEPLOYMENT, "simple-scheduler").await?;
        stage.merge(CLUSTER, "simple", &json!({"metadata": {"labels": {"team": "red"}}})).await?;
        let worker = stage.until_workers("simple-default", 1).await?.remove(0);
        for deployment in ["simple-scheduler", name(&worker)] {
            stage
                .until(DEPLOYMENT, deployment, "labelled", |object| object["metadata"]["labels"]["team"] == "red")
                .await?;
        }
        let after = stage.get(DEPLOYMENT, "simple-scheduler").await?;
        assert_eq!(after["spec"], before["spec"]);
        Ok(())
    })
    .await
}
