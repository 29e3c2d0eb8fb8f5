//! What is withdrawn from a plugin holds at once, whatever is under way.

use anyhow::ensure;
use dask_wasm_operator_test_integration::proxy::{Failure, Proxy};
use dask_wasm_operator_test_support::{
    endpoints::{free_port, get},
    wait_for,
};
use serde_json::{Value, json};

use crate::{
    objects::{CONFIG_MAP, PLUGIN, TIMEOUT},
    stage::{Stage, on_stage},
};

/// Mounts a plugin whose write is on its way to an API server that takes none; then `withdraw` is patched into its DaskPlugin,
/// and the server takes writes again. The operator goes through the proxy as long as that lives.
async fn withdrawn_while_a_write_waits(stage: &mut Stage, spec: &Value, withdraw: &Value) -> anyhow::Result<Proxy> {
    let proxy = Proxy::start(&stage.kubeconfig).await?;
    stage.stop().await?;
    stage.kubeconfig = proxy.kubeconfig().clone();
    let port = free_port()?;
    stage.start_with(&["--admin-address", &format!("127.0.0.1:{port}")]).await?;
    let metrics = async || anyhow::Ok(get(port, "/metrics").await?.1);
    let mut spec = spec.clone();
    spec["config"] = json!({"do": "Mirror"});
    stage.mount("mirror", super::mounting::odd()?, &spec).await?;
    stage.until_ready("mirror").await?;

    proxy.fail(usize::MAX, Failure::Unavailable);
    stage.subject("subject", &json!({"key": "value"})).await?;
    // That is its write: nothing else is to be written before that is answered.
    wait_for("a write of the plugin", TIMEOUT, async || Ok((proxy.failed() > 0).then_some(()))).await?;
    stage.merge(PLUGIN, "mirror", withdraw).await?;
    wait_for("the write to be given up", TIMEOUT, async || {
        let withdrawn = "result=\"Withdrawn\"";
        Ok(metrics().await?.lines().any(|line| line.contains(withdrawn)).then_some(()))
    })
    .await?;
    proxy.fail(0, Failure::Unavailable);
    Ok(proxy)
}

#[tokio::test]
async fn a_plugin_that_is_suspended_writes_nothing_more() -> anyhow::Result<()> {
    on_stage(async |stage| {
        let suspended = json!({"spec": {"suspend": true}});
        let _proxy = withdrawn_while_a_write_waits(stage, &json!({}), &suspended).await?;
        stage.until_state("mirror", "Suspended", "Suspended").await?;
        ensure!(stage.find(CONFIG_MAP, "subject-key").await?.is_none(), "it was written all the same");
        // And when it goes on, it does what it left.
        stage.merge(PLUGIN, "mirror", &json!({"spec": {"suspend": false}})).await?;
        stage.until_there(CONFIG_MAP, "subject-key").await?;
        Ok(())
    })
    .await
}

#[tokio::test]
async fn a_plugin_writes_nothing_more_in_a_namespace_that_is_taken_from_it() -> anyhow::Result<()> {
    on_stage(async |stage| {
        let own = json!({"namespaces": {"names": [stage.namespace]}});
        let elsewhere = json!({"spec": {"namespaces": {"names": ["elsewhere"]}}});
        let _proxy = withdrawn_while_a_write_waits(stage, &own, &elsewhere).await?;
        stage.until_ready("mirror").await?;
        ensure!(stage.find(CONFIG_MAP, "subject-key").await?.is_none(), "it was written all the same");
        Ok(())
    })
    .await
}
