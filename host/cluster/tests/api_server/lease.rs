//! Two replicas and one Lease.

use std::time::Duration;

use dask_wasm_operator_cluster::lease::{Leadership, LeaseSettings, LeaseState, holder_identity};
use dask_wasm_operator_test_support::{TestCluster, wait_for};
use k8s_openapi::api::coordination::v1::Lease;
use kube::{
    Api,
    api::{Patch, PatchParams},
};
use serde_json::json;

use crate::{PATIENCE, World, in_world, proxy::Proxy};

/// Shorter than in earnest, so that the tests don't wait.
fn settings(world: &World, base: &str) -> LeaseSettings {
    LeaseSettings {
        duration: Duration::from_secs(2),
        renew_interval: Duration::from_millis(500),
        retry_interval: Duration::from_millis(100),
        ..LeaseSettings::new(&world.namespace, holder_identity(base))
    }
}

fn start(world: &World, base: &str) -> anyhow::Result<Leadership> {
    Ok(Leadership::start(world.clients.unary.clone(), settings(world, base))?)
}

async fn acquired(leadership: &Leadership) -> anyhow::Result<()> {
    Ok(tokio::time::timeout(PATIENCE, leadership.acquired()).await?)
}

#[tokio::test]
async fn a_standby_takes_over_what_is_released() -> anyhow::Result<()> {
    in_world(async |world| {
        let first = start(&world, "first")?;
        acquired(&first).await?;
        let second = start(&world, "second")?;
        let holder = wait_for("the standby to know the holder", PATIENCE, async || match second.state() {
            LeaseState::Standby { holder: Some(holder) } => Ok(Some(holder)),
            _ => Ok(None),
        })
        .await?;
        assert!(holder.starts_with("first_"), "{holder}");
        assert!(first.gate().allows(Duration::ZERO));
        assert!(!second.gate().allows(Duration::ZERO));
        let gate = first.gate();
        first.release().await;
        assert!(!gate.allows(Duration::ZERO));
        acquired(&second).await?;
        assert!(second.gate().allows(Duration::ZERO));
        second.release().await;
        Ok(())
    })
    .await
}

#[tokio::test]
async fn a_standby_takes_over_from_one_that_died() -> anyhow::Result<()> {
    in_world(async |world| {
        let dying = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
        let cluster = TestCluster::obtain(&[]).await?;
        let settings = settings(&world, "first");
        let first = dying
            .spawn(async move {
                let clients = crate::connect(cluster.kubeconfig()).await?;
                let first = Leadership::start(clients.unary, settings)?;
                first.acquired().await;
                anyhow::Ok(first)
            })
            .await??;
        let second = start(&world, "second")?;
        wait_for("the standby to know the holder", PATIENCE, async || {
            Ok(matches!(second.state(), LeaseState::Standby { holder: Some(_) }).then_some(()))
        })
        .await?;
        dying.shutdown_background();
        acquired(&second).await?;
        assert!(!first.gate().allows(Duration::ZERO), "both must never write at the same time");
        second.release().await;
        Ok(())
    })
    .await
}

#[tokio::test]
async fn a_holder_that_is_replaced_stops_writing() -> anyhow::Result<()> {
    in_world(async |world| {
        let first = start(&world, "first")?;
        acquired(&first).await?;
        let leases: Api<Lease> = Api::namespaced(world.admin.clone(), &world.namespace);
        let usurp = json!({"spec": {"holderIdentity": "usurper"}});
        leases.patch("dask-wasm-operator", &PatchParams::default(), &Patch::Merge(usurp)).await?;
        let reason = tokio::time::timeout(PATIENCE, first.lost()).await?;
        assert_eq!(reason, "another process took it");
        assert!(!first.gate().allows(Duration::ZERO));
        first.release().await;
        let lease = leases.get("dask-wasm-operator").await?;
        assert_eq!(lease.spec.unwrap().holder_identity.as_deref(), Some("usurper"));
        Ok(())
    })
    .await
}

