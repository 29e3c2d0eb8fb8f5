//! Which package may import what. The tables here are the rule; ARCHITECTURE.md draws them.
//!
//! ```text
//!             wit ◄── guest-sdk ◄── plugins-examples
//! core ◄── api ◄── cluster ◄──┐
//!   ▲─────────── engine ◄──── runtime            nothing imports runtime, tests or xtask but tests
//! ```

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use cargo_metadata::{DependencyKind, Metadata, PackageId};

/// Packages of the workspace, by the beginning of their directory, and the packages of the workspace that they may import, in
/// the same way. The first row that fits counts.
const MAY_IMPORT: [(&str, &[&str]); 12] = [
    ("host/core", &[]),
    ("host/api", &["host/core"]),
    ("host/engine", &["host/core"]),
    ("host/cluster", &["host/core", "host/api"]),
    ("host/runtime", &["host/"]),
    ("guest-sdk/", &[]),
    ("plugins-examples/", &["guest-sdk/rust"]),
    ("tests/properties", &[]),
    ("tests/support", &["host/core", "host/api"]),
    ("tests/", &["host/", "guest-sdk/", "plugins-examples/", "tests/"]),
    ("xtask/features", &["host/core"]),
    ("xtask", &["guest-sdk/componentize", "host/api", "host/core", "tests/support", "xtask/features"]),
];

/// What tests and benches within a package may import besides.
const TESTS_MAY_IMPORT: &[&str] =
    &["guest-sdk/", "plugins-examples/", "tests/guests/odd", "tests/properties", "tests/support"];

/// Packages that must not be reached from a package of the workspace, through however many others, and why.
const UNREACHABLE: [(&str, &[&str], &str); 4] = [
    ("host/core", &["kube", "tokio", "wasmtime"], "decisions are made on values, without I/O"),
    ("host/api", &["kube", "tokio", "wasmtime"], "definitions are values, too"),
    ("host/engine", &["kube"], "a plugin can't reach the cluster through its host"),
    ("host/cluster", &["wasmtime"], "the cluster's side can't run plugins"),
];

/// Packages from elsewhere that a package of the workspace may import, where that is limited, and why.
const ONLY: [(&str, &[&str], &str); 1] =
    [("plugins-examples/", &["serde", "serde_json"], "the SDK is all that a plugin needs, or the SDK is incomplete")];

pub(super) fn check(metadata: &Metadata) -> Vec<String> {
    let graph = Graph::new(metadata);
    let mut findings = Vec::new();
    for (id, package) in &graph.packages {
        if let Some(directory) = &package.directory {
            graph.check_imports(package, directory, &mut findings);
            graph.check_reach(id, directory, &mut findings);
        }
    }
    findings
}

/// What is imported by whom.
struct Graph<'a> {
    packages: BTreeMap<&'a PackageId, Package<'a>>,
}

struct Package<'a> {
    name: &'a str,
    /// Relative to the workspace; none: it comes from elsewhere.
    directory: Option<String>,
    /// Imported by what is built, build scripts included.
    imports: BTreeSet<&'a PackageId>,
    /// Imported by its tests alone.
    test_imports: BTreeSet<&'a PackageId>,
}

impl<'a> Graph<'a> {
    fn new(metadata: &'a Metadata) -> Self {
        let directory = |package: &cargo_metadata::Package| {
            let own = metadata.workspace_members.contains(&package.id);
            let directory = package.manifest_path.parent().filter(|_| own)?;
            directory.strip_prefix(&metadata.workspace_root).ok().map(ToString::to_string)
        };
        let resolved = metadata.resolve.iter().flat_map(|resolve| &resolve.nodes);
        let mut imports: BTreeMap<_, _> = resolved.map(|node| (&node.id, &node.deps)).collect();
        let packages = metadata.packages.iter().map(|package| {
            let (mut normal, mut test) = (BTreeSet::new(), BTreeSet::new());
            for import in imports.remove(&package.id).into_iter().flatten() {
                for kind in &import.dep_kinds {
                    if kind.kind == DependencyKind::Development { &mut test } else { &mut normal }.insert(&import.pkg);
                }
            }
            let name = package.name.as_str();
            (&package.id, Package { name, directory: directory(package), imports: normal, test_imports: test })
        });
        Self { packages: packages.collect() }
    }

