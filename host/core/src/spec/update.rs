//! How what runs follows a changed pod template.

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

#[cfg(feature = "schema")]
use super::schema;

/// How running pods follow a changed template.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct UpdateStrategy {
    /// `OnDelete`: nothing that runs is changed; deleting a Deployment gives the new one. `RollingUpdate`: workers are replaced
    /// step by step, each after its data was moved to others, and the scheduler's Deployment is changed.
    #[serde(default, rename = "type")]
    pub type_: UpdateStrategyType,
    /// The size of the steps of a `RollingUpdate`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rolling_update: Option<RollingUpdate>,
}

/// Whether running pods follow a changed template by themselves.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub enum UpdateStrategyType {
    /// They don't.
    #[default]
    OnDelete,
    /// They do, step by step.
    RollingUpdate,
}

/// The size of the steps in which workers are replaced, as for a Kubernetes Deployment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct RollingUpdate {
    /// How many workers may be missing during the update: a number, or a percentage of the replicas, rounded down. Not set: 25%.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "schema", schemars(schema_with = "schema::int_or_string"))]
    pub max_unavailable: Option<Share>,
    /// How many workers there may be beyond the replicas: a number, or a percentage of the replicas, rounded up. Not set: 25%.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "schema", schemars(schema_with = "schema::int_or_string"))]
    pub max_surge: Option<Share>,
}

/// A number, or a percentage of another number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Value", into = "Value")]
pub enum Share {
    /// So many.
    Count(u32),
    /// So many of a hundred.
    Percent(u32),
}

impl Share {
    /// Whether it is nothing of any number.
    pub fn is_zero(self) -> bool {
        matches!(self, Self::Count(0) | Self::Percent(0))
    }

    /// How many of `whole`, a broken number rounded down.
    pub fn of_rounded_down(self, whole: u32) -> u32 {
        self.of(whole, 0)
    }

    /// How many of `whole`, a broken number rounded up.
    pub fn of_rounded_up(self, whole: u32) -> u32 {
        self.of(whole, 99)
    }

    fn of(self, whole: u32, added: u64) -> u32 {
        match self {
            Self::Count(count) => count,
            Self::Percent(percent) => {
                let share = (u64::from(whole) * u64::from(percent)).saturating_add(added) / 100;
                u32::try_from(share).unwrap_or(u32::MAX)
            }
        }
    }
}

impl TryFrom<Value> for Share {
    type Error = String;

    fn try_from(value: Value) -> Result<Self, String> {
        let number = |number: u64| u32::try_from(number).ok();
        let share = match &value {
            Value::Number(count) => count.as_u64().and_then(number).map(Self::Count),
            Value::String(text) => {
                let percent = text.strip_suffix('%').filter(|digits| digits.bytes().all(|byte| byte.is_ascii_digit()));
                percent.and_then(|digits| digits.parse().ok()).map(Self::Percent)
            }
            _ => None,
        };
        share.ok_or_else(|| format!("{value} is neither a number of workers nor a percentage such as \"25%\""))
    }
}

impl From<Share> for Value {
    fn from(share: Share) -> Self {
        match share {
            Share::Count(count) => json!(count),
            Share::Percent(percent) => json!(format!("{percent}%")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_and_percentages_are_read_and_written() {
        for (value, share) in
            [(json!(0), Share::Count(0)), (json!(3), Share::Count(3)), (json!("25%"), Share::Percent(25))]
        {
            assert_eq!(serde_json::from_value::<Share>(value.clone()).unwrap(), share);
            assert_eq!(json!(share), value);
        }
        for bad in [json!(-1), json!(1.5), json!("3"), json!("%"), json!("-1%"), json!("+1%"), json!(null), json!([])] {
            let error = serde_json::from_value::<Share>(bad.clone()).unwrap_err().to_string();
            assert!(error.contains("percentage such as") && error.contains(&bad.to_string()), "{error}");
        }
    }

    #[test]
    fn percentages_round_as_they_are_asked_to() {
        for (share, whole, down, up) in [
            (Share::Percent(25), 10, 2, 3),
            (Share::Percent(25), 3, 0, 1),
            (Share::Percent(100), 7, 7, 7),
            (Share::Percent(u32::MAX), u32::MAX, u32::MAX, u32::MAX),
            (Share::Count(5), 1, 5, 5),
        ] {
            assert_eq!((share.of_rounded_down(whole), share.of_rounded_up(whole)), (down, up), "{share:?} of {whole}");
        }
    }
}
