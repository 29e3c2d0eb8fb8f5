//! A reconcile by a reconciler of the operator.

use std::{borrow::Cow, collections::BTreeSet, ops::ControlFlow, sync::Arc};

use serde_json::Value;

use super::{
    Pipeline, Report,
    build::Decision,
    execute::{Done, there},
    is_passing,
    state::{NativeState, OfSubject as _},
    steps::{Accepted, Steps},
    unreadable::unreadable,
};
use crate::{
    action::WriteError,
    contract::{EventNote, EventSeverity},
    identity::Identity,
    names::end_of_pause,
    native::Native,
    object::{NamespacedName, Object},
    ownership::Author,
    plan::Plan,
    related::{Lookup, Related},
    wanted::{Findings, INVALID_NAME, Problem, Settled, Snapshot, Wanted, target},
};

/// A reconcile by a reconciler of the operator.
pub(super) struct NativeSteps<'a, N: Native> {
    pub(super) pipeline: &'a Pipeline<'a, N>,
    pub(super) native: N,
    pub(super) state: &'a mut NativeState,
    pub(super) now: u64,
}

impl<N: Native> NativeSteps<'_, N> {
    /// The reconcile ends here, with what was found before.
    fn rest(&self) -> Report {
        Report { findings: self.state.common.findings.clone(), ..Report::default() }
    }

    /// Nothing is done before it is known what would restart pods. Where that is nothing to be told, nothing was found out.
    fn unanswered(&mut self, seen: &Snapshot, error: &WriteError) -> Report {
        let common = &mut self.state.common;
        let retry = common.backoff.fail_to_write(&seen.subject.metadata.uid, std::slice::from_ref(error));
        if let Some(problem) = problem(self.native, seen, error) {
            let mut findings = Findings { problems: vec![problem], ..common.findings.clone() };
            if is_passing(error) {
                findings.keep(&common.findings.problems);
            }
            self.state.find(&findings);
        }
        Report { retry: Some(retry), ..self.rest() }
    }
}

