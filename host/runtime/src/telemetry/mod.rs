//! Logs, to stderr, and spans, to a collector. Called once, before anything else can have something to say.
//!
//! A line of the log is one line, whatever the texts of others in it say: see [`fields`].

mod fields;
mod traces;

use std::{
    env,
    io::{self, IsTerminal as _},
    panic, thread,
};

use anyhow::Context as _;
use tracing::Subscriber;
use tracing_subscriber::{
    Layer as _,
    filter::LevelFilter,
    fmt::{self, MakeWriter},
    layer::SubscriberExt as _,
    registry,
};

use self::fields::{JsonFields, JsonLine, TextFields};
pub(crate) use self::traces::Traces;
use crate::settings::{LogFormat, LogSettings, OtlpEndpoint};

/// The target of the spans of reconciles. A line of whatever module says in which of them it was written.
pub(crate) const SPANS: &str = "dask_wasm_operator::spans";

/// Sends logs to stderr, panics included, and spans to a collector if there is one. Answers the way to it. That there is none
/// because of the environment is told, and no reason to stop.
///
/// # Errors
/// When it was called before.
pub(crate) fn install(log: &LogSettings, collector: Option<&OtlpEndpoint>) -> anyhow::Result<Option<Traces>> {
    let (traces, problem) = match collector.map(Traces::open).transpose() {
        Ok(traces) => (traces, None),
        Err(error) => (None, Some(error)),
    };
    // https://no-color.org
    let plain = env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    let subscriber = subscriber(log, traces.as_ref(), io::stderr, io::stderr().is_terminal() && !plain);
    tracing::subscriber::set_global_default(subscriber).context("installing the log")?;
    panic::set_hook(Box::new(log_panic));
    if let Some(problem) = problem {
        tracing::error!(
            problem = format!("{problem:#}"),
            "spans are not exported; correct --otlp-endpoint or the OTEL_ variables"
        );
    }
    Ok(traces)
}

fn subscriber<W>(
    settings: &LogSettings,
    traces: Option<&Traces>,
    writer: W,
    colours: bool,
) -> Box<dyn Subscriber + Send + Sync>
where
    W: for<'writer> MakeWriter<'writer> + Send + Sync + 'static,
{
    let layer = fmt::layer().with_writer(writer).with_ansi(colours);
    let layer = match settings.format {
        LogFormat::Plain => layer.fmt_fields(TextFields).without_time().with_level(false).with_target(false).boxed(),
        LogFormat::Full => layer.fmt_fields(TextFields).boxed(),
        LogFormat::Json => layer.fmt_fields(JsonFields).event_format(JsonLine).boxed(),
    };
    let levels = settings.levels.clone().with_target(SPANS, LevelFilter::ERROR);
    Box::new(registry().with(layer.with_filter(levels)).with(traces.map(Traces::layer)))
}

