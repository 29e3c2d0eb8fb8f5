//! The collector, as the exporter's thread reaches it.

use std::{
    fmt,
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use axum::http::{Uri, response::Parts};
use dask_wasm_operator_core::error::chain;
use http_body_util::{BodyExt as _, Full, Limited};
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::TokioExecutor,
};
use opentelemetry_http::{Bytes, HttpClient, HttpError, Request, Response};
use tokio::runtime::{Builder, Runtime};

use crate::settings::OtlpEndpoint;

/// The most that one request may take, and all attempts to send one batch: the default of the OTLP specification.
pub(super) const TIMEOUT: Duration = Duration::from_secs(10);

/// The most of an answer that is read. It holds a number and a sentence.
const ANSWER_BYTES: usize = 64 << 10;

/// An outage is told at most so often, also where the collector comes and goes.
const TOLD_AGAIN: Duration = Duration::from_secs(600);

/// See the module. It has a runtime of its own: what it does waits for nobody, and holds up nobody but the exporter's thread.
pub(super) struct Collector {
    endpoint: Uri,
    client: Client<HttpConnector, Full<Bytes>>,
    runtime: Runtime,
    outage: Mutex<Outage>,
}

/// Whether the collector takes what it is sent.
#[derive(Debug, Default)]
struct Outage {
    /// When it was told last that it does not.
    told: Option<Instant>,
    /// Whether that is the last that was told.
    is_on: bool,
}

impl Collector {
    pub(super) fn new(endpoint: &OtlpEndpoint) -> anyhow::Result<Self> {
        // One request in seconds is not worth a connection that is kept, and that may be gone when it is used again.
        let client = Client::builder(TokioExecutor::new()).pool_max_idle_per_host(0).build_http();
        let runtime = Builder::new_current_thread().enable_all().build()?;
        Ok(Self { endpoint: endpoint.traces().parse()?, client, runtime, outage: Mutex::default() })
    }

    async fn send(&self, request: Request<Bytes>) -> Result<(Parts, Bytes), HttpError> {
        let (parts, body) = self.client.request(request.map(Full::new)).await?.into_parts();
        let body = Limited::new(body, ANSWER_BYTES).collect().await?.to_bytes();
        Ok((parts, body))
    }

    fn note(&self, problem: Option<String>) {
        let mut outage = self.outage.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(problem) = problem else {
            if std::mem::take(&mut outage.is_on) {
                tracing::info!(collector = %self.endpoint, "spans are exported again; some were lost");
            }
            return;
        };
        if outage.told.is_none_or(|told| told.elapsed() >= TOLD_AGAIN) {
            *outage = Outage { told: Some(Instant::now()), is_on: true };
            tracing::warn!(
                collector = %self.endpoint,
                reason = "SpansNotExported",
                problem,
                "the collector takes no spans; they are lost until it does (--otlp-endpoint)"
            );
        } else {
            tracing::debug!(collector = %self.endpoint, problem, "spans are lost");
        }
    }
}

#[async_trait::async_trait]
impl HttpClient for Collector {
    async fn send_bytes(&self, request: Request<Bytes>) -> Result<Response<Bytes>, HttpError> {
        let sent = self.runtime.block_on(async {
            let late = || HttpError::from(format!("there is no answer within {} s", TIMEOUT.as_secs()));
            tokio::time::timeout(TIMEOUT, self.send(request)).await.unwrap_or_else(|_| Err(late()))
        });
        self.note(match &sent {
            Ok((parts, _)) if parts.status.is_success() => None,
            Ok((parts, _)) => Some(format!("it answers {}", parts.status)),
            Err(error) => Some(chain(error.as_ref())),
        });
        sent.map(|(parts, body)| Response::from_parts(parts, body))
    }
}

impl fmt::Debug for Collector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Collector").field("endpoint", &self.endpoint).finish_non_exhaustive()
    }
}
