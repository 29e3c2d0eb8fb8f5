//! What the status of a DaskCluster and a DaskWorkerGroup says: computed from what was observed, never carried along.

use std::{cmp::Reverse, collections::BTreeMap, sync::Arc};

use serde::Deserialize;
use serde_json::{Value, json};

use crate::{
    dask::{
        kinds::{deployment_kind, service_kind, worker_group_kind},
        naming::{CLUSTER, COMPONENT_LABEL, WORKERS, default_group_name, scheduler_name, worker_selector},
        pods::{DeploymentStatus, Pods, TroubleKind},
        reconciler::Reconciler,
        remedy::{Place, by_cause},
    },
    names::end_of_pause,
    object::Object,
    quote::{and_more, quote},
    spec::{
        ClusterPhase, Condition, ConditionStatus, DaskClusterSpec, DaskClusterStatus, DaskWorkerGroupSpec,
        DaskWorkerGroupStatus, Finding, UpdateStrategy, UpdateStrategyType,
    },
    wanted::{Findings, INVALID_NAME, Problem, Snapshot},
};

/// Problems that make a subject what clients call an error: only a change of the subject can help.
const ERRORS: [&str; 2] = [INVALID_NAME, "InvalidSpec"];

/// The reasons where pods can't be made.
const SCHEDULER_FAILED: &str = "SchedulerFailed";
const WORKERS_FAILED: &str = "WorkersFailed";

pub(super) fn cluster(seen: &Snapshot, findings: &Findings) -> Value {
    let name = seen.subject.metadata.name.as_str();
    let previous: DaskClusterStatus = previous(seen);
    let scheduler = seen.child(&deployment_kind(), &scheduler_name(name)).map(AsRef::as_ref);
    let service = seen.child(&service_kind(), &scheduler_name(name)).map(AsRef::as_ref);
    let group = seen.child(&worker_group_kind(), &default_group_name(name)).map(AsRef::as_ref);
    let workers = Workers::count(seen.related.get(WORKERS).map(Vec::as_slice).unwrap_or_default());
    let wanted = group.and_then(wanted_replicas).or_else(|| wanted_of_cluster(seen)).unwrap_or(0);

    let standing = findings.standing("Degraded", &previous.conditions).map(|condition| condition.reason.as_str());
    let mut reasons = findings.problems.iter().map(|problem| &*problem.reason).chain(standing);
    let exists = scheduler.is_some() && group.is_some() && service.is_some();
    let phase = if reasons.any(|reason| ERRORS.contains(&reason)) {
        ClusterPhase::Error
    } else if !exists {
        ClusterPhase::Created
    } else if service.is_some_and(waits_for_load_balancer) {
        ClusterPhase::Pending
    } else {
        ClusterPhase::Running
    };
    let group_status: DaskWorkerGroupStatus = group.and_then(|group| group.field("status")?.ok()).unwrap_or_default();
    let of_group = group_status.outdated_replicas.unwrap_or(0);
    let outdated = findings.outdated.map(|outdated| outdated.saturating_add(of_group)).or(previous.outdated_replicas);
    let outdated = outdated.unwrap_or(of_group);
    let update = has_rolling_update(seen).then_some(outdated);
    let available = scheduler_available(seen, scheduler);
    let mut findings = findings.clone();
    findings.problems.extend(without_pod(&available).into_iter().chain(problem_of_group(group_status)));
    let status = DaskClusterStatus {
        phase: Some(phase),
        conditions: conditions(
            seen,
            &previous.conditions,
            &findings,
            available,
            if exists && phase != ClusterPhase::Pending { progress(update, &workers, wanted) } else { creating() },
        ),
        observed_generation: seen.subject.metadata.generation,
        replicas: Some(workers.exist),
        ready_replicas: Some(workers.ready),
        outdated_replicas: Some(outdated),
        label_selector: Some(worker_selector(name, &default_group_name(name))),
        idle_since: None, // Another reconciler's.
    };
    json!(status)
}

