//! Dask objects that the Python operator holds.
//!
//! It keeps a finalizer on what it looks after. Once it is gone nobody heeds that, and nothing could be deleted: so it is
//! removed before anything else is written. If it comes back, the Python operator is still at work, and two that repair the
//! same objects would undo each other's work: nothing more is written, and the attempt is repeated now and then, until it
//! stays away.

use std::{collections::BTreeMap, time::Duration};

use serde_json::{Map, Value};

use super::{Pass, Pipeline, SubjectState};
use crate::{
    action::{Action, WriteError},
    dask::{COPIED_REPLICAS, Reconciler, TAKEN_OVER_AT, WORKER_ORDINALS, cluster_kind, without_workers},
    object::{NamespacedName, Object},
    time::{self, epoch_millis, rfc3339},
    wanted::{Findings, Problem},
};

/// The finalizer of kopf, the Python operator's framework.
pub const KOPF_FINALIZER: &str = "kopf.zalando.org/KopfFinalizerMarker";

/// How long the finalizer must stay away. kopf puts it back as soon as it sees that it is missing.
const PATIENCE: Duration = Duration::from_secs(5);

/// How long it is let alone when it has come back.
const TRUCE: Duration = Duration::from_secs(30);

/// Whose an object is.
pub(super) enum Hold {
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
        let left = |span: Duration| time::left(freed?, span, now);
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
        // The cluster's own reconciler frees it.
        let own = if reconciler == Reconciler::IdleShutdown { Hold::Ours } else { Hold::of(subject, now) };
        match own {
            Hold::Ours if is_ending => return None,
            // The Python operator looks after all of a cluster or nothing of it.
            Hold::Ours => match self.hold_by_cluster(reconciler, subject, now) {
                Hold::Ours => return None,
                Hold::Watched(left) | Hold::TakenBack(left) => return later(left),
                Hold::Theirs => return later(PATIENCE),
            },
            Hold::Watched(_) if is_ending || self.environment.force_takeover => return None,
            Hold::Watched(left) => return later(left),
            Hold::TakenBack(left) if !is_ending && !self.environment.force_takeover => {
                let findings = Findings { facts: state.findings.facts.clone(), ..contested(subject).into() };
                state.find(&findings);
                return Some(Pass { alive, requeue_after: Some(left), findings, ..Pass::default() });
            }
            Hold::Theirs | Hold::TakenBack(_) => {}
        }
        let removal = self.removal(subject, now)?;
        Some(match self.writes.write(removal).await {
            // What changed wakes the subject again.
            Ok(_) => Pass { alive, writes: 1, ..Pass::default() },
            Err(WriteError::Stale { .. } | WriteError::NotLeader | WriteError::Withdrawn) => {
                Pass { alive, requeue_after: Some(Duration::from_secs(1)), ..Pass::default() }
            }
            Err(error) => {
                let findings = Findings::from(Problem::passing(error.kind(), format!("{}: {error}", subject.key())));
                state.find(&findings);
                let retry = state.backoff.fail(&subject.metadata.uid, None, None);
                Pass { alive, retry: Some(retry), findings, ..Pass::default() }
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

    /// Whose a subject is, as far as its cluster decides that: groups and jobs have no finalizer of kopf, and what is done for a
    /// cluster is not begun before the cluster is ours.
    pub(super) fn hold_by_cluster(&self, reconciler: Reconciler, subject: &Object, now: u64) -> Hold {
        let name = match reconciler {
            Reconciler::Cluster => None,
            Reconciler::IdleShutdown | Reconciler::Job => Some(subject.metadata.name.clone()),
            // A new one belongs to its cluster before that owns it.
            Reconciler::WorkerGroup | Reconciler::Autoscaler => subject
                .field::<Value>("spec")
                .and_then(Result::ok)
                .and_then(|spec| spec.get("cluster").and_then(Value::as_str).map(str::to_owned)),
        };
        let at = name.map(|name| NamespacedName { namespace: subject.metadata.namespace.clone(), name });
        match at.and_then(|at| self.observed.get(&cluster_kind(), &at)) {
            Some(cluster) if !self.environment.force_takeover => Hold::of(&cluster, now),
            _ => Hold::Ours,
        }
    }
}

/// What becomes of an object's annotations when the Python operator takes over: a merge patch. What is recorded of numbers and
/// workers will be outdated after a return, and what is there counts then.
pub fn handed_back(annotations: &Map<String, Value>) -> Map<String, Value> {
    let records = [TAKEN_OVER_AT, COPIED_REPLICAS, WORKER_ORDINALS];
    let present = records.into_iter().filter_map(|name| Some((name, annotations.get(name)?)));
    let left = present.map(|(name, value)| {
        // No worker gets the name of one that has gone.
        let left = value.as_str().filter(|_| name == WORKER_ORDINALS).and_then(without_workers);
        (name.to_owned(), left.into())
    });
    left.collect()
}

fn position(object: &Object) -> Option<usize> {
    object.metadata.finalizers.iter().position(|finalizer| finalizer == KOPF_FINALIZER)
}

fn contested(subject: &Object) -> Problem {
    let message = format!(
        "{}: the Python operator (dask-kubernetes) manages it, too: its finalizer {KOPF_FINALIZER} was removed and \
         came back. Nothing is changed until the Python operator stops: uninstall its Helm release, or delete its \
         Deployment; this operator then continues by itself",
        subject.key()
    );
    Problem::passing("PythonOperatorActive", message)
}
