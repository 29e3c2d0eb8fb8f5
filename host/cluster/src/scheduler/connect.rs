//! From a scheduler and one of its ports to a stream of bytes, however that is reached. RPC, TLS and HTTP lie on top.

use std::{io, net::SocketAddr, time::Duration};

use dask_wasm_operator_core::scheduler::{Scheduler, ServicePort};
use thiserror::Error;
use tokio::{net::TcpStream, time::timeout};

use super::{
    address::{Addresses, Route},
    forward::{self, ForwardError},
    stream::BoxStream,
    tls::{self, CertificatesError},
};

/// Why there is no connection.
#[derive(Debug, Error)]
pub(super) enum ConnectError {
    /// Nobody is there.
    #[error("{address}: no connection")]
    Tcp {
        /// Where.
        address: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// It takes too long.
    #[error("{address}: no connection within {within:?}")]
    Silent {
        /// Where.
        address: String,
        /// The deadline.
        within: Duration,
    },
    /// The API server does not let us through.
    #[error("{address}: no connection through the API server")]
    Forward {
        /// Where.
        address: String,
        /// Why.
        #[source]
        source: ForwardError,
    },
    /// The certificates can't be had.
    #[error(transparent)]
    Certificates(#[from] CertificatesError),
    /// One side does not accept the other's certificate.
    #[error(
        "{address}: the certificates are not accepted; do ca.crt, tls.crt and tls.key of Secret {secret} belong to this \
         scheduler?"
    )]
    Rejected {
        /// Where.
        address: String,
        /// Name of the Secret.
        secret: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The scheduler's Service has no port for HTTP.
    #[error("Service {0} has no port for the dashboard")]
    NoDashboard(String),
    /// There is nothing to connect to.
    #[error("no pod of Deployment {0} has an address")]
    NoPod(String),
    /// The Service leads elsewhere.
    #[error(
        "port {port} of Service {service} leads to no port that Pod {pod} declares; correct targetPort in \
         spec.scheduler.service, or ports in spec.scheduler.spec"
    )]
    NoPort {
        /// Name of the Service.
        service: String,
        /// Its port.
        port: u16,
        /// Name of the pod.
        pod: String,
    },
}

/// Makes connections to schedulers.
pub(super) struct Connector {
    /// Reads Secrets.
    pub(super) client: kube::Client,
    pub(super) addresses: Addresses,
    /// How long a connection may take, its TLS handshake apart.
    pub(super) connect: Duration,
    /// How long a TLS handshake may take.
    pub(super) handshake: Duration,
}

/// Where a port of a scheduler is.
enum Place {
    /// At the address that was given for it.
    Given(String),
    /// In its pod.
    Pod { name: String, addresses: Vec<SocketAddr>, port: u16 },
}

impl Place {
    /// For messages.
    fn name(&self) -> String {
        match self {
            Self::Given(address) => address.clone(),
            Self::Pod { name, port, .. } => format!("port {port} of Pod {name}"),
        }
    }
}

impl Connector {
    /// To the comm port, over TLS if the cluster has certificates.
    pub(super) async fn comm(&self, scheduler: &Scheduler) -> Result<BoxStream, ConnectError> {
        // Read each time, so that renewed certificates and withdrawn rights count from the next connection on.
        let tls = match &scheduler.tls_secret {
            Some(secret) => {
                Some((secret, tls::configuration(&self.client, namespace(scheduler), secret, self.connect).await?))
            }
            None => None,
        };
        let place = self.comm_place(scheduler)?;
        let stream = self.open(scheduler, &place).await?;
        let Some((secret, configuration)) = tls else {
            return Ok(stream);
        };
        let (address, handshake) = (place.name(), tls::connect(stream, configuration, host(scheduler)));
        match timeout(self.handshake, handshake).await {
            Ok(Ok(stream)) => Ok(stream),
            Ok(Err(source)) if tls::is_about_certificates(&source) => {
                Err(ConnectError::Rejected { address, secret: secret.clone(), source })
            }
            Ok(Err(source)) => Err(ConnectError::Tcp { address, source }),
            Err(_) => Err(ConnectError::Silent { address, within: self.handshake }),
        }
    }

    /// To the HTTP server; the second is the `HOST:PORT` that it is told to be.
    pub(super) async fn dashboard(&self, scheduler: &Scheduler) -> Result<(BoxStream, String), ConnectError> {
        let none = || ConnectError::NoDashboard(scheduler.service.clone());
        let (place, host) = match self.addresses.given.get(&scheduler.cluster) {
            Some(given) => {
                let address = given.dashboard().ok_or_else(none)?.to_owned();
                (Place::Given(address.clone()), address)
            }
            None => {
                let port = scheduler.dashboard_port.as_ref().ok_or_else(none)?;
                let host = format!("{}:{}", host(scheduler), port.number);
                (self.pod_place(scheduler, port)?, host)
            }
        };
        Ok((self.open(scheduler, &place).await?, host))
    }

