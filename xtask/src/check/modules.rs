//! Which module of a package may import which. ARCHITECTURE.md and `layers` say it of packages.
//!
//! A module is a source file. It imports what it names in a `use` or in a path in its code, and the arrow leads to the file that
//! defines the item, through any re-exports. Modules side by side, each with everything below it, must not import each other in
//! a circle: who reads one of them would have to read all of them. A module and those below it may import each other; a file
//! below often implements methods of a type of the file above.
//!
//! What is compiled for tests alone is left out. Names in the arguments of macros and attributes can't be seen: they are tokens
//! until the macro is expanded. Neither can methods that are called without naming their type, or items that a macro defines:
//! these count as defined where they are looked for.

mod circles;
mod names;
mod tree;

#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::Path,
};

use anyhow::{Context as _, ensure};
use cargo_metadata::Metadata;

use names::Arrow;
use tree::Tree;

/// Directories of the packages that are looked at.
const PACKAGES: [&str; 6] = ["host/core", "host/api", "host/engine", "host/cluster", "host/runtime", "xtask"];

/// What the roots of a package are called. Each has a tree of modules of its own.
const ROOTS: [&str; 2] = ["lib.rs", "main.rs"];

/// A module that others of its package must not import from.
struct Closed {
    package: &'static str,
    /// Itself and what is below it may.
    module: &'static str,
    /// Files that may, too.
    but_for: &'static [&'static str],
    why: &'static str,
}

const CLOSED: [Closed; 1] =
    [Closed { package: "host/core", module: "dask", but_for: &["lib.rs"], why: "the rest of core serves any handler" }];

pub(super) fn check(metadata: &Metadata) -> anyhow::Result<Vec<String>> {
    let mut found = Vec::new();
    for package in PACKAGES {
        let mut sources = BTreeMap::new();
        read(metadata.workspace_root.join(package).join("src").as_std_path(), "", &mut sources)?;
        found.extend(findings(package, &sources).with_context(|| format!("looking at the modules of {package}"))?);
    }
    Ok(found)
}

/// The source files below a directory, by their paths in it.
fn read(directory: &Path, prefix: &str, sources: &mut BTreeMap<String, String>) -> anyhow::Result<()> {
    for entry in fs::read_dir(directory).with_context(|| format!("listing {}", directory.display()))? {
        let path = entry?.path();
        let Some(name) = path.file_name().and_then(|name| name.to_str()) else { continue };
        if path.is_dir() {
            read(&path, &format!("{prefix}{name}/"), sources)?;
        } else if name.ends_with(".rs") {
            let text = fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()))?;
            sources.insert(format!("{prefix}{name}"), text);
        }
    }
    Ok(())
}

/// What is wrong in a package with these source files, by their paths in `src`.
fn findings(package: &str, sources: &BTreeMap<String, String>) -> anyhow::Result<Vec<String>> {
    let roots: Vec<_> = ROOTS.into_iter().filter(|root| sources.contains_key(*root)).collect();
    ensure!(!roots.is_empty(), "there is none of {}", ROOTS.join(", "));
    let trees = roots.into_iter().map(|root| Tree::read(root, sources)).collect::<anyhow::Result<Vec<_>>>()?;
    let mut findings = Vec::new();
    for tree in &trees {
        let arrows = names::arrows(tree);
        findings
            .extend(circles::circles(tree, &arrows).into_iter().map(|circle| format!("{package}: circle: {circle}")));
        for closed in CLOSED.iter().filter(|closed| closed.package == package) {
            findings.extend(closed.imports(tree, &arrows));
        }
    }
    for closed in CLOSED.iter().filter(|closed| closed.package == package) {
        if trees.iter().all(|tree| tree.find(closed.module).is_none()) {
            findings.push(format!("{package}: there is no module {}: mend xtask/src/check/modules.rs", closed.module));
        }
    }
    Ok(findings)
}

impl Closed {
    /// Who imports from the module and may not. To name it is enough, even if the item is defined elsewhere.
    fn imports(&self, tree: &Tree, arrows: &[Arrow]) -> Vec<String> {
        let Some(module) = tree.find(self.module) else { return Vec::new() };
        let is_inside = |other: usize| tree.files_above(other).contains(&module);
        let mut found: BTreeMap<_, BTreeSet<_>> = BTreeMap::new();
        for arrow in arrows.iter().filter(|arrow| !is_inside(arrow.from)) {
            let reached =
                if is_inside(arrow.to) { Some(arrow.to) } else { arrow.through.contains(&module).then_some(module) };
            let (from, Some(to)) = (tree.file(arrow.from), reached) else { continue };
            if !self.but_for.contains(&from) {
                found.entry((from, tree.file(to))).or_default().insert(arrow.name.as_str());
            }
        }
        let Self { package, module, why, .. } = self;
        let may = self.but_for.join(", ");
        let finding = |((from, to), names): (_, BTreeSet<&str>)| {
            let names = Vec::from_iter(names).join(", ");
            format!(
                "{package}: {from} -> {to} ({names}): only {may} and {module} itself may import from {module}: {why}"
            )
        };
        found.into_iter().map(finding).collect()
    }
}
