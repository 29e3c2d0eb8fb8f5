//! Which of the processes that a scheduler knows run in which Deployments of a group.
//!
//! By default a process is named after its Deployment. Users may name them as they like, so a process is also looked for by
//! its address among the pods. One that is found neither way may be in any Deployment: what becomes of those is for the
//! caller to say.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use super::worker_set::{WorkerSet, is_worker_name};
use crate::{
    dask::pods::Pods,
    scheduler::{Left, SchedulerWorker},
};

/// What the scheduler knows of the group's workers.
pub(in crate::dask) struct Registered<'a> {
    all: &'a [SchedulerWorker],
    /// By Deployment: its processes.
    workers: BTreeMap<&'a str, Vec<&'a SchedulerWorker>>,
    /// Those that may run in any Deployment and get work.
    unplaced: Vec<&'a SchedulerWorker>,
}

/// Where a process runs.
enum Place<'a> {
    /// In this Deployment of the group.
    Deployment(&'a str),
    /// In another Deployment of the cluster.
    Elsewhere,
    Unknown,
}

impl<'a> Registered<'a> {
    /// Only the group's own: another group's workers are not ours to choose (dask-kubernetes issue 914).
    pub(in crate::dask) fn of(all: &'a [SchedulerWorker], set: &'a WorkerSet, pods: &'a Pods<'_>) -> Self {
        let by_ip = pods.by_ip();
        let mut known = Self { all, workers: BTreeMap::new(), unplaced: Vec::new() };
        for worker in all {
            let ip = ip_of(&worker.address);
            let hosts = ip.as_deref().and_then(|ip| by_ip.get(ip)).map(Vec::as_slice).unwrap_or_default();
            match place_of(&worker.name, hosts, set, pods) {
                Place::Deployment(name) => known.workers.entry(name).or_default().push(worker),
                Place::Unknown if worker.retiring.is_none() => known.unplaced.push(worker),
                Place::Elsewhere | Place::Unknown => {}
            }
        }
        known
    }

    /// Whether a process of the Deployment is registered.
    pub(in crate::dask) fn contains(&self, name: &str) -> bool {
        self.workers.contains_key(name)
    }

    fn of_deployment(&self, name: &str) -> &[&'a SchedulerWorker] {
        self.workers.get(name).map(Vec::as_slice).unwrap_or_default()
    }

    /// Whether a process of the Deployment is retiring.
    pub(in crate::dask) fn is_leaving(&self, name: &str) -> bool {
        self.of_deployment(name).iter().any(|worker| worker.retiring.is_some())
    }

    /// What the processes of the Deployment have left to do, the most of all, if all of them are retiring.
    pub(in crate::dask) fn left(&self, name: &str) -> Option<Left> {
        let left: Option<Vec<_>> = self.of_deployment(name).iter().map(|worker| worker.retiring).collect();
        left?.into_iter().max_by_key(|left| match left {
            Left::Nothing => 0,
            Left::Tasks { begun } => 1 + u8::from(*begun),
        })
    }

    /// The place of the process that the scheduler can do without least.
    pub(in crate::dask) fn place(&self, name: &str) -> Option<usize> {
        self.of_deployment(name).iter().map(|worker| worker.place).max()
    }

    /// The addresses of the Deployment's processes.
    pub(in crate::dask) fn addresses(&self, name: &str) -> Vec<String> {
        self.of_deployment(name).iter().map(|worker| worker.address.clone()).collect()
    }

    /// The addresses of the Deployment's processes that get work.
    pub(in crate::dask) fn at_work(&self, name: &str) -> impl Iterator<Item = String> {
        let at_work = self.of_deployment(name).iter().filter(|worker| worker.retiring.is_none());
        at_work.map(|worker| worker.address.clone())
    }

    /// Whether a worker of the cluster gets work that is not at any of these addresses: it can take what others hold.
    pub(in crate::dask) fn has_other_than(&self, addresses: &BTreeSet<String>) -> bool {
        self.all.iter().any(|worker| worker.retiring.is_none() && !addresses.contains(&worker.address))
    }

    /// The processes that may run in any Deployment.
    pub(in crate::dask) fn unplaced(&self) -> &[&'a SchedulerWorker] {
        &self.unplaced
    }
}

/// By its name, unless the pods of the Deployment of that name are known to be elsewhere; else by the one Deployment that has
/// a pod of its address (`hosts` are those that do, in their order). Pods on the network of their node share its address, and
/// that of a pod is given to another when it is gone: so a process that is named after a worker is never looked for by its
/// address alone. The scheduler may have told of it before its Deployment and pod were deleted.
fn place_of<'a>(worker: &str, hosts: &[&'a str], set: &'a WorkerSet, pods: &Pods<'_>) -> Place<'a> {
    let ours = |name: &str| set.get(name).map_or(Place::Elsewhere, Place::Deployment);
    let names = || deployments_named(worker).into_iter().flatten();
    let named = names().find(|name| set.contains(name) || pods.contains(name));
    match (named, hosts) {
        (Some(named), hosts) if hosts.binary_search(&named).is_ok() => ours(named),
        (Some(named), [host]) if pods.has_address(named) => ours(host),
        (Some(named), _) => ours(named),
        (None, _) if names().any(is_worker_name) => Place::Elsewhere,
        (None, [host]) => ours(host),
        (None, hosts) if !hosts.is_empty() && !hosts.iter().any(|host| set.contains(host)) => Place::Elsewhere,
        (None, _) => Place::Unknown,
    }
}

/// The Deployments after which a process of this name may be named: with `--nworkers`, processes are named `<deployment>-0`,
/// `<deployment>-1`, ….
fn deployments_named(worker: &str) -> [Option<&str>; 2] {
    let numbered = worker.rsplit_once('-').filter(|(_, number)| number.bytes().all(|byte| byte.is_ascii_digit()));
    [Some(worker), numbered.map(|(deployment, _)| deployment)]
}

/// Of `tcp://10.0.0.1:34567` or `tls://[fd00::1]:34567`.
pub(in crate::dask) fn ip_of(address: &str) -> Option<String> {
    let (_, address) = address.split_once("://")?;
    let (host, _) = address.rsplit_once(':')?;
    let ip: IpAddr = host.trim_start_matches('[').trim_end_matches(']').parse().ok()?;
    Some(ip.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_of_schedulers_workers() {
        for (address, ip) in [
            ("tcp://10.0.0.1:34567", Some("10.0.0.1")),
            ("tls://[fd00:0::1]:34567", Some("fd00::1")),
            ("tcp://node-7:34567", None),
            ("inproc://10.0.0.1/7/1", None),
            ("10.0.0.1", None),
            ("", None),
        ] {
            assert_eq!(ip_of(address).as_deref(), ip, "{address}");
        }
    }

    #[test]
    fn a_process_is_named_after_one_of_two_deployments() {
        assert_eq!(deployments_named("g-worker-a"), [Some("g-worker-a"), None]);
        assert_eq!(deployments_named("g-worker-a-12"), [Some("g-worker-a-12"), Some("g-worker-a")]);
        assert_eq!(deployments_named("a-"), [Some("a-"), Some("a")]);
    }
}
