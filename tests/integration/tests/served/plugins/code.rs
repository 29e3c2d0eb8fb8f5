//! The code of plugins: replaced, broken, promised by digest, described.

use anyhow::ensure;
use dask_wasm_operator_test_support::sha256;
use odd_guest::Description;
use serde_json::{Value, json};

use super::mounting::{code, odd, odd_that_says, plugin};
use crate::{
    objects::{CONFIG_MAP, PLUGIN, condition, text},
    stage::{on_stage, on_stage_with},
};

#[tokio::test]
async fn code_can_come_after_its_plugin_and_be_replaced() -> anyhow::Result<()> {
    on_stage(async |stage| {
        stage.create(&plugin("mirror", &json!({"config": {"do": "Mirror"}}))).await?;
        let message = stage.until_state("mirror", "Failed", "ConfigMapNotFound").await?;
        ensure!(message.contains("create it: kubectl create configmap mirror"), "{message}");

        stage.create(&code("mirror", odd()?)).await?;
        let served = stage.until_served_by("mirror", odd()?).await?;
        assert_eq!(served["status"]["version"], "1.0");
        assert_eq!(served["status"]["handlers"][0]["name"], "odd");

        let newer = odd_that_says(Description::Newer)?;
        stage.replace_code("mirror", &newer).await?;
        let served = stage.until_served_by("mirror", &newer).await?;
        assert_eq!(served["status"]["version"], "2.0");
        stage.the_mirror_works("subject").await
    })
    .await
}

#[tokio::test]
async fn what_serves_goes_on_while_newer_code_is_broken() -> anyhow::Result<()> {
    on_stage(async |stage| {
        stage.mount_odd("mirror", "Mirror").await?;
        for (broken, reason) in [
            (b"<html>404</html>".to_vec(), "NotWasm"),
            (odd()?[..odd()?.len() / 2].to_vec(), "Malformed"),
            (odd_that_says(Description::Panic)?, "Trap"),
            (odd_that_says(Description::Twice)?, "ManifestInvalid"),
        ] {
            stage.replace_code("mirror", &broken).await?;
            let digest = sha256(&broken);
            let failed = stage
                .until(PLUGIN, "mirror", &format!("Failed ({reason}) with {digest} pending"), |plugin| {
                    let status = &plugin["status"];
                    status["state"] == "Failed" && status["reason"] == reason && status["pendingDigest"] == digest
                })
                .await?;
            assert_eq!(failed["status"]["digest"], sha256(odd()?), "{reason}");
            assert_eq!(condition(&failed, "Ready")["status"], "False", "{reason}");
            stage.the_mirror_works(&format!("beside-{}", reason.to_lowercase())).await?;
        }
        stage.replace_code("mirror", odd()?).await?;
        let served = stage.until_served_by("mirror", odd()?).await?;
        assert_eq!(served["status"]["pendingDigest"], Value::Null);
        Ok(())
    })
    .await
}

#[tokio::test]
async fn code_must_have_the_digest_that_was_promised() -> anyhow::Result<()> {
    on_stage(async |stage| {
        let spec = json!({"config": {"do": "Mirror"}, "source": {"sha256": sha256(odd()?)}});
        stage.mount("mirror", odd()?, &spec).await?;
        stage.until_served_by("mirror", odd()?).await?;

        let newer = odd_that_says(Description::Newer)?;
        stage.replace_code("mirror", &newer).await?;
        let message = stage.until_state("mirror", "Failed", "DigestMismatch").await?;
        ensure!(message.contains(&sha256(&newer)) && message.contains(&sha256(odd()?)), "{message}");
        stage.the_mirror_works("meanwhile").await?;

        stage.merge(PLUGIN, "mirror", &json!({"spec": {"source": {"sha256": sha256(&newer)}}})).await?;
        stage.until_served_by("mirror", &newer).await?;
        Ok(())
    })
    .await
}

