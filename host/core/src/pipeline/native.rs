//! A pass of a reconciler of the operator.

use std::{collections::BTreeSet, sync::Arc};

use serde_json::Value;

use super::{Pass, Pipeline, execute::there, is_passing, state::NativeState, unreadable::unreadable};
use crate::{
    action::WriteError,
    contract::{EventNote, EventSeverity},
    names::end_of_pause,
    native::{Lookup, Native},
    object::{NamespacedName, Object},
    ownership::Author,
    wanted::{Findings, INVALID_NAME, Problem, Settled, Snapshot, target},
};

impl<N: Native> Pipeline<'_, N> {
    pub(super) async fn reconcile_native(
        &self,
        native: N,
        at: &NamespacedName,
        state: &mut NativeState,
        now: u64,
    ) -> Pass {
        let Some(subject) = self.observed.get(&native.subject(), at) else {
            *state = NativeState::default();
            return Pass::default();
        };
        state.is_about(&subject);
        if let Some(problem) = unreadable(&subject) {
            // Another reconciler of the same subject says it.
            let is_told = !native.traits().speaks_for_subject;
            if !is_told {
                state.await_reading(problem);
            }
            return Pass { alive: true, is_told, findings: state.common.findings.clone(), ..Pass::default() };
        }
        if let Some(pass) = self.free(native, &subject, state, now).await {
            return pass;
        }
        if subject.is_being_deleted() {
            *state = NativeState::default();
            return Pass::default();
        }
        Pass { alive: true, ..self.look_natively(native, &subject, state, now).await }
    }

    async fn look_natively(&self, native: N, subject: &Arc<Object>, state: &mut NativeState, now: u64) -> Pass {
        let was_paused = std::mem::replace(&mut state.paused, subject.is_paused());
        if state.paused && state.looked {
            let events = if was_paused { Vec::new() } else { told_of_pause(native) };
            return Pass { findings: state.common.findings.clone(), events, ..Pass::default() };
        }
        let manager = native.field_manager();
        let author = Author { manager: &manager, force: true, native: true, makes: N::makes };
        let mut seen = self.observe_native(native, subject, now);
        seen.replies = state.replies.clone();
        seen.facts = state.common.findings.facts.clone();
        // What depends on an object that can't be read waits for it.
        if let Some(problem) = seen.related.values().flatten().find_map(|other| Problem::with_other(other)) {
            state.await_reading(problem);
            return Pass { findings: state.common.findings.clone(), ..Pass::default() };
        }
        let there = there(&seen);
        state.common.memory.keep_only(&there);
        state.templates.keep_only(&there);
        let mut wanted = native.reconcile(&seen, self.environment);
        if !wanted.drafts.is_empty() {
            let drafts = match self.settle_children(std::mem::take(&mut wanted.drafts), &seen, author, state).await {
                Ok(drafts) => drafts,
                Err(error) => return unanswered(native, &seen, &error, state),
            };
            seen.outdated = Some(outdated(&drafts));
            wanted = native.reconcile(&seen, self.environment);
        }
        let settled = match wanted.children.take() {
            Some(children) => match self.settle_children(children, &seen, author, state).await {
                Ok(settled) => Some(settled),
                Err(error) => return unanswered(native, &seen, &error, state),
            },
            None => None,
        };
        let mut plan = self.plan(author, &state.common.memory, &seen, wanted.subject.as_ref(), settled);
        self.plan_fields(&manager, &state.common.memory, &wanted.fields, &mut plan);
        if native.traits().has_independent_children {
            plan.children.append(&mut plan.prunes);
        }
        if wanted.delete_subject {
            plan.subject_end = self.deletion(subject);
        }
        let mut findings = wanted.findings;
        findings.problems.append(&mut plan.problems);
        if native.traits().speaks_for_subject {
            findings.problems.extend(native.remarks(subject, now));
        }
        findings.outdated = Some(plan.outdated);
        state.looked = true;
        if state.paused {
            // Nothing was done, so nothing is remembered as done, and nothing is known of what only a write tells.
            findings.facts = Value::Null;
            findings.unknown.extend(TOLD_BY_WRITES);
            state.find(&findings);
            return Pass { findings, events: told_of_pause(native), ..Pass::default() };
        }
        let done = self.execute(plan, &mut state.common.memory).await;
        for error in &done.errors {
            match problem(native, &seen, error) {
                Some(problem) => findings.problems.push(problem),
                None => findings.unknown.extend(TOLD_BY_WRITES),
            }
        }
        if done.errors.iter().any(is_passing) {
            // The pass was cut off: what it did not get to is as it was.
            findings.keep(&state.common.findings.problems);
        }

        let retry = if done.errors.is_empty() {
            state.common.backoff.succeed();
            None
        } else {
            Some(state.common.backoff.fail_to_write(&subject.metadata.uid, &done.errors))
        };
        state.find(&findings);
        // What the record does not hold is neither done nor told.
        let (calls, events) = if done.is_recorded { (wanted.calls, wanted.events) } else { Default::default() };
        calls.iter().for_each(|(_, call)| state.replies.ask(call));
        Pass {
            writes: done.writes,
            retry,
            requeue_after: wanted.requeue_after,
            calls,
            events,
            is_told: native.is_told(&seen, &findings),
            findings,
            ..Pass::default()
        }
    }

    pub(super) fn observe_native(&self, native: N, subject: &Arc<Object>, now: u64) -> Snapshot {
        let mut seen = self.snapshot(subject, &native.children(), now);
        for (name, lookup) in native.lookups(subject, &seen.children) {
            let found = match lookup {
                Lookup::Named(kind, at) => self.observed.get(&kind, &at).into_iter().collect(),
                Lookup::ControlledBy(kind, uid) => self.observed.controlled_by(&kind, &uid),
            };
            seen.related.insert(name, found);
        }
        seen
    }
}

/// Nothing is done before it is known what would restart pods. Where that is nothing to be told, nothing was found out.
fn unanswered<N: Native>(native: N, seen: &Snapshot, error: &WriteError, state: &mut NativeState) -> Pass {
    let retry = state.common.backoff.fail_to_write(&seen.subject.metadata.uid, std::slice::from_ref(error));
    if let Some(problem) = problem(native, seen, error) {
        let mut findings = Findings { problems: vec![problem], ..state.common.findings.clone() };
        if is_passing(error) {
            findings.keep(&state.common.findings.problems);
        }
        state.find(&findings);
    }
    Pass { retry: Some(retry), findings: state.common.findings.clone(), ..Pass::default() }
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
    Some(Problem { reason, message: problem.message.clone() + &remedy, ..problem })
}
