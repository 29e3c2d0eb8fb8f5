//! Which workers of a group go when there are too many, without losing what only they hold.
//!
//! Workers that never started go first: they hold nothing. For the others the group's scheduler is asked in which order it
//! can do without them. Those that are chosen are recorded and retired, all at once, so that none is given what another hands
//! over: they get no more work, and their data moves to others. When one has finished what it had begun, it is retired once
//! more, by itself, and if the scheduler then confirms that it is empty it is deleted. Every step starts from what is recorded
//! and observed, so it can be cut off anywhere: a retired worker stays `closing_gracefully` until its Deployment is deleted.

mod blind;
mod memory;

use std::{cmp::Reverse, collections::BTreeSet, time::Duration};

use serde_json::Value;

use self::{blind::Silence, memory::Memory};
use crate::{
    contract::EventNote,
    dask::{
        kinds::deployment_kind,
        pods::{DeploymentStatus, Pods},
        workers::{registered::Registered, worker_set::WorkerSet},
    },
    scheduler::{Heard, Scheduler, SchedulerCall, SchedulerReply},
    time::millis,
    wanted::{Problem, Snapshot},
};

/// How long a scheduler's word counts. Longer, and workers may have been given data that the order does not know of.
const FRESH: Duration = Duration::from_secs(10);

/// How long after its process began, or its pod became ready, a worker may not be registered yet, the difference of clocks included.
const REGISTRATION: Duration = Duration::from_secs(5);

/// How long after a scheduler could not be reached, or could not empty a worker, it is asked again.
const ASK_AGAIN: Duration = Duration::from_secs(5);

/// How often it is asked whether workers have finished what they had begun.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

/// How many workers of a group are waited for at once, each over a connection of its own.
const CONFIRMED_AT_ONCE: usize = 16;

/// Which workers are to go.
#[derive(Debug)]
pub(in crate::dask) struct Surplus {
    /// As many workers as the set is to have without them.
    pub(in crate::dask) wanted: u32,
    /// Only these may go; none: any.
    pub(in crate::dask) only: Option<BTreeSet<String>>,
}

/// What there is of a group's scheduler.
#[derive(Debug)]
pub(in crate::dask) enum Reach {
    /// It is seen, and has never run: no worker has anything to lose.
    NeverRan,
    /// It may run, and can't be asked, for this reason.
    Missing(String),
    /// It can be asked.
    At(Scheduler),
}

/// What is to be done about surplus workers.
#[derive(Debug, Default)]
pub(in crate::dask) struct Removal {
    pub(in crate::dask) calls: Vec<SchedulerCall>,
    pub(in crate::dask) events: Vec<EventNote>,
    pub(in crate::dask) problems: Vec<Problem>,
    /// See [`crate::wanted::Findings::unknown`].
    pub(in crate::dask) unknown: Vec<&'static str>,
    pub(in crate::dask) requeue_after: Option<Duration>,
    memory: Memory,
}

impl Removal {
    /// Something is to be done, so it is looked at again.
    fn of(memory: Memory) -> Self {
        Self { memory, requeue_after: Some(ASK_AGAIN), ..Self::default() }
    }

    fn look_again(&mut self, after: Duration) {
        self.requeue_after = self.requeue_after.map(|before| before.min(after)).or(Some(after));
    }

    /// What is to be remembered until the next look; null: nothing.
    pub(in crate::dask) fn facts(&self) -> Value {
        if self.memory == Memory::default() { Value::Null } else { self.memory.to_facts() }
    }
}

