//! A namespace that an operator of its own serves, with the example plugin.

use std::{ops::Deref, sync::LazyLock};

use anyhow::Context;
use dask_wasm_operator_test_integration::objects::Objects;
use dask_wasm_operator_test_support::{
    Installation, Kubeconfig, Operator, TestCluster, ThirdParty, apply_crds, third_party_crds, with_namespace,
};
use k8s_openapi::{
    ByteString, api::core::v1::ConfigMap,
    apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition,
};
use kube::api::{Api, PostParams};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use tokio::sync::OnceCell;

/// The example plugin.
pub(crate) const PLUGIN: &str = "istio-virtual-service";

/// Its code.
static COMPONENT: LazyLock<Result<Vec<u8>, String>> = LazyLock::new(|| {
    let path = dask_operator_componentize::build(PLUGIN).map_err(|error| error.to_string())?;
    std::fs::read(path).map_err(|error| error.to_string())
});

/// See the module.
pub(crate) struct Site {
    objects: Objects,
    pub(crate) installation: Installation,
}

impl Deref for Site {
    type Target = Objects;

    fn deref(&self) -> &Objects {
        &self.objects
    }
}

/// Dask's CRDs and Istio's VirtualService.
pub(crate) fn definitions() -> anyhow::Result<Vec<CustomResourceDefinition>> {
    let istio = third_party_crds(ThirdParty::Istio)?.into_iter();
    let virtual_services = istio.filter(|crd| crd.spec.names.kind == "VirtualService");
    Ok(dask_wasm_operator_api::crds().into_iter().chain(virtual_services).collect())
}

/// The cluster that the tests share.
pub(crate) async fn shared_cluster() -> anyhow::Result<&'static TestCluster> {
    static DEFINED: OnceCell<()> = OnceCell::const_new();
    let cluster = TestCluster::obtain(&dask_wasm_operator_api::crds()).await?;
    // One that somebody else has started does not know Istio.
    DEFINED.get_or_try_init(async || apply_crds(&cluster.client().await?, &definitions()?).await).await?;
    Ok(cluster)
}

/// Runs `body` with a site in a new namespace of the shared cluster.
pub(crate) async fn with_site<T>(body: impl AsyncFnOnce(&Site) -> anyhow::Result<T>) -> anyhow::Result<T> {
    let cluster = shared_cluster().await?;
    let client = cluster.client().await?;
    with_namespace(&client, async |namespace| {
        let site = Site::install(cluster.kubeconfig(), namespace, &json!({"rbac": {"cluster": false}})).await?;
        body(&site).await
    })
    .await
}

impl Site {
    /// Installs the chart with the plugin and these values.
    pub(crate) async fn install(admin: &Kubeconfig, namespace: &str, values: &Value) -> anyhow::Result<Self> {
        let client = admin.client().await?;
        let component =
            COMPONENT.as_ref().map_err(|error| anyhow::anyhow!("{error}")).context("building the plugin")?;
        let file = format!("{PLUGIN}.wasm");
        let mut code = ConfigMap::default();
        code.metadata.name = Some(PLUGIN.to_owned());
        code.binary_data = Some([(file.clone(), ByteString(component.clone()))].into());
        let config_maps: Api<ConfigMap> = Api::namespaced(client.clone(), namespace);
        config_maps.create(&PostParams::default(), &code).await.context("creating the plugin's ConfigMap")?;
        let digest: String = Sha256::digest(component).iter().map(|byte| format!("{byte:02x}")).collect();
        let mut values = values.clone();
        values["plugins"] = json!([{
            "name": PLUGIN,
            "source": {"configMap": {"name": PLUGIN, "keys": [file]}, "sha256": digest},
            "grants": {"create": [{"group": "networking.istio.io", "kind": "VirtualService"}]},
        }]);
        let installation = Installation::apply(admin, namespace, &values).await?;
        Ok(Self { objects: Objects { client, namespace: namespace.to_owned() }, installation })
    }

    /// Starts an operator for this namespace, which goes to the API server by `kubeconfig`.
    pub(crate) fn start(&self, kubeconfig: &Kubeconfig, arguments: &[impl AsRef<str>]) -> anyhow::Result<Operator> {
        let scope = ["--namespace", &self.namespace, "--operator-namespace", &self.namespace];
        let arguments: Vec<_> = scope.into_iter().chain(arguments.iter().map(AsRef::as_ref)).collect();
        Operator::start(kubeconfig, &arguments)
    }
}
