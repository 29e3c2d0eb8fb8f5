//! The Dask reconcilers: what objects Dask's custom resources ask for, and what their status says.
//!
//! Pure functions from a snapshot; the pipeline does the rest, exactly as for a plugin. Names, labels, selectors, environment
//! and ports are those that clients of the Python operator rely on.

mod allocation;
mod annotations;
mod autoscaler;
mod cluster;
mod corrected;
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
mod takeover;
mod update;
mod worker_set;
mod workergroup;

pub use allocation::WorkerAllocation;
pub use annotations::noted_time;
pub use idle::idle_since;
pub use metadata::{CLUSTER_NAME_LABEL, COMPONENT_LABEL, EXCLUDED_PREFIXES, WORKER_GROUP_NAME_LABEL};
pub use pod_spec::unknown_fields;
pub use pods::{SchedulerPod, pod_summary_kind, pod_summary_resource, scheduler_pod, summary};
pub use replicas::KOPF_LAST_HANDLED;
pub use takeover::{KOPF_FINALIZER, handed_back};
pub use worker_set::WORKER_ORDINALS;
use worker_set::without_workers;

use std::{sync::Arc, time::Duration};

use serde::de::DeserializeOwned;
use serde_json::Value;

use self::remedy::Place;
use crate::{
    error::of_field,
    names::{PAUSED, end_of_pause},
    native::{Hold, Lookup, Native, Traits},
    object::{GroupVersionKind, NamespacedName, Object, ObjectKey},
    pipeline,
    ports::Observed,
    quote::quote,
    spec::{DASK_AUTOSCALER, DASK_CLUSTER, DASK_GROUP, DASK_JOB, DASK_VERSION, DASK_WORKER_GROUP},
    wanted::{Findings, Problem, Snapshot, Wanted},
};

/// The pipeline with the Dask reconcilers.
pub type Pipeline<'a> = pipeline::Pipeline<'a, Reconciler>;

/// A Dask reconciler, or a handler of a plugin.
pub type Handler = pipeline::Handler<Reconciler>;

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
}

impl Native for Reconciler {
    type Environment = Environment;

    fn all() -> Vec<Self> {
        Self::ALL.to_vec()
    }

    fn name(self) -> &'static str {
        match self {
            Self::Cluster => "cluster",
            Self::WorkerGroup => "workergroup",
            Self::Job => "job",
            Self::Autoscaler => "autoscaler",
            Self::IdleShutdown => "idle-shutdown",
        }
    }

    fn subject(self) -> GroupVersionKind {
        match self {
            Self::Cluster | Self::IdleShutdown => cluster_kind(),
            Self::WorkerGroup => worker_group_kind(),
            Self::Job => job_kind(),
            Self::Autoscaler => autoscaler_kind(),
        }
    }

    fn children(self) -> Vec<GroupVersionKind> {
        match self {
            Self::Cluster => vec![deployment_kind(), service_kind(), worker_group_kind()],
            Self::WorkerGroup => vec![deployment_kind()],
            Self::Job => vec![cluster_kind(), pod_kind()],
            Self::Autoscaler => Vec::new(),
            Self::IdleShutdown => vec![deployment_kind(), service_kind()],
        }
    }

    /// The status of jobs has no place for problems: clients compare it.
    fn traits(self) -> Traits {
        let usual = Traits {
            speaks_for_subject: true,
            has_conditions: true,
            heeds_status: false,
            announces: false,
            has_independent_children: false,
        };
        match self {
            Self::Cluster | Self::Autoscaler => usual,
            Self::WorkerGroup => Traits { has_independent_children: true, ..usual },
            Self::Job => Traits { has_conditions: false, heeds_status: true, ..usual },
            Self::IdleShutdown => Traits {
                speaks_for_subject: false,
                has_conditions: false,
                heeds_status: true,
                announces: true,
                ..usual
            },
        }
    }

    fn lookups(self, subject: &Object, children: &[Arc<Object>]) -> Vec<(&'static str, Lookup)> {
        match self {
            Self::Cluster => cluster::lookups(subject, children),
            Self::WorkerGroup => workergroup::lookups(subject),
            Self::Autoscaler => autoscaler::lookups(subject),
            Self::Job | Self::IdleShutdown => Vec::new(),
        }
    }

    fn hold(self, subject: &Object, observed: &dyn Observed, environment: &Environment, now: u64) -> Hold {
        takeover::hold(self, subject, observed, environment, now)
    }

    fn is_undisputed(self, subject: &Object, observed: &dyn Observed, environment: &Environment, now: u64) -> bool {
        takeover::is_ours_by_cluster(self, subject, observed, environment, now)
    }

    fn reconcile(self, seen: &Snapshot, environment: &Environment) -> Wanted {
        match self {
            Self::Cluster => cluster::reconcile(seen, environment),
            Self::WorkerGroup => workergroup::reconcile(seen, environment),
            Self::Job => job::reconcile(seen, environment),
            Self::Autoscaler => autoscaler::reconcile(seen),
            Self::IdleShutdown => idle::reconcile(seen),
        }
    }

    fn remarks(self, subject: &Object, now: u64) -> Vec<Problem> {
        annotations::unusable(subject, now).collect()
    }

    fn remedy(self, seen: &Snapshot, child: &GroupVersionKind, words: &str, fields: &[String]) -> Option<String> {
        let place = self.section(child).map(|section| self.place(seen, section));
        remedy::of_refusal(words, fields, child, place.as_ref())
    }

    fn status(self, seen: &Snapshot, findings: &Findings) -> Value {
        match self {
            Self::Cluster => status::cluster(seen, findings),
            Self::WorkerGroup => status::worker_group(seen, findings),
            Self::Job => job::status(seen),
            Self::Autoscaler => autoscaler::status(seen, findings),
            Self::IdleShutdown => idle::status(seen, findings),
        }
    }

    fn is_told(self, seen: &Snapshot, findings: &Findings) -> bool {
        self == Self::IdleShutdown && idle::is_told(seen, findings)
    }

    /// An autoscaler's reason is that of its cluster.
    fn has_failing_pods(self, reason: &str) -> bool {
        self != Self::Autoscaler && status::is_of_failing_pods(reason)
    }
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
