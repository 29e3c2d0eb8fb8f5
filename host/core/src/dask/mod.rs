//! The Dask reconcilers: what objects Dask's custom resources ask for, and what their status says.
//!
//! Pure functions from a snapshot; the pipeline does the rest, exactly as for a plugin. Names, labels, selectors, environment
//! and ports are those that clients of the Python operator rely on.

mod allocation;
mod annotations;
mod autoscaler;
mod cluster;
mod idle;
mod job;
mod metadata;
mod pod_spec;
mod pods;
mod poll;
mod registered;
mod remedy;
mod removal;
mod replicas;
mod scaling;
mod service;
mod status;
mod template;
mod update;
mod worker_set;
mod workergroup;

pub use allocation::WorkerAllocation;
pub use annotations::noted_time;
pub(crate) use annotations::{TAKEN_OVER_AT, unusable};
pub use idle::idle_since;
pub use metadata::{CLUSTER_NAME_LABEL, COMPONENT_LABEL, EXCLUDED_PREFIXES, WORKER_GROUP_NAME_LABEL};
pub use pod_spec::unknown_fields;
pub use pods::{SchedulerPod, pod_summary_kind, pod_summary_resource, scheduler_pod, summary};
pub(crate) use replicas::COPIED_REPLICAS;
pub use replicas::KOPF_LAST_HANDLED;
pub(crate) use status::INVALID_NAME;
pub use template::{TEMPLATE_HASH, TemplateAnswers, TemplateQuestion, settle};
pub use worker_set::WORKER_ORDINALS;
pub(crate) use worker_set::without_workers;

use std::time::Duration;

use serde::de::DeserializeOwned;
use serde_json::Value;

use self::remedy::Place;
use crate::{
    error::of_field,
    object::{GroupVersionKind, NamespacedName, Object, ObjectKey},
    quote::quote,
    spec::{DASK_AUTOSCALER, DASK_CLUSTER, DASK_GROUP, DASK_JOB, DASK_VERSION, DASK_WORKER_GROUP},
    wanted::{Findings, Problem, Snapshot, Wanted},
};

/// `operator.dask.org/paused: "true"` stops all writes for an object but that of its status.
pub const PAUSED: &str = "operator.dask.org/paused";

/// How to end that.
pub(crate) fn end_of_pause() -> String {
    format!("the annotation {PAUSED} pauses reconciliation; remove it to resume")
}

impl Object {
    /// See [`PAUSED`].
    pub(crate) fn is_paused(&self) -> bool {
        self.metadata.annotations.get(PAUSED).is_some_and(|value| value == "true")
    }
}

/// The native reconcilers. Each is a pure description and two pure functions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Reconciler {
    /// DaskCluster → scheduler Deployment and Service, default worker group.
    Cluster,
    /// DaskWorkerGroup → one Deployment per worker.
    WorkerGroup,
    /// DaskJob → DaskCluster and the pod that runs the job.
    Job,
    /// DaskAutoscaler → replicas of a DaskWorkerGroup, as its scheduler asks for.
    Autoscaler,
    /// DaskCluster with `idleTimeout` → its end, when its scheduler has had nothing to do for so long.
    IdleShutdown,
}

/// A lookup beyond the children of a subject. What it finds may change without waking the subject: whom a change concerns is
/// the controller's business.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Lookup {
    /// One object.
    Named(GroupVersionKind, NamespacedName),
    /// What the object of this uid controls.
    ControlledBy(GroupVersionKind, String),
}

/// Kubernetes' usual DNS domain.
pub const DEFAULT_CLUSTER_DOMAIN: &str = "cluster.local";

/// What holds for every subject of a process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Environment {
    /// The cluster's DNS domain, `cluster.local`.
    pub cluster_domain: String,
    /// How long a scheduler may be silent until surplus workers are removed without asking it.
    pub scale_down_deadline: Duration,
    /// Whether to write to objects that the Python operator looks after, too.
    pub force_takeover: bool,
    /// How many workers of a group are made at a time; none: all at once.
    pub worker_allocation: Option<WorkerAllocation>,
    /// Labels and annotations that begin so are not propagated to children.
    pub excluded_prefixes: Vec<String>,
}

