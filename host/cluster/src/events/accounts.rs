//! What each source of Events may post. Pure.
//!
//! An account has a queue, a memory of what was said, and an allowance for each object; that of a plugin has an allowance for the
//! whole, too. Everything in it is bounded, and nothing in it depends on other accounts.

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    hash::{BuildHasher, RandomState},
    time::Duration,
};

use tokio::time::Instant;

use super::queued::{Queued, Regarding, Source};

/// The same Event about the same object is not repeated within this time.
const QUIET_TIME: Duration = Duration::from_secs(600);

/// Events about one object at once, and how long it takes until there may be one more: as client-go's spam filter, which
/// allows 25 and one every 5 minutes, but for an object that is watched by people while they try things out.
const OF_OBJECT: Rate = Rate { burst: 25, refill: Duration::from_secs(60) };

/// Events of one plugin: one about each of a thousand objects when it is mounted. etcd keeps an Event for an hour, so it holds
/// 4,600 of a plugin at most.
const OF_PLUGIN: Rate = Rate { burst: 1_000, refill: Duration::from_secs(1) };

/// Events that wait to be posted: of the operator, of each plugin in any case, and of all plugins.
const QUEUE: usize = 1_000;
const QUEUE_OF_PLUGIN: usize = 100;
const QUEUE_OF_PLUGINS: usize = 2_000;

/// What is remembered: of the operator's Events, of those of each plugin.
const MEMORY: usize = 10_000;
const MEMORY_OF_PLUGIN: usize = 1_000;

/// The accounts of all sources.
#[derive(Default)]
pub(super) struct Accounts {
    accounts: BTreeMap<Source, Account>,
    /// The plugin of which an Event was posted last.
    last: Option<Source>,
    hasher: RandomState,
}

#[derive(Default)]
struct Account {
    queue: VecDeque<Queued>,
    said: Said,
    objects: HashMap<u64, Allowance>,
    whole: Allowance,
    dropped: u64,
    /// When it was last said that Events are dropped.
    told: Option<Instant>,
}

/// How many at once, and how long it takes until there may be one more.
struct Rate {
    burst: u32,
    refill: Duration,
}

/// What is left of a [`Rate`]: when all that was used would have come back.
#[derive(Clone, Copy, Default)]
struct Allowance(Option<Instant>);

impl Allowance {
    fn has(self, now: Instant, rate: &Rate) -> bool {
        self.0.is_none_or(|until| until.max(now) + rate.refill <= now + rate.refill * rate.burst)
    }

    fn take(&mut self, now: Instant, rate: &Rate) {
        self.0 = Some(self.0.map_or(now, |until| until.max(now)) + rate.refill);
    }

    fn is_whole(self, now: Instant) -> bool {
        self.0.is_none_or(|until| until <= now)
    }
}

/// What was said, by hashes, the oldest first.
#[derive(Default)]
struct Said {
    when: HashMap<u64, Instant>,
    order: VecDeque<u64>,
}

impl Said {
    fn has(&self, now: Instant, what: u64) -> bool {
        self.when.get(&what).is_some_and(|when| now < *when + QUIET_TIME)
    }

    /// It is said now. At most `memory` are remembered.
    fn note(&mut self, now: Instant, what: u64, memory: usize) {
        let is_old = |when: &Instant| *when + QUIET_TIME <= now;
        while let Some(oldest) = self.order.front()
            && (self.when.len() >= memory || self.when.get(oldest).is_none_or(is_old))
        {
            self.when.remove(oldest);
            self.order.pop_front();
        }
        self.when.insert(what, now);
        self.order.push_back(what);
    }
}