/// A leader whose way to the API server was cut until its Lease had run out.
async fn cut_off(world: &World) -> anyhow::Result<(Proxy, Leadership)> {
    let cluster = TestCluster::obtain(&[]).await?;
    let proxy = Proxy::start(cluster.kubeconfig()).await?;
    let clients = crate::connect(&proxy.kubeconfig(cluster.kubeconfig())?).await?;
    let leadership = Leadership::start(clients.unary, settings(world, "first"))?;
    acquired(&leadership).await?;
    proxy.cut();
    let gate = leadership.gate();
    wait_for("the Lease to run out", PATIENCE, async || Ok((!gate.allows(Duration::ZERO)).then_some(()))).await?;
    Ok((proxy, leadership))
}

#[tokio::test]
async fn a_holder_that_was_cut_off_goes_on_if_nobody_took_the_lease() -> anyhow::Result<()> {
    in_world(async |world| {
        let (proxy, leadership) = cut_off(&world).await?;
        let leases: Api<Lease> = Api::namespaced(world.admin.clone(), &world.namespace);
        let before = leases.get("dask-wasm-operator").await?.spec.unwrap();
        proxy.mend();
        tokio::time::timeout(PATIENCE, leadership.gate().opened(Duration::ZERO)).await?;
        assert_eq!(leadership.state(), LeaseState::Leading);
        let after = leases.get("dask-wasm-operator").await?.spec.unwrap();
        assert_eq!(after.holder_identity, before.holder_identity);
        assert_eq!(after.lease_transitions, before.lease_transitions);
        leadership.release().await;
        Ok(())
    })
    .await
}

#[tokio::test]
async fn a_holder_that_was_cut_off_is_lost_if_somebody_took_the_lease_or_may_have() -> anyhow::Result<()> {
    in_world(async |world| {
        let leases: Api<Lease> = Api::namespaced(world.admin.clone(), &world.namespace);
        let (proxy, leadership) = cut_off(&world).await?;
        let second = start(&world, "second")?;
        acquired(&second).await?;
        second.release().await;
        proxy.mend();
        let reason = tokio::time::timeout(PATIENCE, leadership.lost()).await?;
        assert_eq!(reason, "another process took it", "although it was given back since");
        assert!(!leadership.gate().allows(Duration::ZERO));

        let (proxy, leadership) = cut_off(&world).await?;
        leases.delete("dask-wasm-operator", &kube::api::DeleteParams::default()).await?;
        proxy.mend();
        let reason = tokio::time::timeout(PATIENCE, leadership.lost()).await?;
        assert_eq!(reason, "it had run out and was deleted");
        Ok(())
    })
    .await
}

#[tokio::test]
async fn a_lease_that_somebody_deletes_or_touches_is_kept() -> anyhow::Result<()> {
    in_world(async |world| {
        let first = start(&world, "first")?;
        acquired(&first).await?;
        let leases: Api<Lease> = Api::namespaced(world.admin.clone(), &world.namespace);
        leases.delete("dask-wasm-operator", &kube::api::DeleteParams::default()).await?;
        let renewed =
            wait_for("the Lease to be made anew", PATIENCE, async || Ok(leases.get_opt("dask-wasm-operator").await?))
                .await?;
        let label = json!({"metadata": {"labels": {"touched": "yes"}}});
        leases.patch("dask-wasm-operator", &PatchParams::default(), &Patch::Merge(label)).await?;
        wait_for("the next renewal", PATIENCE, async || {
            let lease = leases.get("dask-wasm-operator").await?;
            Ok((lease.spec.unwrap().renew_time > renewed.spec.clone().unwrap().renew_time).then_some(()))
        })
        .await?;
        assert_eq!(first.state(), LeaseState::Leading);
        first.release().await;
        Ok(())
    })
    .await
}
