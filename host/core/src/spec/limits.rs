//! What one plugin may use, with the defaults and maxima.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::{DurationText, QuantityText, TextError};

const MEBIBYTE: u64 = 1 << 20;

/// The default of a limit, and how far a DaskPlugin may raise it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limit<T> {
    /// Without a word in the DaskPlugin.
    pub default: T,
    /// The most that a DaskPlugin may ask for.
    pub maximum: T,
}

impl<T: Copy> Limit<T> {
    /// A limit that a DaskPlugin can only lower.
    const fn only_lowered(default: T) -> Self {
        Self { default, maximum: default }
    }
}

/// Wall time of one call.
pub const DEADLINE: Limit<Duration> = Limit { default: Duration::from_secs(1), maximum: Duration::from_secs(10) };
/// Linear memory of one call, all memories of all core instances together.
pub const MEMORY_BYTES: Limit<u64> = Limit { default: 128 * MEBIBYTE, maximum: 512 * MEBIBYTE };
/// Core module instances in one component.
pub const CORE_INSTANCES: Limit<u32> = Limit::only_lowered(64);
/// Elements of all tables together.
pub const TABLE_ELEMENTS: Limit<u32> = Limit::only_lowered(100_000);
/// Size of one outcome, all strings of it together.
pub const OUTCOME_BYTES: Limit<u64> = Limit::only_lowered(4 * MEBIBYTE);
/// Children that one handler may want for one subject.
pub const CHILDREN_PER_SUBJECT: Limit<u32> = Limit { default: 100, maximum: 1_000 };
/// Log lines of one call; further ones are counted and dropped.
pub const LOG_LINES: Limit<u32> = Limit::only_lowered(100);
/// Writes to the API server in a minute, over all subjects.
pub const APPLIES_PER_MINUTE: Limit<u32> = Limit::only_lowered(600);

/// Length of one log line; the rest of a longer one is cut off. The same for every plugin.
pub const LOG_LINE_BYTES: usize = 2 << 10;
/// Size of a component, unpacked. The same for every plugin.
pub const COMPONENT_BYTES: u64 = 32 * MEBIBYTE;
/// Stack of a call. The same for every plugin: it is compiled into the engine's settings.
pub const STACK_BYTES: usize = 512 << 10;
/// CPU time for compiling one component. The same for every plugin.
pub const COMPILE_CPU_TIME: Duration = Duration::from_secs(120);
/// Memory (address space) for compiling one component, of which CPython needs 350 MB. The same for every plugin.
pub const COMPILE_MEMORY_BYTES: u64 = 1 << 30;

/// What a plugin may use. What is not set has its default; the figures are in the field's description.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct LimitsSpec {
    /// Wall time of one call, such as 200ms. Default 1s, at most 10s.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub deadline: Option<DurationText>,
    /// Memory of one call, such as 64Mi. Default 128Mi, at most 512Mi.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory: Option<QuantityText>,
    /// Core module instances in the component. Default and most 64.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub core_instances: Option<u32>,
    /// Elements of all tables together. Default and most 100000.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub table_elements: Option<u32>,
    /// Size of one outcome. Default and most 4Mi.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub outcome: Option<QuantityText>,
    /// Children that one handler may want for one subject. Default 100, at most 1000.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub children_per_subject: Option<u32>,
    /// Log lines of one call. Default and most 100.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub log_lines: Option<u32>,
    /// Writes to the API server in a minute, over all subjects. Default and most 600.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub applies_per_minute: Option<u32>,
}

/// The limits that hold for one plugin.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limits {
    /// See [`DEADLINE`].
    pub deadline: Duration,
    /// See [`MEMORY_BYTES`].
    pub memory_bytes: u64,
    /// See [`CORE_INSTANCES`].
    pub core_instances: u32,
    /// See [`TABLE_ELEMENTS`].
    pub table_elements: u32,
    /// See [`OUTCOME_BYTES`].
    pub outcome_bytes: u64,
    /// See [`CHILDREN_PER_SUBJECT`].
    pub children_per_subject: u32,
    /// See [`LOG_LINES`].
    pub log_lines: u32,
    /// See [`APPLIES_PER_MINUTE`].
    pub applies_per_minute: u32,
}

/// A limit that can't be had.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum LimitError {
    /// The text can't be read.
    #[error(transparent)]
    Text(#[from] TextError),
    /// Nothing works with none of it.
    #[error("{field}: must be more than zero; remove the field for the default, {default}")]
    Zero {
        /// Path of the field.
        field: String,
        /// The limit's default.
        default: String,
    },
    /// More than a plugin may have.
    #[error("{field}: {asked} is more than the maximum, {maximum}; remove the field for the default, {default}")]
    AboveMaximum {
        /// Path of the field.
        field: String,
        /// What is asked for.
        asked: String,
        /// The limit's maximum.
        maximum: String,
        /// The limit's default.
        default: String,
    },
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            deadline: DEADLINE.default,
            memory_bytes: MEMORY_BYTES.default,
            core_instances: CORE_INSTANCES.default,
            table_elements: TABLE_ELEMENTS.default,
            outcome_bytes: OUTCOME_BYTES.default,
            children_per_subject: CHILDREN_PER_SUBJECT.default,
            log_lines: LOG_LINES.default,
            applies_per_minute: APPLIES_PER_MINUTE.default,
        }
    }
}

