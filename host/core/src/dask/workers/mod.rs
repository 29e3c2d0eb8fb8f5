//! DaskWorkerGroup → one Deployment per worker.

mod allocation;
mod registered;
mod removal;
pub(in crate::dask) mod update;
pub(in crate::dask) mod worker_set;

use std::{cell::LazyCell, collections::BTreeMap, sync::Arc};

use serde::Deserialize;
use serde_json::{Value, json};

use self::{
    allocation::Room,
    removal::{Reach, Removal, Surplus, shrink},
    update::{Progress, rolling},
    worker_set::{Recorded, WORKER_ORDINALS, WORKERS_MAX, WorkerSet},
};
use crate::{
    contract::{EventNote, EventSeverity},
    dask::{
        children::{
            metadata::ChildMetadata,
            pod_spec::{pod_spec, with_variables},
        },
        environment::Environment,
        kinds::{cluster_key, cluster_kind, decode_spec, deployment_kind, service_kind},
        naming::{self, CLUSTER, CLUSTER_NAME_LABEL, COMPONENT_LABEL, WORKER_GROUP_NAME_LABEL},
        pods::{self, DeploymentStatus, Pods, corrected},
        reconciler::Reconciler,
    },
    names::check_label_value,
    native::Native as _,
    object::{NamespacedName, Object},
    ownership::maker,
    plugin::PLUGIN_LABEL,
    related::{Concern, Lookup, Related},
    scheduler::Scheduler,
    spec::DaskWorkerGroupSpec,
    wanted::{Findings, OnNewTemplate, Problem, Snapshot, SubjectPatch, Wanted, WantedChild},
};

/// The scheduler's Deployment and Service.
const SCHEDULER: &str = "scheduler";
const SCHEDULER_SERVICE: &str = "scheduler-service";

/// Set by Kubernetes' Deployment controller: how many templates a Deployment has had.
const REVISION: &str = "deployment.kubernetes.io/revision";

pub(in crate::dask) fn lookups(subject: &Object) -> Vec<Lookup> {
    /// All of the spec that counts here: it holds a pod's, which is not to be read each time.
    #[derive(Deserialize)]
    struct OfCluster {
        cluster: String,
    }
    let Some(Ok(OfCluster { cluster })) = subject.field("spec") else { return Vec::new() };
    let at = |name: String| NamespacedName { namespace: subject.metadata.namespace.clone(), name };
    let scheduler = at(naming::scheduler_name(&cluster));
    let cluster = at(cluster);
    // It says what is wrong with its own workers' pods.
    let pods =
        pods::lookup(&cluster).concerning(Concern::Status).labelled(WORKER_GROUP_NAME_LABEL, &subject.metadata.name);
    vec![
        Lookup::new(CLUSTER, Related::Named(cluster_kind(), cluster)).concerning(Concern::Reconcile),
        pods,
        Lookup::new(SCHEDULER, Related::Named(deployment_kind(), scheduler.clone())),
        Lookup::new(SCHEDULER_SERVICE, Related::Named(service_kind(), scheduler)),
    ]
}

pub(in crate::dask) fn reconcile(seen: &Snapshot, environment: &Environment) -> Wanted {
    match wanted(seen, environment) {
        Ok(wanted) => wanted,
        Err(problem) => Wanted { findings: problem.into(), ..Wanted::default() },
    }
}

fn checked_spec(subject: &Object) -> Result<DaskWorkerGroupSpec, Problem> {
    let group = subject.metadata.name.as_str();
    // As a name of an object it has no other characters than a label's value may have.
    check_label_value(group).map_err(|error| {
        let remedy = "recreate it under a name of at most 63 characters, because workers carry it as a label";
        Problem::permanent("InvalidName", format!("DaskWorkerGroup {group}: metadata.name {error}; {remedy}"))
    })?;
    let spec: DaskWorkerGroupSpec = decode_spec(subject)?;
    if spec.worker.replicas > WORKERS_MAX {
        let message = format!(
            "DaskWorkerGroup {group}: spec.worker.replicas is {}; a group has at most {WORKERS_MAX} workers: lower it, or spread \
             the workers over several groups",
            spec.worker.replicas
        );
        return Err(Problem::permanent("InvalidSpec", message));
    }
    Ok(spec)
}

