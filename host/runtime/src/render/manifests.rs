//! Reads manifests: objects, and the definitions of custom kinds among them.

use std::path::{Path, PathBuf};

use anyhow::bail;
use serde_json::Value;

use crate::plugins::documents;

/// What the files hold.
#[derive(Default)]
pub(super) struct Manifests {
    /// Objects, with the file they come from.
    pub(super) objects: Vec<(PathBuf, Value)>,
    /// CustomResourceDefinitions.
    pub(super) definitions: Vec<Value>,
}

/// Reads YAML or JSON files, of one or more documents each.
pub(super) fn read(files: &[PathBuf]) -> anyhow::Result<Manifests> {
    let mut manifests = Manifests::default();
    for file in files {
        for document in documents(file)? {
            manifests.add(file, document)?;
        }
    }
    Ok(manifests)
}

impl Manifests {
    fn add(&mut self, file: &Path, document: Value) -> anyhow::Result<()> {
        match document.get("kind").and_then(Value::as_str) {
            Some("CustomResourceDefinition") => self.definitions.push(document),
            // `kubectl get -o yaml` prints a List, a client may print a ConfigMapList.
            Some(kind) if kind.ends_with("List") && document["items"].is_array() => {
                for item in document["items"].as_array().into_iter().flatten() {
                    self.add(file, item.clone())?;
                }
            }
            Some("DaskPlugin") => {
                bail!("{}: a DaskPlugin goes beside its component: --plugin X.wasm,{}", file.display(), file.display())
            }
            Some(_) => self.objects.push((file.to_owned(), document)),
            None => bail!("{}: a document has no kind", file.display()),
        }
        Ok(())
    }
}
