//! What one plugin has handled of one subject, kept over restarts.
//!
//! Only handlers that ask for `created`, `updated`, `field-changed` or `resumed` need a record. The subject owns it.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// Whose record this is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct DaskPluginRecordSpec {
    /// Name of the DaskPlugin.
    pub plugin: String,
    /// The object that was handled.
    pub subject: SubjectReference,
}

/// An object that a plugin was called for. It is in the record's namespace, or cluster-scoped.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct SubjectReference {
    /// Group and version, such as apps/v1.
    pub api_version: String,
    /// Kind.
    pub kind: String,
    /// Name.
    pub name: String,
    /// Unique identity: another object of the same name is another subject.
    pub uid: String,
}

/// What was handled.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct DaskPluginRecordStatus {
    /// The last success of each handler, by the handler's name.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub handlers: BTreeMap<String, HandledTrigger>,
}

/// A call that succeeded.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct HandledTrigger {
    /// The trigger by its name in the interface, such as created.
    pub trigger: String,
    /// When.
    #[cfg_attr(feature = "schema", schemars(extend("format" = "date-time")))]
    pub handled_at: String,
    /// Digest of the part of the subject that the handler watches, as it was then.
    pub digest: String,
}