    /// Where the comm port is, for messages.
    pub(super) fn comm_address(&self, scheduler: &Scheduler) -> String {
        self.comm_place(scheduler).map_or_else(|error| error.to_string(), |place| place.name())
    }

    fn comm_place(&self, scheduler: &Scheduler) -> Result<Place, ConnectError> {
        match self.addresses.given.get(&scheduler.cluster) {
            Some(given) => Ok(Place::Given(given.comm().to_owned())),
            None => self.pod_place(scheduler, &scheduler.comm_port),
        }
    }

    /// The pod is looked for each time: it may have been replaced.
    fn pod_place(&self, scheduler: &Scheduler, port: &ServicePort) -> Result<Place, ConnectError> {
        // The Deployment has the name of the Service.
        let pod = (self.addresses.pods)(&scheduler.cluster);
        let pod = pod.ok_or_else(|| ConnectError::NoPod(scheduler.service.clone()))?;
        let Some(number) = pod.port(port) else {
            let (service, port) = (scheduler.service.clone(), port.number);
            return Err(ConnectError::NoPort { service, port, pod: pod.name });
        };
        let addresses = pod.ips.into_iter().map(|ip| SocketAddr::new(ip, number)).collect();
        Ok(Place::Pod { name: pod.name, addresses, port: number })
    }

    async fn open(&self, scheduler: &Scheduler, place: &Place) -> Result<BoxStream, ConnectError> {
        let connection = async {
            let stream = match (place, &self.addresses.route) {
                (Place::Pod { name, port, .. }, Route::PortForward(client)) => {
                    let forwarded = forward::open(client, namespace(scheduler), name, *port).await;
                    return forwarded.map_err(|source| ConnectError::Forward { address: place.name(), source });
                }
                (Place::Pod { addresses, .. }, Route::PodNetwork) => TcpStream::connect(&addresses[..]).await,
                (Place::Given(address), _) => TcpStream::connect(address).await,
            };
            let stream = stream.and_then(|stream| stream.set_nodelay(true).map(|()| stream));
            match stream {
                Ok(stream) => Ok(Box::new(stream) as BoxStream),
                Err(source) => Err(ConnectError::Tcp { address: place.name(), source }),
            }
        };
        let silent = || ConnectError::Silent { address: place.name(), within: self.connect };
        timeout(self.connect, connection).await.map_err(|_| silent())?
    }
}

/// The name of the Service within the cluster.
fn host(scheduler: &Scheduler) -> String {
    format!("{}.{}", scheduler.service, namespace(scheduler))
}

/// The namespace of the cluster, its Service and its Secret.
fn namespace(scheduler: &Scheduler) -> &str {
    scheduler.cluster.namespace.as_deref().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeMap, sync::Arc};

    use dask_wasm_operator_core::object::NamespacedName;

    use super::{super::address::Given, *};

    #[tokio::test]
    async fn an_address_that_was_given_counts_on_every_route() {
        let scheduler = Scheduler {
            cluster: NamespacedName::new("team", "c"),
            service: "c-scheduler".to_owned(),
            comm_port: ServicePort::straight(9786),
            dashboard_port: None,
            tls_secret: None,
        };
        let other = Scheduler { cluster: NamespacedName::new("other", "c"), ..scheduler.clone() };
        let given: Given = "other/c=h:1".parse().unwrap();
        let client = kube::Client::try_from(kube::Config::new("http://127.0.0.1:1".parse().unwrap())).unwrap();
        for route in [Route::PodNetwork, Route::PortForward(client.clone())] {
            let given = BTreeMap::from([(given.cluster.clone(), given.address.clone())]);
            let connector = Connector {
                client: client.clone(),
                addresses: Addresses { given, pods: Arc::new(|_| None), route },
                connect: Duration::ZERO,
                handshake: Duration::ZERO,
            };
            assert_eq!(connector.comm_address(&other), "h:1");
            let error = connector.comm(&scheduler).await.err().unwrap();
            assert_eq!(error.to_string(), "no pod of Deployment c-scheduler has an address");
            let error = connector.dashboard(&scheduler).await.err().unwrap();
            assert_eq!(error.to_string(), "Service c-scheduler has no port for the dashboard");
        }
    }
}
