//! What to look at next. One entry per key; a key that is being worked on waits; every group (a handler) gets its turn, and
//! within it every lane (a namespace), so that nobody waits for how much others have. Each step takes the same time, however
//! much waits.
//!
//! A key has several appointments, each in a [`Slot`] of its own: one is made, moved and cancelled whatever becomes of the
//! others, and whoever works on the key is told which are due. A change wakes the key and leaves its appointments.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, VecDeque},
    fmt::Debug,
    hash::Hash,
    ops::Bound,
};

use crate::object::NamespacedName;

/// A key that waits in the lane of its like.
pub trait InLane {
    /// What lanes are told apart by.
    type Lane: Clone + Debug + Eq + Hash;

    /// The key's lane.
    fn lane(&self) -> &Self::Lane;
}

/// Objects wait by namespace.
impl InLane for NamespacedName {
    type Lane = Option<String>;

    fn lane(&self) -> &Self::Lane {
        &self.namespace
    }
}

/// What a key is woken for at a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Slot {
    /// Something that happened is not looked at before this time, so that more of it is looked at together.
    Delay,
    /// It is tried again after a failure.
    Retry,
    /// The handler has asked for it.
    Requeue,
    /// What it waits for has changed.
    Reminder,
}

/// A key to work on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Next<G, K> {
    /// Its group.
    pub group: G,
    /// The key.
    pub key: K,
    /// For how long it has waited.
    pub waited: u64,
    /// The slots whose time has come since it was last worked on, in order. Those of an appointment that was moved or
    /// cancelled since are not among them.
    pub due: Vec<Slot>,
}

/// A queue of keys, in groups that are served in turn. Times are milliseconds of any clock that only goes forward.
#[derive(Debug)]
pub struct Queue<G, K: InLane> {
    ready: BTreeMap<G, Lanes<K>>,
    /// The group that was served last.
    last: Option<G>,
    /// The appointments that are not due, by time.
    appointments: BTreeSet<(u64, G, K, Slot)>,
    entries: HashMap<(G, K), Entry>,
    /// How many keys of a group are being worked on.
    running: BTreeMap<G, usize>,
    depth: usize,
}

/// Keys of a group that are ready, since when, and whose turn it is.
#[derive(Debug)]
struct Lanes<K: InLane> {
    /// The lanes that have any, the next first.
    turns: VecDeque<K::Lane>,
    waiting: HashMap<K::Lane, VecDeque<(K, u64)>>,
}

impl<K: InLane> Lanes<K> {
    fn push(&mut self, key: K, since: u64) {
        if let Some(waiting) = self.waiting.get_mut(key.lane()) {
            return waiting.push_back((key, since));
        }
        let lane = key.lane().clone();
        self.turns.push_back(lane.clone());
        self.waiting.insert(lane, VecDeque::from([(key, since)]));
    }

    fn pop(&mut self) -> Option<(K, u64)> {
        let lane = self.turns.pop_front()?;
        let waiting = self.waiting.get_mut(&lane)?;
        let first = waiting.pop_front();
        if waiting.is_empty() {
            self.waiting.remove(&lane);
        } else {
            self.turns.push_back(lane);
        }
        first
    }
}

impl<K: InLane> Default for Lanes<K> {
    fn default() -> Self {
        Self { turns: VecDeque::new(), waiting: HashMap::new() }
    }
}

#[derive(Debug, Default)]
struct Entry {
    ready: bool,
    running: bool,
    /// Woken while it ran.
    again: bool,
    /// Its appointments, of each slot one at most; without a time: it is due.
    slots: Box<[(Slot, Option<u64>)]>,
}

impl Entry {
    fn time_of(&self, slot: Slot) -> Option<u64> {
        self.slots.iter().find(|(of, _)| *of == slot).and_then(|(_, at)| *at)
    }

    /// Replaces what is in a slot. `at` is None: nothing is; `at` is Some(None): it is due.
    fn set(&mut self, slot: Slot, at: Option<Option<u64>>) {
        let mut slots = std::mem::take(&mut self.slots).into_vec();
        slots.retain(|(of, _)| *of != slot);
        slots.extend(at.map(|at| (slot, at)));
        self.slots = slots.into_boxed_slice();
    }

    /// Whether there is nothing to be known of its key.
    fn is_idle(&self) -> bool {
        !self.ready && !self.running && self.slots.is_empty()
    }

    /// Takes out the slots that are due.
    fn take_due(&mut self) -> Vec<Slot> {
        if self.slots.is_empty() {
            return Vec::new();
        }
        let (mut due, later): (Vec<_>, Vec<_>) =
            std::mem::take(&mut self.slots).into_iter().partition(|(_, at)| at.is_none());
        self.slots = later.into_boxed_slice();
        due.sort_unstable();
        due.into_iter().map(|(slot, _)| slot).collect()
    }
}

impl<G: Clone + Ord + Hash, K: InLane + Clone + Ord + Hash> Default for Queue<G, K> {
    fn default() -> Self {
        Self {
            ready: BTreeMap::new(),
            last: None,
            appointments: BTreeSet::new(),
            entries: HashMap::new(),
            running: BTreeMap::new(),
            depth: 0,
        }
    }
}

impl<G: Clone + Ord + Hash, K: InLane + Clone + Ord + Hash> Queue<G, K> {
    /// Something happened to this key. What was put off by [`Queue::wake_by`] is looked at with it.
    pub fn wake(&mut self, group: G, key: K, now: u64) {
        let entry = self.entries.entry((group.clone(), key.clone())).or_default();
        if let Some(at) = entry.time_of(Slot::Delay) {
            entry.set(Slot::Delay, None);
            self.appointments.remove(&(at, group.clone(), key.clone(), Slot::Delay));
        }
        if entry.running {
            entry.again = true;
        } else if !entry.ready {
            entry.ready = true;
            self.depth += 1;
            self.ready.entry(group).or_default().push(key, now);
        }
    }

