//! Export of spans to a collector, by OTLP over HTTP.
//!
//! ```text
//! span ends ──► queue (bounded) ──► batch ──► texts are made harmless ──► HTTP, on a thread and a runtime of their own
//! ```
//!
//! Nothing of the operator waits for it. Where the collector is slower than the spans, or is not there, spans are lost.

mod collector;

use std::time::Duration;

use dask_wasm_operator_core::text::line;
use opentelemetry::{Key, KeyValue, Value, trace::TracerProvider as _};
use opentelemetry_otlp::{WithExportConfig as _, WithHttpConfig as _};
use opentelemetry_sdk::{
    Resource,
    error::OTelSdkResult,
    trace::{SdkTracerProvider, SpanData, SpanExporter},
};
use tracing::Subscriber;
use tracing_subscriber::{Layer, filter::filter_fn, registry::LookupSpan};

use self::collector::{Collector, TIMEOUT};
use super::{SPANS, fields::VALUE_BYTES};
use crate::settings::OtlpEndpoint;

/// How long the spans that are left may take at the end, beside what else is to be done in the 30 s that a pod has.
const FLUSH: Duration = Duration::from_secs(3);

/// What a resource is called that has no name.
const UNNAMED: &str = "unknown_service";

/// The way to the collector.
pub(crate) struct Traces(SdkTracerProvider);

impl Traces {
    /// Opens it. Nobody is asked whether the collector is there. Variables of the environment that OpenTelemetry specifies are
    /// read here: headers, the resource, the sampler, sizes of the queue and of batches.
    ///
    /// # Errors
    /// When one of them can't be followed, or there can be no more threads.
    pub(super) fn open(endpoint: &OtlpEndpoint) -> anyhow::Result<Self> {
        let exporter = opentelemetry_otlp::SpanExporter::builder()
            .with_http()
            .with_http_client(Collector::new(endpoint)?)
            .with_endpoint(endpoint.traces())
            .with_timeout(TIMEOUT)
            .build()?;
        Ok(Self::to(exporter))
    }

    fn to(exporter: impl SpanExporter + 'static) -> Self {
        let provider = SdkTracerProvider::builder().with_resource(resource()).with_batch_exporter(Harmless(exporter));
        Self(provider.build())
    }

    /// What sends the operator's own spans on their way.
    pub(super) fn layer<S>(&self) -> impl Layer<S> + Send + Sync + use<S>
    where
        S: Subscriber + for<'lookup> LookupSpan<'lookup> + Send + Sync,
    {
        tracing_opentelemetry::layer()
            .with_tracer(self.0.tracer(env!("CARGO_PKG_NAME")))
            .with_location(false)
            .with_threads(false)
            .with_target(false)
            .with_tracked_inactivity(false)
            .with_filter(filter_fn(|metadata| metadata.is_span() && metadata.target() == SPANS))
    }

    /// Sends what is left, for at most some seconds.
    pub(crate) fn close(self) {
        if let Err(error) = self.0.shutdown_with_timeout(FLUSH) {
            tracing::debug!(%error, "the last spans were not sent");
        }
    }
}

/// Who traces: this program, unless the environment says otherwise.
fn resource() -> Resource {
    let said = Resource::builder().build();
    let name = said.get(&Key::from_static_str("service.name"));
    let is_named = name.is_some_and(|name| !name.as_str().starts_with(UNNAMED));
    let version = KeyValue::new("service.version", env!("CARGO_PKG_VERSION"));
    let resource = Resource::builder().with_attribute(version);
    if is_named { resource } else { resource.with_service_name(env!("CARGO_PKG_NAME")) }.build()
}

/// Exports spans with every text in the form that it has in the log.
#[derive(Debug)]
struct Harmless<E>(E);

impl<E: SpanExporter> SpanExporter for Harmless<E> {
    async fn export(&self, mut batch: Vec<SpanData>) -> OTelSdkResult {
        for attribute in batch.iter_mut().flat_map(|span| &mut span.attributes) {
            if let Value::String(text) = &attribute.value {
                attribute.value = line(text.as_str(), VALUE_BYTES).into_owned().into();
            }
        }
        self.0.export(batch).await
    }

    fn shutdown_with_timeout(&self, timeout: Duration) -> OTelSdkResult {
        self.0.shutdown_with_timeout(timeout)
    }

    fn set_resource(&mut self, resource: &Resource) {
        self.0.set_resource(resource);
    }
}

#[cfg(test)]
mod tests;
