//! What to look at next. One entry per key; a key that is being worked on waits; every group (a handler) gets its turn.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, VecDeque},
    hash::Hash,
    ops::Bound,
};

/// A queue of keys, in groups that are served in turn. Times are milliseconds of any clock that only goes forward.
#[derive(Debug)]
pub struct Queue<G, K> {
    ready: BTreeMap<G, VecDeque<K>>,
    /// The group that was served last.
    last: Option<G>,
    /// Entries that wait for a time.
    delayed: BTreeSet<(u64, G, K)>,
    entries: HashMap<(G, K), Entry>,
    /// How many keys of a group are being worked on.
    running: BTreeMap<G, usize>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Entry {
    ready: bool,
    running: bool,
    /// Woken while it ran.
    again: bool,
    due: Option<u64>,
}

impl<G: Clone + Ord + Hash, K: Clone + Ord + Hash> Default for Queue<G, K> {
    fn default() -> Self {
        Self {
            ready: BTreeMap::new(),
            last: None,
            delayed: BTreeSet::new(),
            entries: HashMap::new(),
            running: BTreeMap::new(),
        }
    }
}

impl<G: Clone + Ord + Hash, K: Clone + Ord + Hash> Queue<G, K> {
    /// Something happened to this key.
    pub fn wake(&mut self, group: G, key: K) {
        let entry = self.entries.entry((group.clone(), key.clone())).or_default();
        if let Some(due) = entry.due.take() {
            self.delayed.remove(&(due, group.clone(), key.clone()));
        }
        if entry.running {
            entry.again = true;
        } else if !entry.ready {
            entry.ready = true;
            self.ready.entry(group).or_default().push_back(key);
        }
    }

    /// Wakes the key at a time; an earlier appointment stands.
    pub fn wake_at(&mut self, group: G, key: K, at: u64) {
        let entry = self.entries.entry((group.clone(), key.clone())).or_default();
        if entry.ready || entry.again || entry.due.is_some_and(|due| due <= at) {
            return;
        }
        if let Some(due) = entry.due.replace(at) {
            self.delayed.remove(&(due, group.clone(), key.clone()));
        }
        self.delayed.insert((at, group, key));
    }

    /// The next key to work on; [`Queue::done`] must be called for it. `at_once` tells how many keys of a group may be
    /// worked on at the same time, so that a slow group delays only itself.
    pub fn next(&mut self, now: u64, at_once: impl Fn(&G) -> usize) -> Option<(G, K)> {
        while self.delayed.first().is_some_and(|(at, _, _)| *at <= now) {
            let Some((_, group, key)) = self.delayed.pop_first() else { break };
            if let Some(entry) = self.entries.get_mut(&(group.clone(), key.clone())) {
                entry.due = None;
            }
            self.wake(group, key);
        }
        let free = |group: &G| self.running.get(group).is_none_or(|running| *running < at_once(group));
        let after = self.last.as_ref().map_or(Bound::Unbounded, Bound::Excluded);
        let later = self.ready.range((after, Bound::Unbounded)).map(|(group, _)| group).find(|group| free(group));
        let group = later.or_else(|| self.ready.keys().find(|group| free(group))).cloned()?;
        let keys = self.ready.get_mut(&group)?;
        let key = keys.pop_front()?;
        if keys.is_empty() {
            self.ready.remove(&group);
        }
        let entry = self.entries.entry((group.clone(), key.clone())).or_default();
        entry.ready = false;
        entry.running = true;
        *self.running.entry(group.clone()).or_default() += 1;
        self.last = Some(group.clone());
        Some((group, key))
    }

    /// The work on a key is over.
    pub fn done(&mut self, group: G, key: K) {
        let id = (group, key);
        let Some(entry) = self.entries.get_mut(&id) else { return };
        if std::mem::take(&mut entry.running)
            && let Some(running) = self.running.get_mut(&id.0)
        {
            *running = running.saturating_sub(1);
        }
        if std::mem::take(&mut entry.again) {
            self.wake(id.0, id.1);
        } else if !entry.ready && entry.due.is_none() {
            self.entries.remove(&id);
        }
    }

    /// When the next delayed key is due.
    pub fn next_due(&self) -> Option<u64> {
        self.delayed.first().map(|(at, _, _)| *at)
    }

    /// Keys that are ready to be worked on.
    pub fn depth(&self) -> usize {
        self.ready.values().map(VecDeque::len).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn next(queue: &mut Queue<&'static str, u32>, now: u64) -> Option<(&'static str, u32)> {
        queue.next(now, |_| 2)
    }

    #[test]
    fn a_slow_group_delays_only_itself() {
        let mut queue = Queue::default();
        (0..3).for_each(|key| queue.wake("slow", key));
        assert_eq!(
            (next(&mut queue, 0), next(&mut queue, 0), next(&mut queue, 0)),
            (Some(("slow", 0)), Some(("slow", 1)), None)
        );
        queue.wake("other", 9);
        assert_eq!(next(&mut queue, 0), Some(("other", 9)));
        queue.done("slow", 0);
        assert_eq!(next(&mut queue, 0), Some(("slow", 2)));
    }

    #[test]
    fn a_key_is_in_the_queue_once_and_not_worked_on_twice_at_a_time() {
        let mut queue = Queue::default();
        queue.wake("h", 1);
        queue.wake("h", 1);
        assert_eq!(next(&mut queue, 0), Some(("h", 1)));
        assert_eq!(next(&mut queue, 0), None);
        queue.wake("h", 1);
        assert_eq!(next(&mut queue, 0), None, "it is being worked on");
        queue.done("h", 1);
        assert_eq!(next(&mut queue, 0), Some(("h", 1)), "it was woken meanwhile");
        queue.done("h", 1);
        assert!(queue.ready.is_empty() && queue.entries.is_empty());
    }

    #[test]
    fn groups_take_turns() {
        let mut queue = Queue::default();
        (0..3).for_each(|key| queue.wake("busy", key));
        queue.wake("quiet", 9);
        let order: Vec<_> = std::iter::from_fn(|| {
            let next = next(&mut queue, 0)?;
            queue.done(next.0, next.1);
            Some(next)
        })
        .collect();
        assert_eq!(order, [("busy", 0), ("quiet", 9), ("busy", 1), ("busy", 2)]);
    }

    #[test]
    fn delayed_keys_wait_and_the_earliest_appointment_stands() {
        let mut queue = Queue::default();
        queue.wake_at("h", 1, 50);
        queue.wake_at("h", 1, 90);
        queue.wake_at("h", 1, 20);
        assert_eq!((next(&mut queue, 19), queue.next_due()), (None, Some(20)));
        assert_eq!(next(&mut queue, 20), Some(("h", 1)));
        queue.wake_at("h", 1, 30);
        queue.done("h", 1);
        assert_eq!(next(&mut queue, 29), None);
        assert_eq!(next(&mut queue, 30), Some(("h", 1)), "an appointment made while it ran stands");
    }

    #[test]
    fn an_event_comes_before_an_appointment() {
        let mut queue = Queue::default();
        queue.wake_at("h", 1, 1000);
        queue.wake("h", 1);
        assert_eq!(next(&mut queue, 0), Some(("h", 1)));
        queue.done("h", 1);
        assert_eq!(queue.next_due(), None);
    }
}
