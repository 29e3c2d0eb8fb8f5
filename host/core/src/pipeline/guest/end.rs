//! The end of what a handler is about: a subject that is gone or does not fit any more, or a plugin that is removed.

use std::sync::Arc;

use serde_json::json;

use super::MountedHandler;
use crate::{
    action::{Action, Apply, ApplyTarget, WriteError},
    contract::Trigger,
    object::{NamespacedName, ObjectKey},
    ownership::is_patched_by,
    pipeline::{Pass, Pipeline, SubjectState, execute::Done},
    plan::Plan,
    wanted::{Snapshot, SubjectPatch},
};

impl Pipeline<'_> {
    /// A subject that the handler is not about (any more): nothing is wanted for it.
    pub(super) async fn let_go(&self, handler: &MountedHandler, seen: &Snapshot, state: &mut SubjectState) -> Pass {
        state.let_go();
        let manager = handler.name.field_manager();
        let patched = is_patched_by(&seen.subject, &manager);
        let nothing = SubjectPatch { body: json!({"metadata": {}}), guarded: false };
        let plan = self.plan(handler.author(&manager), state, seen, patched.then_some(&nothing), Some(Vec::new()));
        let done = self.execute(plan, state).await;
        if done.errors.is_empty() {
            state.backoff.succeed();
            return Pass { writes: done.writes, ..Pass::default() };
        }
        let retry = state.backoff.fail(&seen.subject.metadata.uid, None, None);
        Pass { writes: done.writes, retry: Some(retry), ..Pass::default() }
    }

    /// The subject is not seen any more: it is gone, or lost the labels by which it is watched. Nothing is wanted for it in
    /// either case. Whoever wants to hear of its end does if it is gone, once, as best as can be.
    pub(in crate::pipeline) async fn bury(
        &self,
        handler: &MountedHandler,
        at: &NamespacedName,
        state: &mut SubjectState,
        now: u64,
    ) -> Pass {
        if state.uid.is_empty() || self.observed.get(&handler.subject.kind, at).is_some() {
            return Pass::default(); // Nothing is known of it, or it is on its way out: its end is another event.
        }
        let subject = ObjectKey { kind: handler.subject.kind.clone(), at: at.clone() };
        let mut done = self.execute(self.removal_of_children(handler, &state.uid), state).await;
        if state.patched {
            let withdrawal = Plan { subject: vec![withdrawal(handler, &subject, &state.uid)], ..Plan::default() };
            let Done { writes, errors, .. } = self.execute(withdrawal, state).await;
            done.writes += writes;
            done.errors.extend(errors);
        }
        let mut call = None;
        if let Some(last_seen) = state.last_seen.clone() {
            match self.writes.is_gone(handler.subject.clone(), subject, state.uid.clone()).await {
                Ok(true) if !done.errors.iter().any(is_unsettled) => {
                    let seen = self.snapshot(&last_seen, &handler.children, now);
                    let deleted = Trigger::Deleted;
                    let projected = handler.project(&last_seen);
                    let about = self.call(handler, &seen, deleted, false, projected, state.backoff.attempts() + 1);
                    call = Some(handler.guest.call(about).await);
                }
                Ok(_) => {}
                Err(error) => done.errors.push(error),
            }
        }
        if done.errors.iter().any(is_unsettled) {
            let retry = state.backoff.fail(&state.uid, None, None);
            return Pass { writes: done.writes, retry: Some(retry), ..Pass::default() };
        }
        *state = SubjectState::default();
        Pass { call, writes: done.writes, ..Pass::default() }
    }

    fn removal_of_children(&self, handler: &MountedHandler, uid: &str) -> Plan {
        let manager = handler.name.field_manager();
        let author = handler.author(&manager);
        let children = handler.children.iter().flat_map(|kind| self.observed.controlled_by(kind, uid));
        let ours = children.filter(|child| author.made(child, uid) && !child.is_being_deleted());
        let deletions = ours.filter_map(|child: Arc<_>| {
            let resource = self.observed.resource(&child.kind)?;
            Some(Action::Delete {
                resource,
                object: child.key(),
                uid: child.metadata.uid.clone(),
                resource_version: None,
            })
        });
        Plan { prunes: deletions.collect(), ..Plan::default() }
    }
}

/// Takes the handler's patches out of a subject that is not observed any more.
fn withdrawal(handler: &MountedHandler, subject: &ObjectKey, uid: &str) -> Action {
    let body = json!({
        "apiVersion": subject.kind.api_version(), "kind": subject.kind.kind,
        "metadata": {"name": subject.at.name, "uid": uid},
    });
    Action::Apply(Apply {
        resource: handler.subject.clone(),
        object: subject.clone(),
        target: ApplyTarget::Object,
        manager: handler.name.field_manager(),
        body,
        force: false,
        creates: false,
    })
}

/// Whether it may come to another end if it is tried again. What is stale here is gone.
fn is_unsettled(error: &WriteError) -> bool {
    matches!(error, WriteError::NotLeader | WriteError::Unavailable { .. })
}
