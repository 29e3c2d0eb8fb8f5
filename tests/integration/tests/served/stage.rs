//! A namespace of the shared API server, with an operator of its own that serves nothing else.

use std::ops::Deref;

use dask_wasm_operator_api::crds;
use dask_wasm_operator_test_support::{
    Dask, DaskOptions, DaskProcesses, Installation, Kubeconfig, Operator, TestCluster, with_namespace,
};
use serde_json::{Value, json};

use crate::{
    manifests,
    objects::{CLUSTER, DEPLOYMENT, Objects, POD, controller, name, text, uid},
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

/// The DaskCluster whose scheduler is real on a stage with Dask.
pub(crate) const SIMPLE: &str = "simple";

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

    /// Creates a DaskCluster and waits until all of it exists and its status says so.
    pub(crate) async fn running_cluster(&self, name: &str, workers: u32) -> anyhow::Result<Value> {
        self.create(&manifests::cluster(name, workers)).await?;
        self.until_running(name, workers).await
    }

    /// Waits until a cluster has this many workers and says so.
    pub(crate) async fn until_running(&self, name: &str, workers: u32) -> anyhow::Result<Value> {
        self.until(CLUSTER, name, &format!("Running with {workers} workers"), |cluster| {
            let status = &cluster["status"];
            status["phase"] == "Running"
                && status["replicas"] == workers
                && status["observedGeneration"] == cluster["metadata"]["generation"]
        })
        .await
    }

    /// The Deployments of a group's workers, by name.
    pub(crate) async fn workers(&self, group: &str) -> anyhow::Result<Vec<Value>> {
        self.list(DEPLOYMENT, &workers(group)).await
    }

    /// Waits until a group has this many workers, and answers them by name.
    pub(crate) async fn until_workers(&self, group: &str, count: usize) -> anyhow::Result<Vec<Value>> {
        self.until_count(DEPLOYMENT, &workers(group), count).await
    }

    /// Does for the pod of a Deployment what a kubelet would: it runs and is ready.
    pub(crate) async fn run_pod_of(&self, deployment: &str) -> anyhow::Result<()> {
        let ready = json!({"type": "Ready", "status": "True"});
        self.report_pod_of(deployment, &json!({"phase": "Running", "conditions": [ready]})).await
    }

    /// Reports this status of the pod of a Deployment, as a kubelet would.
    pub(crate) async fn report_pod_of(&self, deployment: &str, status: &Value) -> anyhow::Result<()> {
        let deployment = self.until_there(DEPLOYMENT, deployment).await?;
        let pod =
            dask_wasm_operator_test_support::wait_for("the pod of a Deployment", crate::objects::TIMEOUT, async || {
                let sets = self.list(crate::objects::Kind("apps/v1", "ReplicaSet"), "").await?;
                let sets: Vec<_> = sets.iter().filter(|set| controller(set) == uid(&deployment)).map(uid).collect();
                let pods = self.list(POD, "").await?;
                Ok(pods.iter().find(|pod| sets.contains(&controller(pod))).map(|pod| name(pod).to_owned()))
            })
            .await?;
        let status = kube::api::Patch::Merge(json!({ "status": status }));
        self.api(POD).patch_status(&pod, &kube::api::PatchParams::default(), &status).await?;
        Ok(())
    }
}

/// Selects the workers of a group.
pub(crate) fn workers(group: &str) -> String {
    format!("dask.org/component=worker,dask.org/workergroup-name={group}")
}

/// The first container of a Deployment's pod, or of any pod spec at `spec.template.spec`.
pub(crate) fn container(deployment: &Value) -> &Value {
    &deployment["spec"]["template"]["spec"]["containers"][0]
}

/// The image of a Deployment.
pub(crate) fn image(deployment: &Value) -> &str {
    text(container(deployment), "/image")
}
