//! A namespace that an operator of its own serves, with the example plugin.

use std::ops::Deref;

use dask_wasm_operator_test_integration::{example, objects::Objects};
use dask_wasm_operator_test_support::{Installation, Kubeconfig, Operator, TestCluster, apply_crds, with_namespace};
use serde_json::{Value, json};
use tokio::sync::OnceCell;

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

/// The cluster that the tests share.
pub(crate) async fn shared_cluster() -> anyhow::Result<&'static TestCluster> {
    static DEFINED: OnceCell<()> = OnceCell::const_new();
    let cluster = TestCluster::obtain(&dask_wasm_operator_api::crds()).await?;
    // One that somebody else has started does not know Istio.
    DEFINED.get_or_try_init(async || apply_crds(&cluster.client().await?, &example::definitions()?).await).await?;
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
        let mut values = values.clone();
        values["plugins"] = example::plugins(&client, namespace).await?;
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
