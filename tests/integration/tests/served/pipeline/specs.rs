//! What a cluster's spec asks for, as the API server takes it or refuses it.

use anyhow::ensure;
use serde_json::json;

use crate::{
    manifests,
    objects::{CLUSTER, DEPLOYMENT, SERVICE, name},
    stage::{container, on_stage},
};

#[tokio::test]
async fn a_changed_service_is_applied_and_for_what_can_not_change_the_remedy_is_named() -> anyhow::Result<()> {
    on_stage(async |stage| {
        stage.running_cluster("simple", 1).await?;
        let service = |fields| json!({"spec": {"scheduler": {"service": fields}}});
        stage.merge(CLUSTER, "simple", &service(json!({"sessionAffinity": "ClientIP"}))).await?;
        let changed = |service: &serde_json::Value| service["spec"]["sessionAffinity"] == "ClientIP";
        let before = stage.until(SERVICE, "simple-scheduler", "changed", changed).await?;

        stage.merge(CLUSTER, "simple", &service(json!({"clusterIP": "None"}))).await?;
        let message = stage.until_condition(CLUSTER, "simple", ["Degraded", "True", "Refused"]).await?;
        for words in [
            "may not change once set",
            "delete it to have it recreated",
            "undo the change in spec.scheduler.service of DaskCluster simple",
        ] {
            ensure!(message.contains(words), "no {words} in: {message}");
        }
        stage.delete(SERVICE, "simple-scheduler").await?;
        let after = stage.until_new(SERVICE, "simple-scheduler", &before).await?;
        assert_eq!(after["spec"]["clusterIP"], "None");
        stage.until_condition(CLUSTER, "simple", ["Degraded", "False", "AsWanted"]).await?;
        Ok(())
    })
    .await
}

/// Server-side apply refuses what creation takes.
#[tokio::test]
async fn a_variable_that_is_given_twice_is_given_once() -> anyhow::Result<()> {
    on_stage(async |stage| {
        let mut cluster = manifests::cluster("simple", 1);
        let twice = json!([{"name": "A", "value": "1"}, {"name": "A", "value": "2"}]);
        for section in ["scheduler", "worker"] {
            cluster["spec"][section]["spec"]["containers"][0]["env"] = twice.clone();
            cluster["spec"][section]["spec"]["imagePullSecrets"] = json!([{"name": "pull"}, {"name": "pull"}]);
        }
        stage.create(&cluster).await?;
        stage.until_running("simple", 1).await?;
        let worker = stage.until_workers("simple-default", 1).await?.remove(0);
        for deployment in ["simple-scheduler", name(&worker)] {
            let deployment = stage.get(DEPLOYMENT, deployment).await?;
            let variables = container(&deployment)["env"].as_array().into_iter().flatten();
            let values: Vec<_> =
                variables.filter(|variable| variable["name"] == "A").map(|one| &one["value"]).collect();
            assert_eq!(values, [&json!("2")]);
        }
        stage.until_condition(CLUSTER, "simple", ["Degraded", "False", "AsWanted"]).await?;
        Ok(())
    })
    .await
}

#[tokio::test]
async fn the_istio_label_of_pods_can_be_set() -> anyhow::Result<()> {
    on_stage(async |stage| {
        let mut cluster = manifests::cluster("simple", 1);
        cluster["spec"]["worker"]["metadata"] = json!({"labels": {"sidecar.istio.io/inject": "true"}});
        stage.create(&cluster).await?;
        stage.until_running("simple", 1).await?;
        let worker = stage.until_workers("simple-default", 1).await?.remove(0);
        for (deployment, expected) in [("simple-scheduler", "false"), (name(&worker), "true")] {
            let deployment = stage.get(DEPLOYMENT, deployment).await?;
            let labels = &deployment["spec"]["template"]["metadata"]["labels"];
            assert_eq!(labels["sidecar.istio.io/inject"], expected);
        }
        Ok(())
    })
    .await
}
