//! `cargo xtask test`: all tests, on one control plane that they share.

use std::{
    env,
    io::{BufRead as _, BufReader},
    path::PathBuf,
    process::{Command, Stdio},
};

use anyhow::{Context as _, bail};
use clap::Args;
use dask_wasm_operator_api::crds;
use dask_wasm_operator_test_support::{
    KUBECONFIG_VARIABLE,
    control_plane::{Binaries, ControlPlane},
};

use crate::{
    bench::{self, BenchCommand, IdleArgs},
    guests, workspace,
};

#[derive(Args, Debug, Default)]
pub(crate) struct TestArgs {
    /// Run them against this cluster, as its administrator, instead of a local control plane.
    #[arg(long, value_name = "FILE")]
    kubeconfig: Option<PathBuf>,
    /// Run the long ones, too: repeats and soaks; and, if nothing is left out, `cargo xtask bench idle`.
    #[arg(long)]
    full: bool,
    /// Only those of this package. May be given several times.
    #[arg(short, long = "package", value_name = "PACKAGE")]
    packages: Vec<String>,
    /// Only those with this in their name.
    filter: Option<String>,
}

pub(crate) fn run(args: TestArgs) -> anyhow::Result<()> {
    let with_bench = args.full && args.kubeconfig.is_none() && args.packages.is_empty() && args.filter.is_none();
    run_tests(args)?;
    if with_bench {
        bench::run(BenchCommand::Idle(IdleArgs::default()))?;
    }
    Ok(())
}

#[tokio::main(flavor = "current_thread")]
async fn run_tests(args: TestArgs) -> anyhow::Result<()> {
    let TestArgs { kubeconfig, full, packages, filter } = args;
    workspace::ensure_guest_target()?;
    workspace::build_operator()?;
    // Tests build them, too, but one after the other and without a word.
    guests::build_all()?;
    let mut cargo = workspace::cargo(["test", "--locked", "--no-fail-fast"]);
    if packages.is_empty() {
        cargo.arg("--workspace");
    } else {
        // So that it asks for the features that all are built with.
        cargo.args(["--package", "workspace-hack"]);
    }
    for package in packages {
        cargo.args(["--package", &package]);
    }
    cargo.args(filter);
    if full {
        cargo.args(["--", "--include-ignored"]);
    }
    // Ends with this scope, after the tests.
    let _control_plane = match kubeconfig {
        Some(file) => {
            let directory = env::current_dir().context("finding the current directory")?;
            cargo.env(KUBECONFIG_VARIABLE, directory.join(file));
            None
        }
        None => {
            let control_plane = ControlPlane::start(&Binaries::ensure(&|line| eprintln!("{line}"))?, &crds()).await?;
            cargo.envs(control_plane.environment());
            Some(control_plane)
        }
    };
    let totals = stream(&mut cargo)?;
    eprintln!("{} passed, {} failed, {} ignored", totals.passed, totals.failed, totals.ignored);
    if !totals.success {
        bail!("there are failures, see above");
    }
    Ok(())
}

/// Sums over all test programs.
#[derive(Debug, Default, PartialEq)]
struct Totals {
    success: bool,
    passed: u64,
    failed: u64,
    ignored: u64,
}

/// Runs the tests, shows what they print, and adds up their results.
fn stream(cargo: &mut Command) -> anyhow::Result<Totals> {
    let line = workspace::describe(cargo);
    eprintln!("+ {line}");
    let mut child = cargo.stdout(Stdio::piped()).spawn().with_context(|| format!("running `{line}`"))?;
    let mut totals = Totals::default();
    for line in BufReader::new(child.stdout.take().expect("it is piped")).split(b'\n') {
        let line = line.context("reading the output of the tests")?;
        let line = String::from_utf8_lossy(&line);
        println!("{line}");
        totals.add(&line);
    }
    totals.success = child.wait().with_context(|| format!("waiting for `{line}`"))?.success();
    Ok(totals)
}

impl Totals {
    /// Adds a line like `test result: ok. 3 passed; 0 failed; 1 ignored; 0 measured; …`; others count for nothing.
    fn add(&mut self, line: &str) {
        let Some((_, counts)) = line.strip_prefix("test result: ").and_then(|rest| rest.split_once(". ")) else {
            return;
        };
        for count in counts.split("; ") {
            let Some((Ok(number), what)) = count.split_once(' ').map(|(number, what)| (number.parse::<u64>(), what))
            else {
                continue;
            };
            match what {
                "passed" => self.passed += number,
                "failed" => self.failed += number,
                "ignored" => self.ignored += number,
                _ => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_of_test_programs_add_up() {
        let mut totals = Totals::default();
        for line in [
            "running 4 tests",
            "test result: ok. 3 passed; 0 failed; 1 ignored; 0 measured; 2 filtered out; finished in 0.02s",
            "test result: FAILED. 1 passed; 2 failed; 0 ignored; 0 measured; 0 filtered out; finished in 1.00s",
            "test result: written by a test",
        ] {
            totals.add(line);
        }
        assert_eq!(totals, Totals { success: false, passed: 4, failed: 2, ignored: 1 });
    }
}