/// Takes surplus workers out of the set, as far as that can be done now. `deadline` is how long workers are kept that could lose
/// something.
pub(in crate::dask) fn shrink(
    seen: &Snapshot,
    set: &mut WorkerSet,
    Surplus { wanted, only }: Surplus,
    scheduler: &Reach,
    deadline: Duration,
) -> Removal {
    let is_done = |set: &WorkerSet| surplus(set, wanted) == 0 && set.retiring().is_empty();
    if is_done(set) {
        return Removal::default();
    }
    let pods = Pods::of(seen, None);
    let candidates = candidates(seen, set, &pods, only.as_ref());
    remove(set, wanted, candidates.iter().filter(|candidate| candidate.may_go && !candidate.exists));
    if matches!(scheduler, Reach::NeverRan) {
        remove_newest(set, &candidates, wanted);
        set.set_retiring(BTreeSet::new());
    }
    let heard = |age: Duration| seen.replies.fresh(&SchedulerCall::Workers, age, seen.now);
    // A scheduler that does not answer can't say either that a worker that is not ready is registered.
    if matches!(scheduler, Reach::Missing(_)) || heard(FRESH).and_then(failure).is_some() {
        remove(set, wanted, candidates.iter().filter(|candidate| candidate.may_go && !candidate.has_started));
    }
    if is_done(set) {
        return Removal::default();
    }
    let mut memory = Memory::of(seen, surplus(set, wanted));
    let last = heard(Duration::MAX);
    let word = last.filter(|heard| heard.asked > memory.asked_from);
    let within = |age: Duration| word.filter(|heard| seen.now.abs_diff(heard.at) <= millis(age));
    if let (Reach::At(_), Some(heard)) = (scheduler, within(FRESH))
        && let Ok(SchedulerReply::Workers(registered)) = &heard.result
    {
        memory.silent_since = None;
        let before = set.clone();
        let known = &Registered::of(registered, &before, &pods);
        let mut look = Look { seen, candidates: &candidates, known, heard, removal: Removal::of(memory) };
        look.shrink(set, wanted, deadline);
        let removal = look.removal;
        return if is_done(set) { Removal { events: removal.events, ..Removal::default() } } else { removal };
    }
    let (why, is_certain) = match scheduler {
        Reach::Missing(why) => {
            memory.silent_since.get_or_insert(seen.now);
            (why.clone(), true)
        }
        Reach::NeverRan | Reach::At(_) => {
            if let Some(heard) = word.filter(|heard| failure(heard).is_some()) {
                memory.silent_since.get_or_insert(heard.at);
            }
            let why = last.and_then(failure).unwrap_or_else(|| "it has not answered yet".to_owned());
            (why, within(FRESH).is_some())
        }
    };
    let silence = Silence { seen, candidates: &candidates, wanted, why, is_certain };
    let mut removal = silence.removal(set, memory, deadline);
    if within(ASK_AGAIN).is_none() {
        removal.calls.push(SchedulerCall::Workers);
    }
    removal
}

/// How many workers are too many.
fn surplus(set: &WorkerSet, wanted: u32) -> usize {
    usize::try_from(set.len().saturating_sub(wanted)).unwrap_or(usize::MAX)
}

/// Takes workers out of the set, as long as there are too many.
fn remove<'a>(set: &mut WorkerSet, wanted: u32, candidates: impl Iterator<Item = &'a Candidate>) {
    candidates.for_each(|candidate| {
        if surplus(set, wanted) > 0 {
            set.remove(&candidate.name);
        }
    });
}

fn remove_newest(set: &mut WorkerSet, candidates: &[Candidate], wanted: u32) {
    remove(set, wanted, candidates.iter().filter(|candidate| candidate.may_go));
}

/// Why the scheduler did not say which workers it knows.
fn failure(heard: &Heard) -> Option<String> {
    match &heard.result {
        Ok(SchedulerReply::Workers(_)) => None,
        Ok(_) => Some("its answer does not fit the request".to_owned()),
        Err(error) => Some(error.to_string()),
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
    /// Whether it may be chosen.
    may_go: bool,
}

/// Those that never started first, then those that are retiring, then the newest.
fn candidates(seen: &Snapshot, set: &WorkerSet, pods: &Pods<'_>, only: Option<&BTreeSet<String>>) -> Vec<Candidate> {
    let mut candidates: Vec<_> = set
        .names()
        .into_iter()
        .rev()
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
                may_go: only.is_none_or(|only| only.contains(name)),
            }
        })
        .collect();
    candidates.sort_by_key(|candidate| {
        let stays = !set.retiring().contains(&candidate.name);
        (candidate.exists, candidate.has_started, stays, Reverse(candidate.created.clone()))
    });
    candidates
}

/// A look at the workers of a group with the word of its scheduler.
struct Look<'a> {
    seen: &'a Snapshot,
    candidates: &'a [Candidate],
    known: &'a Registered<'a>,
    /// Where the scheduler told of its workers.
    heard: &'a Heard,
    removal: Removal,
}

