//! A rolling update of a group: workers that were made from an older template are replaced by new ones, step by step.
//!
//! A worker's Deployment is never changed: new ones are made as far as `maxSurge` allows, old ones are retired through the
//! scheduler and deleted as far as `maxUnavailable` allows. Which step is next follows from the record of workers, the
//! Deployments and their status alone, so an update can be cut off anywhere, stopped, turned back or overtaken by the next.
//! A worker that was chosen to go goes, whatever fails by itself before it is gone: a scheduler can't take a retirement back.

use std::{collections::BTreeSet, sync::Arc};

use super::{
    removal::Surplus,
    worker_set::{SET_MAX, WorkerSet},
};
use crate::{
    dask::{kinds::deployment_kind, pods::DeploymentStatus},
    object::Object,
    spec::{RollingUpdate, Share, UpdateStrategy, UpdateStrategyType},
    wanted::{Problem, Snapshot},
};

/// What a bound is when it is not set: that of Kubernetes' Deployments.
const DEFAULT_BOUND: Share = Share::Percent(25);

/// The rolling update that a subject asks for; none: what runs stays until somebody deletes it.
pub(in crate::dask) fn rolling(
    subject: &Object,
    strategy: Option<&UpdateStrategy>,
) -> Result<Option<RollingUpdate>, Problem> {
    let rolling = |strategy: &&UpdateStrategy| strategy.type_ == UpdateStrategyType::RollingUpdate;
    let Some(strategy) = strategy.filter(rolling) else { return Ok(None) };
    let update = strategy.rolling_update.unwrap_or_default();
    let is_zero = |bound: Option<Share>| bound.is_some_and(Share::is_zero);
    if is_zero(update.max_unavailable) && is_zero(update.max_surge) {
        let message = format!(
            "{} {}: spec.updateStrategy.rollingUpdate: maxUnavailable and maxSurge are both 0, so that no worker could ever be \
             replaced; raise one of them",
            subject.kind.kind, subject.metadata.name
        );
        return Err(Problem::permanent("InvalidSpec", message));
    }
    Ok(Some(update))
}

/// The workers of a group during an update.
pub(in crate::dask) struct Progress<'a> {
    seen: &'a Snapshot,
    outdated: &'a BTreeSet<String>,
    replicas: u32,
    /// Workers beyond the replicas.
    surge: u32,
    /// Ready workers that there are always, unless they fail by themselves.
    least_ready: u32,
}

impl<'a> Progress<'a> {
    /// None if no worker of the set is outdated.
    pub(in crate::dask) fn of(
        seen: &'a Snapshot,
        set: &WorkerSet,
        update: &RollingUpdate,
        replicas: u32,
    ) -> Option<Self> {
        let outdated = seen.outdated.as_ref()?;
        outdated.iter().any(|name| set.contains(name)).then(|| {
            let surge = update.max_surge.unwrap_or(DEFAULT_BOUND).of_rounded_up(replicas);
            let unavailable = update.max_unavailable.unwrap_or(DEFAULT_BOUND).of_rounded_down(replicas);
            // Percentages of few workers can both be nothing.
            let unavailable = if surge == 0 { unavailable.max(1) } else { unavailable };
            Self { seen, outdated, replicas, surge, least_ready: replicas.saturating_sub(unavailable) }
        })
    }

    /// As many workers as there may be at once.
    pub(in crate::dask) fn most(&self) -> u32 {
        self.replicas.saturating_add(self.surge).min(SET_MAX)
    }

    /// To how many workers the set is to grow.
    pub(in crate::dask) fn size(&self, set: &WorkerSet) -> u32 {
        let current = staying(set).filter(|name| !self.is_outdated(name)).count();
        let missing = self.replicas.saturating_sub(count(current));
        set.len().saturating_add(missing).min(self.most())
    }

    /// Which workers are to go now: those that are retiring already, and more of the outdated ones. Those that are not ready go
    /// first, but not more of them than if they were: they may recover, and new ones may never be ready.
    pub(in crate::dask) fn surplus(&self, set: &WorkerSet) -> Surplus {
        let retiring = set.retiring();
        let with_retiring = |count: u32, names: BTreeSet<String>| {
            let count = count.saturating_add(self::count(retiring.len()));
            let names = names.into_iter().chain(retiring.iter().cloned()).collect();
            Surplus { wanted: set.len().saturating_sub(count), only: Some(names) }
        };
        let outdated: Vec<_> = staying(set).filter(|name| self.is_outdated(name)).collect();
        // The group was scaled down meanwhile.
        let excess = set.len().saturating_sub(self.most());
        let excess_beyond_retiring = excess.saturating_sub(count(retiring.len()));
        if excess_beyond_retiring > 0 {
            if count(outdated.len()) < excess_beyond_retiring {
                return Surplus { wanted: self.most(), only: None };
            }
            return with_retiring(excess_beyond_retiring, outdated.into_iter().map(str::to_owned).collect());
        }
        let current_ready = staying(set).filter(|name| !self.is_outdated(name) && self.is_ready(name));
        let current_ready = count(current_ready.count());
        let (ready, not_ready): (Vec<_>, Vec<_>) = outdated.iter().copied().partition(|name| self.is_ready(name));
        let in_all = count(outdated.len()).saturating_add(current_ready).saturating_sub(self.least_ready);
        let of_ready = count(ready.len()).saturating_add(current_ready).saturating_sub(self.least_ready);
        let (names, removable) =
            if not_ready.is_empty() || in_all == 0 { (ready, of_ready) } else { (not_ready, in_all) };
        let removable = removable.min(count(names.len()));
        with_retiring(removable, names.into_iter().map(str::to_owned).collect())
    }

    /// A Deployment that somebody deletes is made anew, from the present template.
    fn is_outdated(&self, name: &str) -> bool {
        self.outdated.contains(name) && self.live(name).is_some()
    }

    fn is_ready(&self, name: &str) -> bool {
        self.live(name).is_some_and(|live| DeploymentStatus::of(live).ready_replicas > 0)
    }

    fn live(&self, name: &str) -> Option<&Arc<Object>> {
        self.seen.child(&deployment_kind(), name).filter(|live| !live.is_being_deleted())
    }
}

/// The workers that are not retiring.
fn staying(set: &WorkerSet) -> impl Iterator<Item = &str> {
    set.names().into_iter().filter(|name| !set.retiring().contains(*name))
}

fn count(number: usize) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX)
}
