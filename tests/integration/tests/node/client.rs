//! The unchanged Python client: `dask_kubernetes.operator.KubeCluster`, and the command line of dask-kubernetes.

use anyhow::ensure;
use dask_wasm_operator_test_integration::objects::{CLUSTER, GROUP, POD, text};
use dask_wasm_operator_test_support::{dask_image, wait_for};
use serde_json::Value;

use crate::site::{PATIENCE, on_node, rounds};

/// The last release with the commands that the client calls by default.
const IMAGE: &str = "2026.3.0";

#[tokio::test]
#[ignore = "builds and starts a node: cargo xtask test --full"]
async fn kube_cluster_creates_scales_adapts_and_closes() -> anyhow::Result<()> {
    on_node(async |site| {
        site.python(include_str!("synchronous.py"), &[&dask_image(IMAGE)]).await?;
        ensure!(site.objects.list(CLUSTER, "").await?.is_empty(), "closing has deleted the DaskCluster");
        Ok(())
    })
    .await
}

#[tokio::test]
#[ignore = "builds and starts a node: cargo xtask test --full"]
async fn kube_cluster_works_asynchronously() -> anyhow::Result<()> {
    on_node(async |site| {
        site.python(include_str!("asynchronous.py"), &[&dask_image(IMAGE)]).await?;
        ensure!(site.objects.list(CLUSTER, "").await?.is_empty(), "closing has deleted the DaskCluster");
        Ok(())
    })
    .await
}

/// The Python operator fails at three of eight, by a race for the phase.
#[tokio::test]
#[ignore = "builds and starts a node: cargo xtask test --full"]
async fn fault_10_no_creation_fails() -> anyhow::Result<()> {
    let rounds = rounds(50)?;
    on_node(async |site| {
        let created = site.python(include_str!("creations.py"), &[&dask_image(IMAGE), &rounds.to_string()]).await?;
        println!("{created}");
        ensure!(created.lines().last() == Some(format!("{rounds} of {rounds}").as_str()), "{created}");
        Ok(())
    })
    .await
}

#[tokio::test]
#[ignore = "builds and starts a node: cargo xtask test --full"]
async fn what_the_command_line_generates_runs() -> anyhow::Result<()> {
    on_node(async |site| {
        let image = dask_image(IMAGE);
        let cluster = ["kubernetes", "gen", "cluster", "--name", "generated", "--image", &image, "--n-workers", "1"];
        let generated = site.program("dask", &cluster).await?;
        site.objects.create(&serde_saphyr::from_str(&generated)?).await?;
        wait_for("all of it to be ready", PATIENCE, async || {
            let pods = site.objects.list(POD, "dask.org/cluster-name=generated").await?;
            let ready = |pod: &&Value| {
                let conditions = pod["status"]["conditions"].as_array();
                conditions
                    .into_iter()
                    .flatten()
                    .any(|condition| condition["type"] == "Ready" && condition["status"] == "True")
            };
            Ok((pods.iter().filter(ready).count() == 2).then_some(()))
        })
        .await?;
        let cluster = site.objects.until_running("generated", 1).await?;
        ensure!(text(&cluster, "/status/phase") == "Running", "{cluster:#}");
        site.objects.delete(CLUSTER, "generated").await?;
        site.objects.until_gone(GROUP, "generated-default").await
    })
    .await
}
