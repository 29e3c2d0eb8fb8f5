//! The command line, and nothing else: what may be written, and the words of `--help`.
//!
//! Everything that can be judged from one value alone is refused here, by name; what needs several values is judged where they
//! become settings.

use std::{convert::Infallible, path::PathBuf, time::Duration};

use clap::{
    ArgAction, ArgGroup, ArgMatches, Args, Parser, Subcommand, builder::FalseyValueParser, parser::ValueSource,
};
use dask_wasm_operator_cluster::{events::EventLevel, scheduler::Given};
use dask_wasm_operator_core::{
    dask::{DEFAULT_CLUSTER_DOMAIN, EXCLUDED_PREFIXES},
    names::{NameError, check_dns_label, check_dns_subdomain},
};
use tracing_subscriber::filter::Targets;

use super::{
    endpoint::{AdminEndpoint, OtlpEndpoint},
    values::{LogFormat, PluginFiles, RenderOutput},
};

/// The module of the Python operator that stands for all that is built in here.
const PYTHON_CONTROLLER: &str = "dask_kubernetes.operator.controller";

/// Runs Dask clusters on Kubernetes, and the plugins that you add.
///
/// With options and no command, as the image of the Python operator is started, it means `run`.
#[derive(Debug, Parser)]
#[command(name = "dask-wasm-operator", version, subcommand_required = true, arg_required_else_help = true)]
pub(super) struct Cli {
    #[command(subcommand)]
    pub(super) command: Command,
}

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Serve the Dask objects of a Kubernetes cluster until told to stop.
    Run(Box<RunArgs>),
    /// Show what the operator would make of some manifests. Needs no cluster.
    Render(RenderArgs),
    /// Change from the Python operator, or back to it; needs an administrator's kubeconfig.
    Migrate(MigrateArgs),
    /// Print the custom resource definitions: `dask-wasm-operator crds | kubectl apply --server-side -f -`.
    Crds,
}

/// Arguments of `run`. As with the Python operator, of an option that is given again the last one counts.
#[derive(Args, Debug)]
#[command(args_override_self = true)]
pub(crate) struct RunArgs {
    #[command(flatten)]
    pub(crate) scope: ScopeArgs,
    #[command(flatten)]
    pub(crate) connection: ConnectionArgs,
    #[command(flatten)]
    pub plugins: PluginArgs,
    #[command(flatten)]
    pub(crate) admin: AdminArgs,
    #[command(flatten)]
    pub(crate) log: LogArgs,
    #[command(flatten)]
    pub(crate) traces: TraceArgs,
    #[command(flatten)]
    pub(crate) ignored: IgnoredArgs,

    /// DNS domain of the cluster; schedulers are reached at `NAME.NAMESPACE.svc.DOMAIN`.
    #[arg(long, value_name = "DOMAIN", default_value = DEFAULT_CLUSTER_DOMAIN, value_parser = subdomain, env = "DASK_WASM_OPERATOR_CLUSTER_DOMAIN")]
    pub(crate) cluster_domain: String,
    /// Where the scheduler of a cluster is reached, if not at its pod: `NAMESPACE/CLUSTER=HOST:PORT[,HOST:DASHBOARD_PORT]`.
    #[arg(long, value_name = "ADDRESS")]
    pub(crate) scheduler_address: Vec<Given>,
    /// Make at most so many workers of a group at a time; 0: all at once.
    #[arg(long, value_name = "WORKERS", default_value = "0", value_parser = inherited(count), env = "DASK_KUBERNETES__CONTROLLER__WORKER_ALLOCATION__BATCH_SIZE")]
    pub(crate) worker_allocation_batch_size: Inherited<u32>,
    /// Seconds from one batch of workers to the next.
    #[arg(long, value_name = "SECONDS", default_value = "0", value_parser = inherited(seconds), env = "DASK_KUBERNETES__CONTROLLER__WORKER_ALLOCATION__DELAY")]
    pub(crate) worker_allocation_delay: Inherited<Duration>,
    /// Labels and annotations with this prefix stay with the Dask object; give it once for each, in place of the defaults.
    #[arg(long, value_name = "PREFIX", default_values = EXCLUDED_PREFIXES)]
    pub(crate) excluded_prefix: Vec<String>,
    /// Post Events from this level on: `info` (all), `warning`, `none`; levels of the Python operator mean the same.
    #[arg(long, value_name = "LEVEL", default_value = "info", value_parser = inherited(event_level), env = "DASK_KUBERNETES__CONTROLLER__EVENTS__LEVEL")]
    pub(crate) event_level: Inherited<EventLevel>,
    /// Whether Events are posted at all.
    #[arg(long, value_name = "BOOLEAN", default_value = "true", action = ArgAction::Set, value_parser = FalseyValueParser::new(), env = "DASK_KUBERNETES__CONTROLLER__EVENTS__ENABLED")]
    pub(crate) events_enabled: bool,
    /// Write to Dask objects although the Python operator is still at work on them.
    #[arg(long)]
    pub(crate) force_takeover: bool,
    /// Seconds that a scheduler may be silent until surplus workers are removed without asking it which.
    #[arg(long, value_name = "SECONDS", default_value_t = 120)]
    pub(crate) scale_down_deadline: u64,
}