impl Default for Environment {
    fn default() -> Self {
        Self {
            cluster_domain: DEFAULT_CLUSTER_DOMAIN.to_owned(),
            scale_down_deadline: Duration::from_secs(120),
            force_takeover: false,
            worker_allocation: None,
            excluded_prefixes: EXCLUDED_PREFIXES.map(str::to_owned).to_vec(),
        }
    }
}

/// Kind of a Deployment.
pub fn deployment_kind() -> GroupVersionKind {
    GroupVersionKind::new("apps", "v1", "Deployment")
}

/// Kind of a Service.
pub fn service_kind() -> GroupVersionKind {
    GroupVersionKind::new("", "v1", "Service")
}

/// Kind of a Pod.
pub fn pod_kind() -> GroupVersionKind {
    GroupVersionKind::new("", "v1", "Pod")
}

/// Kind of a DaskCluster.
pub fn cluster_kind() -> GroupVersionKind {
    GroupVersionKind::new(DASK_GROUP, DASK_VERSION, DASK_CLUSTER.kind)
}

/// The DaskCluster of this name beside an object.
fn cluster_key(beside: &Object, name: &str) -> ObjectKey {
    let at = NamespacedName { namespace: beside.metadata.namespace.clone(), name: name.to_owned() };
    ObjectKey { kind: cluster_kind(), at }
}

/// Kind of a DaskWorkerGroup.
pub fn worker_group_kind() -> GroupVersionKind {
    GroupVersionKind::new(DASK_GROUP, DASK_VERSION, DASK_WORKER_GROUP.kind)
}

/// Kind of a DaskJob.
pub fn job_kind() -> GroupVersionKind {
    GroupVersionKind::new(DASK_GROUP, DASK_VERSION, DASK_JOB.kind)
}

/// Kind of a DaskAutoscaler.
pub fn autoscaler_kind() -> GroupVersionKind {
    GroupVersionKind::new(DASK_GROUP, DASK_VERSION, DASK_AUTOSCALER.kind)
}

impl Reconciler {
    /// All of them.
    pub const ALL: [Self; 5] = [Self::Cluster, Self::WorkerGroup, Self::Job, Self::Autoscaler, Self::IdleShutdown];