impl<N: Native> Steps for NativeSteps<'_, N> {
    type Decision = Decision;

    async fn observe(&mut self, at: &NamespacedName) -> ControlFlow<Report, Snapshot> {
        let (pipeline, native) = (self.pipeline, self.native);
        let Some(subject) = pipeline.observed.get(&native.subject(), at) else {
            *self.state = NativeState::default();
            return ControlFlow::Break(Report::default());
        };
        self.state.is_about(&subject);
        if let Some(problem) = unreadable(&subject) {
            // Another reconciler of the same subject says it.
            let is_told = !native.traits().speaks_for_subject;
            if !is_told {
                self.state.await_reading(problem);
            }
            return ControlFlow::Break(Report { alive: true, is_told, ..self.rest() });
        }
        if let Some(report) = pipeline.free(native, &subject, self.state, self.now).await {
            return ControlFlow::Break(report);
        }
        if subject.is_being_deleted() {
            *self.state = NativeState::default();
            return ControlFlow::Break(Report::default());
        }
        let was_paused = std::mem::replace(&mut self.state.paused, subject.is_paused());
        if self.state.paused && self.state.looked {
            let events = if was_paused { Vec::new() } else { told_of_pause(native) };
            return ControlFlow::Break(Report { alive: true, events, ..self.rest() });
        }
        let mut seen = pipeline.observe_native(native, &subject, self.now);
        seen.replies = self.state.replies.clone();
        seen.facts = self.state.common.findings.facts.clone();
        // What depends on an object that can't be read waits for it.
        if let Some(problem) = seen.related.values().flatten().find_map(|other| Problem::with_other(other)) {
            self.state.await_reading(problem);
            return ControlFlow::Break(Report { alive: true, ..self.rest() });
        }
        let there = there(&seen);
        self.state.common.memory.keep_only(&there);
        self.state.templates.keep_only(&there);
        ControlFlow::Continue(seen)
    }

    async fn decide(&mut self, seen: &mut Snapshot) -> ControlFlow<Report, Decision> {
        let (pipeline, native) = (self.pipeline, self.native);
        let mut wanted = native.reconcile(seen, pipeline.environment);
        if !wanted.drafts.is_empty() {
            let (drafts, _) = pipeline.build(seen, std::mem::take(&mut wanted.drafts)).await;
            let manager = native.field_manager();
            match pipeline.settle_children(drafts, seen, author::<N>(&manager), self.state).await {
                Ok(drafts) => seen.outdated = Some(outdated(&drafts)),
                Err(error) => return ControlFlow::Break(self.unanswered(seen, &error)),
            }
            wanted = native.reconcile(seen, pipeline.environment);
        }
        ControlFlow::Continue(Decision { wanted, held_back: Vec::new() })
    }

    async fn build(&mut self, seen: &Snapshot, decision: Decision) -> Decision {
        let Decision { mut wanted, mut held_back } = decision;
        if let Some(children) = wanted.children.take() {
            let (built, waiting) = self.pipeline.build(seen, children).await;
            wanted.children = Some(built);
            held_back.extend(waiting);
        }
        Decision { wanted, held_back }
    }

    async fn accept(&mut self, seen: &Snapshot, decision: Decision) -> ControlFlow<Report, Accepted> {
        let Decision { mut wanted, held_back } = decision;
        let Some(children) = wanted.children.take() else {
            return ControlFlow::Continue(Accepted { wanted, children: None });
        };
        let manager = self.native.field_manager();
        match self.pipeline.settle_children(children, seen, author::<N>(&manager), self.state).await {
            Ok(mut settled) => {
                settled.extend(held_back);
                ControlFlow::Continue(Accepted { wanted, children: Some(settled) })
            }
            Err(error) => ControlFlow::Break(self.unanswered(seen, &error)),
        }
    }

    fn plan(&mut self, seen: &Snapshot, Accepted { wanted, children }: &mut Accepted) -> ControlFlow<Report, Plan> {
        let (pipeline, native) = (self.pipeline, self.native);
        let (manager, memory) = (native.field_manager(), &self.state.common.memory);
        let mut plan = pipeline.plan(author::<N>(&manager), memory, seen, wanted.subject.as_ref(), children.take());
        pipeline.plan_fields(&manager, memory, &wanted.fields, &mut plan);
        if native.traits().has_independent_children {
            plan.children.append(&mut plan.prunes);
        }
        if wanted.delete_subject {
            plan.subject_end = pipeline.deletion(&seen.subject);
        }
        let findings = &mut wanted.findings;
        findings.problems.append(&mut plan.problems);
        if native.traits().speaks_for_subject {
            findings.problems.extend(native.remarks(&seen.subject, self.now));
        }
        findings.outdated = Some(plan.outdated);
        self.state.looked = true;
        if self.state.paused {
            // Nothing was done, so nothing is remembered as done, and nothing is known of what only a write tells.
            findings.facts = Value::Null;
            findings.unknown.extend(TOLD_BY_WRITES.map(Cow::Borrowed));
            self.state.find(findings);
            return ControlFlow::Break(Report { events: told_of_pause(native), ..self.rest() });
        }
        ControlFlow::Continue(plan)
    }

    async fn write(&mut self, plan: Plan) -> Done {
        self.pipeline.execute(plan, &Identity::Operator, &mut self.state.common.memory).await
    }

    async fn remember(&mut self, seen: &Snapshot, accepted: Accepted, done: Done) -> Report {
        let (native, state) = (self.native, &mut *self.state);
        let Wanted { mut findings, calls, events, requeue_after, .. } = accepted.wanted;
        for error in &done.errors {
            match problem(native, seen, error) {
                Some(problem) => findings.problems.push(problem),
                None => findings.unknown.extend(TOLD_BY_WRITES.map(Cow::Borrowed)),
            }
        }
        if done.errors.iter().any(is_passing) {
            // The reconcile was cut off: what it did not get to is as it was.
            findings.keep(&state.common.findings.problems);
        }
        let backoff = &mut state.common.backoff;
        let retry = if done.errors.is_empty() {
            backoff.succeed();
            None
        } else {
            Some(backoff.fail_to_write(&seen.subject.metadata.uid, &done.errors))
        };
        state.find(&findings);
        // What the record does not hold is neither done nor told.
        let (calls, events) = if done.is_recorded { (calls, events) } else { Default::default() };
        calls.iter().for_each(|(_, call)| state.replies.ask(call));
        Report {
            writes: done.writes,
            retry,
            requeue_after,
            calls,
            events,
            is_told: native.is_told(seen, &findings),
            findings,
            ..Report::default()
        }
    }
}