impl<'a> Look<'a> {
    fn shrink(&mut self, set: &mut WorkerSet, wanted: u32, deadline: Duration) {
        let Self { seen, candidates, known, heard, .. } = *self;
        // A worker that gets no more work goes even if it is not too many (any more): another takes its place.
        let leaving = candidates.iter().filter(|candidate| known.is_leaving(&candidate.name));
        leaving.for_each(|candidate| set.retire(&candidate.name));
        let left = set.names().into_iter().filter_map(|name| Some((name, known.left(name)?)));
        self.removal.memory.note_leaving(left, heard.place);
        // But a container that was started again has another process.
        let (renewed, empty): (Vec<_>, Vec<_>) = candidates
            .iter()
            .filter(|candidate| set.retiring().contains(&candidate.name) && self.is_empty(&candidate.name))
            .partition(|candidate| self.may_be_news(candidate.running_since));
        empty.iter().for_each(|candidate| set.remove(&candidate.name));
        // Nothing is lost with what the scheduler does not know and what never ran.
        let idle = |candidate: &&Candidate| !known.contains(&candidate.name) && !candidate.has_started;
        remove(set, wanted, candidates.iter().filter(|candidate| candidate.may_go).filter(idle));
        let chosen = self.choose(set, wanted);
        // A worker that ran and is not registered (any more) has nothing that could be saved. One whose process began only
        // just now may have been registered since, and one that runs may be what the scheduler knows under another name.
        let unregistered = chosen.iter().copied().filter(|candidate| !known.contains(&candidate.name));
        let (fresh, rest): (Vec<_>, Vec<_>) =
            unregistered.partition(|candidate| self.may_be_news(candidate.ready_since.max(candidate.running_since)));
        let (held, gone): (Vec<_>, Vec<_>) = rest.into_iter().partition(|candidate| self.may_be_busy(candidate));
        gone.iter().for_each(|candidate| set.remove(&candidate.name));
        blind::unrecognized(seen, set, &held, known.unplaced(), deadline, &mut self.removal);
        // Who was told to hand over what it holds stays recorded until it is known what became of it.
        let moving = self.moving();
        let is_told = |name: &&String| known.is_leaving(name) || self.may_have_been_told(name, &moving);
        let told = set.retiring().iter().filter(is_told);
        let going = chosen.iter().chain(&renewed).map(|candidate| &candidate.name).chain(told).cloned();
        let going: BTreeSet<_> = going.filter(|name| set.contains(name)).collect();
        set.set_retiring(going);
        if !(fresh.is_empty() && renewed.is_empty()) || self.removal.memory.held_since.is_some() {
            self.ask_after(ASK_AGAIN);
        }
        if self.removal.memory.is_waiting() {
            self.ask_after(LOOK_AGAIN);
        }
        self.retire(set, surplus(set, wanted));
        let going = set.retiring().iter().flat_map(|name| known.addresses(name)).collect();
        let retired = |address: &String| seen.replies.retired(address).is_some();
        if !set.retiring().iter().all(|name| known.addresses(name).iter().all(retired)) {
            self.removal.unknown.push(blind::NOT_EMPTIED);
        }
        let full = self.not_emptied(set);
        blind::not_emptied(seen, set, full, known.has_other_than(&going), deadline, &mut self.removal);
    }

