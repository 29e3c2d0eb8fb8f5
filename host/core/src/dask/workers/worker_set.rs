//! Which workers a group has: a set of names, recorded on the group before a worker is made or retired.
//!
//! A worker's name follows from the group's uid and its ordinal, so making it twice is making it once. Ordinals are never
//! handed out again: a scheduler remembers the names of the workers that it retired (dask-kubernetes issue 855). Workers
//! that another operator made under names of its own are kept by name.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write,
};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::{fields::hex, names::check_dns_subdomain};

/// The most workers of one group: its record and its reconciles grow with them.
pub(in crate::dask) const WORKERS_MAX: u32 = 10_000;

/// Annotation on a DaskWorkerGroup that records the set.
pub const WORKER_ORDINALS: &str = "operator.dask.org/worker-ordinals";

/// The most workers of a set. A group has [`WORKERS_MAX`] at most, and during a rolling update as many again; those that
/// others named are fewer than that, or there is no room for their names in an annotation.
pub(in crate::dask) const SET_MAX: u32 = 2 * WORKERS_MAX;

/// The highest ordinal that is handed out: at a hundred new workers a second, that takes four months.
const ORDINAL_MAX: u32 = 1 << 30;

/// The longest record, in bytes: what Kubernetes allows for all annotations of an object.
const RECORD_MAX: usize = 256 << 10;

/// How many ordinals are tried when the record is lost and is made again from the names of the workers.
const RECOVERY_BOUND: u32 = 100_000;

/// Ten hexadecimal digits, as in the Python operator's worker names.
const SUFFIX_DIGITS: usize = 10;

/// The workers of a group, by the names of their Deployments.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::dask) struct WorkerSet {
    group: String,
    uid: String,
    /// The next ordinal to be handed out.
    next: u32,
    /// Those that exist, or are about to; none: named by somebody else.
    workers: BTreeMap<String, Option<u32>>,
    /// Those that are asked to hand over what they hold, and then go.
    retiring: BTreeSet<String>,
}

/// The record as it is stored: `{"next": 10, "workers": "0-4,7"}`.
#[derive(Serialize, Deserialize)]
struct Record {
    next: u32,
    /// None: whatever workers there are.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    workers: Option<String>,
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    adopted: BTreeSet<String>,
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    retiring: BTreeSet<String>,
}

/// What an annotation says of a group's workers.
#[derive(Debug, PartialEq, Eq)]
pub(in crate::dask) enum Recorded {
    /// Which there are.
    Workers(WorkerSet),
    /// Only the next ordinal: another operator has made and removed workers since.
    Next(u32),
    /// Something that was not written by us, and why it can't have been.
    Unusable(&'static str),
}

impl Recorded {
    /// From the annotation. Whatever it holds, that takes no longer than the largest set does.
    pub(in crate::dask) fn parse(group: &str, uid: &str, text: &str) -> Self {
        Self::read(group, uid, text).unwrap_or_else(Self::Unusable)
    }

    fn read(group: &str, uid: &str, text: &str) -> Result<Self, &'static str> {
        let Record { next, workers, adopted, retiring } = Record::read(text)?;
        let Some(ranges) = workers else { return Ok(Self::Next(next)) };
        let mut set = WorkerSet { next, ..WorkerSet::empty(group, uid) };
        let mut room = SET_MAX.checked_sub(u32::try_from(adopted.len()).unwrap_or(u32::MAX)).ok_or(TOO_MANY)?;
        let mut free = 0;
        for range in ranges.split(',').filter(|range| !range.is_empty()) {
            let (first, last) = range.split_once('-').unwrap_or((range, range));
            let ordinal = |text: &str| text.parse::<u32>().map_err(|_| "its workers are no ranges of ordinals");
            let (first, last) = (ordinal(first)?, ordinal(last)?);
            if first > last || first < free || last >= next {
                return Err("its ordinals are not in order, or were never handed out");
            }
            room = room.checked_sub(last - first).and_then(|room| room.checked_sub(1)).ok_or(TOO_MANY)?;
            free = last + 1;
            (first..=last).for_each(|ordinal| set.insert(ordinal));
        }
        if !adopted.iter().all(|name| check_dns_subdomain(name).is_ok()) {
            return Err("it has names that no object can have");
        }
        set.workers.extend(adopted.into_iter().map(|name| (name, None)));
        set.retiring = retiring.into_iter().filter(|name| set.workers.contains_key(name)).collect();
        Ok(Self::Workers(set))
    }
}

