//! Dask objects that the Python operator holds.
//!
//! It keeps a finalizer on what it looks after. Once it is gone nobody heeds that, and nothing could be deleted: so it is
//! removed, first of all. If it comes back, the Python operator is still at work, and two that repair the same objects would
//! undo each other's work: nothing more is written, and the attempt is repeated now and then, until it stays away.

use std::time::Duration;

use super::{Pass, Pipeline, SubjectState};
use crate::{
    action::{Action, WriteError},
    dask::{Reconciler, cluster_kind},
    object::{NamespacedName, Object},
    retry::Retry,
    wanted::{Findings, Problem},
};

/// The finalizer of kopf, the Python operator's framework.
pub const KOPF_FINALIZER: &str = "kopf.zalando.org/KopfFinalizerMarker";

/// How soon a finalizer must come back to be the Python operator's doing, and how long it is let alone then. kopf puts it
/// back as soon as it sees that it is missing.
const TRUCE: Duration = Duration::from_secs(30);

impl Pipeline<'_> {
    /// Frees a subject from the Python operator. None: there is nothing to do, or not any more.
    pub(super) async fn take_over(
        &self,
        reconciler: Reconciler,
        subject: &Object,
        state: &mut SubjectState,
        now: u64,
    ) -> Option<Pass> {
        if reconciler == Reconciler::IdleShutdown && is_held(subject) || self.is_held_with_its_cluster(subject) {
            return Some(Pass { alive: !subject.is_being_deleted(), ..Pass::default() });
        }
        let position = subject.metadata.finalizers.iter().position(|finalizer| finalizer == KOPF_FINALIZER)?;
        let resource = self.observed.resource(&subject.kind)?;
        let is_known = state.uid == subject.metadata.uid;
        let truce = state.freed.filter(|_| is_known).and_then(|freed| {
            let since = Duration::from_millis(now.saturating_sub(freed));
            TRUCE.checked_sub(since).filter(|left| !left.is_zero())
        });
        if let Some(left) = truce.filter(|_| !self.environment.force_takeover && !subject.is_being_deleted()) {
            return Some(Pass {
                alive: true,
                requeue_after: Some(left),
                findings: Findings { facts: state.findings.facts.clone(), ..contested(subject).into() },
                ..Pass::default()
            });
        }
        if !is_known {
            *state = SubjectState { uid: subject.metadata.uid.clone(), ..SubjectState::default() };
        }
        state.freed = Some(now);
        let removal = Action::RemoveFinalizer {
            resource,
            object: subject.key(),
            uid: subject.metadata.uid.clone(),
            finalizer: KOPF_FINALIZER.to_owned(),
            position,
        };
        let alive = !subject.is_being_deleted();
        Some(match self.writes.write(removal).await {
            // What changed wakes the subject again.
            Ok(_) => Pass { alive, writes: 1, ..Pass::default() },
            Err(WriteError::Stale { .. }) => {
                Pass { alive, requeue_after: Some(Duration::from_secs(1)), ..Pass::default() }
            }
            Err(error) => {
                let problem = Problem::passing(error.kind(), format!("{}: {error}", subject.key()));
                let retry: Retry = state.backoff.fail(&subject.metadata.uid, None, None);
                Pass { alive, retry: Some(retry), findings: problem.into(), ..Pass::default() }
            }
        })
    }

    /// The Python operator looks after all of a cluster, or nothing of it; groups have no finalizer of their own.
    fn is_held_with_its_cluster(&self, subject: &Object) -> bool {
        let owner = subject.metadata.controller().filter(|owner| owner.kind == cluster_kind().kind);
        let at = |name: &str| NamespacedName { namespace: subject.metadata.namespace.clone(), name: name.to_owned() };
        let cluster = owner.and_then(|owner| self.observed.get(&cluster_kind(), &at(&owner.name)));
        cluster.is_some_and(|cluster| is_held(&cluster) && !self.environment.force_takeover)
    }
}

fn is_held(object: &Object) -> bool {
    object.metadata.finalizers.iter().any(|finalizer| finalizer == KOPF_FINALIZER)
}

fn contested(subject: &Object) -> Problem {
    let message = format!(
        "{}: the Python operator (dask-kubernetes) looks after it, too: its finalizer {KOPF_FINALIZER} was removed and came back. \
         Nothing is changed until it stops: uninstall its Helm release, or delete its Deployment; then this goes on by itself",
        subject.key()
    );
    Problem::passing("PythonOperatorActive", message)
}
