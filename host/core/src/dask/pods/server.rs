//! Which pod is a cluster's scheduler, and at which of its addresses it is talked to.
//!
//! A Service is its user's: it may lead to another name, or to endpoints that the user wrote. So schedulers are not looked for
//! behind their Services, but are the pods of the Deployment that the DaskCluster controls. Their addresses are kubelet's
//! word; of the Service only the numbers of its ports count.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{PodStatus, PodSummary, SUMMARY, owner_of, pod_summary_kind};
use crate::{
    dask::{
        kinds::{cluster_kind, deployment_kind},
        naming::{COMPONENT_LABEL, scheduler_name},
    },
    object::{NamespacedName, Object},
    ports::Observed,
    scheduler::{ServicePort, TargetPort},
};

/// Ports of a pod that are kept: more than any scheduler has.
const PORTS: usize = 32;

/// What is kept of a scheduler's pod to talk to it.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Server {
    /// Its addresses, the first one first.
    ips: Vec<IpAddr>,
    /// Whether it is ready.
    ready: bool,
    /// Whether its addresses are those of its node.
    host_network: bool,
    /// The TCP ports that its containers declare, with their names.
    ports: Vec<(String, u16)>,
}

impl Server {
    /// Of a pod that is to stay.
    pub(super) fn of(pod: &Object, status: &PodStatus) -> Option<Self> {
        let mut ips: Vec<IpAddr> = status.ips_in_order().filter_map(|ip| ip.parse().ok()).collect();
        ips.dedup();
        if ips.is_empty() {
            return None;
        }
        let spec: Value = pod.field("spec").and_then(Result::ok).unwrap_or_default();
        let host_network = spec.get("hostNetwork").and_then(Value::as_bool).unwrap_or_default();
        Some(Self { ips, ready: status.is_ready(), host_network, ports: declared_ports(&spec) })
    }
}

/// As Kubernetes looks for the target of a Service: of sidecars, too, which are init containers.
fn declared_ports(spec: &Value) -> Vec<(String, u16)> {
    let list = |parent: &Value, field: &str| parent.get(field).and_then(Value::as_array).cloned().unwrap_or_default();
    let containers = ["containers", "initContainers"].into_iter().flat_map(|field| list(spec, field));
    let ports = containers.flat_map(|container| list(&container, "ports"));
    let tcp =
        ports.filter(|port| port.get("protocol").and_then(Value::as_str).is_none_or(|protocol| protocol == "TCP"));
    let declared = tcp.filter_map(|port| {
        let number = u16::try_from(port.get("containerPort")?.as_u64()?).ok()?;
        let name = port.get("name").and_then(Value::as_str).unwrap_or_default();
        Some((name.to_owned(), number))
    });
    declared.take(PORTS).collect()
}

/// The pod that is a cluster's scheduler.
#[derive(Debug, PartialEq, Eq)]
pub struct SchedulerPod {
    /// Its name.
    pub name: String,
    /// Its addresses, the first one first. There is one.
    pub ips: Vec<IpAddr>,
    host_network: bool,
    ports: Vec<(String, u16)>,
}

impl SchedulerPod {
    /// The pod's port behind a port of the Service; none: there is none that may be talked to. In the network of a node only
    /// those count that the pod declares, as the API server has admitted them: there are others' behind the rest.
    pub fn port(&self, port: &ServicePort) -> Option<u16> {
        let number = match &port.target {
            TargetPort::Number(number) => *number,
            TargetPort::Name(name) => self.ports.iter().find(|(declared, _)| declared == name)?.1,
        };
        let is_its_own = !self.host_network || self.ports.iter().any(|(_, declared)| *declared == number);
        (is_its_own && number > 0).then_some(number)
    }
}

/// The scheduler of a cluster, as far as it can be told: a pod with the cluster's labels whose ReplicaSet is named after the
/// Deployment that the DaskCluster controls. A ready one if there is one, of those the youngest.
pub fn scheduler_pod(observed: &dyn Observed, cluster: &NamespacedName) -> Option<SchedulerPod> {
    let uid = observed.get(&cluster_kind(), cluster)?.metadata.uid.clone();
    let at = NamespacedName { namespace: cluster.namespace.clone(), name: scheduler_name(&cluster.name) };
    observed.get(&deployment_kind(), &at).filter(|deployment| deployment.is_controlled_by(&uid))?;
    let pods = observed.controlled_by(&pod_summary_kind(), &owner_of(cluster));
    let candidates = pods.iter().filter_map(|pod| {
        let is_scheduler = pod.metadata.labels.get(COMPONENT_LABEL).is_some_and(|component| component == "scheduler");
        let summary: PodSummary = pod.field(SUMMARY)?.ok()?;
        let is_of_deployment = summary.deployment.as_ref() == Some(&at.name);
        let server = summary.server.filter(|_| is_scheduler && is_of_deployment)?;
        Some(((server.ready, summary.running_since), (pod, server)))
    });
    let (_, (pod, server)) = candidates.max_by_key(|(rank, _)| *rank)?;
    let Server { ips, host_network, ports, .. } = server;
    Some(SchedulerPod { name: pod.metadata.name.clone(), ips, host_network, ports })
}