impl Accounts {
    /// Queues an Event, or drops it.
    pub(super) fn admit(&mut self, now: Instant, mut queued: Queued) {
        let is_plugin = queued.source != Source::Operator;
        let all: usize = match is_plugin {
            true => self.of_plugins().map(|account| account.queue.len()).sum(),
            false => 0,
        };
        let Regarding { uid, .. } = &queued.regarding;
        let object = self.hasher.hash_one(uid);
        let what = self.hasher.hash_one((uid, &queued.note.reason, &queued.note.message));
        let account = self.accounts.entry(queued.source.clone()).or_default();
        let memory = if is_plugin { MEMORY_OF_PLUGIN } else { MEMORY };
        if account.said.has(now, what) {
            return;
        }
        queued.is_again = account.said.when.contains_key(&what);
        account.forget_objects(now, memory);
        let has_place = match is_plugin {
            true => account.queue.len() < QUEUE_OF_PLUGIN || all < QUEUE_OF_PLUGINS && account.queue.len() < QUEUE,
            false => account.queue.len() < QUEUE,
        };
        let of_object = account.objects.entry(object).or_default();
        let is_allowed = of_object.has(now, &OF_OBJECT) && (!is_plugin || account.whole.has(now, &OF_PLUGIN));
        if !has_place || !is_allowed {
            account.dropped += 1;
            account.tell(now, &queued);
            return;
        }
        of_object.take(now, &OF_OBJECT);
        account.whole.take(now, &OF_PLUGIN);
        account.said.note(now, what, memory);
        account.queue.push_back(queued);
    }

    /// The next to be posted: of the operator, or of the plugins in turn.
    pub(super) fn next(&mut self, of_plugins: bool) -> Option<Queued> {
        if !of_plugins {
            return self.accounts.get_mut(&Source::Operator)?.queue.pop_front();
        }
        let waits = |source: &Source, account: &Account| *source != Source::Operator && !account.queue.is_empty();
        let waiting: Vec<_> = self.accounts.iter().filter(|(source, account)| waits(source, account)).collect();
        let later = waiting.iter().find(|(source, _)| self.last.as_ref().is_none_or(|last| *source > last));
        let source = (*later.or_else(|| waiting.first())?.0).clone();
        self.last = Some(source.clone());
        self.accounts.get_mut(&source)?.queue.pop_front()
    }

    /// One that was queued was not posted.
    pub(super) fn count_dropped(&mut self, source: &Source) {
        if let Some(account) = self.accounts.get_mut(source) {
            account.dropped += 1;
        }
    }

    pub(super) fn dropped(&self) -> BTreeMap<Source, u64> {
        self.accounts.iter().map(|(source, account)| (source.clone(), account.dropped)).collect()
    }

    pub(super) fn forget(&mut self, source: &Source) {
        self.accounts.remove(source);
    }

    fn of_plugins(&self) -> impl Iterator<Item = &Account> {
        self.accounts.iter().filter(|(source, _)| **source != Source::Operator).map(|(_, account)| account)
    }
}

impl Account {
    /// An object that is forgotten has its whole allowance: who fills this memory gains that, and keeps nobody from speaking.
    fn forget_objects(&mut self, now: Instant, memory: usize) {
        if self.objects.len() >= memory {
            self.objects.retain(|_, allowance| !allowance.is_whole(now));
            if self.objects.len() > memory / 2 {
                self.objects.clear();
            }
        }
    }

