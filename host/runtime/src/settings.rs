//! What the program is to do, as values that need no further judgement.
//!
//! Made from the arguments before any task starts. Every argument is taken out by name, so that a forgotten one does not
//! compile.

mod scope;

use std::{
    env,
    ffi::OsString,
    num::NonZeroU32,
    path::{Path, PathBuf},
    str::FromStr,
    time::Duration,
};

use clap::ValueEnum;
use dask_wasm_operator_cluster::{events::EventLevel, scheduler::Given};
use dask_wasm_operator_core::dask::{Environment, WorkerAllocation};
use tracing::Level;
use tracing_subscriber::filter::{LevelFilter, Targets};

use crate::{
    admin::AdminEndpoint,
    args::{AdminArgs, ConnectionArgs, IgnoredArgs, LogArgs, MigrateArgs, PluginArgs, RenderArgs, RunArgs, ScopeArgs},
    migrate::{Migration, MigrationSettings},
};

pub use scope::{NamespacePatterns, Scope, ScopeError};

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

/// Settings of `run`.
#[derive(Clone, Debug, PartialEq)]
pub struct RunSettings {
    /// Which Dask objects are served.
    pub scope: Scope,
    /// Whether a Lease guards the writes.
    pub leadership: Leadership,
    /// How to reach the API server.
    pub connection: Connection,
    /// Namespace of the Lease and of the DaskPlugins; none: that of the connection.
    pub operator_namespace: Option<String>,
    /// Where plugins come from.
    pub plugins: PluginSources,
    /// Directory for compiled plugins.
    pub cache_directory: PathBuf,
    /// What holds for every Dask object.
    pub environment: Environment,
    /// Which Events are posted.
    pub events: EventLevel,
    /// Schedulers that are not reached at their Service.
    pub scheduler_addresses: Vec<Given>,
    /// Whether this process runs in a pod, where the names of Services are known.
    pub in_pod: bool,
    /// Where health and metrics are served, if anywhere.
    pub admin: Option<AdminEndpoint>,
    /// What is logged.
    pub log: LogSettings,
    /// Flags that were given and have no effect, for a line in the log.
    pub ignored: Vec<&'static str>,
    /// What the environment says in the Python operator's variables and can't be used, for a line in the log.
    pub unusable: Vec<String>,
}

/// Whether a Lease guards the writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Leadership {
    /// Only the holder of the Lease writes.
    Lease,
    /// There is no other operator, by the user's word.
    Standalone,
}

/// How to reach the API server. With neither: as kubectl finds its kubeconfig, else by the pod's ServiceAccount.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Connection {
    /// The kubeconfig.
    pub kubeconfig: Option<PathBuf>,
    /// Its context; none: the current one.
    pub context: Option<String>,
}

/// Where plugins come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PluginSources {
    /// Nowhere: none is loaded.
    Disabled,
    /// From the DaskPlugins of the cluster, and from a directory if one is named.
    Enabled {
        /// The directory.
        directory: Option<PathBuf>,
    },
}

/// Where kube's client logs.
const KUBE_CLIENT: &str = "kube_client";

/// What is logged.
#[derive(Clone, Debug, PartialEq)]
pub struct LogSettings {
    /// How lines look.
    pub format: LogFormat,
    /// From which severity on, by module.
    pub levels: Targets,
}

/// How log lines look.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// The message and its fields.
    Plain,
    /// With time, level and module.
    Full,
    /// One JSON object per line.
    Json,
}

/// What `render` prints.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum RenderOutput {
    /// Every object, each with its author.
    Yaml,
    /// Names only: who owns what, and who made it.
    Tree,
    /// As yaml, for programs.
    Json,
}

/// A plugin given by its files.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PluginFiles {
    /// The component.
    pub wasm: PathBuf,
    /// Its DaskPlugin; none: the default grants.
    pub manifest: Option<PathBuf>,
}

impl FromStr for PluginFiles {
    type Err = SettingsError;

    fn from_str(text: &str) -> Result<Self, SettingsError> {
        let mut paths = text.split(',').map(PathBuf::from);
        match (paths.next().filter(|wasm| !wasm.as_os_str().is_empty()), paths.next(), paths.next()) {
            (Some(wasm), manifest, None) => Ok(Self { wasm, manifest }),
            _ => Err(SettingsError::PluginFiles),
        }
    }
}

/// Why arguments can't be followed. Each names the option and what to write instead.
#[derive(Debug, thiserror::Error)]
pub enum SettingsError {
    /// The scope.
    #[error(transparent)]
    Scope(#[from] ScopeError),
    /// More than two files.
    #[error("write X.wasm, or X.wasm,plugin.yaml")]
    PluginFiles,
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
