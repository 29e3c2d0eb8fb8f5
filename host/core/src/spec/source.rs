//! Where a plugin's code comes from.

use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::DurationText;
use crate::object::{GroupVersionKind, Resource};

/// ConfigMaps that may hold code. Only their metadata is watched: the content is read when it is to be loaded.
pub fn code_resource() -> Resource {
    let kind = GroupVersionKind::new("", "v1", "ConfigMap");
    Resource { kind, plural: "configmaps".to_owned(), namespaced: true }.metadata_only()
}

/// Where the plugin's code is: exactly one of `configMap`, `script`, `oci` and `path`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[cfg_attr(feature = "schema", schemars(extend("x-kubernetes-validations" = [{
    "rule": "[has(self.configMap), has(self.script), has(self.oci), has(self.path)].exists_one(x, x)",
    "message": "set exactly one of configMap, script, oci and path",
}])))]
pub struct PluginSource {
    /// A component in ConfigMaps of the operator's namespace.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub config_map: Option<ConfigMapSource>,
    /// A script; it runs in the runtime of its language, which comes with the operator.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub script: Option<ScriptSource>,
    /// A component in an OCI registry.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub oci: Option<OciSource>,
    /// A component in a file that the operator's pod mounts, by its absolute path.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
    /// SHA-256 of the code (unpacked and joined), in lower-case hexadecimal. Required when the grants exceed the default and
    /// when the code is joined from several keys.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "schema", schemars(extend("pattern" = "^[0-9a-f]{64}$")))]
    pub sha256: Option<String>,
}

/// Code in one ConfigMap, or in several that continue one another.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct ConfigMapSource {
    /// Name of the ConfigMap.
    pub name: String,
    /// Its keys, joined in this order; none: its only key. Endings `.gz` and `.zst` are unpacked after joining.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub keys: Vec<String>,
    /// Further ConfigMaps whose keys follow, for code of more than 1 MiB.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub continued: Vec<ConfigMapKeys>,
}

/// Keys of one further ConfigMap.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct ConfigMapKeys {
    /// Name of the ConfigMap.
    pub name: String,
    /// Its keys, joined in this order.
    pub keys: Vec<String>,
}

/// A script and the language that it is written in.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct ScriptSource {
    /// The language.
    pub language: ScriptLanguage,
    /// The ConfigMap that holds the script.
    pub config_map: ConfigMapSource,
}

/// Languages that scripts are written in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub enum ScriptLanguage {
    /// Python.
    Python,
    /// JavaScript.
    Javascript,
}

/// A component in an OCI registry.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct OciSource {
    /// The image, by digest (`ghcr.io/me/plugin@sha256:...`) or by tag.
    pub image: String,
    /// Name of a Secret of type `kubernetes.io/dockerconfigjson` in the operator's namespace.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pull_secret: Option<String>,
    /// Refuse an image that is not signed so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub verify: Option<OciVerification>,
    /// How often to look whether a tag has moved, such as 10m. Without it: once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub interval: Option<DurationText>,
}

/// Who must have signed an image.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct OciVerification {
    /// The signer's public key, in PEM.
    pub public_key: String,
}

