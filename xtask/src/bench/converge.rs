//! `cargo xtask bench converge`: how fast many clusters come up, and at what cost.

use std::{path::PathBuf, time::Duration};

use anyhow::Context as _;
use clap::Args;
use dask_wasm_operator_api::crds;
use dask_wasm_operator_test_support::{
    Installation, Operator, PythonOperator,
    control_plane::{Binaries, ControlPlane},
    wait_for,
};
use futures::future::try_join_all;
use jiff::Timestamp;
use kube::{
    Client,
    api::{DeleteParams, PostParams},
};
use serde_json::json;
use tokio::time::{Instant, sleep};

use super::{
    bare::{self, Verb},
    bounds::Bounds,
    load::{Load, dask_cluster, dask_clusters, namespace},
    process::{Usage, release, usage},
    watcher::{Statuses, Times, Watcher},
};

/// The longest until every object exists, in times of the bare client that applies.
const MOST_TIMES_BARE: f64 = 1.6;

/// The most processor time of the API server, in times of what it spends on the bare client that applies.
const MOST_SERVER_OF_BARE: f64 = 1.6;

/// A control plane has nothing to do when its API server takes less of a core.
const IDLE_SHARE: f64 = 0.1;

/// The most processor time and memory, in parts of the Python operator's.
const MOST_CPU_OF_PEER: f64 = 1.0 / 13.0;
const MOST_MEMORY_OF_PEER: f64 = 1.0 / 5.0;

#[derive(Args, Debug)]
pub(crate) struct ConvergeArgs {
    /// DaskClusters.
    #[arg(long, default_value_t = 200)]
    clusters: usize,
    /// Workers of each.
    #[arg(long, default_value_t = 10)]
    workers: usize,
    /// Rounds, each with all contenders in turn.
    #[arg(long, default_value_t = 3)]
    rounds: usize,
    /// Measure the Python operator, too.
    #[arg(long)]
    peer: bool,
    /// Measure this program instead of building one.
    #[arg(long, value_name = "FILE")]
    program: Option<PathBuf>,
}

/// One measurement.
struct Row {
    contender: &'static str,
    times: Times,
    usage: Option<Usage>,
    /// Processor seconds of the API server.
    server_seconds: f64,
    /// Requests per object, watches and the Lease aside.
    requests: Option<f64>,
}

pub(crate) fn run(args: ConvergeArgs) -> anyhow::Result<()> {
    let program = release(args.program.as_deref())?;
    measure(&args, &program)
}

#[tokio::main]
async fn measure(args: &ConvergeArgs, program: &std::path::Path) -> anyhow::Result<()> {
    let load = Load { clusters: args.clusters, workers: args.workers };
    let binaries = Binaries::ensure(&|line| eprintln!("{line}"))?;
    println!(
        "{} DaskClusters × {} workers: {} objects and {} DaskClusters; times in seconds",
        load.clusters,
        load.workers,
        load.objects(),
        load.clusters
    );
    println!(
        "{:<22}{:>9}{:>10}{:>10}{:>10}{:>12}{:>12}{:>12}",
        "", "objects", "statuses", "unfinal", "cpu s", "peak MiB", "requests", "server s"
    );
    let mut rows = Vec::new();
    for _ in 0..args.rounds {
        rows.push(bare_row(&binaries, load, "bare client, POST", Verb::Create).await?);
        rows.push(bare_row(&binaries, load, APPLYING, Verb::Apply).await?);
        rows.push(operator_row(&binaries, load, program).await?);
    }
    let median = |contender: &str, figure: fn(&Row) -> f64| {
        let mut figures: Vec<f64> = rows.iter().filter(|row| row.contender == contender).map(figure).collect();
        figures.sort_by(f64::total_cmp);
        figures.get(figures.len() / 2).copied().unwrap_or(f64::NAN)
    };
    let objects = |row: &Row| row.times.objects.as_secs_f64();
    let statuses = |row: &Row| row.times.statuses.map_or(f64::NAN, |time| time.as_secs_f64());
    let server = |row: &Row| row.server_seconds;
    println!("medians, in times of the bare client that applies");
    println!("  statuses: {:.3}", median(OPERATOR, statuses) / median(APPLYING, objects));
    let mut bounds = Bounds::default();
    bounds.at_most("objects", median(OPERATOR, objects) / median(APPLYING, objects), MOST_TIMES_BARE);
    let server_ratio = median(OPERATOR, server) / median(APPLYING, server);
    bounds.at_most("processor time of the API server", server_ratio, MOST_SERVER_OF_BARE);
    if args.peer {
        let peer = peer_row(&binaries, load).await?;
        let peer = peer.usage.context("the Python operator is measured")?;
        println!("the worst round of ours, in parts of the Python operator's");
        let ours = |figure: fn(&Usage) -> f64| {
            rows.iter().filter_map(|row| row.usage.as_ref()).map(figure).fold(f64::NAN, f64::max)
        };
        let (cpu, memory) = (ours(|usage| usage.cpu_seconds), ours(|usage| usage.peak_mib));
        bounds.at_most("processor time", cpu / peer.cpu_seconds, MOST_CPU_OF_PEER);
        bounds.at_most("peak memory", memory / peer.peak_mib, MOST_MEMORY_OF_PEER);
    }
    bounds.check()
}