    /// Something happened to this key that is to be looked at by this time, in the slot [`Slot::Delay`]. An earlier time
    /// stands, and a key that is about to be worked on needs none.
    pub fn wake_by(&mut self, group: G, key: K, at: u64) {
        if let Some(entry) = self.entries.get(&(group.clone(), key.clone()))
            && (entry.ready || entry.again || entry.time_of(Slot::Delay).is_some_and(|before| before <= at))
        {
            return;
        }
        self.appoint(group, key, Slot::Delay, at);
    }

    /// Wakes the key at a time. It takes the place of what was in the slot.
    pub fn appoint(&mut self, group: G, key: K, slot: Slot, at: u64) {
        let id = (group, key);
        let entry = self.entries.entry(id.clone()).or_default();
        let before = entry.time_of(slot);
        if before == Some(at) {
            return;
        }
        entry.set(slot, Some(Some(at)));
        let (group, key) = id;
        if let Some(before) = before {
            self.appointments.remove(&(before, group.clone(), key.clone(), slot));
        }
        self.appointments.insert((at, group, key, slot));
    }

    /// Empties a slot of a key. If its time has come already, the key is worked on, but not told of it.
    pub fn cancel(&mut self, group: &G, key: &K, slot: Slot) {
        let id = (group.clone(), key.clone());
        let Some(entry) = self.entries.get_mut(&id) else { return };
        let before = entry.time_of(slot);
        entry.set(slot, None);
        if entry.is_idle() {
            self.entries.remove(&id);
        }
        if let Some(before) = before {
            self.appointments.remove(&(before, id.0, id.1, slot));
        }
    }

    /// When a slot of a key is due, if it is yet to come.
    pub fn appointment(&self, group: &G, key: &K, slot: Slot) -> Option<u64> {
        self.entries.get(&(group.clone(), key.clone()))?.time_of(slot)
    }

    /// The next key to work on; [`Queue::done`] must be called for it. `at_once` tells how many keys of a group may be worked
    /// on at the same time, so that a slow group delays only itself.
    pub fn next(&mut self, now: u64, at_once: impl Fn(&G) -> usize) -> Option<Next<G, K>> {
        while self.appointments.first().is_some_and(|(at, ..)| *at <= now) {
            let Some((at, group, key, slot)) = self.appointments.pop_first() else { break };
            if let Some(entry) = self.entries.get_mut(&(group.clone(), key.clone())) {
                entry.set(slot, Some(None));
            }
            self.wake(group, key, at);
        }
        let free = |group: &G| self.running.get(group).is_none_or(|running| *running < at_once(group));
        let after = self.last.as_ref().map_or(Bound::Unbounded, Bound::Excluded);
        let later = self.ready.range((after, Bound::Unbounded)).map(|(group, _)| group).find(|group| free(group));
        let group = later.or_else(|| self.ready.keys().find(|group| free(group))).cloned()?;
        let lanes = self.ready.get_mut(&group)?;
        let (key, since) = lanes.pop()?;
        if lanes.turns.is_empty() {
            self.ready.remove(&group);
        }
        self.depth -= 1;
        let entry = self.entries.entry((group.clone(), key.clone())).or_default();
        entry.ready = false;
        entry.running = true;
        let due = entry.take_due();
        *self.running.entry(group.clone()).or_default() += 1;
        self.last = Some(group.clone());
        Some(Next { group, key, waited: now.saturating_sub(since), due })
    }

    /// The work on a key is over.
    pub fn done(&mut self, group: G, key: K, now: u64) {
        let id = (group, key);
        let Some(entry) = self.entries.get_mut(&id) else { return };
        if std::mem::take(&mut entry.running)
            && let Some(running) = self.running.get_mut(&id.0)
        {
            *running = running.saturating_sub(1);
            if *running == 0 {
                self.running.remove(&id.0);
            }
        }
        if std::mem::take(&mut entry.again) {
            self.wake(id.0, id.1, now);
        } else if entry.is_idle() {
            self.entries.remove(&id);
        }
    }

    /// Drops what waits of a group that is no more. What is being worked on ends as ever.
    pub fn forget(&mut self, group: &G) {
        let ready = self.ready.remove(group).map(|lanes| lanes.waiting.values().map(VecDeque::len).sum());
        self.depth -= ready.unwrap_or(0);
        self.appointments.retain(|(_, of, ..)| of != group);
        self.entries.retain(|(of, _), entry| {
            if of == group {
                *entry = Entry { running: entry.running, ..Entry::default() };
            }
            of != group || entry.running
        });
    }

    /// Drops the appointments of all other keys. What is ready stays so.
    pub fn keep_appointments(&mut self, keep: impl Fn(&K) -> bool) {
        self.appointments.retain(|(_, _, key, _)| keep(key));
        self.entries.retain(|(_, key), entry| {
            if !keep(key) {
                entry.slots = Box::default();
            }
            !entry.is_idle()
        });
    }

    /// When the next appointment is due.
    pub fn next_due(&self) -> Option<u64> {
        self.appointments.first().map(|(at, ..)| *at)
    }

    /// Keys that are ready to be worked on.
    pub fn depth(&self) -> usize {
        self.depth
    }
}

#[cfg(test)]
mod tests;