    /// Direct imports.
    fn check_imports(&self, package: &Package<'_>, directory: &str, findings: &mut Vec<String>) {
        let Some((_, allowed)) = MAY_IMPORT.iter().find(|(prefix, _)| directory.starts_with(prefix)) else {
            findings.push(format!("{directory}: xtask/src/check/layers.rs does not say what it may import"));
            return;
        };
        let only = ONLY.iter().find(|(prefix, ..)| directory.starts_with(prefix));
        for id in package.imports.union(&package.test_imports) {
            let Some(import) = self.packages.get(id) else { continue };
            let in_tests = !package.imports.contains(id);
            match (&import.directory, only) {
                (Some(target), _) => {
                    let fits = |prefix: &&str| target.starts_with(prefix);
                    let may = allowed.iter().any(fits) || (in_tests && TESTS_MAY_IMPORT.iter().any(fits));
                    if !may {
                        findings.push(format!("{directory} imports {target}; it may import {}", words(allowed)));
                    }
                }
                (None, Some((_, names, why))) if !in_tests && !names.contains(&import.name) => {
                    findings.push(format!(
                        "{directory} imports {}; it may import {}: {why}",
                        import.name,
                        words(names)
                    ));
                }
                (None, _) => {}
            }
        }
    }

    /// Imports of imports. Tests may reach what they like.
    fn check_reach(&self, id: &PackageId, directory: &str, findings: &mut Vec<String>) {
        for (_, forbidden, why) in UNREACHABLE.iter().filter(|(prefix, ..)| directory.starts_with(prefix)) {
            for name in *forbidden {
                if let Some(path) = self.path(id, name) {
                    findings.push(format!("{directory} reaches {name} ({}): {why}", path.join(" -> ")));
                }
            }
        }
    }

    /// The shortest way from a package to one of this name.
    fn path(&self, from: &'a PackageId, to: &str) -> Option<Vec<&'a str>> {
        let mut queue = VecDeque::from([(from, Vec::new())]);
        let mut seen = BTreeSet::from([from]);
        while let Some((id, mut path)) = queue.pop_front() {
            let package = self.packages.get(id)?;
            path.push(package.name);
            if package.name == to {
                return Some(path);
            }
            let next = package.imports.iter().filter(|import| seen.insert(import));
            queue.extend(next.map(|import| (*import, path.clone())));
        }
        None
    }
}

fn words(allowed: &[&str]) -> String {
    if allowed.is_empty() { "nothing of the workspace".to_owned() } else { allowed.join(", ") }
}

#[cfg(test)]
mod tests {
    use cargo_metadata::MetadataCommand;
    use serde_json::{Value, json};

    use super::*;

    const ELSEWHERE: &str = "elsewhere";

    /// Metadata of packages (name, directory) and imports (from, to, kind).
    fn metadata(packages: &[(&str, &str)], imports: &[(&str, &str, Option<&str>)]) -> Metadata {
        let manifest = |directory: &str| match directory {
            ELSEWHERE => "/elsewhere/Cargo.toml".to_owned(),
            own => format!("/workspace/{own}/Cargo.toml"),
        };
        let own = packages.iter().filter(|(_, directory)| *directory != ELSEWHERE);
        let members: Vec<_> = own.map(|(name, _)| name).collect();
        let described: Vec<Value> = packages
            .iter()
            .map(|(name, directory)| {
                json!({
                    "name": name, "version": "0.1.0", "id": name, "dependencies": [], "targets": [], "features": {},
                    "manifest_path": manifest(directory),
                })
            })
            .collect();
        let nodes: Vec<Value> = packages
            .iter()
            .map(|(name, _)| {
                let imports = imports.iter().filter(|(from, ..)| from == name);
                let deps: Vec<Value> = imports
                    .map(|(_, to, kind)| json!({"name": to, "pkg": to, "dep_kinds": [{"kind": kind, "target": null}]}))
                    .collect();
                json!({"id": name, "dependencies": [], "deps": deps, "features": []})
            })
            .collect();
        let text = json!({
            "packages": described, "workspace_members": members, "resolve": {"nodes": nodes, "root": null},
            "workspace_root": "/workspace", "target_directory": "/target", "version": 1,
        });
        MetadataCommand::parse(text.to_string()).unwrap()
    }

