//! When there is nothing to do, nothing is done.

use std::time::Duration;

use anyhow::{Context, ensure};
use dask_wasm_operator_test_integration::{
    example, manifests,
    objects::{CLUSTER, GROUP, TIMEOUT, condition},
    settled::Listed,
};
use dask_wasm_operator_test_support::{
    AuditLog, AuditedRequest, apply_objects,
    control_plane::{Binaries, ControlPlane},
    wait_for,
};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::Namespace;
use kube::api::{Api, PostParams};
use serde_json::json;
use tokio::time::sleep;

use crate::{
    site::Site,
    snapshot::{KINDS, untold},
};

const CLUSTERS: usize = 50;
const WORKERS: u32 = 2;
const NAMESPACE: &str = "quiet";

/// What is claimed is that nothing happens for so long: two ends of each watch are in it.
const WINDOW: Duration = Duration::from_secs(60);

/// Who has asked for nothing for so long has told of the last changes, too: counts of plugins are, at most each 10 s.
const SETTLING: SignedDuration = SignedDuration::from_secs(12);

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
    let (user, audit_log) = (site.installation.user(), control_plane.audit_log());
    settled(&site).await.with_context(|| operator.log())?;
    let begin = silence(&audit_log, &user).await.with_context(|| operator.log())?;
    sleep(WINDOW).await;
    let end = Timestamp::now();
    operator.must_run()?;

    let requests = audit_log.requests_of(&user, begin..end)?;
    let (routine, rest): (Vec<_>, Vec<_>) = requests.into_iter().partition(is_of_routine);
    let (watches, lease): (Vec<_>, Vec<_>) = routine.into_iter().partition(|request| request.verb == "watch");
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

/// Waits until everything is made and told: no pod ever starts here.
async fn settled(site: &Site) -> anyhow::Result<()> {
    let is_told = |Listed { kind, object }: &&Listed| {
        [CLUSTER.1, GROUP.1].contains(kind)
            && object["status"]["replicas"] == WORKERS
            && condition(object, "Progressing")["reason"] == "WorkersStarting"
    };
    let unfinished = |seen: &[Listed]| {
        let told = seen.iter().filter(is_told).count();
        untold(seen).or_else(|| (told != 2 * CLUSTERS).then(|| format!("{told} statuses are final")))
    };
    site.settled(&KINDS, unfinished).await.map(drop)
}

/// Waits until the operator has asked for nothing for a moment, and answers when that was.
async fn silence(audit_log: &AuditLog, user: &str) -> anyhow::Result<Timestamp> {
    wait_for("the operator's last request", TIMEOUT, async || {
        let now = Timestamp::now();
        let requests = audit_log.requests_of(user, ..)?;
        let last = requests.iter().filter(|request| !is_of_routine(request)).map(|request| request.received).max();
        Ok(last.is_some_and(|last| now.duration_since(last) >= SETTLING).then_some(now))
    })
    .await
}

/// A watch, or about the Lease.
fn is_of_routine(request: &AuditedRequest) -> bool {
    request.verb == "watch" || request.uri.contains("/leases/")
}
