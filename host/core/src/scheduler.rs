//! What is said to a Dask scheduler and what it answers, as values.
//!
//! A reconciler that needs to know something of its scheduler says so in what it wants; the shell asks, however long that
//! takes, and the next reconcile finds the reply. So a scheduler that hangs holds up its own cluster only, and every decision
//! stays a pure function.

use std::{
    borrow::Cow,
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::Value;

use crate::{
    object::{NamespacedName, Object},
    quote::quote,
};

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
    pub comm_port: ServicePort,
    /// Port of the Service for HTTP; none: the Service has no such port.
    pub dashboard_port: Option<ServicePort>,
    /// Name of the Secret with `ca.crt`, `tls.crt` and `tls.key` for RPC over TLS; none: plain TCP.
    pub tls_secret: Option<String>,
}

/// A port of a Service.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ServicePort {
    /// Its number.
    pub number: u16,
    /// The port of the pod that it leads to.
    pub target: TargetPort,
}

/// A port of a pod.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum TargetPort {
    /// By number.
    Number(u16),
    /// By the name that a container gives it.
    Name(String),
}

impl ServicePort {
    /// One that leads to the pod's port of the same number.
    pub fn straight(number: u16) -> Self {
        Self { number, target: TargetPort::Number(number) }
    }

    /// As it stands in a Service.
    fn read(port: &Value) -> Option<Self> {
        let number = |value: &Value| value.as_u64().and_then(|number| u16::try_from(number).ok());
        let straight = Self::straight(number(port.get("port")?)?);
        let target = match port.get("targetPort") {
            Some(Value::String(name)) => TargetPort::Name(name.clone()),
            Some(target @ Value::Number(_)) => TargetPort::Number(number(target)?),
            _ => return Some(straight),
        };
        Some(Self { target, ..straight })
    }
}

/// What of a DaskCluster's spec counts here. Schedulers are asked often, so the rest is not decoded.
#[derive(Deserialize)]
struct ClusterSpec {
    #[serde(rename = "tlsSecretName")]
    tls_secret_name: Option<Value>,
}

/// The same of a Service's.
#[derive(Deserialize)]
struct ServiceSpec {
    ports: Option<Vec<Value>>,
}

impl Scheduler {
    /// The scheduler of a DaskCluster, behind its Service.
    pub fn of(cluster: &Object, service: &Object) -> Self {
        let spec: Option<ClusterSpec> = cluster.field("spec").and_then(Result::ok);
        let tls_secret = spec.and_then(|spec| spec.tls_secret_name?.as_str().map(str::to_owned));
        Self::behind(service, cluster.at(), tls_secret.filter(|name| !name.is_empty()))
    }

    /// The scheduler of a cluster, behind its Service. Ports are found by the names that clients use (`tcp-comm`;
    /// `http-dashboard`, `dashboard` or the Service's own name), then by Dask's default numbers.
    pub fn behind(service: &Object, cluster: NamespacedName, tls_secret: Option<String>) -> Self {
        let spec: Option<ServiceSpec> = service.field("spec").and_then(Result::ok);
        let ports = spec.and_then(|spec| spec.ports).unwrap_or_default();
        let find = |names: &[&str], default: u16| {
            let named = |name: &&str| ports.iter().find(|port| port.get("name").and_then(Value::as_str) == Some(*name));
            let by_name = names.iter().find_map(named).and_then(ServicePort::read);
            by_name.or_else(|| ports.iter().filter_map(ServicePort::read).find(|port| port.number == default))
        };
        let name = service.metadata.name.as_str();
        Self {
            cluster,
            service: name.to_owned(),
            comm_port: find(&["tcp-comm"], COMM_PORT).unwrap_or(ServicePort::straight(COMM_PORT)),
            dashboard_port: find(&["http-dashboard", "dashboard", name], DASHBOARD_PORT),
            tls_secret,
        }
    }
}

/// Something to say to a scheduler.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum SchedulerCall {
    /// Which workers are registered, and which of them it can best do without.
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
    /// Those that are registered.
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
    /// The lower, the better the scheduler can do without it; all the same if it does not say.
    pub place: usize,
    /// What it has left to do, if it is `closing_gracefully`: it gets no more, and hands over what it holds. None: it gets
    /// work.
    pub retiring: Option<Left>,
}

/// What a worker that gets no more work has left of what it was given.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Left {
    /// Nothing: no more results will be on it.
    Nothing,
    /// Tasks that are not finished. Only those that it has begun will be.
    Tasks {
        /// Whether it has begun any, as far as it told last.
        begun: bool,
    },
}

/// Why there is no reply.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub enum SchedulerError {
    /// No connection, or no answer in time.
    #[error("the scheduler can't be reached: {}", quote(.0))]
    Unreachable(String),
    /// It answered something that can't be used.
    #[error("the scheduler's answer can't be used: {}", quote(.0))]
    Unusable(String),
    /// It has no way to answer this.
    #[error("the scheduler can't say: {}", quote(.0))]
    Unsupported(String),
    /// The Secret with the certificates can't be read or used.
    #[error("spec.tlsSecretName: {}", quote(.0))]
    Certificates(String),
}

