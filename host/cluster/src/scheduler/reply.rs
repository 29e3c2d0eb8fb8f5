//! What schedulers answer, as they write it, and what it means. No I/O.
//!
//! Answers are decoded straight into what is wanted of them; everything else is skipped. So an answer of many small values
//! takes no more memory than it has bytes, and keys of maps may be of any type, as some are in `identity`.

use std::{
    cmp::Ordering,
    collections::{BTreeSet, HashMap},
    fmt,
    marker::PhantomData,
    time::Duration,
};

use dask_wasm_operator_core::scheduler::{Left, SchedulerWorker};
use serde::{
    Deserialize, Deserializer,
    de::{Error as _, IgnoredAny, MapAccess, SeqAccess, Visitor},
};

/// The most entries that are taken in a list or a map: twice as many as the most workers that are expected.
const MAX_ENTRIES: usize = 20_000;

/// How much is kept of a name, in bytes: what Kubernetes allows for one, and a port or a number behind it.
const MAX_NAME: usize = 300;

/// A list, or the entries of a map, of at most [`MAX_ENTRIES`].
#[derive(Debug, PartialEq)]
pub(super) struct Bounded<T>(pub(super) Vec<T>);

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Bounded<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct List<T>(PhantomData<T>);
        impl<'de, T: Deserialize<'de>> Visitor<'de> for List<T> {
            type Value = Bounded<T>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "a list of at most {MAX_ENTRIES}")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Bounded<T>, A::Error> {
                collect(|| list.next_element())
            }
        }
        deserializer.deserialize_seq(List(PhantomData))
    }
}

/// A map's entries, of at most [`MAX_ENTRIES`], in the order in which they came.
#[derive(Debug, PartialEq)]
pub(super) struct Entries<T>(pub(super) Vec<(Name, T)>);

impl<T> Default for Entries<T> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Entries<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Map<T>(PhantomData<T>);
        impl<'de, T: Deserialize<'de>> Visitor<'de> for Map<T> {
            type Value = Entries<T>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "a map of at most {MAX_ENTRIES} entries")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Entries<T>, A::Error> {
                collect(|| map.next_entry()).map(|Bounded(entries)| Entries(entries))
            }
        }
        deserializer.deserialize_map(Map(PhantomData))
    }
}

fn collect<T, E: serde::de::Error>(mut next: impl FnMut() -> Result<Option<T>, E>) -> Result<Bounded<T>, E> {
    let mut entries = Vec::new();
    while let Some(entry) = next()? {
        if entries.len() == MAX_ENTRIES {
            return Err(E::custom(format_args!("more than {MAX_ENTRIES} entries")));
        }
        entries.push(entry);
    }
    Ok(Bounded(entries))
}

/// The answer to `identity`.
#[derive(Debug, Deserialize)]
pub(super) struct Identity {
    pub(super) id: Name,
    pub(super) workers: Entries<RegisteredWorker>,
}

/// A worker in the answer to `identity`; its address is the key.
#[derive(Debug, Deserialize)]
pub(super) struct RegisteredWorker {
    name: Name,
    status: String,
    #[serde(default)]
    metrics: Begun,
}

/// Whether a worker, some seconds ago, had begun tasks that it had not finished: any number under one of the names in
/// [`Begun::NAMES`]. Users add metrics of their own, of any form.
#[derive(Debug, Default)]
struct Begun(bool);

impl Begun {
    /// Old releases count at the top level, newer ones in `task_counts`; `long-running` are tasks that left their thread to others.
    const NAMES: [&str; 3] = ["task_counts", "executing", "long-running"];
}

impl<'de> Deserialize<'de> for Begun {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct BegunVisitor;
        impl<'de> Visitor<'de> for BegunVisitor {
            type Value = Begun;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("metrics")
            }

            fn visit_u64<E: serde::de::Error>(self, count: u64) -> Result<Begun, E> {
                Ok(Begun(count > 0))
            }

            fn visit_i64<E: serde::de::Error>(self, count: i64) -> Result<Begun, E> {
                Ok(Begun(count > 0))
            }

            fn visit_f64<E: serde::de::Error>(self, _: f64) -> Result<Begun, E> {
                Ok(Begun(false))
            }

            fn visit_bool<E: serde::de::Error>(self, _: bool) -> Result<Begun, E> {
                Ok(Begun(false))
            }

            fn visit_str<E: serde::de::Error>(self, _: &str) -> Result<Begun, E> {
                Ok(Begun(false))
            }

            fn visit_bytes<E: serde::de::Error>(self, _: &[u8]) -> Result<Begun, E> {
                Ok(Begun(false))
            }

