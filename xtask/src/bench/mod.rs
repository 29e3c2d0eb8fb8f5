//! `cargo xtask bench`: measurements, each a module of its own.

use clap::Subcommand;

#[derive(Debug, Subcommand)]
pub(crate) enum BenchCommand {
    /// Many clusters at once, beside a bare client that makes the same objects.
    Converge {
        /// Measure the Python operator, too.
        #[arg(long)]
        peer: bool,
    },
    /// One call of a plugin, beside the same function compiled natively.
    Call,
}

pub(crate) fn run(command: BenchCommand) -> anyhow::Result<()> {
    match command {
        BenchCommand::Converge { peer: _ } | BenchCommand::Call => anyhow::bail!("this bench is not written yet"),
    }
}