fn wanted(seen: &Snapshot, environment: &Environment) -> Result<Wanted, Problem> {
    let spec = checked_spec(&seen.subject)?;
    if goes_with_its_cluster(seen, &spec) {
        return Ok(Wanted::default());
    }
    let cluster = owning_cluster(seen, &spec)?;
    let update = rolling(&seen.subject, spec.update_strategy.as_ref())?;
    let replicas = spec.worker.replicas;
    let on_new_template = if update.is_some() { OnNewTemplate::Replace } else { OnNewTemplate::Leave };
    let (pod, unknown_fields) = pod_spec(seen, "spec.worker.spec", &spec.worker.spec);
    let deployments = seen.children.iter().filter(|child| child.kind.same_kind(&deployment_kind()));
    let live: BTreeMap<_, _> = deployments.map(|live| (live.metadata.name.as_str(), live.as_ref())).collect();
    let exists = |name: &&str| live.contains_key(name);
    let pods = LazyCell::new(|| Pods::of(seen, Some("worker")));
    let worker = |name: &str| {
        let child = worker(seen, &spec, &pod, cluster, environment, name, on_new_template);
        match on_new_template {
            OnNewTemplate::Leave => corrected(child, live.get(name).copied(), &pods),
            OnNewTemplate::Replace | OnNewTemplate::Apply | OnNewTemplate::Renew => child,
        }
    };
    let (mut workers, lost_record) = workers(seen);
    if update.is_some() && seen.outdated.is_none() {
        let drafts: Vec<_> = workers.names().into_iter().filter(exists).map(worker).collect();
        if !drafts.is_empty() {
            return Ok(Wanted { drafts, ..Wanted::default() });
        }
    }

    let scheduler = scheduler(seen, &spec.cluster, cluster);
    let progress = update.and_then(|update| Progress::of(seen, &workers, &update, replicas));
    let surplus = match &progress {
        Some(progress) => progress.surplus(&workers),
        None => Surplus { wanted: replicas, only: None },
    };
    let removal = if is_taking_in(seen, &workers) {
        Removal::default()
    } else {
        shrink(seen, &mut workers, surplus, &scheduler, environment.scale_down_deadline)
    };
    let (size, most) = match &progress {
        Some(progress) => (progress.size(&workers), progress.most()),
        None => (replicas, replicas),
    };
    workers.grow(size);
    let mut room = Room::of(seen, &workers, most, environment.worker_allocation.as_ref());
    let names = workers.names();
    let children: Vec<_> = names.iter().filter(|name| exists(name) || room.take()).map(|name| worker(name)).collect();
    let next_batch = room.next_batch.filter(|_| children.len() < names.len());
    let mut patch = json!({"metadata": {"annotations": {WORKER_ORDINALS: workers.to_text()}}});
    if needs_owner(seen, cluster) {
        patch["metadata"]["ownerReferences"] = json!([cluster.as_owner()]);
    }
    let facts = removal.facts();
    let calls = match scheduler {
        Reach::At(scheduler) => removal.calls.into_iter().map(|call| (scheduler.clone(), call)).collect(),
        Reach::NeverRan | Reach::Missing(_) => Vec::new(),
    };
    Ok(Wanted {
        subject: Some(SubjectPatch { body: patch, guarded: true }),
        children: Some(children),
        calls,
        events: lost_record.into_iter().chain(removal.events).collect(),
        requeue_after: [removal.requeue_after, next_batch].into_iter().flatten().min(),
        findings: Findings {
            problems: removal.problems.into_iter().chain(unknown_fields).collect(),
            unknown: removal.unknown.into_iter().map(Into::into).collect(),
            facts,
            ..Findings::default()
        },
        ..Wanted::default()
    })
}

/// Its cluster is gone, and it is about to be: that is nobody's fault.
fn goes_with_its_cluster(seen: &Snapshot, spec: &DaskWorkerGroupSpec) -> bool {
    let owner = seen.subject.metadata.controller();
    let is_owned = owner.is_some_and(|owner| owner.kind == cluster_kind().kind && owner.name == spec.cluster);
    is_owned && seen.related_one(CLUSTER).is_none()
}

fn owning_cluster<'a>(seen: &'a Snapshot, spec: &DaskWorkerGroupSpec) -> Result<&'a Object, Problem> {
    let group = &seen.subject.metadata.name;
    let name = &spec.cluster;
    let Some(cluster) = seen.related_one(CLUSTER) else {
        let message = format!(
            "DaskWorkerGroup {group}: spec.cluster names {name}, which is no DaskCluster of this namespace; create it, or correct the name"
        );
        return Err(Problem::passing("ClusterNotFound", message).until(cluster_key(&seen.subject, name)));
    };
    if cluster.is_being_deleted() {
        let message = format!(
            "DaskWorkerGroup {group}: the DaskCluster {name} (spec.cluster) is being deleted, the group goes with it"
        );
        return Err(Problem::passing("ClusterDeleting", message).until(cluster.key()));
    }
    naming::check_name(name).map(|()| cluster.as_ref())
}

/// A group that was made by hand is owned by its cluster too, so that it goes with it. The reference of one that a handler
/// made, the default group say, is that handler's; a controller that is somebody else's stays.
fn needs_owner(seen: &Snapshot, cluster: &Object) -> bool {
    let made_by_cluster = seen.subject.applied_by(&Reconciler::Cluster.field_manager()).is_some();
    let controller = seen.subject.metadata.controller();
    !made_by_cluster
        && maker(&seen.subject, Reconciler::makes).is_none()
        && controller.is_none_or(|owner| owner.uid == cluster.metadata.uid)
}

