//! The pods of schedulers and workers, and what is kept of them.
//!
//! A pod is ten times as large as what is asked of it, and there is one for each worker. So the watch of these pods keeps a
//! summary of each (1.2 kB of memory with what the index needs), under a kind of its own: whatever else watches pods (runners of jobs, plugins) has them whole. A summary
//! changes only when an answer does, so that what a kubelet reports now and then wakes nobody.

mod corrected;
mod deployment;
mod removed;
mod server;
mod status;
#[cfg(test)]
mod tests;

use std::{collections::BTreeMap, sync::Arc};

use serde::{Deserialize, Serialize};
use serde_json::value::to_raw_value;

pub(in crate::dask) use corrected::corrected;
pub(in crate::dask) use deployment::DeploymentStatus;
pub use server::{SchedulerPod, scheduler_pod};
pub(in crate::dask) use status::{PodStatus, Trouble, TroubleKind};

use server::Server;

use crate::{
    dask::{
        kinds::cluster_kind,
        naming::{CLUSTER_NAME_LABEL, COMPONENT_LABEL, WORKER_GROUP_NAME_LABEL},
    },
    object::{GroupVersionKind, Metadata, NamespacedName, Object, OwnerReference, Resource},
    related::{Lookup, Related},
    time::epoch_millis,
    wanted::Snapshot,
};

/// Set by Kubernetes' Deployment controller on the ReplicaSet that it makes, at the end of its name, and on its pods.
const POD_TEMPLATE_HASH: &str = "pod-template-hash";

/// The field of a summary that holds it.
const SUMMARY: &str = "status";

/// The name of the lookup of a cluster's pods.
const PODS: &str = "pods";

/// The kind under which summaries of pods are kept. The API server does not know it.
pub fn pod_summary_kind() -> GroupVersionKind {
    GroupVersionKind::new("", "v1", "PodSummary")
}

/// Where pods are watched of which summaries are kept.
pub fn pod_summary_resource() -> Resource {
    Resource { kind: pod_summary_kind(), plural: "pods".to_owned(), namespaced: true }
}

/// What is kept of a pod of a scheduler or worker.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct PodSummary {
    /// The Deployment that it is of, if it is of one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    deployment: Option<String>,
    /// Its addresses, as long as it has not ended.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    ips: Vec<String>,
    /// Since when all its containers that run have been running, in milliseconds since the Unix epoch by its node's clock;
    /// none: none runs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) running_since: Option<u64>,
    /// What keeps it from running.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    trouble: Option<Trouble>,
    /// How it is talked to, if it is a scheduler's and neither ended nor about to go.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    server: Option<Server>,
    /// Whether none of its containers can have run.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    has_never_run: bool,
}

/// The summary of a pod, as it is kept: controlled by the DaskCluster that its labels name.
/// `kind` is [`pod_summary_kind`], to be shared.
pub fn summary(kind: Arc<GroupVersionKind>, pod: &Object) -> Object {
    let status = PodStatus::of(pod);
    let (has_ended, is_going) = (status.has_ended(), pod.is_being_deleted());
    let label = |key: &str| pod.metadata.labels.get(key);
    let is_scheduler = label(COMPONENT_LABEL).is_some_and(|component| component == "scheduler");
    let summary = PodSummary {
        deployment: deployment_of(pod),
        running_since: status.running_since().and_then(epoch_millis).filter(|_| !has_ended),
        trouble: status.lasting_trouble().filter(|_| !has_ended && !is_going).map(|trouble| trouble.with_remedy(pod)),
        server: (is_scheduler && !has_ended && !is_going).then(|| Server::of(pod, &status)).flatten(),
        has_never_run: status.has_never_run(pod),
        ips: if has_ended { Vec::new() } else { status.ips() },
    };
    let summary = to_raw_value(&summary).expect("texts and numbers are JSON");
    let kept = [CLUSTER_NAME_LABEL, COMPONENT_LABEL, WORKER_GROUP_NAME_LABEL];
    let labels = kept.into_iter().filter_map(|key| Some((key.to_owned(), label(key)?.clone())));
    let owner = label(CLUSTER_NAME_LABEL).map(|cluster| {
        let at = NamespacedName { namespace: pod.metadata.namespace.clone(), name: cluster.clone() };
        OwnerReference {
            api_version: cluster_kind().api_version(),
            kind: cluster_kind().kind,
            uid: owner_of(&at),
            name: at.name,
            controller: true,
            block_owner_deletion: false,
        }
    });
    let metadata = Metadata {
        name: pod.metadata.name.clone(),
        namespace: pod.metadata.namespace.clone(),
        resource_version: pod.metadata.resource_version.clone(),
        labels: Arc::new(labels.collect()),
        owner_references: owner.into_iter().collect(),
        ..Metadata::default()
    };
    Object {
        kind,
        metadata,
        fields: [(SUMMARY.to_owned(), summary)].into_iter().collect(),
        managed_fields: Vec::new(),
        unreadable: pod.unreadable.clone(),
    }
}

