//! What can't be is told with the field and the remedy, and stops nothing else.

use anyhow::ensure;
use serde_json::{Value, json};

use crate::{
    manifests,
    objects::{CLUSTER, DEPLOYMENT, GROUP, Kind, SERVICE, text, uid},
    stage::{Stage, on_stage},
};

const QUOTA: Kind<'_> = Kind("v1", "ResourceQuota");

/// A cluster that is as it should be, made after one that is not.
async fn another_is_served(stage: &Stage) -> anyhow::Result<()> {
    stage.running_cluster("healthy", 1).await.map(drop)
}

#[tokio::test]
async fn names_that_no_service_can_have_are_errors() -> anyhow::Result<()> {
    on_stage(async |stage| {
        let long = "a".repeat(54);
        for name in ["dotted.name", &long] {
            stage.create(&manifests::cluster(name, 1)).await?;
            let message = stage.until_condition(CLUSTER, name, ["Degraded", "True", "InvalidName"]).await?;
            ensure!(
                message.contains("metadata.name") && message.contains("recreate it under another name"),
                "{message}"
            );
            assert_eq!(stage.until_event(CLUSTER, name, "InvalidName").await?, message);
            assert_eq!(stage.get(CLUSTER, name).await?["status"]["phase"], "Error");
        }
        // Workers carry the name of their group as a label.
        let no_label = "a".repeat(64);
        stage.create(&manifests::group(&no_label, "healthy", 1)).await?;
        let message = stage.until_condition(GROUP, &no_label, ["Degraded", "True", "InvalidName"]).await?;
        ensure!(message.contains("metadata.name") && message.contains("at most 63 characters"), "{message}");

        another_is_served(stage).await?;
        // The longest that is allowed works.
        stage.running_cluster(&"a".repeat(53), 1).await?;
        assert_eq!(stage.list(DEPLOYMENT, "dask.org/cluster-name=dotted.name").await?.len(), 0);
        assert_eq!(stage.list(DEPLOYMENT, &format!("dask.org/cluster-name={long}")).await?.len(), 0);
        Ok(())
    })
    .await
}

