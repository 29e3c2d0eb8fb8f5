//! DaskAutoscaler → replicas of a DaskWorkerGroup.
//!
//! The number of replicas belongs to whoever changed it last: a decision starts from the live value, is written only if
//! nobody changed the group since it was looked at, and is not written again once it stands. So nobody's change is reverted
//! but by the next decision, and as the field stays when its manager stops to apply it, there is nothing to be kept up.
//! What came of a write is observed, never assumed.

mod scaling;

use std::{borrow::Cow, sync::Arc, time::Duration};

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use self::scaling::{Hold, Recommendation, Situation, Verdict, decide, goal, least};
use crate::{
    contract::{EventNote, EventSeverity},
    dask::{
        kinds::{cluster_key, cluster_kind, decode_spec, deployment_kind, service_kind, worker_group_kind},
        naming::{check_name, default_group_name, scheduler_name},
        pods,
        poll::{Poll, silence},
        reconciler::Reconciler,
        status::{conditions, previous, scheduler_available},
    },
    fields,
    names::PAUSED,
    native::Native as _,
    object::{ManagedFields, NamespacedName, Object},
    ownership::maker,
    related::{Concern, Lookup, Related},
    scheduler::{Scheduler, SchedulerCall, SchedulerError, SchedulerReply},
    spec::{
        Condition, ConditionStatus, DaskAutoscalerSpec, DaskAutoscalerStatus, DaskWorkerGroupSpec,
        DaskWorkerGroupStatus, Finding,
    },
    time::{CLOCK_SKEW, epoch_millis, millis, rfc3339},
    wanted::{Findings, Problem, Snapshot, SubjectPatch, Wanted, WantedFields},
};

const CLUSTER: &str = "cluster";
const SCHEDULER: &str = "scheduler";
const SCHEDULER_SERVICE: &str = "scheduler-service";
/// The group, under the name in the spec and under that with the cluster's in front.
const GROUP: &str = "group";
const GROUP_OF_CLUSTER: &str = "group-of-cluster";
/// All groups of the cluster.
const GROUPS: &str = "groups";

/// Until when the Python operator waits after a change, as seconds since the Unix epoch: honoured after a takeover.
pub(in crate::dask) const COOLDOWN_UNTIL: &str = "kubernetes.dask.org/cooldown-until";

/// How long it waits.
const PYTHON_COOLDOWN: Duration = Duration::from_secs(15);

/// Why a change waits.
const COOLDOWN: &str = "Cooldown";
const STABILIZING: &str = "Stabilizing";
const WORKERS_STARTING: &str = "WorkersStarting";

/// When to look again for what is missing, if no event says that it is there.
const LOOK_AGAIN: Duration = Duration::from_secs(5);

/// When to look whether a change has been made, if no event says so.
const CONFIRM: Duration = Duration::from_secs(1);

pub(in crate::dask) fn lookups(subject: &Object) -> Vec<Lookup> {
    let Some(Ok(spec)) = subject.field::<DaskAutoscalerSpec>("spec") else { return Vec::new() };
    let at = |name: String| NamespacedName { namespace: subject.metadata.namespace.clone(), name };
    let scheduler = scheduler_name(&spec.cluster);
    let mut lookups = vec![
        Lookup::new(CLUSTER, Related::Named(cluster_kind(), at(spec.cluster.clone()))).concerning(Concern::Reconcile),
        Lookup::new(SCHEDULER, Related::Named(deployment_kind(), at(scheduler.clone()))),
        Lookup::new(SCHEDULER_SERVICE, Related::Named(service_kind(), at(scheduler))),
        pods::lookup(&at(spec.cluster.clone())),
    ];
    let group = |(question, name)| {
        Lookup::new(question, Related::Named(worker_group_kind(), at(name))).concerning(Concern::Reconcile)
    };
    lookups.extend(group_names(&spec).into_iter().map(group));
    // The cluster owns its autoscalers, so its uid is known once that is written.
    let is_cluster = |kind: &str, name: &str| kind == cluster_kind().kind && name == spec.cluster;
    let owner = subject.metadata.owner_references.iter().find(|owner| is_cluster(&owner.kind, &owner.name));
    lookups.extend(owner.map(|owner| {
        let related = Related::ControlledBy(worker_group_kind(), owner.uid.clone());
        Lookup::new(GROUPS, related)
    }));
    lookups
}

