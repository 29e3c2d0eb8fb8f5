use std::collections::BTreeSet as Set;

use dask_wasm_operator_test_properties::cases;
use proptest::prelude::*;

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
    queue.next(now, |_| 2).map(|Next { group, key: Key(_, key), .. }| (group, key))
}

/// In one lane.
fn wake(queue: &mut TestQueue, group: &'static str, key: u32) {
    queue.wake(group, Key(0, key), 0);
}

fn wake_by(queue: &mut TestQueue, key: u32, at: u64) {
    queue.wake_by("h", Key(0, key), at);
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
        let Next { group, key, waited, .. } = queue.next(now, |_| 1).unwrap();
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
    let order: Vec<_> = std::iter::from_fn(|| queue.next(0, |_| 10).map(|next| next.key.1)).collect();
    assert_eq!(order, [20, 10, 30, 21, 11, 22]);
    assert_eq!(queue.depth(), 0);
    assert!(queue.ready.is_empty());
}

#[test]
fn who_was_due_has_waited_since_then_and_who_was_woken_again_since_its_work_was_over() {
    let mut queue = TestQueue::default();
    queue.wake_by("h", Key(0, 1), 50);
    assert_eq!(queue.next(70, |_| 1).map(|next| next.waited), Some(20));
    queue.wake("h", Key(0, 1), 71);
    queue.done("h", Key(0, 1), 90);
    assert_eq!(queue.next(95, |_| 1).map(|next| next.waited), Some(5));
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
fn what_is_put_off_waits_and_the_earliest_time_stands() {
    let mut queue = TestQueue::default();
    wake_by(&mut queue, 1, 50);
    wake_by(&mut queue, 1, 90);
    wake_by(&mut queue, 1, 20);
    assert_eq!((next(&mut queue, 19), queue.next_due()), (None, Some(20)));
    assert_eq!(next(&mut queue, 20), Some(("h", 1)));
    wake_by(&mut queue, 1, 30);
    done(&mut queue, "h", 1);
    assert_eq!(next(&mut queue, 29), None);
    assert_eq!(next(&mut queue, 30), Some(("h", 1)), "what was put off while it ran stands");
}

#[test]
fn of_a_group_that_is_no_more_nothing_waits() {
    let mut queue = TestQueue::default();
    for key in 0..4 {
        wake(&mut queue, "h", key);
    }
    wake(&mut queue, "stays", 9);
    wake_by(&mut queue, 7, 50);
    assert_eq!(next(&mut queue, 0), Some(("h", 0)));
    wake(&mut queue, "h", 0);
    queue.forget(&"h");
    assert_eq!((queue.depth(), queue.next_due()), (1, None));
    done(&mut queue, "h", 0);
    assert_eq!((next(&mut queue, 99), next(&mut queue, 99)), (Some(("stays", 9)), None));
    assert_eq!(queue.entries.len(), 1);
}

#[test]
fn what_is_put_off_is_looked_at_with_what_comes_before() {
    let mut queue = TestQueue::default();
    wake_by(&mut queue, 1, 1000);
    wake(&mut queue, "h", 1);
    assert_eq!(next(&mut queue, 0), Some(("h", 1)));
    done(&mut queue, "h", 1);
    assert_eq!(queue.next_due(), None);
}

/// The slots that are due when the key is worked on next, and the work on it.
fn due(queue: &mut TestQueue, now: u64) -> Option<Vec<Slot>> {
    let next = queue.next(now, |_| 1)?;
    queue.done(next.group, next.key, now);
    Some(next.due)
}

#[test]
fn each_slot_is_moved_and_cancelled_by_itself() {
    let (mut queue, key) = (TestQueue::default(), Key(0, 1));
    queue.appoint("h", key, Slot::Requeue, 100);
    queue.appoint("h", key, Slot::Retry, 50);
    queue.appoint("h", key, Slot::Reminder, 70);
    queue.appoint("h", key, Slot::Retry, 100);
    queue.cancel(&"h", &key, Slot::Reminder);
    assert_eq!(queue.appointment(&"h", &key, Slot::Requeue), Some(100));
    assert_eq!((due(&mut queue, 99), queue.next_due()), (None, Some(100)));
    assert_eq!(due(&mut queue, 100), Some(vec![Slot::Retry, Slot::Requeue]));
    assert!(queue.entries.is_empty() && queue.appointments.is_empty());
}

/// The belief that is attacked: that what a handler asked for is done with when anything else wakes its subject.
#[test]
fn a_change_leaves_the_appointments() {
    let (mut queue, key) = (TestQueue::default(), Key(0, 1));
    queue.appoint("h", key, Slot::Requeue, 100);
    queue.appoint("h", key, Slot::Delay, 60);
    queue.wake("h", key, 10);
    assert_eq!(due(&mut queue, 10), Some(Vec::new()));
    assert_eq!(queue.next_due(), Some(100), "but not what was only put off");
    assert_eq!(due(&mut queue, 100), Some(vec![Slot::Requeue]));
}

#[test]
fn what_comes_due_while_a_key_is_worked_on_is_told_afterwards_unless_the_work_has_moved_it() {
    let (mut queue, key) = (TestQueue::default(), Key(0, 1));
    queue.appoint("h", key, Slot::Requeue, 20);
    queue.appoint("h", key, Slot::Retry, 20);
    queue.wake("h", key, 10);
    assert!(queue.next(10, |_| 1).is_some());
    assert!(queue.next(20, |_| 1).is_none(), "it is being worked on");
    queue.appoint("h", key, Slot::Requeue, 90);
    queue.done("h", key, 30);
    assert_eq!(due(&mut queue, 30), Some(vec![Slot::Retry]));
    assert_eq!(due(&mut queue, 90), Some(vec![Slot::Requeue]));
}

#[test]
fn appointments_of_others_are_dropped_and_what_is_ready_stays() {
    let mut queue = TestQueue::default();
    for key in [Key(0, 1), Key(0, 2), Key(1, 3)] {
        queue.appoint("h", key, Slot::Requeue, 50);
    }
    queue.wake("h", Key(0, 2), 0);
    queue.keep_appointments(|key| key.0 == 1);
    assert_eq!(due(&mut queue, 0), Some(Vec::new()));
    assert_eq!((due(&mut queue, 50), due(&mut queue, 60)), (Some(vec![Slot::Requeue]), None));
    assert!(queue.entries.is_empty());
}

#[test]
fn a_key_without_appointments_takes_no_more_than_its_flags() {
    assert!(size_of::<Entry>() <= 24, "{}", size_of::<Entry>());
}

#[derive(Clone, Debug)]
enum Step {
    Wake(u32),
    WakeBy(u32, u64),
    Appoint(u32, Slot, u64),
    Cancel(u32, Slot),
    /// So much time goes by, and what is ready is worked on, or begun only.
    Work(u64, bool),
    Done,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let slot = || prop_oneof![Just(Slot::Retry), Just(Slot::Requeue), Just(Slot::Reminder)];
    let step = prop_oneof![
        (0..3_u32).prop_map(Step::Wake),
        (0..3_u32, 0..20_u64).prop_map(|(key, after)| Step::WakeBy(key, after)),
        (0..3_u32, slot(), 0..20_u64).prop_map(|(key, slot, after)| Step::Appoint(key, slot, after)),
        (0..3_u32, slot()).prop_map(|(key, slot)| Step::Cancel(key, slot)),
        (0..10_u64, any::<bool>()).prop_map(|(after, ends)| Step::Work(after, ends)),
        Just(Step::Done),
    ];
    prop::collection::vec(step, 1..60)
}

/// What the queue means, without any regard for time or memory.
#[derive(Default)]
struct Model {
    woken: Set<u32>,
    running: Set<u32>,
    slots: BTreeMap<(u32, Slot), u64>,
    due: Set<(u32, Slot)>,
}

impl Model {
    fn wake(&mut self, key: u32) {
        self.woken.insert(key);
        self.slots.remove(&(key, Slot::Delay));
    }

    fn pass_time(&mut self, now: u64) {
        let due = self.slots.iter().filter(|(_, at)| **at <= now);
        let mut due: Vec<_> = due.map(|((key, slot), at)| (*at, *key, *slot)).collect();
        due.sort_unstable();
        for (_, key, slot) in due {
            // What was put off is looked at with what comes due before.
            if self.slots.remove(&(key, slot)).is_some() {
                self.due.insert((key, slot));
                self.wake(key);
            }
        }
    }
}

proptest! {
    #![proptest_config(cases(512))]

    #[test]
    fn it_works_on_what_the_model_works_on(steps in steps()) {
        let (mut queue, mut model, mut now) = (TestQueue::default(), Model::default(), 0);
        for step in steps {
            match step {
                Step::Wake(key) => {
                    queue.wake("h", Key(0, key), now);
                    model.wake(key);
                }
                Step::WakeBy(key, after) => {
                    queue.wake_by("h", Key(0, key), now + after);
                    if !model.woken.contains(&key) {
                        let at = model.slots.entry((key, Slot::Delay)).or_insert(now + after);
                        *at = (now + after).min(*at);
                    }
                }
                Step::Appoint(key, slot, after) => {
                    queue.appoint("h", Key(0, key), slot, now + after);
                    model.due.remove(&(key, slot));
                    model.slots.insert((key, slot), now + after);
                }
                Step::Cancel(key, slot) => {
                    queue.cancel(&"h", &Key(0, key), slot);
                    model.due.remove(&(key, slot));
                    model.slots.remove(&(key, slot));
                }
                Step::Work(after, ends) => {
                    now += after;
                    model.pass_time(now);
                    let mut begun = Set::new();
                    while let Some(next) = queue.next(now, |_| 10) {
                        let Key(_, key) = next.key;
                        let due: Vec<_> = model.due.iter().filter(|(of, _)| *of == key).map(|(_, slot)| *slot).collect();
                        prop_assert_eq!(next.due, due);
                        model.due.retain(|(of, _)| *of != key);
                        prop_assert!(model.woken.remove(&key) && model.running.insert(key));
                        begun.insert(key);
                    }
                    prop_assert!(model.woken.is_subset(&model.running), "{:?} wait", model.woken);
                    for key in begun.into_iter().filter(|_| ends) {
                        queue.done("h", Key(0, key), now);
                        model.running.remove(&key);
                    }
                }
                Step::Done => {
                    for key in std::mem::take(&mut model.running) {
                        queue.done("h", Key(0, key), now);
                    }
                }
            }
            prop_assert_eq!(queue.next_due(), model.slots.values().min().copied());
        }
        for key in model.running {
            queue.done("h", Key(0, key), now);
        }
        while let Some(next) = queue.next(u64::MAX, |_| 10) {
            queue.done(next.group, next.key, now);
        }
        prop_assert!(queue.entries.is_empty() && queue.appointments.is_empty() && queue.depth() == 0);
    }
}
