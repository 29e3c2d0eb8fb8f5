//! The process that is measured, and what it has used, from `/proc`.

use std::{env, fs, path::Path};

use anyhow::Context as _;
use tempfile::{NamedTempFile, TempPath};

use crate::workspace;

/// A copy of the given program, or of the operator as it is released, which is built. How much of a program counts as resident
/// depends on how its file came into the kernel's cache: the same one took 18.7 MiB, and 21.4 as a fresh copy.
pub(super) fn release(given: Option<&Path>) -> anyhow::Result<TempPath> {
    let built = workspace::operator()?.with_file_name("").join("../release/dask-wasm-operator");
    let program = given.unwrap_or(&built);
    if given.is_none() {
        let build = ["build", "--locked", "--release", "--package", "dask-wasm-operator"];
        workspace::run(&mut workspace::cargo(build))?;
    }
    // Beside this program: there, programs may be run.
    let own = env::current_exe().context("finding this program")?;
    let copy = NamedTempFile::new_in(own.with_file_name("")).context("making a file for the program")?.into_temp_path();
    fs::copy(program, &copy).with_context(|| format!("copying {}", program.display()))?;
    Ok(copy)
}

/// Figures of one process, with those of its children that have ended.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Usage {
    /// Seconds of processor time.
    pub(super) cpu_seconds: f64,
    /// Resident set, in MiB.
    pub(super) resident_mib: f64,
    /// Largest resident set, in MiB.
    pub(super) peak_mib: f64,
}

/// Reads the figures.
pub(super) fn usage(pid: u32) -> anyhow::Result<Usage> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat"))
        .with_context(|| format!("reading the figures of process {pid}"))?;
    // The name in parentheses may hold spaces; the fields behind it are numbered from 3 (proc(5)).
    let fields: Vec<&str> =
        stat.rsplit_once(')').map(|(_, rest)| rest.split_whitespace().collect()).unwrap_or_default();
    let ticks = |number: usize| fields.get(number - 3).and_then(|field| field.parse::<f64>().ok()).unwrap_or(0.0);
    let per_second = rustix::param::clock_ticks_per_second() as f64;
    let cpu_seconds = (14..=17).map(ticks).sum::<f64>() / per_second;

    let status = fs::read_to_string(format!("/proc/{pid}/status")).context("reading the memory of a process")?;
    let mib = |field: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(field));
        let kib = line.and_then(|rest| rest.trim().strip_suffix("kB"));
        kib.and_then(|kib| kib.trim().parse::<f64>().ok()).unwrap_or(0.0) / 1024.0
    };
    Ok(Usage { cpu_seconds, resident_mib: mib("VmRSS:"), peak_mib: mib("VmHWM:") })
}
