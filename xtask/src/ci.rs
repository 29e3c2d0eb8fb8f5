//! `cargo xtask ci`: the cheapest check first.

use crate::{check, test, workspace};

pub(crate) fn run() -> anyhow::Result<()> {
    workspace::run(&mut workspace::cargo(["fmt", "--all", "--check"]))?;
    check::run()?;
    workspace::run(&mut workspace::cargo([
        "clippy",
        "--workspace",
        "--all-targets",
        "--locked",
        "--",
        "-D",
        "warnings",
    ]))?;
    test::run(test::TestArgs::default())
}
