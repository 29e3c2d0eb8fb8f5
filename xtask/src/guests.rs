//! Builds plugins to components.

use std::path::PathBuf;

use anyhow::Context as _;
use cargo_metadata::{Metadata, Package, TargetKind};

use crate::workspace;

/// Builds a package of the workspace to a component and answers its path, `components/PACKAGE.wasm` in the target directory.
pub(crate) fn build(package: &str) -> anyhow::Result<PathBuf> {
    eprintln!("building the plugin {package}");
    dask_operator_componentize::build(package).with_context(|| format!("building the plugin {package}"))
}

/// Builds every package of the workspace that is a plugin: examples, and the odd ones of the tests.
pub(crate) fn build_all() -> anyhow::Result<()> {
    for package in packages(&workspace::metadata()?) {
        build(package)?;
    }
    Ok(())
}

/// The packages of the workspace that are plugins.
pub(crate) fn packages(metadata: &Metadata) -> impl Iterator<Item = &str> {
    let is_plugin = |package: &&Package| package.targets.iter().any(|target| target.kind.contains(&TargetKind::CDyLib));
    metadata.workspace_packages().into_iter().filter(is_plugin).map(|package| package.name.as_str())
}
