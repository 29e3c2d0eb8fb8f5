//! A namespace that an operator of its own serves, with the example plugin.

use std::{sync::LazyLock, time::Duration};

use anyhow::Context;
use dask_wasm_operator_test_support::{
    Installation, Kubeconfig, Operator, TestCluster, ThirdParty, apply_crds, apply_objects, third_party_crds,
    with_namespace,
};
use k8s_openapi::{
    ByteString, api::core::v1::ConfigMap,
    apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition,
};
use kube::{
    Client,
    api::{Api, ApiResource, DeleteParams, DynamicObject, Patch, PatchParams, PostParams},
};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

/// How long anything may take.
pub(crate) const TIMEOUT: Duration = Duration::from_secs(60);

/// Name of the DaskCluster that most tests have.
pub(crate) const CLUSTER: &str = "simple";

/// The example plugin.
pub(crate) const PLUGIN: &str = "istio-virtual-service";

/// Its code.
static COMPONENT: LazyLock<Result<Vec<u8>, String>> = LazyLock::new(|| {
    let path = dask_operator_componentize::build(PLUGIN).map_err(|error| error.to_string())?;
    std::fs::read(path).map_err(|error| error.to_string())
});

/// See the module.
pub(crate) struct Site {
    pub(crate) client: Client,
    pub(crate) namespace: String,
    pub(crate) installation: Installation,
}

/// Dask's CRDs and Istio's VirtualService.
pub(crate) fn definitions() -> anyhow::Result<Vec<CustomResourceDefinition>> {
    let istio = third_party_crds(ThirdParty::Istio)?.into_iter();
    let virtual_services = istio.filter(|crd| crd.spec.names.kind == "VirtualService");
    Ok(dask_wasm_operator_api::crds().into_iter().chain(virtual_services).collect())
}

/// The cluster that the tests share.
pub(crate) async fn shared_cluster() -> anyhow::Result<&'static TestCluster> {
    let definitions = definitions()?;
    let cluster = TestCluster::obtain(&definitions).await?;
    // One that somebody else has started does not know Istio.
    apply_crds(&cluster.client().await?, &definitions).await?;
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
        Ok(Self { client, namespace: namespace.to_owned(), installation })
    }

    /// Starts an operator for this namespace, which goes to the API server by `kubeconfig`.
    pub(crate) fn start(&self, kubeconfig: &Kubeconfig, arguments: &[&str]) -> anyhow::Result<Operator> {
        let scope = ["--namespace", &self.namespace, "--operator-namespace", &self.namespace];
        Operator::start(kubeconfig, &[&scope, arguments].concat())
    }

    /// The operator without the Lease, for whose end a restart would have to wait.
    pub(crate) fn start_standalone(&self, kubeconfig: &Kubeconfig) -> anyhow::Result<Operator> {
        self.start(kubeconfig, &["--standalone"])
    }

    /// Creates a DaskCluster, in the form of the documentation.
    pub(crate) async fn create_cluster(&self, name: &str, workers: u32) -> anyhow::Result<()> {
        apply_objects(&self.client, &self.namespace, &[dask_cluster(name, workers)]).await
    }

    /// Asks for this many workers.
    pub(crate) async fn scale(&self, name: &str, workers: u32) -> anyhow::Result<()> {
        self.patch(&dask("DaskCluster"), name, &json!({"spec": {"worker": {"replicas": workers}}})).await
    }

    /// The same as `kubectl scale daskworkergroup` does for the default group.
    pub(crate) async fn scale_group(&self, cluster: &str, workers: u32) -> anyhow::Result<()> {
        let name = format!("{cluster}-default");
        self.patch(&dask("DaskWorkerGroup"), &name, &json!({"spec": {"worker": {"replicas": workers}}})).await
    }

    async fn patch(&self, resource: &ApiResource, name: &str, patch: &Value) -> anyhow::Result<()> {
        let kind = &resource.kind;
        self.api(resource)
            .patch(name, &PatchParams::default(), &Patch::Merge(patch))
            .await
            .with_context(|| format!("patching {kind} {name}"))?;
        Ok(())
    }

    /// Deletes a DaskCluster, as kubectl does.
    pub(crate) async fn delete_cluster(&self, name: &str) -> anyhow::Result<()> {
        self.api(&dask("DaskCluster"))
            .delete(name, &DeleteParams::background())
            .await
            .with_context(|| format!("deleting DaskCluster {name}"))?;
        Ok(())
    }

    /// Objects of a kind in this namespace.
    pub(crate) fn api(&self, resource: &ApiResource) -> Api<DynamicObject> {
        Api::namespaced_with(self.client.clone(), &self.namespace, resource)
    }
}

/// One of Dask's kinds.
pub(crate) fn dask(kind: &str) -> ApiResource {
    resource("kubernetes.dask.org/v1", kind)
}

/// A kind with a regular plural.
pub(crate) fn resource(api_version: &str, kind: &str) -> ApiResource {
    let (group, version) = api_version.split_once('/').unwrap_or(("", api_version));
    ApiResource::from_gvk_with_plural(
        &kube::core::GroupVersionKind::gvk(group, version, kind),
        &format!("{}s", kind.to_lowercase()),
    )
}

/// The manifest of the documentation.
pub(crate) fn dask_cluster(name: &str, workers: u32) -> Value {
    let image = "ghcr.io/dask/dask:latest";
    json!({
        "apiVersion": "kubernetes.dask.org/v1",
        "kind": "DaskCluster",
        "metadata": {"name": name},
        "spec": {
            "scheduler": {
                "spec": {"containers": [{
                    "name": "scheduler", "image": image, "args": ["dask", "scheduler"],
                    "ports": [
                        {"name": "tcp-comm", "containerPort": 8786, "protocol": "TCP"},
                        {"name": "http-dashboard", "containerPort": 8787, "protocol": "TCP"},
                    ],
                }]},
                "service": {
                    "type": "ClusterIP",
                    "selector": {"dask.org/cluster-name": name, "dask.org/component": "scheduler"},
                    "ports": [
                        {"name": "tcp-comm", "protocol": "TCP", "port": 8786, "targetPort": "tcp-comm"},
                        {"name": "http-dashboard", "protocol": "TCP", "port": 8787, "targetPort": "http-dashboard"},
                    ],
                },
            },
            "worker": {
                "replicas": workers,
                "spec": {"containers": [{
                    "name": "worker", "image": image, "args": ["dask", "worker", "--name", "$(DASK_WORKER_NAME)"],
                }]},
            },
        },
    })
}
