//! The oldest and the newest release of Dask, as they come.

use std::time::UNIX_EPOCH;

use anyhow::Context as _;
use dask_wasm_operator_cluster::scheduler::{Deadlines, SchedulerClient};
use dask_wasm_operator_core::scheduler::{Left, SchedulerWorker};
use dask_wasm_operator_test_support::{Dask, DaskOptions, DaskProcesses, wait_for};

use super::{NOWHERE, PATIENCE, adaptive_target, client, idle_since, retire, workers};

/// A scheduler with workers of these names, and a client that finds it under the name `c`.
async fn start(version: &str, with_api: bool, names: &[&str]) -> anyhow::Result<(DaskProcesses, SchedulerClient)> {
    let mut dask = Dask::install(version)?.start(DaskOptions { with_api, ..DaskOptions::default() }).await?;
    for name in names {
        dask.add_worker(name)?;
    }
    let address = format!("{},{}", dask.comm(), dask.dashboard());
    let client = client(&[("c", &address)], NOWHERE, Deadlines::default())?;
    registered(&client, names.len()).await?;
    Ok((dask, client))
}

async fn registered(client: &SchedulerClient, count: usize) -> anyhow::Result<Vec<SchedulerWorker>> {
    wait_for("the workers", PATIENCE, async || {
        let workers = workers(client, "c").await?;
        Ok((workers.len() == count).then_some(workers))
    })
    .await
}

async fn retiring_moves_what_a_worker_holds(version: &str) -> anyhow::Result<()> {
    let (mut dask, client) = start(version, false, &["alpha", "beta", "gamma"]).await?;
    // What was scattered can't be computed again.
    dask.run(
        "addresses = {w['name']: a for a, w in client.scheduler_info()['workers'].items()}\n\
         client.publish_dataset(x=client.scatter(['word'] * 50, workers=[addresses['beta']], hash=False))",
    )?;
    let before = workers(&client, "c").await?;
    let last = before.iter().max_by_key(|worker| worker.place).context("there are workers")?;
    assert_eq!(last.name, "beta", "what holds most is missed most");
    assert!(before.iter().all(|worker| worker.retiring.is_none() && worker.address.starts_with("tcp://127.0.0.1:")));
    let beta = last.address.clone();

    for _ in 0..2 {
        assert_eq!(retire(&client, "c", &[&beta, "tcp://127.0.0.1:1"]).await?, std::slice::from_ref(&beta));
    }
    for _ in 0..2 {
        let after = workers(&client, "c").await?;
        let retiring = after.iter().filter_map(|worker| Some((&worker.address, worker.retiring?)));
        assert_eq!((after.len(), retiring.collect::<Vec<_>>()), (3, vec![(&beta, Left::Nothing)]));
    }
    dask.kill_workers("beta");
    registered(&client, 2).await?;
    assert_eq!(dask.run("print(sum(x == 'word' for x in client.gather(client.get_dataset('x'))))")?, "50");

    // With the last two at once there is nowhere to move it to.
    let rest: Vec<_> = workers(&client, "c").await?.into_iter().map(|worker| worker.address).collect();
    let gone = retire(&client, "c", &rest.iter().map(String::as_str).collect::<Vec<_>>()).await?;
    assert!(gone.len() < 2, "{gone:?}");
    assert_eq!(dask.run("print(sum(x == 'word' for x in client.gather(client.get_dataset('x'))))")?, "50");
    Ok(())
}

#[tokio::test]
async fn retiring_moves_what_a_worker_holds_in_the_oldest_release() -> anyhow::Result<()> {
    retiring_moves_what_a_worker_holds(Dask::OLDEST).await
}

#[tokio::test]
async fn retiring_moves_what_a_worker_holds_in_the_newest_release() -> anyhow::Result<()> {
    retiring_moves_what_a_worker_holds(Dask::NEWEST).await
}

/// How the client gets at a scheduler.
enum Way {
    /// As usual: by RPC, and by HTTP where that has more.
    Rpc,
    /// By HTTP alone.
    Http,
}

