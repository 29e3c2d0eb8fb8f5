//! The end of what a handler is about: a subject that is gone or does not fit any more. What can't be removed then is told and
//! tried again, for ever: nobody else looks after it.

use std::sync::Arc;

use serde_json::json;

use super::{MountedHandler, tell};
use crate::{
    action::{Action, Apply, ApplyTarget, Precondition, WriteError},
    native::Native,
    object::{NamespacedName, ObjectKey},
    ownership::is_patched_by,
    pipeline::{Pipeline, Report, execute::Done, state::GuestState},
    plan::Plan,
    plugin::{Seen, decide},
    wanted::{Problem, Snapshot, SubjectPatch},
};

impl<N: Native> Pipeline<'_, N> {
    /// A subject that the handler is not about (any more): nothing is wanted for it.
    pub(super) async fn let_go(&self, handler: &MountedHandler, seen: &Snapshot, state: &mut GuestState) -> Report {
        state.let_go();
        let manager = handler.name.field_manager();
        let patched = is_patched_by(&seen.subject, &manager);
        let nothing = SubjectPatch { body: json!({"metadata": {}}), guarded: false };
        let plan = self.plan(
            handler.author(&manager, N::makes),
            &state.common.memory,
            seen,
            patched.then_some(&nothing),
            Some(Vec::new()),
        );
        let done = self.remove(handler, plan, state).await;
        if done.errors.is_empty() {
            *state = GuestState::default();
            return Report { writes: done.writes, ..Report::default() };
        }
        unfinished(handler, &seen.subject.key(), &done, state)
    }

    /// The subject is not seen any more: it is gone, or lost the labels by which it is watched. Nothing is wanted for it in
    /// either case. Whoever wants to hear of its end does if it is gone, once, as best as can be.
    pub(in crate::pipeline) async fn bury(
        &self,
        handler: &MountedHandler,
        at: &NamespacedName,
        state: &mut GuestState,
        now: u64,
    ) -> Report {
        if state.common.uid.is_empty() || self.observed.get(&handler.subject.kind, at).is_some() {
            return Report::default(); // Nothing is known of it, or it is on its way out: its end is another event.
        }
        let subject = ObjectKey { kind: handler.subject.kind.clone(), at: at.clone() };
        let withdrawal = state.patched.then(|| withdrawal(handler, &subject, &state.common.uid));
        let prunes = self.removal_of_children(handler, &state.common.uid);
        let plan = Plan { subject: withdrawal.into_iter().collect(), prunes, ..Plan::default() };
        let mut done = self.remove(handler, plan, state).await;
        let mut call = None;
        let delivery = decide(&handler.declaration.triggers, &state.cursors, Seen::Gone);
        if let Some(delivery) = &delivery
            && let Some(last_seen) = &delivery.old
        {
            match self.writes.is_gone(handler.subject.clone(), subject.clone(), state.common.uid.clone()).await {
                Ok(true) if done.errors.is_empty() => {
                    let seen = self.snapshot(last_seen, &handler.children, now);
                    let projected = handler.project(last_seen);
                    let about = self.call(handler, &seen, delivery, projected, state);
                    call = Some(handler.guest.call(about).await);
                }
                Ok(_) => {}
                Err(error) => done.errors.push(error),
            }
        }
        if !done.errors.is_empty() {
            return unfinished(handler, &subject, &done, state);
        }
        *state = GuestState::default();
        Report { call, writes: done.writes, ..Report::default() }
    }

    /// Removes children and withdraws patches, the ones whatever becomes of the others.
    async fn remove(&self, handler: &MountedHandler, plan: Plan, state: &mut GuestState) -> Done {
        let Plan { subject, prunes, .. } = plan;
        let (identity, memory) = (&handler.identity, &mut state.common.memory);
        let mut done = self.execute(Plan { prunes, ..Plan::default() }, identity, memory).await;
        let withdrawn = self.execute(Plan { subject, ..Plan::default() }, identity, memory).await;
        state.patched &= !withdrawn.is_recorded;
        done.writes += withdrawn.writes;
        done.errors.extend(withdrawn.errors);
        done.errors.retain(|error| !is_over(error));
        done
    }

    fn removal_of_children(&self, handler: &MountedHandler, uid: &str) -> Vec<Action> {
        let manager = handler.name.field_manager();
        let author = handler.author(&manager, N::makes);
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
        deletions.collect()
    }
}

/// Takes the handler's patches out of a subject that is not observed any more.
fn withdrawal(handler: &MountedHandler, subject: &ObjectKey, uid: &str) -> Action {
    let body = json!({
        "apiVersion": subject.kind.api_version(), "kind": subject.kind.kind,
        "metadata": {"name": subject.at.name},
    });
    Action::Apply(Apply {
        resource: handler.subject.clone(),
        object: subject.clone(),
        target: ApplyTarget::Object,
        manager: handler.name.field_manager(),
        precondition: Precondition::Uid(uid.to_owned()),
        body,
        force: false,
    })
}

/// Whether there is nothing left to be removed: the object is gone, or its namespace or kind.
fn is_over(error: &WriteError) -> bool {
    matches!(error, WriteError::Stale { .. } | WriteError::NotServed { .. } | WriteError::Refused { code: 404, .. })
}

/// What was made for the subject is still there.
fn unfinished(handler: &MountedHandler, subject: &ObjectKey, done: &Done, state: &mut GuestState) -> Report {
    let retry = state.common.backoff.fail_to_write(&state.common.uid, &done.errors);
    let errors = done.errors.iter().filter(|error| !matches!(error, WriteError::NotLeader | WriteError::Withdrawn));
    let problem = |error: &WriteError| {
        let (name, remedy) = (&handler.name, handler.identity.remedy(error));
        let message = format!(
            "{name}: children made for {subject}, which is gone or no longer selected, can't be deleted: {error}{remedy}"
        );
        Problem { waits_for: error.object().cloned(), ..Problem::passing(error.kind(), message) }
    };
    let problems = errors.map(problem).collect();
    Report { writes: done.writes, ..tell(state, problems, retry) }
}
