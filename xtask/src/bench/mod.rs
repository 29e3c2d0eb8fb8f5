//! `cargo xtask bench`: measurements, each a module of its own. They fail where a figure is beyond its bound.

mod bare;
mod bounds;
mod converge;
mod idle;
mod load;
mod plugins;
mod process;
mod watcher;

use clap::Subcommand;

pub(crate) use idle::IdleArgs;

use crate::workspace;

#[derive(Debug, Subcommand)]
pub(crate) enum BenchCommand {
    /// Many clusters at once, beside a bare client that makes the same objects.
    Converge(converge::ConvergeArgs),
    /// Many clusters whose schedulers are asked whether they are idle: those that answer, and those that are silent.
    Idle(IdleArgs),
    /// Many plugins: memory, the plugin manager's share of a core, status writes, revocation; memory by handlers and objects.
    Plugins(plugins::PluginsArgs),
    /// One call of a plugin, beside the same function compiled natively.
    Call,
}

pub(crate) fn run(command: BenchCommand) -> anyhow::Result<()> {
    match command {
        BenchCommand::Converge(args) => converge::run(args),
        BenchCommand::Idle(args) => idle::run(args),
        BenchCommand::Plugins(args) => plugins::run(args),
        BenchCommand::Call => {
            workspace::run(&mut workspace::cargo(["bench", "--locked", "--workspace", "--bench", "call"]))
        }
    }
}
