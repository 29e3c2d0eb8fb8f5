//! Developer commands: `cargo xtask --help`.
//!
//! Each command is a module of its own. Nothing here is part of the operator, and nothing imports it.

mod bench;
mod check;
mod ci;
mod cluster;
mod demo;
mod generate;
mod guests;
mod test;
mod workspace;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Developer commands of dask-wasm-operator.
#[derive(Debug, Parser)]
#[command(bin_name = "cargo xtask")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// See the operator work: a local control plane, a Dask cluster, a plugin.
    Demo(demo::DemoArgs),
    /// Run the tests, those against a real API server included.
    Test(test::TestArgs),
    /// Check format, lints and structure, then run the tests: what .ci/run runs.
    Ci,
    /// Check the structure: layers, modules, orphans, lints, generated files, dependencies.
    Check,
    /// Write the generated files.
    Gen,
    /// Start or stop a local control plane that stays.
    Cluster {
        #[command(subcommand)]
        command: cluster::ClusterCommand,
    },
    /// Measure.
    Bench {
        #[command(subcommand)]
        command: bench::BenchCommand,
    },
}

fn main() -> ExitCode {
    // Where in this program an error arose helps nobody: no backtrace.
    match run(Cli::parse().command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(command: Command) -> anyhow::Result<()> {
    match command {
        Command::Demo(args) => demo::run(args),
        Command::Test(args) => test::run(args),
        Command::Ci => ci::run(),
        Command::Check => check::run(),
        Command::Gen => generate::write(),
        Command::Cluster { command } => cluster::run(command),
        Command::Bench { command } => bench::run(command),
    }
}
