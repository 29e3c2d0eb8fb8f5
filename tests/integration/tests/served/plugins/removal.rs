//! The end of plugins, and of what they may do.

use anyhow::ensure;
use dask_wasm_operator_test_support::sha256;
use serde_json::json;

use super::mounting::{code, odd, plugin};
use crate::{
    objects::{CONFIG_MAP, Kind, PLUGIN, uid},
    stage::{on_stage, on_stage_with},
};

const JOB: Kind<'_> = Kind("batch/v1", "Job");

#[tokio::test]
async fn one_that_was_never_mounted_in_this_process_takes_its_children_along_too() -> anyhow::Result<()> {
    on_stage(async |stage| {
        stage.mount_odd("mirror", "Mirror").await?;
        stage.subject("subject", &json!({"key": "value"})).await?;
        let child = stage.until_there(CONFIG_MAP, "subject-key").await?;
        // It has the labels of a child, and is none.
        let stranger = json!({
            "apiVersion": "v1", "kind": "ConfigMap",
            "metadata": {"name": "stranger", "labels": child["metadata"]["labels"],
                "ownerReferences": child["metadata"]["ownerReferences"]},
        });
        stage.create(&stranger).await?;
        stage.stop().await?;
        stage.merge(PLUGIN, "mirror", &json!({"spec": {"suspend": true}})).await?;
        stage.start().await?;
        stage.until_state("mirror", "Suspended", "Suspended").await?;
        stage.get(CONFIG_MAP, "subject-key").await?;

        stage.delete(PLUGIN, "mirror").await?;
        stage.until_gone(CONFIG_MAP, "subject-key").await?;
        stage.get(CONFIG_MAP, "stranger").await?;
        stage.get(CONFIG_MAP, "subject").await?;
        Ok(())
    })
    .await
}

#[tokio::test]
async fn a_suspended_plugin_withdraws_its_patches_when_it_goes() -> anyhow::Result<()> {
    on_stage(async |stage| {
        let patch = json!({"kind": "ConfigMap", "fields": ["metadata.annotations"]});
        let spec = json!({
            "config": {"do": "Told"}, "grants": {"patch": [patch]}, "source": {"sha256": sha256(odd()?)},
        });
        stage.mount("told", odd()?, &spec).await?;
        stage.until_ready("told").await?;
        // Each answer changes what it was asked about.
        let subject = stage.subject("subject", &json!({"do": "Flip"})).await?;
        let is_patched = |subject: &serde_json::Value| subject["metadata"]["annotations"]["side"].is_string();
        stage.until(CONFIG_MAP, "subject", "patched", is_patched).await?;
        stage.merge(PLUGIN, "told", &json!({"spec": {"suspend": true}})).await?;
        stage.until_state("told", "Suspended", "Suspended").await?;

        stage.delete(PLUGIN, "told").await?;
        let is_free = |subject: &serde_json::Value| subject["metadata"]["annotations"]["side"].is_null();
        let freed = stage.until(CONFIG_MAP, "subject", "without the patch", is_free).await?;
        assert_eq!((uid(&freed), &freed["data"]), (uid(&subject), &subject["data"]));
        Ok(())
    })
    .await
}

#[tokio::test]
async fn a_plugin_that_comes_back_has_its_children() -> anyhow::Result<()> {
    on_stage(async |stage| {
        stage.mount_odd("mirror", "Mirror").await?;
        stage.subject("subject", &json!({"key": "value"})).await?;
        stage.until_there(CONFIG_MAP, "subject-key").await?;
        for round in ["first", "second", "third"] {
            stage.delete(PLUGIN, "mirror").await?;
            stage.create(&plugin("mirror", &json!({"config": {"do": "Mirror"}}))).await?;
            stage.until_ready("mirror").await?;
            stage.the_mirror_works(round).await?;
            stage
                .until(PLUGIN, "mirror", "with all its children", |plugin| {
                    plugin["status"]["counts"]["children"].as_u64() >= Some(2)
                })
                .await?;
            stage.until_there(CONFIG_MAP, "subject-key").await?;
        }
        // Whatever was about to be removed meanwhile is not any more.
        stage.delete(CONFIG_MAP, "subject-key").await?;
        stage.until_there(CONFIG_MAP, "subject-key").await?;
        Ok(())
    })
    .await
}

#[tokio::test]
async fn what_is_revoked_is_not_granted_although_the_newer_code_can_not_be_had() -> anyhow::Result<()> {
    let values = json!({"plugins": [{
        "name": "told",
        "source": {"configMap": {"name": "told", "keys": ["told.wasm"]}, "sha256": sha256(odd()?)},
        "config": {"do": "Told"},
        "grants": {"create": [{"group": "batch", "kind": "Job"}]},
    }]});
    on_stage_with(&values, &[], async |stage| {
        stage.create(&code("told", odd()?)).await?;
        stage.until_ready("told").await?;
        stage.subject("granted", &json!({"do": "Ungranted"})).await?;
        stage.until_there(JOB, "granted").await?;

        stage.delete(CONFIG_MAP, "told").await?;
        stage.until_state("told", "Failed", "ConfigMapNotFound").await?;
        stage.merge(PLUGIN, "told", &json!({"spec": {"grants": {"create": []}}})).await?;
        stage
            .until(PLUGIN, "told", "looked at", |plugin| {
                plugin["status"]["observedGeneration"] == plugin["metadata"]["generation"]
            })
            .await?;
        stage.subject("eager", &json!({"do": "Ungranted"})).await?;
        let message = stage.until_condition(PLUGIN, "told", ["Degraded", "True", "AnswerRefused"]).await?;
        ensure!(message.contains("Job.batch is not granted"), "{message}");
        assert_eq!(stage.find(JOB, "eager").await?, None);
        // The former code goes on with what is left to it.
        stage.the_mirror_works("plain").await
    })
    .await
}
