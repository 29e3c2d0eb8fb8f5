use std::{
    net::TcpListener,
    sync::{Arc, Condvar, Mutex},
};

use futures::executor::block_on;
use opentelemetry_http::{Bytes, HttpClient as _, Request};
use tracing_subscriber::{layer::SubscriberExt as _, registry};

use super::*;

/// An exporter that is held up until it is let go.
#[derive(Clone, Debug, Default)]
struct HeldUp(Arc<Hold>);

#[derive(Debug, Default)]
struct Hold {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    is_free: bool,
    spans: Vec<SpanData>,
}

impl HeldUp {
    fn let_go(&self) {
        self.0.state.lock().unwrap().is_free = true;
        self.0.changed.notify_all();
    }

    fn spans(&self) -> Vec<SpanData> {
        self.0.state.lock().unwrap().spans.clone()
    }
}

impl SpanExporter for HeldUp {
    async fn export(&self, batch: Vec<SpanData>) -> OTelSdkResult {
        let held = self.0.changed.wait_while(self.0.state.lock().unwrap(), |state| !state.is_free);
        held.unwrap().spans.extend(batch);
        Ok(())
    }
}

fn within(traces: &Traces, what: impl FnOnce()) {
    tracing::subscriber::with_default(registry().with(traces.layer()), what);
}

#[test]
fn only_the_operators_own_spans_are_exported_and_their_texts_are_harmless() {
    let exporter = HeldUp::default();
    exporter.let_go();
    let traces = Traces::to(exporter.clone());
    within(&traces, || {
        let forged = "a\nready\u{1b}[2J\u{202e}";
        let _foreign = tracing::error_span!(target: "kube_client", "HTTP", url = forged).entered();
        let _own =
            tracing::error_span!(target: SPANS, "reconcile", subject.name = forged, handler = %forged, attempt = 3)
                .entered();
        tracing::error!("no part of it");
    });
    traces.close();
    let spans = exporter.spans();
    assert_eq!(spans.iter().map(|span| &*span.name).collect::<Vec<_>>(), ["reconcile"]);
    let texts: Vec<_> = spans[0].attributes.iter().map(|attribute| attribute.value.to_string()).collect();
    assert_eq!(
        texts,
        ["a\\nready\\u{1b}[2J\\u{202e}", "a\\nready\\u{1b}[2J\\u{202e}", "3"],
        "{:?}",
        spans[0].attributes
    );
    assert!(spans[0].events.is_empty());
}

/// The belief that is attacked: that spans wait for the collector in a queue of limited length, and nobody waits with them.
#[test]
fn a_collector_that_takes_nothing_holds_up_nobody_and_costs_bounded_memory() {
    let exporter = HeldUp::default();
    let traces = Traces::to(exporter.clone());
    within(&traces, || {
        for _ in 0..50_000 {
            tracing::error_span!(target: SPANS, "reconcile").in_scope(|| ());
        }
    });
    exporter.let_go();
    traces.close();
    let kept = exporter.spans().len();
    // What the queue holds, and the batch that was on its way.
    assert!((1..=2_048 + 512).contains(&kept), "{kept} spans were kept");
}

#[test]
fn a_collector_that_is_not_there_is_told_once() {
    let port = TcpListener::bind(("127.0.0.1", 0)).unwrap().local_addr().unwrap().port();
    let collector = Collector::new(&OtlpEndpoint::at_url(&format!("http://127.0.0.1:{port}")).unwrap()).unwrap();
    let lines = super::super::tests::lines(crate::settings::LogFormat::Full, || {
        for _ in 0..3 {
            let request = Request::post(format!("http://127.0.0.1:{port}/v1/traces")).body(Bytes::new()).unwrap();
            assert!(block_on(collector.send_bytes(request)).is_err());
        }
    });
    assert!(lines.len() == 1 && lines[0].contains("SpansNotExported"), "{lines:?}");
}
