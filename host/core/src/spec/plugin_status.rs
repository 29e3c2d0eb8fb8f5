//! What the operator says of a plugin.

use serde::{Deserialize, Serialize};

use super::Condition;
use crate::quote::says_the_same;

/// State of a DaskPlugin.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct DaskPluginStatus {
    /// How far the plugin is on its way from source to service.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub state: Option<PluginState>,
    /// Why it is in that state, as one word in CamelCase.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Why it is in that state, for people, with the remedy where there is one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
    /// SHA-256 of the code that serves calls.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub digest: Option<String>,
    /// SHA-256 of newer code that was found and does not serve calls yet, or can't; the former code serves until it does.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pending_digest: Option<String>,
    /// Name that the plugin gives itself; for people.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub describes_as: Option<String>,
    /// Version that the plugin gives itself; for people.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    /// Version of the interface that the plugin was built for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub interface_version: Option<String>,
    /// The plugin's handlers.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[cfg_attr(feature = "schema", schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["name"])))]
    pub handlers: Vec<HandlerStatus>,
    /// Figures over all subjects.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub counts: Option<PluginCounts>,
    /// The last call that failed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_error: Option<LastError>,
    /// Ready, HandlersServed, Degraded.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[cfg_attr(feature = "schema", schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["type"])))]
    pub conditions: Vec<Condition>,
    /// The generation of the object that this status was found for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
}

/// How far a plugin is on its way from source to service.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub enum PluginState {
    /// The DaskPlugin was seen; its source is being read, its digest and imports are checked.
    Found,
    /// The code is being compiled.
    Compiling,
    /// The compiled code is asked what it does, and the answer is checked.
    Describing,
    /// It serves calls.
    Ready,
    /// It could serve, but asks for nothing that this version of the operator serves.
    NotServed,
    /// A step failed; the reason says which.
    Failed,
    /// It is halted by `spec.suspend`.
    Suspended,
}

/// State of one handler.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct HandlerStatus {
    /// The handler's name.
    pub name: String,
    /// When it asks to be called, such as observed or field-changed.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub triggers: Vec<String>,
    /// Which objects it is about, in words.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub subscription: String,
    /// Whether it is called.
    pub state: HandlerState,
    /// Why it is not called, as one word in CamelCase.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Why it is not called, for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
}

/// Whether a handler is called.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub enum HandlerState {
    /// It is.
    Served,
    /// It is not: it asks for something that this version of the operator does not serve, or that was not granted.
    NotServed,
}

/// Figures of a plugin over all subjects.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct PluginCounts {
    /// Objects that it is called for.
    pub subjects: u64,
    /// Children that it has.
    pub children: u64,
    /// Calls since the operator started.
    pub calls: u64,
    /// Calls since the operator started that failed.
    pub failures: u64,
    /// Subjects for which it is not called any more after too many failures.
    pub parked: u64,
}

/// A call that failed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct LastError {
    /// Since when. A call that fails in the same way as the last one does not move it.
    #[cfg_attr(feature = "schema", schemars(extend("format" = "date-time")))]
    pub time: String,
    /// Which handler.
    pub handler: String,
    /// For which object, such as Service team-a/demo-scheduler.
    pub subject: String,
    /// What kind of failure, as one word in CamelCase.
    pub reason: String,
    /// What happened: all problems of the call.
    pub message: String,
}

impl LastError {
    /// Whether another call failed in the same way, in whatever words others put it.
    pub fn is_same(&self, other: &Self) -> bool {
        (&self.handler, &self.subject, &self.reason) == (&other.handler, &other.subject, &other.reason)
            && says_the_same(&self.message, &other.message)
    }
}
