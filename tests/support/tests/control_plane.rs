//! The local control plane itself: real programs are started, used and ended.

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};
use std::time::Duration;

use dask_wasm_operator_test_support::control_plane::detached::{self, Started, Stopped};
use dask_wasm_operator_test_support::control_plane::{Binaries, ControlPlane};
use dask_wasm_operator_test_support::{
    Kubeconfig, TestCluster, ThirdParty, apply_crds, namespace_report, service_account_token, third_party_crds,
    wait_for, with_namespace,
};
use k8s_openapi::api::core::v1::{ConfigMap, Namespace, Secret, ServiceAccount};
use kube::api::{DeleteParams, ListParams, PostParams};
use kube::{Api, Client};
use serde_json::json;

const TIMEOUT: Duration = Duration::from_secs(60);

fn binaries() -> Binaries {
    Binaries::ensure(&|line| eprintln!("{line}")).expect("Go is installed and builds them")
}

async fn is_ready(client: &Client) -> bool {
    let request = http::Request::get("/readyz").body(Vec::new()).expect("a constant request is valid");
    client.request_text(request).await.is_ok_and(|answer| answer == "ok")
}

/// Whether the process exists and has not ended: one that nobody has waited for is a zombie.
fn is_running(pid: u32) -> bool {
    std::fs::read_to_string(format!("/proc/{pid}/status"))
        .is_ok_and(|status| !status.contains("State:\tZ") && !status.contains("State:\tX"))
}

async fn wait_for_end_of(pids: &[u32]) -> anyhow::Result<()> {
    wait_for("the programs to end", TIMEOUT, async || Ok((!pids.iter().copied().any(is_running)).then_some(()))).await
}

#[tokio::test]
async fn two_run_side_by_side_and_stop_ends_each() {
    let binaries = binaries();
    let (first, second) = tokio::join!(ControlPlane::start(&binaries, &[]), ControlPlane::start(&binaries, &[]));
    let (first, second) = (first.unwrap(), second.unwrap());
    let first_client = first.kubeconfig().client().await.unwrap();
    let second_client = second.kubeconfig().client().await.unwrap();
    assert!(is_ready(&first_client).await);
    assert!(is_ready(&second_client).await);

    let pids: Vec<u32> = first.pids().into_iter().map(|(_, pid)| pid).collect();
    assert_eq!(pids.len(), 3);
    let kubeconfig = first.kubeconfig_path();
    first.stop().unwrap();
    wait_for_end_of(&pids).await.unwrap();
    assert!(!kubeconfig.exists());
    assert!(!is_ready(&first_client).await);
    assert!(is_ready(&second_client).await, "the other one must not notice");
}

#[tokio::test]
async fn rights_garbage_collection_audit_and_crds() {
    let istio = third_party_crds(ThirdParty::Istio).unwrap();
    let control_plane = ControlPlane::start(&binaries(), &istio).await.unwrap();
    let client = control_plane.kubeconfig().client().await.unwrap();
    apply_crds(&client, &istio).await.unwrap();
    with_namespace(&client, async |namespace| {
        children_follow_their_owner(&client, namespace).await?;
        requests_are_authorized_and_audited(&control_plane, &client, namespace).await
    })
    .await
    .unwrap();
    namespaces_are_deleted_even_after_a_failure(&client).await.unwrap();
    child_processes_share_it(&control_plane).await.unwrap();
}

async fn children_follow_their_owner(client: &Client, namespace: &str) -> anyhow::Result<()> {
    let api: Api<ConfigMap> = Api::namespaced(client.clone(), namespace);
    let owner = serde_json::from_value(json!({"metadata": {"name": "owner"}}))?;
    let owner: ConfigMap = api.create(&PostParams::default(), &owner).await?;
    let child = serde_json::from_value(json!({"metadata": {"name": "child", "ownerReferences": [{
        "apiVersion": "v1", "kind": "ConfigMap", "name": "owner", "uid": owner.metadata.uid,
    }]}}))?;
    api.create(&PostParams::default(), &child).await?;
    let report = namespace_report(client, namespace).await?;
    assert!(report.contains("ConfigMap child, owned by ConfigMap owner\n"), "{report}");
    api.delete("owner", &DeleteParams::default()).await?;
    wait_for("the child to be collected", TIMEOUT, async || Ok(api.get_opt("child").await?.is_none().then_some(())))
        .await
}

async fn requests_are_authorized_and_audited(
    control_plane: &ControlPlane,
    client: &Client,
    namespace: &str,
) -> anyhow::Result<()> {
    let accounts: Api<ServiceAccount> = Api::namespaced(client.clone(), namespace);
    let account = serde_json::from_value(json!({"metadata": {"name": "nobody"}}))?;
    accounts.create(&PostParams::default(), &account).await?;
    let token = service_account_token(client, namespace, "nobody").await?;
    let nobody = control_plane.kubeconfig_for_token(&token)?.client().await?;

    let secrets: Api<Secret> = Api::namespaced(nobody, namespace);
    let before = jiff::Timestamp::now();
    let refused = secrets.list(&ListParams::default()).await;
    assert!(matches!(refused, Err(kube::Error::Api(status)) if status.code == 403));

    let user = format!("system:serviceaccount:{namespace}:nobody");
    let log = control_plane.audit_log();
    let requests = wait_for("the entry in the audit log", TIMEOUT, async || {
        let requests = log.requests_of(&user, before..)?;
        Ok((!requests.is_empty()).then_some(requests))
    })
    .await?;
    assert_eq!(requests.len(), 1);
    assert_eq!((requests[0].verb.as_str(), requests[0].code), ("list", 403));
    assert!(!requests[0].is_write());
    assert_eq!(log.requests_of(&user, ..before)?, []);
    Ok(())
}

