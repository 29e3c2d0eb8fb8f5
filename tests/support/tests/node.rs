//! The local node itself: real pods run in it, and nothing of it stays. Skipped, with the reason, where there can be none.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, ensure};
use dask_wasm_operator_test_support::control_plane::detached::{self, Stopped};
use dask_wasm_operator_test_support::control_plane::{Binaries, ControlPlane};
use dask_wasm_operator_test_support::{
    NodeBinaries, NodeCluster, dask_image, node_unavailable, wait_for, with_namespace,
};
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{Pod, Service};
use kube::api::{ListParams, LogParams, PostParams};
use kube::{Api, Client};
use serde_json::json;

/// Pods of Dask are ready within seconds on an idle machine.
const TIMEOUT: Duration = Duration::from_secs(120);

#[tokio::test]
#[ignore = "builds and starts a node: cargo xtask test --full"]
async fn dask_2026_3_0_computes_in_pods() {
    dask_computes_in_pods("2026.3.0", ["dask-scheduler", "dask-worker"].map(|command| vec![command])).await.unwrap();
}

#[tokio::test]
#[ignore = "builds and starts a node: cargo xtask test --full"]
async fn the_newest_dask_computes_in_pods() {
    dask_computes_in_pods("2026.8.0", ["scheduler", "worker"].map(|command| vec!["dask", command])).await.unwrap();
}

async fn dask_computes_in_pods(version: &str, [scheduler, worker]: [Vec<&str>; 2]) -> anyhow::Result<()> {
    let Some(cluster) = NodeCluster::obtain(&[]).await? else { return Ok(()) };
    let client = cluster.client().await?;
    with_namespace(&client, async |namespace| {
        let address = format!("tcp://scheduler.{namespace}.svc.cluster.local:8786");
        deploy(&client, namespace, "scheduler", version, &scheduler, 8787).await?;
        let pod = wait_until_available(&client, namespace, "scheduler").await?;
        deploy(
            &client,
            namespace,
            "worker",
            version,
            &[&worker[..], &[&address, "--dashboard-address", ":8788"]].concat(),
            8788,
        )
        .await?;
        wait_until_available(&client, namespace, "worker").await?;
        answers_the_api_server(&client, namespace, &pod).await?;
        has_a_log(&client, namespace, &pod).await?;
        computes(cluster.kubeconfig_path(), namespace, &pod, &address)
    })
    .await
}

async fn deploy(
    client: &Client,
    namespace: &str,
    name: &str,
    version: &str,
    command: &[&str],
    dashboard: u16,
) -> anyhow::Result<()> {
    let deployment: Deployment = serde_json::from_value(json!({
        "metadata": {"name": name},
        "spec": {
            "replicas": 1,
            "selector": {"matchLabels": {"app": name}},
            "template": {
                "metadata": {"labels": {"app": name}},
                "spec": {"containers": [{
                    "name": name,
                    "image": dask_image(version),
                    "args": command,
                    "readinessProbe": {"httpGet": {"port": dashboard, "path": "/health"}, "periodSeconds": 1},
                }]},
            },
        },
    }))?;
    let service: Service = serde_json::from_value(json!({
        "metadata": {"name": name},
        "spec": {"selector": {"app": name}, "ports": [{"port": 8786}]},
    }))?;
    Api::namespaced(client.clone(), namespace).create(&PostParams::default(), &deployment).await?;
    Api::namespaced(client.clone(), namespace).create(&PostParams::default(), &service).await?;
    Ok(())
}

/// The name of the Deployment's pod, once that is ready.
async fn wait_until_available(client: &Client, namespace: &str, name: &str) -> anyhow::Result<String> {
    let deployments: Api<Deployment> = Api::namespaced(client.clone(), namespace);
    wait_for(&format!("the Deployment {name} to be available"), TIMEOUT, async || {
        let status = deployments.get(name).await?.status.unwrap_or_default();
        Ok((status.available_replicas == Some(1)).then_some(()))
    })
    .await?;
    let pods: Api<Pod> = Api::namespaced(client.clone(), namespace);
    let pods = pods.list(&ListParams::default().labels(&format!("app={name}"))).await?;
    pods.items.into_iter().next().and_then(|pod| pod.metadata.name).context("there is no pod")
}

async fn answers_the_api_server(client: &Client, namespace: &str, pod: &str) -> anyhow::Result<()> {
    let path = format!("/api/v1/namespaces/{namespace}/pods/{pod}:8787/proxy/health");
    let answer = client.request_text(http::Request::get(path).body(Vec::new())?).await?;
    ensure!(answer == "ok", "{answer}");
    Ok(())
}

async fn has_a_log(client: &Client, namespace: &str, pod: &str) -> anyhow::Result<()> {
    let log = Api::<Pod>::namespaced(client.clone(), namespace).logs(pod, &LogParams::default()).await?;
    ensure!(log.contains("Scheduler at:"), "{log}");
    Ok(())
}

/// A program in the pod finds the scheduler by its name in the cluster's DNS, at the address of its Service.
fn computes(kubeconfig: &Path, namespace: &str, pod: &str, address: &str) -> anyhow::Result<()> {
    let script = format!("from distributed import Client\nprint(Client('{address}').submit(sum, [1, 2, 3]).result())");
    let output = Command::new(binaries().kubectl)
        .arg("--kubeconfig")
        .arg(kubeconfig)
        .args(["--namespace", namespace, "exec", pod, "--", "python", "-c", &script])
        .output()?;
    ensure!(output.stdout == b"6\n", "{output:?}");
    Ok(())
}

fn binaries() -> Binaries {
    Binaries::ensure(&|line| eprintln!("{line}")).expect("Go is installed and builds them")
}

