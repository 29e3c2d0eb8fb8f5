//! The Dask reconcilers: what objects Dask's custom resources ask for, and what their status says.
//!
//! Pure functions from a snapshot; the pipeline does the rest, exactly as for a plugin. Names, labels, selectors, environment
//! and ports are those that clients of the Python operator rely on.

mod annotations;
mod autoscaler;
mod children;
mod cluster;
mod environment;
mod in_memory;
mod job;
mod kinds;
mod naming;
mod pods;
mod poll;
mod reconciler;
mod remedy;
#[cfg(test)]
mod replayed;
mod status;
mod takeover;
mod workers;

pub use annotations::noted_time;
pub use children::{pod_spec::unknown_fields, replicas::KOPF_LAST_HANDLED};
pub use cluster::idle::idle_since;
pub use environment::{DEFAULT_CLUSTER_DOMAIN, EXCLUDED_PREFIXES, Environment, WorkerAllocation};
pub use in_memory::cluster_in_memory;
pub use kinds::{autoscaler_kind, cluster_kind, deployment_kind, job_kind, pod_kind, service_kind, worker_group_kind};
pub use naming::COMPONENT_LABEL;
pub use pods::{SchedulerPod, pod_summary_kind, pod_summary_resource, scheduler_pod, summary};
pub use reconciler::Reconciler;
pub use takeover::{KOPF_FINALIZER, handed_back};
pub use workers::worker_set::WORKER_ORDINALS;

use serde_json::Value;

use self::{cluster::idle, remedy::Place};
use crate::{
    native::{Hold, Native, Summary, Traits},
    object::{GroupVersionKind, Object},
    pipeline,
    ports::Observed,
    related::Lookup,
    wanted::{Findings, Problem, Snapshot, Wanted},
};

/// The pipeline with the Dask reconcilers.
pub type Pipeline<'a> = pipeline::Pipeline<'a, Reconciler>;

/// A Dask reconciler, or a handler of a plugin.
pub type Handler = pipeline::Handler<Reconciler>;

impl Reconciler {
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

    fn summaries() -> Vec<Summary> {
        vec![Summary { kind: pod_summary_kind(), of: pod_kind(), make: summary }]
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

    fn lookups(self, subject: &Object, observed: &dyn Observed) -> Vec<Lookup> {
        match self {
            Self::Cluster => cluster::lookups(subject, observed),
            Self::WorkerGroup => workers::lookups(subject),
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
            Self::WorkerGroup => workers::reconcile(seen, environment),
            Self::Job => job::reconcile(seen, environment),
            Self::Autoscaler => autoscaler::reconcile(seen),
            Self::IdleShutdown => idle::reconcile(seen),
        }
    }

    fn remarks(self, subject: &Object, now: u64) -> Vec<Problem> {
        annotations::unusable(subject, now).collect()
    }

    fn remedy(self, seen: &Snapshot, child: &GroupVersionKind, words: &str, fields: &[String]) -> Option<String> {
        let place = self.section(child).map(|section| Place::within(self, seen, section));
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