pub(super) fn worker_group(seen: &Snapshot, findings: &Findings) -> Value {
    let previous: DaskWorkerGroupStatus = previous(seen);
    let outdated = findings.outdated.or(previous.outdated_replicas).unwrap_or(0);
    let update = has_rolling_update(seen).then_some(outdated);
    let workers = Workers::count(&seen.children);
    let spec = seen.subject.field::<DaskWorkerGroupSpec>("spec").and_then(Result::ok);
    // A number that can't be read asks for no change.
    let wanted = wanted_replicas(&seen.subject).unwrap_or(workers.exist);
    let cluster = spec.map(|spec| spec.cluster).unwrap_or_default();
    let mut findings = findings.clone();
    findings.problems.extend(without_pods(seen, &workers, wanted));
    let status = DaskWorkerGroupStatus {
        conditions: conditions(
            seen,
            &previous.conditions,
            &findings,
            workers_available(seen, &workers, wanted),
            progress(update, &workers, wanted),
        ),
        observed_generation: seen.subject.metadata.generation,
        replicas: Some(workers.exist),
        ready_replicas: Some(workers.ready),
        outdated_replicas: Some(outdated),
        label_selector: Some(worker_selector(&cluster, &seen.subject.metadata.name)),
    };
    json!(status)
}

pub(super) fn previous<T: serde::de::DeserializeOwned + Default>(seen: &Snapshot) -> T {
    seen.subject.field("status").and_then(Result::ok).unwrap_or_default()
}

fn wanted_replicas(group: &Object) -> Option<u32> {
    let spec: DaskWorkerGroupSpec = group.field("spec")?.ok()?;
    Some(spec.worker.replicas)
}

fn wanted_of_cluster(seen: &Snapshot) -> Option<u32> {
    let spec: DaskClusterSpec = seen.subject.field("spec")?.ok()?;
    Some(spec.worker.replicas)
}

/// What is wrong with a cluster's group is wrong with the cluster.
fn problem_of_group(group: DaskWorkerGroupStatus) -> Option<Problem> {
    let degraded = group.conditions.into_iter().find(|condition| condition.type_ == "Degraded");
    let degraded = degraded.filter(|condition| condition.status == ConditionStatus::True)?;
    Some(Problem::passing("WorkerGroupDegraded", degraded.message))
}

/// That no pod can be made for the scheduler is somebody's to correct, as what the API server refuses the operator itself.
fn without_pod((_, reason, message): &Finding) -> Option<Problem> {
    (reason == SCHEDULER_FAILED).then(|| Problem::passing(SCHEDULER_FAILED, message.clone()))
}

/// The same of workers.
fn without_pods(seen: &Snapshot, workers: &Workers, wanted: u32) -> Option<Problem> {
    let failure = failures(seen).into_iter().find(|failure| failure.kind.is_none() && workers.ready < wanted)?;
    let message = format!(
        "DaskWorkerGroup {}: {} of {wanted} workers: {}",
        seen.subject.metadata.name, failure.workers, failure.words
    );
    Some(Problem::passing(WORKERS_FAILED, message))
}

/// Whether outdated workers are replaced without anybody's doing.
fn has_rolling_update(seen: &Snapshot) -> bool {
    let spec: Value = seen.subject.field("spec").and_then(Result::ok).unwrap_or_default();
    let strategy = spec.get("updateStrategy").map(UpdateStrategy::deserialize).and_then(Result::ok);
    strategy.is_some_and(|strategy| strategy.type_ == UpdateStrategyType::RollingUpdate)
}

fn waits_for_load_balancer(service: &Object) -> bool {
    let field = |name: &str| service.field::<Value>(name).and_then(Result::ok).unwrap_or_default();
    let is_load_balancer = field("spec").get("type").and_then(Value::as_str) == Some("LoadBalancer");
    let ingress = field("status").pointer("/loadBalancer/ingress").and_then(Value::as_array).map_or(0, Vec::len);
    is_load_balancer && ingress == 0
}