impl SchedulerError {
    /// All kinds.
    pub const KINDS: [&str; 4] =
        ["SchedulerUnreachable", "SchedulerAnswerUnusable", "SchedulerUnsupported", "SchedulerCertificates"];

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

/// What is known from a scheduler when a reconcile begins.
///
/// Calls and replies have places in one order, the earlier before the later: two may come within a millisecond, and clocks are
/// set back.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Replies {
    /// The last reply to each call but [`SchedulerCall::Retire`], by the call's name, or why there is none.
    heard: BTreeMap<Cow<'static, str>, Heard>,
    /// What came of retiring each worker that is registered the last time, by address.
    retired: BTreeMap<String, Attempt>,
    /// Calls that are not answered yet, with their places.
    #[serde(with = "pairs")]
    under_way: BTreeMap<SchedulerCall, u64>,
    /// The last place that was given.
    last_place: u64,
}

/// One reply and when it came.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Heard {
    /// Milliseconds since the Unix epoch.
    pub at: u64,
    /// The call's place among all calls and replies of this scheduler; 0: it is not known any more.
    pub asked: u64,
    /// The reply's place.
    pub place: u64,
    /// Since when every attempt has failed, in milliseconds since the Unix epoch; none: the last one succeeded.
    pub failing_since: Option<u64>,
    /// The reply to the last attempt.
    pub result: Result<SchedulerReply, SchedulerError>,
}

/// What came of retiring a worker.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Attempt {
    /// When it ended, in milliseconds since the Unix epoch.
    pub at: u64,
    /// The call's place, see [`Heard::asked`].
    pub asked: u64,
    /// The reply's place.
    pub place: u64,
    /// Whether the worker is empty.
    pub result: Result<bool, SchedulerError>,
}

/// Calls are no keys of a JSON object.
mod pairs {
    use super::*;

    pub(super) fn serialize<S: Serializer>(calls: &BTreeMap<SchedulerCall, u64>, to: S) -> Result<S::Ok, S::Error> {
        to.collect_seq(calls)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<BTreeMap<SchedulerCall, u64>, D::Error> {
        Ok(Vec::deserialize(from)?.into_iter().collect())
    }
}

impl Replies {
    /// Notes that a call is made now, unless it is under way already.
    pub fn ask(&mut self, call: &SchedulerCall) {
        let place = self.next_place();
        self.under_way.entry(call.clone()).or_insert(place);
    }

    /// Notes the end of a call at `now`, in milliseconds since the Unix epoch.
    pub fn note(&mut self, call: &SchedulerCall, result: Result<SchedulerReply, SchedulerError>, now: u64) {
        let (asked, place) = (self.under_way.remove(call).unwrap_or_default(), self.next_place());
        if let SchedulerCall::Retire(addresses) = call {
            let result = result.map(|reply| match reply {
                SchedulerReply::Retired(empty) => empty.into_iter().collect(),
                _ => BTreeSet::new(),
            });
            for address in addresses {
                let result = result.as_ref().map(|empty| empty.contains(address)).map_err(Clone::clone);
                self.retired.insert(address.clone(), Attempt { at: now, asked, place, result });
            }
            return;
        }
        if let Ok(SchedulerReply::Workers(workers)) = &result {
            let registered: BTreeSet<_> = workers.iter().map(|worker| worker.address.as_str()).collect();
            self.retired.retain(|address, _| registered.contains(address.as_str()));
        }
        let before = self.heard.get(call.name()).and_then(|heard| heard.failing_since).filter(|since| *since <= now);
        let failing_since = result.is_err().then(|| before.unwrap_or(now));
        self.heard.insert(call.name().into(), Heard { at: now, asked, place, failing_since, result });
    }

    /// The last reply to a call of this name that is not older than `age`; none for [`SchedulerCall::Retire`]. One that is yet
    /// to come was heard before the clock was set back, and may be as old as that.
    pub fn fresh(&self, call: &SchedulerCall, age: Duration, now: u64) -> Option<&Heard> {
        let age = u64::try_from(age.as_millis()).unwrap_or(u64::MAX);
        self.heard.get(call.name()).filter(|heard| now.abs_diff(heard.at) <= age)
    }

    /// What came of retiring the worker of this address the last time.
    pub fn retired(&self, address: &str) -> Option<&Attempt> {
        self.retired.get(address)
    }

    /// The last place of a reply to [`SchedulerCall::Retire`]; 0: there is none.
    pub fn last_retired(&self) -> u64 {
        self.retired.values().map(|attempt| attempt.place).max().unwrap_or_default()
    }

    /// Whether this call is not answered yet.
    pub fn is_under_way(&self, call: &SchedulerCall) -> bool {
        self.under_way.contains_key(call)
    }

    /// The calls of [`SchedulerCall::Retire`] that are not answered yet, by the addresses that they name.
    pub fn retiring(&self) -> impl Iterator<Item = &[String]> {
        self.under_way.keys().filter_map(|call| match call {
            SchedulerCall::Retire(addresses) => Some(addresses.as_slice()),
            _ => None,
        })
    }

