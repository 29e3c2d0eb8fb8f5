//! What is remembered between two looks at workers that are to go. Lost in a restart, which makes each wait begin anew.

use std::{collections::BTreeMap, time::Duration};

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{scheduler::Left, time::millis, wanted::Snapshot};

/// How long a worker that gets no more work is given to finish what it has begun. What it finishes later is lost, and computed
/// again.
const FINISHING: Duration = Duration::from_secs(30);

/// How long until a worker has told its scheduler whether it has begun anything: they do so every few seconds, the less often
/// the more there are.
const HEARTBEAT: Duration = Duration::from_secs(6);

/// After a longer time without a look (the group was paused, say) every wait begins anew.
const FORGOTTEN: Duration = Duration::from_secs(60);

/// Times in milliseconds since the Unix epoch; places are those of [`crate::scheduler::Replies`].
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct Memory {
    looked_at: u64,
    /// How many workers were too many at the last look.
    surplus: usize,
    /// What the scheduler was asked up to this place is too old: then there were fewer workers too many.
    pub(super) asked_from: u64,
    /// Since when the scheduler can't be asked, or does not answer.
    pub(super) silent_since: Option<u64>,
    /// Since when workers are not removed that may be at work under other names.
    pub(super) held_since: Option<u64>,
    /// Since when workers can't hand over what they hold because no other worker is left.
    pub(super) stranded_since: Option<u64>,
    /// The workers that get no more work, by Deployment.
    leaving: BTreeMap<String, Leaving>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Leaving {
    since: u64,
    /// The place of the scheduler's word by which it had finished what it had begun, or had had its time for it.
    finished: Option<u64>,
}

impl Memory {
    /// As it is at this look, at which so many workers are too many.
    pub(super) fn of(seen: &Snapshot, surplus: usize) -> Self {
        let mut memory = Self::deserialize(&seen.facts).unwrap_or_default();
        if seen.now.abs_diff(memory.looked_at) > millis(FORGOTTEN) {
            memory = Self::default();
        }
        if surplus > memory.surplus {
            memory.asked_from = seen.replies.last_place();
        }
        Self { looked_at: seen.now, surplus, ..memory }
    }

    /// As facts of a group.
    pub(super) fn to_facts(&self) -> Value {
        serde_json::to_value(self).expect("numbers and names are JSON")
    }

    /// The scheduler has said at `place` which workers get no more work, and what they have left.
    pub(super) fn note_leaving<'a>(&mut self, left: impl Iterator<Item = (&'a str, Left)>, place: u64) {
        let mut before = std::mem::take(&mut self.leaving);
        for (name, left) in left {
            let begin = Leaving { since: self.looked_at, finished: None };
            let mut leaving = before.remove(name).unwrap_or(begin);
            let patience = match left {
                Left::Nothing => Duration::ZERO,
                Left::Tasks { begun: false } => HEARTBEAT,
                Left::Tasks { begun: true } => FINISHING,
            };
            if self.looked_at.saturating_sub(leaving.since) >= millis(patience) {
                leaving.finished.get_or_insert(place);
            }
            self.leaving.insert(name.to_owned(), leaving);
        }
    }

    /// From which place on it can be asked whether a worker is empty, so that it stays so.
    pub(super) fn finished(&self, name: &str) -> Option<u64> {
        self.leaving.get(name)?.finished
    }

    /// Whether workers are given time to finish what they have begun.
    pub(super) fn is_waiting(&self) -> bool {
        self.leaving.values().any(|leaving| leaving.finished.is_none())
    }
}
