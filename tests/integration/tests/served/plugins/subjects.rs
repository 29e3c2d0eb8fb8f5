//! What handlers learn of their subjects, and do to them.

use anyhow::ensure;
use dask_wasm_operator_test_support::sha256;
use odd_guest::Description;
use serde_json::{Value, json};

use super::mounting::{odd, odd_that_says};
use crate::{
    objects::{CONFIG_MAP, PLUGIN, text},
    stage::{Stage, on_stage},
};

/// Waits until the operator has logged what the guest was told of.
async fn until_told(stage: &Stage, what: &str) -> anyhow::Result<()> {
    stage.until(PLUGIN, "edges", &format!("told: {what}"), |_| stage.operator.log().contains(what)).await?;
    Ok(())
}

#[tokio::test]
async fn beginnings_are_told_again_after_a_restart_and_ends_of_what_is_gone_only() -> anyhow::Result<()> {
    on_stage(async |stage| {
        let edges = odd_that_says(Description::Edges)?;
        stage.mount("edges", &edges, &json!({"config": {"do": "Mirror"}})).await?;
        for subject in ["staying", "leaving"] {
            stage.subject(subject, &json!({"key": "value"})).await?;
            until_told(stage, &format!("{subject}: created.")).await?;
        }
        stage.stop().await?;
        ensure!(!stage.operator.log().contains("again."), "told again before there was a restart");
        stage.start().await?;
        until_told(stage, "staying: created, again.").await?;
        until_told(stage, "leaving: created, again.").await?;

        stage.merge(CONFIG_MAP, "leaving", &json!({"metadata": {"labels": null}})).await?;
        stage.until_gone(CONFIG_MAP, "leaving-key").await?;
        stage.delete(CONFIG_MAP, "staying").await?;
        until_told(stage, "staying: deleted.").await?;
        stage.delete(CONFIG_MAP, "leaving").await?;
        stage.subject("late", &json!({})).await?;
        until_told(stage, "late: created.").await?;
        ensure!(!stage.operator.log().contains("leaving: deleted."), "one that lost its label is not gone");
        Ok(())
    })
    .await
}

fn note(subject: &Value) -> &str {
    text(subject, "/metadata/annotations/note")
}

#[tokio::test]
async fn a_patch_of_a_subject_is_kept_and_withdrawn() -> anyhow::Result<()> {
    on_stage(async |stage| {
        let grants = json!({"patch": [{"kind": "ConfigMap", "fields": ["metadata.annotations"]}]});
        let spec = json!({
            "config": {"do": "Note"}, "grants": grants, "source": {"sha256": sha256(odd()?)}, "onConflict": "take",
        });
        stage.mount("noting", odd()?, &spec).await?;
        stage.subject("subject", &json!({"note": "one"})).await?;
        stage.until(CONFIG_MAP, "subject", "noted", |subject| note(subject) == "one").await?;
        for change in [json!("edited"), Value::Null] {
            stage.merge(CONFIG_MAP, "subject", &json!({"metadata": {"annotations": {"note": change}}})).await?;
            stage.until(CONFIG_MAP, "subject", "noted again", |subject| note(subject) == "one").await?;
        }
        stage.merge(CONFIG_MAP, "subject", &json!({"data": {"note": null}})).await?;
        stage.until(CONFIG_MAP, "subject", "without note", |subject| note(subject).is_empty()).await?;

        stage.merge(CONFIG_MAP, "subject", &json!({"data": {"note": "two"}})).await?;
        stage.until(CONFIG_MAP, "subject", "noted", |subject| note(subject) == "two").await?;
        // What is no subject any more keeps nothing of the plugin.
        stage.merge(CONFIG_MAP, "subject", &json!({"metadata": {"labels": null}})).await?;
        stage.until(CONFIG_MAP, "subject", "without note", |subject| note(subject).is_empty()).await?;
        Ok(())
    })
    .await
}

#[tokio::test]
async fn a_patch_that_is_not_granted_is_refused_with_the_remedy() -> anyhow::Result<()> {
    on_stage(async |stage| {
        stage.mount_odd("noting", "Note").await?;
        let plugin = stage.until_ready("noting").await?;
        let message = text(&plugin, "/status/message");
        let ungranted = "asked for and not granted: create Job.batch, patch metadata.annotations of ConfigMap";
        ensure!(message.contains(ungranted), "{message}");
        stage.subject("subject", &json!({"note": "one"})).await?;
        let message = stage.until_condition(PLUGIN, "noting", ["Degraded", "True", "AnswerRefused"]).await?;
        let remedy = r#"{group: "", kind: ConfigMap, fields: ['metadata.annotations.note']}"#;
        ensure!(message.contains(remedy), "{message}");
        assert_eq!(note(&stage.get(CONFIG_MAP, "subject").await?), "");
        Ok(())
    })
    .await
}
