//! Plugins whose children are Dask objects: the operator's own handlers write to them as well.

use dask_wasm_operator_test_support::sha256;
use serde_json::{Value, json};

use super::mounting::{code, puppet};
use crate::{
    manifests,
    objects::{AUTOSCALER, CLUSTER, GROUP, JOB, Kind, PLUGIN, controller, uid},
    stage::{Stage, on_stage_with},
};

/// The children of DaskCluster `simple`.
fn wanted() -> [(Kind<'static>, Value); 4] {
    [
        (AUTOSCALER, manifests::autoscaler("simple", 1, 5)),
        (GROUP, manifests::group("simple-extra", "simple", 1)),
        (CLUSTER, manifests::cluster("side", 1)),
        (JOB, manifests::job("once")),
    ]
}

fn name(object: &Value) -> &str {
    object["metadata"]["name"].as_str().unwrap_or_default()
}

/// The plugin and the operator's own handlers have looked at what there is, and are content.
async fn all_is_well(stage: &Stage) -> anyhow::Result<()> {
    stage.until_condition(AUTOSCALER, "simple", ["Degraded", "False", "AsWanted"]).await?;
    stage.until_workers("simple-extra", 1).await?;
    stage.until_running("side", 1).await?;
    stage.until(JOB, "once", "begun", |job| job["status"]["jobStatus"] == "ClusterCreated").await?;
    stage.until_condition(PLUGIN, "puppet", ["Degraded", "False", "AsWanted"]).await?;
    Ok(())
}

#[tokio::test]
async fn they_are_made_repaired_and_pruned() -> anyhow::Result<()> {
    let component = puppet()?;
    let grants = wanted().map(|(kind, _)| json!({"group": "kubernetes.dask.org", "kind": kind.1}));
    // The chart makes the operator's rights from what is granted.
    let values = json!({"plugins": [{
        "name": "puppet",
        "source": {"configMap": {"name": "puppet", "keys": ["puppet.wasm"]}, "sha256": sha256(&component)},
        "grants": {"create": grants},
    }]});
    on_stage_with(&values, &[], async |stage| {
        stage.create(&code("puppet", &component)).await?;
        stage.until_ready("puppet").await?;
        let cluster = stage.running_cluster("simple", 1).await?;
        let children: Vec<_> = wanted()
            .into_iter()
            .map(|(kind, object)| json!({"key": kind.1.to_lowercase(), "object": object}))
            .collect();
        // Each new cluster is a subject, too: only the first has children.
        let script = json!({odd_guest::SCRIPT: json!({"children": children}).to_string()});
        stage.merge(CLUSTER, "simple", &json!({"metadata": {"annotations": script}})).await?;
        for (kind, object) in wanted() {
            let made = stage.until_there(kind, name(&object)).await?;
            assert_eq!(controller(&made), uid(&cluster), "{kind:?}");
        }
        all_is_well(stage).await?;

        for (kind, object) in wanted() {
            let made = stage.get(kind, name(&object)).await?;
            let label = "plugins.dask.org/handler";
            for taken in [json!({"labels": {label: null}}), json!({"ownerReferences": null})] {
                stage.merge(kind, name(&object), &json!({"metadata": taken})).await?;
                let is_repaired =
                    |now: &Value| now["metadata"]["labels"][label] == "cluster" && controller(now) == uid(&cluster);
                let repaired = stage.until(kind, name(&object), "repaired", is_repaired).await?;
                assert_eq!(uid(&repaired), uid(&made));
            }
            stage.delete(kind, name(&object)).await?;
            stage.until_new(kind, name(&object), &made).await?;
        }
        all_is_well(stage).await?;

        stage.delete(PLUGIN, "puppet").await?;
        for (kind, object) in wanted() {
            stage.until_gone(kind, name(&object)).await?;
        }
        stage.until_running("simple", 1).await?;
        Ok(())
    })
    .await
}
