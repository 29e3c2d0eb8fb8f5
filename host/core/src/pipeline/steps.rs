//! The steps of a reconcile, the same whoever decides:
//!
//! ```text
//! observe ─► decide ─► build ─► accept ─► plan ─► write ─► remember
//! ```
//!
//! Each takes what the one before has made. A step that ends the reconcile early breaks off with its report.

#[cfg(test)]
pub(super) mod as_json;

use std::ops::ControlFlow;

use super::{
    Report,
    execute::Done,
    trace::{Step, Trace},
};
use crate::{
    object::NamespacedName,
    plan::Plan,
    wanted::{Settled, Snapshot, Wanted},
};

/// What is wanted, as it may be applied.
#[cfg_attr(test, derive(serde::Serialize, serde::Deserialize))]
pub(super) struct Accepted {
    /// But for its children.
    pub(super) wanted: Wanted,
    /// None: no opinion on them.
    pub(super) children: Option<Vec<Settled>>,
}

/// A reconcile of one subject by one handler. It has the state that is remembered of both.
pub(super) trait Steps {
    /// What who decides has said.
    type Decision: Send;

    /// What there is of the subject.
    fn observe(&mut self, at: &NamespacedName) -> impl Future<Output = ControlFlow<Report, Snapshot>> + Send;

    /// Asks who decides.
    fn decide(&mut self, seen: &mut Snapshot) -> impl Future<Output = ControlFlow<Report, Self::Decision>> + Send;

    /// Has others change what was decided.
    fn build(&mut self, _seen: &Snapshot, decision: Self::Decision) -> impl Future<Output = Self::Decision> + Send {
        std::future::ready(decision)
    }

    /// Checks the decision, and how its children may be applied.
    fn accept(
        &mut self,
        seen: &Snapshot,
        decision: Self::Decision,
    ) -> impl Future<Output = ControlFlow<Report, Accepted>> + Send;

    /// What is to be written.
    fn plan(&mut self, seen: &Snapshot, accepted: &mut Accepted) -> ControlFlow<Report, Plan>;

    /// Writes it.
    fn write(&mut self, plan: Plan) -> impl Future<Output = Done> + Send;

    /// Keeps what the next reconcile has to know, and reports.
    fn remember(&mut self, seen: &Snapshot, accepted: Accepted, done: Done) -> impl Future<Output = Report> + Send;

    /// The same of a reconcile that ended early, or not, after its subject was observed.
    fn conclude(&mut self, report: Report) -> Report {
        report
    }
}

/// Runs the steps, each within the trace.
pub(super) async fn reconcile(mut steps: impl Steps + Send, at: &NamespacedName, trace: &impl Trace) -> Report {
    let seen = match trace.step(Step::Observe, steps.observe(at)).await {
        ControlFlow::Continue(seen) => seen,
        ControlFlow::Break(report) => return report,
    };
    let (ControlFlow::Continue(report) | ControlFlow::Break(report)) = after_observing(&mut steps, seen, trace).await;
    Report { alive: true, ..steps.conclude(report) }
}

async fn after_observing(
    steps: &mut (impl Steps + Send),
    mut seen: Snapshot,
    trace: &impl Trace,
) -> ControlFlow<Report, Report> {
    let decision = trace.step(Step::Decide, steps.decide(&mut seen)).await?;
    let decision = trace.step(Step::Build, steps.build(&seen, decision)).await;
    let mut accepted = trace.step(Step::Accept, steps.accept(&seen, decision)).await?;
    let plan = trace.step(Step::Plan, async { steps.plan(&seen, &mut accepted) }).await?;
    let done = trace.step(Step::Write, steps.write(plan)).await;
    ControlFlow::Continue(trace.step(Step::Remember, steps.remember(&seen, accepted, done)).await)
}
