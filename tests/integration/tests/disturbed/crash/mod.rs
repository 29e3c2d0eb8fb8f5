//! The operator is killed at its n-th write, for every n: before the API server hears of it, and after it has carried it out.
//! Started again, the operator makes of it what it makes of it without a disturbance.

mod autoscaler;
mod idle;
mod job;
mod replicas;
mod retirement;
mod strangers;
mod takeover;
mod update;

use std::{
    future::pending,
    ops::Deref,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
};

use anyhow::{Context, ensure};
use dask_wasm_operator_test_integration::{
    manifests::SIMPLE,
    objects::{Objects, TIMEOUT},
    proxy::{Moment, Proxy},
};
use dask_wasm_operator_test_support::{Dask, DaskOptions, DaskProcesses, Operator, wait_for};
use tokio::sync::Notify;

use crate::{
    site::{Site, shared_cluster, with_site},
    snapshot::Snapshot,
};

/// What users, kubelets and Dask do in a namespace while the operator is killed and started again. They don't hear of it.
trait Flow: Sync {
    /// The least number of writes that the operator needs for it.
    const WRITES: usize;
    /// How many runs go on at once: each waits most of the time, unless Python starts in it.
    const LANES: usize = 4;
    /// Whether DaskCluster [`SIMPLE`] has a real scheduler.
    const DASK: bool = false;
    /// Whether the operator comes to what was prepared; else it has prepared it.
    const COMES_LATER: bool = false;

    /// Brings about what is there before, undisturbed.
    async fn prepare(&self, _world: &mut World<'_>) -> anyhow::Result<()> {
        Ok(())
    }

    /// Goes on until nothing more is to be done, and looks at what a [`Snapshot`] does not have.
    async fn run(&self, world: &mut World<'_>) -> anyhow::Result<()>;
}

/// A namespace in which a flow goes on.
struct World<'a> {
    site: &'a Site,
    dask: Option<DaskProcesses>,
}

impl Deref for World<'_> {
    type Target = Objects;

    fn deref(&self) -> &Objects {
        self.site
    }
}

impl<'a> World<'a> {
    async fn new(site: &'a Site, with_dask: bool) -> anyhow::Result<Self> {
        let dask = match with_dask {
            true => Some(Dask::install(Dask::NEWEST)?.start(DaskOptions::default()).await?),
            false => None,
        };
        Ok(Self { site, dask })
    }

    /// What is in the namespace, and the scheduler of [`SIMPLE`].
    fn with_dask(&mut self) -> anyhow::Result<(&'a Objects, &mut DaskProcesses)> {
        Ok((self.site, self.dask.as_mut().context("this flow has no scheduler")?))
    }

    /// How its operator is started: without the Lease, for whose end a restart would have to wait.
    fn arguments(&self) -> Vec<String> {
        let scheduler = self.dask.as_ref().map(|dask| {
            format!("--scheduler-address={}/{SIMPLE}={},{}", self.namespace, dask.comm(), dask.dashboard())
        });
        ["--standalone".to_owned()].into_iter().chain(scheduler).collect()
    }

    /// Waits until everything is final.
    async fn until_final(&self, is_final: impl Fn(&Snapshot) -> bool) -> anyhow::Result<()> {
        Snapshot::settled(self, is_final).await.map(drop)
    }

    async fn becomes(&self, expected: &Snapshot) -> anyhow::Result<()> {
        let mut last = Snapshot::default();
        let same = wait_for("the same objects as without a crash", TIMEOUT, async || {
            last = Snapshot::take(self).await?;
            Ok((last == *expected).then_some(()))
        });
        same.await.with_context(|| format!("there is a difference:\n{}", last.differences(expected)))
    }
}