/// The names that the group may have, by the lookup that finds it, the first that exists counts.
fn group_names(spec: &DaskAutoscalerSpec) -> Vec<(&'static str, String)> {
    let cluster = &spec.cluster;
    match spec.worker_group.as_deref().filter(|name| !name.is_empty()) {
        Some(name) => vec![(GROUP, name.to_owned()), (GROUP_OF_CLUSTER, format!("{cluster}-{name}"))],
        None => vec![(GROUP_OF_CLUSTER, default_group_name(cluster))],
    }
}

pub(in crate::dask) fn reconcile(seen: &Snapshot) -> Wanted {
    let mut wanted = match Target::find(seen) {
        Ok(target) => scale(seen, &target),
        Err(obstacle) => {
            let goes_away = obstacle.problem.as_ref().is_none_or(|problem| !problem.permanent);
            let problems = obstacle.problem.into_iter().collect();
            Wanted {
                requeue_after: goes_away.then_some(LOOK_AGAIN),
                findings: Findings { problems, facts: seen.facts.clone(), ..Findings::default() },
                ..Wanted::default()
            }
        }
    };
    wanted.subject = owned_by_cluster(seen);
    wanted
}

pub(in crate::dask) fn status(seen: &Snapshot, findings: &Findings) -> Value {
    let before: DaskAutoscalerStatus = previous(seen);
    let target = Target::find(seen);
    let facts = Facts::of(&findings.facts, seen);
    let (available, progressing) = match &target {
        Ok(target) => {
            let standing = standing(&before, target, &facts);
            (available(&findings.problems, &facts), standing.unwrap_or_else(|| progressing(target, &facts)))
        }
        Err(Obstacle { finding: (_, reason, message), .. }) => {
            let finding = (ConditionStatus::False, reason.clone(), message.clone());
            (finding.clone(), finding)
        }
    };
    json!(DaskAutoscalerStatus {
        conditions: conditions(seen, &before.conditions, findings, available, progressing),
        observed_generation: seen.subject.metadata.generation,
        desired_replicas: facts.desired,
        // Not what is seen now: a number without the time of its change would be taken for somebody else's.
        current_replicas: facts.current,
        last_scale_time: facts.last_scale.map(rfc3339),
    })
}

/// What stands in the way of scaling: nobody's fault, or a problem.
struct Obstacle {
    finding: Finding,
    problem: Option<Problem>,
}

impl Obstacle {
    fn new(reason: &str, message: String) -> Self {
        Self { finding: (ConditionStatus::False, reason.to_owned(), message), problem: None }
    }
}

impl From<Problem> for Obstacle {
    fn from(problem: Problem) -> Self {
        Self { problem: Some(problem.clone()), ..Self::new(&problem.reason, problem.message) }
    }
}

/// What is scaled, by whom.
struct Target<'a> {
    spec: DaskAutoscalerSpec,
    scheduler: Scheduler,
    group: &'a Arc<Object>,
    /// How many workers the group is to have.
    current: u32,
    /// How many of them are ready; none: that is not known.
    ready: Option<u32>,
    /// How many workers the cluster's other groups are to have.
    others: u64,
}

impl<'a> Target<'a> {
    fn find(seen: &'a Snapshot) -> Result<Self, Obstacle> {
        let spec: DaskAutoscalerSpec = decode_spec(&seen.subject)?;
        let cluster = owning_cluster(seen, &spec)?;
        let scheduler = scheduler(seen, cluster)?;
        let group = group(seen, &spec)?;
        for object in [cluster, group] {
            if object.is_paused() {
                let message =
                    format!("the annotation {PAUSED} of {} pauses reconciliation; remove it to resume", object.key());
                return Err(Obstacle::new("Paused", message));
            }
        }
        let ready = group.field::<DaskWorkerGroupStatus>("status").and_then(Result::ok);
        let groups = seen.related.get(GROUPS).map(Vec::as_slice).unwrap_or_default();
        let is_other = |other: &&Arc<Object>| other.metadata.uid != group.metadata.uid && !other.is_being_deleted();
        let others = groups.iter().filter(is_other).filter_map(|other| replicas(other)).map(u64::from).sum();
        Ok(Self {
            scheduler,
            group,
            current: replicas(group).unwrap_or(0),
            ready: ready.and_then(|status| status.ready_replicas),
            others,
            spec,
        })
    }

    /// Whether workers are still to come. Where the group's status does not tell, none are: the Python operator never waited.
    fn is_pending(&self) -> bool {
        self.ready.is_some_and(|ready| ready < self.current)
    }
}

