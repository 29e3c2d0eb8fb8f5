//! `cargo xtask check`: what the compiler does not see. Every check runs, and tells all that it found.

mod builds;
mod dependencies;
mod layers;
mod lints;
mod modules;
mod orphans;

use anyhow::bail;

use crate::{generate, workspace};

pub(crate) fn run() -> anyhow::Result<()> {
    let metadata = workspace::metadata()?;
    let mut results = vec![
        ("builds", builds::check(&metadata)?),
        ("layers", layers::check(&metadata)),
        ("modules", modules::check(&metadata)?),
        ("orphans", orphans::check(&metadata)?),
        ("lints", lints::check(&metadata)?),
        ("generated files", generate::outdated()),
    ];
    match dependencies::check()? {
        Some(findings) => results.push(("dependencies", findings)),
        None => eprintln!(
            "check dependencies: SKIPPED, deny.toml is not checked without cargo-deny (cargo install cargo-deny)"
        ),
    }
    for (name, findings) in &results {
        eprintln!("check {name}: {}", if findings.is_empty() { "ok" } else { "FAILED" });
        for finding in findings {
            eprintln!("  {finding}");
        }
    }
    match results.iter().map(|(_, findings)| findings.len()).sum() {
        0 => Ok(()),
        1 => bail!("there is 1 finding, see above"),
        count => bail!("there are {count} findings, see above"),
    }
}
