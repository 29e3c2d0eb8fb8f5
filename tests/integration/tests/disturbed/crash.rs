//! The operator is killed at its n-th write, for every n: before the API server hears of it, and after it has carried it out.
//! Started again, the operator makes of it what it makes of it without a disturbance.

use std::{
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
};

use anyhow::{Context, ensure};
use dask_wasm_operator_test_integration::proxy::{Moment, Proxy};
use dask_wasm_operator_test_support::{Operator, wait_for};
use serde_json::{Value, json};

use crate::{
    site::{CLUSTER, Site, TIMEOUT, shared_cluster, with_site},
    snapshot::Snapshot,
};

/// How many runs go on at once: each waits most of the time.
const LANES: usize = 4;

/// What a user does.
#[derive(Clone, Copy, Debug)]
enum Step {
    Create { workers: u32 },
    Scale { workers: u32 },
    Delete,
}

/// What is done without a disturbance, and then with one.
struct Scenario {
    before: &'static [Step],
    disturbed: &'static [Step],
    /// The least number of writes that the disturbed steps take.
    writes: usize,
}

#[test]
fn creating_a_cluster_survives_a_crash_at_every_write() {
    // Deployments, Service and group, ordinals and VirtualService.
    let scenario = Scenario { before: &[], disturbed: &[Step::Create { workers: 3 }], writes: 8 };
    scenario.crash_at_every_write().unwrap();
}

#[test]
fn scaling_survives_a_crash_at_every_write() {
    let scenario = Scenario {
        // One comes first, so that it is the one that stays in the end.
        before: &[Step::Create { workers: 1 }, Step::Scale { workers: 3 }],
        disturbed: &[Step::Scale { workers: 5 }, Step::Scale { workers: 1 }],
        // The group's replicas and ordinals twice, two Deployments more, four less.
        writes: 10,
    };
    scenario.crash_at_every_write().unwrap();
}

#[test]
fn deleting_a_cluster_survives_a_crash_at_every_write() {
    // Kubernetes collects what has owners; the operator need not write at all.
    let scenario = Scenario { before: &[Step::Create { workers: 3 }], disturbed: &[Step::Delete], writes: 0 };
    scenario.crash_at_every_write().unwrap();
}

impl Step {
    async fn take(self, site: &Site) -> anyhow::Result<()> {
        match self {
            Self::Create { workers } => site.create_cluster(CLUSTER, workers).await,
            Self::Scale { workers } => site.scale(CLUSTER, workers).await,
            Self::Delete => site.delete_cluster(CLUSTER).await,
        }
    }

    /// Whether there is all that this step asks for, shown in every status, and nothing else.
    fn is_done(self, seen: &Snapshot) -> bool {
        let workers = match self {
            Self::Create { workers } | Self::Scale { workers } => workers,
            Self::Delete => return seen.is_empty(),
        };
        let count = |kind| seen.of_kind(kind).count();
        let deployments = workers as usize + 1;
        let reason = |object: &Value, condition: &str| {
            let mut conditions = object["status"]["conditions"].as_array().into_iter().flatten();
            conditions.find(|found| found["type"] == condition).map(|found| found["reason"].clone())
        };
        // No pod ever starts here.
        let shown = seen.of_kind("DaskCluster").chain(seen.of_kind("DaskWorkerGroup")).all(|object| {
            object["status"]["replicas"] == json!(workers)
                && reason(object, "Progressing") == Some(json!("WorkersStarting"))
                && reason(object, "Degraded") == Some(json!("AsWanted"))
        });
        let rolled_out =
            |deployment: &Value| deployment["metadata"]["annotations"]["deployment.kubernetes.io/revision"] == "1";
        shown
            && [count("Deployment"), count("ReplicaSet")] == [deployments; 2]
            && seen.of_kind("Deployment").all(rolled_out)
            && ["DaskCluster", "DaskWorkerGroup", "Service", "VirtualService", "DaskPluginRecord"].map(count) == [1; 5]
    }

    /// Waits for the end of a step that nobody disturbs; answers what there is then.
    async fn done(self, site: &Site) -> anyhow::Result<Snapshot> {
        let mut last = Snapshot::default();
        let description = format!("{self:?} to be done");
        let done = wait_for(&description, TIMEOUT, async || {
            last = Snapshot::take(site).await?;
            Ok(self.is_done(&last).then_some(()))
        });
        done.await.with_context(|| format!("there is\n{last}"))?;
        Ok(last)
    }
}

