//! Where a plugin's code is: ConfigMaps, or files.

use std::path::PathBuf;

use base64::{Engine as _, engine::general_purpose::STANDARD};
use dask_wasm_operator_core::{
    object::{GroupVersionKind, NamespacedName, Unreadable},
    ports::Observed,
    spec::{COMPONENT_BYTES, ConfigMapKeys, DaskPluginSpec, SelectedSource, SourceError},
    text::line,
};
use serde::Deserialize;

use super::files;

/// The code of a plugin.
pub(crate) enum Code {
    /// What ConfigMaps hold, in order. People who can't edit the DaskPlugin may be able to change it.
    ConfigMaps(Vec<Vec<u8>>),
    /// It is in a file.
    File(PathBuf),
}

impl Code {
    /// The bytes, in order. Reads the file.
    pub(crate) fn read(self) -> Result<Vec<Vec<u8>>, CodeError> {
        match self {
            Self::ConfigMaps(parts) => Ok(parts),
            Self::File(path) => match files::read(&path, COMPONENT_BYTES) {
                Ok(bytes) => Ok(vec![bytes]),
                Err(source) => Err(CodeError::File { path, source }),
            },
        }
    }
}

/// Why there is no code.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CodeError {
    /// No source, or several.
    #[error(transparent)]
    Source(#[from] SourceError),
    /// A source that this version does not serve.
    #[error(
        "spec.source.{kind} is not served by this version of the operator; put the component into a ConfigMap (spec.source.configMap)"
    )]
    NotServed {
        /// Which.
        kind: &'static str,
    },
    /// The ConfigMap is not there.
    #[error(
        "spec.source.configMap: there is no ConfigMap {name} in namespace {namespace}; create it: kubectl create configmap {name} -n {namespace} --from-file=plugin.wasm"
    )]
    NoConfigMap {
        /// Namespace of the operator.
        namespace: String,
        /// Its name.
        name: String,
    },
    /// The ConfigMap is there, and not all of it can be read.
    #[error("spec.source.configMap: ConfigMap {name} can't be read: {}: {}; correct this field", .unreadable.path, .unreadable.why)]
    Unreadable {
        /// Name of the ConfigMap.
        name: String,
        /// What can't be read.
        unreadable: Box<Unreadable>,
    },
    /// The ConfigMap has no such key.
    #[error("spec.source.configMap: ConfigMap {name} has no key {}; it has {}", line(.key, 253), some(.keys))]
    NoKey {
        /// Name of the ConfigMap.
        name: String,
        /// The key.
        key: String,
        /// Those that it has.
        keys: Vec<String>,
    },
    /// No keys are named, and there is not exactly one.
    #[error(
        "spec.source.configMap.keys is empty and ConfigMap {name} has {count} keys; name the one that holds the component"
    )]
    WhichKey {
        /// Name of the ConfigMap.
        name: String,
        /// How many keys.
        count: usize,
    },
    /// Code in several pieces can be seen half changed.
    #[error("spec.source.configMap joins several keys, so spec.source.sha256 must say what they give together")]
    JoinedWithoutDigest,
    /// The file can't be read.
    #[error("spec.source.path: {} can't be read", .path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
}

impl CodeError {
    /// One word in CamelCase.
    pub(crate) fn reason(&self) -> &'static str {
        match self {
            Self::Source(_) => "InvalidSource",
            Self::NotServed { .. } => "NotServedYet",
            Self::NoConfigMap { .. } => "ConfigMapNotFound",
            Self::Unreadable { .. } => "ConfigMapNotReadable",
            Self::NoKey { .. } | Self::WhichKey { .. } => "KeyNotFound",
            Self::JoinedWithoutDigest => "DigestRequired",
            Self::File { .. } => "FileNotReadable",
        }
    }
}

/// Names, as many as a person reads.
fn some(names: &[String]) -> String {
    let shown = names.iter().take(5).map(String::as_str).collect::<Vec<_>>().join(", ");
    match names.len() {
        0 => "none".to_owned(),
        count @ ..=5 => format!("{count}: {shown}"),
        count => format!("{count}, among them {shown}"),
    }
}

/// What is read of a ConfigMap.
#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct ConfigMapData {
    data: std::collections::BTreeMap<String, String>,
    binary_data: std::collections::BTreeMap<String, String>,
}

/// Finds the code of a plugin.
pub(crate) fn find(spec: &DaskPluginSpec, namespace: &str, observed: &dyn Observed) -> Result<Code, CodeError> {
    match spec.source.select()? {
        SelectedSource::ConfigMap(source) => {
            let first = ConfigMapKeys { name: source.name.clone(), keys: source.keys.clone() };
            let maps: Vec<_> = std::iter::once(&first).chain(&source.continued).collect();
            let mut parts = Vec::new();
            for map in maps {
                parts.extend(config_map(map, namespace, observed)?);
            }
            if parts.len() > 1 && spec.source.sha256.is_none() {
                return Err(CodeError::JoinedWithoutDigest);
            }
            Ok(Code::ConfigMaps(parts))
        }
        SelectedSource::Path(path) => Ok(Code::File(path.into())),
        SelectedSource::Script(_) => Err(CodeError::NotServed { kind: "script" }),
        SelectedSource::Oci(_) => Err(CodeError::NotServed { kind: "oci" }),
    }
}

fn config_map(wanted: &ConfigMapKeys, namespace: &str, observed: &dyn Observed) -> Result<Vec<Vec<u8>>, CodeError> {
    let name = wanted.name.clone();
    let object = observed.get(&GroupVersionKind::new("", "v1", "ConfigMap"), &NamespacedName::new(namespace, &name));
    let object =
        object.ok_or_else(|| CodeError::NoConfigMap { namespace: namespace.to_owned(), name: name.clone() })?;
    if let Some(unreadable) = object.unreadable.clone() {
        return Err(CodeError::Unreadable { name, unreadable });
    }
    let data = ConfigMapData {
        data: object.field("data").and_then(Result::ok).unwrap_or_default(),
        binary_data: object.field("binaryData").and_then(Result::ok).unwrap_or_default(),
    };
    let have: Vec<String> = data.data.keys().chain(data.binary_data.keys()).cloned().collect();
    let keys = match (wanted.keys.as_slice(), have.as_slice()) {
        ([], [only]) => vec![only.clone()],
        ([], several) => return Err(CodeError::WhichKey { name, count: several.len() }),
        (keys, _) => keys.to_vec(),
    };
    keys.into_iter()
        .map(|key| {
            let binary = data.binary_data.get(&key).and_then(|text| STANDARD.decode(text).ok());
            let bytes = binary.or_else(|| data.data.get(&key).map(|text| text.clone().into_bytes()));
            bytes.ok_or_else(|| CodeError::NoKey { name: name.clone(), key, keys: have.clone() })
        })
        .collect()
}