const APPLYING: &str = "bare client, apply";
const OPERATOR: &str = "dask-wasm-operator";

/// A control plane for one contender, that has nothing else to do: one that still deletes what the last contender made, or
/// still starts, answers later.
async fn fresh(binaries: &Binaries) -> anyhow::Result<ControlPlane> {
    let control_plane = ControlPlane::start(binaries, &crds()).await?;
    let mut before = server_seconds(&control_plane)?;
    wait_for("an API server with nothing to do", Duration::from_secs(120), async || {
        let period = Duration::from_secs(1);
        sleep(period).await;
        let now = server_seconds(&control_plane)?;
        let share = (now - std::mem::replace(&mut before, now)) / period.as_secs_f64();
        Ok((share < IDLE_SHARE).then_some(()))
    })
    .await?;
    Ok(control_plane)
}

async fn bare_row(binaries: &Binaries, load: Load, contender: &'static str, verb: Verb) -> anyhow::Result<Row> {
    let control_plane = fresh(binaries).await?;
    let client = control_plane.kubeconfig().client().await?;
    let namespace = namespace(&client).await?;
    let watcher = Watcher::begin(&client, &namespace);
    let server = server_seconds(&control_plane)?;
    let begun = Instant::now();
    let (times, ()) =
        tokio::try_join!(watcher.finish(load, Statuses::None, begun), bare::make(&client, &namespace, load, verb))?;
    let server_seconds = server_seconds(&control_plane)? - server;
    let row = Row { contender, times, usage: None, server_seconds, requests: None };
    row.print();
    Ok(row)
}

async fn operator_row(binaries: &Binaries, load: Load, program: &std::path::Path) -> anyhow::Result<Row> {
    let control_plane = fresh(binaries).await?;
    let client = control_plane.kubeconfig().client().await?;
    let namespace = namespace(&client).await?;
    let installation = Installation::apply(control_plane.kubeconfig(), &namespace, &json!({})).await?;
    let mut operator = Operator::start_program(
        program,
        &installation.kubeconfig,
        &["--all-namespaces", "--operator-namespace", &namespace],
    )?;
    operator.ready().await?;
    let (from, server) = (Timestamp::now(), server_seconds(&control_plane)?);
    let times = clusters(&client, &namespace, load, Statuses::Whole).await?;
    let server_seconds = server_seconds(&control_plane)? - server;
    let usage = usage(operator.pid())?;
    let requests = control_plane.audit_log().requests_of(&installation.user(), from..)?;
    let counted =
        requests.iter().filter(|request| request.verb != "watch" && !request.uri.contains("/leases/")).count();
    let row = Row {
        contender: OPERATOR,
        times,
        usage: Some(usage),
        server_seconds,
        requests: Some(counted as f64 / load.objects() as f64),
    };
    row.print();
    operator.stop().await?;
    Ok(row)
}