fn crash_at_every_write<F: Flow>(flow: &F) -> anyhow::Result<()> {
    let expected = block_on(async {
        shared_cluster().await?;
        with_site(async |site| undisturbed(flow, site).await).await
    })
    .context("without a crash")?;
    // Runs are numbered by the write and the moment. From the first that sees no crash on, there is none to be seen;
    // from the first that goes wrong on, nobody looks.
    let (next, end) = (AtomicUsize::new(0), AtomicUsize::new(usize::MAX));
    let errors = Mutex::new(Vec::new());
    thread::scope(|scope| {
        for _ in 0..F::LANES {
            scope.spawn(|| {
                loop {
                    let run = next.fetch_add(1, Ordering::Relaxed);
                    if run >= end.load(Ordering::Relaxed) {
                        return;
                    }
                    let n = run / 2 + 1;
                    let moment = [Moment::BeforeForwarding, Moment::AfterCommit][run % 2];
                    let crashed = block_on(with_site(async |site| crash(flow, site, n, moment, &expected).await));
                    match crashed {
                        Ok(true) => continue,
                        Ok(false) => {}
                        Err(error) => {
                            let error = format!("killed at write {n}, {moment:?}: {error:#}");
                            errors.lock().unwrap_or_else(PoisonError::into_inner).push(error);
                        }
                    }
                    end.fetch_min(run, Ordering::Relaxed);
                }
            });
        }
    });
    let errors = errors.into_inner().unwrap_or_else(PoisonError::into_inner);
    ensure!(errors.is_empty(), "{} runs went wrong:\n{}", errors.len(), errors.join("\n\n"));
    let crashes = end.into_inner();
    println!("{crashes} crashes");
    ensure!(crashes >= 2 * F::WRITES, "only {crashes} crashes: the proxy does not see the operator's writes");
    Ok(())
}

/// What there is in the end when nothing goes wrong.
async fn undisturbed<F: Flow>(flow: &F, site: &Site) -> anyhow::Result<Snapshot> {
    let mut world = World::new(site, F::DASK).await?;
    if F::COMES_LATER {
        flow.prepare(&mut world).await?;
    }
    let operator = site.start(&site.installation.kubeconfig, &world.arguments())?;
    if !F::COMES_LATER {
        flow.prepare(&mut world).await.with_context(|| log(&operator))?;
    }
    let settled = async {
        flow.run(&mut world).await?;
        Snapshot::settled(&world, |_| true).await
    };
    settled.await.with_context(|| log(&operator))
}

/// Kills the operator at its `n`-th write; answers whether it came to that.
async fn crash<F: Flow>(flow: &F, site: &Site, n: usize, moment: Moment, expected: &Snapshot) -> anyhow::Result<bool> {
    let proxy = Proxy::start(&site.installation.kubeconfig).await?;
    let mut world = World::new(site, F::DASK).await?;
    let arguments = world.arguments();
    if F::COMES_LATER {
        flow.prepare(&mut world).await?;
        proxy.stop_at(n, moment);
    }
    let mut operator = site.start(proxy.kubeconfig(), &arguments)?;
    if !F::COMES_LATER {
        flow.prepare(&mut world).await.with_context(|| log(&operator))?;
        proxy.stop_at(n, moment);
    }
    let restarted = Notify::new();
    let crash = async {
        proxy.stopped().await;
        operator.kill()?;
        operator = site.start(&site.installation.kubeconfig, &arguments)?;
        restarted.notify_one();
        pending().await
    };
    let flow = async {
        flow.run(&mut world).await?;
        world.becomes(expected).await?;
        proxy.pass();
        let crashed = proxy.is_stopped();
        if crashed {
            // Without that, the operator would hang at its end.
            restarted.notified().await;
        }
        Ok(crashed)
    };
    let ended: anyhow::Result<bool> = tokio::select! { ended = flow => ended, ended = crash => ended };
    let crashed = ended.with_context(|| log(&operator))?;
    if crashed {
        // The last write may have been one that nothing depends on. A process that is just being started ends by SIGTERM itself.
        operator.ready().await?;
    }
    // Whatever is still on its way comes to its end, and changes nothing.
    ensure!(operator.stop().await?.success(), "{}", log(&operator));
    world.becomes(expected).await.context("when the operator has ended")?;
    Ok(crashed)
}

fn log(operator: &Operator) -> String {
    format!("the operator's log:\n{}", operator.log())
}

fn block_on<T>(body: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<T> {
    // The proxy has a thread of its own: a flow that waits for Python blocks the other.
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
    let runtime = runtime.context("starting a runtime")?;
    runtime.block_on(body)
}
