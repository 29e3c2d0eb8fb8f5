//! Where a plugin's code is: ConfigMaps, or files.

use std::path::{Path, PathBuf};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use dask_wasm_operator_cluster::{
    RequestError,
    config_maps::{ConfigMaps, Content},
};
use dask_wasm_operator_core::{
    object::{NamespacedName, Unreadable},
    plugin::Program,
    ports::Observed,
    spec::{COMPONENT_BYTES, ConfigMapKeys, DaskPluginSpec, SelectedSource, SourceError, code_resource},
    text::line,
};
use tokio::task::spawn_blocking;

use super::files;

/// Where the code of a plugin is, and which.
#[derive(Clone)]
pub(crate) enum Code {
    /// What ConfigMaps hold, in order. People who can't edit the DaskPlugin may be able to change it.
    ConfigMaps(Vec<Part>),
    /// It is in a file.
    File(PathBuf),
}

/// Keys of a ConfigMap, as it was seen last.
#[derive(Clone, Debug, Hash)]
pub(crate) struct Part {
    name: String,
    /// None: its only one.
    keys: Vec<String>,
    uid: String,
    resource_version: String,
}

impl Code {
    /// The program. Reads it now, and takes its time.
    pub(super) async fn read(self, config_maps: &ConfigMaps) -> Result<Program, CodeError> {
        match self {
            Self::ConfigMaps(parts) => {
                let mut component = Vec::new();
                for part in parts {
                    let content = config_maps.read(&part.name).await;
                    let content = content.map_err(|source| CodeError::ConfigMap { name: part.name.clone(), source })?;
                    component.extend(bytes_of(&part, content)?);
                }
                Ok(Program { component })
            }
            Self::File(path) => {
                let file = path.clone();
                let read = spawn_blocking(move || read_file(&file)).await;
                read.unwrap_or_else(|error| Err(CodeError::File { path, source: std::io::Error::other(error) }))
            }
        }
    }
}

/// The program that is a component's file.
pub(crate) fn read_file(path: &Path) -> Result<Program, CodeError> {
    let bytes = files::read(path, COMPONENT_BYTES);
    bytes.map(Program::of_component).map_err(|source| CodeError::File { path: path.to_owned(), source })
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
    /// The ConfigMap can't be read at the moment.
    #[error("spec.source.configMap: ConfigMap {name} can't be read")]
    ConfigMap {
        /// Its name.
        name: String,
        /// Why.
        #[source]
        source: RequestError,
    },
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
            Self::ConfigMap { .. } => "ConfigMapNotReadable",
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

/// Finds the code of a plugin. Nothing of it is read.
pub(crate) fn find(spec: &DaskPluginSpec, namespace: &str, observed: &dyn Observed) -> Result<Code, CodeError> {
    match spec.source.select()? {
        SelectedSource::ConfigMap(source) => {
            let first = ConfigMapKeys { name: source.name.clone(), keys: source.keys.clone() };
            let maps = std::iter::once(&first).chain(&source.continued);
            let parts = maps.map(|map| part(map, namespace, observed)).collect::<Result<Vec<_>, _>>()?;
            let keys: usize = parts.iter().map(|part| part.keys.len().max(1)).sum();
            if keys > 1 && spec.source.sha256.is_none() {
                return Err(CodeError::JoinedWithoutDigest);
            }
            Ok(Code::ConfigMaps(parts))
        }
        SelectedSource::Path(path) => Ok(Code::File(path.into())),
        SelectedSource::Script(_) => Err(CodeError::NotServed { kind: "script" }),
        SelectedSource::Oci(_) => Err(CodeError::NotServed { kind: "oci" }),
    }
}

fn part(wanted: &ConfigMapKeys, namespace: &str, observed: &dyn Observed) -> Result<Part, CodeError> {
    let ConfigMapKeys { name, keys } = wanted.clone();
    match observed.get(&code_resource().kind, &NamespacedName::new(namespace, &name)) {
        Some(object) => match object.unreadable.clone() {
            Some(unreadable) => Err(CodeError::Unreadable { name, unreadable }),
            None => Ok(Part {
                name,
                keys,
                uid: object.metadata.uid.clone(),
                resource_version: object.metadata.resource_version.clone(),
            }),
        },
        None => Err(CodeError::NoConfigMap { namespace: namespace.to_owned(), name }),
    }
}

/// The bytes of each key of a part.
fn bytes_of(part: &Part, content: Content) -> Result<Vec<Vec<u8>>, CodeError> {
    let have: Vec<String> = content.data.keys().chain(content.binary_data.keys()).cloned().collect();
    let keys = match (part.keys.as_slice(), have.as_slice()) {
        ([], [only]) => vec![only.clone()],
        ([], several) => return Err(CodeError::WhichKey { name: part.name.clone(), count: several.len() }),
        (keys, _) => keys.to_vec(),
    };
    keys.into_iter()
        .map(|key| {
            let binary = content.binary_data.get(&key).and_then(|text| STANDARD.decode(text).ok());
            let bytes = binary.or_else(|| content.data.get(&key).map(|text| text.clone().into_bytes()));
            bytes.ok_or_else(|| CodeError::NoKey { name: part.name.clone(), key, keys: have.clone() })
        })
        .collect()
}
