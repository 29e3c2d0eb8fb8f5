//! Which workers of a group go when there are too many, without losing what only they hold.
//!
//! Workers that never started go first: they hold nothing. For the others the group's scheduler is asked in which order it
//! can do without them, those that are chosen are recorded and retired (their data moves to others, they get no more work),
//! and only what the scheduler has confirmed is deleted. Every step starts from what is recorded and observed, so it can be
//! cut off anywhere: a retired worker stays `closing_gracefully` until its Deployment is deleted.

use std::{cmp::Reverse, collections::BTreeSet, time::Duration};

use serde_json::Value;

use super::{
    deployment_kind, pods::Pods, registered::Registered, worker_set::WorkerSet, workergroup::DeploymentStatus,
};
use crate::{
    contract::{EventNote, EventSeverity},
    scheduler::{Heard, Replies, Scheduler, SchedulerCall, SchedulerReply, SchedulerWorker},
    wanted::{Problem, Snapshot},
};

/// How long a scheduler's word counts. Longer, and workers may have been given data that the order does not know of.
const FRESH: Duration = Duration::from_secs(10);

/// How long after its process began, or its pod became ready, a worker may not be registered yet, the difference of clocks included.
const REGISTRATION: Duration = Duration::from_secs(5);

/// How long after a scheduler could not be reached, or could not empty a worker, it is asked again.
const ASK_AGAIN: Duration = Duration::from_secs(5);

/// Among the facts of a group: [`Removal::held_since`].
pub(super) const HELD_SINCE: &str = "heldSince";

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
    /// Since when workers are not removed that may be at work under other names; to be kept as the fact [`HELD_SINCE`].
    pub(super) held_since: Option<u64>,
}

impl Removal {
    /// The scheduler is asked which workers it knows.
    fn ask(&mut self) {
        if !self.calls.contains(&SchedulerCall::Workers) {
            self.calls.push(SchedulerCall::Workers);
        }
    }
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
    let pods = Pods::of(seen, None);
    let candidates = candidates(seen, set, &pods, only.as_ref());
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
        return Removal {
            calls: vec![SchedulerCall::Workers],
            requeue_after: Some(ASK_AGAIN),
            held_since: held_since(seen),
            ..Removal::default()
        };
    };
    match &heard.result {
        Ok(SchedulerReply::Workers(registered)) => {
            let before = set.clone();
            let retired = retired(&seen.replies, heard, seen.now);
            let known = &Registered::of(registered, &before, &pods, retired);
            Look { seen, candidates: &candidates, known, heard }.shrink(set, wanted, deadline)
        }
        Ok(_) | Err(_) => without_scheduler(seen, set, &candidates, wanted, heard, deadline),
    }
}

/// A worker of the set.
#[derive(Debug)]
struct Candidate {
    name: String,
    exists: bool,
    /// Whether a process of it may have done something.
    has_started: bool,
    /// Whether a process of it may be at work.
    runs: bool,
    created: Option<String>,
    ready_since: Option<u64>,
    running_since: Option<u64>,
}

