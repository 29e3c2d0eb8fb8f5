//! A Kubernetes operator for Dask whose handlers are sandboxed WebAssembly components.
//!
//! This crate is the program around the crates that do the work: command line, logs, metrics, health, wiring and exit codes.
//! It is the only one that reads the environment, and the only one that sees both the engine and the cluster.

mod admin;
mod args;
mod controller;
mod exit;
mod health;
mod heap;
mod known_fields;
mod metrics;
mod migrate;
mod namespaces;
mod plugins;
mod render;
mod run;
mod served;
mod settings;
mod shutdown;
mod stalls;
mod start;
mod task;
mod telemetry;
mod watched;
mod writes;

use std::io::{self, Write as _};

use anyhow::Context as _;

pub use admin::{AdminEndpoint, AdminError, AdminServer, EndpointError, Health};
pub use args::{RenderArgs, parse};
pub use exit::Failure;
pub use metrics::Metrics;
pub use migrate::{MigrateError, Migration, MigrationSettings};
pub use settings::{
    Connection, Invocation, Leadership, LogFormat, LogSettings, NamespacePatterns, PluginFiles, PluginSources,
    RenderOutput, RunSettings, Scope, ScopeError,
};
pub use shutdown::Shutdown;

/// Does what the command line asks for.
///
/// # Errors
/// Why it could not be done; [`Failure::report`] tells people.
pub fn execute(invocation: Invocation) -> Result<(), Failure> {
    match invocation {
        Invocation::Run(settings) => run::run(*settings),
        Invocation::Render(arguments) => render::render(arguments),
        Invocation::Migrate(settings) => migrate::migrate(settings),
        Invocation::Crds => print(&dask_wasm_operator_api::crds_yaml()),
    }
}

/// Writes to stdout. A reader that has seen enough (`| head`) is no failure.
fn print(text: &str) -> Result<(), Failure> {
    match io::stdout().lock().write_all(text.as_bytes()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            Err(error).context("writing to standard output").map_err(Failure::from)
        }
        _ => Ok(()),
    }
}
