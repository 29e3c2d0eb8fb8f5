//! Who waits for an object that stands in its way, or is not there.

use std::collections::{BTreeSet, HashMap};

use dask_wasm_operator_core::{
    object::{GroupVersionKind, NamespacedName, ObjectKey},
    wanted::Problem,
};

use super::Work;

/// Milliseconds from a change that wakes somebody who waits to the next that does so, at first and at most: a ResourceQuota
/// changes with every object that is made, and a thousand may wait for it.
const FIRST: u64 = 100;
const LONGEST: u64 = 60_000;

/// See the module.
#[derive(Default)]
pub(super) struct Waiting {
    subjects: HashMap<Subject, Wait>,
    objects: HashMap<Unversioned, Awaited>,
}

/// An object, whatever the version: the same is served under each.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
struct Unversioned(ObjectKey);

impl Unversioned {
    fn of(object: &ObjectKey) -> Self {
        let kind = GroupVersionKind { version: String::new(), ..object.kind.clone() };
        Self(ObjectKey { kind, at: object.at.clone() })
    }
}

struct Awaited {
    object: ObjectKey,
    by: BTreeSet<Subject>,
}

type Subject = (Work, NamespacedName);

#[derive(Default)]
struct Wait {
    objects: Vec<ObjectKey>,
    /// When a change was last heard, on the queue's clock.
    heard: Option<u64>,
    pause: u64,
    reminder: Option<Reminder>,
}

/// A subject is to be tried again, since it was last. When, the queue knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Reminder {
    /// Whether what it waits for has changed, which seldom happens.
    pub(super) is_news: bool,
}

impl Wait {
    /// A change happens now. Answers when it is to be heard; none: what is still to be heard is not put off by it.
    fn hear(&mut self, now: u64) -> Option<u64> {
        let is_rare = self.heard.is_none_or(|heard| now > heard.saturating_add(LONGEST));
        if let Some(reminder) = &mut self.reminder {
            reminder.is_news |= is_rare;
            return None;
        }
        let due = self.heard.map_or(now, |heard| now.max(heard.saturating_add(self.pause)));
        self.pause = if is_rare { FIRST } else { (self.pause * 2).min(LONGEST) };
        self.heard = Some(due);
        self.reminder = Some(Reminder { is_news: is_rare });
        Some(due)
    }

    /// Nobody knows what has happened before now.
    fn look_again(&mut self, now: u64) -> Option<u64> {
        self.reminder.get_or_insert(Reminder { is_news: false });
        Some(now)
    }
}

impl Waiting {
    /// Notes what a subject waits for by its last reconcile. Answers whether that is something else than before.
    pub(super) fn note(&mut self, work: &Work, at: &NamespacedName, problems: &[Problem]) -> bool {
        let mut objects: Vec<_> = problems.iter().filter_map(|problem| problem.waits_for.clone()).collect();
        objects.sort();
        objects.dedup();
        let subject = (work.clone(), at.clone());
        let before = self.subjects.get(&subject).map(|wait| wait.objects.as_slice()).unwrap_or_default();
        if before == objects {
            return false;
        }
        self.drop(&subject);
        for object in &objects {
            let awaited = self.objects.entry(Unversioned::of(object));
            let awaited = awaited.or_insert_with(|| Awaited { object: object.clone(), by: BTreeSet::new() });
            awaited.by.insert(subject.clone());
        }
        if !objects.is_empty() {
            self.subjects.insert(subject, Wait { objects, ..Wait::default() });
        }
        true
    }

    /// The subjects that are to hear of the change of an object that they wait for, and when.
    pub(super) fn hear(&mut self, object: &ObjectKey, now: u64) -> Vec<(Subject, u64)> {
        self.of_each(object, |wait| wait.hear(now))
    }

    /// The subjects that wait for an object of which nobody knows what has happened to it before now.
    pub(super) fn look_again(&mut self, object: &ObjectKey, now: u64) -> Vec<(Subject, u64)> {
        self.of_each(object, |wait| wait.look_again(now))
    }

    fn of_each(&mut self, object: &ObjectKey, due: impl Fn(&mut Wait) -> Option<u64>) -> Vec<(Subject, u64)> {
        let waiting = self.objects.get(&Unversioned::of(object)).map(|awaited| awaited.by.clone()).unwrap_or_default();
        let of = |subject: Subject| {
            let due = due(self.subjects.get_mut(&subject)?)?;
            Some((subject, due))
        };
        waiting.into_iter().filter_map(of).collect()
    }

    /// The reminder of a subject that is about to be tried again, as its time has come.
    pub(super) fn take(&mut self, subject: &Subject) -> Option<Reminder> {
        self.subjects.get_mut(subject)?.reminder.take()
    }

    /// The objects that somebody waits for.
    pub(super) fn objects(&self) -> impl Iterator<Item = &ObjectKey> {
        self.objects.values().map(|awaited| &awaited.object)
    }

    /// Forgets subjects.
    pub(super) fn retain(&mut self, keep: impl Fn(&Work, &NamespacedName) -> bool) {
        let gone: Vec<_> = self.subjects.keys().filter(|(work, at)| !keep(work, at)).cloned().collect();
        gone.iter().for_each(|subject| self.drop(subject));
    }