/// Those that never started first, then those that are retiring, then the newest.
fn candidates(seen: &Snapshot, set: &WorkerSet, pods: &Pods<'_>, only: Option<&BTreeSet<String>>) -> Vec<Candidate> {
    let mut candidates: Vec<_> = set
        .names()
        .into_iter()
        .rev()
        .filter(|name| only.is_none_or(|only| only.contains(*name)))
        .map(|name| {
            let live = seen.child(&deployment_kind(), name);
            let status = live.map(|live| DeploymentStatus::of(live)).unwrap_or_default();
            let running_since = pods.running_since(name);
            Candidate {
                name: name.to_owned(),
                exists: live.is_some(),
                has_started: status.has_started() || running_since.is_some(),
                runs: status.ready_replicas > 0 || running_since.is_some(),
                ready_since: status.ready_since(),
                running_since,
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

/// The addresses that were retired since the scheduler told of its workers: what it said then is older.
fn retired<'a>(replies: &'a Replies, told: &Heard, now: u64) -> &'a [String] {
    let heard = replies.fresh(&SchedulerCall::Retire(Vec::new()), FRESH, now);
    match heard.filter(|heard| heard.place > told.place).map(|heard| &heard.result) {
        Some(Ok(SchedulerReply::Retired(addresses))) => addresses,
        _ => &[],
    }
}

/// A look at the workers of a group with the word of its scheduler.
struct Look<'a> {
    seen: &'a Snapshot,
    candidates: &'a [Candidate],
    known: &'a Registered<'a>,
    /// Where the scheduler told of its workers.
    heard: &'a Heard,
}

impl Look<'_> {
    /// Whether a process that began then may have registered since the scheduler told of its workers. Times that are yet to
    /// come are those of a clock that is wrong.
    fn may_be_news(&self, since: Option<u64>) -> bool {
        let registration = u64::try_from(REGISTRATION.as_millis()).unwrap_or(u64::MAX);
        let registered_by = |since: u64| since.saturating_add(registration);
        since.is_some_and(|since| self.heard.at < registered_by(since) && since <= registered_by(self.seen.now))
    }

    fn shrink(&self, set: &mut WorkerSet, wanted: u32, deadline: Duration) -> Removal {
        let Self { seen, candidates, known, .. } = *self;
        let surplus = |set: &WorkerSet| usize::try_from(set.len().saturating_sub(wanted)).unwrap_or(usize::MAX);
        // A retired worker gets no more work, so it goes even if it is not too many any more: another takes its place. But a
        // container that was started again has another process.
        let mut renewed = BTreeSet::new();
        for candidate in candidates.iter().filter(|candidate| set.retiring().contains(&candidate.name)) {
            if known.is_empty(&candidate.name) && self.may_be_news(candidate.running_since) {
                renewed.insert(candidate.name.clone());
            }
        }
        for name in set.retiring().clone() {
            if known.is_empty(&name) && !renewed.contains(&name) {
                set.remove(&name);
            }
        }
        // Nothing is lost with what the scheduler does not know and what never ran.
        let idle = |candidate: &&Candidate| !known.contains(&candidate.name) && !candidate.has_started;
        for candidate in candidates.iter().filter(idle) {
            if surplus(set) > 0 {
                set.remove(&candidate.name);
            }
        }
        let may_be_busy =
            |candidate: &Candidate| candidate.runs && !known.contains(&candidate.name) && !known.unplaced().is_empty();
        let mut order: Vec<_> = candidates.iter().filter(|candidate| set.contains(&candidate.name)).collect();
        // Those chosen before, so that a second look does not choose others; then what has ended, then in the scheduler's order.
        order.sort_by_key(|candidate| {
            let is_new = !set.retiring().contains(&candidate.name);
            (is_new, may_be_busy(candidate), known.place(&candidate.name))
        });
        let chosen: Vec<_> = order.into_iter().take(surplus(set)).collect();
        let addresses: Vec<_> = chosen.iter().flat_map(|candidate| known.addresses(&candidate.name)).collect();
        // A worker that ran and is not registered (any more) has nothing that could be saved. One whose process began only
        // just now may have been registered since, and one that runs may be what the scheduler knows under another name.
        let unregistered = chosen.iter().copied().filter(|candidate| !known.contains(&candidate.name));
        let (fresh, rest): (Vec<_>, Vec<_>) =
            unregistered.partition(|candidate| self.may_be_news(candidate.ready_since.max(candidate.running_since)));
        let (held, gone): (Vec<_>, Vec<_>) = rest.into_iter().partition(|candidate| may_be_busy(candidate));
        gone.iter().for_each(|candidate| set.remove(&candidate.name));
        let mut removal = Hold::of(seen, known, &held).removal(set, deadline);
        // Who goes next after some were retired is for the scheduler's next word to say.
        let may_be_chosen =
            |name: &String| set.contains(name) && (!self.is_outdated() || set.retiring().contains(name));
        let chosen = chosen.iter().map(|candidate| candidate.name.clone()).filter(may_be_chosen);
        set.set_retiring(chosen.chain(renewed.iter().cloned()).collect());
        if !(fresh.is_empty() && renewed.is_empty()) || removal.held_since.is_some() {
            self.ask_again(&mut removal);
        }
        if !addresses.is_empty() {
            self.retire(set, addresses, &mut removal);
        }
        removal
    }

    /// Whether some were retired, or were to be, since the scheduler told of its workers.
    fn is_outdated(&self) -> bool {
        let last = self.seen.replies.fresh(&SchedulerCall::Retire(Vec::new()), Duration::MAX, self.seen.now);
        last.is_some_and(|last| last.place > self.heard.place)
    }

    /// Has these retired: once for each word of the scheduler, since what it said before is outdated by that.
    fn retire(&self, set: &WorkerSet, addresses: Vec<String>, removal: &mut Removal) {
        let replies = &self.seen.replies;
        removal.requeue_after = Some(ASK_AGAIN);
        let last = replies.fresh(&SchedulerCall::Retire(Vec::new()), Duration::MAX, self.seen.now);
        let asked = |heard: &&Heard| matches!(&heard.call, SchedulerCall::Retire(asked) if addresses.iter().all(|address| asked.contains(address)));
        let repeated = last.filter(asked);
        if let Some(heard) = repeated {
            let why = heard.result.as_ref().err().map(|error| format!(" ({error})")).unwrap_or_default();
            let message = format!(
                "DaskWorkerGroup {}: the scheduler could not move what {} workers hold{why}; they stay until it can: look \
                 for memory that is short, or tasks that hold on to their worker",
                self.seen.subject.metadata.name,
                set.retiring().len(),
            );
            removal.problem.get_or_insert(Problem::passing(NOT_EMPTIED, message));
        }
        if !self.is_outdated() {
            removal.calls.push(SchedulerCall::Retire(addresses));
        } else if repeated.is_none() {
            removal.ask();
        } else {
            self.ask_again(removal);
        }
    }

    /// Asks the scheduler which workers it knows, unless it said so just now.
    fn ask_again(&self, removal: &mut Removal) {
        removal.requeue_after = Some(ASK_AGAIN);
        if self.seen.replies.fresh(&SchedulerCall::Workers, ASK_AGAIN, self.seen.now).is_none() {
            removal.ask();
        }
    }
}

