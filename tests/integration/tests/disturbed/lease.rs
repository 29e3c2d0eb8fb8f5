//! The Lease: who waits for it takes over when the holder ends, and nobody ends because the API server is away.

use std::{
    process::Command,
    time::{Duration, Instant},
};

use anyhow::{Context, ensure};
use dask_wasm_operator_api::crds;
use dask_wasm_operator_test_integration::{
    manifests,
    objects::{LEASE, Objects, SERVICE, TIMEOUT, text},
};
use dask_wasm_operator_test_support::{
    Operator,
    control_plane::{Binaries, ControlPlane},
    endpoints::{free_port, get, metric},
    wait_for,
};
use serde_json::json;

use crate::site::{Site, with_site};

/// The Lease of each operator's own namespace.
const NAME: &str = "dask-wasm-operator";

/// After an orderly end, which releases the Lease (ADR 24).
const AFTER_SIGTERM: Duration = Duration::from_secs(2);

/// After a crash: the Lease has to run out first (ADR 24).
const AFTER_SIGKILL: Duration = Duration::from_secs(12);

#[tokio::test]
async fn a_standby_takes_over_after_an_end_and_after_a_crash() {
    with_site(async |site| {
        let mut first = start(site).await?;
        let holder = new_holder(site, None).await?;
        serves(site, "first").await?;

        let mut second = start(site).await?;
        let begun = Instant::now();
        ensure!(first.stop().await?.success(), "the operator's log:\n{}", first.log());
        let holder = new_holder(site, Some(&holder)).await?;
        let taken = begun.elapsed();
        ensure!(taken <= AFTER_SIGTERM, "taken over {taken:?} after SIGTERM");
        serves(site, "second").await?;

        let mut third = start(site).await?;
        let begun = Instant::now();
        second.kill()?;
        new_holder(site, Some(&holder)).await?;
        let taken = begun.elapsed();
        ensure!(taken <= AFTER_SIGKILL, "taken over {taken:?} after SIGKILL");
        serves(site, "third").await?;
        third.must_run()
    })
    .await
    .unwrap();
}

/// Within this time of its taking over, on a busy machine, an operator is at work.
const AT_WORK: Duration = Duration::from_secs(8);

#[tokio::test]
async fn what_waited_for_the_lease_is_done_when_it_is_released() {
    done_when_taken_over(AFTER_SIGTERM, async |site| {
        site.merge(LEASE, NAME, &json!({"spec": {"holderIdentity": null}})).await?;
        Ok(())
    })
    .await
    .unwrap();
}

#[tokio::test]
async fn what_waited_for_the_lease_is_done_when_it_has_run_out() {
    done_when_taken_over(AFTER_SIGKILL, async |_| Ok(())).await.unwrap();
}

/// A DaskCluster is made while the Lease is somebody else's; then `end` comes for that, and nothing else changes.
async fn done_when_taken_over(
    within: Duration,
    end: impl AsyncFnOnce(&Site) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    with_site(async |site| {
        site.create(&json!({
            "apiVersion": LEASE.0, "kind": LEASE.1, "metadata": {"name": NAME},
            "spec": {"holderIdentity": "somebody else", "leaseDurationSeconds": 10},
        }))
        .await?;
        let port = free_port()?;
        let address = format!("--admin-address=127.0.0.1:{port}");
        let mut operator = site.start(&site.installation.kubeconfig, &[&address])?;
        operator.ready().await?;
        let begun = Instant::now();
        site.create(&manifests::cluster("waiting", 0)).await?;
        wait_for("the standby to know of the cluster", TIMEOUT, async || {
            Ok((metric(&get(port, "/metrics").await?.1, "dask_operator_objects") > 0.0).then_some(()))
        })
        .await?;
        ensure!(site.find(SERVICE, "waiting-scheduler").await?.is_none(), "it is served without the Lease");
        end(site).await?;
        site.until_there(SERVICE, "waiting-scheduler").await?;
        let taken = begun.elapsed();
        ensure!(taken <= within + AT_WORK, "done {taken:?} after the end of the holder: {}", operator.log());
        operator.must_run()
    })
    .await
}

#[tokio::test]
async fn an_outage_of_the_api_server_that_outlasts_the_lease_ends_nobody() {
    // Others could not do without their API server.
    let binaries = tokio::task::spawn_blocking(|| Binaries::ensure(&|line| eprintln!("{line}")));
    let control_plane = ControlPlane::start(&binaries.await.unwrap().unwrap(), &crds()).await.unwrap();
    outlasts_outage(&control_plane).await.unwrap();
}

async fn outlasts_outage(control_plane: &ControlPlane) -> anyhow::Result<()> {
    let port = free_port()?;
    let address = format!("--admin-address=127.0.0.1:{port}");
    let mut operator = Operator::start(control_plane.kubeconfig(), &[&address])?;
    operator.ready().await?;
    let objects = Objects { client: control_plane.kubeconfig().client().await?, namespace: "default".into() };
    objects.create(&manifests::cluster("before", 1)).await?;
    objects.until_there(SERVICE, "before-scheduler").await?;
    let holder = text(&objects.get(LEASE, NAME).await?, "/spec/holderIdentity").to_owned();

    signal(control_plane, "STOP")?;
    let run_out = wait_for("the Lease to run out", TIMEOUT, async || {
        operator.must_run()?;
        Ok(operator.log().contains("the Lease has expired").then_some(()))
    });
    let run_out = run_out.await;
    let health = get(port, "/healthz").await?.0;
    signal(control_plane, "CONT")?;
    run_out?;
    ensure!(health.is_success(), "a restart would not help");

    objects.create(&manifests::cluster("after", 1)).await?;
    let served = objects.until_there(SERVICE, "after-scheduler").await;
    served.with_context(|| format!("the operator's log:\n{}", operator.log()))?;
    operator.must_run()?;
    let lease = objects.get(LEASE, NAME).await?;
    ensure!(text(&lease, "/spec/holderIdentity") == holder, "{lease:#}");
    ensure!(operator.stop().await?.success(), "{}", operator.log());
    Ok(())
}

/// Sends a signal to the API server.
fn signal(control_plane: &ControlPlane, signal: &str) -> anyhow::Result<()> {
    let pids = control_plane.pids();
    let (_, pid) = pids.iter().find(|(name, _)| *name == "kube-apiserver").context("there is no API server")?;
    let status = Command::new("kill").args([&format!("-{signal}"), &pid.to_string()]).status()?;
    ensure!(status.success(), "kill -{signal} {pid}: {status}");
    Ok(())
}

async fn start(site: &Site) -> anyhow::Result<Operator> {
    let mut operator = site.start(&site.installation.kubeconfig, &[""; 0])?;
    operator.ready().await?;
    Ok(operator)
}

/// Waits until the Lease is held by somebody else than the former holder.
async fn new_holder(site: &Site, former: Option<&str>) -> anyhow::Result<String> {
    let holder = wait_for("a new holder of the Lease", TIMEOUT, async || {
        let lease = site.get(LEASE, NAME).await?;
        let holder = text(&lease, "/spec/holderIdentity").to_owned();
        Ok(Some(holder).filter(|holder| !holder.is_empty() && Some(holder.as_str()) != former))
    });
    holder.await
}

/// Waits until a new DaskCluster is served.
async fn serves(site: &Site, cluster: &str) -> anyhow::Result<()> {
    site.create(&manifests::cluster(cluster, 0)).await?;
    let service = site.until_there(SERVICE, &format!("{cluster}-scheduler")).await;
    service.with_context(|| format!("the DaskCluster {cluster} is not served"))?;
    Ok(())
}
