//! What the operator knows of the cluster is always old: it never makes more workers than were ever asked for.

use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use anyhow::{Context, ensure};
use dask_wasm_operator_test_integration::{
    clusters,
    manifests::{self, SIMPLE, SIMPLE_GROUP},
    objects::{CLUSTER, DEPLOYMENT, GROUP, Objects, TIMEOUT, name},
    proxy::{Failure, Moment, Proxy},
};
use dask_wasm_operator_test_support::{Operator, wait_for};
use futures::TryStreamExt;
use kube::{
    ResourceExt,
    api::{DynamicObject, ListParams, WatchEvent, WatchParams},
};
use tokio::task::JoinHandle;

use crate::site::{Site, with_site};

const CHANGES: usize = 50;

/// The most that is asked for.
const MOST: u32 = 12;

/// What is asked for in the end.
const LAST: u32 = 5;

#[derive(Clone, Copy, Debug, PartialEq)]
enum Target {
    Cluster,
    Group,
}

#[tokio::test]
async fn quick_changes_of_a_cluster() {
    quick_changes(|_| Target::Cluster, |_| None).await.unwrap();
}

#[tokio::test]
async fn quick_changes_of_a_group() {
    quick_changes(|_| Target::Group, |_| None).await.unwrap();
}

#[tokio::test]
async fn quick_changes_of_both_by_turns() {
    let by_turns = |change: usize| if change.is_multiple_of(2) { Target::Group } else { Target::Cluster };
    quick_changes(by_turns, |_| None).await.unwrap();
}

#[tokio::test]
async fn quick_changes_while_writes_fail() {
    let failures = [Failure::Unavailable, Failure::Conflict, Failure::AnswerLost];
    let now_and_then = |change: usize| (change % 5 == 4).then(|| failures[change / 5 % 3]);
    quick_changes(|_| Target::Cluster, now_and_then).await.unwrap();
}

#[tokio::test]
async fn events_that_are_held_back_lead_to_no_second_creation() {
    with_site(async |site| {
        let proxy = Proxy::start(&site.installation.kubeconfig).await?;
        let operator = served(site, &proxy).await?;
        let workers = Recorded::start(site).await?;
        proxy.hold("deployments");
        for wanted in [3, 5, 2, 6] {
            site.scale(CLUSTER, SIMPLE, wanted).await?;
            workers.number(wanted).await.with_context(|| operator.log())?;
        }
        ensure!(proxy.held_back() > 0, "nothing was held back");
        proxy.release();
        shown(site, 6).await.with_context(|| operator.log())?;
        workers.number(6).await?;
        let seen = workers.seen();
        ensure!(seen.made == 9, "made {} workers in the place of 3 + 2 + 4", seen.made);
        ensure!(seen.most == 6, "{} workers at once, of 6 that were asked for", seen.most);
        Ok(())
    })
    .await
    .unwrap();
}

/// The ordinals of the workers that are to go are given back before the workers are deleted.
#[tokio::test]
async fn growing_again_after_a_crash_while_shrinking() {
    with_site(async |site| {
        let proxy = Proxy::start(&site.installation.kubeconfig).await?;
        let mut operator = served(site, &proxy).await?;
        let workers = Recorded::start(site).await?;
        site.scale(GROUP, SIMPLE_GROUP, 5).await?;
        workers.number(5).await?;
        shown(site, 5).await?;
        // The record of the ordinals; then the first deletion, which the API server never hears of.
        proxy.stop_at(2, Moment::BeforeForwarding);
        site.scale(GROUP, SIMPLE_GROUP, 1).await?;
        proxy.stopped().await;
        operator.kill()?;
        site.scale(GROUP, SIMPLE_GROUP, 4).await?;
        let operator = site.start(&site.installation.kubeconfig, &["--standalone"])?;
        shown(site, 4).await.with_context(|| operator.log())?;
        workers.number(4).await?;
        let most = workers.seen().most;
        ensure!(most <= 5, "{most} workers at once, of 5 that were asked for\n{}", operator.log());
        Ok(())
    })
    .await
    .unwrap();
}

