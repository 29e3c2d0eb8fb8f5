//! A namespace of the shared API server, with an operator of its own that serves nothing else.

use std::ops::Deref;

use dask_wasm_operator_api::crds;
use dask_wasm_operator_test_support::{
    Dask, DaskOptions, DaskProcesses, Installation, Kubeconfig, Operator, TestCluster,
    control_plane::{Binaries, ControlPlane},
    with_namespace,
};
use serde_json::{Value, json};

use crate::{
    manifests::SIMPLE,
    objects::{Objects, text},
};

/// See the module. What is in the namespace is read and changed through [`Objects`].
pub(crate) struct Stage {
    objects: Objects,
    /// As whom, and with which rights, the operator runs.
    pub(crate) kubeconfig: Kubeconfig,
    pub(crate) operator: Operator,
    arguments: Vec<String>,
}

impl Deref for Stage {
    type Target = Objects;

    fn deref(&self) -> &Objects {
        &self.objects
    }
}

/// Runs `body` in a new namespace, as its administrator.
pub(crate) async fn in_namespace(
    body: impl AsyncFnOnce(Objects, Kubeconfig) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    let cluster = TestCluster::obtain(&crds()).await?;
    let client = cluster.client().await?;
    with_namespace(&client, async |namespace| {
        body(Objects { client: client.clone(), namespace: namespace.to_owned() }, cluster.kubeconfig().clone()).await
    })
    .await
}

/// Runs `body` on a stage whose operator is ready.
pub(crate) async fn on_stage(body: impl AsyncFnOnce(&mut Stage) -> anyhow::Result<()>) -> anyhow::Result<()> {
    on_stage_with(&json!({}), &[], body).await
}

/// As [`on_stage`], with values of the chart and arguments of the operator.
pub(crate) async fn on_stage_with(
    values: &Value,
    arguments: &[&str],
    body: impl AsyncFnOnce(&mut Stage) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    in_namespace(async |objects, admin| play(objects, &admin, values, arguments, body).await).await
}

/// As [`on_stage_with`], with an API server of its own: for who changes what all namespaces see.
pub(crate) async fn on_own_stage(
    values: &Value,
    body: impl AsyncFnOnce(&mut Stage) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    let binaries = tokio::task::spawn_blocking(|| Binaries::ensure(&|line| eprintln!("{line}"))).await??;
    let control_plane = ControlPlane::start(&binaries, &crds()).await?;
    let admin = control_plane.kubeconfig();
    let client = admin.client().await?;
    with_namespace(&client, async |namespace| {
        let objects = Objects { client: client.clone(), namespace: namespace.to_owned() };
        play(objects, admin, values, &[], body).await
    })
    .await
}

/// As [`on_stage`], with a real scheduler, which the operator takes for that of DaskCluster [`SIMPLE`], and with further
/// arguments of the operator.
pub(crate) async fn on_stage_with_dask(
    arguments: &[&str],
    body: impl AsyncFnOnce(&mut Stage, &mut DaskProcesses) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    in_namespace(async |objects, admin| {
        let mut dask = Dask::install(Dask::NEWEST)?.start(DaskOptions::default()).await?;
        let address = format!("{}/{SIMPLE}={},{}", objects.namespace, dask.comm(), dask.dashboard());
        let arguments = [&["--scheduler-address", &address], arguments].concat();
        play(objects, &admin, &json!({}), &arguments, async |stage: &mut Stage| body(stage, &mut dask).await).await
    })
    .await
}

async fn play(
    objects: Objects,
    admin: &Kubeconfig,
    values: &Value,
    arguments: &[&str],
    body: impl AsyncFnOnce(&mut Stage) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    let mut values = values.clone();
    values["rbac"] = json!({"cluster": false});
    let installation = Installation::apply(admin, &objects.namespace, &values).await?;
    let kubeconfig = installation.kubeconfig;
    let operator = start(&kubeconfig, &objects.namespace, arguments)?;
    let arguments = arguments.iter().map(|argument| (*argument).to_owned()).collect();
    let mut stage = Stage { objects, kubeconfig, operator, arguments };
    stage.operator.ready().await?;
    let outcome = body(&mut stage).await;
    // Whatever a test does, the operator lives.
    let outcome = outcome.and_then(|()| stage.operator.must_run());
    if outcome.is_err() {
        eprintln!("log of the operator:\n{}", stage.operator.log());
    }
    outcome
}

/// Starts an operator for one namespace, without the Lease.
pub(crate) fn start(kubeconfig: &Kubeconfig, namespace: &str, arguments: &[&str]) -> anyhow::Result<Operator> {
    let scope = ["--namespace", namespace, "--operator-namespace", namespace, "--standalone"];
    Operator::start(kubeconfig, &[&scope, arguments].concat())
}

impl Stage {
    /// Ends the operator as Kubernetes does.
    pub(crate) async fn stop(&mut self) -> anyhow::Result<()> {
        let status = self.operator.stop().await?;
        anyhow::ensure!(status.success(), "the operator ended with {status}:\n{}", self.operator.log());
        Ok(())
    }

    /// Starts it again, with other arguments.
    pub(crate) async fn start_with(&mut self, arguments: &[&str]) -> anyhow::Result<()> {
        self.arguments = arguments.iter().map(|argument| (*argument).to_owned()).collect();
        self.start().await
    }

    /// Starts it again, with the same arguments.
    pub(crate) async fn start(&mut self) -> anyhow::Result<()> {
        let arguments: Vec<_> = self.arguments.iter().map(String::as_str).collect();
        self.operator = start(&self.kubeconfig, &self.namespace, &arguments)?;
        self.operator.ready().await
    }
}

/// The first container of a Deployment's pod, or of any pod spec at `spec.template.spec`.
pub(crate) fn container(deployment: &Value) -> &Value {
    &deployment["spec"]["template"]["spec"]["containers"][0]
}

/// The image of a Deployment.
pub(crate) fn image(deployment: &Value) -> &str {
    text(container(deployment), "/image")
}
