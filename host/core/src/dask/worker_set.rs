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

use crate::fields::hex;

/// Annotation on a DaskWorkerGroup that records the set.
pub const WORKER_ORDINALS: &str = "operator.dask.org/worker-ordinals";

/// How many ordinals are tried when the record is lost and is made again from the names of the workers.
const RECOVERY_BOUND: u32 = 100_000;

/// Ten hexadecimal digits, as in the Python operator's worker names.
const SUFFIX_DIGITS: usize = 10;

/// The workers of a group, by the names of their Deployments.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct WorkerSet {
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

impl WorkerSet {
    fn empty(group: &str, uid: &str) -> Self {
        let (group, uid) = (group.to_owned(), uid.to_owned());
        Self { group, uid, next: 0, workers: BTreeMap::new(), retiring: BTreeSet::new() }
    }

    /// From the annotation; none if it can't be read, or does not say which workers there are.
    pub(super) fn parse(group: &str, uid: &str, text: &str) -> Option<Self> {
        let record: Record = serde_json::from_str(text).ok()?;
        let mut set = Self { next: record.next, ..Self::empty(group, uid) };
        for range in record.workers?.split(',').filter(|range| !range.is_empty()) {
            let (first, last) = range.split_once('-').unwrap_or((range, range));
            let (first, last): (u32, u32) = (first.parse().ok()?, last.parse().ok()?);
            if first > last || last >= record.next || last - first > RECOVERY_BOUND {
                return None;
            }
            (first..=last).for_each(|ordinal| set.insert(ordinal));
        }
        set.workers.extend(record.adopted.into_iter().map(|name| (name, None)));
        set.retiring = record.retiring.into_iter().filter(|name| set.workers.contains_key(name)).collect();
        Some(set)
    }

    /// From the names of the workers that exist, and what the annotation still says. Those that no ordinal gives are somebody
    /// else's names.
    pub(super) fn recover<'a>(
        group: &str,
        uid: &str,
        text: Option<&str>,
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
        let record = text.and_then(|text| serde_json::from_str::<Record>(text).ok());
        set.next = set.next.max(record.map_or(0, |record| record.next));
        set
    }

    /// As the annotation holds it.
    pub(super) fn to_text(&self) -> String {
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
    pub(super) fn names(&self) -> Vec<&str> {
        let mut names: Vec<_> = self.workers.iter().map(|(name, ordinal)| (*ordinal, name.as_str())).collect();
        names.sort_unstable();
        names.into_iter().map(|(_, name)| name).collect()
    }

    pub(super) fn contains(&self, name: &str) -> bool {
        self.workers.contains_key(name)
    }

    /// The name as it is in the set.
    pub(super) fn get(&self, name: &str) -> Option<&str> {
        self.workers.get_key_value(name).map(|(name, _)| name.as_str())
    }

    pub(super) fn len(&self) -> u32 {
        u32::try_from(self.workers.len()).unwrap_or(u32::MAX)
    }

    /// Those that are asked to hand over what they hold.
    pub(super) fn retiring(&self) -> &BTreeSet<String> {
        &self.retiring
    }

    pub(super) fn set_retiring(&mut self, retiring: BTreeSet<String>) {
        self.retiring = retiring;
    }

    /// Marks a worker of the set as one that is to go.
    pub(super) fn retire(&mut self, name: &str) {
        self.retiring.insert(name.to_owned());
    }

    /// Takes in a worker that somebody else has named.
    pub(super) fn adopt(&mut self, name: &str) {
        self.workers.entry(name.to_owned()).or_default();
    }

    /// Hands out ordinals until there are `wanted`.
    pub(super) fn grow(&mut self, wanted: u32) {
        while self.len() < wanted {
            self.insert(self.next);
            self.next = self.next.saturating_add(1);
        }
    }

    /// Takes a worker out.
    pub(super) fn remove(&mut self, name: &str) {
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
    let Record { next, .. } = serde_json::from_str(text).ok()?;
    let record = Record { next, workers: None, adopted: BTreeSet::new(), retiring: BTreeSet::new() };
    serde_json::to_string(&record).ok()
}

/// Name of a worker's Deployment.
fn worker_name(group: &str, group_uid: &str, ordinal: u32) -> String {
    let digest = Sha256::digest(format!("{group_uid}:{ordinal}"));
    format!("{group}-worker-{}", hex(&digest[..SUFFIX_DIGITS / 2]))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ordinals(set: &WorkerSet) -> Vec<u32> {
        let mut ordinals: Vec<_> = set.workers.values().copied().flatten().collect();
        ordinals.sort_unstable();
        ordinals
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
        assert_eq!(WorkerSet::parse("g", "uid", &set.to_text()), Some(set.clone()));
        set.adopt("g-worker-python");
        set.set_retiring(BTreeSet::from(["g-worker-python".to_owned()]));
        assert_eq!(
            set.to_text(),
            r#"{"next":11,"workers":"1-2,4-8,10","adopted":["g-worker-python"],"retiring":["g-worker-python"]}"#
        );
        assert_eq!(WorkerSet::parse("g", "uid", &set.to_text()), Some(set));
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
    fn what_was_edited_into_nonsense_is_not_read() {
        for text in [
            "",
            "{}",
            "null",
            r#"{"next":1,"workers":"0-4"}"#,
            r#"{"next":9,"workers":"4-1"}"#,
            r#"{"next":9,"workers":"x"}"#,
        ] {
            assert_eq!(WorkerSet::parse("g", "uid", text), None, "{text}");
        }
    }

    #[test]
    fn a_lost_record_is_made_again_from_the_names() {
        let mut set = WorkerSet::empty("g", "uid");
        set.grow(6);
        without(&mut set, &[0, 2]);
        assert_eq!(WorkerSet::recover("g", "uid", None, set.names().into_iter()), set);
        set.adopt("g-worker-python");
        assert_eq!(WorkerSet::recover("g", "uid", None, set.names().into_iter()), set);
    }

    #[test]
    fn what_another_operator_made_of_the_workers_counts_and_no_ordinal_is_handed_out_again() {
        let mut set = WorkerSet::empty("g", "uid");
        set.grow(6);
        let text = without_workers(&set.to_text()).unwrap();
        assert_eq!((text.as_str(), WorkerSet::parse("g", "uid", &text)), (r#"{"next":6}"#, None));
        let names = [worker_name("g", "uid", 1), "g-worker-python".to_owned()];
        let mut set = WorkerSet::recover("g", "uid", Some(&text), names.iter().map(String::as_str));
        set.grow(3);
        assert_eq!(ordinals(&set), [1, 6]);
        assert_eq!(without_workers("odd"), None);
    }
}
