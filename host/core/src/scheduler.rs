//! What is said to a Dask scheduler and what it answers, as values.
//!
//! A reconciler that needs to know something of its scheduler says so in what it wants; the shell asks, however long that
//! takes, and the next pass finds the reply. So a scheduler that hangs holds up its own cluster only, and every decision
//! stays a pure function.

use std::{collections::BTreeMap, time::Duration};

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::object::{NamespacedName, Object};

/// Dask's default port for workers and clients.
pub const COMM_PORT: u16 = 8786;
/// Dask's default port for the dashboard and the HTTP API.
pub const DASHBOARD_PORT: u16 = 8787;

/// Where a scheduler can be talked to.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Scheduler {
    /// Its DaskCluster.
    pub cluster: NamespacedName,
    /// Name of its Service, in the cluster's namespace.
    pub service: String,
    /// Port of the Service for RPC.
    pub comm_port: u16,
    /// Port of the Service for HTTP; none: the Service has no such port.
    pub dashboard_port: Option<u16>,
    /// Name of the Secret with `ca.crt`, `tls.crt` and `tls.key` for RPC over TLS; none: plain TCP.
    pub tls_secret: Option<String>,
}

impl Scheduler {
    /// The scheduler of a DaskCluster, behind its Service.
    pub fn of(cluster: &Object, service: &Object) -> Self {
        let spec = cluster.field::<Value>("spec").and_then(Result::ok).unwrap_or_default();
        let tls_secret = spec.get("tlsSecretName").and_then(Value::as_str).filter(|name| !name.is_empty());
        Self::behind(service, cluster.at(), tls_secret.map(str::to_owned))
    }

    /// The scheduler of a cluster, behind its Service. Ports are found by the names that clients use (`tcp-comm`;
    /// `http-dashboard`, `dashboard` or the Service's own name), then by Dask's default numbers.
    pub fn behind(service: &Object, cluster: NamespacedName, tls_secret: Option<String>) -> Self {
        let spec = service.field::<Value>("spec").and_then(Result::ok).unwrap_or_default();
        let ports = spec.get("ports").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
        let number = |port: &Value| port.get("port").and_then(Value::as_u64).and_then(|port| u16::try_from(port).ok());
        let find = |names: &[&str], default: u16| {
            let named = |name: &&str| ports.iter().find(|port| port.get("name").and_then(Value::as_str) == Some(*name));
            let by_name = names.iter().find_map(named).and_then(number);
            by_name.or_else(|| ports.iter().filter_map(number).find(|port| *port == default))
        };
        let name = service.metadata.name.as_str();
        Self {
            cluster,
            service: name.to_owned(),
            comm_port: find(&["tcp-comm"], COMM_PORT).unwrap_or(COMM_PORT),
            dashboard_port: find(&["http-dashboard", "dashboard", name], DASHBOARD_PORT),
            tls_secret,
        }
    }
}

/// Something to say to a scheduler.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum SchedulerCall {
    /// Which workers are registered, the one that it can best do without first.
    Workers,
    /// How many workers its work asks for.
    AdaptiveTarget,
    /// Since when it has had nothing to do.
    IdleSince,
    /// Move what these workers (by address) hold to others, and give them nothing more to do.
    Retire(Vec<String>),
}

impl SchedulerCall {
    /// A constant word for labels and log fields.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Workers => "workers",
            Self::AdaptiveTarget => "adaptive_target",
            Self::IdleSince => "idle_since",
            Self::Retire(_) => "retire",
        }
    }
}

/// A scheduler's reply to the call of the same name.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum SchedulerReply {
    /// In the order in which it can do without them.
    Workers(Vec<SchedulerWorker>),
    /// Not bounded by anything: a scheduler may say what it likes.
    AdaptiveTarget(u64),
    /// Milliseconds since the Unix epoch; none: it is busy.
    IdleSince(Option<u64>),
    /// The addresses that hold nothing more and get nothing more to do. The others could not be emptied.
    Retired(Vec<String>),
}

/// A worker as its scheduler knows it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SchedulerWorker {
    /// The name that it registered with: its Deployment's, unless the user gave it another; with several processes per
    /// worker, `-0`, `-1`, … at the end.
    pub name: String,
    /// `tcp://10.0.0.1:34567`.
    pub address: String,
    /// Whether it is retired: `closing_gracefully`, which it stays.
    pub is_retired: bool,
}

/// Why there is no reply.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub enum SchedulerError {
    /// No connection, or no answer in time.
    #[error("the scheduler can't be reached: {0}")]
    Unreachable(String),
    /// It answered something that can't be used.
    #[error("the scheduler's answer can't be used: {0}")]
    Unusable(String),
    /// It has no way to answer this.
    #[error("the scheduler can't say: {0}")]
    Unsupported(String),
    /// The Secret with the certificates can't be read or used.
    #[error("spec.tlsSecretName: {0}")]
    Certificates(String),
}

