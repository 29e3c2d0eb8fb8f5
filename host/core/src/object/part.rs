//! How much of objects is needed.

use std::collections::BTreeSet;

/// The part of objects that somebody needs. Their metadata is part of each.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Part {
    /// All of them.
    Whole,
    /// These top-level fields: `spec`, `status`, `data`, …
    Fields(BTreeSet<String>),
}

impl Part {
    /// Nothing but metadata.
    pub const METADATA: Self = Self::Fields(BTreeSet::new());

    /// What is needed if both are.
    #[must_use]
    pub fn and(self, other: &Self) -> Self {
        match (self, other) {
            (Self::Fields(mut fields), Self::Fields(others)) => {
                fields.extend(others.iter().cloned());
                Self::Fields(fields)
            }
            _ => Self::Whole,
        }
    }

    /// Whether who has this has the other, too.
    pub fn includes(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Whole, _) => true,
            (Self::Fields(_), Self::Whole) => false,
            (Self::Fields(fields), Self::Fields(others)) => fields.is_superset(others),
        }
    }

    /// Whether a top-level field is in it.
    pub fn has(&self, field: &str) -> bool {
        match self {
            Self::Whole => true,
            Self::Fields(fields) => fields.contains(field),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fields(names: &[&str]) -> Part {
        Part::Fields(names.iter().map(|name| (*name).to_owned()).collect())
    }

    #[test]
    fn the_union_includes_both_and_nothing_else() {
        let (spec, data) = (fields(&["spec"]), fields(&["data"]));
        let both = spec.clone().and(&data);
        assert_eq!(both, fields(&["data", "spec"]));
        assert!(both.includes(&spec) && both.includes(&Part::METADATA) && !spec.includes(&both));
        assert!(both.has("data") && !both.has("status"));
        assert_eq!(spec.clone().and(&Part::Whole), Part::Whole);
        assert!(Part::Whole.includes(&spec) && !spec.includes(&Part::Whole) && Part::Whole.has("status"));
        assert_eq!(Part::METADATA.and(&spec), spec);
    }
}
