//! Dask objects that the Python operator holds.
//!
//! It keeps a finalizer on what it looks after. Once it is gone nobody heeds that, and nothing could be deleted: so it is
//! removed before anything else is written. If it comes back, the Python operator is still at work, and two that repair the
//! same objects would undo each other's work: nothing more is written, and the attempt is repeated now and then, until it
//! stays away.

use std::{collections::BTreeMap, time::Duration};

use serde_json::{Map, Value};

use crate::{
    action::Action,
    dask::{
        annotations::TAKEN_OVER_AT,
        children::replicas::COPIED_REPLICAS,
        environment::Environment,
        kinds::cluster_kind,
        reconciler::Reconciler,
        workers::worker_set::{WORKER_ORDINALS, without_workers},
    },
    native::{Hold, Native as _},
    object::{NamespacedName, Object},
    ports::Observed,
    time::{self, epoch_millis, rfc3339},
    wanted::Problem,
};

/// The finalizer of kopf, the Python operator's framework.
pub const KOPF_FINALIZER: &str = "kopf.zalando.org/KopfFinalizerMarker";

/// How long the finalizer must stay away. kopf puts it back as soon as it sees that it is missing.
const PATIENCE: Duration = Duration::from_secs(5);

/// How long it is let alone when it has come back.
const TRUCE: Duration = Duration::from_secs(30);

/// Whose an object is.
enum Holder {
    Ours,
    /// The Python operator's, as far as is known.
    Theirs,
    /// Freed, and to be watched for so long.
    Watched(Duration),
    /// Freed, and taken back; to be let alone for so long.
    TakenBack(Duration),
}

impl Holder {
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

/// Whether a subject may be written to.
pub(super) fn hold(
    reconciler: Reconciler,
    subject: &Object,
    observed: &dyn Observed,
    environment: &Environment,
    now: u64,
) -> Hold {
    let is_ending = subject.is_being_deleted();
    // The cluster's own reconciler frees it.
    let own = if reconciler.traits().speaks_for_subject { Holder::of(subject, now) } else { Holder::Ours };
    match own {
        Holder::Ours if is_ending => return Hold::Ours,
        // The Python operator looks after all of a cluster or nothing of it.
        Holder::Ours => {
            return match by_cluster(reconciler, subject, observed, environment, now) {
                Holder::Ours => Hold::Ours,
                Holder::Watched(left) | Holder::TakenBack(left) => Hold::Wait(left),
                Holder::Theirs => Hold::Wait(PATIENCE),
            };
        }
        Holder::Watched(_) if is_ending || environment.force_takeover => return Hold::Ours,
        Holder::Watched(left) => return Hold::Wait(left),
        Holder::TakenBack(left) if !is_ending && !environment.force_takeover => {
            return Hold::Contested(left, contested(subject));
        }
        Holder::Theirs | Holder::TakenBack(_) => {}
    }
    removal(subject, observed, now).map_or(Hold::Ours, Hold::Free)
}

/// Whether a subject is ours, as far as its cluster decides that: groups and jobs have no finalizer of kopf, and what is done
/// for a cluster is not begun before the cluster is ours.
pub(super) fn is_ours_by_cluster(
    reconciler: Reconciler,
    subject: &Object,
    observed: &dyn Observed,
    environment: &Environment,
    now: u64,
) -> bool {
    matches!(by_cluster(reconciler, subject, observed, environment, now), Holder::Ours)
}

fn by_cluster(
    reconciler: Reconciler,
    subject: &Object,
    observed: &dyn Observed,
    environment: &Environment,
    now: u64,
) -> Holder {
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
    match at.and_then(|at| observed.get(&cluster_kind(), &at)) {
        Some(cluster) if !environment.force_takeover => Holder::of(&cluster, now),
        _ => Holder::Ours,
    }
}

fn removal(subject: &Object, observed: &dyn Observed, now: u64) -> Option<Action> {
    let mut annotations: BTreeMap<_, _> = subject.metadata.annotations.clone();
    annotations.insert(TAKEN_OVER_AT.to_owned(), rfc3339(now));
    Some(Action::RemoveFinalizer {
        resource: observed.resource(&subject.kind)?,
        object: subject.key(),
        uid: subject.metadata.uid.clone(),
        resource_version: subject.metadata.resource_version.clone(),
        position: position(subject)?,
        annotations,
    })
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