async fn becomes(site: &Site, expected: &Snapshot) -> anyhow::Result<()> {
    let mut last = Snapshot::default();
    let same = wait_for("the same objects as without a crash", TIMEOUT, async || {
        last = Snapshot::take(site).await?;
        Ok((last == *expected).then_some(()))
    });
    same.await.with_context(|| format!("there is a difference:\n{}", last.differences(expected)))
}

impl Scenario {
    fn crash_at_every_write(&self) -> anyhow::Result<()> {
        let expected = block_on(async {
            shared_cluster().await?;
            with_site(async |site| self.undisturbed(site).await).await
        })?;
        // Runs are numbered by the write and the moment. From the first that sees no crash on, there is none to be seen.
        let (next, end) = (AtomicUsize::new(0), AtomicUsize::new(usize::MAX));
        let errors = Mutex::new(Vec::new());
        thread::scope(|scope| {
            for _ in 0..LANES {
                scope.spawn(|| {
                    loop {
                        let run = next.fetch_add(1, Ordering::Relaxed);
                        if run >= end.load(Ordering::Relaxed) {
                            return;
                        }
                        let n = run / 2 + 1;
                        let moment = [Moment::BeforeForwarding, Moment::AfterCommit][run % 2];
                        let crashed = block_on(with_site(async |site| self.crash(site, n, moment, &expected).await));
                        match crashed {
                            Ok(true) => {}
                            Ok(false) => {
                                end.fetch_min(run, Ordering::Relaxed);
                            }
                            Err(error) => {
                                let error = format!("killed at write {n}, {moment:?}: {error:#}");
                                errors.lock().unwrap_or_else(PoisonError::into_inner).push(error);
                            }
                        }
                    }
                });
            }
        });
        let errors = errors.into_inner().unwrap_or_else(PoisonError::into_inner);
        ensure!(errors.is_empty(), "{} runs went wrong:\n{}", errors.len(), errors.join("\n\n"));
        let crashes = end.into_inner();
        println!("{crashes} crashes");
        ensure!(crashes >= 2 * self.writes, "only {crashes} crashes: the proxy does not see the operator's writes");
        Ok(())
    }

    /// What there is after each of the steps when nothing goes wrong.
    async fn undisturbed(&self, site: &Site) -> anyhow::Result<Vec<Snapshot>> {
        let _operator = site.start_standalone(&site.installation.kubeconfig)?;
        let mut seen = Vec::new();
        for step in self.before.iter().chain(self.disturbed) {
            step.take(site).await?;
            seen.push(step.done(site).await?);
        }
        seen.drain(..self.before.len());
        Ok(seen)
    }

    /// Kills the operator at its `n`-th write; answers whether it came to that.
    async fn crash(&self, site: &Site, n: usize, moment: Moment, expected: &[Snapshot]) -> anyhow::Result<bool> {
        let proxy = Proxy::start(&site.installation.kubeconfig).await?;
        if self.before.is_empty() {
            proxy.stop_at(n, moment);
        }
        let mut operator = site.start_standalone(proxy.kubeconfig())?;
        for step in self.before {
            step.take(site).await?;
            step.done(site).await?;
        }
        if !self.before.is_empty() {
            proxy.stop_at(n, moment);
        }
        let mut crashed = false;
        for (step, expected) in self.disturbed.iter().zip(expected) {
            step.take(site).await?;
            if !crashed {
                tokio::select! {
                    reached = becomes(site, expected) => reached.with_context(|| log(&operator))?,
                    () = proxy.stopped() => {
                        crashed = true;
                        operator.kill()?;
                        operator = site.start_standalone(&site.installation.kubeconfig)?;
                    }
                }
            }
            becomes(site, expected).await.with_context(|| format!("at {step:?}\n{}", log(&operator)))?;
        }
        // Whatever is still on its way comes to its end, and changes nothing.
        ensure!(operator.stop().await?.success(), "{}", log(&operator));
        if let Some(expected) = expected.last() {
            becomes(site, expected).await.context("when the operator has ended")?;
        }
        Ok(crashed)
    }
}

fn log(operator: &Operator) -> String {
    format!("the operator's log:\n{}", operator.log())
}

fn block_on<T>(body: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<T> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().context("starting a runtime")?;
    runtime.block_on(body)
}