fn owning_cluster<'a>(seen: &'a Snapshot, spec: &DaskAutoscalerSpec) -> Result<&'a Object, Obstacle> {
    let (autoscaler, name) = (&seen.subject.metadata.name, &spec.cluster);
    let Some(cluster) = seen.related_one(CLUSTER) else {
        let message = format!(
            "DaskAutoscaler {autoscaler}: spec.cluster names {name}, which is no DaskCluster of this namespace; create it, or correct the name"
        );
        return Err(Problem::passing("ClusterNotFound", message).until(cluster_key(&seen.subject, name)).into());
    };
    check_name(name)?;
    if cluster.is_being_deleted() {
        let message = format!("DaskCluster {name} is being deleted, the autoscaler goes with it");
        return Err(Obstacle::new("ClusterDeleting", message));
    }
    if !seen.subject.metadata.owner_references.iter().any(|owner| owner.uid == cluster.metadata.uid) {
        return Err(Obstacle::new("Starting", format!("DaskCluster {name} is set as its owner first")));
    }
    Ok(cluster)
}

fn scheduler(seen: &Snapshot, cluster: &Object) -> Result<Scheduler, Obstacle> {
    let deployment = seen.related_one(SCHEDULER).map(AsRef::as_ref);
    let (status, reason, message) = scheduler_available(seen, deployment);
    if status != ConditionStatus::True {
        return Err(Obstacle::new(&reason, message));
    }
    let Some(service) = seen.related_one(SCHEDULER_SERVICE) else {
        return Err(Obstacle::new("SchedulerMissing", "the scheduler's Service does not exist yet".to_owned()));
    };
    Ok(Scheduler::of(cluster, service))
}

fn group<'a>(seen: &'a Snapshot, spec: &DaskAutoscalerSpec) -> Result<&'a Arc<Object>, Obstacle> {
    let is_of_cluster = |group: &&Arc<Object>| {
        let spec_of_group = group.field::<DaskWorkerGroupSpec>("spec").and_then(Result::ok);
        spec_of_group.is_some_and(|group| group.cluster == spec.cluster)
    };
    let names = group_names(spec);
    let found = names.iter().filter_map(|(question, _)| seen.related_one(question)).find(is_of_cluster);
    found.ok_or_else(|| {
        let names: Vec<_> = names.into_iter().map(|(_, name)| name).collect();
        let message = format!(
            "DaskAutoscaler {}: DaskCluster {} has no DaskWorkerGroup {}; create it, or correct spec.workerGroup",
            seen.subject.metadata.name,
            spec.cluster,
            names.join(" or "),
        );
        Problem::passing("WorkerGroupNotFound", message).into()
    })
}

fn replicas(group: &Object) -> Option<u32> {
    let spec: DaskWorkerGroupSpec = group.field("spec")?.ok()?;
    Some(spec.worker.replicas)
}

/// The autoscaler goes with its cluster. A controller that is somebody else's stays, and the reference to the cluster is the
/// handler's that made the autoscaler for it.
fn owned_by_cluster(seen: &Snapshot) -> Option<SubjectPatch> {
    let cluster = seen.related_one(CLUSTER).filter(|cluster| !cluster.is_being_deleted())?;
    let controller = seen.subject.metadata.controller();
    if maker(&seen.subject, Reconciler::makes).is_some()
        && controller.is_none_or(|owner| owner.uid == cluster.metadata.uid)
    {
        return None;
    }
    let mut owner = cluster.as_owner();
    owner.controller = controller.is_none_or(|controller| controller.uid == owner.uid);
    Some(SubjectPatch { body: json!({"metadata": {"ownerReferences": [owner]}}), guarded: false })
}

/// A change that was decided. It is written until it is seen, or until something else comes in between.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
struct Change {
    from: u32,
    to: u32,
    /// As many workers as the scheduler asked for; none: it did not answer.
    asked: Option<u64>,
    /// When it was decided, in milliseconds since the Unix epoch.
    at: u64,
}

/// What is remembered between reconciles.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
struct Facts {
    poll: Poll,
    /// Whether the scheduler has answered, or has been silent for long: not right after a restart.
    heard: bool,
    /// As many workers as the scheduler asked for last, within the limits.
    desired: Option<u32>,
    /// How many workers the group was to have in the last reconcile.
    current: Option<u32>,
    hold: Option<Hold>,
    change: Option<Change>,
    /// When the group was last changed, in milliseconds since the Unix epoch.
    last_scale: Option<u64>,
    recommendations: Vec<Recommendation>,
}