/// The workers there are: the recorded ones, those that another operator made for this group, and those that are still there
/// although they were to go. And what is to be said if the record was not ours: it is written anew.
fn workers(seen: &Snapshot) -> (WorkerSet, Option<EventNote>) {
    let group = &seen.subject.metadata;
    let (name, uid) = (group.name.as_str(), group.uid.as_str());
    let is_worker = |child: &&Arc<Object>| {
        let label = |key: &str| child.metadata.labels.get(key).map(String::as_str);
        label(WORKER_GROUP_NAME_LABEL) == Some(name)
            && label(COMPONENT_LABEL) == Some("worker")
            && label(PLUGIN_LABEL).is_none()
    };
    let recover = |next| {
        let names = seen.children.iter().filter(is_worker).map(|child| child.metadata.name.as_str());
        WorkerSet::recover(name, uid, next, names)
    };
    let recorded = group.annotations.get(WORKER_ORDINALS).map(|text| Recorded::parse(name, uid, text));
    let (mut workers, lost_record) = match recorded {
        Some(Recorded::Workers(workers)) => (workers, None),
        Some(Recorded::Next(next)) => (recover(next), None),
        None => (recover(0), None),
        Some(Recorded::Unusable(why)) => (recover(0), Some(lost_record(name, why))),
    };
    let others =
        |child: &&Arc<Object>| is_worker(child) && !child.is_being_deleted() && !workers.contains(&child.metadata.name);
    let others: Vec<_> = seen.children.iter().filter(others).collect();
    for other in others {
        if !is_applied(other) {
            workers.adopt(&other.metadata.name);
        } else if DeploymentStatus::of(other).ready_replicas > 0 {
            // Taken out of the record when it had nothing to lose, and not deleted since, because of a crash or a failure: by
            // now it may have work.
            workers.adopt(&other.metadata.name);
            workers.retire(&other.metadata.name);
        }
    }
    (workers, lost_record)
}

fn lost_record(group: &str, why: &str) -> EventNote {
    let message = format!(
        "DaskWorkerGroup {group}: the annotation {WORKER_ORDINALS} was not written by the operator: {why}. The \
         operator rebuilds it from the workers that exist; names of workers that were removed before may be used again"
    );
    EventNote { severity: EventSeverity::Warning, reason: "RecordLost".to_owned(), message }
}

fn is_applied(worker: &Object) -> bool {
    worker.applied_by(&Reconciler::WorkerGroup.field_manager()).is_some()
}

/// Whether this reconcile takes in workers that another operator made. What is not ours yet would not be deleted, and be
/// taken in again: so none goes before the next reconcile.
fn is_taking_in(seen: &Snapshot, workers: &WorkerSet) -> bool {
    let is_new =
        |child: &Arc<Object>| workers.contains(&child.metadata.name) && !is_applied(child) && !child.is_being_deleted();
    seen.children.iter().any(is_new)
}

/// What there is of the group's scheduler. One that ran once may run again, or still, wherever its objects have gone: only
/// where none of its pods can ever have been ready, no worker has anything to lose.
fn scheduler(seen: &Snapshot, name: &str, cluster: &Object) -> Reach {
    let missing = |kind: &str| {
        let scheduler = naming::scheduler_name(name);
        Reach::Missing(format!("there is no {kind} {scheduler} of this cluster to reach the scheduler by"))
    };
    let Some(deployment) = seen.related_one(SCHEDULER) else { return missing("Deployment") };
    let pods = Pods::of(seen, Some(SCHEDULER));
    let status = DeploymentStatus::of(deployment);
    if !status.has_started() && is_first_revision(deployment) && pods.running_since(&deployment.metadata.name).is_none()
    {
        return Reach::NeverRan;
    }
    seen.related_one(SCHEDULER_SERVICE)
        .map_or_else(|| missing("Service"), |service| Reach::At(Scheduler::of(cluster, service)))
}

/// Whether the pods of a Deployment have all been made from its first template.
fn is_first_revision(deployment: &Object) -> bool {
    deployment.metadata.annotations.get(REVISION).is_none_or(|revision| revision == "1")
}

fn worker(
    seen: &Snapshot,
    spec: &DaskWorkerGroupSpec,
    pod: &Value,
    cluster: &Object,
    environment: &Environment,
    name: &str,
    on_new_template: OnNewTemplate,
) -> WantedChild {
    let group = &seen.subject.metadata;
    let metadata = ChildMetadata::new(
        environment.inherited(&group.labels),
        environment.inherited(&group.annotations),
        spec.worker.metadata.as_ref(),
    )
    .reserve([(CLUSTER_NAME_LABEL, &spec.cluster), (WORKER_GROUP_NAME_LABEL, &group.name), (COMPONENT_LABEL, "worker")])
    .complete(&environment.inherited(&cluster.metadata.labels))
    .without_istio();

    let address = environment.scheduler_address(&spec.cluster, group.namespace.as_deref());
    let variables = [("DASK_WORKER_NAME", name), ("DASK_SCHEDULER_ADDRESS", address.as_str())];
    let pod = with_variables(pod, &variables);
    let object = json!({
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": metadata.named(name),
        "spec": {
            "replicas": 1,
            "selector": {"matchLabels": metadata.labels()},
            "template": {"metadata": metadata.of_template(), "spec": pod},
        },
    });
    WantedChild { on_new_template, ..WantedChild::new(name, object) }
}
