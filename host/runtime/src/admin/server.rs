//! Health and metrics over HTTP: `/healthz`, `/readyz`, `/metrics`.
//!
//! What is healthy is not decided here but by whoever implements [`Health`]. Nothing that is served here can change anything.

use std::{future::Future, io, net::SocketAddr, sync::Arc};

use axum::{
    Router,
    extract::State,
    http::{StatusCode, header},
    response::IntoResponse,
    routing::get,
};
use serde_json::json;
use tokio::net::TcpListener;

use crate::{
    metrics::Metrics,
    process::exit::Failure,
    settings::{AdminEndpoint, HEALTH, METRICS, READINESS},
};

/// What is known of the operator's health. Asked from several threads at once; must answer from memory.
pub trait Health: Send + Sync + 'static {
    /// Whether work goes on; if not, why a new start may help.
    ///
    /// # Errors
    /// What is stuck.
    fn live(&self) -> Result<(), String>;

    /// Whether all that is needed has been read.
    ///
    /// # Errors
    /// What is missing.
    fn ready(&self) -> Result<(), String>;

    /// What is counted; none: nothing is yet.
    fn metrics(&self) -> Option<Arc<Metrics>>;
}

/// Why health and metrics can't be served.
#[derive(Debug, thiserror::Error)]
pub enum AdminError {
    /// The address is taken, or not of this machine.
    #[error("can't listen on {address} for health and metrics (--admin-address, --liveness)")]
    Bind {
        /// The address.
        address: String,
        /// Why.
        source: io::Error,
    },
    /// The listener failed later.
    #[error("serving health and metrics ended")]
    Serve {
        /// Why.
        source: io::Error,
    },
}

impl From<AdminError> for Failure {
    fn from(error: AdminError) -> Self {
        Self::Admin(error.into())
    }
}

/// A server that has its port already.
#[derive(Debug)]
pub struct AdminServer {
    listener: std::net::TcpListener,
    address: SocketAddr,
    health_path: String,
}