const TOO_MANY: &str = "it has more workers than a group can have";

impl Record {
    fn read(text: &str) -> Result<Self, &'static str> {
        if text.len() > RECORD_MAX {
            return Err("it is longer than all annotations of an object may be");
        }
        let record: Self = serde_json::from_str(text).map_err(|_| "it is no record of workers")?;
        if record.next > ORDINAL_MAX {
            return Err("so many workers were never made");
        }
        Ok(record)
    }
}

impl WorkerSet {
    fn empty(group: &str, uid: &str) -> Self {
        let (group, uid) = (group.to_owned(), uid.to_owned());
        Self { group, uid, next: 0, workers: BTreeMap::new(), retiring: BTreeSet::new() }
    }

    /// From the names of the workers that exist, and the next ordinal as far as it is known. Those that no ordinal gives are
    /// somebody else's names.
    pub(in crate::dask) fn recover<'a>(
        group: &str,
        uid: &str,
        next: u32,
        names: impl Iterator<Item = &'a str>,
    ) -> Self {
        let mut names: BTreeSet<&str> = names.collect();
        let mut set = Self::empty(group, uid);
        let bound = if names.is_empty() { 0 } else { RECOVERY_BOUND };
        for ordinal in 0..bound {
            if names.remove(worker_name(group, uid, ordinal).as_str()) {
                set.insert(ordinal);
                set.next = ordinal + 1;
                if names.is_empty() {
                    break;
                }
            }
        }
        names.into_iter().for_each(|name| set.adopt(name));
        set.next = set.next.max(next);
        set
    }

    /// As the annotation holds it.
    pub(in crate::dask) fn to_text(&self) -> String {
        let ordinals: BTreeSet<u32> = self.workers.values().copied().flatten().collect();
        let mut ranges = String::new();
        let mut ordinals = ordinals.into_iter().peekable();
        while let Some(first) = ordinals.next() {
            let mut last = first;
            while let Some(following) = ordinals.next_if(|&following| following == last + 1) {
                last = following;
            }
            let comma = if ranges.is_empty() { "" } else { "," };
            let range = if first == last { first.to_string() } else { format!("{first}-{last}") };
            write!(ranges, "{comma}{range}").expect("writing to a string does not fail");
        }
        let adopted = self.workers.iter().filter(|(_, ordinal)| ordinal.is_none()).map(|(name, _)| name.clone());
        let record = Record {
            next: self.next,
            workers: Some(ranges),
            adopted: adopted.collect(),
            retiring: self.retiring.clone(),
        };
        serde_json::to_string(&record).expect("a record of numbers and texts is JSON")
    }

    /// Names of the workers, those with ordinals in their order.
    pub(in crate::dask) fn names(&self) -> Vec<&str> {
        let mut names: Vec<_> = self.workers.iter().map(|(name, ordinal)| (*ordinal, name.as_str())).collect();
        names.sort_unstable();
        names.into_iter().map(|(_, name)| name).collect()
    }

    pub(in crate::dask) fn contains(&self, name: &str) -> bool {
        self.workers.contains_key(name)
    }

    /// The name as it is in the set.
    pub(in crate::dask) fn get(&self, name: &str) -> Option<&str> {
        self.workers.get_key_value(name).map(|(name, _)| name.as_str())
    }

    pub(in crate::dask) fn len(&self) -> u32 {
        u32::try_from(self.workers.len()).unwrap_or(u32::MAX)
    }

    /// Those that are asked to hand over what they hold.
    pub(in crate::dask) fn retiring(&self) -> &BTreeSet<String> {
        &self.retiring
    }

    pub(in crate::dask) fn set_retiring(&mut self, retiring: BTreeSet<String>) {
        self.retiring = retiring;
    }

    /// Marks a worker of the set as one that is to go.
    pub(in crate::dask) fn retire(&mut self, name: &str) {
        self.retiring.insert(name.to_owned());
    }

    /// Takes in a worker that somebody else has named.
    pub(in crate::dask) fn adopt(&mut self, name: &str) {
        self.workers.entry(name.to_owned()).or_default();
    }

    /// Hands out ordinals until there are `wanted`, or as many as there can be.
    pub(in crate::dask) fn grow(&mut self, wanted: u32) {
        while self.len() < wanted.min(SET_MAX) && self.next < u32::MAX {
            self.insert(self.next);
            self.next += 1;
        }
    }

    /// Takes a worker out.
    pub(in crate::dask) fn remove(&mut self, name: &str) {
        self.workers.remove(name);
        self.retiring.remove(name);
    }

    fn insert(&mut self, ordinal: u32) {
        self.workers.insert(worker_name(&self.group, &self.uid, ordinal), Some(ordinal));
    }
}