/// Which objects are served.
#[derive(Args, Debug)]
#[command(next_help_heading = "Scope")]
pub(crate) struct ScopeArgs {
    /// Serve the Dask objects of all namespaces: the default without --namespace.
    #[arg(short = 'A', long, conflicts_with = "namespace")]
    pub(crate) all_namespaces: bool,
    /// Serve only the Dask objects of this namespace; may be given several times.
    ///
    /// Also a list, `team-a,team-b`, or a pattern as in the Python operator, `team-*,!team-x`: globs with *, ? and [...], in
    /// which a part with ! takes out what those before it let in. A pattern needs the right to watch Namespaces.
    #[arg(short, long, value_name = "NAMESPACE", env = "DASK_WASM_OPERATOR_NAMESPACE")]
    pub(crate) namespace: Vec<String>,
    /// Do not take the Lease that keeps a second operator from writing.
    ///
    /// Only for when no other operator can be running: two that write at once undo each other's work.
    #[arg(long, env = "DASK_WASM_OPERATOR_STANDALONE")]
    pub(crate) standalone: bool,
}

/// How to reach the API server.
#[derive(Args, Debug)]
#[command(next_help_heading = "Connection")]
pub(crate) struct ConnectionArgs {
    /// Kubeconfig to use. Default: as kubectl finds it ($KUBECONFIG, ~/.kube/config); in a pod, its ServiceAccount.
    #[arg(long, value_name = "FILE", env = "DASK_WASM_OPERATOR_KUBECONFIG")]
    pub(crate) kubeconfig: Option<PathBuf>,
    /// Context of the kubeconfig. Default: its current one.
    #[arg(long, value_name = "NAME", env = "DASK_WASM_OPERATOR_CONTEXT")]
    pub(crate) context: Option<String>,
    /// Namespace that holds the operator's Lease and its DaskPlugins.
    ///
    /// Default: that of the kubeconfig's context, or of the pod; `default` if there is none.
    #[arg(long, value_name = "NAMESPACE", value_parser = label, env = "POD_NAMESPACE")]
    pub(crate) operator_namespace: Option<String>,
}

