//! Which workers a group has: a set of ordinals, handed out before a worker is made and recorded on the group.
//!
//! A worker's name follows from the group's uid and its ordinal, so making it twice is making it once. Ordinals are never
//! handed out again: a scheduler remembers the names of the workers that it retired (dask-kubernetes issue 855).

use std::{collections::BTreeSet, fmt::Write};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::fields::hex;

/// Annotation on a DaskWorkerGroup that records the set.
pub(super) const WORKER_ORDINALS: &str = "operator.dask.org/worker-ordinals";

/// How many ordinals are tried when the record is lost and is made again from the names of the workers.
const RECOVERY_BOUND: u32 = 100_000;

/// Ten hexadecimal digits, as in the Python operator's worker names.
const SUFFIX_DIGITS: usize = 10;

/// The workers of a group.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Ordinals {
    /// The next one to be handed out.
    next: u32,
    /// Those that exist, or are about to.
    workers: BTreeSet<u32>,
}

/// The record as it is stored: `{"next": 10, "workers": "0-4,7"}`.
#[derive(Serialize, Deserialize)]
struct Record {
    next: u32,
    workers: String,
}

impl Ordinals {
    /// From the annotation; none if it can't be read.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let record: Record = serde_json::from_str(text).ok()?;
        let mut workers = BTreeSet::new();
        for range in record.workers.split(',').filter(|range| !range.is_empty()) {
            let (first, last) = range.split_once('-').unwrap_or((range, range));
            let (first, last): (u32, u32) = (first.parse().ok()?, last.parse().ok()?);
            if first > last || last >= record.next {
                return None;
            }
            workers.extend(first..=last);
        }
        Some(Self { next: record.next, workers })
    }

    /// From the names of the workers that exist.
    pub(super) fn recover<'a>(group_uid: &str, names: impl Iterator<Item = &'a str>) -> Self {
        let mut suffixes: BTreeSet<&str> =
            names.filter_map(|name| name.rsplit_once('-').map(|(_, suffix)| suffix)).collect();
        let mut found = Self::default();
        for ordinal in 0..RECOVERY_BOUND {
            if suffixes.is_empty() {
                break;
            }
            if suffixes.remove(suffix(group_uid, ordinal).as_str()) {
                found.workers.insert(ordinal);
                found.next = ordinal + 1;
            }
        }
        found
    }

    /// As the annotation holds it.
    pub(super) fn to_text(&self) -> String {
        let mut ranges = String::new();
        let mut workers = self.workers.iter().copied().peekable();
        while let Some(first) = workers.next() {
            let mut last = first;
            while let Some(following) = workers.next_if(|&following| following == last + 1) {
                last = following;
            }
            let comma = if ranges.is_empty() { "" } else { "," };
            let range = if first == last { first.to_string() } else { format!("{first}-{last}") };
            write!(ranges, "{comma}{range}").expect("writing to a string does not fail");
        }
        serde_json::to_string(&Record { next: self.next, workers: ranges })
            .expect("a record of a number and a text is JSON")
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = u32> {
        self.workers.iter().copied()
    }

    pub(super) fn len(&self) -> u32 {
        u32::try_from(self.workers.len()).unwrap_or(u32::MAX)
    }

    /// Hands out ordinals until there are `wanted`.
    pub(super) fn grow(&mut self, wanted: u32) {
        while self.len() < wanted {
            self.workers.insert(self.next);
            self.next = self.next.saturating_add(1);
        }
    }

    /// Takes ordinals back, in the order given, until there are `wanted`.
    pub(super) fn shrink(&mut self, wanted: u32, order: impl IntoIterator<Item = u32>) {
        for ordinal in order {
            if self.len() <= wanted {
                break;
            }
            self.workers.remove(&ordinal);
        }
    }
}

/// Name of a worker's Deployment.
pub(super) fn worker_name(group: &str, group_uid: &str, ordinal: u32) -> String {
    format!("{group}-worker-{}", suffix(group_uid, ordinal))
}

fn suffix(group_uid: &str, ordinal: u32) -> String {
    let digest = Sha256::digest(format!("{group_uid}:{ordinal}"));
    hex(&digest[..SUFFIX_DIGITS / 2])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_record_survives_writing_and_reading() {
        let mut ordinals = Ordinals::default();
        ordinals.grow(10);
        ordinals.shrink(7, [3, 0, 9]);
        ordinals.grow(8);
        assert_eq!(ordinals.to_text(), r#"{"next":11,"workers":"1-2,4-8,10"}"#);
        assert_eq!(Ordinals::parse(&ordinals.to_text()), Some(ordinals));
    }

    #[test]
    fn retired_ordinals_are_not_handed_out_again() {
        let mut ordinals = Ordinals::default();
        ordinals.grow(3);
        ordinals.shrink(1, [2, 1]);
        ordinals.grow(3);
        assert_eq!(ordinals.iter().collect::<Vec<_>>(), [0, 3, 4]);
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
            assert_eq!(Ordinals::parse(text), None, "{text}");
        }
    }

    #[test]
    fn a_lost_record_is_made_again_from_the_names() {
        let mut ordinals = Ordinals::default();
        ordinals.grow(6);
        ordinals.shrink(4, [0, 2]);
        let names: Vec<_> = ordinals.iter().map(|ordinal| worker_name("g", "uid", ordinal)).collect();
        assert_eq!(Ordinals::recover("uid", names.iter().map(String::as_str)), ordinals);
    }
}