/// Where a running node is seen on the machine.
struct Traces {
    /// Its network, mount and PID namespaces, as links below /proc name them.
    namespaces: Vec<PathBuf>,
    control_groups: Vec<PathBuf>,
}

impl Traces {
    /// Of the node whose PID 1 this is.
    fn of(pid: u32) -> anyhow::Result<Self> {
        let namespaces = ["net", "mnt", "pid"].map(|kind| fs::read_link(format!("/proc/{pid}/ns/{kind}")));
        // `node init DIRECTORY CGROUP ADDRESS`
        let command = fs::read_to_string(format!("/proc/{pid}/cmdline"))?;
        let group = command.split('\0').nth(3).context("PID 1 of the node has too few arguments")?;
        let hierarchies = fs::read_dir("/sys/fs/cgroup")?.map(|entry| Ok(entry?.path().join(group)));
        let traces = Self {
            namespaces: namespaces.into_iter().collect::<Result<_, _>>()?,
            control_groups: hierarchies.collect::<std::io::Result<_>>()?,
        };
        ensure!(traces.processes().len() > 5, "there should be kubelet and all the others");
        ensure!(traces.control_groups.iter().any(|group| group.exists()), "there should be control groups");
        Ok(traces)
    }

    /// The processes in its namespaces, which no longer exist when there are none: nothing else keeps them.
    fn processes(&self) -> Vec<PathBuf> {
        let is_inside = |process: &Path| {
            let mut links = ["net", "mnt", "pid"].iter().map(|kind| fs::read_link(process.join("ns").join(kind)));
            links.any(|link| link.is_ok_and(|link| self.namespaces.contains(&link)))
        };
        let processes = fs::read_dir("/proc").into_iter().flatten().flatten().map(|entry| entry.path());
        processes.filter(|process| is_inside(process)).collect()
    }

    async fn wait_until_gone(&self) -> anyhow::Result<()> {
        wait_for("the end of the node", TIMEOUT, async || {
            let processes = self.processes();
            ensure!(processes.is_empty(), "there still are {processes:?}");
            let group = self.control_groups.iter().find(|group| group.exists());
            ensure!(group.is_none(), "there still is {group:?}");
            Ok(Some(()))
        })
        .await
    }
}

#[tokio::test]
#[ignore = "builds and starts a node: cargo xtask test --full"]
async fn killing_the_starter_leaves_nothing() {
    if !is_possible() {
        return;
    }
    let mut starter = Command::new(std::env::current_exe().unwrap())
        .args(["--ignored", "--exact", "starter_to_be_killed", "--nocapture"])
        .env(STARTER, "")
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(starter.stdout.take().unwrap()).lines();
    let pid = lines.find_map(|line| line.unwrap().strip_prefix(PID).map(|pid| pid.parse().unwrap()));
    let traces = Traces::of(pid.expect("the starter prints its line before it ends")).unwrap();
    starter.kill().unwrap();
    starter.wait().unwrap();
    traces.wait_until_gone().await.unwrap();
}

/// Set for [`starter_to_be_killed`] alone, which does nothing otherwise.
const STARTER: &str = "DASK_WASM_OPERATOR_TEST_STARTER";

const PID: &str = "PID 1 of the node: ";

#[tokio::test]
#[ignore = "run by killing_the_starter_leaves_nothing as a process of its own"]
async fn starter_to_be_killed() {
    if std::env::var_os(STARTER).is_none() {
        return;
    }
    let control_plane = ControlPlane::start_with_node(&binaries(), &node_binaries(), &[]).await.unwrap();
    let client = control_plane.kubeconfig().client().await.unwrap();
    deploy(&client, "default", "scheduler", "2026.8.0", &["dask", "scheduler"], 8787).await.unwrap();
    wait_until_available(&client, "default", "scheduler").await.unwrap();
    println!("\n{PID}{}", control_plane.node().unwrap().pid());
    std::future::pending().await
}

#[tokio::test]
#[ignore = "builds and starts a node: cargo xtask test --full"]
async fn a_detached_one_runs_until_it_is_stopped() {
    if !is_possible() {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let directory = directory.path();
    detached::start_with_node(directory, &binaries(), &node_binaries(), &[]).await.unwrap();
    let traces = Traces::of(detached::node_pid(directory).unwrap().expect("it runs")).unwrap();
    assert_eq!(detached::stop(directory).await.unwrap(), Stopped::Now);
    traces.wait_until_gone().await.unwrap();
    assert_eq!(detached::node_pid(directory).unwrap(), None);
}

#[tokio::test]
#[ignore = "builds and starts a node: cargo xtask test --full"]
async fn names_are_resolved_inside_and_nothing_leads_out() {
    let Some(cluster) = NodeCluster::obtain(&[]).await.unwrap() else { return };
    let Some(node) = cluster.control_plane().and_then(ControlPlane::node) else { return };
    node.connection().connect("kubernetes.default.svc.cluster.local:443").await.unwrap();
    // TEST-NET-1 of RFC 5737, which is nobody's.
    let error = node.connection().connect("192.0.2.1:80").await.unwrap_err();
    assert!(format!("{error:#}").contains("502"), "{error:#}");
    let routes = node.command("cat").arg("/proc/net/route").output().unwrap();
    let routes = String::from_utf8(routes.stdout).unwrap();
    assert!(!routes.lines().any(|route| route.split_whitespace().nth(1) == Some("00000000")), "{routes}");
}

/// Whether this machine can have a node; says so if not.
fn is_possible() -> bool {
    node_unavailable().map(|reason| reason.say_that_the_test_is_skipped()).is_none()
}

fn node_binaries() -> NodeBinaries {
    NodeBinaries::ensure(&|line| eprintln!("{line}")).expect("Go and Python are installed and make them")
}
