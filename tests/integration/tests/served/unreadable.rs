//! Objects that the API server takes and the operator can't read as a whole: they are told of, and keep what they have; all
//! others are served.

use anyhow::{Context, ensure};
use dask_wasm_operator_test_support::wait_for;
use http::{Method, Request};
use serde_json::{Value, json};

use crate::{
    manifests,
    objects::{CLUSTER, CONFIG_MAP, DEPLOYMENT, Kind, Objects, PLUGIN, SERVICE, TIMEOUT, text, uid},
    stage::{Stage, on_stage},
};

/// Maps within maps.
pub(crate) fn nested(levels: usize) -> Value {
    (0..levels).fold(json!("the bottom"), |inner, _| json!({ "a": inner }))
}

fn deep_cluster(name: &str, levels: usize) -> Value {
    let mut cluster = manifests::cluster(name, 1);
    cluster["spec"]["worker"]["spec"]["deep"] = nested(levels);
    cluster
}

/// What it takes to look at an object that this program can't decode either.
pub(crate) async fn raw(
    objects: &Objects,
    method: Method,
    kind: Kind<'_>,
    name: &str,
    body: &Value,
) -> anyhow::Result<String> {
    let resource = kind.resource();
    let mut path = format!("/apis/{}/namespaces/{}/{}", resource.api_version, objects.namespace, resource.plural);
    if method != Method::POST {
        path = format!("{path}/{name}");
    }
    let request = Request::builder().method(method).uri(path).header("Content-Type", "application/json");
    Ok(objects.client.request_text(request.body(body.to_string().into_bytes())?).await?)
}

/// The identities of all that was made for a cluster.
async fn parts(objects: &Objects, cluster: &str) -> anyhow::Result<Vec<(String, String)>> {
    let mut parts = Vec::new();
    for kind in [DEPLOYMENT, SERVICE] {
        let of_cluster = objects.list(kind, &format!("dask.org/cluster-name={cluster}")).await?;
        parts.extend(of_cluster.iter().map(|part| (text(part, "/metadata/name").to_owned(), uid(part).to_owned())));
    }
    ensure!(parts.len() >= 3, "{parts:?}");
    Ok(parts)
}

async fn until_invalid(objects: &Objects, name: &str) -> anyhow::Result<()> {
    wait_for(&format!("DaskCluster {name} to be InvalidSpec"), TIMEOUT, async || {
        let text = raw(objects, Method::GET, CLUSTER, name, &Value::Null).await?;
        let told = text.contains(r#""phase":"Error""#) && text.contains(r#""reason":"InvalidSpec""#);
        Ok((told && text.contains("nests deeper than 100 levels here; correct this field")).then_some(()))
    })
    .await
}

#[tokio::test]
async fn fault_01_a_cluster_that_nests_too_deep_blinds_nobody() -> anyhow::Result<()> {
    on_stage(async |stage| {
        stage.running_cluster("before", 1).await?;
        // As many as are read by others, and more than anybody reads.
        for (name, levels) in [("deep", 110), ("deeper", 500)] {
            raw(stage, Method::POST, CLUSTER, name, &deep_cluster(name, levels)).await?;
            until_invalid(stage, name).await?;
        }
        let message = stage.until_condition(CLUSTER, "deep", ["Degraded", "True", "InvalidSpec"]).await?;
        ensure!(message.contains("DaskCluster deep: spec.worker.spec.deep.a.a"), "{message}");
        stage.until_event(CLUSTER, "deep", "InvalidSpec").await?;
        stage.running_cluster("after", 2).await?;
        let log = stage.operator.log();
        ensure!(log.lines().any(|line| line.contains("n't be read as a whole") && line.contains("/deep")), "{log}");
        assert_eq!(log.matches("misses events").count(), 0, "{log}");

        // The same at a list.
        stage.stop().await?;
        stage.start().await?;
        stage.running_cluster("later", 1).await?;
        until_invalid(stage, "deeper").await?;
        ensure!(stage.find(DEPLOYMENT, "deep-scheduler").await?.is_none(), "nothing is made of it");

        for name in ["deep", "deeper"] {
            raw(stage, Method::DELETE, CLUSTER, name, &json!({})).await?;
        }
        stage.running_cluster("deep", 1).await?;
        Ok(())
    })
    .await
}

#[tokio::test]
async fn fault_01_a_cluster_that_becomes_unreadable_keeps_what_it_has() -> anyhow::Result<()> {
    on_stage(async |stage| {
        stage.running_cluster("simple", 2).await?;
        let before = parts(stage, "simple").await?;
        let deep = json!({"spec": {"worker": {"spec": {"deep": nested(105)}}}});
        stage.merge(CLUSTER, "simple", &deep).await?;
        until_invalid(stage, "simple").await?;
        stage.stop().await?;
        stage.start().await?;
        stage.running_cluster("other", 1).await?;
        until_invalid(stage, "simple").await?;
        assert_eq!(parts(stage, "simple").await?, before);
        stage.merge(CLUSTER, "simple", &json!({"spec": {"worker": {"spec": {"deep": null}}}})).await?;
        stage.until_running("simple", 2).await?;
        assert_eq!(parts(stage, "simple").await?, before);
        Ok(())
    })
    .await
}

#[tokio::test]
async fn fault_01_a_plugin_that_becomes_unreadable_stays_mounted_and_keeps_its_children() -> anyhow::Result<()> {
    on_stage(async |stage| {
        stage.mount_odd("mirror", "Mirror").await?;
        stage.the_mirror_works("first").await?;
        let child = stage.get(CONFIG_MAP, "first-still").await?;
        stage.merge(PLUGIN, "mirror", &json!({"spec": {"config": {"deep": nested(105)}}})).await?;
        let message = stage.until_state("mirror", "Failed", "InvalidSpec").await?;
        ensure!(message.contains("spec.config.deep.a"), "{message}");
        stage.the_mirror_works("second").await?;
        // Without what was mounted: what it has made stays, too.
        stage.stop().await?;
        stage.start().await?;
        stage.until_state("mirror", "Failed", "InvalidSpec").await?;
        stage.running_cluster("simple", 1).await?;
        still_there(stage, &child).await?;
        stage.merge(PLUGIN, "mirror", &json!({"spec": {"config": {"deep": null}}})).await?;
        stage.until_ready("mirror").await?;
        stage.the_mirror_works("third").await?;
        still_there(stage, &child).await
    })
    .await
}

async fn still_there(stage: &Stage, child: &Value) -> anyhow::Result<()> {
    let now = stage.get(CONFIG_MAP, "first-still").await.context("the child is gone")?;
    assert_eq!(uid(&now), uid(child));
    Ok(())
}
