//! Fewer workers, without losing what they hold.

use anyhow::ensure;
use serde_json::json;

use crate::{
    manifests::{SIMPLE, SIMPLE_GROUP},
    objects::{GROUP, name},
    stage::{Stage, on_stage_with_dask},
};

/// The workers of a group that are left, by name.
async fn left(stage: &Stage, count: usize) -> anyhow::Result<Vec<String>> {
    let workers = stage.until_workers(SIMPLE_GROUP, count).await?;
    Ok(workers.iter().map(|worker| name(worker).to_owned()).collect())
}

#[tokio::test]
async fn what_removed_workers_hold_moves_to_those_that_stay() -> anyhow::Result<()> {
    on_stage_with_dask(&[], async |stage, dask| {
        let names = stage.running_simple(dask, 4).await?;
        // Data that can't be computed again, on each worker, and the most of it on the newest.
        dask.run(
            "workers = sorted(client.scheduler_info()['workers'])\n\
             data = [client.scatter(bytes(1000 * (1 + at)), workers=[worker], hash=False) for at, worker in enumerate(workers)]\n\
             client.publish_dataset(data, name='data')",
        )?;
        stage.scale(GROUP, SIMPLE_GROUP, 2).await?;
        let left = left(stage, 2).await?;
        for gone in names.iter().filter(|name| !left.contains(name)) {
            dask.kill_workers(gone);
        }
        let sizes = dask.run("print(sorted(len(part) for part in client.gather(client.get_dataset('data'))))")?;
        ensure!(sizes == "[1000, 2000, 3000, 4000]", "of the data there is {sizes}");
        Ok(())
    })
    .await
}

#[tokio::test]
async fn what_removed_workers_have_begun_is_finished_and_moves_too() -> anyhow::Result<()> {
    on_stage_with_dask(&[], async |stage, dask| {
        let names = stage.running_simple(dask, 4).await?;
        // One at a time on each worker, and as many again that wait for it.
        dask.run(
            "import time\n\
             from distributed import get_worker\n\
             def task(number, seconds):\n\
             \x20   get_worker().log_event('begun', number)\n\
             \x20   time.sleep(seconds)\n\
             \x20   return number\n\
             before = client.map(task, range(4), seconds=0, pure=False)\n\
             client.gather(before)\n\
             tasks = before + client.map(task, range(4, 12), seconds=4, pure=False)\n\
             client.publish_dataset(tasks, name='tasks')\n\
             while len(client.get_events('begun')) < 8: time.sleep(0.05)",
        )?;
        stage.scale(GROUP, SIMPLE_GROUP, 2).await?;
        let left = left(stage, 2).await?;
        for gone in names.iter().filter(|name| !left.contains(name)) {
            dask.kill_workers(gone);
        }
        let told = dask.run(
            "results = client.gather(client.get_dataset('tasks'))\n\
             print(results, sorted(number for _, number in client.get_events('begun')))",
        )?;
        let each = "[0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11]";
        ensure!(told == format!("{each} {each}"), "results, and what was begun: {told}");
        Ok(())
    })
    .await
}

#[tokio::test]
async fn fault_09_a_worker_under_a_name_of_its_own_hands_over_what_it_holds() -> anyhow::Result<()> {
    on_stage_with_dask(&[], async |stage, dask| {
        stage.running_cluster(SIMPLE, 2).await?;
        stage.run_pod_of("simple-scheduler").await?;
        let workers = stage.until_workers(SIMPLE_GROUP, 2).await?;
        let [own, usual] = [name(&workers[0]), name(&workers[1])];
        stage.run_pod_of(own).await?;
        let address = json!({"podIP": "127.0.0.1", "podIPs": [{"ip": "127.0.0.1"}]});
        stage.report_pod_of(own, &address).await?;
        stage.run_pod_of(usual).await?;
        dask.add_worker("alice")?;
        dask.add_worker(usual)?;
        // The scheduler can best do without the one that holds less.
        dask.run(
            "client.wait_for_workers(2)\n\
             names = {worker['name']: address for address, worker in client.scheduler_info()['workers'].items()}\n\
             data = [client.scatter(bytes(100_000 if name != 'alice' else 1000), workers=[address], hash=False)\n\
             \x20   for name, address in names.items()]\n\
             client.publish_dataset(data, name='data')",
        )?;
        stage.scale(GROUP, SIMPLE_GROUP, 1).await?;
        ensure!(left(stage, 1).await? == [usual], "that of alice goes");
        dask.kill_workers("alice");
        let sizes = dask.run("print(sorted(len(part) for part in client.gather(client.get_dataset('data'))))")?;
        ensure!(sizes == "[1000, 100000]", "of the data there is {sizes}");
        Ok(())
    })
    .await
}

#[tokio::test]
async fn fault_03_workers_that_never_started_go_first_and_nobody_is_asked() -> anyhow::Result<()> {
    on_stage_with_dask(&[], async |stage, dask| {
        let started = stage.running_simple(dask, 2).await?;
        stage.scale(GROUP, SIMPLE_GROUP, 5).await?;
        stage.until_workers(SIMPLE_GROUP, 5).await?;
        stage.scale(GROUP, SIMPLE_GROUP, 2).await?;
        assert_eq!(left(stage, 2).await?, started);
        assert_eq!(dask.run("print(len(client.scheduler_info()['workers']))")?, "2", "no process was retired");
        Ok(())
    })
    .await
}

#[tokio::test]
async fn an_operator_that_is_killed_while_it_scales_down_goes_on() -> anyhow::Result<()> {
    on_stage_with_dask(&[], async |stage, dask| {
        stage.running_simple(dask, 4).await?;
        stage.scale(GROUP, SIMPLE_GROUP, 1).await?;
        stage.operator.kill()?;
        stage.start().await?;
        left(stage, 1).await?;
        stage.until_running(SIMPLE, 1).await?;
        Ok(())
    })
    .await
}

#[tokio::test]
async fn the_newest_go_after_a_while_if_the_scheduler_is_silent() -> anyhow::Result<()> {
    on_stage_with_dask(&["--scale-down-deadline", "1"], async |stage, dask| {
        let names = stage.running_simple(dask, 3).await?;
        dask.kill_workers("scheduler");
        stage.scale(GROUP, SIMPLE_GROUP, 1).await?;
        ensure!(names.contains(&left(stage, 1).await?[0]), "the one that is left was there before");
        let note = stage.until_event(GROUP, SIMPLE_GROUP, "ScaledDownBlindly").await?;
        ensure!(note.contains("lost"), "it says what may be lost: {note}");
        Ok(())
    })
    .await
}
