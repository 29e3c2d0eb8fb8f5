//! The local control plane itself: real programs are started, used and ended.

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};
use std::time::Duration;

use dask_wasm_operator_test_support::control_plane::detached::{self, Started, Stopped};
use dask_wasm_operator_test_support::control_plane::{Binaries, ControlPlane};
use dask_wasm_operator_test_support::{
    ThirdParty, apply_crds, service_account_token, third_party_crds, wait_for, with_namespace,
};
use k8s_openapi::api::core::v1::{ConfigMap, Secret, ServiceAccount};
use kube::api::{DeleteParams, ListParams, PostParams};
use kube::{Api, Client};
use serde_json::json;

const TIMEOUT: Duration = Duration::from_secs(60);

fn binaries() -> Binaries {
    Binaries::ensure(&|line| eprintln!("{line}")).unwrap()
}

async fn is_ready(client: &Client) -> bool {
    let request = http::Request::get("/readyz").body(Vec::new()).unwrap();
    client.request_text(request).await.is_ok_and(|answer| answer == "ok")
}

/// Whether the process exists and has not ended: one that nobody has waited for is a zombie.
fn is_running(pid: u32) -> bool {
    std::fs::read_to_string(format!("/proc/{pid}/status"))
        .is_ok_and(|status| !status.contains("State:\tZ") && !status.contains("State:\tX"))
}

async fn wait_for_end_of(pids: &[u32]) {
    wait_for("the programs to end", TIMEOUT, async || {
        Ok((!pids.iter().copied().any(is_running)).then_some(()))
    })
    .await
    .unwrap();
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
    wait_for_end_of(&pids).await;
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
}

async fn children_follow_their_owner(client: &Client, namespace: &str) -> anyhow::Result<()> {
    let api: Api<ConfigMap> = Api::namespaced(client.clone(), namespace);
    let owner = serde_json::from_value(json!({"metadata": {"name": "owner"}}))?;
    let owner: ConfigMap = api.create(&PostParams::default(), &owner).await?;
    let child = serde_json::from_value(json!({"metadata": {"name": "child", "ownerReferences": [{
        "apiVersion": "v1", "kind": "ConfigMap", "name": "owner", "uid": owner.metadata.uid,
    }]}}))?;
    api.create(&PostParams::default(), &child).await?;
    api.delete("owner", &DeleteParams::default()).await?;
    wait_for("the child to be collected", TIMEOUT, async || {
        Ok(api.get_opt("child").await?.is_none().then_some(()))
    })
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

#[tokio::test]
async fn killing_the_starter_leaves_nothing() {
    binaries();
    let mut starter = Command::new(std::env::current_exe().unwrap())
        .args(["--ignored", "--exact", "starter_to_be_killed", "--nocapture"])
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
    wait_for_end_of(&pids).await;
}

const PIDS: &str = "pids of the programs:";

#[tokio::test]
#[ignore = "run by killing_the_starter_leaves_nothing as a process of its own"]
async fn starter_to_be_killed() {
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
    let kubeconfig = dask_wasm_operator_test_support::Kubeconfig::read(&path).unwrap();
    let client = kubeconfig.client().await.unwrap();
    assert!(is_ready(&client).await);

    assert_eq!(detached::stop(directory).await.unwrap(), Stopped::Now);
    assert!(!is_ready(&client).await);
    assert_eq!(detached::kubeconfig_path(directory).unwrap(), None);
    assert_eq!(detached::stop(directory).await.unwrap(), Stopped::Before);
}
