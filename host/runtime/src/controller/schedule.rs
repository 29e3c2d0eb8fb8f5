//! When a subject is worked on again, on the queue's clock.

use std::time::Duration;

use dask_wasm_operator_core::{
    object::NamespacedName,
    pipeline::{Report, SubjectState},
    queue::Slot,
    retry::{PARKED_LONGEST, Retry},
};

use super::{Controller, Inner, Work};

/// What is due in a second or later is so at a tick, together with others: most of what a reconcile costs is to wake up for it.
pub(super) const TICK: Duration = Duration::from_millis(100);

impl Inner {
    /// Lets the state of a subject that is about to be worked on know which of its appointments are due.
    pub(super) fn take_due(&mut self, key: &(Work, NamespacedName), due: &[Slot], state: &mut SubjectState) {
        let is_reminded = due.contains(&Slot::Reminder) && self.take_reminder(key, state);
        if matches!(key.0, Work::Call(_)) && (is_reminded || due.contains(&Slot::Requeue)) {
            state.requeue();
        }
    }
}

impl Controller {
    /// Makes the appointments that a reconcile asks for. Where a plugin was not called, the one that it asked for before
    /// stands.
    pub(super) fn schedule(&self, inner: &mut Inner, work: &Work, at: &NamespacedName, report: &Report) {
        let retry = match report.retry {
            Some(Retry::After(delay)) => Some(report.requeue_after.map_or(delay, |requeue| requeue.min(delay))),
            Some(Retry::Parked(delay)) => Some(delay),
            // Who waits is woken; that it is not must not be the end of it.
            None if report.findings.waits() => Some(PARKED_LONGEST),
            None => None,
        };
        self.appoint(inner, work, at, Slot::Retry, retry);
        let is_call = matches!(work, Work::Call(_));
        let requeue = match report.retry {
            None => report.requeue_after,
            // A call that parks its subject asks for the next one.
            Some(Retry::Parked(delay)) if is_call => Some(delay),
            Some(_) => None,
        };
        if requeue.is_some() || report.call.is_some() || !report.alive || !is_call {
            self.appoint(inner, work, at, Slot::Requeue, requeue);
        }
    }

    fn appoint(&self, inner: &mut Inner, work: &Work, at: &NamespacedName, slot: Slot, after: Option<Duration>) {
        match after {
            Some(delay) => inner.queue.appoint(work.clone(), at.clone(), slot, self.millis_after(delay)),
            None => inner.queue.cancel(work, at, slot),
        }
    }

    pub(super) fn millis(&self) -> u64 {
        u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    pub(super) fn millis_after(&self, delay: Duration) -> u64 {
        let due = self.millis().saturating_add(u64::try_from(delay.as_millis()).unwrap_or(u64::MAX));
        let slack = if delay < TICK * 10 { 1 } else { u64::try_from(TICK.as_millis()).unwrap_or(1) };
        due.checked_next_multiple_of(slack).unwrap_or(due)
    }
}
