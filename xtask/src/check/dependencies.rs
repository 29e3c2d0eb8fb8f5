//! Licences, sources and duplicates of dependencies, by cargo-deny and deny.toml. Only where cargo-deny is installed: building
//! it takes longer than all the rest. Advisories are left out, so that news never fail an unrelated change.

use crate::workspace;

/// None: nothing was checked.
pub(super) fn check() -> anyhow::Result<Option<Vec<String>>> {
    if !workspace::is_installed("cargo-deny")? {
        return Ok(None);
    }
    let result =
        workspace::run(&mut workspace::cargo(["deny", "--all-features", "check", "bans", "licenses", "sources"]));
    Ok(Some(result.err().map(|error| error.to_string()).into_iter().collect()))
}
