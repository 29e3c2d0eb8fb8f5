//! A Kubernetes operator for Dask whose handlers are sandboxed WebAssembly components.
//!
//! This crate is the program around the crates that do the work: command line, logs, metrics, health, wiring and exit codes.
//! It is the only one that reads the environment, and the only one that sees both the engine and the cluster.

mod admin;
mod controller;
mod metrics;
mod migrate;
mod plugins;
mod process;
mod render;
mod run;
mod settings;
mod start;
mod telemetry;
mod watches;

pub use admin::server::{AdminError, AdminServer, Health};
pub use metrics::Metrics;
pub use migrate::error::MigrateError;
pub use process::{exit::Failure, shutdown::Shutdown};
pub use settings::{
    AdminEndpoint, Connection, EndpointError, Invocation, Leadership, LogFormat, LogSettings, Migration,
    MigrationSettings, NamespacePatterns, OtlpEndpoint, PluginFiles, PluginSources, RenderArgs, RenderOutput,
    RunSettings, Scope, ScopeError, parse,
};

/// Does what the command line asks for.
///
/// # Errors
/// Why it could not be done; [`Failure::report`] tells people.
pub fn execute(invocation: Invocation) -> Result<(), Failure> {
    match invocation {
        Invocation::Run(settings) => run::run(*settings),
        Invocation::Render(arguments) => render::render(arguments),
        Invocation::Migrate(settings) => migrate::migrate(settings),
        Invocation::Crds => process::stdout::print(&dask_wasm_operator_api::crds_yaml()),
    }
}
