//! What the operator counts, for Prometheus.
//!
//! All names stand here. They are `dask_operator_` and then what controller-runtime calls the same thing, if it has it; those
//! of the process are what every Prometheus client library calls them. Labels hold words from the code, names of handlers and
//! names of plugins, never names of subjects: there may be any number of those.

mod events;
mod objects;
mod process;
mod series;
mod watches;
pub(crate) mod writes;

use std::{
    borrow::Cow,
    hash::Hash,
    sync::{Arc, atomic::AtomicU64},
    time::{Duration, SystemTime},
};

use dask_wasm_operator_cluster::{events::Events, index::Index, watch::Watches};
use dask_wasm_operator_core::{
    action::{WriteError, Written},
    plugin::HandlerName,
    ports::CallReport,
    scheduler::{SchedulerError, SchedulerReply},
    text::line,
};
use prometheus_client::{
    encoding::{EncodeLabelSet, text},
    metrics::{counter::Counter, family::Family, gauge::Gauge, histogram::Histogram, info::Info},
    registry::{Registry, Unit},
};

use self::series::Series;

/// Upper bounds in seconds. One reconcile is a few writes of some milliseconds each; a slow one waits for its plugins, which
/// have up to 10 s.
const RECONCILE_BUCKETS: [f64; 13] = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0];

/// Upper bounds in seconds, few, as there are seven steps of each handler. Most take microseconds; a decision waits for its plugin,
/// which has up to 10 s, and a write for the API server.
const STEP_BUCKETS: [f64; 6] = [0.0001, 0.001, 0.01, 0.1, 1.0, 10.0];

/// Upper bounds in seconds. A call takes some hundred microseconds, and at most the longest deadline, 10 s.
const CALL_BUCKETS: [f64; 12] = [0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.05, 0.1, 0.5, 1.0, 10.0];

/// Upper bounds in seconds. Who is woken is served within a millisecond, unless there is more to do than can be done.
const WAIT_BUCKETS: [f64; 10] = [0.001, 0.01, 0.1, 0.5, 1.0, 5.0, 10.0, 30.0, 60.0, 300.0];

/// The longest label, in bytes: names of plugins and of handlers are shorter.
const LABEL_BYTES: usize = 253;

/// Begins the names of what is not of every process.
const PREFIX: &str = "dask_operator";

type Histograms<L> = Series<L, Histogram>;
type Counters<L> = Series<L, Counter>;

