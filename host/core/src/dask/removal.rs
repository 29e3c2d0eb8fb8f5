//! Which workers of a group go when there are too many, without losing what only they hold.
//!
//! Workers that never started go first: they hold nothing. For the others the group's scheduler is asked in which order it
//! can do without them, those that are chosen are recorded and retired (their data moves to others, they get no more work),
//! and only what the scheduler has confirmed is deleted. Every step starts from what is recorded and observed, so it can be
//! cut off anywhere: a retired worker stays `closing_gracefully` until its Deployment is deleted.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use super::{deployment_kind, worker_set::WorkerSet, workergroup::DeploymentStatus};
use crate::{
    contract::{EventNote, EventSeverity},
    scheduler::{Heard, Replies, Scheduler, SchedulerCall, SchedulerReply, SchedulerWorker},
    wanted::{Problem, Snapshot},
};

/// How long a scheduler's word counts. Longer, and workers may have been given data that the order does not know of.
const FRESH: Duration = Duration::from_secs(10);

/// How long after its pod became ready a worker may not be registered yet, the difference of clocks included.
const REGISTRATION: Duration = Duration::from_secs(5);

/// How long after a scheduler could not be reached, or could not empty a worker, it is asked again.
const ASK_AGAIN: Duration = Duration::from_secs(5);

/// Why workers that were to be retired are still there.
const NOT_EMPTIED: &str = "RetireIncomplete";

/// Which workers are to go.
#[derive(Debug)]
pub(super) struct Surplus {
    /// As many workers as the set is to have without them.
    pub(super) wanted: u32,
    /// Only these may go; none: any.
    pub(super) only: Option<BTreeSet<String>>,
}

/// What is to be done about surplus workers.
#[derive(Debug, Default)]
pub(super) struct Removal {
    pub(super) calls: Vec<SchedulerCall>,
    pub(super) events: Vec<EventNote>,
    pub(super) problem: Option<Problem>,
    pub(super) requeue_after: Option<Duration>,
}

/// Takes surplus workers out of the set, as far as that can be done now. The scheduler is none if it does
/// not run, or never has: then no worker has anything to lose. `deadline` is how long a scheduler may be silent until workers
/// are removed without it.
pub(super) fn shrink(
    seen: &Snapshot,
    set: &mut WorkerSet,
    Surplus { wanted, only }: Surplus,
    scheduler: Option<&Scheduler>,
    deadline: Duration,
) -> Removal {
    let surplus = |set: &WorkerSet| usize::try_from(set.len().saturating_sub(wanted)).unwrap_or(usize::MAX);
    if surplus(set) == 0 && set.retiring().is_empty() {
        return Removal::default();
    }
    let candidates = candidates(seen, set, only.as_ref());
    for name in candidates.iter().filter(|candidate| !candidate.exists).map(|candidate| &candidate.name) {
        if surplus(set) > 0 {
            set.remove(name);
        }
    }
    if surplus(set) == 0 && set.retiring().is_empty() {
        return Removal::default();
    }
    if scheduler.is_none() {
        remove_newest(set, &candidates, surplus(set));
        return Removal::default();
    }
    let Some(heard) = seen.replies.fresh(&SchedulerCall::Workers, FRESH, seen.now) else {
        return Removal { calls: vec![SchedulerCall::Workers], requeue_after: Some(ASK_AGAIN), ..Removal::default() };
    };
    match &heard.result {
        Ok(SchedulerReply::Workers(registered)) => {
            let before = set.clone();
            let known = Registered::of(registered, &before, retired(&seen.replies, seen.now));
            shrink_by_order(seen, set, &candidates, &known, wanted, heard.at)
        }
        Ok(_) | Err(_) => without_scheduler(seen, set, &candidates, wanted, heard, deadline),
    }
}

/// A worker of the set.
#[derive(Debug)]
struct Candidate {
    name: String,
    exists: bool,
    has_started: bool,
    created: Option<String>,
    ready_since: Option<u64>,
}

