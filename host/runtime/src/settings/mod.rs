//! From the command line to what the program is to do.
//!
//! [`parse`] is called by `main` and answers settings, so that no other module sees how they were written. They are made before
//! any task starts. Every argument is taken out by name, so that a forgotten one does not compile.

mod args;
mod endpoint;
mod scope;
mod values;

use std::{
    env,
    ffi::OsString,
    num::NonZeroU32,
    path::{Path, PathBuf},
    time::Duration,
};

use args::{
    AdminArgs, Cli, Command, ConnectionArgs, IgnoredArgs, LogArgs, MigrateArgs, PluginArgs, RunArgs, ScopeArgs,
    TraceArgs,
};
use clap::{CommandFactory as _, FromArgMatches as _, error::ErrorKind};
use dask_wasm_operator_cluster::events::EventLevel;
use dask_wasm_operator_core::dask::{Environment, WorkerAllocation};
use tracing::Level;
use tracing_subscriber::filter::{LevelFilter, Targets};
use values::SettingsError;

pub use args::RenderArgs;
pub use endpoint::{AdminEndpoint, EndpointError, OtlpEndpoint};
pub(crate) use endpoint::{HEALTH, METRICS, READINESS};
pub use scope::{NamespacePatterns, Scope, ScopeError};
pub use values::{
    Connection, Leadership, LogFormat, LogSettings, Migration, MigrationSettings, PluginFiles, PluginSources,
    RenderOutput, RunSettings,
};

/// Where kube's client logs.
const KUBE_CLIENT: &str = "kube_client";

/// What the command line asks for.
#[derive(Debug)]
pub enum Invocation {
    /// Serve a Kubernetes cluster.
    Run(Box<RunSettings>),
    /// Show what would be made.
    Render(RenderArgs),
    /// Change from the Python operator, or back to it.
    Migrate(MigrationSettings),
    /// Print the custom resource definitions.
    Crds,
}

/// Reads the arguments behind the program's name.
///
/// # Errors
/// What is wrong with them, or the text of `--help`: [`clap::Error::exit`] prints either and ends with 2 or 0.
pub fn parse(arguments: impl IntoIterator<Item = OsString>) -> Result<Invocation, clap::Error> {
    let mut arguments = arguments.into_iter().peekable();
    let implied = arguments.peek().filter(|first| means_run(first)).map(|_| OsString::from("run"));
    let program = OsString::from(env!("CARGO_PKG_NAME"));
    let matches = Cli::command().try_get_matches_from([program].into_iter().chain(implied).chain(arguments))?;
    match Cli::from_arg_matches(&matches)?.command {
        Command::Run(args) => {
            let refused = |error: String| Cli::command().error(ErrorKind::ValueValidation, error);
            args.refuse_unusable(&matches).map_err(refused)?;
            let settings = RunSettings::try_from(*args).map_err(|error| refused(error.to_string()))?;
            Ok(Invocation::Run(Box::new(settings)))
        }
        Command::Render(args) => Ok(Invocation::Render(args)),
        Command::Migrate(args) => Ok(Invocation::Migrate(args.into())),
        Command::Crds => Ok(Invocation::Crds),
    }
}

/// Whether a first argument can only be an option of `run`.
fn means_run(first: &OsString) -> bool {
    first.as_encoded_bytes().starts_with(b"-") && !["-h", "--help", "-V", "--version"].iter().any(|own| first == own)
}

impl From<MigrateArgs> for MigrationSettings {
    fn from(args: MigrateArgs) -> Self {
        // One direction, and for each what it requires, is there: the command line sees to that.
        let MigrateArgs { from_python: _, to_python, check: _, apply, crds, connection } = args;
        let ConnectionArgs { kubeconfig, context, operator_namespace } = connection;
        let migration = match (to_python, apply) {
            (true, _) => Migration::ToPython { definitions: crds },
            (false, true) => Migration::Apply,
            (false, false) => Migration::Check,
        };
        Self { migration, connection: Connection { kubeconfig, context }, operator_namespace }
    }
}

impl TryFrom<RunArgs> for RunSettings {
    type Error = SettingsError;

