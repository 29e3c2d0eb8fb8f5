//! A pass of a Dask reconciler.

use std::{collections::BTreeSet, sync::Arc};

use super::{Pass, Pipeline, SubjectState, execute::adopt};
use crate::{
    action::WriteError,
    dask::{INVALID_NAME, Lookup, Reconciler, Settled, field_manager, settle},
    object::{NamespacedName, Object},
    wanted::{Problem, Snapshot, WantedChild, target},
};

impl Pipeline<'_> {
    pub(super) async fn reconcile_native(
        &self,
        reconciler: Reconciler,
        subject: &Arc<Object>,
        state: &mut SubjectState,
        now: u64,
    ) -> Pass {
        if subject.is_paused() {
            return Pass::default();
        }
        let manager = field_manager(reconciler);
        let mut seen = self.observe_native(reconciler, subject, now);
        seen.replies = state.replies.clone();
        seen.facts = state.findings.facts.clone();
        self.forget_lost_children(state, &seen);
        let mut wanted = reconciler.reconcile(&seen, self.environment);
        if !wanted.drafts.is_empty() {
            let drafts = self.settle_children(std::mem::take(&mut wanted.drafts), &seen, &manager);
            seen.outdated = Some(outdated(&drafts));
            wanted = reconciler.reconcile(&seen, self.environment);
        }
        let settled = wanted.children.take().map(|children| self.settle_children(children, &seen, &manager));
        let mut plan = self.plan(&manager, true, state, &seen, wanted.subject.as_ref(), settled.as_deref());
        self.plan_fields(&manager, state, &wanted.fields, &mut plan);
        if wanted.delete_subject {
            plan.subject_end = self.deletion(subject);
        }
        let mut findings = wanted.findings;
        findings.problems.append(&mut plan.problems);
        findings.outdated = plan.outdated;
        let done = self.execute(plan, state).await;
        findings.problems.extend(done.errors.iter().filter_map(|error| problem(reconciler, subject, error)));

        let retry = if done.errors.is_empty() {
            state.backoff.succeed();
            None
        } else {
            Some(state.backoff.fail(&subject.metadata.uid, None, None))
        };
        state.findings = findings.clone();
        Pass {
            writes: done.writes,
            retry,
            requeue_after: wanted.requeue_after,
            calls: wanted.calls,
            events: wanted.events,
            findings,
            ..Pass::default()
        }
    }

    /// Makes children the subject's, and compares their templates with the live ones.
    fn settle_children(&self, mut children: Vec<WantedChild>, seen: &Snapshot, manager: &str) -> Vec<Settled> {
        adopt(&mut children, &seen.subject);
        let settle = |child: WantedChild| {
            let live = self.live_child(&child, seen, manager);
            let (kind, name) = target(&child.object);
            // One that vanished from our watches may have lost only the label by which it is watched: that is put back and no
            // pod restarts. If it is gone, the precondition on its uid says so.
            let live = live.as_ref().or_else(|| seen.former_child(&kind, name)).map(Arc::as_ref);
            settle(child, live, manager)
        };
        children.into_iter().map(settle).collect()
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

fn outdated(settled: &[Settled]) -> BTreeSet<String> {
    let outdated = settled.iter().filter(|settled| matches!(settled, Settled::Outdated(_)));
    outdated.map(|settled| target(&settled.child().object).1.to_owned()).collect()
}

/// What a person should know of a failed write. That our view was old is none of their business.
fn problem(reconciler: Reconciler, subject: &Object, error: &WriteError) -> Option<Problem> {
    if matches!(error, WriteError::Stale { .. } | WriteError::NotLeader) {
        return None;
    }
    let (kind, name) = (&subject.kind.kind, &subject.metadata.name);
    let WriteError::Refused { object, message, .. } = error else {
        return Some(Problem::passing(error.kind(), format!("{kind} {name}: {error}")));
    };
    let section = reconciler.section(&object.kind);
    let (reason, remedy) = if message.contains("metadata.name:") {
        (INVALID_NAME, format!("; names are made from that of {kind} {name}: make it anew under another one"))
    } else if let Some(section) = section.filter(|_| is_about_what_cannot_change(message)) {
        let change = format!("{section} of {kind} {name}");
        (error.kind(), format!("; delete it to have it made anew with the new value, or undo the change in {change}"))
    } else {
        (error.kind(), section.map(|section| format!("; correct {section} of {kind} {name}")).unwrap_or_default())
    };
    Some(Problem::passing(reason, format!("{kind} {name}: {error}{remedy}")))
}

/// Whether the API server refuses a change because the field can't change: in the words of Kubernetes' validation of Services
/// (`clusterIPs`, `healthCheckNodePort`, `loadBalancerClass`) and Deployments (`selector`).
fn is_about_what_cannot_change(message: &str) -> bool {
    ["field is immutable", "may not change once set", "can not be unset"].iter().any(|words| message.contains(words))
}
