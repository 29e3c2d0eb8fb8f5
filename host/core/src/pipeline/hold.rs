//! Nothing is written to a subject before it is ours.

use std::time::Duration;

use super::{Pipeline, Report, state::NativeState};
use crate::{
    action::WriteError,
    native::{Hold, Native},
    object::Object,
    wanted::{Findings, Problem},
};

impl<N: Native> Pipeline<'_, N> {
    /// Frees a subject from whoever holds it. None: it is ours.
    pub(super) async fn free(&self, native: N, subject: &Object, state: &mut NativeState, now: u64) -> Option<Report> {
        let alive = !subject.is_being_deleted();
        let removal = match native.hold(subject, self.observed, self.environment, now) {
            Hold::Ours => return None,
            Hold::Wait(left) => return Some(Report { alive, requeue_after: Some(left), ..Report::default() }),
            Hold::Contested(left, problem) => {
                let findings = Findings { facts: state.common.findings.facts.clone(), ..problem.into() };
                state.find(&findings);
                return Some(Report { alive, requeue_after: Some(left), findings, ..Report::default() });
            }
            Hold::Free(action) => action,
        };
        Some(match self.writes.write(removal).await {
            // What changed wakes the subject again.
            Ok(_) => Report { alive, writes: 1, ..Report::default() },
            Err(WriteError::Stale { .. } | WriteError::NotLeader | WriteError::Withdrawn) => {
                Report { alive, requeue_after: Some(Duration::from_secs(1)), ..Report::default() }
            }
            Err(error) => {
                let findings = Findings::from(Problem::passing(error.kind(), format!("{}: {error}", subject.key())));
                state.find(&findings);
                let retry = state.common.backoff.fail(&subject.metadata.uid, None, None);
                Report { alive, retry: Some(retry), findings, ..Report::default() }
            }
        })
    }
}