async fn peer_row(binaries: &Binaries, load: Load) -> anyhow::Result<Row> {
    let peer = PythonOperator::install()?;
    let control_plane = ControlPlane::start(binaries, &peer.crds()?).await?;
    let client = control_plane.kubeconfig().client().await?;
    let namespace = namespace(&client).await?;
    let operator = peer.start(control_plane.kubeconfig())?;
    wait_for_peer(&client, &namespace).await?;
    let server = server_seconds(&control_plane)?;
    let times = clusters(&client, &namespace, load, Statuses::Phase).await?;
    let row = Row {
        contender: "Python operator",
        times,
        usage: Some(usage(operator.pid())?),
        server_seconds: server_seconds(&control_plane)? - server,
        requests: None,
    };
    drop(operator);
    row.print();
    Ok(row)
}

/// The Python operator is up when it has dealt with a cluster.
async fn wait_for_peer(client: &Client, namespace: &str) -> anyhow::Result<()> {
    let api = dask_clusters(client, namespace);
    let mut probe = dask_cluster(9999, 0);
    probe["metadata"]["name"] = json!("probe");
    api.create(&PostParams::default(), &serde_json::from_value(probe)?)
        .await
        .context("creating a cluster as a probe")?;
    wait_for("the Python operator", Duration::from_secs(120), async || {
        let phase = api.get("probe").await?.data.pointer("/status/phase").cloned();
        Ok(phase.map(|_| ()))
    })
    .await?;
    api.delete("probe", &DeleteParams::default()).await.context("deleting the probe")?;
    wait_for("the probe's end", Duration::from_secs(120), async || {
        Ok(api.get_opt("probe").await?.is_none().then_some(()))
    })
    .await
}

/// Posts all DaskClusters and waits until everything is there.
async fn clusters(client: &Client, namespace: &str, load: Load, statuses: Statuses) -> anyhow::Result<Times> {
    let watcher = Watcher::begin(client, namespace);
    let api = dask_clusters(client, namespace);
    let begun = Instant::now();
    let post = async {
        for batch in (0..load.clusters).collect::<Vec<_>>().chunks(16) {
            let posts = batch.iter().map(|number| async {
                let cluster = serde_json::from_value(dask_cluster(*number, load.workers))?;
                api.create(&PostParams::default(), &cluster).await.context("creating a DaskCluster")
            });
            try_join_all(posts).await?;
        }
        Ok(())
    };
    let (times, ()) = tokio::try_join!(watcher.finish(load, statuses, begun), post)?;
    Ok(times)
}

fn server_seconds(control_plane: &ControlPlane) -> anyhow::Result<f64> {
    let pid = control_plane
        .pids()
        .into_iter()
        .find(|(name, _)| *name == "kube-apiserver")
        .context("there is no API server")?
        .1;
    Ok(usage(pid)?.cpu_seconds)
}

impl Row {
    fn print(&self) {
        let or_dash = |figure: Option<f64>| figure.map_or_else(|| "-".to_owned(), |figure| format!("{figure:.2}"));
        println!(
            "{:<22}{:>9.2}{:>10}{:>10}{:>10}{:>12}{:>12}{:>12.1}",
            self.contender,
            self.times.objects.as_secs_f64(),
            or_dash(self.times.statuses.map(|time| time.as_secs_f64())),
            self.times.unfinished,
            or_dash(self.usage.map(|usage| usage.cpu_seconds)),
            or_dash(self.usage.map(|usage| usage.peak_mib)),
            or_dash(self.requests),
            self.server_seconds,
        );
    }
}
