//! The chart as helm installs it, its pod included.

use anyhow::Context;
use dask_wasm_operator_test_integration::{
    example, manifests,
    objects::{CLUSTER, DEPLOYMENT, Objects, POD, VIRTUAL_SERVICE, text},
};
use dask_wasm_operator_test_support::{
    NodeCluster, RELEASE, apply_crds, dask_image, install_chart, program, with_namespace,
};
use k8s_openapi::api::core::v1::Pod;
use kube::api::{Api, LogParams};
use serde_json::{Value, json};

const IMAGE: (&str, &str) = ("localhost/dask-wasm-operator", "test");

#[tokio::test]
#[ignore = "builds and starts a node: cargo xtask test --full"]
async fn the_pod_of_the_chart_starts_and_serves_a_cluster_and_a_plugin() -> anyhow::Result<()> {
    let Some(cluster) = NodeCluster::obtain(&dask_wasm_operator_api::crds()).await? else { return Ok(()) };
    let (name, tag) = IMAGE;
    if !cluster.load_program(&format!("{name}:{tag}"), &program()?).await? {
        return Ok(());
    }
    let client = cluster.client().await?;
    apply_crds(&client, &example::definitions()?).await?;
    with_namespace(&client, async |namespace| {
        let objects = Objects { client: client.clone(), namespace: namespace.to_owned() };
        // The defaults of everything else; other tests have operators of their own on this cluster.
        let values = json!({
            "image": {"name": name, "tag": tag, "pullPolicy": "Never"},
            "rbac": {"cluster": false},
            "plugins": example::plugins(&client, namespace).await?,
        });
        install_chart(cluster.kubeconfig_path(), namespace, &values)?;
        match serves(&objects).await {
            Ok(()) => Ok(()),
            Err(error) => Err(error.context(of_the_pod(&objects).await?)),
        }
    })
    .await
}

async fn serves(objects: &Objects) -> anyhow::Result<()> {
    let deployment = format!("{RELEASE}-dask-wasm-operator");
    objects
        .until(DEPLOYMENT, &deployment, "available", |deployment| deployment["status"]["availableReplicas"] == 1)
        .await?;
    let mut simple = manifests::cluster(manifests::SIMPLE, 1);
    for part in ["scheduler", "worker"] {
        simple["spec"][part]["spec"]["containers"][0]["image"] = json!(dask_image("2026.8.0"));
    }
    objects.create(&simple).await?;
    objects
        .until(CLUSTER, manifests::SIMPLE, "Running with its worker", |cluster| {
            cluster["status"]["phase"] == "Running" && cluster["status"]["readyReplicas"] == 1
        })
        .await?;
    objects.until_there(VIRTUAL_SERVICE, &format!("{}-scheduler", manifests::SIMPLE)).await.map(drop)
}

/// Status and log of the operator's pod, for the message.
async fn of_the_pod(objects: &Objects) -> anyhow::Result<String> {
    let pods = objects.list(POD, "app.kubernetes.io/name=dask-wasm-operator").await?;
    let pod = pods.first().context("there is no pod")?;
    let api: Api<Pod> = Api::namespaced(objects.client.clone(), &objects.namespace);
    let log = api.logs(text(pod, "/metadata/name"), &LogParams::default()).await;
    let log = log.unwrap_or_else(|error| error.to_string());
    Ok(format!("the operator's pod: {:#}\nits log:\n{log}", pod.get("status").unwrap_or(&Value::Null)))
}