/// Changes `replicas` as fast as the API server takes it.
async fn quick_changes(
    target: impl Fn(usize) -> Target,
    failure: impl Fn(usize) -> Option<Failure>,
) -> anyhow::Result<()> {
    with_site(async |site| {
        let proxy = Proxy::start(&site.installation.kubeconfig).await?;
        let operator = served(site, &proxy).await?;
        let workers = Recorded::start(site).await?;
        let mut random = Random(0x5eed);
        let (mut highest, mut last) = (0, 0);
        for change in 0..CHANGES {
            if let Some(failure) = failure(change) {
                proxy.fail(2, failure);
            }
            let target = target(change);
            // A value of the cluster counts when it is another one than before: the last one is.
            last = if change + 1 == CHANGES { LAST } else { random.below(MOST + 1) };
            if target == Target::Cluster && change + 1 < CHANGES && last == LAST {
                last = MOST;
            }
            highest = highest.max(last);
            match target {
                Target::Cluster => site.scale(CLUSTER, SIMPLE, last).await?,
                Target::Group => site.scale(GROUP, SIMPLE_GROUP, last).await?,
            }
        }
        workers.number(last).await.with_context(|| operator.log())?;
        shown(site, last).await.with_context(|| operator.log())?;
        workers.number(last).await?;
        let most = workers.seen().most;
        println!("at most {most} workers at once, of {highest} that were asked for");
        ensure!(
            most <= highest as usize,
            "{most} workers at once, of {highest} that were asked for\n{}",
            operator.log()
        );
        Ok(())
    })
    .await
}

/// Starts an operator behind the proxy, and a cluster without workers.
async fn served(site: &Site, proxy: &Proxy) -> anyhow::Result<Operator> {
    let operator = site.start(proxy.kubeconfig(), &["--standalone"])?;
    site.create(&manifests::cluster(SIMPLE, 0)).await?;
    shown(site, 0).await.with_context(|| operator.log())?;
    Ok(operator)
}

/// Waits until the status of cluster and group tell of this many workers.
async fn shown(site: &Site, workers: u32) -> anyhow::Result<()> {
    for (kind, name) in [(CLUSTER, SIMPLE), (GROUP, SIMPLE_GROUP)] {
        let wanted = format!("telling of {workers} workers");
        site.until(kind, name, &wanted, |object| object["status"]["replicas"] == workers).await?;
    }
    Ok(())
}

/// All worker Deployments of a namespace, counted at each event.
struct Recorded {
    seen: Arc<Mutex<Seen>>,
    recorder: JoinHandle<()>,
    objects: Objects,
}

#[derive(Clone, Debug, Default)]
struct Seen {
    live: BTreeSet<String>,
    made: usize,
    most: usize,
    error: Option<String>,
}

impl Recorded {
    /// From now on; there is none yet.
    async fn start(site: &Site) -> anyhow::Result<Self> {
        let selector = clusters::workers(SIMPLE_GROUP);
        let api = site.api(DEPLOYMENT);
        let list = api.list(&ListParams::default().labels(&selector)).await.context("listing the workers")?;
        ensure!(list.items.is_empty(), "there are workers before any was asked for");
        let version = list.metadata.resource_version.context("a list without a resource version")?;
        let seen = Arc::new(Mutex::new(Seen::default()));
        let record = Arc::clone(&seen);
        let recorder = tokio::spawn(async move {
            let events = async {
                // Longer than the test.
                let parameters = WatchParams::default().labels(&selector).timeout(290);
                let events = api.watch(&parameters, &version).await?;
                events
                    .try_for_each(async |event| {
                        lock(&record).note(&event);
                        Ok(())
                    })
                    .await
            };
            let ended: kube::Result<()> = events.await;
            lock(&record).error = Some(format!("the watch of the workers ended: {ended:?}"));
        });
        Ok(Self { seen, recorder, objects: Objects::clone(site) })
    }

    fn seen(&self) -> Seen {
        lock(&self.seen).clone()
    }

    /// Waits until there are this many, and every event up to then is recorded.
    async fn number(&self, wanted: u32) -> anyhow::Result<()> {
        let description = format!("{wanted} workers");
        wait_for(&description, TIMEOUT, async || {
            let workers = self.objects.workers(SIMPLE_GROUP).await?;
            let live: BTreeSet<_> = workers.iter().map(|worker| name(worker).to_owned()).collect();
            let seen = self.seen();
            if let Some(error) = seen.error {
                anyhow::bail!(error);
            }
            Ok((live.len() == wanted as usize && live == seen.live).then_some(()))
        })
        .await
    }
}

impl Drop for Recorded {
    fn drop(&mut self) {
        self.recorder.abort();
    }
}

impl Seen {
    fn note(&mut self, event: &WatchEvent<DynamicObject>) {
        match event {
            WatchEvent::Added(object) => {
                self.made += 1;
                self.live.insert(object.name_any());
                self.most = self.most.max(self.live.len());
            }
            WatchEvent::Deleted(object) => {
                self.live.remove(&object.name_any());
            }
            WatchEvent::Modified(_) | WatchEvent::Bookmark(_) => {}
            WatchEvent::Error(status) => self.error = Some(status.message.clone()),
        }
    }
}

fn lock(seen: &Mutex<Seen>) -> MutexGuard<'_, Seen> {
    seen.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The same numbers each time: Marsaglia's xorshift.
struct Random(u32);

impl Random {
    fn below(&mut self, limit: u32) -> u32 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 17;
        self.0 ^= self.0 << 5;
        self.0 % limit
    }
}
