//! DaskCluster with `idleTimeout` → its end.
//!
//! Only a scheduler that says itself that it has had nothing to do for so long ends its cluster: one that is busy, does not
//! answer, or answers something that can't be, does not. Asking is all that is done to it.

use std::{sync::Arc, time::Duration};

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::{
    contract::{EventNote, EventSeverity},
    dask::{
        kinds::{deployment_kind, service_kind},
        naming::scheduler_name,
        pods::DeploymentStatus,
        poll::{Poll, silence},
    },
    object::Object,
    scheduler::{Scheduler, SchedulerCall, SchedulerReply},
    time::{CLOCK_SKEW, epoch_millis, millis, rfc3339},
    wanted::{Findings, Snapshot, Wanted},
};

/// How often a scheduler is asked, as by the Python operator.
const INTERVAL: Duration = Duration::from_secs(5);

/// Without an answer or a failure for so long, in milliseconds, nobody was looking, as of a paused cluster: a question is put
/// once a minute at least, and fails within another.
const NOBODY_LOOKED: u64 = 180_000;

/// What is remembered between reconciles. Times in milliseconds since the Unix epoch, by our clock.
#[derive(Debug, Serialize, Deserialize)]
struct Facts {
    poll: Poll,
    /// Whether it is known if the scheduler is idle: not right after a restart.
    known: bool,
    /// When the scheduler answered last or failed to, or when looking began: no other idle time has begun before. 0: there is
    /// none.
    looked: u64,
    period: Option<Period>,
    /// Since when the scheduler has been idle, if it said last that it is.
    idle_since: Option<u64>,
    /// An Event has said that this long a time is too long.
    announced: Option<u64>,
}

/// A time in which the scheduler has had nothing to do.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
struct Period {
    /// Its beginning by the scheduler's clock, which may be wrong: as long as it says the same, there was no work in between.
    told: u64,
    /// Its beginning as far as we know.
    since: u64,
}

impl Facts {
    /// After a restart, what the status says.
    fn of(facts: &Value, seen: &Snapshot) -> Self {
        Self::deserialize(facts).unwrap_or_else(|_| {
            let since = idle_since(&seen.subject);
            Self {
                poll: Poll::default(),
                known: false,
                looked: seen.now,
                period: since.map(|since| Period { told: since, since }),
                idle_since: None,
                announced: None,
            }
        })
    }

    /// Nothing has been looked at, or has begun, after `now`: such a time is that of a clock that was set back.
    fn until(mut self, now: u64) -> Self {
        self.looked = self.looked.min(now);
        self.period = self.period.map(|Period { told, since }| Period { told, since: since.min(now) });
        self.idle_since = self.idle_since.map(|since| since.min(now));
        self
    }

    /// The scheduler said at `at` since when it has been idle, or that it is busy. A time that it did not say before begins
    /// after we looked last, whatever its clock says.
    fn hear(&mut self, told: Option<u64>, at: u64) {
        let looked = self.looked;
        // The status has whole seconds.
        let is_same = |period: &Period, told: u64| period.told / 1_000 == told / 1_000;
        self.period = told.map(|told| match self.period.filter(|period| is_same(period, told)) {
            Some(period) => Period { told, ..period },
            None => Period { told, since: told.max(looked) },
        });
        self.idle_since = self.period.map(|period| period.since);
        self.looked = at;
    }
}

/// What counts here of a DaskCluster's spec. It is looked at often, so the rest is not decoded.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Spec {
    idle_timeout: Option<Value>,
}

/// The same of its status.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Status {
    idle_since: Option<String>,
}

/// Since when the scheduler of a DaskCluster has been idle, as the status says; in milliseconds since the Unix epoch.
pub fn idle_since(cluster: &Object) -> Option<u64> {
    epoch_millis(&said(cluster)?)
}

fn said(cluster: &Object) -> Option<String> {
    cluster.field::<Status>("status")?.ok()?.idle_since
}

pub(in crate::dask) fn reconcile(seen: &Snapshot) -> Wanted {
    let Some(limit) = idle_timeout(&seen.subject) else { return Wanted::default() };
    let mut facts = Facts::of(&seen.facts, seen).until(seen.now);
    if seen.now.saturating_sub(facts.looked) > NOBODY_LOOKED {
        facts.looked = seen.now;
    }
    let mut wanted = Wanted::default();
    match scheduler(seen) {
        Some(service) => check(seen, limit, service, &mut facts, &mut wanted),
        // When there is one, its Deployment says so.
        None => facts = Facts { known: true, looked: 0, period: None, idle_since: None, announced: None, ..facts },
    }
    wanted.findings.facts = json!(facts);
    wanted
}

pub(in crate::dask) fn status(seen: &Snapshot, findings: &Findings) -> Value {
    if idle_timeout(&seen.subject).is_none() {
        return Value::Null;
    }
    let facts = Facts::of(&findings.facts, seen);
    let since = if facts.known { facts.idle_since.map(rfc3339) } else { said(&seen.subject) };
    since.map_or(Value::Null, |since| json!({ "idleSince": since }))
}

/// Whether the subject's status is as it should be.
pub(in crate::dask) fn is_told(seen: &Snapshot, findings: &Findings) -> bool {
    status(seen, findings).get("idleSince").and_then(Value::as_str) == said(&seen.subject).as_deref()
}

fn check(seen: &Snapshot, limit: Duration, service: &Object, facts: &mut Facts, wanted: &mut Wanted) {
    let call = SchedulerCall::IdleSince;
    let cluster = &seen.subject.metadata.name;
    let turn = facts.poll.turn(seen, &call, INTERVAL);
    wanted.requeue_after = Some(turn.wait);
    wanted.findings.problems.extend(silence(seen, &call, cluster));
    if let Some(heard) = turn.news {
        facts.known = true;
        if let Ok(SchedulerReply::IdleSince(told)) = &heard.result {
            facts.hear(told.filter(|told| is_plausible(seen, *told)), heard.at);
        } else {
            (facts.looked, facts.idle_since) = (heard.at, None);
        }
    }
    let over = facts.idle_since.filter(|since| is_over(*since, limit, seen.now));
    if turn.ask {
        // What it said last is old by now: its next answer decides.
        wanted.calls.push((Scheduler::of(&seen.subject, service), call));
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
    let spec: Spec = cluster.field("spec")?.ok()?;
    let seconds = spec.idle_timeout?.as_u64().filter(|seconds| *seconds > 0)?;
    Some(Duration::from_secs(seconds))
}

/// The Service of the cluster's scheduler, if that runs.
fn scheduler(seen: &Snapshot) -> Option<&Arc<Object>> {
    let name = scheduler_name(&seen.subject.metadata.name);
    let deployment = seen.child(&deployment_kind(), &name)?;
    let service = seen.child(&service_kind(), &name)?;
    let is_available = DeploymentStatus::of(deployment).available_replicas > 0;
    is_available.then_some(service)
}

/// What a scheduler says, unless it can't be: then it counts as busy.
fn is_plausible(seen: &Snapshot, told: u64) -> bool {
    let created = seen.subject.metadata.creation_timestamp.as_deref().and_then(epoch_millis);
    // One that was idle long before its cluster was made tells nonsense.
    created.is_some_and(|created| (created.saturating_sub(millis(CLOCK_SKEW))..=seen.now).contains(&told))
}

fn is_over(since: u64, limit: Duration, now: u64) -> bool {
    Duration::from_millis(now.saturating_sub(since)) > limit
}
