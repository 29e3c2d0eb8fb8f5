//! Objects that are there and can't be read as a whole.

use serde::{Deserialize, Serialize};

use crate::text::line;

/// How much is kept of a path, and of a reason: both may quote what somebody wrote.
const KEPT: usize = 240;

/// The first part of an object that can't be read, and why.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Unreadable {
    /// `spec.worker.spec`.
    pub path: String,
    /// In words that follow the path.
    pub why: String,
}

impl Unreadable {
    /// Keeps as much of both as a person reads.
    pub fn new(path: &str, why: &str) -> Self {
        Self { path: line(path, KEPT).into_owned(), why: line(why, KEPT).into_owned() }
    }

    /// Whether it is in the metadata, so that nothing is proved about whose the object is.
    pub fn is_in_metadata(&self) -> bool {
        self.path.starts_with("metadata")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_more_is_kept_of_what_somebody_wrote_than_a_person_reads() {
        let unreadable = Unreadable::new(&"ä".repeat(1_000), "is odd");
        assert!(unreadable.path.len() < 2 * KEPT && unreadable.path.starts_with("ää"));
        assert_eq!(unreadable.why, "is odd");
    }
}
