//! The spans of a reconcile, and how long its steps take.
//!
//! ```text
//! reconcile ─┬─ observe
//!            ├─ decide ── call      (of a plugin)
//!            ├─ build … write
//!            └─ remember
//! ```
//!
//! All names stand here. Those of a subject begin with `subject.`: in a line of the log `name` is what the span itself is called.
//! Spans have the level of errors, so that every line that is written says whose it is, whatever is left out.

use std::sync::Arc;

use dask_wasm_operator_core::{
    contract::Call,
    native::Native as _,
    object::{NamespacedName, ObjectKey},
    pipeline::{Step, SubjectState, Trace},
    ports::{CallReport, Guest, Pending},
    queue::Slot,
};
use tokio::time::Instant;
use tracing::{Instrument as _, Span, error_span, field::Empty};

use super::{Controller, Work, mounted::Handlers};
use crate::{metrics::SUCCESS, telemetry::SPANS};

const UID: &str = "subject.uid";
const RESULT: &str = "result";

/// What is about to be done for a subject. `due` are its appointments.
pub(super) fn reconcile(
    work: &Work,
    at: &NamespacedName,
    due: &[Slot],
    state: &SubjectState,
    handlers: &Handlers,
) -> Span {
    error_span!(
        target: SPANS,
        "reconcile",
        handler = work.label(),
        subject.kind = kind_of(work, handlers),
        subject.namespace = at.namespace,
        subject.name = at.name,
        subject.uid = Empty,
        trigger = trigger(due),
        attempt = state.attempts().saturating_add(1),
    )
}

fn kind_of(work: &Work, handlers: &Handlers) -> Option<String> {
    match work {
        Work::Reconcile(reconciler) | Work::Publish(reconciler) => Some(reconciler.subject().kind),
        Work::Call(name) => handlers.get(name).map(|mounted| mounted.handler.subject.kind.kind.clone()),
    }
}

/// What a reconcile is for. Of several appointments the one that says most.
fn trigger(due: &[Slot]) -> &'static str {
    let is_due = |slot| due.contains(&slot);
    if is_due(Slot::Retry) {
        "retry"
    } else if is_due(Slot::Requeue) {
        "requeue"
    } else if is_due(Slot::Reminder) {
        "reminder"
    } else {
        "wake"
    }
}

/// The span of a step has its name, which has to be there when the program is compiled.
fn span_of(step: Step) -> Span {
    macro_rules! named {
        ($($step:ident $name:literal)*) => {
            match step {
                $(Step::$step => error_span!(target: SPANS, $name),)*
            }
        };
    }
    named! {
        Observe "observe"
        Decide "decide"
        Build "build"
        Accept "accept"
        Plan "plan"
        Write "write"
        Remember "remember"
    }
}

/// Follows one reconcile.
pub(super) struct ReconcileTrace<'a> {
    controller: &'a Controller,
    work: Work,
}

impl Controller {
    /// Follows what is done for a subject, from here on.
    pub(super) fn trace(&self, work: Work, subject: &ObjectKey) -> ReconcileTrace<'_> {
        self.identify(subject);
        ReconcileTrace { controller: self, work }
    }

    /// Says in the span which one of its name the subject is.
    pub(super) fn identify(&self, subject: &ObjectKey) {
        let span = Span::current();
        if !span.has_field(UID) {
            return;
        }
        if let Some(object) = self.surroundings.observed.get(&subject.kind, &subject.at) {
            span.record(UID, &object.metadata.uid);
        }
    }
}

impl Trace for ReconcileTrace<'_> {
    async fn step<F: Future<Output: Send> + Send>(&self, step: Step, work: F) -> F::Output {
        let begun = Instant::now();
        let whole = async {
            let done = work.await;
            tracing::debug!(duration = ?begun.elapsed(), "done");
            done
        };
        let done = whole.instrument(span_of(step)).await;
        let measure = || self.controller.surroundings.metrics.stepped(&self.work.label(), step.name(), begun.elapsed());
        match &self.work {
            Work::Call(name) => self.controller.while_mounted(name, measure),
            Work::Reconcile(_) | Work::Publish(_) => measure(),
        }
        done
    }
}

/// A guest of which each call has a span.
pub(crate) struct TracedGuest(pub(crate) Arc<dyn Guest>);

impl Guest for TracedGuest {
    fn call(&self, call: Call) -> Pending<'_, CallReport> {
        let span = error_span!(
            target: SPANS,
            "call",
            trigger = call.trigger.name(),
            redelivery = call.redelivery,
            attempt = call.attempt,
            result = Empty,
        );
        let called = async {
            let report = self.0.call(call).await;
            Span::current().record(RESULT, report.result.as_ref().err().map_or(SUCCESS, |error| error.kind()));
            report
        };
        Box::pin(called.instrument(span))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_span_of_a_step_has_the_name_of_the_step() {
        for step in Step::ALL {
            assert_eq!(span_of(step).metadata().map(|span| span.name()), Some(step.name()));
        }
    }

    #[test]
    fn of_several_appointments_the_retry_is_told() {
        assert_eq!(trigger(&[Slot::Delay]), "wake");
        assert_eq!(trigger(&[Slot::Requeue, Slot::Retry]), "retry");
        assert_eq!(trigger(&[Slot::Reminder, Slot::Requeue]), "requeue");
    }
}