async fn target_and_idleness_are_told(version: &str, with_api: bool, way: Way) -> anyhow::Result<()> {
    let (dask, client) = start(version, with_api, &["alpha"]).await?;
    let client = match way {
        Way::Rpc => client,
        Way::Http => http_client(&dask)?,
    };
    let first = wait_for("an idle scheduler", PATIENCE, async || idle_since(&client, "c").await).await?;
    assert_eq!(idle_since(&client, "c").await?, Some(first), "the clock goes on");
    let now = UNIX_EPOCH.elapsed()?.as_secs();
    assert!(now.abs_diff(first / 1000) < 3600, "{first} is a time in milliseconds");
    assert_eq!(adaptive_target(&client, "c").await?, 0);

    dask.run("import time\nclient.publish_dataset(x=client.map(time.sleep, [3600 + n for n in range(20)]))")?;
    assert_eq!(idle_since(&client, "c").await?, None);
    assert!(adaptive_target(&client, "c").await? >= 1);

    dask.run("client.unpublish_dataset('x')")?;
    let again = wait_for("an idle scheduler", PATIENCE, async || idle_since(&client, "c").await).await?;
    assert!(again > first);
    assert_eq!(adaptive_target(&client, "c").await?, 0);
    Ok(())
}

/// A client that finds the scheduler under the name `c`, but not its comm port.
fn http_client(dask: &DaskProcesses) -> anyhow::Result<SchedulerClient> {
    client(&[("c", &format!("{NOWHERE},{}", dask.dashboard()))], NOWHERE, Deadlines::default())
}

#[tokio::test]
async fn target_and_idleness_are_told_by_the_oldest_release() -> anyhow::Result<()> {
    target_and_idleness_are_told(Dask::OLDEST, false, Way::Rpc).await
}

#[tokio::test]
async fn target_and_idleness_are_told_by_the_counts_of_the_oldest_release() -> anyhow::Result<()> {
    target_and_idleness_are_told(Dask::OLDEST, false, Way::Http).await
}

#[tokio::test]
async fn target_and_idleness_are_told_by_the_api_of_the_oldest_release() -> anyhow::Result<()> {
    target_and_idleness_are_told(Dask::OLDEST, true, Way::Http).await
}

#[tokio::test]
async fn target_and_idleness_are_told_by_the_newest_release() -> anyhow::Result<()> {
    target_and_idleness_are_told(Dask::NEWEST, false, Way::Rpc).await
}

#[tokio::test]
async fn target_and_idleness_are_told_by_the_api_of_the_newest_release() -> anyhow::Result<()> {
    target_and_idleness_are_told(Dask::NEWEST, true, Way::Http).await
}

#[tokio::test]
async fn tasks_that_wait_for_the_first_worker_are_no_idleness() -> anyhow::Result<()> {
    let (dask, client) = start(Dask::NEWEST, false, &[]).await?;
    let by_counts = http_client(&dask)?;
    wait_for("an idle scheduler", PATIENCE, async || idle_since(&client, "c").await).await?;
    assert!(idle_since(&by_counts, "c").await?.is_some());
    // Enough alike to be queued at the scheduler.
    dask.run("import time\nclient.publish_dataset(x=client.map(time.sleep, [1 + n / 1000 for n in range(50)]))")?;
    assert_eq!(idle_since(&client, "c").await?, None);
    assert_eq!(idle_since(&by_counts, "c").await?, None);
    Ok(())
}

async fn workers_are_told_and_retired_by_the_api(version: &str) -> anyhow::Result<()> {
    let (dask, by_rpc) = start(version, true, &["alpha", "beta"]).await?;
    let client = http_client(&dask)?;
    let found = workers(&client, "c").await?;
    let alpha = found.iter().find(|worker| worker.name == "alpha").expect("it is registered").address.clone();
    assert_eq!(found.len(), 2);
    assert_eq!(retire(&client, "c", &[&alpha, "tcp://127.0.0.1:1"]).await?, std::slice::from_ref(&alpha));
    assert!(workers(&by_rpc, "c").await?.iter().all(|worker| worker.address != alpha), "it is struck off");
    Ok(())
}

#[tokio::test]
async fn workers_are_told_and_retired_by_the_api_of_the_oldest_release() -> anyhow::Result<()> {
    workers_are_told_and_retired_by_the_api(Dask::OLDEST).await
}

#[tokio::test]
async fn workers_are_told_and_retired_by_the_api_of_the_newest_release() -> anyhow::Result<()> {
    workers_are_told_and_retired_by_the_api(Dask::NEWEST).await
}

#[tokio::test]
async fn several_processes_of_a_worker_are_several_workers() -> anyhow::Result<()> {
    let (mut dask, client) = start(Dask::NEWEST, true, &[]).await?;
    dask.add_workers("alpha", &["--nworkers", "2"])?;
    let mut names: Vec<_> = registered(&client, 2).await?.into_iter().map(|worker| worker.name).collect();
    names.sort();
    assert_eq!(names, ["alpha-0", "alpha-1"]);
    Ok(())
}
