//! Plugins that fail, or answer what they may not.

use anyhow::{Context, ensure};
use serde_json::{Value, json};
use tokio::time::timeout;

use super::SOON;
use crate::{
    objects::{CONFIG_MAP, Kind, PLUGIN, text},
    stage::on_stage,
};

const QUOTA: Kind<'_> = Kind("v1", "ResourceQuota");

fn count(plugin: &Value, count: &str) -> u64 {
    plugin["status"]["counts"][count].as_u64().unwrap_or_default()
}

#[tokio::test]
async fn a_kind_that_is_not_granted_is_refused_by_name() -> anyhow::Result<()> {
    on_stage(async |stage| {
        stage.mount_odd("greedy", "Ungranted").await?;
        stage.mount_odd("mirror", "Mirror").await?;
        stage.subject("subject", &json!({"key": "value"})).await?;
        let message = stage.until_condition(PLUGIN, "greedy", ["Degraded", "True", "AnswerRefused"]).await?;
        ensure!(message.contains("ConfigMap") && message.contains("subject"), "{message}");
        ensure!(
            message.contains(r#"Job.batch is not granted; an administrator adds {group: "batch", kind: Job}"#),
            "{message}"
        );
        let note = stage.until_event(CONFIG_MAP, "subject", "AnswerRefused").await?;
        ensure!(note.contains("greedy/odd") && note.contains("Job.batch"), "{note}");
        assert_eq!(stage.list(Kind("batch/v1", "Job"), "").await?, Vec::<Value>::new());
        stage.until_there(CONFIG_MAP, "subject-key").await?;
        Ok(())
    })
    .await
}

#[tokio::test]
async fn all_problems_of_an_answer_are_told_on_the_object_and_on_the_plugin() -> anyhow::Result<()> {
    on_stage(async |stage| {
        let child = |key: &str, api_version: &str, kind: &str, metadata: Value| json!({"key": key, "object": {"apiVersion": api_version, "kind": kind, "metadata": metadata}});
        let children = [
            child("a", "v1", "ConfigMap", json!({"name": "x", "namespace": "kube-system"})),
            child("c", "v1", "Secret", json!({"name": "x"})),
            child("e", "example.org/v1", "Thing", json!({"name": "x"})),
        ];
        stage.mount_puppet("puppet", &json!({"children": children}), &json!({})).await?;
        stage.subject("subject", &json!({"key": "value"})).await?;
        let note = stage.until_event(CONFIG_MAP, "subject", "AnswerRefused").await?;
        let refused = |told: &Value| told["status"]["lastError"]["reason"] == "AnswerRefused";
        let plugin = stage.until(PLUGIN, "puppet", "refused", refused).await?;
        let told = text(&plugin, "/status/lastError/message");
        for (key, words) in [("a", "metadata.namespace"), ("c", "Secret"), ("e", "Thing.example.org")] {
            let problem = format!("child {key}: ");
            ensure!(note.contains(&problem) && note.contains(words), "{note}");
            ensure!(told.contains(&problem) && told.contains(words), "{told}");
        }
        Ok(())
    })
    .await
}

#[tokio::test]
async fn a_temporary_failure_is_tried_again_and_a_permanent_one_waits_for_a_change() -> anyhow::Result<()> {
    on_stage(async |stage| {
        stage.mount_odd("told", "Told").await?;
        stage.subject("flaky", &json!({"do": "Flaky", "key": "value"})).await?;
        stage.until_there(CONFIG_MAP, "flaky-key").await?;
        let told = stage.until(PLUGIN, "told", "called three times", |told| count(told, "calls") == 3).await?;
        assert_eq!(count(&told, "failures"), 2);
        assert_eq!(told["status"]["lastError"]["reason"], "TemporaryFailure");
        assert_eq!(told["status"]["lastError"]["message"], "told/odd: “attempt 1 fails on purpose”");

        stage.subject("never", &json!({"do": "Permanent", "key": "value"})).await?;
        let told = stage.until(PLUGIN, "told", "given up on one", |told| count(told, "parked") == 1).await?;
        assert_eq!((count(&told, "calls"), count(&told, "failures")), (4, 3));
        let note = stage.until_event(CONFIG_MAP, "never", "PermanentFailure").await?;
        ensure!(note.contains("told/odd: “never”; tried again when the object itself changes, and in "), "{note}");
        // Another subject is served meanwhile.
        stage.subject("well", &json!({"key": "value"})).await?;
        stage.until_there(CONFIG_MAP, "well-key").await?;
        let told = stage.until(PLUGIN, "told", "called for the other", |told| count(told, "calls") >= 5).await?;
        assert_eq!(count(&told, "parked"), 1);

        stage.merge(CONFIG_MAP, "never", &json!({"data": {"do": null}})).await?;
        stage.until_there(CONFIG_MAP, "never-key").await?;
        stage.until(PLUGIN, "told", "well again", |told| count(told, "parked") == 0).await?;
        stage.until_condition(PLUGIN, "told", ["Degraded", "False", "AsWanted"]).await?;
        Ok(())
    })
    .await
}

#[tokio::test]
async fn who_waits_for_a_quota_is_tried_again_when_it_is_raised() -> anyhow::Result<()> {
    on_stage(async |stage| {
        stage.mount_odd("mirror", "Mirror").await?;
        stage
            .create(&json!({
                "apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": "full"},
                "spec": {"hard": {"count/configmaps": "5"}},
            }))
            .await?;
        let counted = |quota: &Value| quota["status"]["used"]["count/configmaps"].is_string();
        let quota = stage.until(QUOTA, "full", "in force", counted).await?;
        let used: u32 = text(&quota, "/status/used/count~1configmaps").parse()?;
        let hard = json!({"spec": {"hard": {"count/configmaps": (used + 1).to_string()}}});
        stage.merge(QUOTA, "full", &hard).await?;
        let raised = |quota: &Value| text(quota, "/status/hard/count~1configmaps") == (used + 1).to_string();
        stage.until(QUOTA, "full", "raised by one", raised).await?;

        stage.subject("subject", &json!({"key": "value"})).await?;
        let mirror = stage.until(PLUGIN, "mirror", "given up on one", |mirror| count(mirror, "parked") == 1).await?;
        ensure!(count(&mirror, "failures") >= 8, "{mirror}");
        let message = stage.until_condition(PLUGIN, "mirror", ["Degraded", "True", "Forbidden"]).await?;
        ensure!(message.contains("given up on 1 subjects") && message.contains("exceeded quota: full"), "{message}");
        let note = stage.until_event(CONFIG_MAP, "subject", "Forbidden").await?;
        ensure!(note.contains("tried again when ResourceQuota") && note.contains("full changes or is gone"), "{note}");

        let raised = json!({"spec": {"hard": {"count/configmaps": "100"}}});
        stage.merge(QUOTA, "full", &raised).await?;
        timeout(SOON, stage.until_there(CONFIG_MAP, "subject-key")).await.context("it is not made soon")??;
        stage.until_condition(PLUGIN, "mirror", ["Degraded", "False", "AsWanted"]).await?;
        Ok(())
    })
    .await
}

