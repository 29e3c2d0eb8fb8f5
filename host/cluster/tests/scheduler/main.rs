//! The client for schedulers against real Dask, and against schedulers that no sane person would write.

mod bounds;
mod double;
mod fallbacks;
mod faults;
mod forward;
mod pods;
mod real;
mod recorded;
mod scaling;
mod tls;
#[expect(
    clippy::panic,
    clippy::unwrap_used,
    dead_code,
    reason = "the helpers of another test, of which a part is needed"
)]
#[path = "../../../core/tests/asked/world.rs"]
mod world;

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use anyhow::bail;
use dask_wasm_operator_cluster::scheduler::{Addresses, Deadlines, Given, Route, SchedulerClient};
use dask_wasm_operator_core::{
    object::NamespacedName,
    ports::Schedulers as _,
    scheduler::{Scheduler, SchedulerCall, SchedulerError, SchedulerReply, SchedulerWorker, ServicePort, TargetPort},
};

/// How long any condition may take on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// Long enough for an answer over loopback on a busy machine, short enough to wait for one that does not come.
const IMPATIENT: Deadlines = Deadlines {
    whole: PATIENCE,
    connect: Duration::from_secs(2),
    handshake: Duration::from_secs(1),
    call: Duration::from_secs(1),
    transfer: Duration::from_secs(1),
    retire: Duration::from_secs(1),
    reuse: PATIENCE,
};

/// A scheduler of namespace `n` at the address that [`client`] is given for it.
fn scheduler(name: &str) -> Scheduler {
    Scheduler {
        cluster: NamespacedName::new("n", name),
        service: format!("{name}-scheduler"),
        comm_port: ServicePort { number: 8786, target: TargetPort::Name("tcp-comm".to_owned()) },
        dashboard_port: Some(ServicePort::straight(8787)),
        tls_secret: None,
    }
}

/// A client of schedulers by name with `HOST:PORT[,HOST:PORT]`, and of an API server at `HOST:PORT`.
fn client(schedulers: &[(&str, &str)], api_server: &str, deadlines: Deadlines) -> anyhow::Result<SchedulerClient> {
    let mut given = BTreeMap::new();
    for (name, address) in schedulers {
        let Given { cluster, address } = format!("n/{name}={address}").parse()?;
        given.insert(cluster, address);
    }
    let kubernetes = kube::Client::try_from(kube::Config::new(format!("http://{api_server}").parse()?))?;
    let addresses = Addresses { given, pods: Arc::new(|_| None), route: Route::PodNetwork };
    Ok(SchedulerClient::new(kubernetes, addresses, deadlines))
}

/// An address at which nobody listens: the port of tcpmux.
const NOWHERE: &str = "127.0.0.1:1";

/// Says one thing to the scheduler of this name; ends in bounded time or fails.
async fn say(client: &SchedulerClient, name: &str, call: SchedulerCall) -> Result<SchedulerReply, SchedulerError> {
    say_to(client, scheduler(name), call).await
}

async fn say_to(
    client: &SchedulerClient,
    scheduler: Scheduler,
    call: SchedulerCall,
) -> Result<SchedulerReply, SchedulerError> {
    tokio::time::timeout(PATIENCE, client.call(scheduler, call)).await.expect("every call ends in bounded time")
}

async fn workers(client: &SchedulerClient, name: &str) -> anyhow::Result<Vec<SchedulerWorker>> {
    match say(client, name, SchedulerCall::Workers).await? {
        SchedulerReply::Workers(workers) => Ok(workers),
        other => bail!("{other:?}"),
    }
}

async fn adaptive_target(client: &SchedulerClient, name: &str) -> anyhow::Result<u64> {
    match say(client, name, SchedulerCall::AdaptiveTarget).await? {
        SchedulerReply::AdaptiveTarget(target) => Ok(target),
        other => bail!("{other:?}"),
    }
}

async fn idle_since(client: &SchedulerClient, name: &str) -> anyhow::Result<Option<u64>> {
    match say(client, name, SchedulerCall::IdleSince).await? {
        SchedulerReply::IdleSince(since) => Ok(since),
        other => bail!("{other:?}"),
    }
}

async fn retire(client: &SchedulerClient, name: &str, addresses: &[&str]) -> anyhow::Result<Vec<String>> {
    let addresses = addresses.iter().map(|&address| address.to_owned()).collect();
    match say(client, name, SchedulerCall::Retire(addresses)).await? {
        SchedulerReply::Retired(addresses) => Ok(addresses),
        other => bail!("{other:?}"),
    }
}
