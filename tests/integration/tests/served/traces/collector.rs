//! A collector of spans on the loopback interface, which receives what OTLP over HTTP says, or does not.

use std::{
    collections::BTreeMap,
    convert::Infallible,
    future::pending,
    net::Ipv4Addr,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use anyhow::Context as _;
use dask_wasm_operator_test_support::wait_for;
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Full};
use hyper::{
    body::{Bytes, Incoming},
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::TokioIo;
use opentelemetry_proto::tonic::{
    collector::trace::v1::ExportTraceServiceRequest,
    common::v1::{AnyValue, any_value::Value},
};
use prost::Message as _;
use tokio::{net::TcpListener, task::JoinHandle};

/// How the collector meets what is sent to it.
#[derive(Clone, Copy)]
pub(super) enum Manner {
    /// Takes it, unless it was told to [refuse](Collector::refuse).
    Takes,
    /// Never answers.
    Hangs,
}

/// A span that has arrived.
#[derive(Clone, Debug)]
pub(super) struct Span {
    pub(super) name: String,
    pub(super) trace: Vec<u8>,
    pub(super) id: Vec<u8>,
    pub(super) parent: Vec<u8>,
    pub(super) attributes: BTreeMap<String, String>,
    /// What the program says of itself.
    pub(super) resource: BTreeMap<String, String>,
}

impl Span {
    /// An attribute, empty if there is none.
    pub(super) fn says(&self, name: &str) -> &str {
        self.attributes.get(name).map_or("", String::as_str)
    }
}

#[derive(Default)]
struct Received {
    spans: Mutex<Vec<Span>>,
    refuses: AtomicBool,
}

impl Received {
    fn spans(&self) -> MutexGuard<'_, Vec<Span>> {
        self.spans.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn answer(&self, request: Request<Incoming>, manner: Manner) -> anyhow::Result<StatusCode> {
        if let Manner::Hangs = manner {
            pending::<()>().await;
        }
        let is_expected = request.uri().path() == "/v1/traces";
        let body = request.into_body().collect().await?.to_bytes();
        if self.refuses.load(Ordering::Relaxed) || !is_expected {
            return Ok(StatusCode::SERVICE_UNAVAILABLE);
        }
        let received = ExportTraceServiceRequest::decode(body)?;
        self.spans().extend(spans(received));
        Ok(StatusCode::OK)
    }
}

/// See the module. It ends with this value.
pub(super) struct Collector {
    pub(super) port: u16,
    received: Arc<Received>,
    serving: JoinHandle<()>,
}

impl Drop for Collector {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

impl Collector {
    pub(super) async fn start(manner: Manner) -> anyhow::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let port = listener.local_addr()?.port();
        let received = Arc::new(Received::default());
        let serving = tokio::spawn(serve(listener, Arc::clone(&received), manner));
        Ok(Self { port, received, serving })
    }

    /// From now on answers that it is unavailable, or does so no more.
    pub(super) fn refuse(&self, refuses: bool) {
        self.received.refuses.store(refuses, Ordering::Relaxed);
    }

    /// What has arrived.
    pub(super) fn spans(&self) -> Vec<Span> {
        self.received.spans().clone()
    }

    /// Waits for a span, and answers it with all that are there.
    pub(super) async fn until(
        &self,
        what: &str,
        is_it: impl Fn(&Span, &[Span]) -> bool,
    ) -> anyhow::Result<(Span, Vec<Span>)> {
        let found = wait_for(what, Duration::from_secs(60), async || {
            let spans = self.spans();
            let found = spans.iter().find(|span| is_it(span, &spans)).cloned();
            Ok(found.map(|found| (found, spans)))
        });
        found.await.with_context(|| format!("of {:#?}", self.spans()))
    }
}

async fn serve(listener: TcpListener, received: Arc<Received>, manner: Manner) {
    while let Ok((stream, _)) = listener.accept().await {
        let received = Arc::clone(&received);
        let service = service_fn(move |request| {
            let received = Arc::clone(&received);
            async move {
                let status = received.answer(request, manner).await.unwrap_or(StatusCode::BAD_REQUEST);
                let mut answer = Response::new(Full::<Bytes>::default());
                *answer.status_mut() = status;
                Ok::<_, Infallible>(answer)
            }
        });
        tokio::spawn(http1::Builder::new().serve_connection(TokioIo::new(stream), service));
    }
}

fn spans(received: ExportTraceServiceRequest) -> Vec<Span> {
    let mut spans = Vec::new();
    for of_resource in received.resource_spans {
        let resource = of_resource.resource.map(|resource| attributes(resource.attributes)).unwrap_or_default();
        for span in of_resource.scope_spans.into_iter().flat_map(|scope| scope.spans) {
            spans.push(Span {
                name: span.name,
                trace: span.trace_id,
                id: span.span_id,
                parent: span.parent_span_id,
                attributes: attributes(span.attributes),
                resource: resource.clone(),
            });
        }
    }
    spans
}

fn attributes(attributes: Vec<opentelemetry_proto::tonic::common::v1::KeyValue>) -> BTreeMap<String, String> {
    attributes.into_iter().map(|attribute| (attribute.key, text(attribute.value))).collect()
}

fn text(value: Option<AnyValue>) -> String {
    match value.and_then(|value| value.value) {
        Some(Value::StringValue(text)) => text,
        Some(Value::BoolValue(truth)) => truth.to_string(),
        Some(Value::IntValue(number)) => number.to_string(),
        other => format!("{other:?}"),
    }
}
