//! Names and labels that clients of the Python operator rely on, and what the pods of a cluster are found by.

use std::collections::BTreeMap;

use crate::{
    names::{DNS_LABEL_MAX, check_dns_label},
    wanted::Problem,
};

/// The cluster that an object belongs to.
pub(super) const CLUSTER_NAME_LABEL: &str = "dask.org/cluster-name";
/// `scheduler`, `worker`, `workergroup`.
pub const COMPONENT_LABEL: &str = "dask.org/component";
/// The worker group that a worker belongs to.
pub(super) const WORKER_GROUP_NAME_LABEL: &str = "dask.org/workergroup-name";

/// Longest name of a cluster: its Service `<name>-scheduler` must be a DNS label.
pub(super) const NAME_MAX: usize = DNS_LABEL_MAX - "-scheduler".len();
const _: () = assert!(NAME_MAX == 53, "the length that clients of the Python operator know");

/// The default group's workers, for the status.
pub(super) const WORKERS: &str = "workers";

/// The cluster that the group belongs to.
pub(super) const CLUSTER: &str = "cluster";

pub(super) fn scheduler_name(cluster: &str) -> String {
    format!("{cluster}-scheduler")
}

pub(super) fn default_group_name(cluster: &str) -> String {
    format!("{cluster}-default")
}

pub(super) fn check_name(name: &str) -> Result<(), Problem> {
    let why = match check_dns_label(name) {
        Err(error) => error.to_string(),
        Ok(()) if name.len() > NAME_MAX => format!("has {} characters", name.len()),
        Ok(()) => return Ok(()),
    };
    Err(Problem::permanent(
        "InvalidName",
        format!(
            "DaskCluster {name}: metadata.name {why}; a cluster's name is a DNS label of at most {NAME_MAX} \
             characters, because its Service is named <name>-scheduler: recreate it under another name"
        ),
    ))
}

/// Labels by which the pods of a group's workers are found.
pub(super) fn worker_selector(cluster: &str, group: &str) -> String {
    let labels =
        BTreeMap::from([(CLUSTER_NAME_LABEL, cluster), (COMPONENT_LABEL, "worker"), (WORKER_GROUP_NAME_LABEL, group)]);
    labels.iter().map(|(key, value)| format!("{key}={value}")).collect::<Vec<_>>().join(",")
}
