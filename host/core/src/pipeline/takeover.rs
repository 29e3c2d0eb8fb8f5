//! Dask objects that the Python operator holds.
//!
//! It keeps a finalizer on what it looks after. Once it is gone nobody heeds that, and nothing could be deleted: so it is
//! removed before anything else is written. If it comes back, the Python operator is still at work, and two that repair the
//! same objects would undo each other's work: nothing more is written, and the attempt is repeated now and then, until it
//! stays away.

use std::{collections::BTreeMap, time::Duration};

use super::{Pass, Pipeline, SubjectState};
use crate::{
    action::{Action, WriteError},
    dask::{Reconciler, cluster_kind},
    object::{NamespacedName, Object},
    time::{epoch_millis, rfc3339},
    wanted::{Findings, Problem},
};

/// The finalizer of kopf, the Python operator's framework.
pub const KOPF_FINALIZER: &str = "kopf.zalando.org/KopfFinalizerMarker";

/// When the finalizer was last removed, as RFC 3339.
const TAKEN_OVER_AT: &str = "operator.dask.org/taken-over-at";

/// How long the finalizer must stay away. kopf puts it back as soon as it sees that it is missing.
const PATIENCE: Duration = Duration::from_secs(5);

/// How long it is let alone when it has come back.
const TRUCE: Duration = Duration::from_secs(30);

/// Whose an object is.
enum Hold {
    Ours,
    /// The Python operator's, as far as is known.
    Theirs,
    /// Freed, and to be watched for so long.
    Watched(Duration),
    /// Freed, and taken back; to be let alone for so long.
    TakenBack(Duration),
}

impl Hold {
    fn of(object: &Object, now: u64) -> Self {
        let freed = object.metadata.annotations.get(TAKEN_OVER_AT).and_then(|time| epoch_millis(time));
        let left = |span: Duration| {
            let since = freed.map(|freed| Duration::from_millis(now.saturating_sub(freed)))?;
            span.checked_sub(since).filter(|left| !left.is_zero())
        };
        match (position(object), left(PATIENCE), left(TRUCE)) {
            (Some(_), _, Some(left)) => Self::TakenBack(left),
            (Some(_), _, None) => Self::Theirs,
            (None, Some(left), _) => Self::Watched(left),
            (None, None, _) => Self::Ours,
        }
    }
}

impl Pipeline<'_> {
    /// Frees a subject from the Python operator. None: it is ours.
    pub(super) async fn take_over(
        &self,
        reconciler: Reconciler,
        subject: &Object,
        state: &mut SubjectState,
        now: u64,
    ) -> Option<Pass> {
        let is_ending = subject.is_being_deleted();
        let alive = !is_ending;
        let later = |delay| Some(Pass { alive, requeue_after: Some(delay), ..Pass::default() });
        // The Python operator looks after all of a cluster or nothing of it. Groups have no finalizer, and a cluster has one.
        match self.cluster_of(reconciler, subject).map(|cluster| Hold::of(&cluster, now)) {
            None | Some(Hold::Ours) => {}
            _ if self.environment.force_takeover => {}
            Some(Hold::Watched(left)) => return later(left),
            Some(Hold::Theirs | Hold::TakenBack(_)) => return Some(Pass { alive, ..Pass::default() }),
        }
        match Hold::of(subject, now) {
            Hold::Ours => return None,
            Hold::Watched(_) if is_ending || self.environment.force_takeover => return None,
            Hold::Watched(left) => return later(left),
            Hold::TakenBack(left) if !is_ending && !self.environment.force_takeover => {
                let findings = Findings { facts: state.findings.facts.clone(), ..contested(subject).into() };
                return Some(Pass { alive, requeue_after: Some(left), findings, ..Pass::default() });
            }
            Hold::Theirs | Hold::TakenBack(_) => {}
        }
        let removal = self.removal(subject, now)?;
        Some(match self.writes.write(removal).await {
            // What changed wakes the subject again.
            Ok(_) => Pass { alive, writes: 1, ..Pass::default() },
            Err(WriteError::Stale { .. } | WriteError::NotLeader) => {
                Pass { alive, requeue_after: Some(Duration::from_secs(1)), ..Pass::default() }
            }
            Err(error) => {
                let problem = Problem::passing(error.kind(), format!("{}: {error}", subject.key()));
                let retry = state.backoff.fail(&subject.metadata.uid, None, None);
                Pass { alive, retry: Some(retry), findings: problem.into(), ..Pass::default() }
            }
        })
    }

    fn removal(&self, subject: &Object, now: u64) -> Option<Action> {
        let mut annotations: BTreeMap<_, _> = subject.metadata.annotations.clone();
        annotations.insert(TAKEN_OVER_AT.to_owned(), rfc3339(now));
        Some(Action::RemoveFinalizer {
            resource: self.observed.resource(&subject.kind)?,
            object: subject.key(),
            uid: subject.metadata.uid.clone(),
            resource_version: subject.metadata.resource_version.clone(),
            position: position(subject)?,
            annotations,
        })
    }

    /// The cluster that decides about a subject that does not decide by itself.
    fn cluster_of(&self, reconciler: Reconciler, subject: &Object) -> Option<std::sync::Arc<Object>> {
        let name = match reconciler {
            Reconciler::IdleShutdown => &subject.metadata.name,
            Reconciler::WorkerGroup => &subject.metadata.controller()?.name,
            Reconciler::Cluster | Reconciler::Job | Reconciler::Autoscaler => return None,
        };
        let at = NamespacedName { namespace: subject.metadata.namespace.clone(), name: name.clone() };
        self.observed.get(&cluster_kind(), &at)
    }
}

fn position(object: &Object) -> Option<usize> {
    object.metadata.finalizers.iter().position(|finalizer| finalizer == KOPF_FINALIZER)
}

fn contested(subject: &Object) -> Problem {
    let message = format!(
        "{}: the Python operator (dask-kubernetes) looks after it, too: its finalizer {KOPF_FINALIZER} was removed and came back. \
         Nothing is changed until it stops: uninstall its Helm release, or delete its Deployment; then this goes on by itself",
        subject.key()
    );
    Problem::passing("PythonOperatorActive", message)
}
