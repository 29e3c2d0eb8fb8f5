//! When there is nothing to do, nothing is done.

use std::time::Duration;

use anyhow::{Context, ensure};
use dask_wasm_operator_test_integration::{
    example, manifests,
    objects::{CLUSTER, DEPLOYMENT, GROUP, Kind, PLUGIN_RECORD, TIMEOUT, VIRTUAL_SERVICE},
};
use dask_wasm_operator_test_support::{
    apply_objects,
    control_plane::{Binaries, ControlPlane},
    wait_for,
};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Namespace;
use kube::api::{Api, PostParams};
use serde_json::{Value, json};
use tokio::time::sleep;

use crate::site::Site;

const CLUSTERS: usize = 50;
const WORKERS: u32 = 2;
const NAMESPACE: &str = "quiet";

/// What is claimed is that nothing happens for so long: two ends of each watch are in it.
const WINDOW: Duration = Duration::from_secs(60);

/// What the last changes are told in (statuses at most each 250 ms) is over after this.
const SETTLING: Duration = Duration::from_secs(3);

#[tokio::test]
async fn fifty_settled_clusters_cost_no_request_but_watches() {
    // Others would change what this operator watches.
    let binaries =
        tokio::task::spawn_blocking(|| Binaries::ensure(&|line| eprintln!("{line}"))).await.unwrap().unwrap();
    let control_plane = ControlPlane::start(&binaries, &example::definitions().unwrap()).await.unwrap();
    quiet(&control_plane).await.unwrap();
}

async fn quiet(control_plane: &ControlPlane) -> anyhow::Result<()> {
    let client = control_plane.kubeconfig().client().await?;
    let mut namespace = Namespace::default();
    namespace.metadata.name = Some(NAMESPACE.to_owned());
    Api::all(client.clone()).create(&PostParams::default(), &namespace).await.context("creating the namespace")?;
    let site = Site::install(control_plane.kubeconfig(), NAMESPACE, &json!({})).await?;
    // With the Lease, in all namespaces: as it is installed by default.
    let arguments = ["--operator-namespace", NAMESPACE];
    let mut operator = dask_wasm_operator_test_support::Operator::start(&site.installation.kubeconfig, &arguments)?;
    let clusters: Vec<_> =
        (0..CLUSTERS).map(|number| manifests::cluster(&format!("quiet-{number}"), WORKERS)).collect();
    apply_objects(&client, NAMESPACE, &clusters).await?;
    for kind in [CLUSTER, GROUP] {
        settled(&site, kind).await.with_context(|| operator.log())?;
    }
    made(&site).await.with_context(|| operator.log())?;

    sleep(SETTLING).await;
    let begin = Timestamp::now();
    sleep(WINDOW).await;
    let end = Timestamp::now();
    operator.must_run()?;

    let user = site.installation.user();
    let requests = control_plane.audit_log().requests_of(&user, begin..end)?;
    let (lease, rest): (Vec<_>, Vec<_>) = requests.into_iter().partition(|request| request.uri.contains("/leases/"));
    let (watches, rest): (Vec<_>, Vec<_>) = rest.into_iter().partition(|request| request.verb == "watch");
    println!("in {WINDOW:?}: {} watches, {} for the Lease, {} others", watches.len(), lease.len(), rest.len());
    ensure!(
        rest.is_empty(),
        "{} requests with nothing to do, such as\n{:#?}",
        rest.len(),
        rest.iter().take(20).collect::<Vec<_>>()
    );
    // Each was opened anew: that took no list.
    ensure!(
        watches.len() >= 5 && !lease.is_empty(),
        "the log has not what is known to happen: {watches:#?} {lease:#?}"
    );
    Ok(())
}

/// Waits until the status of every object of a kind is final: no pod ever starts here.
async fn settled(site: &Site, kind: Kind<'_>) -> anyhow::Result<()> {
    let is_settled = |object: &Value| {
        let mut conditions = object["status"]["conditions"].as_array().into_iter().flatten();
        object["status"]["replicas"] == WORKERS && conditions.any(|condition| condition["reason"] == "WorkersStarting")
    };
    wait_for(&format!("every {} to be settled", kind.1), TIMEOUT, async || {
        let settled = site.list(kind, "").await?.iter().filter(|object| is_settled(object)).count();
        ensure!(settled == CLUSTERS, "{settled} are settled");
        Ok(Some(()))
    })
    .await
}

/// Waits until the plugin has made all that it is to make, and other controllers have seen it.
async fn made(site: &Site) -> anyhow::Result<()> {
    wait_for("everything to be made", TIMEOUT, async || {
        let counts = [site.list(VIRTUAL_SERVICE, "").await?.len(), site.list(PLUGIN_RECORD, "").await?.len()];
        ensure!(counts == [CLUSTERS; 2], "{counts:?} VirtualServices and records");
        let deployments = site.list(DEPLOYMENT, "").await?;
        let seen = deployments.iter().filter(|object| object["status"]["unavailableReplicas"] == 1).count();
        ensure!(seen == CLUSTERS * (WORKERS as usize + 1), "{seen} Deployments have their pods");
        Ok(Some(()))
    })
    .await
}
