//! A pass of a Dask reconciler.

use std::sync::Arc;

use super::{Pass, Pipeline, SubjectState, execute::adopt};
use crate::{
    action::WriteError,
    dask::{Lookup, PAUSED, Reconciler, Settled, as_it_was, field_manager, settle},
    object::{NamespacedName, Object},
    wanted::{Findings, Problem, Snapshot, WantedChild, target},
};

impl Pipeline<'_> {
    pub(super) async fn reconcile_native(
        &self,
        reconciler: Reconciler,
        subject: &Arc<Object>,
        state: &mut SubjectState,
        now: u64,
    ) -> Pass {
        if subject.metadata.annotations.get(PAUSED).is_some_and(|value| value == "true") {
            return Pass::default();
        }
        let manager = field_manager(reconciler);
        let mut seen = self.observe_native(reconciler, subject, now);
        seen.replies = state.replies.clone();
        seen.facts = state.findings.facts.clone();
        self.forget_lost_children(state, &seen);
        let mut wanted = reconciler.reconcile(&seen, self.environment);
        let settled = wanted.children.take().map(|mut children| {
            adopt(&mut children, subject);
            children
                .into_iter()
                .map(|child| {
                    let live = self.live_child(&child, &seen, &manager);
                    settle_child(child, live.as_deref(), &seen, &manager)
                })
                .collect::<Vec<_>>()
        });
        let mut plan = self.plan(&manager, true, state, &seen, wanted.subject.as_ref(), settled.as_deref());
        self.plan_fields(&manager, state, &wanted.fields, &mut plan);
        if wanted.delete_subject {
            plan.subject_end = self.deletion(subject);
        }
        let Findings { mut problems, facts } = wanted.findings;
        problems.append(&mut plan.problems);
        let done = self.execute(plan, state).await;
        problems.extend(done.errors.iter().filter_map(|error| problem(reconciler, subject, error)));

        let retry = if done.errors.is_empty() {
            state.backoff.succeed();
            None
        } else {
            Some(state.backoff.fail(&subject.metadata.uid, None, None))
        };
        state.findings = Findings { problems: problems.clone(), facts: facts.clone() };
        Pass {
            writes: done.writes,
            retry,
            requeue_after: wanted.requeue_after,
            calls: wanted.calls,
            events: wanted.events,
            findings: Findings { problems, facts },
            ..Pass::default()
        }
    }

    /// The child as it is, also if somebody took its owner reference.
    fn live_child(&self, child: &WantedChild, seen: &Snapshot, manager: &str) -> Option<Arc<Object>> {
        let (kind, name) = target(&child.object);
        let at = NamespacedName { namespace: seen.subject.metadata.namespace.clone(), name: name.to_owned() };
        let ours = |live: &Arc<Object>| live.metadata.controller().is_none() && live.applied_by(manager).is_some();
        seen.child(&kind, name).cloned().or_else(|| self.observed.get(&kind, &at).filter(ours))
    }

    pub(super) fn observe_native(&self, reconciler: Reconciler, subject: &Arc<Object>, now: u64) -> Snapshot {
        let mut seen = self.snapshot(subject, &reconciler.children(), now);
        for (name, lookup) in reconciler.lookups(subject, &seen.children) {
            let found = match lookup {
                Lookup::Named(kind, at) => self.observed.get(&kind, &at).into_iter().collect(),
                Lookup::ControlledBy(kind, uid) => self.observed.controlled_by(&kind, &uid),
            };
            seen.related.insert(name, found);
        }
        seen
    }
}

fn settle_child(child: WantedChild, live: Option<&Object>, seen: &Snapshot, manager: &str) -> Settled {
    if live.is_some() {
        return settle(child, live, manager);
    }
    let (kind, name) = target(&child.object);
    let Some(former) = seen.former_child(&kind, name) else { return settle(child, None, manager) };
    match settle(child, Some(former), manager) {
        Settled::Outdated(child) => Settled::Apply(as_it_was(child, former)),
        settled => settled,
    }
}

/// What a person should know of a failed write. That our view was old is none of their business.
fn problem(reconciler: Reconciler, subject: &Object, error: &WriteError) -> Option<Problem> {
    if matches!(error, WriteError::Stale { .. } | WriteError::NotLeader) {
        return None;
    }
    let (kind, name) = (&subject.kind.kind, &subject.metadata.name);
    let remedy = match error {
        WriteError::Refused { object, .. } => match reconciler.section(&object.kind) {
            Some(section) => format!("; correct {section} of {kind} {name}"),
            None => String::new(),
        },
        _ => String::new(),
    };
    Some(Problem::passing(error.kind(), format!("{kind} {name}: {error}{remedy}")))
}
