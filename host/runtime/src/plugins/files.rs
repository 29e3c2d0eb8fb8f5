//! Plugins given as files: a component, and beside it a DaskPlugin in YAML if it needs grants or configuration.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use dask_wasm_operator_core::spec::DaskPluginSpec;
use serde_json::{Value, json};

use crate::PluginFiles;

/// The documents of a YAML or JSON file.
pub(crate) fn documents(file: &Path) -> anyhow::Result<Vec<Value>> {
    let text = std::fs::read_to_string(file).with_context(|| format!("reading {}", file.display()))?;
    let documents: Vec<Value> =
        serde_saphyr::from_multiple(&text).with_context(|| format!("{} is no YAML", file.display()))?;
    Ok(documents.into_iter().filter(|document| !document.is_null()).collect())
}

/// Name and specification of a plugin. Its source is the component, whatever its DaskPlugin says.
pub(crate) fn plugin(files: &PluginFiles) -> anyhow::Result<(String, DaskPluginSpec)> {
    let name = files
        .wasm
        .file_name()
        .and_then(|name| name.to_str())
        .and_then(|name| name.split('.').next())
        .unwrap_or("plugin");
    let source = json!({"path": files.wasm});
    let Some(manifest) = &files.manifest else {
        return Ok((name.to_owned(), serde_json::from_value(json!({"source": source}))?));
    };
    let found = documents(manifest)?
        .into_iter()
        .find(|document| document.get("kind").and_then(Value::as_str) == Some("DaskPlugin"));
    let Some(mut document) = found else { bail!("{} holds no DaskPlugin", manifest.display()) };
    let name = document.pointer("/metadata/name").and_then(Value::as_str).unwrap_or(name).to_owned();
    let mut spec = document["spec"].take();
    spec["source"] = source;
    let spec = serde_json::from_value(spec).with_context(|| format!("{}: spec", manifest.display()))?;
    Ok((name, spec))
}

/// The plugins of a directory: each `NAME.wasm` (or `.wasm.gz`, `.wasm.zst`), with `NAME.yaml` beside it if there is one.
pub(crate) fn directory(directory: &Path) -> anyhow::Result<Vec<PluginFiles>> {
    let entries = std::fs::read_dir(directory)
        .with_context(|| format!("reading the plugin directory {}", directory.display()))?;
    let mut found: Vec<_> = entries
        .filter_map(|entry| entry.ok().map(|entry| entry.path()))
        .filter_map(|wasm| {
            let name = wasm.file_name()?.to_str()?;
            let stem = [".wasm", ".wasm.gz", ".wasm.zst"].iter().find_map(|ending| name.strip_suffix(ending))?;
            let manifest: PathBuf = directory.join(format!("{stem}.yaml"));
            Some(PluginFiles { manifest: manifest.exists().then_some(manifest), wasm })
        })
        .collect();
    found.sort_by(|one, other| one.wasm.cmp(&other.wasm));
    Ok(found)
}