impl Facts {
    /// After a restart, what the status says.
    fn of(facts: &Value, seen: &Snapshot) -> Self {
        if let Ok(facts) = Self::deserialize(facts) {
            return facts;
        }
        let status: DaskAutoscalerStatus = previous(seen);
        // Written in whole seconds: up to the next one later, so that no cooldown is cut short.
        let last_scale = status.last_scale_time.as_deref().and_then(epoch_millis).filter(|time| *time <= seen.now);
        let last_scale = last_scale.map(|time| time.saturating_add(999).min(seen.now));
        Self { desired: status.desired_replicas, current: status.current_replicas, last_scale, ..Self::default() }
    }

    /// Takes note of how many workers the group is to have. Returns the change that was decided, when it has been made.
    fn look_at(&mut self, target: &Target<'_>, now: u64) -> Option<Change> {
        let current = target.current;
        let is_news = self.current.replace(current) != Some(current);
        let change = self.change.take();
        let made = change.filter(|change| change.to == current);
        if let Some(change) = &made {
            self.last_scale = Some(change.at);
        } else if is_news && is_ours(target.group) {
            // By a process that was killed before it could say so: as recent as can be.
            self.last_scale = Some(now);
        }
        // Not written yet, or somebody has changed the group in between: then that stands.
        self.change = change.filter(|change| change.to != current && change.from == current);
        made
    }
}

/// Whether nobody changed the group's replicas since the autoscaler did.
fn is_ours(group: &Object) -> bool {
    let held = group.applied_by(&Reconciler::Autoscaler.field_manager()).and_then(ManagedFields::decoded);
    held.is_some_and(|held| fields::holds(&held, &["spec", "worker", "replicas"]))
}

fn scale(seen: &Snapshot, target: &Target<'_>) -> Wanted {
    let Target { spec, group, current, .. } = target;
    let mut facts = Facts::of(&seen.facts, seen);
    let made = facts.look_at(target, seen.now);
    let interval = Duration::from_secs(u64::from(spec.interval_seconds.max(1)));
    let call = SchedulerCall::AdaptiveTarget;
    let turn = facts.poll.turn(seen, &call, interval);
    let silence = silence(seen, &call, &spec.cluster);
    facts.heard |= silence.is_some() || turn.news.is_some_and(|heard| heard.result.is_ok());
    match turn.news.map(|heard| &heard.result) {
        Some(Ok(SchedulerReply::AdaptiveTarget(asked))) => decide_anew(seen, target, &mut facts, Some(*asked)),
        Some(Err(_)) if *current < least(spec) => decide_anew(seen, target, &mut facts, None),
        _ => {}
    }
    // Until the next decision is due, and as long again for the answer to come.
    let is_recent = |change: &Change| Duration::from_millis(seen.now.abs_diff(change.at)) <= interval.saturating_mul(2);
    let change = facts.change.filter(is_recent);
    facts.change = change;
    Wanted {
        fields: change.iter().map(|change| with_replicas(group, change.to)).collect(),
        calls: turn.ask.then(|| (target.scheduler.clone(), call.clone())).into_iter().collect(),
        events: made.iter().map(|change| scaled(group, change)).collect(),
        requeue_after: Some(if change.is_some() { turn.wait.min(CONFIRM) } else { turn.wait }),
        findings: Findings {
            problems: contradiction(seen, spec).into_iter().chain(silence).collect(),
            unknown: if facts.heard { Vec::new() } else { SchedulerError::KINDS.map(Cow::Borrowed).to_vec() },
            facts: json!(facts),
            ..Findings::default()
        },
        ..Wanted::default()
    }
}

/// Without an answer, up to the minimum.
fn decide_anew(seen: &Snapshot, target: &Target<'_>, facts: &mut Facts, asked: Option<u64>) {
    let goal = goal(&target.spec, asked.unwrap_or(0), target.others);
    let situation = Situation {
        current: target.current,
        pending: target.is_pending(),
        last_scale: facts.last_scale,
        blocked_until: seen.subject.metadata.annotations.get(COOLDOWN_UNTIL).and_then(|text| cooldown(text, seen.now)),
        now: seen.now,
    };
    let verdict = decide(&target.spec, &mut facts.recommendations, &situation, goal);
    facts.desired = Some(goal);
    (facts.hold, facts.change) = match verdict {
        Verdict::Right => (None, None),
        Verdict::Hold(hold) => (Some(hold), None),
        Verdict::Change(to) => (None, Some(Change { from: target.current, to, asked, at: seen.now })),
    };
}