    fn findings(imports: &[(&str, &str, Option<&str>)]) -> Vec<String> {
        let packages = [
            ("core", "host/core"),
            ("api", "host/api"),
            ("engine", "host/engine"),
            ("cluster", "host/cluster"),
            ("operator", "host/runtime"),
            ("sdk", "guest-sdk/rust"),
            ("istio", "plugins-examples/istio-virtual-service"),
            ("support", "tests/support"),
            ("integration", "tests/integration"),
            ("xtask", "xtask"),
            ("kube", ELSEWHERE),
            ("kube-client", ELSEWHERE),
            ("tokio", ELSEWHERE),
            ("wasmtime", ELSEWHERE),
            ("serde", ELSEWHERE),
            ("innocent", ELSEWHERE),
        ];
        check(&metadata(&packages, imports))
    }

    #[test]
    fn the_intended_arrows_are_fine() {
        let arrows = [
            ("api", "core", None),
            ("engine", "core", None),
            ("engine", "wasmtime", None),
            ("cluster", "core", None),
            ("cluster", "api", None),
            ("cluster", "kube", None),
            ("cluster", "support", Some("dev")),
            ("engine", "istio", Some("dev")),
            ("core", "tokio", Some("dev")),
            ("operator", "cluster", None),
            ("operator", "engine", None),
            ("istio", "sdk", None),
            ("istio", "serde", None),
            ("integration", "operator", None),
            ("integration", "support", None),
            ("xtask", "api", None),
            ("xtask", "support", None),
        ];
        assert_eq!(findings(&arrows), Vec::<String>::new());
    }

    #[test]
    fn wrong_arrows_within_the_workspace_are_found() {
        for (from, to, kind, finding) in [
            ("core", "api", None, "host/core imports host/api; it may import nothing of the workspace"),
            ("core", "api", Some("dev"), "host/core imports host/api;"),
            ("core", "api", Some("build"), "host/core imports host/api;"),
            ("engine", "cluster", None, "host/engine imports host/cluster; it may import host/core"),
            ("cluster", "engine", None, "host/cluster imports host/engine;"),
            ("cluster", "support", None, "host/cluster imports tests/support;"),
            ("xtask", "operator", None, "xtask imports host/runtime;"),
            ("engine", "xtask", None, "host/engine imports xtask;"),
            ("istio", "core", None, "plugins-examples/istio-virtual-service imports host/core;"),
        ] {
            let findings = findings(&[(from, to, kind)]);
            assert!(findings.len() == 1 && findings[0].starts_with(finding), "{findings:?}");
        }
    }

    #[test]
    fn what_must_not_be_reached_is_found_behind_others() {
        let reached =
            findings(&[("core", "innocent", None), ("innocent", "kube-client", None), ("kube-client", "tokio", None)]);
        assert_eq!(
            reached,
            [
                "host/core reaches tokio (core -> innocent -> kube-client -> tokio): decisions are made on values, without I/O"
            ]
        );
        for (from, to) in [("core", "kube"), ("core", "wasmtime"), ("engine", "kube"), ("cluster", "wasmtime")] {
            assert_eq!(findings(&[(from, "innocent", None), ("innocent", to, None)]).len(), 1, "{from} {to}");
            assert_eq!(findings(&[(from, "innocent", None), ("innocent", to, Some("dev"))]).len(), 0, "{from} {to}");
        }
    }

    #[test]
    fn plugins_get_by_with_the_sdk() {
        let found = findings(&[("istio", "tokio", None)]);
        assert!(found.len() == 1 && found[0].contains("imports tokio; it may import serde, serde_json"), "{found:?}");
        assert_eq!(findings(&[("istio", "tokio", Some("dev"))]), Vec::<String>::new());
    }

    #[test]
    fn a_new_place_needs_a_row() {
        let found = check(&metadata(&[("tool", "tools/tool")], &[]));
        assert!(found.len() == 1 && found[0].starts_with("tools/tool: "), "{found:?}");
    }
}