impl SchedulerError {
    /// A constant word for labels, reasons and log fields.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Unreachable(_) => "SchedulerUnreachable",
            Self::Unusable(_) => "SchedulerAnswerUnusable",
            Self::Unsupported(_) => "SchedulerUnsupported",
            Self::Certificates(_) => "SchedulerCertificates",
        }
    }
}

/// What is known from a scheduler when a pass begins.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Replies {
    /// The last reply to each call, by the call's name, or why there is none.
    heard: BTreeMap<&'static str, Heard>,
    noted: u64,
}

/// One reply and when it came.
#[derive(Clone, Debug, PartialEq)]
pub struct Heard {
    /// What was said.
    pub call: SchedulerCall,
    /// Milliseconds since the Unix epoch.
    pub at: u64,
    /// Its place among all replies of this scheduler, the earlier before the later: two may come within a millisecond, and
    /// clocks are set back.
    pub place: u64,
    /// Since when every attempt has failed, in milliseconds since the Unix epoch; none: the last one succeeded.
    pub failing_since: Option<u64>,
    /// The reply to the last attempt.
    pub result: Result<SchedulerReply, SchedulerError>,
}

impl Replies {
    /// Notes the end of a call at `now`, in milliseconds since the Unix epoch.
    pub fn note(&mut self, call: &SchedulerCall, result: Result<SchedulerReply, SchedulerError>, now: u64) {
        let before = self.heard.get(call.name()).and_then(|heard| heard.failing_since);
        let failing_since = result.is_err().then(|| before.unwrap_or(now));
        self.noted += 1;
        let heard = Heard { call: call.clone(), at: now, place: self.noted, failing_since, result };
        self.heard.insert(call.name(), heard);
    }

    /// The last reply to a call of this name that is not older than `age`.
    pub fn fresh(&self, call: &SchedulerCall, age: Duration, now: u64) -> Option<&Heard> {
        let age = u64::try_from(age.as_millis()).unwrap_or(u64::MAX);
        self.heard.get(call.name()).filter(|heard| now.saturating_sub(heard.at) <= age)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn scheduler(ports: &Value) -> Scheduler {
        let service = json!({
            "apiVersion": "v1", "kind": "Service",
            "metadata": {"name": "a-scheduler", "namespace": "n"}, "spec": {"ports": ports},
        });
        Scheduler::behind(&Object::from_value(&service).unwrap(), NamespacedName::new("n", "a"), None)
    }

    #[test]
    fn ports_are_found_by_the_names_that_clients_use() {
        for (ports, comm, dashboard) in [
            (json!([{"name": "tcp-comm", "port": 1}, {"name": "http-dashboard", "port": 2}]), 1, Some(2)),
            (json!([{"name": "tcp-comm", "port": 1}, {"name": "dashboard", "port": 2}]), 1, Some(2)),
            (json!([{"name": "a-scheduler", "port": 2}]), 8786, Some(2)),
            (json!([{"name": "x", "port": 8786}, {"name": "y", "port": 8787}]), 8786, Some(8787)),
            (json!([{"name": "x", "port": 80}]), 8786, None),
            (json!(null), 8786, None),
        ] {
            let found = scheduler(&ports);
            assert_eq!((found.comm_port, found.dashboard_port), (comm, dashboard), "{ports}");
        }
    }

    #[test]
    fn replies_are_ordered_also_within_a_millisecond_and_when_the_clock_is_set_back() {
        let (workers, retire) = (SchedulerCall::Workers, SchedulerCall::Retire(Vec::new()));
        let mut replies = Replies::default();
        let mut places = Vec::new();
        for (call, now) in [(&workers, 5_000), (&retire, 5_000), (&workers, 5_000), (&retire, 6_000), (&retire, 1_000)]
        {
            replies.note(call, Ok(SchedulerReply::Workers(Vec::new())), now);
            places.extend(replies.fresh(call, Duration::MAX, now).map(|heard| heard.place));
        }
        assert_eq!(places.len(), 5);
        assert!(places.is_sorted_by(|earlier, later| earlier < later), "{places:?}");
    }

    #[test]
    fn failures_count_from_the_first() {
        let mut replies = Replies::default();
        let failed = || Err(SchedulerError::Unreachable("refused".to_owned()));
        let since = |replies: &Replies, now| {
            replies.fresh(&SchedulerCall::Workers, Duration::from_secs(5), now).map(|heard| heard.failing_since)
        };
        replies.note(&SchedulerCall::Workers, failed(), 1_000);
        replies.note(&SchedulerCall::Workers, failed(), 3_000);
        assert_eq!(since(&replies, 4_000), Some(Some(1_000)));
        assert_eq!(since(&replies, 9_000), None, "an old reply is none");
        replies.note(&SchedulerCall::Workers, Ok(SchedulerReply::Workers(Vec::new())), 9_000);
        assert_eq!(since(&replies, 9_000), Some(None));
        replies.note(&SchedulerCall::Workers, failed(), 10_000);
        assert_eq!(since(&replies, 10_000), Some(Some(10_000)));
    }
}
