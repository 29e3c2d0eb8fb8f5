//! `cargo xtask demo`: what the operator does, to be watched.

mod tree;

use std::{cell::Cell, io::Write as _, path::Path, time::Duration};

use anyhow::{Context as _, ensure};
use clap::Args;
use dask_operator_componentize::build;
use dask_wasm_operator_api::crds;
use dask_wasm_operator_test_support::{
    Installation, Kubeconfig, Operator, ThirdParty, apply_crds, apply_objects,
    control_plane::{Binaries, ControlPlane},
    third_party_crds,
};
use kube::Client;
use serde_json::{Value, json};
use tokio::time::{Instant, MissedTickBehavior, interval};

use crate::workspace;

/// Namespace of the operator.
const OPERATOR_NAMESPACE: &str = "dask-operator";
/// Namespace of the Dask cluster.
const CLUSTER_NAMESPACE: &str = "default";
/// The example plugin: package, ConfigMap and DaskPlugin.
const PLUGIN: &str = "istio-virtual-service";
/// The Dask cluster.
const CLUSTER: &str = include_str!("dask-cluster.yaml");
/// Everything is there after two seconds on an idle machine.
const CONVERGENCE_TIMEOUT: Duration = Duration::from_secs(120);

#[derive(Args, Debug)]
pub(crate) struct DemoArgs {
    /// End by itself: with 0 only if everything converged.
    #[arg(long)]
    pub(crate) once: bool,
}

pub(crate) fn run(args: DemoArgs) -> anyhow::Result<()> {
    step("building the operator and the example plugin (ten minutes the first time, for wasmtime)");
    workspace::ensure_guest_target()?;
    workspace::build_operator()?;
    let component = build(PLUGIN)?;
    if workspace::is_installed("go")? { in_kubernetes(args.once, &component) } else { embedded(&component) }
}

/// The same without Kubernetes: `render`.
fn embedded(component: &Path) -> anyhow::Result<()> {
    step(
        "Go is not installed, so there is no local Kubernetes to show it on; this is the same thing in memory (render)",
    );
    let directory = tempfile::tempdir().context("making a directory")?;
    let manifest = directory.path().join("dask-cluster.yaml");
    std::fs::write(&manifest, CLUSTER).context("writing the manifest")?;
    let plugin = format!("{},{}", component.display(), example("plugin.yaml").display());
    let mut render = std::process::Command::new(workspace::operator()?);
    workspace::run(render.arg("render").arg(&manifest).args(["--plugin", &plugin, "--output", "tree"]))
}

fn example(file: &str) -> std::path::PathBuf {
    workspace::root().join("plugins-examples").join(PLUGIN).join(file)
}

fn in_kubernetes(once: bool, component: &Path) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().context("starting a runtime")?;
    let has_converged = Cell::new(false);
    let result = runtime.block_on(async {
        tokio::select! {
            result = show(once, component, &has_converged) => result,
            // What was started ends with the values that hold it.
            _ = tokio::signal::ctrl_c() => {
                step("ending everything");
                ensure!(has_converged.get(), "interrupted before everything was there");
                Ok(())
            }
        }
    });
    // A build is not waited for; it ends with this process.
    runtime.shutdown_background();
    result
}