/// Those that never started first, then those that are retiring, then the newest.
fn candidates(seen: &Snapshot, set: &WorkerSet, only: Option<&BTreeSet<String>>) -> Vec<Candidate> {
    let mut candidates: Vec<_> = set
        .names()
        .into_iter()
        .rev()
        .filter(|name| only.is_none_or(|only| only.contains(*name)))
        .map(|name| {
            let live = seen.child(&deployment_kind(), name);
            let status = live.map(|live| DeploymentStatus::of(live));
            Candidate {
                name: name.to_owned(),
                exists: live.is_some(),
                has_started: status.as_ref().is_some_and(DeploymentStatus::has_started),
                ready_since: status.as_ref().and_then(DeploymentStatus::ready_since),
                created: live.and_then(|live| live.metadata.creation_timestamp.clone()),
            }
        })
        .collect();
    candidates.sort_by_key(|candidate| {
        let stays = !set.retiring().contains(&candidate.name);
        (candidate.exists, candidate.has_started, stays, Reverse(candidate.created.clone()))
    });
    candidates
}

fn remove_newest(set: &mut WorkerSet, candidates: &[Candidate], count: usize) {
    let here: Vec<_> = candidates.iter().filter(|candidate| set.contains(&candidate.name)).take(count).collect();
    here.into_iter().for_each(|candidate| set.remove(&candidate.name));
    set.set_retiring(BTreeSet::new());
}

/// What the scheduler knows of the group's workers.
struct Registered<'a> {
    /// By Deployment: its processes, each with its place in the order in which the scheduler can do without them.
    workers: BTreeMap<&'a str, Vec<(usize, &'a SchedulerWorker)>>,
    retired: BTreeSet<&'a str>,
}

impl<'a> Registered<'a> {
    /// Only the group's own: another group's workers are not ours to choose (dask-kubernetes issue 914).
    fn of(registered: &'a [SchedulerWorker], set: &'a WorkerSet, retired: &'a [String]) -> Self {
        let names = set.names();
        let mut workers: BTreeMap<&str, Vec<_>> = BTreeMap::new();
        for (place, worker) in registered.iter().enumerate() {
            if let Some(name) = names.iter().find(|name| is_of(&worker.name, name)) {
                workers.entry(name).or_default().push((place, worker));
            }
        }
        Self { workers, retired: retired.iter().map(String::as_str).collect() }
    }

    fn is_retired(&self, worker: &SchedulerWorker) -> bool {
        worker.is_retired || self.retired.contains(worker.address.as_str())
    }

    /// Whether the Deployment's processes are all registered no more or retired.
    fn is_empty(&self, name: &str) -> bool {
        self.workers.get(name).is_some_and(|workers| workers.iter().all(|(_, worker)| self.is_retired(worker)))
    }

    /// The place of the process that the scheduler can do without least.
    fn place(&self, name: &str) -> Option<usize> {
        self.workers.get(name)?.iter().map(|(place, _)| *place).max()
    }

    fn addresses(&self, name: &str) -> impl Iterator<Item = String> {
        let workers = self.workers.get(name).into_iter().flatten();
        workers.filter(|(_, worker)| !self.is_retired(worker)).map(|(_, worker)| worker.address.clone())
    }
}

/// With `--nworkers`, processes are named `<deployment>-0`, `<deployment>-1`, ….
fn is_of(worker: &str, deployment: &str) -> bool {
    let rest = worker.strip_prefix(deployment);
    rest.is_some_and(|rest| {
        rest.is_empty() || rest.strip_prefix('-').is_some_and(|number| number.bytes().all(|byte| byte.is_ascii_digit()))
    })
}

/// The addresses that were retired just now.
fn retired(replies: &Replies, now: u64) -> &[String] {
    match replies.fresh(&SchedulerCall::Retire(Vec::new()), FRESH, now).map(|heard| &heard.result) {
        Some(Ok(SchedulerReply::Retired(addresses))) => addresses,
        _ => &[],
    }
}