            fn visit_unit<E: serde::de::Error>(self) -> Result<Begun, E> {
                Ok(Begun(false))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Begun, A::Error> {
                while list.next_element::<IgnoredAny>()?.is_some() {}
                Ok(Begun(false))
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Begun, A::Error> {
                let mut begun = false;
                while let Some(Name(name)) = map.next_key()? {
                    if Begun::NAMES.contains(&name.as_str()) {
                        begun |= map.next_value::<Begun>()?.0;
                    } else {
                        map.next_value::<IgnoredAny>()?;
                    }
                }
                Ok(Begun(begun))
            }
        }
        deserializer.deserialize_any(BegunVisitor)
    }
}

impl RegisteredWorker {
    fn is_closing(&self) -> bool {
        self.status == "closing_gracefully"
    }

    /// What it has left to do, if it gets no more. `is_busy`: whether it has unfinished tasks; none: it is not known.
    fn left(&self, is_busy: Option<bool>) -> Option<Left> {
        let Begun(begun) = self.metrics;
        let left = if is_busy == Some(false) { Left::Nothing } else { Left::Tasks { begun } };
        self.is_closing().then_some(left)
    }
}

impl Identity {
    /// The addresses of those that are being retired, or have been: the status is the same.
    pub(super) fn closing(&self) -> Vec<String> {
        let closing = self.workers.0.iter().filter(|(_, worker)| worker.is_closing());
        closing.map(|(Name(address), _)| address.clone()).collect()
    }

    /// The registered workers with their places in the order in which the scheduler can do without them; those that it left out
    /// are last. `busy`: which of those that are closing have unfinished tasks; none: it is not known.
    pub(super) fn into_workers(self, order: &[String], busy: Option<&BTreeSet<String>>) -> Vec<SchedulerWorker> {
        let places: HashMap<_, _> =
            order.iter().enumerate().map(|(place, address)| (address.as_str(), place)).collect();
        let worker = |(Name(address), worker): (Name, RegisteredWorker)| {
            let retiring = worker.left(busy.map(|busy| busy.contains(&address)));
            let place = places.get(address.as_str()).copied().unwrap_or(usize::MAX);
            SchedulerWorker { name: worker.name.0, address, place, retiring }
        };
        self.workers.0.into_iter().map(worker).collect()
    }
}

/// The answer to `processing`: unfinished tasks, by the address of the worker that they were given to.
#[derive(Debug, Default, Deserialize)]
#[serde(transparent)]
pub(super) struct Processing(Entries<Vec<IgnoredAny>>);

impl Processing {
    /// The addresses of those that have any.
    pub(super) fn into_busy(self) -> BTreeSet<String> {
        let busy = self.0.0.into_iter().filter(|(_, tasks)| !tasks.is_empty());
        busy.map(|(Name(address), _)| address).collect()
    }
}

/// The answer of `/api/v1/get_workers`, which has no status.
#[derive(Debug, Deserialize)]
pub(super) struct GetWorkers {
    workers: Bounded<ListedWorker>,
}

#[derive(Debug, Deserialize)]
struct ListedWorker {
    name: Name,
    address: Name,
}

impl GetWorkers {
    /// The scheduler was not asked which it can do without: they come in the order of their addresses.
    pub(super) fn into_workers(self) -> Vec<SchedulerWorker> {
        let worker = |worker: ListedWorker| {
            let (Name(name), Name(address)) = (worker.name, worker.address);
            SchedulerWorker { name, address, place: 0, retiring: None }
        };
        self.workers.0.into_iter().map(worker).collect()
    }
}

/// A name, an id or an address: text, but whoever starts workers by hand may give numbers as names. Kept no longer than any that
/// we know.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Name(pub(super) String);

impl<'de> Deserialize<'de> for Name {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct NameVisitor;
        impl Visitor<'_> for NameVisitor {
            type Value = Name;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a name")
            }

            fn visit_str<E: serde::de::Error>(self, name: &str) -> Result<Name, E> {
                Ok(Name(name[..name.floor_char_boundary(MAX_NAME)].to_owned()))
            }

            fn visit_u64<E: serde::de::Error>(self, name: u64) -> Result<Name, E> {
                Ok(Name(name.to_string()))
            }

            fn visit_i64<E: serde::de::Error>(self, name: i64) -> Result<Name, E> {
                Ok(Name(name.to_string()))
            }
        }
        deserializer.deserialize_any(NameVisitor)
    }
}

/// The answer to `retire_workers`, by RPC and by HTTP: what is known of those that are empty, by address.
pub(super) type RetireWorkers = Entries<IgnoredAny>;

impl RetireWorkers {
    /// Which of those that were asked for are empty.
    pub(super) fn among(self, asked: &[String]) -> Vec<String> {
        let retired: BTreeSet<_> = self.0.into_iter().map(|(Name(address), _)| address).collect();
        asked.iter().filter(|address| retired.contains(*address)).cloned().collect()
    }
}

