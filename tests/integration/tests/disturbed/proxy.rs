//! The proxy itself: what is to become of a request does, whatever its client does meanwhile.

use anyhow::Context;
use dask_wasm_operator_test_integration::{
    objects::{Kind, Objects, TIMEOUT},
    proxy::{Moment, Proxy},
};
use dask_wasm_operator_test_support::{wait_for, with_namespace};
use kube::config::{KubeConfigOptions, Kubeconfig};
use serde_json::json;
use tokio::{io::AsyncWriteExt, net::TcpStream};

use crate::site::shared_cluster;

const CONFIG_MAP: Kind<'_> = Kind("v1", "ConfigMap");

#[tokio::test]
async fn it_stops_after_a_write_whose_client_has_gone() -> anyhow::Result<()> {
    let cluster = shared_cluster().await?;
    let client = cluster.client().await?;
    with_namespace(&client, async |namespace| {
        let objects = Objects { client: client.clone(), namespace: namespace.to_owned() };
        for name in (0..10).map(|number| format!("a{number}")) {
            let proxy = Proxy::start(cluster.kubeconfig()).await?;
            proxy.stop_at(1, Moment::AfterCommit);
            send_and_go(&proxy, namespace, &name).await?;
            let stopped = wait_for("the proxy to stop", TIMEOUT, async || Ok(proxy.is_stopped().then_some(())));
            stopped.await?;
            objects.get(CONFIG_MAP, &name).await?;
        }
        Ok(())
    })
    .await
}

/// Asks for a ConfigMap, and does not wait for the answer.
async fn send_and_go(proxy: &Proxy, namespace: &str, name: &str) -> anyhow::Result<()> {
    let kubeconfig = Kubeconfig::from_yaml(proxy.kubeconfig().as_str())?;
    let url = kube::Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await?.cluster_url;
    let address = url.authority().context("the proxy has no address")?;
    let body = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}}).to_string();
    let path = format!("/api/v1/namespaces/{namespace}/configmaps");
    let request = format!(
        "POST {path} HTTP/1.1\r\nHost: {address}\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    );
    let mut connection = TcpStream::connect(address.as_str()).await?;
    connection.write_all(request.as_bytes()).await?;
    connection.shutdown().await?;
    Ok(())
}
