//! The steps of a reconcile, the same whoever decides:
//!
//! ```text
//! observe ─► decide ─► build ─► accept ─► plan ─► write ─► remember
//! ```
//!
//! Each takes what the one before has made. A step that ends the reconcile early breaks off with the pass.

#[cfg(test)]
pub(super) mod as_json;

use std::ops::ControlFlow;

use super::{
    Pass,
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
    fn observe(&mut self, at: &NamespacedName) -> impl Future<Output = ControlFlow<Pass, Snapshot>> + Send;

    /// Asks who decides.
    fn decide(&mut self, seen: &mut Snapshot) -> impl Future<Output = ControlFlow<Pass, Self::Decision>> + Send;

    /// Has others change what was decided.
    fn build(&mut self, _seen: &Snapshot, decision: Self::Decision) -> impl Future<Output = Self::Decision> + Send {
        std::future::ready(decision)
    }

    /// Checks the decision, and how its children may be applied.
    fn accept(
        &mut self,
        seen: &Snapshot,
        decision: Self::Decision,
    ) -> impl Future<Output = ControlFlow<Pass, Accepted>> + Send;

    /// What is to be written.
    fn plan(&mut self, seen: &Snapshot, accepted: &mut Accepted) -> ControlFlow<Pass, Plan>;

    /// Writes it.
    fn write(&mut self, plan: Plan) -> impl Future<Output = Done> + Send;

    /// Keeps what the next reconcile has to know, and reports.
    fn remember(&mut self, seen: &Snapshot, accepted: Accepted, done: Done) -> impl Future<Output = Pass> + Send;

    /// The same of a reconcile that ended early, or not, after its subject was observed.
    fn conclude(&mut self, pass: Pass) -> Pass {
        pass
    }
}

/// Runs the steps, each within the trace.
pub(super) async fn reconcile(mut steps: impl Steps + Send, at: &NamespacedName, trace: &impl Trace) -> Pass {
    let seen = match trace.step(Step::Observe, steps.observe(at)).await {
        ControlFlow::Continue(seen) => seen,
        ControlFlow::Break(pass) => return pass,
    };
    let (ControlFlow::Continue(pass) | ControlFlow::Break(pass)) = after_observing(&mut steps, seen, trace).await;
    Pass { alive: true, ..steps.conclude(pass) }
}

async fn after_observing(
    steps: &mut (impl Steps + Send),
    mut seen: Snapshot,
    trace: &impl Trace,
) -> ControlFlow<Pass, Pass> {
    let decision = trace.step(Step::Decide, steps.decide(&mut seen)).await?;
    let decision = trace.step(Step::Build, steps.build(&seen, decision)).await;
    let mut accepted = trace.step(Step::Accept, steps.accept(&seen, decision)).await?;
    let plan = trace.step(Step::Plan, async { steps.plan(&seen, &mut accepted) }).await?;
    let done = trace.step(Step::Write, steps.write(plan)).await;
    ControlFlow::Continue(trace.step(Step::Remember, steps.remember(&seen, accepted, done)).await)
}