/// Where plugins come from.
#[derive(Args, Debug)]
#[command(next_help_heading = "Plugins")]
pub(crate) struct PluginArgs {
    /// Directory with plugins: NAME.wasm, and beside it NAME.yaml (a DaskPlugin) if it needs grants or configuration.
    ///
    /// They are loaded in addition to the DaskPlugins in the operator's namespace.
    #[arg(long, value_name = "DIRECTORY", env = "DASK_WASM_OPERATOR_PLUGIN_DIR")]
    pub(crate) plugin_dir: Option<PathBuf>,
    /// Load no plugin, that of --plugin-dir neither. What plugins have made stays as it is.
    #[arg(long, env = "DASK_WASM_OPERATOR_DISABLE_PLUGINS")]
    pub(crate) disable_plugins: bool,
    /// Directory for compiled plugins; nobody else may be able to write to it.
    ///
    /// Default: dask-wasm-operator in $XDG_CACHE_HOME, ~/.cache or the directory for temporary files, whichever is first.
    #[arg(long, value_name = "DIRECTORY", env = "DASK_WASM_OPERATOR_CACHE_DIR")]
    pub(crate) cache_dir: Option<PathBuf>,
}

/// Where health and metrics are served.
#[derive(Args, Debug)]
#[command(next_help_heading = "Health and metrics")]
pub(crate) struct AdminArgs {
    /// Serve /healthz, /readyz and /metrics at this address. Default: nowhere.
    #[arg(long, value_name = "HOST:PORT", value_parser = AdminEndpoint::at_address, env = "DASK_WASM_OPERATOR_ADMIN_ADDRESS")]
    pub(crate) admin_address: Option<AdminEndpoint>,
    /// The same, with the path of the health check, such as http://0.0.0.0:8080/healthz. Without effect beside --admin-address.
    #[arg(short = 'L', long, value_name = "URL", value_parser = AdminEndpoint::at_url, env = "DASK_WASM_OPERATOR_LIVENESS")]
    pub(crate) liveness: Option<AdminEndpoint>,
}

/// What is logged, to stderr.
#[derive(Args, Debug)]
#[command(next_help_heading = "Logging")]
pub(crate) struct LogArgs {
    /// Log each step of the operator.
    #[arg(short, long, env = "DASK_WASM_OPERATOR_VERBOSE")]
    pub(crate) verbose: bool,
    /// Log each step of the operator and of the libraries in it.
    #[arg(short, long, env = "DASK_WASM_OPERATOR_DEBUG")]
    pub(crate) debug: bool,
    /// Log warnings and errors only, unless --verbose or --debug is given.
    #[arg(short, long, env = "DASK_WASM_OPERATOR_QUIET")]
    pub(crate) quiet: bool,
    /// Levels by module, such as `warn,dask_wasm_operator_cluster=trace,guest=debug`; overrides the three above.
    #[arg(long, value_name = "LEVELS", env = "DASK_WASM_OPERATOR_LOG")]
    pub(crate) log_filter: Option<Targets>,
    /// How log lines look.
    #[arg(
        long,
        value_name = "FORMAT",
        ignore_case = true,
        default_value = "full",
        env = "DASK_WASM_OPERATOR_LOG_FORMAT"
    )]
    pub(crate) log_format: LogFormat,
}

/// Where traces are sent.
#[derive(Args, Debug)]
#[command(next_help_heading = "Traces")]
pub(crate) struct TraceArgs {
    /// Send a span of each reconcile and of each of its steps to this collector, by OTLP over HTTP. Default: nowhere.
    ///
    /// The URL is the receiver's base, such as http://collector.observability:4318; `/v1/traces` is added. Other variables of
    /// OpenTelemetry count beside it: OTEL_EXPORTER_OTLP_HEADERS, OTEL_SERVICE_NAME, OTEL_RESOURCE_ATTRIBUTES,
    /// OTEL_TRACES_SAMPLER, OTEL_BSP_SCHEDULE_DELAY and OTEL_BSP_MAX_QUEUE_SIZE.
    #[arg(long, value_name = "URL", value_parser = OtlpEndpoint::at_url, env = "OTEL_EXPORTER_OTLP_ENDPOINT")]
    pub(crate) otlp_endpoint: Option<OtlpEndpoint>,
}

