//! From a scheduler and one of its ports to a stream of bytes, however that is reached. RPC, TLS and HTTP lie on top.

use std::{io, time::Duration};

use dask_wasm_operator_core::scheduler::Scheduler;
use thiserror::Error;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
    time::timeout,
};

use super::{
    address::{Addresses, Route},
    forward::{self, ForwardError},
    tls::{self, CertificatesError},
};

/// A connection, whatever it goes through.
pub(super) trait Stream: AsyncRead + AsyncWrite + Send + Sync + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Sync + Unpin> Stream for T {}

/// A connection of any kind.
pub(super) type BoxStream = Box<dyn Stream>;

/// Why there is no connection.
#[derive(Debug, Error)]
pub(super) enum ConnectError {
    /// Nobody is there.
    #[error("{address}: no connection")]
    Tcp {
        /// `HOST:PORT`.
        address: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// It takes too long.
    #[error("{address}: no connection within {within:?}")]
    Silent {
        /// `HOST:PORT`.
        address: String,
        /// The deadline.
        within: Duration,
    },
    /// The API server does not let us through.
    #[error("{address}: no connection through the API server")]
    Forward {
        /// `HOST:PORT`.
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
        /// `HOST:PORT`.
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

impl Connector {
    /// To the comm port, over TLS if the cluster has certificates.
    pub(super) async fn comm(&self, scheduler: &Scheduler) -> Result<BoxStream, ConnectError> {
        let address = self.comm_address(scheduler);
        // Read each time, so that renewed certificates and withdrawn rights count from the next connection on.
        let tls = match &scheduler.tls_secret {
            Some(secret) => {
                Some((secret, tls::configuration(&self.client, namespace(scheduler), secret, self.connect).await?))
            }
            None => None,
        };
        let stream = self.open(scheduler, scheduler.comm_port, &address).await?;
        let Some((secret, configuration)) = tls else {
            return Ok(stream);
        };
        let handshake = tls::connect(stream, configuration, scheduler);
        match timeout(self.handshake, handshake).await {
            Ok(Ok(stream)) => Ok(stream),
            Ok(Err(source)) if tls::is_about_certificates(&source) => {
                Err(ConnectError::Rejected { address, secret: secret.clone(), source })
            }
            Ok(Err(source)) => Err(ConnectError::Tcp { address, source }),
            Err(_) => Err(ConnectError::Silent { address, within: self.handshake }),
        }
    }

    /// To the HTTP server; the second is its `HOST:PORT`.
    pub(super) async fn dashboard(&self, scheduler: &Scheduler) -> Result<(BoxStream, String), ConnectError> {
        let none = || ConnectError::NoDashboard(scheduler.service.clone());
        let given = self.addresses.given.get(&scheduler.cluster);
        let (port, address) = match given {
            // The port counts only where the address is not given.
            Some(given) => (0, given.dashboard().ok_or_else(none)?.to_owned()),
            None => {
                let port = scheduler.dashboard_port.ok_or_else(none)?;
                (port, self.service_address(scheduler, port))
            }
        };
        Ok((self.open(scheduler, port, &address).await?, address))
    }

    /// `HOST:PORT` of the comm port, for messages too.
    pub(super) fn comm_address(&self, scheduler: &Scheduler) -> String {
        match self.addresses.given.get(&scheduler.cluster) {
            Some(given) => given.comm().to_owned(),
            None => self.service_address(scheduler, scheduler.comm_port),
        }
    }

    fn service_address(&self, scheduler: &Scheduler, port: u16) -> String {
        let (service, namespace) = (&scheduler.service, namespace(scheduler));
        match &self.addresses.route {
            Route::ServiceDns { cluster_domain } => {
                format!("{service}.{namespace}.svc.{cluster_domain}:{port}")
            }
            Route::PortForward(_) => format!("{service}.{namespace}:{port}"),
        }
    }

    async fn open(&self, scheduler: &Scheduler, port: u16, address: &str) -> Result<BoxStream, ConnectError> {
        let address = || address.to_owned();
        let connection = async {
            match &self.addresses.route {
                Route::PortForward(client) if !self.addresses.given.contains_key(&scheduler.cluster) => {
                    let forwarded = forward::open(client, scheduler, port).await;
                    forwarded.map_err(|source| ConnectError::Forward { address: address(), source })
                }
                Route::PortForward(_) | Route::ServiceDns { .. } => {
                    let stream = TcpStream::connect(address()).await;
                    let stream = stream.and_then(|stream| stream.set_nodelay(true).map(|()| stream));
                    match stream {
                        Ok(stream) => Ok(Box::new(stream) as BoxStream),
                        Err(source) => Err(ConnectError::Tcp { address: address(), source }),
                    }
                }
            }
        };
        let silent = || ConnectError::Silent { address: address(), within: self.connect };
        timeout(self.connect, connection).await.map_err(|_| silent())?
    }
}

/// The namespace of the cluster, its Service and its Secret.
pub(super) fn namespace(scheduler: &Scheduler) -> &str {
    scheduler.cluster.namespace.as_deref().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use dask_wasm_operator_core::object::NamespacedName;

    use super::{super::address::Given, *};

    #[tokio::test]
    async fn fault_19_schedulers_have_the_names_of_their_services() {
        let scheduler = Scheduler {
            cluster: NamespacedName::new("team", "c"),
            service: "c-scheduler".to_owned(),
            comm_port: 9786,
            dashboard_port: None,
            tls_secret: None,
        };
        let configuration = kube::Config::new("http://127.0.0.1:1".parse().unwrap());
        let given =
            BTreeMap::from([(NamespacedName::new("other", "c"), "other/c=h:1".parse::<Given>().unwrap().address)]);
        let mut connector = Connector {
            client: kube::Client::try_from(configuration).unwrap(),
            addresses: Addresses { given, route: Route::ServiceDns { cluster_domain: "cluster.example".to_owned() } },
            connect: Duration::ZERO,
            handshake: Duration::ZERO,
        };
        assert_eq!(connector.comm_address(&scheduler), "c-scheduler.team.svc.cluster.example:9786");
        let other = Scheduler { cluster: NamespacedName::new("other", "c"), ..scheduler.clone() };
        assert_eq!(connector.comm_address(&other), "h:1");
        connector.addresses.route = Route::PortForward(connector.client.clone());
        assert_eq!(connector.comm_address(&scheduler), "c-scheduler.team:9786");
        assert_eq!(connector.comm_address(&other), "h:1", "what is given counts on every route");
        let error = connector.dashboard(&scheduler).await.err().unwrap();
        assert_eq!(error.to_string(), "Service c-scheduler has no port for the dashboard");
    }
}
