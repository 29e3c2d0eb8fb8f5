//! Workers that are not removed, because something of theirs could be lost, until a deadline: then they go as they are.

use std::{collections::BTreeSet, time::Duration};

use super::{ASK_AGAIN, Candidate, Removal, memory::Memory, remove_newest, surplus};
use crate::{
    contract::{EventNote, EventSeverity},
    dask::workers::{registered::ip_of, worker_set::WorkerSet},
    scheduler::SchedulerWorker,
    wanted::{Problem, Snapshot},
};

/// Why workers that are to go are still there: the scheduler does not say which can, does not know them, or can't empty them.
const WAITING: &str = "ScaleDownWaiting";
const NOT_RECOGNIZED: &str = "WorkersNotRecognized";
pub(super) const NOT_EMPTIED: &str = "RetireIncomplete";

/// A group whose scheduler does not say which workers can go.
pub(super) struct Silence<'a> {
    pub(super) seen: &'a Snapshot,
    pub(super) candidates: &'a [Candidate],
    pub(super) wanted: u32,
    pub(super) why: String,
    /// Whether it was asked just now, or can't be.
    pub(super) is_certain: bool,
}

impl Silence<'_> {
    /// Waits, and removes the newest after the deadline.
    pub(super) fn removal(self, set: &mut WorkerSet, memory: Memory, deadline: Duration) -> Removal {
        let Self { seen, candidates, wanted, why, is_certain } = self;
        let (group, count) = (&seen.subject.metadata.name, surplus(set, wanted));
        let Some(waited) = waited(seen, memory.silent_since) else {
            return Removal { unknown: vec![WAITING, NOT_RECOGNIZED, NOT_EMPTIED], ..Removal::of(memory) };
        };
        if waited < deadline || !is_certain || count == 0 {
            let count = count.max(set.retiring().len());
            let message = format!(
                "DaskWorkerGroup {group}: scale-down of {count} workers waits for the scheduler: {why}; the operator \
                 asks again, and after {} s deletes the newest workers without retiring",
                deadline.as_secs()
            );
            return Removal { problems: vec![Problem::passing(WAITING, message)], ..Removal::of(memory) };
        }
        remove_newest(set, candidates, wanted);
        let message = format!(
            "Deleted the newest {count} workers of DaskWorkerGroup {group} without retiring: the scheduler did not \
             answer for {} s ({why}); results that only they held are lost, and are computed again if possible",
            waited.as_secs()
        );
        Removal { events: vec![blindly(message)], ..Removal::of(memory) }
    }
}

/// Workers that may be what the scheduler knows under another name. None is removed before the deadline, then all.
pub(super) fn unrecognized(
    seen: &Snapshot,
    set: &mut WorkerSet,
    held: &[&Candidate],
    unplaced: &[&SchedulerWorker],
    deadline: Duration,
    removal: &mut Removal,
) {
    let (false, [stranger, ..]) = (held.is_empty(), unplaced) else { return removal.memory.held_since = None };
    let since = *removal.memory.held_since.get_or_insert(seen.now);
    let waited = waited(seen, Some(since)).unwrap_or_default();
    let (group, count) = (&seen.subject.metadata.name, held.len());
    // Their names are what somebody told the scheduler; of an address no more is told than an IP has.
    let place = ip_of(&stranger.address).map(|ip| format!(" (the first runs at {ip})")).unwrap_or_default();
    let strangers = format!(
        "the scheduler knows {} workers{place} that match no Deployment, neither by name nor by address",
        unplaced.len(),
    );
    if waited < deadline {
        let message = format!(
            "DaskWorkerGroup {group}: {count} workers too many may be known to the scheduler under other names: \
             {strangers}; start workers with --name $(DASK_WORKER_NAME); after {} s they are deleted as they are",
            deadline.as_secs()
        );
        removal.problems.push(Problem::passing(NOT_RECOGNIZED, message));
        return removal.look_again(ASK_AGAIN);
    }
    held.iter().for_each(|candidate| set.remove(&candidate.name));
    removal.memory.held_since = None;
    let message = format!(
        "Deleted {count} workers of DaskWorkerGroup {group} that are not registered under their names: {strangers}, \
         for {} s; results that only they held are lost, and are computed again if possible",
        waited.as_secs()
    );
    removal.events.push(blindly(message));
}

/// Workers that could not hand over what they hold. As long as there are others that could take it they stay; if there are
/// none, until the deadline.
pub(super) fn not_emptied(
    seen: &Snapshot,
    set: &mut WorkerSet,
    (names, why): (BTreeSet<String>, Option<String>),
    others: bool,
    deadline: Duration,
    removal: &mut Removal,
) {
    if names.is_empty() || others {
        removal.memory.stranded_since = None;
    }
    if names.is_empty() {
        return;
    }
    let (group, count) = (&seen.subject.metadata.name, names.len());
    let why = why.map(|error| format!(" ({error})")).unwrap_or_default();
    let what = format!("DaskWorkerGroup {group}: the scheduler could not move what {count} workers hold{why}");
    if others {
        let message = format!(
            "{what}; they stay until it can: look for workers that are short of memory or paused, for actors, which \
             can't be moved, and for tasks that are bound to their worker"
        );
        return removal.problems.push(Problem::passing(NOT_EMPTIED, message));
    }
    let since = *removal.memory.stranded_since.get_or_insert(seen.now);
    let waited = waited(seen, Some(since)).unwrap_or_default();
    if waited < deadline {
        let message = format!(
            "{what}: the cluster has no other worker to take it; let one stay; after {} s they are deleted as they are",
            deadline.as_secs()
        );
        return removal.problems.push(Problem::passing(NOT_EMPTIED, message));
    }
    names.iter().for_each(|name| set.remove(name));
    removal.memory.stranded_since = None;
    let message = format!(
        "Deleted {count} workers of DaskWorkerGroup {group} with what they hold: for {} s the cluster had no other \
         worker to take it; results that only they held are lost, and are computed again if possible",
        waited.as_secs()
    );
    removal.events.push(blindly(message));
}

fn waited(seen: &Snapshot, since: Option<u64>) -> Option<Duration> {
    since.map(|since| Duration::from_millis(seen.now.saturating_sub(since)))
}

fn blindly(message: String) -> EventNote {
    EventNote { severity: EventSeverity::Warning, reason: "ScaledDownBlindly".to_owned(), message }
}