/// Flags of the Python operator that have nothing to act on here.
#[derive(Args, Debug)]
#[command(next_help_heading = "Accepted from the Python operator, without effect")]
pub(crate) struct IgnoredArgs {
    /// Here objects are always in the fields of a log line.
    #[arg(long, value_name = "KEY")]
    pub(crate) log_refkey: Option<String>,
    /// See --log-refkey.
    #[arg(long, overrides_with = "no_log_prefix")]
    pub(crate) log_prefix: bool,
    /// See --log-refkey.
    #[arg(long, overrides_with = "log_prefix")]
    pub(crate) no_log_prefix: bool,
    /// Here a Lease takes the place of peerings; see --standalone.
    #[arg(short = 'P', long, value_name = "NAME")]
    pub(crate) peering: Option<String>,
    /// See --peering.
    #[arg(short, long, value_name = "NUMBER", allow_negative_numbers = true)]
    pub(crate) priority: Option<i64>,
    /// See --peering.
    #[arg(long)]
    pub(crate) dev: bool,
    /// The Python operator's own module. Others are refused: handlers are plugins here.
    #[arg(short, long, value_name = "MODULE", value_parser = python_module)]
    pub(crate) module: Vec<String>,
}

/// Arguments of `render`. Each is parsed already and none depends on another: they are its settings.
#[derive(Args, Debug)]
pub struct RenderArgs {
    /// Manifests, in YAML or JSON: Dask objects, and whatever else plugins watch or read.
    #[arg(required = true, value_name = "FILE")]
    pub files: Vec<PathBuf>,
    /// Plugin to run, and its DaskPlugin if it needs grants or configuration. May be given several times.
    #[arg(long = "plugin", value_name = "X.wasm[,plugin.yaml]")]
    pub plugins: Vec<PluginFiles>,
    /// What to print.
    #[arg(long, short, default_value = "yaml")]
    pub output: RenderOutput,
}

/// Arguments of `migrate`.
#[derive(Args, Debug)]
#[command(group = ArgGroup::new("direction").required(true), group = ArgGroup::new("step"))]
pub(crate) struct MigrateArgs {
    /// Change from the Python operator to this one.
    #[arg(long, group = "direction", requires = "step")]
    pub(crate) from_python: bool,
    /// Tell what a takeover would meet. Writes nothing; ends with 1 if something needs attention.
    #[arg(long, group = "step", conflicts_with = "to_python")]
    pub(crate) check: bool,
    /// Install the definitions of this release.
    #[arg(long, group = "step", conflicts_with = "to_python")]
    pub(crate) apply: bool,
    /// Change back to the Python operator: install its definitions and mark what it need not make anew. Stop this one first.
    #[arg(long, group = "direction")]
    pub(crate) to_python: bool,
    /// The Python operator's own definitions: `crds` of its chart, or what `helm show crds` prints. Default: those of this release
    /// in the form that it can work with, without a status subresource; nothing that is stored is lost with them.
    #[arg(long, value_name = "FILE|DIRECTORY", requires = "to_python", conflicts_with = "from_python")]
    pub(crate) crds: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) connection: ConnectionArgs,
}

fn python_module(value: &str) -> Result<String, String> {
    if value == PYTHON_CONTROLLER {
        Ok(value.to_owned())
    } else {
        Err("Python modules can't be loaded; make its handlers a plugin, or leave the flag out".to_owned())
    }
}

fn label(value: &str) -> Result<String, NameError> {
    check_dns_label(value).map(|()| value.to_owned())
}

/// A setting that the Python operator has, too. That ignores what it can't use in its environment, and so does this one; what
/// can't be used on the command line is refused.
#[derive(Clone, Debug)]
pub(crate) enum Inherited<T> {
    Usable(T),
    /// What it says, and what is wrong with it.
    Unusable(String),
}

impl<T> Inherited<T> {
    /// The value, or the default and a note of why.
    pub(crate) fn or(self, default: T, unusable: &mut Vec<String>) -> T {
        match self {
            Self::Usable(value) => value,
            Self::Unusable(why) => {
                unusable.push(why);
                default
            }
        }
    }

    fn check(&self) -> Result<(), String> {
        match self {
            Self::Usable(_) => Ok(()),
            Self::Unusable(why) => Err(why.clone()),
        }
    }
}

