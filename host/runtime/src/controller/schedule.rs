//! When a subject is worked on again, on the queue's clock.

use std::time::Duration;

use dask_wasm_operator_core::{
    object::NamespacedName,
    pipeline::Pass,
    retry::{PARKED_LONGEST, Retry},
};

use super::{Controller, Inner, Work};

/// What is due in a second or later is so at a tick, together with others: most of what a pass costs is to wake up for it.
pub(super) const TICK: Duration = Duration::from_millis(100);

impl Inner {
    /// Whether the time has come at which a handler asked to be called again.
    pub(super) fn take_requeue(&mut self, key: &(Work, NamespacedName), now: u64) -> bool {
        let is_due = self.requeues.get(key).is_some_and(|due| *due <= now);
        if is_due {
            self.requeues.remove(key);
        }
        is_due
    }
}

impl Controller {
    /// Keeps the appointment that a handler asked for: a call makes another one or none, whatever else woke the key leaves it.
    pub(super) fn appoint(&self, inner: &mut Inner, key: (Work, NamespacedName), pass: &Pass) {
        if pass.call.is_some() || !pass.alive {
            inner.requeues.remove(&key);
        }
        let delay = match pass.retry {
            None => pass.requeue_after,
            Some(Retry::Parked(delay)) => Some(delay),
            Some(Retry::After(_)) => None,
        };
        if let Some(delay) = delay {
            inner.requeues.insert(key.clone(), self.millis_after(delay));
        }
        if let Some(due) = inner.requeues.get(&key) {
            inner.queue.wake_at(key.0, key.1, *due);
        }
    }

    pub(super) fn schedule(&self, inner: &mut Inner, work: Work, at: &NamespacedName, pass: &Pass) {
        let delay = match pass.retry {
            Some(Retry::After(delay)) => Some(pass.requeue_after.map_or(delay, |requeue| requeue.min(delay))),
            Some(Retry::Parked(delay)) => Some(delay),
            // Who waits is woken; that it is not must not be the end of it.
            None if pass.findings.waits() => Some(pass.requeue_after.unwrap_or(PARKED_LONGEST).min(PARKED_LONGEST)),
            None => pass.requeue_after,
        };
        let due = delay.map(|delay| self.millis_after(delay));
        let key = (work, at.clone());
        if let Some(due) = due.into_iter().chain(inner.waiting.due(&key)).min() {
            inner.queue.wake_at(key.0, key.1, due);
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
