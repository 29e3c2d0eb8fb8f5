//! `cargo xtask gen`: files that are made from the code, and whether they are up to date.

use std::{fs, path::PathBuf};

use anyhow::Context as _;

use crate::workspace;

/// Every generated file with its content.
fn files() -> Vec<(PathBuf, String)> {
    let chart = workspace::root().join("charts/dask-wasm-operator");
    dask_wasm_operator_api::chart_files().into_iter().map(|(path, content)| (chart.join(path), content)).collect()
}

/// Writes those that differ.
pub(crate) fn write() -> anyhow::Result<()> {
    for (path, content) in files() {
        if fs::read_to_string(&path).is_ok_and(|current| current == content) {
            continue;
        }
        let directory = path.parent().expect("it is a file in the chart");
        fs::create_dir_all(directory).with_context(|| format!("creating {}", directory.display()))?;
        fs::write(&path, content).with_context(|| format!("writing {}", path.display()))?;
        eprintln!("wrote {}", path.display());
    }
    Ok(())
}

/// A finding for each that differs.
pub(crate) fn outdated() -> Vec<String> {
    let differs = |(path, content): &(PathBuf, String)| fs::read_to_string(path).ok().as_ref() != Some(content);
    let files = files().into_iter().filter(differs);
    files.map(|(path, _)| format!("{} is not up to date; run `cargo xtask gen`", path.display())).collect()
}