/// What stays of the record when another operator makes and removes workers: which ordinals were handed out. None if it
/// can't be read.
pub(crate) fn without_workers(text: &str) -> Option<String> {
    let Record { next, .. } = Record::read(text).ok()?;
    let record = Record { next, workers: None, adopted: BTreeSet::new(), retiring: BTreeSet::new() };
    serde_json::to_string(&record).ok()
}

/// Name of a worker's Deployment.
fn worker_name(group: &str, group_uid: &str, ordinal: u32) -> String {
    let digest = Sha256::digest(format!("{group_uid}:{ordinal}"));
    format!("{group}-worker-{}", hex(&digest[..SUFFIX_DIGITS / 2]))
}

/// Whether workers' Deployments have such names, of whatever group and whichever operator.
pub(in crate::dask) fn is_worker_name(name: &str) -> bool {
    let is_digit = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
    let suffix = name.rsplit_once("-worker-").map(|(_, suffix)| suffix);
    suffix.is_some_and(|suffix| suffix.len() == SUFFIX_DIGITS && suffix.bytes().all(is_digit))
}

#[cfg(test)]
mod tests {
    use dask_wasm_operator_test_properties::cases;
    use proptest::{collection::vec, prelude::*};
    use serde_json::json;

    use super::*;

    fn ordinals(set: &WorkerSet) -> Vec<u32> {
        let mut ordinals: Vec<_> = set.workers.values().copied().flatten().collect();
        ordinals.sort_unstable();
        ordinals
    }

    fn parse(text: &str) -> Recorded {
        Recorded::parse("g", "uid", text)
    }

    fn without(set: &mut WorkerSet, ordinals: &[u32]) {
        ordinals.iter().for_each(|ordinal| set.remove(&worker_name("g", "uid", *ordinal)));
    }