    /// As many as are too many: those chosen before, so that a second look does not choose others; then what has ended, then
    /// in the scheduler's order, then the newest. Who goes next while data moves, or after it was moved, is for the scheduler's
    /// next word to say.
    fn choose(&self, set: &WorkerSet, wanted: u32) -> Vec<&'a Candidate> {
        let is_chosen = |candidate: &Candidate| set.retiring().contains(&candidate.name);
        let is_settled = !self.is_outdated() && self.seen.replies.retiring().next().is_none();
        let here = |candidate: &&Candidate| set.contains(&candidate.name);
        let mut order: Vec<_> = self.candidates.iter().filter(here).collect();
        order.retain(|candidate| candidate.may_go || is_chosen(candidate));
        order.sort_by_key(|candidate| {
            (!is_chosen(candidate), self.may_be_busy(candidate), self.known.place(&candidate.name))
        });
        order.truncate(surplus(set, wanted));
        order.retain(|candidate| is_settled || is_chosen(candidate) || !self.known.contains(&candidate.name));
        order
    }

    /// Whether a process that began then may have registered since the scheduler told of its workers. Times that are yet to
    /// come are those of a clock that is wrong.
    fn may_be_news(&self, since: Option<u64>) -> bool {
        let registered_by = |since: u64| since.saturating_add(millis(REGISTRATION));
        since.is_some_and(|since| self.heard.at < registered_by(since) && since <= registered_by(self.seen.now))
    }

    /// Whether it may be what the scheduler knows under another name.
    fn may_be_busy(&self, candidate: &Candidate) -> bool {
        candidate.runs && !self.known.contains(&candidate.name) && !self.known.unplaced().is_empty()
    }

    /// Whether all its processes had finished what they had begun, and were found empty after that.
    fn is_empty(&self, name: &str) -> bool {
        let Some(finished) = self.removal.memory.finished(name) else { return false };
        let attempts = self.known.addresses(name);
        let mut attempts = attempts.iter().map(|address| self.seen.replies.retired(address));
        attempts.all(|attempt| attempt.is_some_and(|attempt| attempt.asked > finished && attempt.result == Ok(true)))
    }

    /// Whether one of its processes is being retired, `moving` being the addresses of all that are, or was since the scheduler
    /// was asked.
    fn may_have_been_told(&self, name: &str, moving: &BTreeSet<&String>) -> bool {
        let addresses = self.known.addresses(name);
        self.was_told(&addresses) || addresses.iter().any(|address| moving.contains(address))
    }

    /// The addresses of those that are being retired.
    fn moving(&self) -> BTreeSet<&'a String> {
        self.seen.replies.retiring().flatten().collect()
    }

    /// Whether one at these addresses was retired, or was to be, since the scheduler was asked for its workers.
    fn was_told(&self, addresses: &[String]) -> bool {
        let attempts = addresses.iter().filter_map(|address| self.seen.replies.retired(address));
        attempts.map(|attempt| attempt.place).any(|place| place > self.heard.asked)
    }

    /// Whether some were retired, or were to be, since the scheduler was asked for its workers.
    fn is_outdated(&self) -> bool {
        self.seen.replies.last_retired() > self.heard.asked
    }

    /// Whether those at these addresses can be retired now: not those that are being emptied, that the scheduler has told nothing
    /// of since they were, or that it could not empty just now.
    fn can_be_told(&self, addresses: &[String]) -> bool {
        let attempts = addresses.iter().filter_map(|address| self.seen.replies.retired(address));
        let mut failures = attempts.filter(|attempt| attempt.result != Ok(true)).map(|attempt| attempt.at);
        let is_new = |at: u64| self.seen.now.abs_diff(at) < millis(ASK_AGAIN);
        !self.was_told(addresses)
            && !self.seen.replies.retiring().any(|told| told == addresses)
            && !failures.any(is_new)
    }

    /// Has those that are going retired. First all that get work, at once, and not while data moves that one of them may be
    /// given; then each by itself, so that none waits for another.
    fn retire(&mut self, set: &WorkerSet, surplus: usize) {
        let (known, replies) = (self.known, &self.seen.replies);
        let going = || set.retiring().iter().filter(|name| known.contains(name));
        let mut at_work: Vec<_> = going().flat_map(|name| known.at_work(name)).collect();
        let moving = self.moving();
        if at_work.iter().any(|address| moving.contains(address)) {
            return self.ask_after(ASK_AGAIN);
        }
        let finished = going().filter(|name| self.removal.memory.finished(name).is_some() && !self.is_empty(name));
        let unconfirmed = finished.map(|name| known.addresses(name)).filter(|addresses| self.can_be_told(addresses));
        let places = CONFIRMED_AT_ONCE.saturating_sub(replies.retiring().count());
        let mut calls: Vec<_> = unconfirmed.take(places).map(SchedulerCall::Retire).collect();
        at_work.retain(|address| self.can_be_told(std::slice::from_ref(address)));
        if calls.is_empty() && moving.is_empty() && !at_work.is_empty() {
            calls.push(SchedulerCall::Retire(at_work));
        }
        self.removal.calls.extend(calls);
        if self.is_outdated() {
            let is_news = |address: &String| {
                let attempt = replies.retired(address).filter(|attempt| attempt.place > self.heard.asked);
                attempt.is_some_and(|attempt| attempt.result == Ok(true))
            };
            let has_news = going().any(|name| known.addresses(name).iter().any(is_news));
            let wait = if has_news || surplus > set.retiring().len() { Duration::ZERO } else { ASK_AGAIN };
            self.ask_after(wait);
        }
    }

    /// Those that could not hand over what they hold, and why if it is known.
    fn not_emptied(&self, set: &WorkerSet) -> (BTreeSet<String>, Option<String>) {
        let (mut names, mut why) = (BTreeSet::new(), None);
        for name in set.retiring() {
            for address in self.known.addresses(name) {
                match self.seen.replies.retired(&address).map(|attempt| &attempt.result) {
                    None | Some(Ok(true)) => continue,
                    Some(Ok(false)) => {}
                    Some(Err(error)) => why = Some(error.to_string()),
                }
                names.insert(name.clone());
            }
        }
        (names, why)
    }

    /// Asks the scheduler which workers it knows, if it said so this long ago; else later.
    fn ask_after(&mut self, wait: Duration) {
        let age = Duration::from_millis(self.seen.now.abs_diff(self.heard.at));
        if age < wait {
            return self.removal.look_again(wait - age);
        }
        if !self.removal.calls.contains(&SchedulerCall::Workers) {
            self.removal.calls.push(SchedulerCall::Workers);
        }
    }
}
