//! A subject that can't be read is there: what was made for it stays as it is until it can be read again, or goes.

use super::{Handler, MountedHandler, Pass, SubjectState};
use crate::{
    contract::EventNote,
    native::Native,
    object::Object,
    wanted::{Findings, Problem},
};

/// The pass over a subject that can't be read. None: it can, or it is on its way out, for which nothing of it has to be read.
pub(super) fn leave_unreadable<N: Native>(
    handler: &Handler<N>,
    subject: &Object,
    state: &mut SubjectState,
) -> Option<Pass> {
    let problem = Problem::with_subject(subject).filter(|_| !subject.is_being_deleted())?;
    state.is_about(subject);
    let mut pass = Pass { alive: true, ..Pass::default() };
    match handler {
        // Another reconciler of the same subject says it.
        Handler::Native(native) if !native.traits().speaks_for_subject => pass.is_told = true,
        Handler::Native(_) => state.await_reading(problem),
        Handler::Plugin(handler) => pass.events = event::<N>(handler, subject, &problem).into_iter().collect(),
    }
    Some(Pass { findings: state.findings.clone(), ..pass })
}

/// Subjects of the operator's own reconcilers say it in their status.
fn event<N: Native>(handler: &MountedHandler, subject: &Object, problem: &Problem) -> Option<EventNote> {
    let is_native = N::all().into_iter().any(|native| native.subject().same_kind(&subject.kind));
    (!is_native && handler.mounted.matches(subject)).then(|| problem.as_event())
}

impl SubjectState {
    /// Nothing is done before an object can be read. What was found out before is as true as it was.
    pub(super) fn await_reading(&mut self, problem: Problem) {
        let findings = Findings { problems: vec![problem], ..self.findings.clone() };
        self.find(&findings);
        self.looked = false;
    }
}