/// Counts over worker Deployments.
struct Workers {
    exist: u32,
    ready: u32,
}

impl Workers {
    fn count(deployments: &[Arc<Object>]) -> Self {
        let mut workers = Self { exist: 0, ready: 0 };
        for deployment in workers_of(deployments) {
            workers.exist += 1;
            workers.ready += u32::from(DeploymentStatus::of(deployment).ready_replicas > 0);
        }
        workers
    }
}

fn workers_of(deployments: &[Arc<Object>]) -> impl Iterator<Item = &Arc<Object>> {
    deployments.iter().filter(|object| is_worker(object) && !object.is_being_deleted())
}

fn is_worker(object: &Object) -> bool {
    let component = object.metadata.labels.get(COMPONENT_LABEL);
    object.kind.same_kind(&deployment_kind()) && component.is_some_and(|component| component == "worker")
}

pub(super) fn scheduler_available(seen: &Snapshot, scheduler: Option<&Object>) -> Finding {
    let Some(scheduler) = scheduler else {
        return (
            ConditionStatus::False,
            "SchedulerMissing".to_owned(),
            "the scheduler's Deployment does not exist yet".to_owned(),
        );
    };
    let status = DeploymentStatus::of(scheduler);
    let place = || scheduler_place(seen);
    let name = scheduler.metadata.name.as_str();
    if status.available_replicas > 0 {
        let message = format!("the scheduler (Deployment {name}) is available");
        (ConditionStatus::True, "SchedulerAvailable".to_owned(), message)
    } else if let Some(failure) = status.failure() {
        let message =
            format!("no pod can be made for Deployment {name}: {}{}", quote(failure), remedied(failure, &place()));
        (ConditionStatus::False, SCHEDULER_FAILED.to_owned(), message)
    } else if let Some((pod, trouble)) = Pods::of(seen, Some("scheduler")).trouble(name) {
        let reason = format!("Scheduler{}", trouble.kind.word());
        (ConditionStatus::False, reason, trouble.describe(pod, &place()))
    } else {
        let message = format!("the scheduler's pod (Deployment {name}) is not ready");
        (ConditionStatus::False, "SchedulerNotReady".to_owned(), message)
    }
}

/// Where the spec of the scheduler's pod was written, whoever looks at it.
fn scheduler_place(seen: &Snapshot) -> Place {
    let cluster = seen.related_one(CLUSTER).unwrap_or(&seen.subject);
    Place::of(cluster, "spec.scheduler.spec", None)
}

/// What to do about pods that can't be made, at the end of a message.
fn remedied(failure: &str, place: &Place) -> String {
    by_cause(failure, Some(place)).map(|remedy| format!("; {remedy}")).unwrap_or_default()
}

/// Whether this is one of the reasons that [`scheduler_available`] and [`workers_available`] give for pods that fail.
pub(super) fn is_of_failing_pods(reason: &str) -> bool {
    let word = reason.strip_prefix("Scheduler").or_else(|| reason.strip_prefix("Workers"));
    let is_of_pods = word.is_some_and(|word| TroubleKind::ALL.iter().any(|kind| kind.word() == word));
    is_of_pods || [SCHEDULER_FAILED, WORKERS_FAILED].contains(&reason)
}

