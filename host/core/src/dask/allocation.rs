//! How many workers of a group may be made in a pass: never more at a time than there may be, and where batches are set, not
//! all at once.

use std::{num::NonZeroU32, time::Duration};

use super::{Reconciler, worker_set::WorkerSet};
use crate::{native::Native as _, time::epoch_millis, wanted::Snapshot};

/// Workers are made in batches: the Python operator's `worker-allocation`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WorkerAllocation {
    /// So many workers of a group at a time.
    pub batch_size: NonZeroU32,
    /// No more than a batch within this time. Zero: the next batch follows at once.
    pub delay: Duration,
}

/// What may be made in this pass.
#[derive(Debug)]
pub(super) struct Room {
    left: u32,
    /// When there is room again, if it is the batch that leaves none.
    pub(super) next_batch: Option<Duration>,
}

impl Room {
    /// `most`: as many workers as there may be at once. Workers that were taken out of the set may still be there, after a crash
    /// or a failed deletion: their successors wait until they are gone, lest there are more than were asked for. So do those
    /// of workers that go in this pass: if the successors were refused (by a quota, say), the deletion would wait for them.
    pub(super) fn of(seen: &Snapshot, set: &WorkerSet, most: u32, allocation: Option<&WorkerAllocation>) -> Self {
        let manager = Reconciler::WorkerGroup.field_manager();
        let ours: Vec<_> = seen.children.iter().filter(|child| child.applied_by(&manager).is_some()).collect();
        if ours.iter().any(|child| !set.contains(&child.metadata.name) && !child.is_being_deleted()) {
            return Self { left: 0, next_batch: None };
        }
        let left = most.saturating_sub(u32::try_from(ours.len()).unwrap_or(u32::MAX));
        let Some(allocation) = allocation else { return Self { left, next_batch: None } };
        let created = ours.iter().filter_map(|child| epoch_millis(child.metadata.creation_timestamp.as_deref()?));
        let recent: Vec<_> = created.filter_map(|created| allocation.wait_after(created, seen.now)).collect();
        let batch = allocation.batch_size.get().saturating_sub(u32::try_from(recent.len()).unwrap_or(u32::MAX));
        Self { left: left.min(batch), next_batch: recent.into_iter().min() }
    }

    /// Takes room for one worker, if there is any.
    pub(super) fn take(&mut self) -> bool {
        let left = self.left.checked_sub(1);
        self.left = left.unwrap_or(0);
        left.is_some()
    }
}

impl WorkerAllocation {
    /// For how long a worker that was made then belongs to the present batch. Times of creation are in whole seconds: up to
    /// the next one later. A clock that differs from the API server's by more than the delay means that there is none.
    fn wait_after(&self, created: u64, now: u64) -> Option<Duration> {
        let delay = u64::try_from(self.delay.as_millis()).unwrap_or(u64::MAX);
        let end = created.saturating_add(999).saturating_add(delay);
        let left = end.checked_sub(now).filter(|left| (1..=delay.saturating_add(999)).contains(left))?;
        (delay > 0).then(|| Duration::from_millis(left))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_worker_belongs_to_the_batch_for_the_delay() {
        let seconds = |seconds| WorkerAllocation { batch_size: NonZeroU32::MIN, delay: Duration::from_secs(seconds) };
        for (delay, created, now, left) in [
            (10, 5_000, 5_000, Some(10_999)),
            (10, 5_000, 15_000, Some(999)),
            (10, 5_000, 15_999, None),
            (10, 5_000, 90_000, None),
            (10, 90_000, 5_000, None),
            (0, 5_000, 5_000, None),
        ] {
            let wait = seconds(delay).wait_after(created, now);
            assert_eq!(wait, left.map(Duration::from_millis), "{delay} s, made at {created}, now {now}");
        }
    }
}