    fn try_from(args: RunArgs) -> Result<Self, SettingsError> {
        let RunArgs {
            scope,
            connection,
            plugins,
            admin,
            log,
            traces,
            ignored,
            cluster_domain,
            scheduler_address,
            scale_down_deadline,
            force_takeover,
            worker_allocation_batch_size,
            worker_allocation_delay,
            excluded_prefix,
            event_level,
            events_enabled,
        } = args;
        let ScopeArgs { all_namespaces: _, namespace, standalone } = scope;
        let ConnectionArgs { kubeconfig, context, operator_namespace } = connection;
        let PluginArgs { plugin_dir, disable_plugins, cache_dir } = plugins;
        let AdminArgs { admin_address, liveness } = admin;
        let TraceArgs { otlp_endpoint } = traces;
        let mut unusable = Vec::new();
        let event_level = event_level.or(EventLevel::default(), &mut unusable);
        let batch_size = NonZeroU32::new(worker_allocation_batch_size.or(0, &mut unusable));
        let delay = worker_allocation_delay.or(Duration::ZERO, &mut unusable);
        let mut ignored = given(ignored);
        if admin_address.is_some() && liveness.is_some() {
            ignored.push("--liveness");
        }
        let in_pod = kubeconfig.is_none() && env::var_os("KUBERNETES_SERVICE_HOST").is_some();
        Ok(Self {
            scope: Scope::new(&namespace)?,
            leadership: if standalone { Leadership::Standalone } else { Leadership::Lease },
            connection: Connection { kubeconfig, context },
            operator_namespace,
            plugins: if disable_plugins {
                PluginSources::Disabled
            } else {
                PluginSources::Enabled { directory: plugin_dir }
            },
            cache_directory: cache_dir.unwrap_or_else(cache_directory),
            environment: Environment {
                cluster_domain,
                scale_down_deadline: Duration::from_secs(scale_down_deadline),
                force_takeover,
                worker_allocation: batch_size.map(|batch_size| WorkerAllocation { batch_size, delay }),
                excluded_prefixes: excluded_prefix,
            },
            events: if events_enabled { event_level } else { EventLevel::Nothing },
            scheduler_addresses: scheduler_address,
            in_pod,
            admin: admin_address.or(liveness),
            log: log.into(),
            collector: otlp_endpoint,
            ignored,
            unusable,
        })
    }
}

/// Where compiled plugins are kept unless something else is said.
pub(crate) fn cache_directory() -> PathBuf {
    default_cache_directory(|name| env::var_os(name))
}

fn default_cache_directory(variable: impl Fn(&str) -> Option<OsString>) -> PathBuf {
    let absolute = |name| variable(name).map(PathBuf::from).filter(|path| path.is_absolute());
    absolute("XDG_CACHE_HOME")
        .or_else(|| absolute("HOME").map(|home| home.join(".cache")))
        .unwrap_or_else(env::temp_dir)
        .join(Path::new(env!("CARGO_PKG_NAME")))
}

impl From<LogArgs> for LogSettings {
    fn from(args: LogArgs) -> Self {
        let LogArgs { verbose, debug, quiet, log_filter, log_format } = args;
        // Crates of the operator share a prefix; plugins log as `guest`.
        let levels = |ours: Level, others| {
            Targets::new().with_targets([("dask_wasm_operator", ours), ("guest", ours)]).with_default(others)
        };
        // At level error, whatever is to become of it, the client tells that a request was refused, but not of which object. We
        // do, where we give up. So its word counts only for who asks for it by name, or for all libraries.
        let without_client = |levels: Targets| {
            let is_named = levels.iter().any(|(target, _)| target.starts_with(KUBE_CLIENT));
            if debug || is_named { levels } else { levels.with_target(KUBE_CLIENT, LevelFilter::OFF) }
        };
        let default = match (debug, verbose, quiet) {
            (true, _, _) => levels(Level::DEBUG, LevelFilter::DEBUG),
            (_, true, _) => levels(Level::DEBUG, LevelFilter::INFO),
            (_, _, true) => levels(Level::WARN, LevelFilter::WARN),
            _ => levels(Level::INFO, LevelFilter::WARN),
        };
        Self { format: log_format, levels: without_client(log_filter.unwrap_or(default)) }
    }
}

fn given(args: IgnoredArgs) -> Vec<&'static str> {
    let IgnoredArgs { log_refkey, log_prefix, no_log_prefix, peering, priority, dev, module } = args;
    [
        ("--log-refkey", log_refkey.is_some()),
        ("--log-prefix", log_prefix),
        ("--no-log-prefix", no_log_prefix),
        ("--peering", peering.is_some()),
        ("--priority", priority.is_some()),
        ("--dev", dev),
        ("--module", !module.is_empty()),
    ]
    .into_iter()
    .filter_map(|(flag, given)| given.then_some(flag))
    .collect()
}

#[cfg(test)]
mod tests;
