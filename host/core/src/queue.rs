//! What to look at next. One entry per key; a key that is being worked on waits; every group (a handler) gets its turn, and
//! within it every lane (a namespace), so that nobody waits for how much others have. Each step takes the same time, however
//! much waits.

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

/// A queue of keys, in groups that are served in turn. Times are milliseconds of any clock that only goes forward.
#[derive(Debug)]
pub struct Queue<G, K: InLane> {
    ready: BTreeMap<G, Lanes<K>>,
    /// The group that was served last.
    last: Option<G>,
    /// Entries that wait for a time.
    delayed: BTreeSet<(u64, G, K)>,
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

#[derive(Clone, Copy, Debug, Default)]
struct Entry {
    ready: bool,
    running: bool,
    /// Woken while it ran.
    again: bool,
    due: Option<u64>,
}

impl<G: Clone + Ord + Hash, K: InLane + Clone + Ord + Hash> Default for Queue<G, K> {
    fn default() -> Self {
        Self {
            ready: BTreeMap::new(),
            last: None,
            delayed: BTreeSet::new(),
            entries: HashMap::new(),
            running: BTreeMap::new(),
            depth: 0,
        }
    }
}

impl<G: Clone + Ord + Hash, K: InLane + Clone + Ord + Hash> Queue<G, K> {
    /// Something happened to this key.
    pub fn wake(&mut self, group: G, key: K, now: u64) {
        let entry = self.entries.entry((group.clone(), key.clone())).or_default();
        if let Some(due) = entry.due.take() {
            self.delayed.remove(&(due, group.clone(), key.clone()));
        }
        if entry.running {
            entry.again = true;
        } else if !entry.ready {
            entry.ready = true;
            self.depth += 1;
            self.ready.entry(group).or_default().push(key, now);
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

    /// The next key to work on, and for how long it has waited; [`Queue::done`] must be called for it. `at_once` tells how
    /// many keys of a group may be worked on at the same time, so that a slow group delays only itself.
    pub fn next(&mut self, now: u64, at_once: impl Fn(&G) -> usize) -> Option<(G, K, u64)> {
        while self.delayed.first().is_some_and(|(at, _, _)| *at <= now) {
            let Some((due, group, key)) = self.delayed.pop_first() else { break };
            if let Some(entry) = self.entries.get_mut(&(group.clone(), key.clone())) {
                entry.due = None;
            }
            self.wake(group, key, due);
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
        *self.running.entry(group.clone()).or_default() += 1;
        self.last = Some(group.clone());
        Some((group, key, now.saturating_sub(since)))
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
        } else if !entry.ready && entry.due.is_none() {
            self.entries.remove(&id);
        }
    }

    /// Drops what waits of a group that is no more. What is being worked on ends as ever.
    pub fn forget(&mut self, group: &G) {
        let ready = self.ready.remove(group).map(|lanes| lanes.waiting.values().map(VecDeque::len).sum());
        self.depth -= ready.unwrap_or(0);
        self.delayed.retain(|(_, of, _)| of != group);
        self.entries.retain(|(of, _), entry| {
            if of == group {
                *entry = Entry { running: entry.running, ..Entry::default() };
            }
            of != group || entry.running
        });
    }

    /// When the next delayed key is due.
    pub fn next_due(&self) -> Option<u64> {
        self.delayed.first().map(|(at, _, _)| *at)
    }

    /// Keys that are ready to be worked on.
    pub fn depth(&self) -> usize {
        self.depth
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A lane, and a number in it.
    #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
    struct Key(u32, u32);

    impl InLane for Key {
        type Lane = u32;

        fn lane(&self) -> &u32 {
            &self.0
        }
    }

    type TestQueue = Queue<&'static str, Key>;

    fn next(queue: &mut TestQueue, now: u64) -> Option<(&'static str, u32)> {
        queue.next(now, |_| 2).map(|(group, Key(_, key), _)| (group, key))
    }

    /// In one lane.
    fn wake(queue: &mut TestQueue, group: &'static str, key: u32) {
        queue.wake(group, Key(0, key), 0);
    }

    fn wake_at(queue: &mut TestQueue, key: u32, at: u64) {
        queue.wake_at("h", Key(0, key), at);
    }

    fn done(queue: &mut TestQueue, group: &'static str, key: u32) {
        queue.done(group, Key(0, key), 0);
    }

    /// The belief that is attacked: that first come, first served is fair.
    #[test]
    fn one_key_of_a_namespace_does_not_wait_for_five_thousand_of_another() {
        let mut queue = Queue::<_, NamespacedName>::default();
        let crowd = |number: u32| NamespacedName::new("crowd", &format!("c{number}"));
        (0..5_000).for_each(|number| queue.wake("h", crowd(number), 0));
        queue.wake("h", NamespacedName::new("other", "single"), 7);
        let mut serve = |now| {
            let (group, key, waited) = queue.next(now, |_| 1).unwrap();
            queue.done(group, key.clone(), now);
            (key, waited)
        };
        assert_eq!(serve(10), (crowd(0), 10));
        assert_eq!(serve(11), (NamespacedName::new("other", "single"), 4), "it is served second");
        assert_eq!(serve(12), (crowd(1), 12));
        assert_eq!(queue.depth(), 4_998);
    }

    #[test]
    fn lanes_take_turns_in_the_order_in_which_they_came() {
        let mut queue = TestQueue::default();
        for key in [Key(2, 20), Key(2, 21), Key(2, 22), Key(1, 10), Key(1, 11), Key(3, 30)] {
            queue.wake("h", key, 0);
        }
        let order: Vec<_> = std::iter::from_fn(|| queue.next(0, |_| 10).map(|(_, Key(_, key), _)| key)).collect();
        assert_eq!(order, [20, 10, 30, 21, 11, 22]);
        assert_eq!(queue.depth(), 0);
        assert!(queue.ready.is_empty());
    }

    #[test]
    fn who_was_due_has_waited_since_then_and_who_was_woken_again_since_its_work_was_over() {
        let mut queue = TestQueue::default();
        queue.wake_at("h", Key(0, 1), 50);
        assert_eq!(queue.next(70, |_| 1), Some(("h", Key(0, 1), 20)));
        queue.wake("h", Key(0, 1), 71);
        queue.done("h", Key(0, 1), 90);
        assert_eq!(queue.next(95, |_| 1), Some(("h", Key(0, 1), 5)));
    }

    #[test]
    fn a_slow_group_delays_only_itself() {
        let mut queue = TestQueue::default();
        (0..3).for_each(|key| wake(&mut queue, "slow", key));
        assert_eq!(
            (next(&mut queue, 0), next(&mut queue, 0), next(&mut queue, 0)),
            (Some(("slow", 0)), Some(("slow", 1)), None)
        );
        wake(&mut queue, "other", 9);
        assert_eq!(next(&mut queue, 0), Some(("other", 9)));
        done(&mut queue, "slow", 0);
        assert_eq!(next(&mut queue, 0), Some(("slow", 2)));
    }

    #[test]
    fn a_key_is_in_the_queue_once_and_not_worked_on_twice_at_a_time() {
        let mut queue = TestQueue::default();
        wake(&mut queue, "h", 1);
        wake(&mut queue, "h", 1);
        assert_eq!(next(&mut queue, 0), Some(("h", 1)));
        assert_eq!(next(&mut queue, 0), None);
        wake(&mut queue, "h", 1);
        assert_eq!(next(&mut queue, 0), None, "it is being worked on");
        done(&mut queue, "h", 1);
        assert_eq!(next(&mut queue, 0), Some(("h", 1)), "it was woken meanwhile");
        done(&mut queue, "h", 1);
        assert!(queue.ready.is_empty() && queue.entries.is_empty());
    }

    #[test]
    fn groups_take_turns() {
        let mut queue = TestQueue::default();
        (0..3).for_each(|key| wake(&mut queue, "busy", key));
        wake(&mut queue, "quiet", 9);
        let order: Vec<_> = std::iter::from_fn(|| {
            let next = next(&mut queue, 0)?;
            done(&mut queue, next.0, next.1);
            Some(next)
        })
        .collect();
        assert_eq!(order, [("busy", 0), ("quiet", 9), ("busy", 1), ("busy", 2)]);
    }

    #[test]
    fn delayed_keys_wait_and_the_earliest_appointment_stands() {
        let mut queue = TestQueue::default();
        wake_at(&mut queue, 1, 50);
        wake_at(&mut queue, 1, 90);
        wake_at(&mut queue, 1, 20);
        assert_eq!((next(&mut queue, 19), queue.next_due()), (None, Some(20)));
        assert_eq!(next(&mut queue, 20), Some(("h", 1)));
        wake_at(&mut queue, 1, 30);
        done(&mut queue, "h", 1);
        assert_eq!(next(&mut queue, 29), None);
        assert_eq!(next(&mut queue, 30), Some(("h", 1)), "an appointment made while it ran stands");
    }

    #[test]
    fn of_a_group_that_is_no_more_nothing_waits() {
        let mut queue = TestQueue::default();
        for key in 0..4 {
            wake(&mut queue, "h", key);
        }
        wake(&mut queue, "stays", 9);
        wake_at(&mut queue, 7, 50);
        assert_eq!(next(&mut queue, 0), Some(("h", 0)));
        wake(&mut queue, "h", 0);
        queue.forget(&"h");
        assert_eq!((queue.depth(), queue.next_due()), (1, None));
        done(&mut queue, "h", 0);
        assert_eq!((next(&mut queue, 99), next(&mut queue, 99)), (Some(("stays", 9)), None));
        assert_eq!(queue.entries.len(), 1);
    }

    #[test]
    fn an_event_comes_before_an_appointment() {
        let mut queue = TestQueue::default();
        wake_at(&mut queue, 1, 1000);
        wake(&mut queue, "h", 1);
        assert_eq!(next(&mut queue, 0), Some(("h", 1)));
        done(&mut queue, "h", 1);
        assert_eq!(queue.next_due(), None);
    }
}
