//! Children of plugins: made, repaired, pruned.

use std::collections::BTreeMap;

use anyhow::ensure;
use serde_json::{Value, json};

use super::mounting::{odd, odd_that_says};
use crate::{
    objects::{CONFIG_MAP, PLUGIN, controller, text, uid},
    stage::{Stage, on_stage},
};
use odd_guest::Description;

/// Mounts the mirror and has it make two children of one subject.
async fn mirrored(stage: &Stage, spec: Value) -> anyhow::Result<Value> {
    let mut spec = spec;
    spec["config"] = json!("Mirror");
    stage.mount("mirror", odd()?, &spec).await?;
    let subject = stage.subject("pair", &json!({"left": "1", "right": "2"})).await?;
    for child in ["pair-left", "pair-right"] {
        stage.until_there(CONFIG_MAP, child).await?;
    }
    Ok(subject)
}

#[tokio::test]
async fn children_are_owned_labelled_repaired_and_pruned() -> anyhow::Result<()> {
    on_stage(async |stage| {
        let subject = mirrored(stage, json!({})).await?;
        let left = stage.get(CONFIG_MAP, "pair-left").await?;
        assert_eq!(controller(&left), uid(&subject));
        assert_eq!(
            left["metadata"]["labels"],
            json!({
                "plugins.dask.org/plugin": "mirror", "plugins.dask.org/handler": "odd",
                "plugins.dask.org/subject-uid": uid(&subject),
            })
        );
        assert_eq!(left["metadata"]["annotations"], json!({"plugins.dask.org/key": "left"}));
        let managers: Vec<_> = left["metadata"]["managedFields"].as_array().into_iter().flatten().map(|entry| text(entry, "/manager")).collect();
        assert_eq!(managers, ["dask-plugin/mirror/odd"]);

        // Drift: an edit, a label by which the child is watched, the child itself.
        let foreign = json!({"data": {"value": "edited", "more": "foreign"}});
        let edited = stage.api(CONFIG_MAP).patch(
            "pair-left",
            &kube::api::PatchParams::apply("dask-plugin/mirror/odd").force(),
            &kube::api::Patch::Apply(json!({"apiVersion": "v1", "kind": "ConfigMap", "data": {"more": "mine"}})),
        );
        drop(edited); // Nobody may write in the plugin's name.
        stage.merge(CONFIG_MAP, "pair-right", &foreign).await?;
        stage.until_condition(PLUGIN, "mirror", ["Degraded", "True", "FieldConflict"]).await?;
        stage.delete(CONFIG_MAP, "pair-left").await?;
        stage.until_new(CONFIG_MAP, "pair-left", &left).await?;
        Ok(())
    })
    .await
}

#[tokio::test]
async fn what_is_no_longer_wanted_goes() -> anyhow::Result<()> {
    on_stage(async |stage| {
        mirrored(stage, json!({})).await?;
        stage.merge(CONFIG_MAP, "pair", &json!({"data": {"left": null, "middle": "3"}})).await?;
        stage.until_there(CONFIG_MAP, "pair-middle").await?;
        stage.until_gone(CONFIG_MAP, "pair-left").await?;
        stage.get(CONFIG_MAP, "pair-right").await?;

        // Without its label the object is no subject of the plugin.
        stage.merge(CONFIG_MAP, "pair", &json!({"metadata": {"labels": null}})).await?;
        stage.until_gone(CONFIG_MAP, "pair-middle").await?;
        stage.until_gone(CONFIG_MAP, "pair-right").await?;
        stage.get(CONFIG_MAP, "pair").await?;
        stage.until(PLUGIN, "mirror", "without subject", |plugin| plugin["status"]["counts"]["subjects"] == 0).await?;
        Ok(())
    })
    .await
}

#[tokio::test]
async fn a_plugin_that_is_removed_takes_its_children_along() -> anyhow::Result<()> {
    on_stage(async |stage| {
        mirrored(stage, json!({})).await?;
        stage.delete(PLUGIN, "mirror").await?;
        stage.until_gone(CONFIG_MAP, "pair-left").await?;
        stage.until_gone(CONFIG_MAP, "pair-right").await?;
        stage.get(CONFIG_MAP, "pair").await?;
        Ok(())
    })
    .await
}

#[tokio::test]
async fn or_leaves_them_where_that_is_wanted() -> anyhow::Result<()> {
    on_stage(async |stage| {
        mirrored(stage, json!({"onRemoval": "leave"})).await?;
        let left = stage.get(CONFIG_MAP, "pair-left").await?;
        // The one that comes after it shows when it is gone for the operator.
        stage.delete(PLUGIN, "mirror").await?;
        stage.mount_odd("next", "Mirror").await?;
        stage.subject("other", &json!({"key": "value"})).await?;
        stage.until_there(CONFIG_MAP, "other-key").await?;
        let now = stage.get(CONFIG_MAP, "pair-left").await?;
        assert_eq!((uid(&now), &now["data"]), (uid(&left), &left["data"]));
        stage.get(CONFIG_MAP, "pair-right").await?;
        Ok(())
    })
    .await
}

#[tokio::test]
async fn suspended_plugins_are_not_called_and_keep_their_children() -> anyhow::Result<()> {
    on_stage(async |stage| {
        mirrored(stage, json!({})).await?;
        stage.merge(PLUGIN, "mirror", &json!({"spec": {"suspend": true}})).await?;
        stage.until_state("mirror", "Suspended", "Suspended").await?;
        stage.subject("late", &json!({"key": "value"})).await?;
        stage.mount_odd("other", "Mirror").await?;
        let late = stage.until_there(CONFIG_MAP, "late-key").await?;
        assert_eq!(late["metadata"]["labels"]["plugins.dask.org/plugin"], "other");
        stage.get(CONFIG_MAP, "pair-left").await?;
        Ok(())
    })
    .await
}

#[tokio::test]
async fn two_plugins_that_want_the_same_object_are_told_apart() -> anyhow::Result<()> {
    on_stage(async |stage| {
        let subject = mirrored(stage, json!({})).await?;
        stage.mount("second", &odd_that_says(Description::Newer)?, &json!({"config": "Mirror"})).await?;
        let second = stage
            .until(PLUGIN, "second", "failing", |plugin| plugin["status"]["lastError"].is_object())
            .await?;
        let error = &second["status"]["lastError"];
        let message = text(error, "/message");
        ensure!(message.contains("pair-left") || message.contains("pair-right"), "{error}");
        let left = stage.get(CONFIG_MAP, "pair-left").await?;
        assert_eq!((controller(&left), &left["metadata"]["labels"]["plugins.dask.org/plugin"]), (uid(&subject), &json!("mirror")));
        let _: BTreeMap<String, Value> = BTreeMap::new();
        Ok(())
    })
    .await
}
