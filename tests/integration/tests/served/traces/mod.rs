//! Whose each step is: in the traces that a collector receives, in the log, in the metrics.

mod collector;

use std::{collections::BTreeSet, time::Instant};

use anyhow::ensure;
use collector::{Collector, Manner, Span};
use dask_wasm_operator_core::pipeline::Step;
use dask_wasm_operator_test_support::wait_for;
use serde_json::{Value, json};

use crate::{
    endpoints::{free_port, get},
    manifests::{SIMPLE, cluster},
    objects::{CLUSTER, CONFIG_MAP, DEPLOYMENT, TIMEOUT, text},
    stage::{Stage, on_stage_with},
};

fn names_of_steps() -> BTreeSet<&'static str> {
    Step::ALL.into_iter().map(Step::name).collect()
}

fn children<'a>(of: &Span, spans: &'a [Span]) -> Vec<&'a Span> {
    spans.iter().filter(|span| span.parent == of.id && span.trace == of.trace).collect()
}

fn to(port: u16) -> String {
    format!("--otlp-endpoint=http://127.0.0.1:{port}")
}

#[tokio::test]
async fn a_reconcile_is_a_span_and_its_steps_and_calls_are_spans_in_it() -> anyhow::Result<()> {
    let collector = Collector::start(Manner::Takes).await?;
    let admin = free_port()?;
    let arguments = [to(collector.port), format!("--admin-address=127.0.0.1:{admin}")];
    on_stage_with(&json!({}), &arguments.each_ref().map(String::as_str), async |stage| {
        stage.create(&cluster(SIMPLE, 1)).await?;
        let created = stage.get(CLUSTER, SIMPLE).await?;
        let is_whole = |span: &Span, spans: &[Span]| {
            span.says("handler") == "cluster" && children(span, spans).len() == Step::ALL.len()
        };
        let (reconcile, spans) = collector.until("a reconcile of a cluster", is_whole).await?;
        assert_eq!(reconcile.name, "reconcile");
        let said = ["subject.kind", "subject.namespace", "subject.name", "subject.uid", "trigger", "attempt"];
        let uid = text(&created, "/metadata/uid");
        assert_eq!(
            said.map(|name| reconcile.says(name)),
            ["DaskCluster", &stage.namespace, SIMPLE, uid, "wake", "1"],
            "{reconcile:?}"
        );
        let steps: BTreeSet<_> = children(&reconcile, &spans).into_iter().map(|step| step.name.as_str()).collect();
        assert_eq!(steps, names_of_steps());
        assert_eq!(reconcile.resource.get("service.name").map(String::as_str), Some("dask-wasm-operator"));

        // Metrics call the steps the same.
        let (_, metrics) = get(admin, "/metrics").await?;
        for step in names_of_steps() {
            let series =
                format!("dask_operator_reconcile_step_duration_seconds_count{{handler=\"cluster\",step=\"{step}\"}}");
            ensure!(metrics.contains(&series), "{series} is not in\n{metrics}");
        }

        // A plugin's call is in the step that decides.
        stage.mount_odd("told", "Told").await?;
        stage.subject("calls", &json!({"do": "Answer"})).await?;
        stage.subject("fails", &json!({"do": "ForgeFailure"})).await?;
        for (subject, result) in [("calls", "Success"), ("fails", "PermanentFailure")] {
            let is_of_subject = |span: &Span, spans: &[Span]| {
                let calls = children(span, spans).into_iter().flat_map(|step| children(step, spans));
                span.says("subject.name") == subject && calls.into_iter().any(|call| call.says("result") == result)
            };
            let (reconcile, spans) = collector.until(&format!("a call for {subject}"), is_of_subject).await?;
            ensure!(reconcile.says("handler").starts_with("told/"), "{reconcile:?}");
            assert_eq!(reconcile.says("subject.kind"), "ConfigMap");
            let steps = children(&reconcile, &spans);
            let decide = steps.iter().find(|step| step.name == "decide");
            let calls = decide.map(|decide| children(decide, &spans)).unwrap_or_default();
            assert_eq!(calls.len(), 1, "{calls:?}");
            let said = ["trigger", "redelivery", "attempt", "result"].map(|name| calls[0].says(name));
            assert_eq!((calls[0].name.as_str(), said), ("call", ["observed", "false", "1", result]));
        }

        // What is left is sent at the end.
        stage.subject("last", &json!({"do": "Answer"})).await?;
        stage.until_there(CONFIG_MAP, "last").await?;
        stage.operator.until_logged(&["ready"]).await?;
        stage.stop().await?;
        let count = collector.spans().len();
        ensure!(count > spans.len(), "{count}");
        stage.start().await
    })
    .await
}

