//! The example plugin, mounted by the chart.

use std::sync::LazyLock;

use anyhow::Context;
use dask_wasm_operator_test_support::{ThirdParty, sha256, third_party_crds};
use k8s_openapi::{
    ByteString, api::core::v1::ConfigMap,
    apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition,
};
use kube::{
    Client,
    api::{Api, PostParams},
};
use serde_json::{Value, json};

/// Its package, its ConfigMap and its DaskPlugin.
const PLUGIN: &str = "istio-virtual-service";

/// Its code.
static COMPONENT: LazyLock<Result<Vec<u8>, String>> = LazyLock::new(|| {
    let path = dask_operator_componentize::build(PLUGIN).map_err(|error| error.to_string())?;
    std::fs::read(path).map_err(|error| error.to_string())
});

/// Dask's CRDs and Istio's VirtualService, of which the plugin makes some.
///
/// # Errors
/// When Istio's can't be had.
pub fn definitions() -> anyhow::Result<Vec<CustomResourceDefinition>> {
    let istio = third_party_crds(ThirdParty::Istio)?.into_iter();
    let virtual_services = istio.filter(|crd| crd.spec.names.kind == "VirtualService");
    Ok(dask_wasm_operator_api::crds().into_iter().chain(virtual_services).collect())
}

/// Creates the ConfigMap with its code, and answers the chart's `plugins` that mount it from there.
///
/// # Errors
/// When it can't be built, or the API server refuses the ConfigMap.
pub async fn plugins(client: &Client, namespace: &str) -> anyhow::Result<Value> {
    let component = COMPONENT.as_ref().map_err(|error| anyhow::anyhow!("{error}")).context("building the plugin")?;
    let file = format!("{PLUGIN}.wasm");
    let mut code = ConfigMap::default();
    code.metadata.name = Some(PLUGIN.to_owned());
    code.binary_data = Some([(file.clone(), ByteString(component.clone()))].into());
    let config_maps: Api<ConfigMap> = Api::namespaced(client.clone(), namespace);
    config_maps.create(&PostParams::default(), &code).await.context("creating the plugin's ConfigMap")?;
    Ok(json!([{
        "name": PLUGIN,
        "source": {"configMap": {"name": PLUGIN, "keys": [file]}, "sha256": sha256(component)},
        "grants": {"create": [{"group": "networking.istio.io", "kind": "VirtualService"}]},
    }]))
}
