//! Nothing is compiled twice on the way through `cargo xtask demo` and `cargo xtask test`, whichever package is tested.
//!
//! Cargo compiles a library once for each set of features that it is asked for with. Which these are depends on the packages
//! that are selected, and libraries of build scripts and procedural macros have their own. The package `workspace-hack`
//! (xtask/features) asks for what any selection asks for.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context as _, ensure};
use cargo_metadata::Metadata;
use serde_json::Value;

use crate::{
    guests,
    workspace::{self, GUEST_TARGET},
};

pub(super) fn check(metadata: &Metadata) -> anyhow::Result<Vec<String>> {
    let mut runs: Vec<_> = ["build --package xtask", "build --workspace --bin dask-wasm-operator", "test --workspace"]
        .map(str::to_owned)
        .into();
    for package in metadata.workspace_packages() {
        runs.push(format!("test --package {} --package workspace-hack", package.name));
    }
    for guest in guests::packages(metadata) {
        runs.push(format!("build --package {guest} --lib --target {GUEST_TARGET} --profile guest"));
    }
    let units = runs.iter().map(|run| units(run)).collect::<anyhow::Result<Vec<_>>>()?.concat();
    Ok(compiled_twice(&units))
}

/// What cargo compiles in a run. Only a nightly cargo tells: that of `rust-toolchain.toml` has to believe it is one, for this.
fn units(run: &str) -> anyhow::Result<Vec<Value>> {
    let arguments = run.split(' ').chain(["--locked", "--unit-graph", "-Zunstable-options"]);
    let output = workspace::cargo(arguments).env("RUSTC_BOOTSTRAP", "1").output().context("running cargo")?;
    ensure!(output.status.success(), "`cargo {run} --unit-graph`: {}", String::from_utf8_lossy(&output.stderr));
    let graph: Value = serde_json::from_slice(&output.stdout).context("parsing a unit graph")?;
    graph["units"].as_array().cloned().with_context(|| format!("`cargo {run} --unit-graph` tells of no units"))
}

/// Libraries that are compiled with several sets of features for the same target and profile.
fn compiled_twice(units: &[Value]) -> Vec<String> {
    let mut compiled: BTreeMap<_, BTreeSet<BTreeSet<&str>>> = BTreeMap::new();
    for unit in units.iter().filter(|unit| is_library(unit)) {
        let features = unit["features"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
        // Tests are run with the profile of programs, by another name.
        let is_guest = text(unit, "/profile/name") == "guest";
        compiled.entry((text(unit, "/pkg_id"), text(unit, "/platform"), is_guest)).or_default().insert(features);
    }
    compiled.retain(|_, variants| variants.len() > 1);
    let finding = |((package, ..), variants): (&(&str, _, _), &BTreeSet<BTreeSet<&str>>)| {
        let lacking = |feature: &&&str| variants.iter().any(|variant| !variant.contains(**feature));
        let features: BTreeSet<_> = variants.iter().flatten().filter(lacking).copied().collect();
        let (features, count) = (Vec::from_iter(features).join(", "), variants.len());
        format!(
            "{package} is compiled {count} times, with and without the features {features}: add it with these to \
             xtask/features/Cargo.toml, to [build-dependencies] if build scripts or procedural macros have it without them"
        )
    };
    compiled.iter().map(finding).collect()
}

fn text<'a>(unit: &'a Value, pointer: &str) -> &'a str {
    unit.pointer(pointer).and_then(Value::as_str).unwrap_or_default()
}

fn is_library(unit: &Value) -> bool {
    let mut kinds = unit["target"]["kind"].as_array().into_iter().flatten();
    unit["mode"] == "build" && kinds.all(|kind| kind != "bin" && kind != "custom-build")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn unit(package: &str, kind: &str, platform: Option<&str>, profile: &str, features: &[&str]) -> Value {
        json!({
            "pkg_id": package, "target": {"kind": [kind]}, "platform": platform, "profile": {"name": profile},
            "mode": "build", "features": features,
        })
    }

    #[test]
    fn a_library_with_two_sets_of_features_is_found() {
        let all = [
            unit("kube", "lib", None, "dev", &["client", "ws"]),
            unit("kube", "lib", None, "test", &["client"]),
            unit("once", "lib", None, "dev", &["std"]),
            unit("once", "lib", None, "test", &["std"]),
        ];
        let found = compiled_twice(&all);
        assert!(
            matches!(&found[..], [found] if found.starts_with("kube is compiled 2 times, with and without the features ws:")),
            "{found:?}"
        );
    }

    #[test]
    fn other_targets_and_programs_are_others() {
        let all = [
            unit("serde", "lib", None, "dev", &["derive", "std"]),
            unit("serde", "lib", None, "guest", &["std"]),
            unit("serde", "lib", Some(GUEST_TARGET), "guest", &["derive"]),
            unit("serde", "custom-build", None, "dev", &[]),
            unit("serde", "bin", None, "dev", &["more"]),
        ];
        assert_eq!(compiled_twice(&all), Vec::<String>::new());
    }
}
