//! How many workers of a group may be made in a reconcile: never more at a time than there may be, and where batches are
//! set, not all at once.

use std::time::Duration;

use super::worker_set::WorkerSet;
use crate::{
    dask::{environment::WorkerAllocation, reconciler::Reconciler},
    native::Native as _,
    time::epoch_millis,
    wanted::Snapshot,
};

/// What may be made in this reconcile.
#[derive(Debug)]
pub(in crate::dask) struct Room {
    left: u32,
    /// When there is room again, if it is the batch that leaves none.
    pub(in crate::dask) next_batch: Option<Duration>,
}

impl Room {
    /// `most`: as many workers as there may be at once. Workers that were taken out of the set may still be there, after a
    /// crash or a failed deletion: their successors wait until they are gone, lest there are more than were asked for. So do
    /// those of workers that go in this reconcile: if the successors were refused (by a quota, say), the deletion would wait
    /// for them.
    pub(in crate::dask) fn of(
        seen: &Snapshot,
        set: &WorkerSet,
        most: u32,
        allocation: Option<&WorkerAllocation>,
    ) -> Self {
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
    pub(in crate::dask) fn take(&mut self) -> bool {
        let left = self.left.checked_sub(1);
        self.left = left.unwrap_or(0);
        left.is_some()
    }
}