/// The one source that a DaskPlugin names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SelectedSource<'a> {
    /// A component in ConfigMaps.
    ConfigMap(&'a ConfigMapSource),
    /// A script.
    Script(&'a ScriptSource),
    /// An OCI image.
    Oci(&'a OciSource),
    /// A mounted file.
    Path(&'a str),
}

/// A source that can't be used.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum SourceError {
    /// Nowhere to look.
    #[error("spec.source: names no source; set one of configMap, script, oci and path")]
    Missing,
    /// More than one place to look.
    #[error("spec.source: names several sources ({}); keep one of them", .0.join(", "))]
    Several(Vec<&'static str>),
    /// Joined code without a digest: half of an update would be taken for the whole.
    #[error(
        "spec.source.sha256: is required when the code is joined from several keys; set it to the SHA-256 of the whole"
    )]
    JoinedWithoutDigest,
    /// Not a digest.
    #[error("spec.source.sha256: {0:?} is not a SHA-256; write 64 lower-case hexadecimal digits")]
    Digest(String),
}

impl PluginSource {
    /// The one source that is named.
    ///
    /// # Errors
    /// None or several are named, or the digest is malformed, or missing for joined code.
    pub fn select(&self) -> Result<SelectedSource<'_>, SourceError> {
        if let Some(text) = self.sha256.as_ref().filter(|text| !is_sha256(text)) {
            return Err(SourceError::Digest(text.clone()));
        }
        let named = [
            self.config_map.as_ref().map(|source| ("configMap", SelectedSource::ConfigMap(source))),
            self.script.as_ref().map(|source| ("script", SelectedSource::Script(source))),
            self.oci.as_ref().map(|source| ("oci", SelectedSource::Oci(source))),
            self.path.as_deref().map(|source| ("path", SelectedSource::Path(source))),
        ];
        let mut named = named.into_iter().flatten();
        let (first_name, source) = named.next().ok_or(SourceError::Missing)?;
        let others: Vec<_> = named.map(|(name, _)| name).collect();
        if !others.is_empty() {
            return Err(SourceError::Several([vec![first_name], others].concat()));
        }
        let joined = match source {
            SelectedSource::ConfigMap(source) => source.is_joined(),
            SelectedSource::Script(source) => source.config_map.is_joined(),
            SelectedSource::Oci(_) | SelectedSource::Path(_) => false,
        };
        if joined && self.sha256.is_none() {
            return Err(SourceError::JoinedWithoutDigest);
        }
        Ok(source)
    }
}

impl ConfigMapSource {
    fn is_joined(&self) -> bool {
        self.keys.len() > 1 || !self.continued.is_empty()
    }
}

fn is_sha256(text: &str) -> bool {
    text.len() == 64 && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn select(source: Value) -> Result<String, SourceError> {
        let source: PluginSource = serde_json::from_value(source).unwrap();
        source.select().map(|selected| format!("{selected:?}"))
    }

    #[test]
    fn the_one_source_is_selected() {
        let digest = "0".repeat(64);
        for (source, expected) in [
            (json!({ "configMap": { "name": "a" } }), "ConfigMap"),
            (json!({ "configMap": { "name": "a", "keys": ["1", "2"] }, "sha256": digest }), "ConfigMap"),
            (json!({ "script": { "language": "python", "configMap": { "name": "a" } } }), "Script"),
            (json!({ "oci": { "image": "ghcr.io/me/plugin:1", "interval": "10m" } }), "Oci"),
            (json!({ "path": "/plugins/a.wasm" }), "Path"),
        ] {
            let selected = select(source).unwrap();
            assert!(selected.starts_with(expected), "{selected}");
        }
    }

    #[test]
    fn anything_but_one_source_is_refused() {
        assert_eq!(select(json!({})), Err(SourceError::Missing));
        let several = json!({ "configMap": { "name": "a" }, "path": "/a" });
        assert_eq!(select(several), Err(SourceError::Several(vec!["configMap", "path"])));
    }

    #[test]
    fn joined_code_needs_a_digest_and_a_digest_its_form() {
        for config_map in [
            json!({ "name": "a", "keys": ["1", "2"] }),
            json!({ "name": "a", "keys": ["1"], "continued": [{ "name": "b", "keys": ["2"] }] }),
        ] {
            let script = json!({ "script": { "language": "python", "configMap": config_map.clone() } });
            assert_eq!(select(script), Err(SourceError::JoinedWithoutDigest));
            assert_eq!(select(json!({ "configMap": config_map })), Err(SourceError::JoinedWithoutDigest));
        }
        for digest in ["abc".to_owned(), "A".repeat(64), "g".repeat(64), "é".repeat(32)] {
            let source = json!({ "path": "/a", "sha256": digest });
            assert_eq!(select(source), Err(SourceError::Digest(digest)));
        }
    }
}
