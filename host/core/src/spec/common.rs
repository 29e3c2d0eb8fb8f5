//! Shapes that several kinds share.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::{quote::says_the_same, time::rfc3339};

/// Labels and annotations for what is made from this part. Other fields are kept, and ignored.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[cfg_attr(feature = "schema", schemars(extend("x-kubernetes-preserve-unknown-fields" = true)))]
pub struct Metadata {
    /// Labels to add.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// Annotations to add.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
}

/// One aspect of an object's state, after Kubernetes' conventions.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Condition {
    /// Which aspect, in CamelCase.
    #[serde(rename = "type")]
    pub type_: String,
    /// Whether it holds.
    pub status: ConditionStatus,
    /// The generation of the object that this was found for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// When `status` last changed.
    #[cfg_attr(feature = "schema", schemars(extend("format" = "date-time")))]
    pub last_transition_time: String,
    /// Why, as one word in CamelCase.
    pub reason: String,
    /// Why, for people, with the remedy where there is one.
    pub message: String,
}

/// Status, reason and message of a condition.
pub type Finding = (ConditionStatus, String, String);

impl Condition {
    /// What it says.
    pub fn finding(&self) -> Finding {
        (self.status, self.reason.clone(), self.message.clone())
    }

    /// Whether another says the same, in whatever words others put it.
    pub fn is_same(&self, other: &Self) -> bool {
        (&self.type_, self.status, &self.reason) == (&other.type_, other.status, &other.reason)
            && says_the_same(&self.message, &other.message)
    }

    /// What was found at `now`, in milliseconds since the Unix epoch, for a `generation` of an object that had the conditions
    /// `before`.
    pub fn found(type_: &str, finding: Finding, before: &[Self], generation: Option<i64>, now: u64) -> Self {
        let (status, reason, message) = finding;
        let same = before.iter().find(|condition| condition.type_ == type_ && condition.status == status);
        Self {
            type_: type_.to_owned(),
            status,
            observed_generation: generation,
            last_transition_time: same.map_or_else(|| rfc3339(now), |same| same.last_transition_time.clone()),
            reason,
            message,
        }
    }
}

/// Whether a condition holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub enum ConditionStatus {
    /// It does.
    True,
    /// It does not.
    False,
    /// That could not be found out.
    Unknown,
}

/// Selects objects by labels. All parts must match; an empty selector matches everything.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[cfg_attr(feature = "schema", schemars(extend("x-kubernetes-map-type" = "atomic")))]
pub struct LabelSelector {
    /// Labels and the values that they must have.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub match_labels: BTreeMap<String, String>,
    /// Requirements that compare a label with a set of values.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub match_expressions: Vec<LabelSelectorRequirement>,
}

/// A requirement on one label.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct LabelSelectorRequirement {
    /// The label.
    pub key: String,
    /// `In`, `NotIn`, `Exists` or `DoesNotExist`.
    pub operator: String,
    /// The values to compare with; none for `Exists` and `DoesNotExist`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub values: Vec<String>,
}
