//! Two operators: the one that waits takes over when the other ends.

use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use dask_wasm_operator_test_integration::{
    manifests,
    objects::{LEASE, SERVICE, TIMEOUT, text},
};
use dask_wasm_operator_test_support::{Operator, wait_for};

use crate::site::{Site, with_site};

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

async fn start(site: &Site) -> anyhow::Result<Operator> {
    let mut operator = site.start(&site.installation.kubeconfig, &[""; 0])?;
    operator.ready().await?;
    Ok(operator)
}

/// Waits until the Lease is held by somebody else than the former holder.
async fn new_holder(site: &Site, former: Option<&str>) -> anyhow::Result<String> {
    let holder = wait_for("a new holder of the Lease", TIMEOUT, async || {
        let lease = site.get(LEASE, "dask-wasm-operator").await?;
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
