//! Durations and quantities as people write them.
//!
//! A custom resource holds them as text and they are parsed when used, with the field's name at hand: a slip in one field
//! becomes a condition that names it, instead of an object that can't be decoded.

use std::{fmt, time::Duration};

use serde::{Deserialize, Serialize};
use thiserror::Error;

/// A text that is not what its field needs.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum TextError {
    /// Not a duration.
    #[error(
        "{field}: {text:?} is not a duration; write whole numbers with the unit ms, s, m or h, such as 200ms, 10m or 1h30m"
    )]
    Duration {
        /// Path of the field, `spec.limits.deadline`.
        field: String,
        /// What it holds.
        text: String,
    },
    /// Not a quantity of bytes.
    #[error(
        "{field}: {text:?} is not a quantity of bytes; write a whole number, alone or with Ki, Mi, Gi, k, M or G, such as 64Mi"
    )]
    Quantity {
        /// Path of the field, `spec.limits.memory`.
        field: String,
        /// What it holds.
        text: String,
    },
}

/// A duration, `10m`, `200ms`, `1h30m`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[cfg_attr(feature = "schema", schemars(inline, extend("pattern" = "^([0-9]+(ms|s|m|h))+$")))]
pub struct DurationText(pub String);

/// Units and their milliseconds, larger first.
const DURATION_UNITS: [(&str, u64); 4] = [("h", 3_600_000), ("m", 60_000), ("s", 1_000), ("ms", 1)];

impl DurationText {
    /// The duration. `field` is the path that an error names.
    pub fn parse(&self, field: &str) -> Result<Duration, TextError> {
        self.milliseconds()
            .map(Duration::from_millis)
            .ok_or_else(|| TextError::Duration { field: field.to_owned(), text: self.0.clone() })
    }

    fn milliseconds(&self) -> Option<u64> {
        let mut rest = self.0.as_str();
        let mut total = 0_u64;
        while !rest.is_empty() {
            let (number, after) = leading_number(rest)?;
            let unit_end = after.find(|c: char| c.is_ascii_digit()).unwrap_or(after.len());
            let (unit, after) = after.split_at(unit_end);
            let (_, factor) = DURATION_UNITS.iter().find(|(name, _)| *name == unit)?;
            total = total.checked_add(number.checked_mul(*factor)?)?;
            rest = after;
        }
        (!self.0.is_empty()).then_some(total)
    }
}

impl From<Duration> for DurationText {
    /// Whole milliseconds; what is finer is lost.
    fn from(duration: Duration) -> Self {
        let mut rest = u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
        if rest == 0 {
            return Self("0s".to_owned());
        }
        let mut text = String::new();
        for (unit, factor) in DURATION_UNITS {
            if rest >= factor {
                text.push_str(&format!("{}{unit}", rest / factor));
                rest %= factor;
            }
        }
        Self(text)
    }
}

impl fmt::Display for DurationText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A quantity of bytes, `64Mi`, `1G`, `4096`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[cfg_attr(feature = "schema", schemars(inline, extend("pattern" = "^[0-9]+(Ki|Mi|Gi|k|M|G)?$")))]
pub struct QuantityText(pub String);

/// Suffixes and their bytes; the binary ones larger first, for display.
const QUANTITY_SUFFIXES: [(&str, u64); 7] =
    [("Gi", 1 << 30), ("Mi", 1 << 20), ("Ki", 1 << 10), ("G", 1_000_000_000), ("M", 1_000_000), ("k", 1_000), ("", 1)];

impl QuantityText {
    /// The number of bytes. `field` is the path that an error names.
    pub fn parse(&self, field: &str) -> Result<u64, TextError> {
        self.bytes().ok_or_else(|| TextError::Quantity { field: field.to_owned(), text: self.0.clone() })
    }

    fn bytes(&self) -> Option<u64> {
        let (number, suffix) = leading_number(&self.0)?;
        let (_, factor) = QUANTITY_SUFFIXES.iter().find(|(name, _)| *name == suffix)?;
        number.checked_mul(*factor)
    }

    /// A number of bytes as text, with the largest binary suffix that loses nothing.
    pub fn from_bytes(bytes: u64) -> Self {
        let binary = QUANTITY_SUFFIXES.iter().take(3).find(|(_, factor)| bytes > 0 && bytes.is_multiple_of(*factor));
        Self(binary.map_or_else(|| bytes.to_string(), |(suffix, factor)| format!("{}{suffix}", bytes / factor)))
    }
}

impl fmt::Display for QuantityText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The number in front and what follows it; none without a number in front, or with one that does not fit.
fn leading_number(text: &str) -> Option<(u64, &str)> {
    let end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (digits, rest) = text.split_at(end);
    Some((digits.parse().ok()?, rest))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_parse() {
        for (text, milliseconds) in
            [("200ms", 200), ("10m", 600_000), ("1h30m", 5_400_000), ("0s", 0), ("1m1ms", 60_001), ("90s", 90_000)]
        {
            let duration = DurationText(text.to_owned()).parse("spec.limits.deadline");
            assert_eq!(duration, Ok(Duration::from_millis(milliseconds)), "{text}");
        }
    }

    #[test]
    fn quantities_parse() {
        for (text, bytes) in
            [("64Mi", 64 << 20), ("1G", 1_000_000_000), ("4096", 4096), ("2k", 2_000), ("1Gi", 1 << 30)]
        {
            assert_eq!(QuantityText(text.to_owned()).parse("spec.limits.memory"), Ok(bytes), "{text}");
        }
    }

    #[test]
    fn other_texts_are_refused_with_the_field_and_the_form() {
        for text in ["", "10", "m", "-1s", "1.5h", "10 m", "1d", "99999999999999999999h", "18446744073709551615h"] {
            let error = DurationText(text.to_owned()).parse("spec.finalizerDeadline").unwrap_err();
            let message = error.to_string();
            assert!(message.starts_with("spec.finalizerDeadline: ") && message.contains("such as 200ms"), "{message}");
        }
        for text in ["", "Mi", "64MB", "64 Mi", "-1", "1.5Gi", "1e3", "18446744073709551615Ki"] {
            let error = QuantityText(text.to_owned()).parse("spec.limits.memory").unwrap_err();
            let message = error.to_string();
            assert!(message.starts_with("spec.limits.memory: ") && message.contains("such as 64Mi"), "{message}");
        }
    }

    #[test]
    fn figures_are_shown_as_people_write_them() {
        assert_eq!(DurationText::from(Duration::from_millis(5_400_200)).to_string(), "1h30m200ms");
        assert_eq!(DurationText::from(Duration::ZERO).to_string(), "0s");
        assert_eq!(QuantityText::from_bytes(128 << 20).to_string(), "128Mi");
        assert_eq!(QuantityText::from_bytes(1_500).to_string(), "1500");
        assert_eq!(QuantityText::from_bytes(0).to_string(), "0");
    }
}