    /// Short name, part of the field manager `dask-operator/<name>`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Cluster => "cluster",
            Self::WorkerGroup => "workergroup",
            Self::Job => "job",
            Self::Autoscaler => "autoscaler",
            Self::IdleShutdown => "idle-shutdown",
        }
    }

    /// Kind of the subjects.
    pub fn subject(self) -> GroupVersionKind {
        match self {
            Self::Cluster | Self::IdleShutdown => cluster_kind(),
            Self::WorkerGroup => worker_group_kind(),
            Self::Job => job_kind(),
            Self::Autoscaler => autoscaler_kind(),
        }
    }

    /// Kinds of the children.
    pub fn children(self) -> Vec<GroupVersionKind> {
        match self {
            Self::Cluster => vec![deployment_kind(), service_kind(), worker_group_kind()],
            Self::WorkerGroup => vec![deployment_kind()],
            Self::Job => vec![cluster_kind(), pod_kind()],
            Self::Autoscaler => Vec::new(),
            Self::IdleShutdown => vec![deployment_kind(), service_kind()],
        }
    }

    /// What to do about a child that is refused in these words, for these fields of it; none if nothing is known to help.
    pub(crate) fn remedy(
        self,
        seen: &Snapshot,
        child: &GroupVersionKind,
        words: &str,
        fields: &[String],
    ) -> Option<String> {
        let place = self.section(child).map(|section| self.place(seen, section));
        remedy::of_refusal(words, fields, child, place.as_ref())
    }

    /// Where a person wrote a section of the subject's spec.
    fn place(self, seen: &Snapshot, section: &str) -> Place {
        let cluster = if self == Self::WorkerGroup { seen.related_one(workergroup::CLUSTER) } else { None };
        Place::of(&seen.subject, section, cluster.map(AsRef::as_ref))
    }

    /// The part of the subject's spec that a child of this kind is made from.
    fn section(self, child: &GroupVersionKind) -> Option<&'static str> {
        match (self, child.kind.as_str()) {
            (Self::Cluster, "Deployment") => Some("spec.scheduler.spec"),
            (Self::Cluster, "Service") => Some("spec.scheduler.service"),
            (Self::Cluster, "DaskWorkerGroup") => Some("spec.worker"),
            (Self::WorkerGroup, "Deployment") => Some("spec.worker.spec"),
            (Self::Job, "DaskCluster") => Some("spec.cluster.spec"),
            (Self::Job, "Pod") => Some("spec.job.spec"),
            _ => None,
        }
    }

    /// Whether the status that it writes tells problems. That of jobs has no place for them: clients compare it.
    pub fn has_conditions(self) -> bool {
        !matches!(self, Self::Job | Self::IdleShutdown)
    }

    /// Whether `Available` is false with this reason because pods of the subject's own fail, and not because they are about to
    /// start. An autoscaler's reason is that of its cluster.
    pub(crate) fn has_failing_pods(self, reason: &str) -> bool {
        self != Self::Autoscaler && status::is_of_failing_pods(reason)
    }

    /// Whether what it does depends on the status of its subject and children, too.
    pub fn heeds_status(self) -> bool {
        matches!(self, Self::Job | Self::IdleShutdown)
    }

    /// Whether the subject's status says already what it should, as far as that is cheap to tell for a reconciler whose passes
    /// are many and change little.
    pub(crate) fn is_told(self, seen: &Snapshot, findings: &Findings) -> bool {
        self == Self::IdleShutdown && idle::is_told(seen, findings)
    }

    /// Whether its Events tell of what it does next, after which there may be nothing left to tell it on.
    pub fn announces(self) -> bool {
        self == Self::IdleShutdown
    }

    /// Whether each child stands for itself, so that one goes whatever becomes of the others.
    pub fn has_independent_children(self) -> bool {
        self == Self::WorkerGroup
    }

    /// What else it wants to see of a subject, by name.
    pub fn lookups(self, subject: &Object, children: &[std::sync::Arc<Object>]) -> Vec<(&'static str, Lookup)> {
        match self {
            Self::Cluster => cluster::lookups(subject, children),
            Self::WorkerGroup => workergroup::lookups(subject),
            Self::Autoscaler => autoscaler::lookups(subject),
            Self::Job | Self::IdleShutdown => Vec::new(),
        }
    }

    /// What is wanted.
    pub fn reconcile(self, seen: &Snapshot, environment: &Environment) -> Wanted {
        match self {
            Self::Cluster => cluster::reconcile(seen, environment),
            Self::WorkerGroup => workergroup::reconcile(seen, environment),
            Self::Job => job::reconcile(seen, environment),
            Self::Autoscaler => autoscaler::reconcile(seen),
            Self::IdleShutdown => idle::reconcile(seen),
        }
    }

    /// The subject's status, given what was observed and what the last pass left behind.
    pub fn status(self, seen: &Snapshot, findings: &Findings) -> Value {
        match self {
            Self::Cluster => status::cluster(seen, findings),
            Self::WorkerGroup => status::worker_group(seen, findings),
            Self::Job => job::status(seen),
            Self::Autoscaler => autoscaler::status(seen, findings),
            Self::IdleShutdown => idle::status(seen, findings),
        }
    }
}

/// The field manager of a native reconciler.
pub fn field_manager(reconciler: Reconciler) -> String {
    format!("dask-operator/{}", reconciler.name())
}

/// Decodes a subject's `spec`, naming the field that is wrong.
fn decode_spec<T: DeserializeOwned>(subject: &Object) -> Result<T, Problem> {
    let invalid = |path: &str, why: String| {
        let at = if path == "." { "spec".to_owned() } else { format!("spec.{path}") };
        let message = format!("{} {}: {at}: {why}; correct this field", subject.kind.kind, subject.metadata.name);
        Problem::permanent("InvalidSpec", message)
    };
    let Some(raw) = subject.fields.get("spec") else { return Err(invalid(".", "is missing".to_owned())) };
    let mut decoder = serde_json::Deserializer::from_str(raw.get());
    serde_path_to_error::deserialize(&mut decoder)
        .map_err(|error| invalid(&error.path().to_string(), quote(&of_field(error.inner()))))
}