/// In milliseconds since the Unix epoch; none: the Python operator never waited until then, even if its clock was ahead.
fn cooldown(until: &str, now: u64) -> Option<u64> {
    cooldown_until(until).filter(|until| until.saturating_sub(now) <= millis(PYTHON_COOLDOWN + CLOCK_SKEW))
}

/// What the annotation says, in milliseconds since the Unix epoch.
pub(in crate::dask) fn cooldown_until(text: &str) -> Option<u64> {
    let seconds: f64 = text.trim().parse().ok()?;
    Duration::try_from_secs_f64(seconds).ok().map(millis)
}

pub(in crate::dask) fn is_cooldown(until: &str, now: u64) -> bool {
    cooldown(until, now).is_some()
}

fn with_replicas(group: &Arc<Object>, replicas: u32) -> WantedFields {
    WantedFields { object: Arc::clone(group), body: json!({"spec": {"worker": {"replicas": replicas}}}) }
}

fn scaled(group: &Object, change: &Change) -> EventNote {
    let Change { from, to, asked, .. } = change;
    let why = asked.map_or_else(
        || "the scheduler does not answer; spec.minimum applies".to_owned(),
        |asked| format!("the scheduler asks for {asked}"),
    );
    let message = format!("Scaled workers of {} from {from} to {to}: {why}", group.metadata.name);
    EventNote { severity: EventSeverity::Normal, reason: "Scaled".to_owned(), message }
}

fn contradiction(seen: &Snapshot, spec: &DaskAutoscalerSpec) -> Option<Problem> {
    let DaskAutoscalerSpec { minimum, maximum, .. } = spec;
    (minimum > maximum).then(|| {
        let message = format!(
            "DaskAutoscaler {}: spec.minimum ({minimum}) is greater than spec.maximum ({maximum}), which applies; correct one of them",
            seen.subject.metadata.name
        );
        Problem::permanent("MinimumAboveMaximum", message)
    })
}

fn available(problems: &[Problem], facts: &Facts) -> Finding {
    if let Some(silence) = problems.iter().find(|problem| problem.reason.starts_with("Scheduler")) {
        (ConditionStatus::False, silence.reason.to_string(), silence.message.clone())
    } else if facts.desired.is_some() {
        (
            ConditionStatus::True,
            "SchedulerAnswers".to_owned(),
            "the scheduler reports how many workers it needs".to_owned(),
        )
    } else {
        (ConditionStatus::Unknown, "SchedulerNotAsked".to_owned(), "the scheduler has not answered yet".to_owned())
    }
}

/// Why a change is not made yet, as long as that is to be decided anew after a restart.
fn standing(before: &DaskAutoscalerStatus, target: &Target<'_>, facts: &Facts) -> Option<Finding> {
    let is_held = |condition: &&Condition| {
        condition.type_ == "Progressing"
            && [COOLDOWN, STABILIZING, WORKERS_STARTING].contains(&condition.reason.as_str())
    };
    let is_same = !facts.heard && before.current_replicas == Some(target.current);
    before.conditions.iter().find(is_held).filter(|_| is_same).map(Condition::finding)
}

fn progressing(target: &Target<'_>, facts: &Facts) -> Finding {
    let current = target.current;
    let Some(desired) = facts.desired.filter(|desired| *desired != current) else {
        return (ConditionStatus::False, "Settled".to_owned(), format!("the group has {current} workers as wanted"));
    };
    let (reason, why) = match facts.hold {
        None => ("Scaling", "it is scaled step by step".to_owned()),
        Some(Hold::Cooldown(until)) => {
            (COOLDOWN, format!("the cooldown after the last change ends at {}", rfc3339(until)))
        }
        Some(Hold::Stabilizing) => {
            (STABILIZING, "another number was recommended within the stabilization window".to_owned())
        }
        Some(Hold::WorkersStarting) => (WORKERS_STARTING, "workers requested before are not ready yet".to_owned()),
    };
    let message = format!("the group has {current} workers, {desired} are wanted: {why}");
    (ConditionStatus::True, reason.to_owned(), message)
}