/// The lookup of the pods of a DaskCluster.
pub(super) fn lookup(cluster: &NamespacedName) -> Lookup {
    Lookup::new(PODS, Related::ControlledBy(pod_summary_kind(), owner_of(cluster)))
}

/// The uid by which the pods of a DaskCluster are found: a pod says by name to which it belongs.
fn owner_of(cluster: &NamespacedName) -> String {
    format!("pods of {cluster}")
}

/// Its ReplicaSet is named after the Deployment and the hash of the template.
fn deployment_of(pod: &Object) -> Option<String> {
    let owner = pod.metadata.controller().filter(|owner| owner.kind == "ReplicaSet")?;
    let hash = pod.metadata.labels.get(POD_TEMPLATE_HASH)?;
    owner.name.strip_suffix(hash.as_str())?.strip_suffix('-').map(str::to_owned)
}

/// Pods, by Deployment and name.
#[derive(Debug, Default)]
pub(super) struct Pods<'a> {
    deployments: BTreeMap<String, BTreeMap<&'a str, PodSummary>>,
}

impl<'a> Pods<'a> {
    /// Those of a cluster, from what is kept of them; of one component only, if it is named.
    pub(super) fn of(seen: &'a Snapshot, component: Option<&str>) -> Self {
        let mut pods = Self::default();
        let is_of = |object: &&Arc<Object>| {
            component.is_none_or(|component| {
                object.metadata.labels.get(COMPONENT_LABEL).is_some_and(|label| label == component)
            })
        };
        for object in seen.related.get(PODS).into_iter().flatten().filter(is_of) {
            let Some(Ok(mut summary)) = object.field::<PodSummary>(SUMMARY) else { continue };
            let Some(deployment) = summary.deployment.take() else { continue };
            pods.deployments.entry(deployment).or_default().insert(&object.metadata.name, summary);
        }
        pods
    }

    /// The pods of a Deployment.
    fn of_deployment(&self, deployment: &str) -> impl Iterator<Item = (&'a str, &PodSummary)> {
        self.deployments.get(deployment).into_iter().flatten().map(|(name, summary)| (*name, summary))
    }

    /// What keeps the pods of a Deployment from running, and the name of the first that is kept.
    pub(super) fn trouble(&self, deployment: &str) -> Option<(&'a str, &Trouble)> {
        self.of_deployment(deployment).find_map(|(name, summary)| Some((name, summary.trouble.as_ref()?)))
    }

    /// Since when the youngest process of a Deployment has been running, in milliseconds since the Unix epoch; none: none
    /// runs.
    pub(super) fn running_since(&self, deployment: &str) -> Option<u64> {
        self.of_deployment(deployment).filter_map(|(_, summary)| summary.running_since).max()
    }

    /// Whether a Deployment surely holds no work: it was never complete, and each of its pods is known and has never run.
    pub(super) fn have_never_run(&self, deployment: &Object) -> bool {
        let status = DeploymentStatus::of(deployment);
        let pods: Vec<_> = self.of_deployment(&deployment.metadata.name).collect();
        let are_known = status.is_of(deployment) && status.replicas as usize <= pods.len();
        !status.has_started() && are_known && pods.iter().all(|(_, summary)| summary.has_never_run)
    }

    /// Whether a Deployment of this name has pods.
    pub(super) fn contains(&self, deployment: &str) -> bool {
        self.deployments.contains_key(deployment)
    }

    /// Whether a pod of a Deployment has an address.
    pub(super) fn has_address(&self, deployment: &str) -> bool {
        self.of_deployment(deployment).any(|(_, summary)| !summary.ips.is_empty())
    }

    /// The Deployments that have a pod with an address, by address.
    pub(super) fn by_ip(&self) -> BTreeMap<&str, Vec<&str>> {
        let mut by_ip: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
        for (deployment, pods) in &self.deployments {
            for ip in pods.values().flat_map(|summary| &summary.ips) {
                let hosts = by_ip.entry(ip).or_default();
                // They come one after the other.
                if hosts.last() != Some(&deployment.as_str()) {
                    hosts.push(deployment);
                }
            }
        }
        by_ip
    }
}
