//! `cargo xtask demo`: what the operator does, to be watched.

use clap::Args;

#[derive(Args, Debug)]
pub(crate) struct DemoArgs {
    /// End by itself: with 0 only if everything converged.
    #[arg(long)]
    pub(crate) once: bool,
}

pub(crate) fn run(args: DemoArgs) -> anyhow::Result<()> {
    let DemoArgs { once: _ } = args;
    anyhow::bail!("the demo is not written yet")
}