    fn tell(&mut self, now: Instant, queued: &Queued) {
        if self.told.is_some_and(|told| now < told + QUIET_TIME) {
            return;
        }
        self.told = Some(now);
        let object = format!("{} {}", queued.regarding.kind, queued.regarding.at);
        let reason = &queued.note.reason;
        match &queued.source {
            Source::Operator => {
                tracing::warn!(object, reason, "Events of the operator are dropped: there are too many")
            }
            Source::Plugin(plugin) => tracing::warn!(
                plugin,
                object,
                reason,
                "Events of a plugin are dropped: there are too many; see the metric dask_operator_events_dropped_total"
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use dask_wasm_operator_core::{
        contract::{EventNote, EventSeverity},
        object::{GroupVersionKind, NamespacedName},
    };
    use tokio::sync::oneshot;

    use super::*;

    fn plugin(name: &str) -> Source {
        Source::Plugin(name.to_owned())
    }

    impl Accounts {
        /// Whether an Event is queued.
        fn says(&mut self, now: Instant, source: &Source, uid: &str, message: &str) -> bool {
            let regarding = Regarding {
                kind: GroupVersionKind::new("", "v1", "Service"),
                at: NamespacedName::new("n", uid),
                uid: uid.to_owned(),
            };
            let note =
                EventNote { severity: EventSeverity::Warning, reason: "Parked".into(), message: message.to_owned() };
            let length = |accounts: &Self| accounts.accounts.get(source).map_or(0, |account| account.queue.len());
            let before = length(self);
            let source = source.clone();
            self.admit(
                now,
                Queued { source: source.clone(), regarding, note, is_again: false, _end: oneshot::channel().0 },
            );
            length(self) > before
        }

        fn drain(&mut self) -> Vec<(Source, String)> {
            let next = || self.next(false).or_else(|| self.next(true));
            std::iter::from_fn(next).map(|queued| (queued.source, queued.note.message)).collect()
        }
    }

    #[test]
    fn fault_17_the_same_is_said_once_in_ten_minutes() {
        let (mut accounts, start) = (Accounts::default(), Instant::now());
        let operator = Source::Operator;
        assert!(accounts.says(start, &operator, "a", "x"));
        assert!(accounts.says(start, &operator, "b", "x"));
        assert!(accounts.says(start, &operator, "a", "y"));
        assert!(!accounts.says(start + QUIET_TIME - Duration::from_secs(1), &operator, "a", "x"));
        assert_eq!(accounts.dropped()[&operator], 0, "a repetition is no loss");
        assert!(accounts.says(start + QUIET_TIME, &operator, "a", "x"));
    }

    #[test]
    fn one_object_cannot_fill_the_cluster() {
        let (mut accounts, start) = (Accounts::default(), Instant::now());
        let mut new = |now, from: u32| {
            (from..from + 100).filter(|n| accounts.says(now, &Source::Operator, "a", &n.to_string())).count()
        };
        assert_eq!(new(start, 0), 25);
        assert_eq!(new(start + OF_OBJECT.refill, 100), 1);
        assert!(accounts.says(start, &Source::Operator, "b", "x"));
        assert_eq!(accounts.dropped()[&Source::Operator], 174);
    }

    /// Plugins that post about every object, whatever they can think of, before the operator has said anything.
    #[test]
    fn whatever_plugins_post_nothing_of_the_operator_is_dropped() {
        let (mut accounts, start) = (Accounts::default(), Instant::now());
        let noisy: Vec<_> = (0..50).map(|number| plugin(&format!("noisy-{number}"))).collect();
        for source in &noisy {
            for number in 0..10_000 {
                accounts.says(start, source, &format!("{}", number % 300), &number.to_string());
            }
        }
        for object in 0..300 {
            assert!(accounts.says(start, &Source::Operator, &object.to_string(), "0"), "{object}");
        }
        let other = plugin("other");
        assert!((0..QUEUE_OF_PLUGIN).all(|number| accounts.says(start, &other, &number.to_string(), "x")));
        let posted = accounts.drain();
        let place = |source: &Source| posted.iter().position(|(of, _)| of == source).unwrap();
        assert_eq!(place(&Source::Operator), 0, "it waits for no plugin");
        assert!(place(&other) < 300 + 60, "and no plugin for more than one Event of each other");
        for (source, account) in &accounts.accounts {
            let memory = if *source == Source::Operator { MEMORY } else { MEMORY_OF_PLUGIN };
            assert!(account.said.order.len() <= memory && account.objects.len() <= memory, "{source:?}");
        }
        assert_eq!(accounts.dropped()[&other], 0);
    }

    #[test]
    fn a_plugin_that_has_said_too_much_is_heard_again_and_its_account_goes_with_it() {
        let (mut accounts, start) = (Accounts::default(), Instant::now());
        let noisy = plugin("noisy");
        let heard = |accounts: &mut Accounts, now, from: usize| {
            let queued = |n: &usize| {
                let is_queued = accounts.says(now, &noisy, &n.to_string(), "x");
                accounts.drain();
                is_queued
            };
            (from..from + 3_000).filter(queued).count()
        };
        assert_eq!(heard(&mut accounts, start, 0), 1_000);
        assert_eq!(heard(&mut accounts, start + Duration::from_secs(10), 3_000), 10);
        assert_eq!(accounts.dropped()[&plugin("noisy")], 4_990);
        accounts.forget(&plugin("noisy"));
        assert!(accounts.dropped().is_empty());
    }

    #[test]
    fn many_objects_keep_none_from_being_spoken_of() {
        let (mut accounts, start) = (Accounts::default(), Instant::now());
        for number in 0..3 * MEMORY {
            assert!(accounts.says(start, &Source::Operator, &number.to_string(), "x"), "{number}");
            accounts.drain();
        }
    }
}
