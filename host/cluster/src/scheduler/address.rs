//! Where schedulers are found.

use std::{collections::BTreeMap, str::FromStr, sync::Arc};

use dask_wasm_operator_core::{dask::SchedulerPod, object::NamespacedName};
use http::uri::Authority;
use thiserror::Error;

/// How schedulers are reached.
#[derive(Clone)]
pub struct Addresses {
    /// Those whose address was given, for tests and development. They are reached at that address only.
    pub given: BTreeMap<NamespacedName, GivenAddress>,
    /// The pod of any other.
    pub pods: FindPod,
    /// How those pods are reached.
    pub route: Route,
}

/// Finds the pod that is the scheduler of a cluster, if there is one.
pub type FindPod = Arc<dyn Fn(&NamespacedName) -> Option<SchedulerPod> + Send + Sync>;

/// How the pods of schedulers are reached.
#[derive(Clone)]
pub enum Route {
    /// At their addresses: from within the cluster.
    PodNetwork,
    /// Through the API server: from elsewhere. The client must have no read timeout, because a scheduler may be silent for
    /// minutes while it retires workers; the deadlines of the calls hold nevertheless. Needs the right to create
    /// `pods/portforward`.
    PortForward(kube::Client),
}

/// The address of one scheduler.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GivenAddress {
    comm: Authority,
    dashboard: Option<Authority>,
}

impl GivenAddress {
    /// `HOST:PORT` of its comm port.
    pub(super) fn comm(&self) -> &str {
        self.comm.as_str()
    }

    /// `HOST:PORT` of its HTTP server.
    pub(super) fn dashboard(&self) -> Option<&str> {
        self.dashboard.as_ref().map(Authority::as_str)
    }
}

/// Which scheduler is where: `NAMESPACE/CLUSTER=HOST:COMM_PORT[,HOST:DASHBOARD_PORT]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Given {
    /// The DaskCluster.
    pub cluster: NamespacedName,
    /// Its scheduler.
    pub address: GivenAddress,
}

/// Why a text gives no address.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
#[error("{0:?} is not NAMESPACE/CLUSTER=HOST:COMM_PORT[,HOST:DASHBOARD_PORT]")]
pub struct NotAnAddress(String);

impl FromStr for Given {
    type Err = NotAnAddress;

    fn from_str(text: &str) -> Result<Self, NotAnAddress> {
        parse(text).ok_or_else(|| NotAnAddress(text.to_owned()))
    }
}

fn parse(text: &str) -> Option<Given> {
    let (cluster, addresses) = text.split_once('=')?;
    let (namespace, name) = cluster.split_once('/')?;
    if namespace.is_empty() || name.is_empty() {
        return None;
    }
    let address = match addresses.split_once(',') {
        Some((comm, dashboard)) => GivenAddress { comm: authority(comm)?, dashboard: Some(authority(dashboard)?) },
        None => GivenAddress { comm: authority(addresses)?, dashboard: None },
    };
    Some(Given { cluster: NamespacedName::new(namespace, name), address })
}

fn authority(text: &str) -> Option<Authority> {
    let authority: Authority = text.parse().ok()?;
    let is_plain = !authority.host().is_empty() && authority.port_u16().is_some() && !text.contains('@');
    is_plain.then_some(authority)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_given_as_text() {
        let given: Given = "n/c=127.0.0.1:1,[::1]:2".parse().unwrap();
        assert_eq!(given.cluster, NamespacedName::new("n", "c"));
        assert_eq!((given.address.comm(), given.address.dashboard()), ("127.0.0.1:1", Some("[::1]:2")));
        assert_eq!("n/c=h:1".parse::<Given>().unwrap().address.dashboard(), None);
        for text in ["", "n/c", "c=h:1", "/c=h:1", "n/=h:1", "n/c=h", "n/c=:1", "n/c=h:1,", "n/c=h:1,h", "n/c=u@h:1"] {
            let error = text.parse::<Given>().unwrap_err();
            assert!(error.to_string().contains("HOST:COMM_PORT"), "{text}");
        }
    }
}