fn shrink_by_order(
    seen: &Snapshot,
    set: &mut WorkerSet,
    candidates: &[Candidate],
    known: &Registered<'_>,
    wanted: u32,
    heard_at: u64,
) -> Removal {
    let surplus = |set: &WorkerSet| usize::try_from(set.len().saturating_sub(wanted)).unwrap_or(usize::MAX);
    // A retired worker gets no more work, so it goes even if it is not too many any more: another takes its place.
    for name in set.retiring().clone() {
        if known.is_empty(&name) {
            set.remove(&name);
        }
    }
    // Nothing is lost with what the scheduler does not know and what never ran.
    let idle = |candidate: &&Candidate| !known.workers.contains_key(candidate.name.as_str()) && !candidate.has_started;
    for candidate in candidates.iter().filter(idle) {
        if surplus(set) > 0 {
            set.remove(&candidate.name);
        }
    }
    let mut order: Vec<_> = candidates.iter().filter(|candidate| set.contains(&candidate.name)).collect();
    // Those chosen before, so that a second look does not choose others; then what has ended, then in the scheduler's order.
    order.sort_by_key(|candidate| (!set.retiring().contains(&candidate.name), known.place(&candidate.name)));
    let chosen: Vec<_> = order.into_iter().take(surplus(set)).map(|candidate| candidate.name.clone()).collect();
    let addresses: Vec<_> = chosen.iter().flat_map(|name| known.addresses(name)).collect();
    // A worker that ran and is not registered (any more) has nothing that could be saved. One whose pod became ready only just
    // now may have been registered since.
    let mut may_register = false;
    for candidate in candidates.iter().filter(|candidate| chosen.contains(&candidate.name)) {
        if known.workers.contains_key(candidate.name.as_str()) {
            continue;
        }
        let registration = u64::try_from(REGISTRATION.as_millis()).unwrap_or(u64::MAX);
        if candidate.ready_since.is_some_and(|since| heard_at < since.saturating_add(registration)) {
            may_register = true;
        } else {
            set.remove(&candidate.name);
        }
    }
    set.set_retiring(chosen.into_iter().filter(|name| set.contains(name)).collect());
    if addresses.is_empty() {
        return Removal { requeue_after: may_register.then_some(ASK_AGAIN), ..Removal::default() };
    }
    let asked = |heard: &&Heard| matches!(&heard.call, SchedulerCall::Retire(asked) if addresses.iter().all(|address| asked.contains(address)));
    let just_asked = seen.replies.fresh(&SchedulerCall::Retire(Vec::new()), ASK_AGAIN, seen.now).filter(asked);
    if let Some(heard) = just_asked {
        let why = heard.result.as_ref().err().map(|error| format!(" ({error})")).unwrap_or_default();
        let message = format!(
            "DaskWorkerGroup {}: the scheduler could not move what {} workers hold{why}; they stay until it can: look for \
             memory that is short, or tasks that hold on to their worker",
            seen.subject.metadata.name,
            set.retiring().len(),
        );
        return Removal {
            problem: Some(Problem::passing(NOT_EMPTIED, message)),
            requeue_after: Some(ASK_AGAIN),
            ..Removal::default()
        };
    }
    Removal { calls: vec![SchedulerCall::Retire(addresses)], requeue_after: Some(ASK_AGAIN), ..Removal::default() }
}

fn without_scheduler(
    seen: &Snapshot,
    set: &mut WorkerSet,
    candidates: &[Candidate],
    wanted: u32,
    heard: &Heard,
    deadline: Duration,
) -> Removal {
    let why = match &heard.result {
        Ok(_) => "it answered something else than was asked".to_owned(),
        Err(error) => error.to_string(),
    };
    let since = heard.failing_since.unwrap_or(heard.at);
    let waited = Duration::from_millis(seen.now.saturating_sub(since));
    let group = &seen.subject.metadata.name;
    let surplus = usize::try_from(set.len().saturating_sub(wanted)).unwrap_or(usize::MAX);
    if waited < deadline {
        let message = format!(
            "DaskWorkerGroup {group}: {surplus} workers are too many, and which can go is for the scheduler to say; {why}; \
             it is asked again, and after {} s the newest workers go without it",
            deadline.as_secs()
        );
        let asked = seen.replies.fresh(&SchedulerCall::Workers, ASK_AGAIN, seen.now).is_some();
        return Removal {
            calls: if asked { Vec::new() } else { vec![SchedulerCall::Workers] },
            problem: Some(Problem::passing("ScaleDownWaiting", message)),
            requeue_after: Some(ASK_AGAIN),
            ..Removal::default()
        };
    }
    remove_newest(set, candidates, surplus);
    let message = format!(
        "{surplus} workers of DaskWorkerGroup {group} are removed, the newest, without their scheduler, which was not to be \
         reached for {} s ({why}): what only they held is lost, and is computed again if it can be",
        waited.as_secs()
    );
    let note = EventNote { severity: EventSeverity::Warning, reason: "ScaledDownBlindly".to_owned(), message };
    Removal { events: vec![note], ..Removal::default() }
}
