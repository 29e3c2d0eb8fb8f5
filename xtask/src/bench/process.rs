//! The process that is measured, and what it has used, from `/proc`.

use std::path::{Path, PathBuf};

use anyhow::Context as _;

use crate::workspace;

/// The given program, or the operator as it is released, which is built.
pub(super) fn release(given: Option<&Path>) -> anyhow::Result<PathBuf> {
    if let Some(program) = given {
        return Ok(program.to_owned());
    }
    let build = ["build", "--locked", "--release", "--package", "dask-wasm-operator"];
    workspace::run(&mut workspace::cargo(build))?;
    Ok(workspace::operator()?.with_file_name("").join("../release/dask-wasm-operator"))
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
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"))
        .with_context(|| format!("reading the figures of process {pid}"))?;
    // The name in parentheses may hold spaces; the fields behind it are numbered from 3 (proc(5)).
    let fields: Vec<&str> =
        stat.rsplit_once(')').map(|(_, rest)| rest.split_whitespace().collect()).unwrap_or_default();
    let ticks = |number: usize| fields.get(number - 3).and_then(|field| field.parse::<f64>().ok()).unwrap_or(0.0);
    let per_second = rustix::param::clock_ticks_per_second() as f64;
    let cpu_seconds = (14..=17).map(ticks).sum::<f64>() / per_second;

    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).context("reading the memory of a process")?;
    let mib = |field: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(field));
        let kib = line.and_then(|rest| rest.trim().strip_suffix("kB"));
        kib.and_then(|kib| kib.trim().parse::<f64>().ok()).unwrap_or(0.0) / 1024.0
    };
    Ok(Usage { cpu_seconds, resident_mib: mib("VmRSS:"), peak_mib: mib("VmHWM:") })
}