/// The answer of `/api/v1/adaptive_target`.
#[derive(Debug, Deserialize)]
pub(super) struct AdaptiveTarget {
    pub(super) workers: u64,
}

/// The answer of `/api/v1/check_idle`.
#[derive(Debug, Deserialize)]
pub(super) struct CheckIdle {
    /// None: busy. A missing key is no answer, so that it can't pass for one.
    #[serde(deserialize_with = "Option::deserialize")]
    pub(super) idle_since: Option<IdleSince>,
}

/// A time in seconds since the Unix epoch.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct IdleSince(Duration);

impl IdleSince {
    /// Milliseconds since the Unix epoch.
    pub(super) fn milliseconds(self) -> u64 {
        u64::try_from(self.0.as_millis()).unwrap_or(u64::MAX)
    }
}

impl<'de> Deserialize<'de> for IdleSince {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let seconds = f64::deserialize(deserializer)?;
        Duration::try_from_secs_f64(seconds)
            .map(Self)
            .map_err(|_| D::Error::custom(format_args!("{seconds} is no time")))
    }
}

/// The answer of `/json/counts.json`, as far as it is needed.
#[derive(Debug, Deserialize)]
pub(super) struct Counts {
    /// Tasks that workers are given.
    processing: u64,
    /// Tasks that no worker can take.
    unrunnable: u64,
    /// Tasks that wait for others.
    waiting: u64,
    workers: u64,
    pub(super) desired_workers: u64,
}

impl Counts {
    /// Tasks that are queued at the scheduler are not counted; where there are too few workers for them, it asks for more.
    pub(super) fn is_idle(&self) -> bool {
        self.processing == 0 && self.unrunnable == 0 && self.waiting == 0 && self.desired_workers <= self.workers
    }
}

/// The answer to `versions`.
#[derive(Debug, Deserialize)]
pub(super) struct Versions {
    packages: Packages,
}

#[derive(Debug, Deserialize)]
struct Packages {
    distributed: Option<String>,
}

impl Versions {
    /// None if it is no version, as in a build of one's own.
    pub(super) fn distributed(&self) -> Option<Version> {
        self.packages.distributed.as_deref().and_then(Version::parse)
    }
}

/// A release of distributed: year, month, number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Version([u32; 3]);

impl Version {
    /// The first with `check_idle`, which there answers "busy" at every call but the first.
    const FORGETFUL: Self = Self([2023, 3, 2]);

    /// Reads `2026.8.0`, also where `+12.g0123456` or the like follows.
    fn parse(text: &str) -> Option<Self> {
        let mut parts = text.splitn(3, '.');
        let [year, month] = [parts.next()?.parse().ok()?, parts.next()?.parse().ok()?];
        let rest = parts.next()?;
        let end = rest.find(|character: char| !character.is_ascii_digit()).unwrap_or(rest.len());
        Some(Self([year, month, rest[..end].parse().ok()?]))
    }