async fn show(once: bool, component: &Path, has_converged: &Cell<bool>) -> anyhow::Result<()> {
    step(
        "starting a local control plane: etcd, kube-apiserver, kube-controller-manager (built first, five minutes, if it is not)",
    );
    let binaries = tokio::task::spawn_blocking(|| Binaries::ensure(&|line| step(line))).await??;
    let control_plane = ControlPlane::start(&binaries, &crds()).await?;
    let admin = control_plane.kubeconfig();
    let client = admin.client().await?;

    step("installing Istio's definitions, for the plugin's VirtualService");
    let istio = tokio::task::spawn_blocking(|| third_party_crds(ThirdParty::Istio)).await??;
    apply_crds(&client, &istio).await?;

    step("installing the chart: the operator's rights, and the plugin with its grant");
    let installation = install(admin, &client, component).await?;
    step(&format!("starting the operator as {}", installation.user()));
    let arguments = ["--all-namespaces", "--operator-namespace", OPERATOR_NAMESPACE];
    let mut operator = Operator::start_program(&workspace::operator()?, &installation.kubeconfig, &arguments)?;
    operator.ready().await?;

    step("creating a DaskCluster with 3 workers");
    let cluster: Value = serde_saphyr::from_str(CLUSTER).context("reading the demo's manifest")?;
    let begun = Instant::now();
    apply_objects(&client, CLUSTER_NAMESPACE, &[cluster]).await?;
    converge(&client, &mut operator, begun).await?;
    has_converged.set(true);
    explain(&binaries, &control_plane.kubeconfig_path());
    if once {
        let status = operator.stop().await?;
        ensure!(status.success(), "the operator ended with {status}:\n{}", operator.log());
        return Ok(());
    }
    step("everything runs until Ctrl-C");
    std::future::pending().await
}

async fn install(admin: &Kubeconfig, client: &Client, component: &Path) -> anyhow::Result<Installation> {
    let bytes = std::fs::read(component).with_context(|| format!("reading {}", component.display()))?;
    let plugin = plugin_values(&bytes)?;
    let namespace = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": OPERATOR_NAMESPACE}});
    let config_map = json!({
        "apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": PLUGIN, "namespace": OPERATOR_NAMESPACE},
        "binaryData": {format!("{PLUGIN}.wasm"): k8s_openapi::ByteString(bytes)},
    });
    apply_objects(client, OPERATOR_NAMESPACE, &[namespace, config_map]).await?;
    Installation::apply(admin, OPERATOR_NAMESPACE, &json!({"plugins": [plugin]})).await
}

/// The example's DaskPlugin as a value of the chart, with the digest of the component that was just built.
fn plugin_values(component: &[u8]) -> anyhow::Result<Value> {
    let file = example("plugin.yaml");
    let text = std::fs::read_to_string(&file).with_context(|| format!("reading {}", file.display()))?;
    let manifest: Value = serde_saphyr::from_str(&text).with_context(|| format!("parsing {}", file.display()))?;
    let mut plugin = manifest["spec"].clone();
    plugin["name"] = json!(PLUGIN);
    plugin["source"]["sha256"] = json!(dask_wasm_operator_test_support::sha256(component));
    Ok(plugin)
}

/// Draws the tree until everything is as it should be.
async fn converge(client: &Client, operator: &mut Operator, begun: Instant) -> anyhow::Result<()> {
    let mut ticks = interval(Duration::from_millis(200));
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut drawing = tree::Drawing::default();
    loop {
        ticks.tick().await;
        operator.must_run()?;
        let forest = tree::observe(client, CLUSTER_NAMESPACE, OPERATOR_NAMESPACE).await?;
        let missing = forest.missing();
        drawing.draw(&forest, missing.is_empty())?;
        if missing.is_empty() {
            step(&format!("converged after {:.1} s", begun.elapsed().as_secs_f64()));
            return Ok(());
        }
        let patience = begun.elapsed() < CONVERGENCE_TIMEOUT;
        ensure!(patience, "still missing: {}; the operator's log:\n{}", missing.join(", "), operator.log());
    }
}

fn explain(binaries: &Binaries, kubeconfig: &Path) {
    let kubectl = format!("{} --kubeconfig {}", binaries.kubectl.display(), kubeconfig.display());
    println!(
        "\nThere are no nodes, so pods stay Pending; all else is real. Look around:\n  \
         alias k='{kubectl}'\n  \
         k get dask,deployments,services,virtualservices\n  \
         k scale daskworkergroup simple-default --replicas 5\n  \
         k delete virtualservice simple-scheduler          # it comes back\n  \
         k -n {OPERATOR_NAMESPACE} get daskplugins -o wide\n  \
         k delete daskcluster simple\n"
    );
}

fn step(text: &str) {
    println!("» {text}");
    // Nobody may be reading.
    let _ = std::io::stdout().flush();
}
