//! Whether reconciles get on, for the health check.
//!
//! Not how long they take: writes of a cluster with hundreds of workers, each tried until its time is over, take minutes, and
//! a restart would begin them anew.

use std::time::Duration;

use dask_wasm_operator_core::{
    action::{Action, WriteError, Written},
    object::{NamespacedName, ObjectKey, Resource},
    ports::{Mandate, Pending, Warrant, Writes},
};
use tokio::time::Instant;

use super::{Controller, Work};

/// A reconcile that shows nothing for so long is stuck: calls of plugins have shorter limits, as has each write when its
/// turn has come.
const PASS_LIMIT: Duration = Duration::from_secs(120);

/// A reconcile that is being made.
pub(super) struct Running {
    pub(super) begun: Instant,
    /// When it began, or a write of it was last answered.
    since: Instant,
    /// Its writes that are not answered.
    writes: usize,
}

impl Running {
    pub(super) fn new() -> Self {
        let now = Instant::now();
        Self { begun: now, since: now, writes: 0 }
    }

    /// Writes wait for each other. As long as any is `answered`, the turn of its own comes.
    fn is_stuck(&self, now: Instant, answered: Option<Instant>) -> bool {
        let waits_for_others = self.writes > 0 && answered.is_some_and(|answered| now <= answered + PASS_LIMIT);
        now > self.since + PASS_LIMIT && !waits_for_others
    }
}

/// The writes of a reconcile, which show that it gets on.
pub(super) struct ReconcileWrites<'a> {
    controller: &'a Controller,
    reconcile: (Work, NamespacedName),
    warrant: Warrant,
}

impl Controller {
    /// Reconciles that do not get on.
    pub(crate) fn stuck(&self) -> Vec<String> {
        let (inner, now) = (self.lock(), Instant::now());
        let stuck = inner.running.iter().filter(|(_, running)| running.is_stuck(now, inner.answered));
        stuck.map(|((work, at), _)| format!("{} {at}", work.label())).collect()
    }

    pub(super) fn writes(&self, work: Work, at: &NamespacedName, warrant: Warrant) -> ReconcileWrites<'_> {
        ReconcileWrites { controller: self, reconcile: (work, at.clone()), warrant }
    }
}

impl Writes for ReconcileWrites<'_> {
    fn write(&self, action: Action) -> Pending<'_, Result<Written, WriteError>> {
        self.write_under(action, Mandate::default())
    }

    fn write_under(&self, action: Action, mandate: Mandate) -> Pending<'_, Result<Written, WriteError>> {
        let mandate = Mandate { warrant: self.warrant.clone(), ..mandate };
        Box::pin(async move {
            if let Some(running) = self.controller.lock().running.get_mut(&self.reconcile) {
                running.writes += 1;
            }
            let result = self.controller.surroundings.writes.write_under(action, mandate).await;
            let (mut inner, now) = (self.controller.lock(), Instant::now());
            inner.answered = Some(now);
            if let Some(running) = inner.running.get_mut(&self.reconcile) {
                running.writes = running.writes.saturating_sub(1);
                running.since = now;
            }
            result
        })
    }

    fn is_gone(&self, resource: Resource, object: ObjectKey, uid: String) -> Pending<'_, Result<bool, WriteError>> {
        self.controller.surroundings.writes.is_gone(resource, object, uid)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reconcile_gets_on_as_long_as_writes_are_answered() {
        let begun = Instant::now();
        let after = |seconds| begun + Duration::from_secs(seconds);
        let thinks = Running { begun, since: begun, writes: 0 };
        assert!(!thinks.is_stuck(after(120), None));
        assert!(thinks.is_stuck(after(121), None));
        assert!(thinks.is_stuck(after(121), Some(after(121))), "what others write says nothing of it");
        let writes = Running { begun, since: begun, writes: 1 };
        assert!(!writes.is_stuck(after(600), Some(after(480))), "its turn comes");
        assert!(writes.is_stuck(after(601), Some(after(480))));
        assert!(writes.is_stuck(after(121), None));
    }
}