    /// Whether `check_idle` exists and its "busy" can be believed.
    pub(super) fn knows_idleness(self) -> bool {
        self.cmp(&Self::FORGETFUL) == Ordering::Greater
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn workers_have_their_places_in_the_order_of_the_scheduler_and_the_rest_is_last() {
        let worker = |name, status| json!({"name": name, "status": status, "metrics": {"x": [1]}});
        let identity: Identity = serde_json::from_value(json!({
            "id": "Scheduler-1", "type": "Scheduler",
            "workers": {
                "tcp://a": worker(json!("wa"), "running"),
                "tcp://b": worker(json!(7), "closing_gracefully"),
                "tcp://c": worker(json!("wc"), "running"),
            },
        }))
        .unwrap();
        assert_eq!(identity.closing(), ["tcp://b"]);
        let order = ["tcp://c".to_owned(), "tcp://a".to_owned(), "tcp://gone".to_owned()];
        let workers = identity.into_workers(&order, Some(&BTreeSet::new()));
        let found: Vec<_> =
            workers.iter().map(|worker| (worker.name.as_str(), worker.place, worker.retiring)).collect();
        assert_eq!(found, [("wa", 1, None), ("7", usize::MAX, Some(Left::Nothing)), ("wc", 0, None)]);
    }

    #[test]
    fn what_a_closing_worker_has_left_is_told_by_the_scheduler_and_what_of_it_is_begun_by_itself() {
        let busy: Processing = serde_json::from_value(json!({"tcp://a": ["x", ["y", 1]], "tcp://b": []})).unwrap();
        let busy = busy.into_busy();
        for (metrics, known, left) in [
            (json!({}), Some(&busy), Left::Tasks { begun: false }),
            (json!({"task_counts": {"ready": 2, "memory": 3}}), Some(&busy), Left::Tasks { begun: false }),
            (json!({"task_counts": {"executing": 1}}), Some(&busy), Left::Tasks { begun: true }),
            (json!({"task_counts": {"long-running": 1}}), Some(&busy), Left::Tasks { begun: true }),
            (json!({"executing": 1, "ready": 2}), Some(&busy), Left::Tasks { begun: true }),
            (json!({"executing": [1], "task_counts": null, "x": 1.5}), Some(&busy), Left::Tasks { begun: false }),
            (json!("none"), Some(&busy), Left::Tasks { begun: false }),
            (json!({"task_counts": {"executing": 1}}), Some(&BTreeSet::new()), Left::Nothing),
            (json!({}), None, Left::Tasks { begun: false }),
        ] {
            let worker = json!({"name": "a", "status": "closing_gracefully", "metrics": metrics});
            let identity = json!({"id": "Scheduler-1", "workers": {"tcp://a": worker}});
            let identity: Identity = serde_json::from_value(identity).unwrap();
            let workers = identity.into_workers(&[], known);
            assert_eq!(workers[0].retiring, Some(left), "{metrics} {known:?}");
        }
    }

    #[test]
    fn keys_of_skipped_maps_may_be_lists() {
        // {"id": "s", "digests": {[1, 2]: 3}, "workers": {}}
        let bytes = b"\x83\xa2id\xa1s\xa7digests\x81\x92\x01\x02\x03\xa7workers\x80";
        assert!(rmp_serde::from_slice::<Identity>(bytes).unwrap().workers.0.is_empty());
    }

    #[test]
    fn lists_without_end_are_refused() {
        let list = vec![""; MAX_ENTRIES + 1];
        let bytes = rmp_serde::to_vec(&list).unwrap();
        assert!(rmp_serde::from_slice::<Bounded<String>>(&bytes).is_err());
        let bytes = rmp_serde::to_vec(&list[1..]).unwrap();
        assert_eq!(rmp_serde::from_slice::<Bounded<String>>(&bytes).unwrap().0.len(), MAX_ENTRIES);
    }

    #[test]
    fn no_more_is_kept_of_a_name_than_it_may_have() {
        let long = "é".repeat(MAX_NAME);
        let worker = json!({"name": &long, "status": "running"});
        let identity: Identity = serde_json::from_value(json!({"id": &long, "workers": {&long: worker}})).unwrap();
        assert_eq!(identity.id.0.len(), MAX_NAME);
        let workers = identity.into_workers(&[], None);
        assert_eq!((workers[0].name.len(), workers[0].address.len()), (MAX_NAME, MAX_NAME));
    }

    #[test]
    fn versions_are_compared_by_number() {
        for (text, knows_idleness) in [
            ("2022.8.1", Some(false)),
            ("2023.3.1", Some(false)),
            ("2023.3.2", Some(false)),
            ("2023.3.2.1", Some(false)),
            ("2023.4.0", Some(true)),
            ("2023.10.0", Some(true)),
            ("2026.8.0+3.gabcdef", Some(true)),
            ("unknown", None),
            ("2026.8", None),
            ("2026.8.x", None),
        ] {
            assert_eq!(Version::parse(text).map(Version::knows_idleness), knows_idleness, "{text}");
        }
    }

    #[test]
    fn only_a_null_means_busy() {
        let parse = |text: &str| serde_json::from_str::<CheckIdle>(text).map(|answer| answer.idle_since);
        assert_eq!(parse(r#"{"idle_since": 12.5}"#).unwrap().map(IdleSince::milliseconds), Some(12_500));
        assert_eq!(parse(r#"{"idle_since": null}"#).unwrap(), None);
        for lie in ["{}", r#"{"idle_since": -1}"#, r#"{"idle_since": "x"}"#, r#"{"idle_since": 1e300}"#] {
            assert!(parse(lie).is_err(), "{lie}");
        }
    }

    #[test]
    fn whoever_asks_for_workers_is_not_idle() {
        let is_idle = |workers, desired_workers| {
            Counts { processing: 0, unrunnable: 0, waiting: 0, workers, desired_workers }.is_idle()
        };
        assert!(is_idle(0, 0) && is_idle(3, 0));
        // As 2026.8.0 tells it of 50 tasks and no worker.
        assert!(!is_idle(0, 5));
    }

    #[test]
    fn only_those_asked_for_are_retired() {
        let answer: RetireWorkers = serde_json::from_value(json!({"tcp://b": {}, "tcp://other": {}})).unwrap();
        assert_eq!(answer.among(&["tcp://a".to_owned(), "tcp://b".to_owned()]), ["tcp://b"]);
    }
}
