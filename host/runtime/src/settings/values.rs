//! What the program is to do, as values that need no further judgement.

use std::{path::PathBuf, str::FromStr};

use clap::ValueEnum;
use dask_wasm_operator_cluster::{events::EventLevel, scheduler::Given};
use dask_wasm_operator_core::dask::Environment;
use tracing_subscriber::filter::Targets;

use super::{
    endpoint::{AdminEndpoint, OtlpEndpoint},
    scope::{Scope, ScopeError},
};

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
    /// Where spans are sent, if anywhere.
    pub collector: Option<OtlpEndpoint>,
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

/// What of a migration to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Migration {
    /// From the Python operator: tell what there is, and write nothing.
    Check,
    /// From the Python operator: install this release's definitions.
    Apply,
    /// To the Python operator: install its definitions, and have it take what is there for its own.
    ToPython {
        /// Its definitions: a YAML file or a directory of them; none: ours, with the status subresource of jobs only.
        definitions: Option<PathBuf>,
    },
}

/// A migration, and the cluster it is for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MigrationSettings {
    /// What to do.
    pub migration: Migration,
    /// How to reach the API server.
    pub connection: Connection,
    /// Namespace of this operator's Lease; none: any.
    pub operator_namespace: Option<String>,
}