/// Workers that are not removed yet, since what the scheduler knows under another name may run in them.
struct Hold<'a> {
    seen: &'a Snapshot,
    held: Vec<&'a str>,
    unplaced: &'a [&'a SchedulerWorker],
    since: u64,
}

impl<'a> Hold<'a> {
    fn of(seen: &'a Snapshot, known: &'a Registered<'_>, held: &[&'a Candidate]) -> Self {
        let since = held_since(seen).unwrap_or(seen.now);
        let held = held.iter().map(|candidate| candidate.name.as_str()).collect();
        Self { seen, held, unplaced: known.unplaced(), since }
    }

    /// None is removed before the deadline, then all.
    fn removal(self, set: &mut WorkerSet, deadline: Duration) -> Removal {
        let (Self { seen, held, since, .. }, [unplaced, ..]) = (&self, self.unplaced) else {
            return Removal::default();
        };
        if held.is_empty() {
            return Removal::default();
        }
        let (group, count, waited) = (&seen.subject.metadata.name, held.len(), seen.now.saturating_sub(*since));
        let strangers = format!(
            "the scheduler knows {} workers (the first is {} at {}) of which neither name nor address tells in which \
             Deployment they run",
            self.unplaced.len(),
            unplaced.name,
            unplaced.address,
        );
        if Duration::from_millis(waited) < deadline {
            let message = format!(
                "DaskWorkerGroup {group}: {count} workers are too many and may be what the scheduler knows under other names: \
                 {strangers}; have them started with --name $(DASK_WORKER_NAME); after {} s they go as they are",
                deadline.as_secs()
            );
            return Removal {
                problem: Some(Problem::passing("WorkersNotRecognized", message)),
                held_since: Some(*since),
                ..Removal::default()
            };
        }
        held.iter().for_each(|name| set.remove(name));
        let message = format!(
            "{count} workers of DaskWorkerGroup {group} are removed that are not registered under their names: {strangers}, \
             also after {} s; what only those that are removed held is lost, and is computed again if it can be",
            waited / 1_000
        );
        Removal { events: vec![blindly(message)], ..Removal::default() }
    }
}

fn held_since(seen: &Snapshot) -> Option<u64> {
    seen.facts.get(HELD_SINCE).and_then(Value::as_u64)
}

fn blindly(message: String) -> EventNote {
    EventNote { severity: EventSeverity::Warning, reason: "ScaledDownBlindly".to_owned(), message }
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
            held_since: held_since(seen),
            ..Removal::default()
        };
    }
    remove_newest(set, candidates, surplus);
    let message = format!(
        "{surplus} workers of DaskWorkerGroup {group} are removed, the newest, without their scheduler, which was not to be \
         reached for {} s ({why}): what only they held is lost, and is computed again if it can be",
        waited.as_secs()
    );
    Removal { events: vec![blindly(message)], ..Removal::default() }
}
