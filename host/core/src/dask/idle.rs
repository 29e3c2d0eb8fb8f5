//! DaskCluster with `idleTimeout` → its end.
//!
//! Only a scheduler that says itself that it has had nothing to do for so long ends its cluster: one that is busy, does not
//! answer, or answers something that can't be, does not. Asking is all that is done to it.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::{
    cluster::scheduler_name,
    deployment_kind,
    poll::{Poll, silence},
    service_kind,
    status::previous,
    workergroup::DeploymentStatus,
};
use crate::{
    contract::{EventNote, EventSeverity},
    object::Object,
    scheduler::{Scheduler, SchedulerCall, SchedulerReply},
    spec::DaskClusterStatus,
    time::{epoch_millis, rfc3339},
    wanted::{Findings, Snapshot, Wanted},
};

/// How often a scheduler is asked, as by the Python operator.
const INTERVAL: Duration = Duration::from_secs(5);

/// How far clocks of a cluster may differ, in milliseconds. A scheduler that was idle longer than this before its cluster was
/// made tells nonsense.
const CLOCK_SKEW: u64 = 3_600_000;

/// What is remembered between passes. Times in milliseconds since the Unix epoch.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(default)]
struct Facts {
    poll: Poll,
    /// Whether it is known if the scheduler is idle: not right after a restart.
    known: bool,
    /// Since when the scheduler has been idle, as it said last.
    idle_since: Option<u64>,
    /// An Event has said that this long a time is too long.
    announced: Option<u64>,
}

impl Facts {
    fn of(facts: &Value) -> Self {
        Self::deserialize(facts).unwrap_or_default()
    }
}

pub(super) fn reconcile(seen: &Snapshot) -> Wanted {
    let Some(limit) = idle_timeout(&seen.subject) else { return Wanted::default() };
    let mut facts = Facts::of(&seen.facts);
    let mut wanted = Wanted { requeue_after: Some(INTERVAL), ..Wanted::default() };
    match scheduler(seen) {
        Some(scheduler) => check(seen, limit, scheduler, &mut facts, &mut wanted),
        None => facts = Facts { known: true, idle_since: None, announced: None, ..facts },
    }
    wanted.findings.facts = json!(facts);
    wanted
}

pub(super) fn status(seen: &Snapshot, findings: &Findings) -> Value {
    if idle_timeout(&seen.subject).is_none() {
        return Value::Null;
    }
    let facts = Facts::of(&findings.facts);
    let since =
        if facts.known { facts.idle_since.map(rfc3339) } else { previous::<DaskClusterStatus>(seen).idle_since };
    since.map_or(Value::Null, |since| json!({ "idleSince": since }))
}

fn check(seen: &Snapshot, limit: Duration, scheduler: Scheduler, facts: &mut Facts, wanted: &mut Wanted) {
    let call = SchedulerCall::IdleSince;
    let cluster = &seen.subject.metadata.name;
    let turn = facts.poll.turn(seen, &call, INTERVAL);
    wanted.requeue_after = Some(turn.wait);
    wanted.findings.problems.extend(silence(seen, &call, cluster));
    if let Some(heard) = turn.news {
        facts.known = true;
        facts.idle_since = match &heard.result {
            Ok(SchedulerReply::IdleSince(Some(since))) => plausible(seen, *since),
            _ => None,
        };
    }
    let over = facts.idle_since.filter(|since| is_over(*since, limit, seen.now));
    if turn.ask {
        // What it said last is old by now: its next answer decides.
        wanted.calls.push((scheduler, call));
    } else if over.is_some() && facts.announced == over {
        wanted.delete_subject = true;
    } else {
        // The Event first: what is deleted can't be explained any more.
        facts.announced = over;
        wanted.events.extend(over.map(|since| announcement(cluster, since, limit)));
        wanted.requeue_after = over.map_or(wanted.requeue_after, |_| Some(Duration::ZERO));
    }
}

fn announcement(cluster: &str, since: u64, limit: Duration) -> EventNote {
    let message = format!(
        "DaskCluster {cluster} is deleted: its scheduler has been idle since {}, longer than the {} s of spec.idleTimeout",
        rfc3339(since),
        limit.as_secs(),
    );
    EventNote { severity: EventSeverity::Normal, reason: "IdleTimeout".to_owned(), message }
}

/// 0 is none, and so is what is no number: the cluster's own reconciler says that.
fn idle_timeout(cluster: &Object) -> Option<Duration> {
    let spec: Value = cluster.field("spec")?.ok()?;
    let seconds = spec.get("idleTimeout")?.as_u64().filter(|seconds| *seconds > 0)?;
    Some(Duration::from_secs(seconds))
}

/// The cluster's scheduler, if it runs.
fn scheduler(seen: &Snapshot) -> Option<Scheduler> {
    let name = scheduler_name(&seen.subject.metadata.name);
    let deployment = seen.child(&deployment_kind(), &name)?;
    let service = seen.child(&service_kind(), &name)?;
    let is_available = DeploymentStatus::of(deployment).available_replicas > 0;
    is_available.then(|| Scheduler::of(&seen.subject, service))
}

/// What a scheduler says, unless it can't be: then it counts as busy. It is not idle for longer than its cluster exists,
/// whatever its clock says.
fn plausible(seen: &Snapshot, since: u64) -> Option<u64> {
    let created = epoch_millis(seen.subject.metadata.creation_timestamp.as_deref()?)?;
    let possible = created.saturating_sub(CLOCK_SKEW)..=seen.now;
    possible.contains(&since).then(|| since.max(created))
}

fn is_over(since: u64, limit: Duration, now: u64) -> bool {
    Duration::from_millis(now.saturating_sub(since)) > limit
}
