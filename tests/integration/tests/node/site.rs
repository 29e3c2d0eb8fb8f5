//! A namespace of a cluster with a node, with an operator of its own that reaches schedulers through the API server, and with
//! the unchanged Python client.

use std::{
    process::{Command, Stdio},
    time::Duration,
};

use anyhow::{Context, ensure};
use dask_wasm_operator_api::crds;
use dask_wasm_operator_test_integration::objects::Objects;
use dask_wasm_operator_test_support::{NodeCluster, Operator, PythonOperator, with_namespace};

/// How long pods may take on a busy machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(180);

/// See the module.
pub(crate) struct Site {
    pub(crate) objects: Objects,
    cluster: &'static NodeCluster,
    python: PythonOperator,
}

/// Runs `body` on a site, unless there can be no node here: then the test says that it is skipped, and why.
pub(crate) async fn on_node(body: impl AsyncFnOnce(&Site) -> anyhow::Result<()>) -> anyhow::Result<()> {
    let Some(cluster) = NodeCluster::obtain(&crds()).await? else { return Ok(()) };
    let client = cluster.client().await?;
    let python = tokio::task::spawn_blocking(PythonOperator::install).await??;
    with_namespace(&client, async |namespace| {
        let arguments = ["--namespace", namespace, "--operator-namespace", namespace, "--standalone"];
        let mut operator = Operator::start(cluster.kubeconfig(), &arguments)?;
        operator.ready().await?;
        let objects = Objects { client: client.clone(), namespace: namespace.to_owned() };
        let outcome = body(&Site { objects, cluster, python }).await;
        outcome.and_then(|()| operator.must_run()).with_context(|| format!("log of the operator:\n{}", operator.log()))
    })
    .await
}

impl Site {
    /// Runs a script where the Python client is installed, with this namespace as its first argument; answers what it prints.
    pub(crate) async fn python(&self, script: &str, arguments: &[&str]) -> anyhow::Result<String> {
        let mut command = Command::new(self.python.python());
        command.args(["-c", script, &self.objects.namespace]).args(arguments);
        self.output(command).await
    }

    /// Runs a program of the Python client's installation, such as `dask`.
    pub(crate) async fn program(&self, name: &str, arguments: &[&str]) -> anyhow::Result<String> {
        let mut command = Command::new(self.python.python().with_file_name(name));
        command.args(arguments);
        self.output(command).await
    }

    async fn output(&self, mut command: Command) -> anyhow::Result<String> {
        command.env("KUBECONFIG", self.cluster.kubeconfig_path()).stdin(Stdio::null());
        let output = tokio::task::spawn_blocking(move || command.output()).await?.context("starting Python")?;
        let (written, errors) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        ensure!(output.status.success(), "{}: {written}{errors}", output.status);
        Ok(written.trim().to_owned())
    }
}

/// How often something is repeated, if the environment does not say.
pub(crate) fn rounds(default: u32) -> anyhow::Result<u32> {
    const VARIABLE: &str = "DASK_WASM_OPERATOR_TEST_ROUNDS";
    match std::env::var(VARIABLE) {
        Ok(rounds) => rounds.parse().with_context(|| format!("{VARIABLE} is no number: {rounds}")),
        Err(_) => Ok(default),
    }
}
