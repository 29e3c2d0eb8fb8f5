//! `cargo xtask bench idle`: what it costs to ask many schedulers whether they are idle, and how soon a new cluster is served
//! meanwhile.

use std::{path::PathBuf, time::Duration};

use anyhow::Context as _;
use clap::Args;
use dask_wasm_operator_api::crds;
use dask_wasm_operator_test_support::{
    Dask, DaskOptions, Installation, Kubeconfig, Operator,
    control_plane::{Binaries, ControlPlane},
    endpoints::{free_port, get, metric},
    wait_for,
};
use futures::{StreamExt as _, TryStreamExt as _, stream};
use k8s_openapi::api::{apps::v1::Deployment, core::v1::Pod};
use kube::{
    Client, ResourceExt as _,
    api::{Api, ListParams, Patch, PatchParams, PostParams},
};
use serde_json::json;
use tokio::{
    net::TcpListener,
    time::{Instant, sleep},
};

use super::{
    bounds::Bounds,
    load::{Load, dask_cluster, dask_clusters, namespace},
    process::{release, usage},
    watcher::{Statuses, Watcher},
};

/// Requests to the API server at once.
const PARALLEL: usize = 16;

/// How long anything may take.
const PATIENCE: Duration = Duration::from_secs(600);

/// No cluster is deleted while it is measured.
const IDLE_TIMEOUT: u32 = 86_400;

/// After this the operator asks a silent scheduler as rarely as it ever does (once a minute, after 5, 10, 20, 40 s).
const BACKED_OFF: Duration = Duration::from_secs(120);

/// Clusters that are made while the others are polled.
const NEW: usize = 10;

/// Largest resident set, in MiB.
const MOST_MEMORY: f64 = 100.0;

/// The longest that a new cluster waits for its objects, in seconds.
const LONGEST_WAIT: f64 = 1.0;

/// How the schedulers of a row behave, and what polling them may cost.
struct Schedulers {
    what: &'static str,
    /// `HOST:PORT[,HOST:PORT]` of each.
    address: String,
    /// When the operator asks them as it does from then on.
    settled: Duration,
    /// How often each is asked at least, in seconds; none: as seldom as the operator likes.
    interval: Option<f64>,
    /// Percent of a core.
    most_cpu: f64,
}

#[derive(Args, Debug)]
pub(crate) struct IdleArgs {
    /// DaskClusters with spec.idleTimeout.
    #[arg(long, default_value_t = Self::default().clusters)]
    clusters: usize,
    /// For how many seconds.
    #[arg(long, default_value_t = Self::default().seconds)]
    seconds: u64,
    /// Measure this program instead of building one.
    #[arg(long, value_name = "FILE")]
    program: Option<PathBuf>,
}

impl Default for IdleArgs {
    fn default() -> Self {
        Self { clusters: 1_000, seconds: 60, program: None }
    }
}

pub(crate) fn run(args: IdleArgs) -> anyhow::Result<()> {
    let program = release(args.program.as_deref())?;
    measure(&args, &program)
}

struct Bench<'a> {
    program: &'a std::path::Path,
    load: Load,
    window: Duration,
    client: Client,
    namespace: String,
    kubeconfig: Kubeconfig,
}

#[tokio::main]
async fn measure(args: &IdleArgs, program: &std::path::Path) -> anyhow::Result<()> {
    let control_plane = ControlPlane::start(&Binaries::ensure(&|line| eprintln!("{line}"))?, &crds()).await?;
    let client = control_plane.kubeconfig().client().await?;
    let namespace = namespace(&client).await?;
    let installation = Installation::apply(control_plane.kubeconfig(), &namespace, &json!({})).await?;
    let load = Load { clusters: args.clusters, workers: 1 };
    let window = Duration::from_secs(args.seconds);
    let bench = Bench { program, load, window, client, namespace, kubeconfig: installation.kubeconfig };
    bench.populate().await?;

    println!("{} DaskClusters with idleTimeout, over {} s", args.clusters, args.seconds);
    println!(
        "{:<22}{:>12}{:>12}{:>12}{:>12}{:>16}",
        "schedulers", "polls / s", "% of a core", "MiB", "peak MiB", "new cluster, s"
    );
    let mut bounds = Bounds::default();
    let dask = Dask::install(Dask::NEWEST)?.start(DaskOptions::default()).await?;
    let answering = Schedulers {
        what: "answer",
        address: format!("{},{}", dask.comm(), dask.dashboard()),
        settled: Duration::ZERO,
        interval: Some(5.0),
        most_cpu: 10.0,
    };
    bench.row(&answering, &mut bounds).await?;
    drop(dask);
    let silent = TcpListener::bind(("127.0.0.1", 0)).await.context("finding a port")?;
    let address = silent.local_addr().context("finding a port")?;
    tokio::spawn(async move {
        let mut connections = Vec::new();
        while let Ok((connection, _)) = silent.accept().await {
            connections.push(connection);
        }
    });
    let silent = Schedulers {
        what: "are silent",
        address: format!("{address},{address}"),
        settled: BACKED_OFF,
        interval: None,
        most_cpu: 1.0,
    };
    bench.row(&silent, &mut bounds).await?;
    bounds.check()
}