    fn drop(&mut self, subject: &Subject) {
        for object in self.subjects.remove(subject).map(|wait| wait.objects).unwrap_or_default() {
            let object = Unversioned::of(&object);
            if let Some(awaited) = self.objects.get_mut(&object) {
                awaited.by.remove(subject);
                if awaited.by.is_empty() {
                    self.objects.remove(&object);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use dask_wasm_operator_core::{dask::Reconciler, plugin::HandlerName};

    use super::*;

    fn cluster(name: &str) -> ObjectKey {
        let kind = GroupVersionKind::new("kubernetes.dask.org", "v1", "DaskCluster");
        ObjectKey { kind, at: NamespacedName::new("ns1", name) }
    }

    fn missing(name: &str) -> Vec<Problem> {
        vec![Problem::passing("ClusterNotFound", "words").until(cluster(name))]
    }

    #[test]
    fn those_that_wait_for_an_object_are_found_until_they_wait_no_more() {
        let mut waiting = Waiting::default();
        let at = NamespacedName::new("ns1", "same");
        let [autoscaler, group] = [Reconciler::Autoscaler, Reconciler::WorkerGroup].map(Work::Reconcile);
        let plugin = Work::Call(Arc::new(HandlerName { plugin: "p".to_owned(), handler: "h".to_owned() }));
        assert!(waiting.note(&autoscaler, &at, &missing("a")));
        assert!(waiting.note(&group, &at, &missing("b")) && waiting.note(&plugin, &at, &missing("b")));
        assert!(!waiting.note(&plugin, &at, &missing("b")), "it waits already");
        let of = |waiting: &mut Waiting, name: &str| {
            let heard = waiting.hear(&cluster(name), 0).into_iter();
            let told = heard.inspect(|(subject, _)| assert!(waiting.take(subject).is_some()));
            told.map(|((work, _), _)| work).collect::<Vec<_>>()
        };
        assert_eq!(of(&mut waiting, "a"), std::slice::from_ref(&autoscaler), "not the group of its name");
        assert_eq!(of(&mut waiting, "b"), [group, plugin.clone()]);
        assert_eq!(of(&mut waiting, "c"), []);
        waiting.note(&autoscaler, &at, &[Problem::passing("ClusterDeleting", "nothing to wait for")]);
        assert_eq!(of(&mut waiting, "a"), []);
        waiting.retain(|work, _| *work == plugin);
        assert_eq!(of(&mut waiting, "b"), [plugin]);
        waiting.retain(|_, _| false);
        assert!(waiting.subjects.is_empty() && waiting.objects.is_empty());
    }

    /// A subject that waits for `a`.
    fn one() -> (Waiting, Subject) {
        let subject = (Work::Reconcile(Reconciler::WorkerGroup), NamespacedName::new("ns1", "a"));
        let mut waiting = Waiting::default();
        waiting.note(&subject.0, &subject.1, &missing("a"));
        (waiting, subject)
    }

    #[test]
    fn what_changes_all_the_time_wakes_those_who_wait_ever_less_often_and_what_changes_seldom_at_once() {
        let (mut waiting, subject) = one();
        let mut hear = |now: u64| {
            let due = waiting.hear(&cluster("a"), now)[0].1;
            let reminder = waiting.take(&subject).expect("it is tried then");
            (due, reminder.is_news)
        };
        assert_eq!([hear(1_000), hear(1_001), hear(1_002)], [(1_000, true), (1_100, false), (1_300, false)]);
        let last = (0..40).fold(1_300, |now, _| hear(now).0);
        assert_eq!(hear(last), (last + LONGEST, false));
        let later = last + 3 * LONGEST;
        assert_eq!(hear(later), (later, true));
    }

    /// The belief that is attacked: that a subject is tried between two changes. Each change put it off.
    #[test]
    fn changes_do_not_put_off_what_is_to_be_heard() {
        let (mut waiting, subject) = one();
        let (mut now, mut due, mut tried) = (0, None, Vec::new());
        while now < 10 * LONGEST {
            due = waiting.hear(&cluster("a"), now).pop().map(|(_, due)| due).or(due);
            now += 20;
            if due.take_if(|due| *due <= now).is_some() {
                assert!(waiting.take(&subject).is_some());
                tried.push(now);
            }
        }
        let pauses: Vec<_> = tried.windows(2).map(|pair| pair[1] - pair[0]).collect();
        assert!(pauses.iter().all(|pause| *pause <= LONGEST + 20) && pauses.len() > 10, "{pauses:?}");
    }

    #[test]
    fn a_change_that_nobody_has_tried_after_is_kept() {
        let (mut waiting, subject) = one();
        let reminded = |waiting: &mut Waiting| waiting.take(&subject).map(|reminder| reminder.is_news);
        assert_eq!(waiting.look_again(&cluster("a"), 1), [(subject.clone(), 1)]);
        assert_eq!(reminded(&mut waiting), Some(false), "nobody has seen a change");
        assert_eq!(reminded(&mut waiting), None);

        waiting.hear(&cluster("a"), 10);
        assert!(!waiting.note(&subject.0, &subject.1, &missing("a")), "a reconcile that began before ends the same");
        assert_eq!(waiting.look_again(&cluster("a"), 11), [(subject.clone(), 11)]);
        assert_eq!(reminded(&mut waiting), Some(true));
    }
}