/// The counters of the process. Made once; recording takes no lock that waits for anything but other recordings.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    reconcile_duration: Histograms<HandlerLabels>,
    reconcile_step_duration: Histograms<StepLabels>,
    reconcile_errors: Counters<ReconcileErrorLabels>,
    queue_depth: Gauge,
    queue_duration: Histograms<HandlerLabels>,
    stalls: Family<HandlerLabels, Counter>,
    api_writes: Family<WriteLabels, Counter>,
    plugin_calls: Counters<CallLabels>,
    plugin_call_duration: Histograms<PluginHandlerLabels>,
    parked_subjects: Series<PluginLabels, Gauge>,
    scheduler_calls: Family<SchedulerCallLabels, Counter>,
    plugin_manager_busy: Counter<f64, AtomicU64>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct HandlerLabels {
    handler: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct StepLabels {
    handler: String,
    step: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ReconcileErrorLabels {
    handler: String,
    kind: Cow<'static, str>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct WriteLabels {
    verb: &'static str,
    result: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct CallLabels {
    plugin: String,
    handler: String,
    result: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct PluginHandlerLabels {
    plugin: String,
    handler: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct SchedulerCallLabels {
    call: &'static str,
    result: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct PluginLabels {
    plugin: String,
}

impl Metrics {
    /// Everything at zero, from this moment.
    pub fn new() -> Self {
        let mut registry = Registry::default();
        registry.register_collector(Box::new(process::Process::started(SystemTime::now())));
        let build = Info::new([("version", env!("CARGO_PKG_VERSION"))]);
        let ours = registry.sub_registry_with_prefix(PREFIX);
        ours.register("build", "The version that runs", build);

        let reconcile_duration = histograms(|| Histogram::new(RECONCILE_BUCKETS));
        let help = "Time to bring one subject of a handler up to date, by handler";
        ours.register_with_unit("reconcile_duration", help, Unit::Seconds, reconcile_duration.clone());

        let reconcile_step_duration = histograms(|| Histogram::new(STEP_BUCKETS));
        let help = "Time of one step of a reconcile, by handler and step; the spans of traces have the same names";
        ours.register_with_unit("reconcile_step_duration", help, Unit::Seconds, reconcile_step_duration.clone());

        let reconcile_errors = Family::default();
        let help = "Reconciles that failed, by handler and kind of error";
        ours.register("reconcile_errors", help, reconcile_errors.clone());

        let queue_depth = Gauge::default();
        ours.register("queue_depth", "Subjects that wait for a handler", queue_depth.clone());

        let queue_duration = histograms(|| Histogram::new(WAIT_BUCKETS));
        let help = "Time that a subject waited for a handler, from when it was woken or due, by handler";
        ours.register_with_unit("queue_duration", help, Unit::Seconds, queue_duration.clone());

        let stalls = Family::default();
        let help = "Work that held up a thread for seconds, by handler; the log names the subject";
        ours.register("stalls", help, stalls.clone());

        let api_writes = Family::default();
        let help = "Writes to the API server, by verb and result";
        ours.register("api_writes", help, api_writes.clone());

        let plugin_calls = Family::default();
        let help = "Calls of plugins, by plugin, handler and result";
        ours.register("plugin_calls", help, plugin_calls.clone());

        let plugin_call_duration = histograms(|| Histogram::new(CALL_BUCKETS));
        let help = "Time of one call in the sandbox, by plugin and handler";
        ours.register_with_unit("plugin_call_duration", help, Unit::Seconds, plugin_call_duration.clone());

        let parked_subjects = Family::default();
        let help = "Subjects that a plugin is no longer called for because it failed too often, by plugin";
        ours.register("parked_subjects", help, parked_subjects.clone());

        let scheduler_calls = Family::default();
        let help = "Calls of Dask schedulers, by call and result";
        ours.register("scheduler_calls", help, scheduler_calls.clone());

        let plugin_manager_busy = Counter::default();
        let help = "Time that the plugin manager was at work, compiling and writing aside";
        ours.register_with_unit("plugin_manager_busy", help, Unit::Seconds, plugin_manager_busy.clone());

        Self {
            registry,
            reconcile_duration: Series::of(reconcile_duration),
            reconcile_step_duration: Series::of(reconcile_step_duration),
            reconcile_errors: Series::of(reconcile_errors),
            queue_depth,
            queue_duration: Series::of(queue_duration),
            stalls,
            api_writes,
            plugin_calls: Series::of(plugin_calls),
            plugin_call_duration: Series::of(plugin_call_duration),
            parked_subjects: Series::of(parked_subjects),
            scheduler_calls,
            plugin_manager_busy,
        }
    }

    /// With what is known of the Dask objects, counted at each look.
    #[must_use]
    pub fn of_objects(mut self, index: Arc<Index>) -> Self {
        let ours = self.registry.sub_registry_with_prefix(PREFIX);
        ours.register_collector(Box::new(objects::DaskObjects::of(index)));
        self
    }

    /// With how the watches are doing, asked at each look.
    #[must_use]
    pub fn of_watches(mut self, watches: Watches) -> Self {
        let ours = self.registry.sub_registry_with_prefix(PREFIX);
        ours.register_collector(Box::new(watches::WatchFailures::of(watches)));
        self
    }

    /// With how many Events were dropped, asked for at each look.
    #[must_use]
    pub fn of_events(mut self, events: Events) -> Self {
        let ours = self.registry.sub_registry_with_prefix(PREFIX);
        ours.register_collector(Box::new(events::DroppedEvents(events)));
        self
    }

    /// One reconcile of a handler ended, well or not.
    pub fn reconciled(&self, handler: &str, duration: Duration) {
        self.reconcile_duration.get(HandlerLabels { handler: label(handler) }).observe(duration.as_secs_f64());
    }

    /// One step of it ended, well or not; `step` is the step's own constant word.
    pub fn stepped(&self, handler: &str, step: &'static str, duration: Duration) {
        self.reconcile_step_duration.get(StepLabels { handler: label(handler), step }).observe(duration.as_secs_f64());
    }

    /// It ended badly; `kind` is the error's own constant word.
    pub fn reconcile_failed(&self, handler: &str, kind: impl Into<Cow<'static, str>>) {
        self.reconcile_errors.get(ReconcileErrorLabels { handler: label(handler), kind: kind.into() }).inc();
    }

    /// So many subjects wait.
    pub fn set_queue_depth(&self, depth: usize) {
        self.queue_depth.set(as_gauge(depth));
    }

    /// A subject waited so long for a handler.
    pub fn waited(&self, handler: &str, duration: Duration) {
        self.queue_duration.get(HandlerLabels { handler: label(handler) }).observe(duration.as_secs_f64());
    }

    /// Work of a handler holds up a thread.
    pub fn stalled(&self, handler: &str) {
        self.stalls.get_or_create(&HandlerLabels { handler: label(handler) }).inc();
    }

    /// One action was performed, or not; `verb` is the action's own constant word.
    pub fn wrote(&self, verb: &'static str, result: &Result<Written, WriteError>) {
        let result = result.as_ref().err().map_or(SUCCESS, WriteError::kind);
        self.api_writes.get_or_create(&WriteLabels { verb, result }).inc();
    }

    /// A scheduler was called; `call` is the call's own constant word.
    pub fn called_scheduler(&self, call: &'static str, result: &Result<SchedulerReply, SchedulerError>) {
        let result = result.as_ref().err().map_or(SUCCESS, SchedulerError::kind);
        self.scheduler_calls.get_or_create(&SchedulerCallLabels { call, result }).inc();
    }

    /// The plugin manager was at work for so long.
    pub fn managed_plugins(&self, duration: Duration) {
        self.plugin_manager_busy.inc_by(duration.as_secs_f64());
    }

    /// A plugin was called.
    pub fn plugin_called(&self, plugin: &str, handler: &str, report: &CallReport) {
        let (plugin, handler) = (label(plugin), label(handler));
        let labels = PluginHandlerLabels { plugin: plugin.clone(), handler: handler.clone() };
        self.plugin_call_duration.get(labels).observe(report.duration.as_secs_f64());
        let result = report.result.as_ref().err().map_or(SUCCESS, |error| error.kind());
        self.plugin_calls.get(CallLabels { plugin, handler, result }).inc();
    }

    /// So many subjects of a plugin are parked.
    pub fn set_parked(&self, plugin: &str, subjects: usize) {
        self.parked_subjects.get(PluginLabels { plugin: label(plugin) }).set(as_gauge(subjects));
    }

    /// A handler of a plugin is there no more.
    pub fn forget_handler(&self, name: &HandlerName) {
        let (full, plugin, handler) = (label(&name.to_string()), label(&name.plugin), label(&name.handler));
        self.reconcile_duration.forget(|labels| labels.handler == full);
        self.reconcile_step_duration.forget(|labels| labels.handler == full);
        self.queue_duration.forget(|labels| labels.handler == full);
        self.reconcile_errors.forget(|labels| labels.handler == full);
        self.plugin_calls.forget(|labels| labels.plugin == plugin && labels.handler == handler);
        self.plugin_call_duration.forget(|labels| labels.plugin == plugin && labels.handler == handler);
    }

    /// A plugin has no handlers any more.
    pub fn forget_plugin(&self, plugin: &str) {
        let plugin = label(plugin);
        self.parked_subjects.forget(|labels| labels.plugin == plugin);
    }

    /// All of it, as `application/openmetrics-text; version=1.0.0`.
    pub fn encode(&self) -> String {
        let mut text = String::new();
        text::encode(&mut text, &self.registry).expect("writing to a String can't fail");
        text
    }
}

/// A name as the value of a label.
fn label(name: &str) -> String {
    line(name, LABEL_BYTES).into_owned()
}

fn histograms<L: Clone + Eq + Hash>(new: fn() -> Histogram) -> Family<L, Histogram> {
    Family::new_with_constructor(new)
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

/// The `result` of what went well; failures have the word of their error.
pub(crate) const SUCCESS: &str = "Success";

fn as_gauge(count: usize) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use dask_wasm_operator_core::ports::CallError;

    use super::*;

    #[test]
    fn every_metric_has_its_name_and_labels() {
        let metrics = Metrics::new();
        metrics.reconciled("cluster", Duration::from_millis(3));
        metrics.stepped("cluster", "write", Duration::from_millis(3));
        metrics.reconcile_failed("cluster", "Stale");
        metrics.set_queue_depth(7);
        metrics.waited("cluster", Duration::from_millis(30));
        metrics.stalled("cluster");
        metrics.wrote("create", &Ok(Written::Deleted));
        metrics.wrote("create", &Err(WriteError::NotLeader));
        let deadline = Duration::from_secs(1);
        let report =
            CallReport { result: Err(CallError::Deadline(deadline)), log: vec![], log_dropped: 0, duration: deadline };
        metrics.plugin_called("istio", "expose", &report);
        metrics.set_parked("istio", 2);
        metrics.managed_plugins(Duration::from_millis(500));
        let text = metrics.encode();
        for line in [
            concat!("dask_operator_build_info{version=\"", env!("CARGO_PKG_VERSION"), "\"} 1"),
            "dask_operator_reconcile_duration_seconds_bucket{le=\"0.0025\",handler=\"cluster\"} 0",
            "dask_operator_reconcile_duration_seconds_bucket{le=\"0.005\",handler=\"cluster\"} 1",
            "dask_operator_reconcile_step_duration_seconds_bucket{le=\"0.001\",handler=\"cluster\",step=\"write\"} 0",
            "dask_operator_reconcile_step_duration_seconds_bucket{le=\"0.01\",handler=\"cluster\",step=\"write\"} 1",
            "dask_operator_reconcile_errors_total{handler=\"cluster\",kind=\"Stale\"} 1",
            "dask_operator_queue_depth 7",
            "dask_operator_queue_duration_seconds_bucket{le=\"0.1\",handler=\"cluster\"} 1",
            "dask_operator_stalls_total{handler=\"cluster\"} 1",
            "dask_operator_api_writes_total{verb=\"create\",result=\"Success\"} 1",
            "dask_operator_api_writes_total{verb=\"create\",result=\"NotLeader\"} 1",
            "dask_operator_plugin_calls_total{plugin=\"istio\",handler=\"expose\",result=\"DeadlineExceeded\"} 1",
            "dask_operator_plugin_call_duration_seconds_count{plugin=\"istio\",handler=\"expose\"} 1",
            "dask_operator_parked_subjects{plugin=\"istio\"} 2",
            "dask_operator_plugin_manager_busy_seconds_total 0.5",
        ] {
            assert!(text.lines().any(|candidate| candidate == line), "{line}\nnot in\n{text}");
        }
        assert!(text.ends_with("# EOF\n"));
    }

    #[test]
    fn a_name_makes_no_lines() {
        let metrics = Metrics::new();
        metrics.set_parked("other", 1);
        let lines = metrics.encode().lines().count();
        metrics.set_parked("a\r\u{2028}b\u{202e}", 1);
        let text = metrics.encode();
        assert_eq!(text.lines().count(), lines + 1, "{text}");
        assert!(text.contains(r#"plugin="a\\r\\u{2028}b\\u{202e}""#), "{text}");
        metrics.forget_plugin("a\r\u{2028}b\u{202e}");
        assert_eq!(metrics.encode().lines().count(), lines);
    }

    #[test]
    fn nothing_is_told_of_handlers_and_plugins_that_are_gone() {
        let metrics = Metrics::new();
        let report = || CallReport {
            result: Err(CallError::Deadline(Duration::ZERO)),
            log: vec![],
            log_dropped: 0,
            duration: Duration::ZERO,
        };
        let names = [("istio", "expose"), ("istio", "other"), ("stays", "expose")]
            .map(|(plugin, handler)| HandlerName { plugin: plugin.to_owned(), handler: handler.to_owned() });
        for name in &names {
            metrics.reconciled(&name.to_string(), Duration::ZERO);
            metrics.stepped(&name.to_string(), "decide", Duration::ZERO);
            metrics.reconcile_failed(&name.to_string(), "AnswerRefused");
            metrics.plugin_called(&name.plugin, &name.handler, &report());
            metrics.set_parked(&name.plugin, 2);
        }
        let lines_of = |word: &str| metrics.encode().lines().filter(|line| line.contains(word)).count();
        let others = (lines_of("other"), lines_of("stays"));
        assert!(others.0 > 0 && others.1 > 0);
        metrics.forget_handler(&names[0]);
        assert_eq!((lines_of("other"), lines_of("stays")), others);
        metrics.forget_handler(&names[1]);
        metrics.forget_plugin("istio");
        assert_eq!((lines_of("istio"), lines_of("stays")), (0, others.1));
    }
}