impl Bench<'_> {
    /// Starts an operator which takes one address for that of all schedulers.
    async fn start(&self, address: &str, admin_port: u16) -> anyhow::Result<Operator> {
        let mut arguments = vec![
            "--operator-namespace".to_owned(),
            self.namespace.clone(),
            format!("--admin-address=127.0.0.1:{admin_port}"),
        ];
        for number in 0..self.load.clusters {
            let cluster = dask_cluster(number, 0);
            let name = cluster["metadata"]["name"].as_str().context("a cluster has no name")?;
            arguments.push(format!("--scheduler-address={}/{name}={address}", self.namespace));
        }
        let arguments: Vec<_> = arguments.iter().map(String::as_str).collect();
        let mut operator = Operator::start_program(self.program, &self.kubeconfig, &arguments)?;
        operator.ready().await?;
        Ok(operator)
    }

    /// Makes the clusters, and lets all their pods run.
    async fn populate(&self) -> anyhow::Result<()> {
        let mut operator = self.start("127.0.0.1:1", free_port()?).await?;
        let clusters = dask_clusters(&self.client, &self.namespace);
        let watcher = Watcher::begin(&self.client, &self.namespace);
        let begun = Instant::now();
        let make = stream::iter(0..self.load.clusters).map(Ok).try_for_each_concurrent(PARALLEL, async |number| {
            let mut cluster = dask_cluster(number, self.load.workers);
            cluster["spec"]["idleTimeout"] = IDLE_TIMEOUT.into();
            clusters
                .create(&PostParams::default(), &serde_json::from_value(cluster)?)
                .await
                .context("creating a cluster")?;
            anyhow::Ok(())
        });
        tokio::try_join!(make, watcher.finish(self.load, Statuses::None, begun))?;
        let (pods, deployments): (Api<Pod>, Api<Deployment>) = (
            Api::namespaced(self.client.clone(), &self.namespace),
            Api::namespaced(self.client.clone(), &self.namespace),
        );
        let expected = self.load.clusters * (self.load.workers + 1);
        let made = wait_for("the pods", PATIENCE, async || {
            let pods = pods.list_metadata(&ListParams::default()).await?.items;
            Ok((pods.len() == expected).then_some(pods))
        });
        let ready =
            Patch::Merge(json!({"status": {"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]}}));
        stream::iter(made.await?)
            .map(Ok)
            .try_for_each_concurrent(PARALLEL, async |pod| {
                pods.patch_status(&pod.name_any(), &PatchParams::default(), &ready)
                    .await
                    .context("letting a pod run")?;
                anyhow::Ok(())
            })
            .await?;
        wait_for("the Deployments to be available", PATIENCE, async || {
            let deployments = deployments.list(&ListParams::default()).await?.items;
            let available = |deployment: &&Deployment| {
                deployment.status.as_ref().is_some_and(|status| status.available_replicas == Some(1))
            };
            Ok((deployments.iter().filter(available).count() == expected).then_some(()))
        })
        .await?;
        operator.stop().await?;
        Ok(())
    }

    /// Measures an operator whose schedulers are all of this kind.
    async fn row(&self, schedulers: &Schedulers, bounds: &mut Bounds) -> anyhow::Result<()> {
        let Schedulers { what, address, settled, interval, most_cpu } = schedulers;
        let port = free_port()?;
        let mut operator = self.start(address, port).await?;
        let asked = async || {
            let (_, text) = get(port, "/metrics").await?;
            anyhow::Ok(metric(&text, "dask_operator_scheduler_calls_total"))
        };
        let clusters = self.load.clusters as f64;
        wait_for("every scheduler to be asked", PATIENCE, async || Ok((asked().await? >= clusters).then_some(())))
            .await?;
        sleep(*settled).await;
        let (calls, before) = (asked().await?, usage(operator.pid())?);
        let begun = Instant::now();
        sleep(self.window).await;
        let (after, seconds) = (usage(operator.pid())?, begun.elapsed().as_secs_f64());
        let polls = (asked().await? - calls) / seconds;
        let cpu = 100.0 * (after.cpu_seconds - before.cpu_seconds) / seconds;
        // Not within the window: what it costs is not part of polling.
        let new = self.new_clusters().await?;
        println!(
            "{what:<22}{polls:>12.1}{cpu:>12.1}{:>12.1}{:>12.1}{:>16.2}",
            after.resident_mib,
            after.peak_mib,
            new.as_secs_f64(),
        );
        if let Some(interval) = interval {
            // A tenth less: each is asked an interval after it has answered.
            bounds.at_least(&format!("{what}: polls / s"), polls, 0.9 * clusters / interval);
        }
        bounds.at_most(&format!("{what}: % of a core"), cpu, *most_cpu);
        bounds.at_most(&format!("{what}: peak MiB"), after.peak_mib, MOST_MEMORY);
        bounds.at_most(&format!("{what}: new cluster, s"), new.as_secs_f64(), LONGEST_WAIT);
        operator.stop().await?;
        Ok(())
    }

    /// The longest time until all objects of a new cluster existed.
    async fn new_clusters(&self) -> anyhow::Result<Duration> {
        let mut longest = Duration::ZERO;
        for number in 0..NEW {
            let namespace = namespace(&self.client).await?;
            let watcher = Watcher::begin(&self.client, &namespace);
            let clusters = dask_clusters(&self.client, &namespace);
            let cluster = serde_json::from_value(dask_cluster(number, 1))?;
            let begun = Instant::now();
            clusters.create(&PostParams::default(), &cluster).await.context("creating a cluster")?;
            let times = watcher.finish(Load { clusters: 1, workers: 1 }, Statuses::None, begun).await?;
            longest = longest.max(times.objects);
        }
        Ok(longest)
    }
}
