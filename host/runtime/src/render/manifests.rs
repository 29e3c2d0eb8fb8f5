//! Reads manifests: objects, and the definitions of custom kinds among them.

use std::path::PathBuf;

use anyhow::bail;
use dask_wasm_operator_core::object::{GroupVersionKind, Resource};
use serde_json::{Value, json};

use crate::plugins::documents;

/// What the files hold.
pub(super) struct Manifests {
    /// Objects, with the file they come from.
    pub(super) objects: Vec<(PathBuf, Value)>,
    /// Kinds that CustomResourceDefinitions among them define.
    pub(super) definitions: Vec<Resource>,
}

/// Reads YAML or JSON files, of one or more documents each.
pub(super) fn read(files: &[PathBuf]) -> anyhow::Result<Manifests> {
    let mut manifests = Manifests { objects: Vec::new(), definitions: Vec::new() };
    for file in files {
        for document in documents(file)? {
            match document.get("kind").and_then(Value::as_str) {
                Some("CustomResourceDefinition") => manifests.definitions.extend(definition(&document)),
                Some("List") => {
                    let items = document.get("items").and_then(Value::as_array).cloned().unwrap_or_default();
                    manifests.objects.extend(items.into_iter().map(|item| (file.clone(), item)));
                }
                Some("DaskPlugin") => bail!(
                    "{}: a DaskPlugin goes beside its component: --plugin X.wasm,{}",
                    file.display(),
                    file.display()
                ),
                Some(_) => manifests.objects.push((file.clone(), document)),
                None => bail!("{}: a document has no kind", file.display()),
            }
        }
    }
    Ok(manifests)
}

/// The kinds that a CustomResourceDefinition defines: its versions that are served, the stored one first.
fn definition(document: &Value) -> Vec<Resource> {
    let text = |pointer: &str| document.pointer(pointer).and_then(Value::as_str).unwrap_or_default();
    let versions = document.pointer("/spec/versions").and_then(Value::as_array).cloned().unwrap_or_default();
    let stored = versions.iter().find(|version| version.get("storage") == Some(&json!(true))).or(versions.first());
    let version = stored.and_then(|version| version.get("name")).and_then(Value::as_str);
    version
        .map(|version| Resource {
            kind: GroupVersionKind::new(text("/spec/group"), version, text("/spec/names/kind")),
            plural: text("/spec/names/plural").to_owned(),
            namespaced: text("/spec/scope") == "Namespaced",
        })
        .into_iter()
        .collect()
}