fn log_panic(panic: &panic::PanicHookInfo<'_>) {
    tracing::error!(
        thread = thread::current().name(),
        location = panic.location().map(tracing::field::display),
        reason = panic.payload_as_str(),
        "panic: this is a bug in the operator, please report it",
    );
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use tracing_subscriber::filter::Targets;

    use super::*;

    pub(super) fn lines(format: LogFormat, log: impl FnOnce()) -> Vec<String> {
        lines_at(Targets::new().with_default(LevelFilter::INFO), format, log)
    }

    fn lines_at(levels: Targets, format: LogFormat, log: impl FnOnce()) -> Vec<String> {
        let buffer = Arc::new(Mutex::new(Vec::new()));
        let settings = LogSettings { format, levels };
        tracing::subscriber::with_default(subscriber(&settings, None, Buffer(buffer.clone()), false), log);
        let text = String::from_utf8(buffer.lock().unwrap().clone()).unwrap();
        text.lines().map(str::to_owned).collect()
    }

    #[derive(Clone)]
    struct Buffer(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Buffer {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    impl MakeWriter<'_> for Buffer {
        type Writer = Self;

        fn make_writer(&self) -> Self {
            self.clone()
        }
    }

    fn talk() {
        let _span = tracing::info_span!("reconcile", plugin = "a").entered();
        tracing::info!(writes = 3, "done");
        tracing::debug!("not of interest");
    }

    #[test]
    fn json_has_message_and_fields_at_the_top() {
        let lines = lines(LogFormat::Json, talk);
        assert_eq!(lines.len(), 1, "{lines:?}");
        let line: serde_json::Value = serde_json::from_str(&lines[0]).unwrap();
        assert_eq!((&line["message"], &line["level"], &line["writes"]), (&"done".into(), &"INFO".into(), &3.into()));
        assert_eq!(line["spans"][0]["plugin"], "a");
        assert!(line["timestamp"].is_string());
    }

    #[test]
    fn plain_has_no_more_than_message_and_fields() {
        assert_eq!(lines(LogFormat::Plain, talk), ["reconcile{plugin=\"a\"}: done writes=3"]);
    }

    #[test]
    fn full_has_level_and_module() {
        let lines = lines(LogFormat::Full, talk);
        assert!(lines[0].contains(" INFO reconcile{plugin=\"a\"}: dask_wasm_operator::telemetry"), "{lines:?}");
    }

    #[test]
    fn a_line_stays_one_line_in_every_format_whatever_others_say() {
        for format in [LogFormat::Plain, LogFormat::Full, LogFormat::Json] {
            let lines = lines(format, || {
                let forged = "a\nready\r\u{1b}[2J\u{202e}\u{2028}\0";
                let error = io::Error::other(forged);
                let _span = tracing::info_span!("reconcile", subject = forged, kind = %forged).entered();
                tracing::info!(target: "guest", text = forged, shown = %forged, %error, debug = ?error, "{forged}");
                tracing::error!(error = &error as &dyn std::error::Error, message = forged);
            });
            assert_eq!(lines.len(), 2, "{format:?}: {lines:?}");
            for line in &lines {
                assert!(line.chars().all(|shown| matches!(shown, ' '..='~')), "{line:?}");
                assert!(line.contains("ready") && line.contains("202e"), "{line:?}");
            }
        }
    }

    #[test]
    fn a_field_is_cut_in_every_format() {
        for format in [LogFormat::Plain, LogFormat::Full, LogFormat::Json] {
            let long = "x".repeat(1 << 20);
            let lines = lines(format, || tracing::info!(text = long, shown = %long, "{long}"));
            assert!(lines[0].len() < 13_000 && lines[0].matches(" bytes more]").count() == 3, "{}", lines[0].len());
        }
    }

    #[test]
    fn what_a_span_learns_later_is_told() {
        for format in [LogFormat::Plain, LogFormat::Json] {
            let lines = lines(format, || {
                let span = tracing::info_span!("request", method = "GET", status = tracing::field::Empty).entered();
                span.record("status", 404);
                tracing::info!("refused");
            });
            match format {
                LogFormat::Json => {
                    let line: serde_json::Value = serde_json::from_str(&lines[0]).unwrap();
                    assert_eq!(
                        line["spans"][0],
                        serde_json::json!({"name": "request", "method": "GET", "status": 404})
                    );
                }
                _ => assert_eq!(lines, ["request{method=\"GET\" status=404}: refused"]),
            }
        }
    }

    #[test]
    fn a_line_says_whose_it_is_whatever_is_left_out() {
        let one_module = Targets::new().with_target("some_module", LevelFilter::DEBUG);
        for levels in [one_module, Targets::new().with_default(LevelFilter::WARN)] {
            let lines = lines_at(levels, LogFormat::Plain, || {
                let _span = tracing::error_span!(target: SPANS, "reconcile", handler = "a").entered();
                tracing::warn!(target: "some_module", "seen");
            });
            assert_eq!(lines, ["reconcile{handler=\"a\"}: seen"]);
        }
    }

    #[test]
    fn panics_are_logged() {
        let before = panic::take_hook();
        panic::set_hook(Box::new(log_panic));
        let lines = lines(LogFormat::Full, || assert!(panic::catch_unwind(|| panic!("oh {}", 1)).is_err()));
        panic::set_hook(before);
        assert!(
            lines[0].contains("ERROR") && lines[0].contains("oh 1") && lines[0].contains("telemetry/mod.rs:"),
            "{lines:?}"
        );
    }
}