#[tokio::test]
async fn grants_beyond_the_default_need_a_digest() -> anyhow::Result<()> {
    on_stage(async |stage| {
        let spec = json!({"config": {"do": "Mirror"}, "grants": {"create": [{"group": "batch", "kind": "Job"}]}});
        stage.mount("mirror", odd()?, &spec).await?;
        let message = stage.until_state("mirror", "Failed", "DigestRequired").await?;
        ensure!(message.contains("spec.source.sha256") && message.contains(&sha256(odd()?)), "{message}");
        stage.merge(PLUGIN, "mirror", &json!({"spec": {"source": {"sha256": sha256(odd()?)}}})).await?;
        // A grant gives the operator itself no right, which is for its role to do.
        let message = stage.until_state("mirror", "Failed", "Forbidden").await?;
        ensure!(message.contains("a permission to list or watch is missing: jobs.batch is forbidden"), "{message}");

        stage
            .merge(
                PLUGIN,
                "mirror",
                &json!({"spec": {"grants": {"create": [{"group": "apps", "kind": "Deployment"}]}}}),
            )
            .await?;
        stage.until_served_by("mirror", odd()?).await?;
        stage.the_mirror_works("subject").await
    })
    .await
}

#[tokio::test]
async fn grants_of_a_newer_specification_are_not_for_the_code_that_still_serves() -> anyhow::Result<()> {
    on_stage(async |stage| {
        stage.mount_odd("told", "Told").await?;
        // With the grant alone, the code of the ConfigMap would be given it unseen.
        stage
            .merge(PLUGIN, "told", &json!({"spec": {"grants": {"create": [{"group": "batch", "kind": "Job"}]}}}))
            .await?;
        stage.until_state("told", "Failed", "DigestRequired").await?;
        stage.subject("eager", &json!({"do": "Ungranted"})).await?;
        let message = stage.until_condition(PLUGIN, "told", ["Degraded", "True", "AnswerRefused"]).await?;
        ensure!(message.contains("Job.batch is not granted"), "{message}");
        Ok(())
    })
    .await
}

#[tokio::test]
async fn what_is_not_served_yet_is_named_and_the_rest_goes_on() -> anyhow::Result<()> {
    on_stage(async |stage| {
        let unserved = odd_that_says(Description::Unserved)?;
        stage.mount("mirror", &unserved, &json!({"config": {"do": "Mirror"}})).await?;
        let message = stage.until_condition(PLUGIN, "mirror", ["HandlersServed", "False", "NotServedYet"]).await?;
        ensure!(message.contains("2 of 3 handlers are not served"), "{message}");
        let plugin = stage.until_ready("mirror").await?;
        let handlers = plugin["status"]["handlers"].as_array().into_iter().flatten();
        let handlers: Vec<_> =
            handlers.map(|handler| ["/name", "/state", "/message"].map(|part| text(handler, part))).collect();
        let served = "this version of the operator does not serve";
        assert_eq!(
            handlers,
            [
                ["odd", "Served", ""],
                ["late", "NotServed", &format!("{served}: trigger updated")],
                ["choosy", "NotServed", &format!("{served}: field conditions")],
            ]
        );
        stage.the_mirror_works("subject").await
    })
    .await
}

#[tokio::test]
async fn fields_of_the_specification_that_are_not_served_yet_are_named() -> anyhow::Result<()> {
    on_stage(async |stage| {
        let grants = json!({"read": [{"kind": "Pod"}], "patch": [{"kind": "Pod", "fields": ["spec"], "merge": true}]});
        let spec = json!({
            "config": {"do": "Mirror"}, "mode": "shadow", "grants": grants,
        });
        stage.mount("careful", odd()?, &spec).await?;
        let message = stage.until_state("careful", "NotServed", "NotServedYet").await?;
        let unserved = "spec.mode: shadow, spec.grants.read, spec.grants.patch[].merge";
        ensure!(message.contains(unserved), "{message}");
        let served = json!({"spec": {"mode": null, "grants": null}});
        stage.merge(PLUGIN, "careful", &served).await?;
        stage.until_ready("careful").await?;
        Ok(())
    })
    .await
}

#[tokio::test]
async fn no_plugin_is_loaded_when_they_are_disabled() -> anyhow::Result<()> {
    on_stage_with(&json!({}), &["--disable-plugins"], async |stage| {
        stage.mount("mirror", odd()?, &json!({"config": {"do": "Mirror"}})).await?;
        stage.subject("subject", &json!({"key": "value"})).await?;
        stage.running_cluster("simple", 1).await?;
        assert_eq!(stage.get(PLUGIN, "mirror").await?["status"], Value::Null);
        assert_eq!(stage.find(CONFIG_MAP, "subject-key").await?, None);
        // What would otherwise have happened, happens without the flag.
        stage.stop().await?;
        stage.start_with(&[]).await?;
        stage.until_there(CONFIG_MAP, "subject-key").await?;
        Ok(())
    })
    .await
}