impl RunArgs {
    pub(super) fn refuse_unusable(&self, matches: &ArgMatches) -> Result<(), String> {
        let is_given = |id| {
            let run = matches.subcommand_matches("run");
            run.is_some_and(|run| run.value_source(id) == Some(ValueSource::CommandLine))
        };
        let settings = [
            ("event_level", self.event_level.check()),
            ("worker_allocation_batch_size", self.worker_allocation_batch_size.check()),
            ("worker_allocation_delay", self.worker_allocation_delay.check()),
        ];
        settings.into_iter().filter(|(id, _)| is_given(id)).try_for_each(|(_, usable)| usable)
    }
}

fn inherited<T>(
    parse: fn(&str) -> Result<T, &'static str>,
) -> impl Fn(&str) -> Result<Inherited<T>, Infallible> + Clone + Send + Sync + 'static
where
    T: 'static,
{
    move |text| {
        let unusable = |why| Inherited::Unusable(format!("'{text}': {why}"));
        Ok(parse(text.trim()).map_or_else(unusable, Inherited::Usable))
    }
}

/// The names of Python's levels or their numbers, and `none`. What Python calls an error is worse than any Event of this operator.
fn event_level(text: &str) -> Result<EventLevel, &'static str> {
    if let Ok(number) = text.parse::<i64>() {
        return Ok(match number {
            ..=20 => EventLevel::All,
            21..=30 => EventLevel::Warnings,
            31.. => EventLevel::Nothing,
        });
    }
    match text.to_ascii_lowercase().as_str() {
        "notset" | "debug" | "info" => Ok(EventLevel::All),
        "warn" | "warning" => Ok(EventLevel::Warnings),
        "error" | "critical" | "fatal" | "none" => Ok(EventLevel::Nothing),
        _ => Err("write info, warning or none"),
    }
}

/// As the Python operator's configuration has it, where null is none and `5.0` is a number, too.
fn count(text: &str) -> Result<u32, &'static str> {
    let whole = text.strip_suffix(".0").unwrap_or(text);
    if is_null(text) { Ok(0) } else { whole.parse().map_err(|_| "it is no number of workers, such as 5") }
}

/// Seconds, also with a fraction.
fn seconds(text: &str) -> Result<Duration, &'static str> {
    let seconds = if is_null(text) { Ok(0.0) } else { text.parse() };
    let duration = seconds.ok().and_then(|seconds| Duration::try_from_secs_f64(seconds).ok());
    duration.ok_or("it is no number of seconds, such as 2 or 0.5")
}

/// A value that is none, as YAML and Python write it.
fn is_null(text: &str) -> bool {
    matches!(text.to_ascii_lowercase().as_str(), "" | "null" | "none" | "~")
}

fn subdomain(value: &str) -> Result<String, NameError> {
    check_dns_subdomain(value).map(|()| value.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_python_operator_would_ignore_in_its_environment_is_told_and_the_default_holds() {
        let read = |text: &str| {
            let mut unusable = Vec::new();
            let Ok(level) = inherited(event_level)(text);
            let Ok(size) = inherited(count)(text);
            (level.or(EventLevel::Warnings, &mut unusable), size.or(7, &mut unusable), unusable.len())
        };
        assert_eq!(read("30"), (EventLevel::Warnings, 30, 0));
        assert_eq!(read("5.0"), (EventLevel::Warnings, 5, 1), "a number of workers, and no level");
        assert_eq!(read("loud"), (EventLevel::Warnings, 7, 2));
        assert_eq!(read("-1"), (EventLevel::All, 7, 1));
        for null in ["", "null", "None", "~"] {
            assert_eq!(count(null), Ok(0), "{null:?}");
            assert_eq!(seconds(null), Ok(Duration::ZERO), "{null:?}");
        }
        let Ok(Inherited::Unusable(why)) = inherited(event_level)("loud") else { panic!("it is no level") };
        assert_eq!(why, "'loud': write info, warning or none");
    }
}