impl AdminServer {
    /// Takes the port. Connections wait until [`Self::serve`].
    ///
    /// # Errors
    /// When the address is taken or not of this machine.
    pub async fn bind(endpoint: &AdminEndpoint) -> Result<Self, AdminError> {
        let AdminEndpoint { address, health_path } = endpoint;
        let bind = async {
            let listener = TcpListener::bind(address).await?;
            Ok((listener.local_addr()?, listener.into_std()?))
        };
        let (local, listener) = bind.await.map_err(|source| AdminError::Bind { address: address.clone(), source })?;
        Ok(Self { listener, address: local, health_path: health_path.clone() })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Answers until `shutdown`, and then what was asked before. The runtime need not be the one in which the port was taken.
    ///
    /// # Errors
    /// When the listener fails.
    pub async fn serve(
        self,
        health: Arc<dyn Health>,
        shutdown: impl Future<Output = ()> + Send + 'static,
    ) -> Result<(), AdminError> {
        let router = router(&self.health_path, health);
        let listener = TcpListener::from_std(self.listener).map_err(|source| AdminError::Serve { source })?;
        let server = axum::serve(listener, router).with_graceful_shutdown(shutdown);
        server.await.map_err(|source| AdminError::Serve { source })
    }
}

fn router(health_path: &str, health: Arc<dyn Health>) -> Router {
    let live = get(|State(health): State<Arc<dyn Health>>| async move { answer(health.live()) });
    let mut router = Router::new()
        .route(HEALTH, live.clone())
        .route(READINESS, get(|State(health): State<Arc<dyn Health>>| async move { answer(health.ready()) }))
        .route(METRICS, get(|State(health): State<Arc<dyn Health>>| async move { figures(health.metrics()) }));
    if health_path != HEALTH {
        router = router.route(health_path, live);
    }
    router.with_state(health)
}

const OPENMETRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

fn figures(metrics: Option<Arc<Metrics>>) -> impl IntoResponse {
    let status = if metrics.is_some() { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    let text = metrics.map(|metrics| metrics.encode()).unwrap_or_default();
    (status, [(header::CONTENT_TYPE, OPENMETRICS)], text)
}

/// `now` is what the Python operator's health check tells.
fn answer(result: Result<(), String>) -> impl IntoResponse {
    let now = jiff::Timestamp::now().to_string();
    let (status, body) = match result {
        Ok(()) => (StatusCode::OK, json!({ "now": now })),
        Err(reason) => (StatusCode::SERVICE_UNAVAILABLE, json!({ "now": now, "reason": reason })),
    };
    (status, [(header::CONTENT_TYPE, "application/json")], body.to_string())
}

#[cfg(test)]
mod tests {
    use std::sync::{Mutex, OnceLock};

    use tokio::{
        io::{AsyncReadExt as _, AsyncWriteExt as _},
        net::TcpStream,
        sync::oneshot,
    };

    use super::*;

    struct Fake {
        live: Mutex<Result<(), String>>,
        ready: Mutex<Result<(), String>>,
        metrics: OnceLock<Arc<Metrics>>,
    }

    impl Health for Fake {
        fn live(&self) -> Result<(), String> {
            self.live.lock().unwrap().clone()
        }

        fn ready(&self) -> Result<(), String> {
            self.ready.lock().unwrap().clone()
        }

        fn metrics(&self) -> Option<Arc<Metrics>> {
            self.metrics.get().cloned()
        }
    }

    async fn get(address: SocketAddr, path: &str) -> (u16, String) {
        let mut stream = TcpStream::connect(address).await.unwrap();
        let request = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut response = String::new();
        stream.read_to_string(&mut response).await.unwrap();
        let status = response.split(' ').nth(1).unwrap().parse().unwrap();
        (status, response.split_once("\r\n\r\n").unwrap().1.to_owned())
    }

    #[tokio::test]
    async fn health_readiness_and_metrics_are_told() {
        let endpoint = AdminEndpoint::at_url("http://127.0.0.1:0/deep/health").unwrap();
        let server = AdminServer::bind(&endpoint).await.unwrap();
        let address = server.address();
        let health = Arc::new(Fake {
            live: Mutex::new(Ok(())),
            ready: Mutex::new(Err("no list of pods".into())),
            metrics: OnceLock::new(),
        });
        let (stop_tx, stop_rx) = oneshot::channel::<()>();
        let shutdown = async { drop(stop_rx.await) };
        let serving = tokio::spawn(server.serve(health.clone(), shutdown));

        for path in ["/healthz", "/deep/health"] {
            let (status, body) = get(address, path).await;
            let body: serde_json::Value = serde_json::from_str(&body).unwrap();
            assert_eq!(status, 200, "{path}");
            assert!(body["now"].as_str().unwrap().parse::<jiff::Timestamp>().is_ok(), "{body}");
        }
        let (status, body) = get(address, "/readyz").await;
        assert!(status == 503 && body.contains("\"reason\":\"no list of pods\""), "{status} {body}");
        *health.ready.lock().unwrap() = Ok(());
        assert_eq!(get(address, "/readyz").await.0, 200);
        *health.live.lock().unwrap() = Err("the watch of daskclusters made no progress for 300 s".into());
        let (status, body) = get(address, "/healthz").await;
        assert!(status == 503 && body.contains("made no progress"), "{status} {body}");
        assert_eq!(get(address, "/metrics").await.0, 503);
        let metrics = Metrics::new();
        metrics.set_queue_depth(5);
        assert!(health.metrics.set(Arc::new(metrics)).is_ok());
        let (status, body) = get(address, "/metrics").await;
        assert!(status == 200 && body.contains("\ndask_operator_queue_depth 5\n"), "{status} {body}");
        assert_eq!(get(address, "/").await.0, 404);

        drop(stop_tx);
        serving.await.unwrap().unwrap();
    }

    #[tokio::test]
    async fn a_taken_port_is_named() {
        let other = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = other.local_addr().unwrap().to_string();
        let error = AdminServer::bind(&AdminEndpoint::at_address(&address).unwrap()).await.unwrap_err();
        assert!(error.to_string().contains(&address) && error.to_string().contains("--admin-address"), "{error}");
    }
}