async fn namespaces_are_deleted_even_after_a_failure(client: &Client) -> anyhow::Result<()> {
    let mut name = String::new();
    let outcome: anyhow::Result<()> = with_namespace(client, async |namespace| {
        name = namespace.to_owned();
        anyhow::bail!("on purpose")
    })
    .await;
    assert!(outcome.is_err_and(|error| error.to_string() == "on purpose"));
    let api: Api<Namespace> = Api::all(client.clone());
    wait_for("the end of the namespace", TIMEOUT, async || Ok(api.get_opt(&name).await?.is_none().then_some(()))).await
}

async fn child_processes_share_it(control_plane: &ControlPlane) -> anyhow::Result<()> {
    let status = tokio::process::Command::new(std::env::current_exe()?)
        .args(["--ignored", "--exact", "cluster_of_the_environment"])
        .envs(control_plane.environment())
        .status()
        .await?;
    assert!(status.success());
    Ok(())
}

#[tokio::test]
#[ignore = "run by child_processes_share_it as a process of its own"]
async fn cluster_of_the_environment() {
    let cluster = TestCluster::obtain(&[]).await.unwrap();
    let path = std::env::var_os("DASK_WASM_OPERATOR_TEST_KUBECONFIG").unwrap();
    assert_eq!(cluster.kubeconfig_path(), path);
    let client = cluster.client().await.unwrap();
    assert!(is_ready(&client).await);
    assert!(!cluster.audit_log().unwrap().requests().unwrap().is_empty());
}

#[tokio::test]
async fn tests_of_one_process_share_a_cluster() {
    let (first, second) = tokio::join!(TestCluster::obtain(&[]), TestCluster::obtain(&[]));
    let (first, second) = (first.unwrap(), second.unwrap());
    assert!(std::ptr::eq(first, second));
    assert!(is_ready(&first.client().await.unwrap()).await);
}

#[tokio::test]
async fn killing_the_starter_leaves_nothing() {
    binaries();
    let mut starter = Command::new(std::env::current_exe().unwrap())
        .args(["--ignored", "--exact", "starter_to_be_killed", "--nocapture"])
        .env(STARTER, "")
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(starter.stdout.take().unwrap()).lines();
    let pids: Vec<u32> = lines
        .find_map(|line| line.unwrap().strip_prefix(PIDS).map(str::to_owned))
        .expect("the starter prints its line before it ends")
        .split_whitespace()
        .map(|pid| pid.parse().unwrap())
        .collect();
    assert_eq!(pids.len(), 3);
    assert!(pids.iter().copied().all(is_running));
    starter.kill().unwrap();
    starter.wait().unwrap();
    wait_for_end_of(&pids).await.unwrap();
}

const PIDS: &str = "pids of the programs:";

/// Set for [`starter_to_be_killed`] alone, which does nothing otherwise.
const STARTER: &str = "DASK_WASM_OPERATOR_TEST_STARTER";

#[tokio::test]
#[ignore = "run by killing_the_starter_leaves_nothing as a process of its own"]
async fn starter_to_be_killed() {
    if std::env::var_os(STARTER).is_none() {
        return;
    }
    let control_plane = ControlPlane::start(&binaries(), &[]).await.unwrap();
    let pids: Vec<String> = control_plane.pids().iter().map(|(_, pid)| pid.to_string()).collect();
    println!("\n{PIDS} {}", pids.join(" "));
    std::future::pending().await
}

#[tokio::test]
async fn a_detached_one_runs_until_it_is_stopped() {
    let directory = tempfile::tempdir().unwrap();
    let directory = directory.path();
    let binaries = binaries();
    assert_eq!(detached::kubeconfig_path(directory).unwrap(), None);
    assert_eq!(detached::start(directory, &binaries, &[]).await.unwrap(), Started::Now);
    assert_eq!(detached::start(directory, &binaries, &[]).await.unwrap(), Started::Before);

    let path = detached::kubeconfig_path(directory).unwrap().expect("it runs");
    let kubeconfig = Kubeconfig::read(&path).unwrap();
    let client = kubeconfig.client().await.unwrap();
    assert!(is_ready(&client).await);

    assert_eq!(detached::stop(directory).await.unwrap(), Stopped::Now);
    assert!(!is_ready(&client).await);
    assert_eq!(detached::kubeconfig_path(directory).unwrap(), None);
    assert_eq!(detached::stop(directory).await.unwrap(), Stopped::Before);
}