    #[test]
    fn the_record_survives_writing_and_reading() {
        let mut set = WorkerSet::empty("g", "uid");
        set.grow(10);
        without(&mut set, &[3, 0, 9]);
        set.grow(8);
        assert_eq!(set.to_text(), r#"{"next":11,"workers":"1-2,4-8,10"}"#);
        assert_eq!(parse(&set.to_text()), Recorded::Workers(set.clone()));
        set.adopt("g-worker-python");
        set.set_retiring(BTreeSet::from(["g-worker-python".to_owned()]));
        assert_eq!(
            set.to_text(),
            r#"{"next":11,"workers":"1-2,4-8,10","adopted":["g-worker-python"],"retiring":["g-worker-python"]}"#
        );
        assert_eq!(parse(&set.to_text()), Recorded::Workers(set));
    }

    #[test]
    fn workers_are_known_by_the_form_of_their_names() {
        let mut set = WorkerSet::empty("a-worker-b", "uid");
        set.grow(100);
        assert!(set.names().into_iter().all(is_worker_name));
        for name in
            ["alice", "g-worker-", "g-worker-alice", "g-worker-0123456789-5d4f9c7b68-x7k2p", "g-worker-0123456789-0"]
        {
            assert!(!is_worker_name(name), "{name}");
        }
    }

    #[test]
    fn retired_ordinals_are_not_handed_out_again() {
        let mut set = WorkerSet::empty("g", "uid");
        set.grow(3);
        without(&mut set, &[2, 1]);
        set.grow(3);
        assert_eq!(ordinals(&set), [0, 3, 4]);
    }

    #[test]
    fn what_was_not_written_by_us_is_not_read() {
        let hundred_ranges: Vec<_> = (0..100).map(|n| format!("{}-{}", n * 100_001, n * 100_001 + 99_999)).collect();
        for text in [
            "",
            "{}",
            "null",
            r#"{"next":1,"workers":"0-4"}"#,
            r#"{"next":9,"workers":"4-1"}"#,
            r#"{"next":9,"workers":"4-5,5-6"}"#,
            r#"{"next":9,"workers":"4-5,1"}"#,
            r#"{"next":9,"workers":"x"}"#,
            r#"{"next":9,"workers":"-1"}"#,
            r#"{"next":4294967295,"workers":""}"#,
            r#"{"next":4294967296,"workers":""}"#,
            r#"{"next":1073741824,"workers":"0-1073741823"}"#,
            r#"{"next":9,"workers":"0","adopted":["a/../b"]}"#,
            &format!(r#"{{"next":1000000000,"workers":"{}"}}"#, hundred_ranges.join(",")),
            &format!(r#"{{"next":9,"workers":"{}"}}"#, ",".repeat(RECORD_MAX)),
            &"[".repeat(RECORD_MAX),
        ] {
            assert!(matches!(parse(text), Recorded::Unusable(_)), "{}", &text[..text.len().min(80)]);
        }
    }

    #[test]
    fn the_largest_set_that_we_write_is_read_and_no_larger_one_is_made() {
        let mut set = WorkerSet::empty("g", "uid");
        set.grow(u32::MAX);
        assert_eq!(set.len(), SET_MAX);
        assert_eq!(parse(&set.to_text()), Recorded::Workers(set.clone()));
        set.remove(&worker_name("g", "uid", 0));
        set.next = ORDINAL_MAX;
        assert!(matches!(parse(&set.to_text()), Recorded::Workers(_)));
        set.next = u32::MAX - 1;
        set.grow(u32::MAX);
        assert_eq!((set.len(), set.next), (SET_MAX, u32::MAX));
        set.remove(&worker_name("g", "uid", 1));
        set.grow(u32::MAX);
        assert_eq!(set.len(), SET_MAX - 1, "there are no more ordinals");
    }

    proptest! {
        #![proptest_config(cases(512))]

        /// The belief that is attacked: that only we write there.
        #[test]
        fn whatever_is_recorded_a_set_is_bounded_and_what_it_grows_to_can_be_read_again(
            next in prop_oneof![any::<u64>(), 0..40_u64, Just(u64::from(u32::MAX)), Just(u64::from(ORDINAL_MAX))],
            ranges in vec((any::<u32>(), any::<u32>()), 0..6),
            small in vec(0..40_u32, 0..6),
            names in vec("[a-z./]{0,8}", 0..4),
            wanted in prop_oneof![0..50_u32, Just(u32::MAX)],
            garbage in "[0-9,-]{0,20}",
        ) {
            let lists = [
                ranges.iter().map(|(first, last)| format!("{first}-{last}")).collect::<Vec<_>>().join(","),
                small.iter().map(u32::to_string).collect::<Vec<_>>().join(","),
                garbage,
            ];
            for workers in lists {
                let record = json!({"next": next, "workers": workers, "adopted": names, "retiring": names});
                let Recorded::Workers(mut set) = parse(&record.to_string()) else { continue };
                prop_assert!(set.len() <= SET_MAX && set.retiring().iter().all(|name| set.contains(name)));
                let before = set.len();
                set.grow(wanted);
                prop_assert!(set.len() == before.max(wanted.min(SET_MAX)));
                prop_assert!(set.next > ORDINAL_MAX || parse(&set.to_text()) == Recorded::Workers(set.clone()));
            }
        }

        #[test]
        fn any_text_is_read_or_refused(text in any::<String>()) {
            let _ = parse(&text);
            let _ = without_workers(&text);
        }
    }

    #[test]
    fn a_lost_record_is_made_again_from_the_names() {
        let mut set = WorkerSet::empty("g", "uid");
        set.grow(6);
        without(&mut set, &[0, 2]);
        assert_eq!(WorkerSet::recover("g", "uid", 0, set.names().into_iter()), set);
        set.adopt("g-worker-python");
        assert_eq!(WorkerSet::recover("g", "uid", 0, set.names().into_iter()), set);
    }

    #[test]
    fn what_another_operator_made_of_the_workers_counts_and_no_ordinal_is_handed_out_again() {
        let mut set = WorkerSet::empty("g", "uid");
        set.grow(6);
        let text = without_workers(&set.to_text()).unwrap();
        assert_eq!((text.as_str(), parse(&text)), (r#"{"next":6}"#, Recorded::Next(6)));
        let names = [worker_name("g", "uid", 1), "g-worker-python".to_owned()];
        let mut set = WorkerSet::recover("g", "uid", 6, names.iter().map(String::as_str));
        set.grow(3);
        assert_eq!(ordinals(&set), [1, 6]);
        assert_eq!(without_workers("odd"), None);
    }
}