    /// The last place that was given to a call or a reply.
    pub fn last_place(&self) -> u64 {
        self.last_place
    }

    fn next_place(&mut self) -> u64 {
        self.last_place += 1;
        self.last_place
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
            let (found_comm, found_dashboard) = (found.comm_port.number, found.dashboard_port.map(|port| port.number));
            assert_eq!((found_comm, found_dashboard), (comm, dashboard), "{ports}");
        }
    }

    #[test]
    fn a_port_of_a_service_leads_to_one_of_the_pod() {
        for (port, target) in [
            (json!({"port": 8786}), TargetPort::Number(8786)),
            (json!({"port": 8786, "targetPort": null}), TargetPort::Number(8786)),
            (json!({"port": 8786, "targetPort": 1}), TargetPort::Number(1)),
            (json!({"port": 8786, "targetPort": "tcp-comm"}), TargetPort::Name("tcp-comm".to_owned())),
        ] {
            let found = scheduler(&json!([port]));
            assert_eq!(found.comm_port, ServicePort { number: 8786, target }, "{port}");
        }
    }

    fn worker(address: &str) -> SchedulerWorker {
        SchedulerWorker { name: address.to_owned(), address: address.to_owned(), place: 0, retiring: None }
    }

    #[test]
    fn replies_are_ordered_also_within_a_millisecond_and_when_the_clock_is_set_back() {
        let mut replies = Replies::default();
        let mut places = Vec::new();
        for (call, now) in
            [(SchedulerCall::Workers, 5_000), (SchedulerCall::IdleSince, 5_000), (SchedulerCall::Workers, 1_000)]
        {
            replies.ask(&call);
            replies.note(&call, Ok(SchedulerReply::IdleSince(None)), now);
            places.extend(replies.fresh(&call, Duration::MAX, now).map(|heard| [heard.asked, heard.place]));
        }
        assert_eq!(places, [[1, 2], [3, 4], [5, 6]]);
    }

    #[test]
    fn a_call_that_is_under_way_keeps_its_place_and_one_of_another_life_has_none() {
        let mut replies = Replies::default();
        replies.ask(&SchedulerCall::Workers);
        replies.ask(&SchedulerCall::Workers);
        let asked = |replies: &mut Replies| {
            replies.note(&SchedulerCall::Workers, Ok(SchedulerReply::Workers(Vec::new())), 1_000);
            replies.fresh(&SchedulerCall::Workers, Duration::MAX, 1_000).map(|heard| heard.asked)
        };
        assert_eq!((asked(&mut replies), asked(&mut replies)), (Some(1), Some(0)));
    }

    #[test]
    fn retiring_is_remembered_by_address_for_as_long_as_a_worker_is_registered() {
        let retire =
            |addresses: &[&str]| SchedulerCall::Retire(addresses.iter().map(|&address| address.into()).collect());
        let mut replies = Replies::default();
        let (both, one) = (retire(&["tcp://a", "tcp://b"]), retire(&["tcp://b"]));
        replies.ask(&both);
        replies.ask(&one);
        assert_eq!(replies.retiring().count(), 2);
        replies.note(&both, Ok(SchedulerReply::Retired(vec!["tcp://a".to_owned()])), 1_000);
        let result = |replies: &Replies, address| replies.retired(address).map(|attempt| attempt.result.clone());
        assert_eq!((result(&replies, "tcp://a"), result(&replies, "tcp://b")), (Some(Ok(true)), Some(Ok(false))));
        let failed = SchedulerError::Unreachable("refused".to_owned());
        replies.note(&one, Err(failed.clone()), 2_000);
        assert_eq!(result(&replies, "tcp://b"), Some(Err(failed)));
        assert_eq!((replies.retiring().count(), replies.last_retired()), (0, replies.last_place()));
        replies.note(&SchedulerCall::Workers, Ok(SchedulerReply::Workers(vec![worker("tcp://a")])), 3_000);
        assert_eq!((result(&replies, "tcp://a"), result(&replies, "tcp://b")), (Some(Ok(true)), None));
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

    #[test]
    fn replies_are_read_as_they_were_written_also_those_that_are_waited_for() {
        let mut replies = Replies::default();
        replies.note(&SchedulerCall::Workers, Ok(SchedulerReply::Workers(vec![worker("tcp://a:1")])), 7);
        replies.note(&SchedulerCall::IdleSince, Err(SchedulerError::Unreachable("gone".to_owned())), 8);
        replies.note(
            &SchedulerCall::Retire(vec!["tcp://a:1".to_owned()]),
            Ok(SchedulerReply::Retired(vec!["tcp://a:1".to_owned()])),
            9,
        );
        replies.ask(&SchedulerCall::Retire(vec!["tcp://b:1".to_owned()]));
        let read: Replies = serde_json::from_str(&serde_json::to_string(&replies).unwrap()).unwrap();
        assert_eq!(read, replies);
    }
}