impl Limits {
    /// The limits that a DaskPlugin asks for, with the defaults for what it does not name.
    ///
    /// # Errors
    /// Names the first field that can't be read, is zero or is above its maximum.
    pub fn resolve(spec: &LimitsSpec) -> Result<Self, LimitError> {
        Ok(Self {
            deadline: DEADLINE.within("spec.limits.deadline", &spec.deadline)?,
            memory_bytes: MEMORY_BYTES.within("spec.limits.memory", &spec.memory)?,
            core_instances: CORE_INSTANCES.within("spec.limits.coreInstances", &spec.core_instances)?,
            table_elements: TABLE_ELEMENTS.within("spec.limits.tableElements", &spec.table_elements)?,
            outcome_bytes: OUTCOME_BYTES.within("spec.limits.outcome", &spec.outcome)?,
            children_per_subject: CHILDREN_PER_SUBJECT
                .within("spec.limits.childrenPerSubject", &spec.children_per_subject)?,
            log_lines: LOG_LINES.within("spec.limits.logLines", &spec.log_lines)?,
            applies_per_minute: APPLIES_PER_MINUTE.within("spec.limits.appliesPerMinute", &spec.applies_per_minute)?,
        })
    }
}

impl<T: Copy + Default + PartialOrd> Limit<T> {
    fn within<F: Figure<T>>(&self, field: &str, asked: &Option<F>) -> Result<T, LimitError> {
        let Some(figure) = asked else { return Ok(self.default) };
        let value = figure.value(field)?;
        if value <= T::default() {
            return Err(LimitError::Zero { field: field.to_owned(), default: F::show(self.default) });
        }
        if value > self.maximum {
            return Err(LimitError::AboveMaximum {
                field: field.to_owned(),
                asked: F::show(value),
                maximum: F::show(self.maximum),
                default: F::show(self.default),
            });
        }
        Ok(value)
    }
}

/// How a limit's value stands in a DaskPlugin.
trait Figure<T> {
    fn value(&self, field: &str) -> Result<T, TextError>;
    fn show(value: T) -> String;
}

impl Figure<Duration> for DurationText {
    fn value(&self, field: &str) -> Result<Duration, TextError> {
        self.parse(field)
    }

    fn show(value: Duration) -> String {
        Self::from(value).to_string()
    }
}

impl Figure<u64> for QuantityText {
    fn value(&self, field: &str) -> Result<u64, TextError> {
        self.parse(field)
    }

    fn show(value: u64) -> String {
        Self::from_bytes(value).to_string()
    }
}

impl Figure<u32> for u32 {
    fn value(&self, _: &str) -> Result<u32, TextError> {
        Ok(*self)
    }

    fn show(value: u32) -> String {
        value.to_string()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn resolve(limits: Value) -> Result<Limits, String> {
        let spec: LimitsSpec = serde_json::from_value(limits).unwrap();
        Limits::resolve(&spec).map_err(|error| error.to_string())
    }

    #[test]
    fn nothing_asked_gives_the_defaults() {
        assert_eq!(resolve(json!({})), Ok(Limits::default()));
    }

    #[test]
    fn what_is_asked_for_is_given_up_to_the_maximum() {
        let limits =
            resolve(json!({ "deadline": "10s", "memory": "512Mi", "childrenPerSubject": 1000, "logLines": 1 }));
        let expected = Limits {
            deadline: Duration::from_secs(10),
            memory_bytes: 512 * MEBIBYTE,
            children_per_subject: 1000,
            log_lines: 1,
            ..Limits::default()
        };
        assert_eq!(limits, Ok(expected));
    }

    #[test]
    fn a_refusal_names_field_maximum_and_default() {
        for (limits, message) in [
            (
                json!({ "deadline": "10s1ms" }),
                "spec.limits.deadline: 10s1ms is more than the maximum, 10s; remove the field for the default, 1s",
            ),
            (
                json!({ "memory": "1Gi" }),
                "spec.limits.memory: 1Gi is more than the maximum, 512Mi; remove the field for the default, 128Mi",
            ),
            (
                json!({ "tableElements": 100_001 }),
                "spec.limits.tableElements: 100001 is more than the maximum, 100000; remove the field for the default, 100000",
            ),
            (
                json!({ "outcome": "0" }),
                "spec.limits.outcome: must be more than zero; remove the field for the default, 4Mi",
            ),
        ] {
            assert_eq!(resolve(limits), Err(message.to_owned()));
        }
        assert!(resolve(json!({ "memory": "lots" })).unwrap_err().starts_with("spec.limits.memory: \"lots\""));
    }

    #[test]
    fn descriptions_state_the_figures() {
        let source = include_str!("limits.rs");
        for figures in [
            format!(
                "Default {}, at most {}.",
                DurationText::from(DEADLINE.default),
                DurationText::from(DEADLINE.maximum)
            ),
            format!(
                "Default {}, at most {}.",
                QuantityText::from_bytes(MEMORY_BYTES.default),
                QuantityText::from_bytes(MEMORY_BYTES.maximum)
            ),
            format!("Default {}, at most {}.", CHILDREN_PER_SUBJECT.default, CHILDREN_PER_SUBJECT.maximum),
            format!("Default and most {}.", CORE_INSTANCES.default),
            format!("Default and most {}.", TABLE_ELEMENTS.default),
            format!("Default and most {}.", QuantityText::from_bytes(OUTCOME_BYTES.default)),
            format!("Default and most {}.", LOG_LINES.default),
            format!("Default and most {}.", APPLIES_PER_MINUTE.default),
        ] {
            assert!(source.contains(&figures), "{figures}");
        }
    }
}
