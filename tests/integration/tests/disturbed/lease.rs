//! Two operators: the one that waits takes over when the other ends.

use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use dask_wasm_operator_test_support::{Operator, wait_for};
use k8s_openapi::api::coordination::v1::Lease;
use kube::api::Api;

use crate::site::{Site, TIMEOUT, resource, with_site};

/// After an orderly end, which releases the Lease (decision A.7).
const AFTER_SIGTERM: Duration = Duration::from_secs(2);

/// After a crash: the Lease has to run out first (decision A.7).
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
    let mut operator = site.start(&site.installation.kubeconfig, &[])?;
    operator.ready().await?;
    Ok(operator)
}

/// Waits until the Lease is held by somebody else than the former holder.
async fn new_holder(site: &Site, former: Option<&str>) -> anyhow::Result<String> {
    let leases: Api<Lease> = Api::namespaced(site.client.clone(), &site.namespace);
    let holder = wait_for("a new holder of the Lease", TIMEOUT, async || {
        let lease = leases.get("dask-wasm-operator").await?;
        let holder = lease.spec.and_then(|spec| spec.holder_identity).filter(|holder| !holder.is_empty());
        Ok(holder.filter(|holder| Some(holder.as_str()) != former))
    });
    holder.await
}

/// Waits until a new DaskCluster is served.
async fn serves(site: &Site, cluster: &str) -> anyhow::Result<()> {
    site.create_cluster(cluster, 0).await?;
    let services = site.api(&resource("v1", "Service"));
    let service = wait_for("the scheduler's Service", TIMEOUT, async || {
        Ok(services.get_opt(&format!("{cluster}-scheduler")).await?.map(drop))
    });
    service.await.with_context(|| format!("the DaskCluster {cluster} is not served"))
}