fn workers_available(seen: &Snapshot, workers: &Workers, wanted: u32) -> Finding {
    if workers.ready >= wanted {
        return (ConditionStatus::True, "WorkersReady".to_owned(), format!("all {wanted} workers are ready"));
    }
    let mut failures = failures(seen);
    // That of most workers first.
    failures.sort_by_key(|failure| Reverse(failure.workers));
    let Some(first) = failures.first() else {
        let message = format!("{} of {wanted} workers are ready", workers.ready);
        return (ConditionStatus::False, "WorkersNotReady".to_owned(), message);
    };
    let reason = first.kind.map_or(WORKERS_FAILED.to_owned(), |kind| format!("Workers{}", kind.word()));
    let told = failures.iter().map(|failure| format!("{} of {wanted} workers: {}", failure.workers, failure.words));
    (ConditionStatus::False, reason, told.collect::<Vec<_>>().join(". "))
}

/// What is wrong with some workers.
struct Failure {
    /// None: their pods can't be made.
    kind: Option<TroubleKind>,
    workers: u32,
    /// In the words of the first of them.
    words: String,
}

/// What is wrong with workers that are not ready, by kind.
fn failures(seen: &Snapshot) -> Vec<Failure> {
    let pods = Pods::of(seen, Some("worker"));
    let place = Place::within(Reconciler::WorkerGroup, seen, "spec.worker.spec");
    let mut failures: BTreeMap<Option<TroubleKind>, Failure> = BTreeMap::new();
    for deployment in workers_of(&seen.children) {
        let status = DeploymentStatus::of(deployment);
        let name = &deployment.metadata.name;
        let (kind, words) = if status.ready_replicas > 0 {
            continue;
        } else if let Some(failure) = status.failure() {
            (None, format!("pods can't be made: {}{}", quote(failure), remedied(failure, &place)))
        } else if let Some((pod, trouble)) = pods.trouble(name) {
            (Some(trouble.kind), trouble.describe(pod, &place))
        } else {
            continue;
        };
        failures.entry(kind).or_insert(Failure { kind, workers: 0, words }).workers += 1;
    }
    failures.into_values().collect()
}

fn creating() -> Finding {
    (ConditionStatus::True, "Creating".to_owned(), "parts are still to be made".to_owned())
}

/// `outdated`: how many are still to be replaced, if they are.
fn progress(outdated: Option<u32>, workers: &Workers, wanted: u32) -> Finding {
    if let Some(outdated @ 1..) = outdated {
        let message = format!("{outdated} workers of an older template remain to be replaced");
        (ConditionStatus::True, "Updating".to_owned(), message)
    } else if workers.exist != wanted {
        (ConditionStatus::True, "Scaling".to_owned(), format!("{} workers exist, {wanted} are wanted", workers.exist))
    } else if workers.ready < wanted {
        (
            ConditionStatus::True,
            "WorkersStarting".to_owned(),
            format!("{} of {wanted} workers are ready", workers.ready),
        )
    } else {
        (ConditionStatus::False, "Settled".to_owned(), "all parts exist, and all workers are ready".to_owned())
    }
}

fn degradation(problems: &[Problem]) -> Finding {
    match problems {
        [] => (ConditionStatus::False, "AsWanted".to_owned(), "everything is as specified".to_owned()),
        [first, rest @ ..] => (ConditionStatus::True, first.reason.to_string(), and_more(&first.message, rest.len())),
    }
}

/// What was found, and what stands of the conditions `previous` because this could not be found out.
pub(super) fn conditions(
    seen: &Snapshot,
    previous: &[Condition],
    findings: &Findings,
    available: Finding,
    progressing: Finding,
) -> Vec<Condition> {
    let standing = |type_| findings.standing(type_, previous).map(Condition::finding);
    let available = standing("Available").unwrap_or(available);
    let degraded = standing("Degraded").unwrap_or_else(|| degradation(&findings.problems));
    let progressing = if seen.subject.is_paused() {
        (ConditionStatus::False, "Paused".to_owned(), end_of_pause())
    } else {
        progressing
    };
    [("Available", available), ("Progressing", progressing), ("Degraded", degraded)]
        .into_iter()
        .map(|(type_, finding)| Condition::found(type_, finding, previous, seen.subject.metadata.generation, seen.now))
        .collect()
}