fn author<N: Native>(manager: &str) -> Author<'_> {
    Author { manager, force: true, native: true, makes: N::makes }
}

impl<N: Native> Pipeline<'_, N> {
    /// What a native reconciler looks up of a subject beyond its children; nothing, if the subject is not there.
    pub fn lookups(&self, native: N, at: &NamespacedName) -> Vec<Lookup> {
        let subject = self.observed.get(&native.subject(), at);
        subject.map(|subject| native.lookups(&subject, self.observed)).unwrap_or_default()
    }

    pub(super) fn observe_native(&self, native: N, subject: &Arc<Object>, now: u64) -> Snapshot {
        let mut seen = self.snapshot(subject, &native.children(), now);
        for Lookup { name, related, .. } in native.lookups(subject, self.observed) {
            let found = match related {
                Related::Named(kind, at) => self.observed.get(&kind, &at).into_iter().collect(),
                Related::ControlledBy(kind, uid) => self.observed.controlled_by(&kind, &uid),
            };
            seen.related.insert(name.into(), found);
        }
        seen
    }
}

/// Reasons of problems that are found out by writing only: a name may be refused, too.
const TOLD_BY_WRITES: [&str; 7] = {
    let [foreign, conflict, forbidden, refused, unavailable, not_served] = WriteError::TOLD;
    [foreign, conflict, forbidden, refused, unavailable, not_served, INVALID_NAME]
};

/// Once, where several reconcilers have the same subjects.
fn told_of_pause<N: Native>(native: N) -> Vec<EventNote> {
    let note = EventNote { severity: EventSeverity::Normal, reason: "Paused".to_owned(), message: end_of_pause() };
    if native.traits().speaks_for_subject { vec![note] } else { Vec::new() }
}

fn outdated(settled: &[Settled]) -> BTreeSet<String> {
    let outdated = settled.iter().filter(|settled| matches!(settled, Settled::Outdated { .. }));
    outdated.map(|settled| target(&settled.child().object).1.to_owned()).collect()
}

/// What a person should know of a failed write. That our view was old is none of their business.
fn problem<N: Native>(native: N, seen: &Snapshot, error: &WriteError) -> Option<Problem> {
    if matches!(error, WriteError::Stale { .. } | WriteError::NotLeader | WriteError::Withdrawn) {
        return None;
    }
    let subject = &seen.subject;
    let (kind, name) = (&subject.kind.kind, &subject.metadata.name);
    let by = format!("{kind} {name}");
    let WriteError::Refused { object, message, fields, .. } = error else {
        return Some(Problem::of_write(by, error));
    };
    let is_about_its_name = fields.iter().any(|field| field == "metadata.name");
    let (reason, remedy) = if is_about_its_name || message.contains("metadata.name:") {
        let remedy = format!("names are made from that of {kind} {name}: recreate it under another name");
        (INVALID_NAME, Some(remedy))
    } else {
        (error.kind(), native.remedy(seen, &object.kind, message, fields))
    };
    let problem = Problem::of_write(by, error);
    let remedy = remedy.map(|remedy| format!("; {remedy}")).unwrap_or_default();
    Some(Problem { reason: reason.into(), message: problem.message.clone() + &remedy, ..problem })
}
