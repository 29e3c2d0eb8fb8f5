//! Every package takes the workspace's lints.

use std::fs;

use anyhow::Context as _;
use cargo_metadata::Metadata;

pub(super) fn check(metadata: &Metadata) -> anyhow::Result<Vec<String>> {
    let mut findings = Vec::new();
    for package in metadata.workspace_packages() {
        let manifest = &package.manifest_path;
        let text = fs::read_to_string(manifest).with_context(|| format!("reading {manifest}"))?;
        if !takes_workspace_lints(&text) {
            findings.push(format!("{manifest}: add `[lints]` with `workspace = true`"));
        }
    }
    Ok(findings)
}

fn takes_workspace_lints(manifest: &str) -> bool {
    let mut lines = manifest.lines().map(str::trim).skip_while(|line| *line != "[lints]").skip(1);
    lines.find(|line| !line.is_empty() && !line.starts_with('#')) == Some("workspace = true")
}

#[cfg(test)]
mod tests {
    use super::takes_workspace_lints;

    #[test]
    fn the_table_must_be_there_and_say_so() {
        assert!(takes_workspace_lints("[package]\n\n[lints]\n# why\nworkspace = true\n"));
        for manifest in
            ["", "[lints]\n", "[lints]\n[dependencies]\nworkspace = true\n", "[package]\nworkspace = true\n"]
        {
            assert!(!takes_workspace_lints(manifest), "{manifest:?}");
        }
    }
}