/// Creates `broken`, waits for a condition that holds these words, corrects it by the patch and waits until it runs.
async fn refused_until_corrected(
    stage: &Stage,
    broken: &Value,
    (kind, name): (Kind<'_>, &str),
    words: &[&str],
    correction: &Value,
) -> anyhow::Result<()> {
    stage.create(broken).await?;
    let message = stage.until_condition(kind, name, ["Degraded", "True", "Refused"]).await?;
    for words in words {
        ensure!(message.contains(words), "no {words} in: {message}");
    }
    stage.until_event(kind, name, "Refused").await?;
    another_is_served(stage).await?;
    let cluster = text(broken, "/metadata/name");
    stage.merge(CLUSTER, cluster, correction).await?;
    stage.until_running(cluster, 1).await?;
    stage.until_condition(kind, name, ["Degraded", "False", "AsWanted"]).await?;
    Ok(())
}

#[tokio::test]
async fn a_worker_without_image_is_told_by_field_and_remedy() -> anyhow::Result<()> {
    on_stage(async |stage| {
        let sound = manifests::cluster("broken", 1);
        let mut broken = sound.clone();
        broken["spec"]["worker"]["spec"]["containers"][0] = json!({"name": "worker"});
        let words = [
            "spec.template.spec.containers[0].image",
            "correct spec.worker.spec.containers[0].image of DaskCluster broken",
        ];
        refused_until_corrected(stage, &broken, (GROUP, "broken-default"), &words, &json!({"spec": sound["spec"]}))
            .await
    })
    .await
}

#[tokio::test]
async fn so_is_a_schedulers_port_that_is_none() -> anyhow::Result<()> {
    on_stage(async |stage| {
        let sound = manifests::cluster("broken", 1);
        let mut broken = sound.clone();
        broken["spec"]["scheduler"]["spec"]["containers"][0]["ports"][0]["containerPort"] = json!(99_999);
        let words = [
            "spec.template.spec.containers[0].ports[0].containerPort",
            "correct spec.scheduler.spec.containers[0].ports of DaskCluster broken",
        ];
        refused_until_corrected(stage, &broken, (CLUSTER, "broken"), &words, &json!({"spec": sound["spec"]})).await
    })
    .await
}

#[tokio::test]
async fn so_is_a_service_that_is_none() -> anyhow::Result<()> {
    on_stage(async |stage| {
        let sound = manifests::cluster("broken", 1);
        let mut broken = sound.clone();
        broken["spec"]["scheduler"]["service"]["type"] = json!("Magic");
        let words = ["spec.type", "correct spec.scheduler.service.type of DaskCluster broken"];
        refused_until_corrected(stage, &broken, (CLUSTER, "broken"), &words, &json!({"spec": sound["spec"]})).await
    })
    .await
}

#[tokio::test]
async fn fault_21_a_quota_is_named_and_its_end_is_noticed() -> anyhow::Result<()> {
    on_stage(async |stage| {
        stage
            .create(&json!({
                "apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": "few"},
                "spec": {"hard": {"count/deployments.apps": "2"}},
            }))
            .await?;
        let counted = |quota: &Value| quota["status"]["used"]["count/deployments.apps"].is_string();
        stage.until(QUOTA, "few", "in force", counted).await?;
        stage.create(&manifests::cluster("simple", 3)).await?;
        let message = stage.until_condition(GROUP, "simple-default", ["Degraded", "True", "Forbidden"]).await?;
        ensure!(message.contains("exceeded quota: few") && message.contains("count/deployments.apps"), "{message}");
        stage.until_event(GROUP, "simple-default", "Forbidden").await?;

        stage.delete(QUOTA, "few").await?;
        stage.until_running("simple", 3).await?;
        stage.until_condition(GROUP, "simple-default", ["Degraded", "False", "AsWanted"]).await?;
        Ok(())
    })
    .await
}

#[tokio::test]
async fn what_a_stranger_has_under_our_name_is_left_as_it_is() -> anyhow::Result<()> {
    on_stage(async |stage| {
        let service = json!({
            "apiVersion": "v1", "kind": "Service", "metadata": {"name": "simple-scheduler", "labels": {"whose": "mine"}},
            "spec": {"selector": {"app": "mine"}, "ports": [{"name": "http", "port": 80}]},
        });
        let before = stage.create(&service).await?;
        stage.create(&manifests::cluster("simple", 1)).await?;
        let message = stage.until_condition(CLUSTER, "simple", ["Degraded", "True", "ForeignObject"]).await?;
        ensure!(message.contains("Service") && message.contains("simple-scheduler"), "{message}");
        ensure!(message.contains("rename or delete it, or choose another name"), "{message}");
        stage.until_event(CLUSTER, "simple", "ForeignObject").await?;
        // All that does not depend on it is made.
        stage.until_workers("simple-default", 1).await?;
        stage.get(DEPLOYMENT, "simple-scheduler").await?;
        another_is_served(stage).await?;

        let after = stage.get(SERVICE, "simple-scheduler").await?;
        let essence = |service: &Value| {
            let managers = service["metadata"]["managedFields"].as_array().into_iter().flatten();
            let managers: Vec<_> = managers.map(|entry| text(entry, "/manager").to_owned()).collect();
            let metadata = &service["metadata"];
            (service["spec"].clone(), metadata["labels"].clone(), metadata["ownerReferences"].clone(), managers)
        };
        assert_eq!(essence(&after), essence(&before));

        stage.delete(SERVICE, "simple-scheduler").await?;
        let ours = stage.until_new(SERVICE, "simple-scheduler", &before).await?;
        assert_ne!(uid(&ours), uid(&before));
        stage.until_condition(CLUSTER, "simple", ["Degraded", "False", "AsWanted"]).await?;
        Ok(())
    })
    .await
}