/// Lines of the log that are about a step: what they say of handler, subject and step.
async fn every_step_says_whose_it_is(format: &str, says: impl Fn(&str, &str, &Value) -> bool) -> anyhow::Result<()> {
    on_stage_with(&json!({}), &["--verbose", &format!("--log-format={format}")], async |stage| {
        stage.create(&cluster(SIMPLE, 1)).await?;
        stage.until_there(DEPLOYMENT, &format!("{SIMPLE}-scheduler")).await?;
        let created = stage.get(CLUSTER, SIMPLE).await?;
        for step in names_of_steps() {
            let what = format!("a line of {step}");
            let logged = wait_for(&what, TIMEOUT, async || {
                Ok(stage.operator.log().lines().any(|line| says(line, step, &created)).then_some(()))
            });
            logged.await?;
        }
        Ok(())
    })
    .await
}

fn says_in_text(line: &str, step: &str, of: &Value) -> bool {
    let [namespace, uid] = ["/metadata/namespace", "/metadata/uid"].map(|place| text(of, place));
    let words = [
        r#"reconcile{handler="cluster" subject.kind="DaskCluster""#,
        &format!("subject.namespace=\"{namespace}\" subject.name=\"{SIMPLE}\" trigger="),
        &format!("subject.uid=\"{uid}\"}}:{step}: "),
    ];
    words.iter().all(|words| line.contains(words))
}

#[tokio::test]
async fn a_line_of_any_step_says_whose_it_is_in_plain_logs() -> anyhow::Result<()> {
    every_step_says_whose_it_is("plain", says_in_text).await
}

#[tokio::test]
async fn a_line_of_any_step_says_whose_it_is_in_full_logs() -> anyhow::Result<()> {
    every_step_says_whose_it_is("full", says_in_text).await
}

#[tokio::test]
async fn a_line_of_any_step_says_whose_it_is_in_json_logs() -> anyhow::Result<()> {
    let says = |line: &str, step: &str, of: &Value| {
        let line: Value = serde_json::from_str(line).unwrap_or_default();
        let reconcile = &line["spans"][0];
        line["spans"][1] == json!({"name": step})
            && reconcile["name"] == "reconcile"
            && reconcile["handler"] == "cluster"
            && reconcile["subject.kind"] == "DaskCluster"
            && reconcile["subject.namespace"] == of["metadata"]["namespace"]
            && reconcile["subject.name"] == SIMPLE
            && reconcile["subject.uid"] == of["metadata"]["uid"]
            && reconcile["trigger"].is_string()
            && reconcile["attempt"].is_u64()
    };
    every_step_says_whose_it_is("json", says).await
}

/// The operator does its work, says once what is wrong, and ends in time.
async fn nothing_waits_for(
    port: u16,
    says: &str,
    then: impl AsyncFnOnce(&Stage) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    on_stage_with(&json!({}), &[&to(port), "--verbose"], async |stage| {
        stage.create(&cluster(SIMPLE, 2)).await?;
        stage.operator.until_logged(&["WARN", "SpansNotExported", says]).await?;
        stage.create(&cluster("other", 1)).await?;
        stage.until_there(DEPLOYMENT, "other-scheduler").await?;
        // Of what is sent later nothing more is said but to who asks for each step.
        stage.operator.until_logged(&["DEBUG", "spans are lost"]).await?;
        let log = stage.operator.log();
        assert_eq!(log.matches("SpansNotExported").count(), 1, "{log}");
        then(stage).await?;
        let begun = Instant::now();
        stage.stop().await?;
        ensure!(begun.elapsed().as_secs() < 10, "it took {:?}", begun.elapsed());
        stage.start().await
    })
    .await
}

#[tokio::test]
async fn a_collector_that_is_not_there_stops_nothing() -> anyhow::Result<()> {
    nothing_waits_for(free_port()?, "Connection refused", async |_| Ok(())).await
}

#[tokio::test]
async fn a_collector_that_hangs_stops_nothing() -> anyhow::Result<()> {
    let collector = Collector::start(Manner::Hangs).await?;
    nothing_waits_for(collector.port, "there is no answer within 10 s", async |_| Ok(())).await
}

#[tokio::test]
async fn a_collector_that_refuses_stops_nothing_and_is_used_when_it_takes_spans_again() -> anyhow::Result<()> {
    let collector = Collector::start(Manner::Takes).await?;
    collector.refuse(true);
    nothing_waits_for(collector.port, "503", async |stage| {
        collector.refuse(false);
        stage.create(&cluster("third", 1)).await?;
        collector.until("a span of the third", |span, _| span.says("subject.name") == "third").await?;
        stage.operator.until_logged(&["spans are exported again"]).await
    })
    .await
}