#[tokio::test]
async fn a_subject_that_is_given_up_is_tried_again_on_request() -> anyhow::Result<()> {
    on_stage(async |stage| {
        stage.mount_odd("told", "Told").await?;
        stage.subject("never", &json!({"do": "Permanent"})).await?;
        stage.until(PLUGIN, "told", "given up on one", |told| count(told, "parked") == 1).await?;
        let retry = json!({"metadata": {"annotations": {"plugins.dask.org/retry": "told"}}});
        stage.merge(CONFIG_MAP, "never", &retry).await?;
        stage.until(PLUGIN, "told", "called once more", |told| count(told, "calls") >= 2).await?;
        Ok(())
    })
    .await
}

/// The object is nobody's whom the operator watches: it has none of its labels.
#[tokio::test]
async fn a_child_is_made_when_the_object_that_had_its_name_is_gone() -> anyhow::Result<()> {
    on_stage(async |stage| {
        stage.mount_odd("mirror", "Mirror").await?;
        let foreign = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "subject-key"},
            "data": {"value": "another"}});
        let foreign = stage.create(&foreign).await?;
        stage.subject("subject", &json!({"key": "value"})).await?;
        stage.until(PLUGIN, "mirror", "given up on one", |mirror| count(mirror, "parked") == 1).await?;
        let note = stage.until_event(CONFIG_MAP, "subject", "ForeignObject").await?;
        ensure!(note.contains("subject-key changes or is gone"), "{note}");
        assert_eq!(stage.get(CONFIG_MAP, "subject-key").await?["metadata"], foreign["metadata"]);
        stage.delete(CONFIG_MAP, "subject-key").await?;
        let child = timeout(SOON, stage.until_new(CONFIG_MAP, "subject-key", &foreign)).await;
        let child = child.context("it is not made soon")??;
        assert_eq!(child["data"], json!({"value": "value"}));
        stage.until_condition(PLUGIN, "mirror", ["Degraded", "False", "AsWanted"]).await?;
        Ok(())
    })
    .await
}
