//! Licences, sources and duplicates of dependencies, by cargo-deny and deny.toml. Only where cargo-deny is installed: building
//! it takes longer than all the rest. Advisories are left out, so that news never fail an unrelated change.

use crate::workspace;

pub(super) fn check() -> anyhow::Result<Vec<String>> {
    if !workspace::is_installed("cargo-deny")? {
        eprintln!("check dependencies: skipped, cargo-deny is not installed");
        return Ok(Vec::new());
    }
    let result =
        workspace::run(&mut workspace::cargo(["deny", "--all-features", "check", "bans", "licenses", "sources"]));
    Ok(result.err().map(|error| error.to_string()).into_iter().collect())
}
