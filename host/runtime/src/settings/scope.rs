//! Which namespaces are served: the values of `--namespace`, as kopf understands them.
//!
//! Each value is a name, a list of names, or a pattern: parts between commas, of which those with `!` take out what the
//! parts before them let in. Part by part as in `kopf._cogs.structs.references.match_namespace` and Python's `fnmatch`. Only
//! a list of plain names differs: there all but the first are without effect, which nobody can want.

use std::{collections::BTreeSet, fmt};

use dask_wasm_operator_api::Served;
use dask_wasm_operator_core::{
    glob::Glob,
    names::{NameError, check_dns_label},
};

/// Which Dask objects are served.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Scope {
    /// Those of all namespaces.
    AllNamespaces,
    /// Those of these namespaces.
    Namespaces(BTreeSet<String>),
    /// Those of the namespaces that match.
    Matching(NamespacePatterns),
}

/// Names and patterns; one that matches is enough.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NamespacePatterns {
    names: BTreeSet<String>,
    patterns: Vec<NamespacePattern>,
}

/// Globs that let namespaces in and take them out again.
#[derive(Clone, Debug, PartialEq, Eq)]
struct NamespacePattern {
    text: String,
    /// Only what matches this can match at all.
    first: Glob,
    rest: Vec<Part>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Part {
    excludes: bool,
    glob: Glob,
}

/// Why a value of `--namespace` can't be followed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ScopeError {
    /// No namespace has such a name.
    #[error("--namespace {name:?}: {reason}")]
    Name {
        /// The name.
        name: String,
        /// What is wrong with it; it is part of the message.
        reason: NameError,
    },
    /// Nothing between two commas.
    #[error("--namespace {pattern:?}: nothing stands before or behind a comma; remove the comma")]
    EmptyPart {
        /// The whole value.
        pattern: String,
    },
    /// A character that no name has and that means nothing in a pattern.
    #[error(
        "--namespace {pattern:?}: {character:?} in {part:?} is in no namespace's name; a pattern has lower case letters, digits, '-', '*', '?', [...], and '!' at the begin of a part"
    )]
    Character {
        /// The whole value.
        pattern: String,
        /// The part with it.
        part: String,
        /// The character.
        character: char,
    },
    /// A part that can change nothing.
    #[error(
        "--namespace {pattern:?}: {part:?} has no effect; behind the first part, one without '!' only brings back what one with '!' took out. To serve {part:?} as well, give --namespace once more for it"
    )]
    Ineffective {
        /// The whole value.
        pattern: String,
        /// The part.
        part: String,
    },
}

impl Scope {
    /// What the values of `--namespace` ask for; without any, all namespaces.
    ///
    /// # Errors
    /// What is wrong with a value.
    pub fn new(values: &[String]) -> Result<Self, ScopeError> {
        let mut asked = NamespacePatterns::default();
        for value in values {
            if value.contains(['*', '?', '[', '!']) {
                asked.patterns.push(NamespacePattern::parse(value)?);
                continue;
            }
            for name in value.split(',').map(str::trim) {
                check_dns_label(name).map_err(|reason| ScopeError::Name { name: name.to_owned(), reason })?;
                asked.names.insert(name.to_owned());
            }
        }
        Ok(match (values.is_empty(), asked.patterns.is_empty()) {
            (true, _) => Self::AllNamespaces,
            (false, true) => Self::Namespaces(asked.names),
            (false, false) => Self::Matching(asked),
        })
    }

    /// As the table of rights asks for it.
    pub fn served(&self) -> Served<'_> {
        match self {
            Self::AllNamespaces => Served::AllNamespaces,
            Self::Namespaces(names) => Served::Namespaces(names),
            Self::Matching(_) => Served::Matching,
        }
    }
}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names = |names: &BTreeSet<String>| names.iter().cloned().collect::<Vec<_>>();
        match self {
            Self::AllNamespaces => f.write_str("all namespaces"),
            Self::Namespaces(listed) => f.write_str(&names(listed).join(", ")),
            Self::Matching(asked) => {
                let patterns = asked.patterns.iter().map(|pattern| pattern.text.clone());
                f.write_str(&names(&asked.names).into_iter().chain(patterns).collect::<Vec<_>>().join("; "))
            }
        }
    }
}

impl NamespacePatterns {
    /// Whether a namespace of this name is asked for.
    pub fn matches(&self, name: &str) -> bool {
        self.names.contains(name) || self.patterns.iter().any(|pattern| pattern.matches(name))
    }
}

impl NamespacePattern {
    fn parse(text: &str) -> Result<Self, ScopeError> {
        let pattern = || text.to_owned();
        let mut parts = Vec::new();
        for part in text.split(',').map(str::trim) {
            let glob = part.trim_start_matches('!');
            if glob.is_empty() {
                return Err(ScopeError::EmptyPart { pattern: pattern() });
            }
            let glob = Glob::parse(glob).map_err(|character| ScopeError::Character {
                pattern: pattern(),
                part: part.to_owned(),
                character,
            })?;
            let excludes = part.starts_with('!');
            if !excludes && !parts.is_empty() && !parts.iter().any(|part: &Part| part.excludes) {
                return Err(ScopeError::Ineffective { pattern: pattern(), part: part.to_owned() });
            }
            parts.push(Part { excludes, glob });
        }
        let first = if parts.first().is_some_and(|part| !part.excludes) { parts.remove(0).glob } else { Glob::any() };
        Ok(Self { text: pattern(), first, rest: parts })
    }

    fn matches(&self, name: &str) -> bool {
        self.first.matches(name)
            && self.rest.iter().fold(true, |matches, part| {
                if part.excludes { matches && !part.glob.matches(name) } else { matches || part.glob.matches(name) }
            })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scope(values: &[&str]) -> Result<Scope, ScopeError> {
        Scope::new(&values.iter().map(|&value| value.to_owned()).collect::<Vec<_>>())
    }

    fn matches(values: &[&str], name: &str) -> bool {
        match scope(values) {
            Ok(Scope::Matching(patterns)) => patterns.matches(name),
            other => panic!("{values:?}: {other:?}"),
        }
    }

    fn names(names: &[&str]) -> Scope {
        Scope::Namespaces(names.iter().map(|&name| name.to_owned()).collect())
    }

    #[test]
    fn plain_names_are_a_list() {
        assert_eq!(scope(&[]), Ok(Scope::AllNamespaces));
        assert_eq!(scope(&["team-a"]), Ok(names(&["team-a"])));
        assert_eq!(scope(&["b", "a", "b"]), Ok(names(&["a", "b"])));
        assert_eq!(scope(&["a, b", "c"]), Ok(names(&["a", "b", "c"])));
    }

    #[test]
    fn patterns_match_as_in_kopf() {
        // The examples of kopf's own description.
        let pattern = &["myapp-*, !*-pr-*, *pr-123"];
        for (name, matched) in [
            ("myapp-test", true),
            ("myapp-live", true),
            ("myapp-pr-123", true),
            ("myapp-pr-456", false),
            ("otherapp-pr-123", false),
        ] {
            assert_eq!(matches(pattern, name), matched, "{name}");
        }
        let pattern = &["!*-pr-*, *pr-123"];
        for (name, matched) in
            [("myapp-test", true), ("anyapp-anything", true), ("otherapp-pr-123", true), ("myapp-pr-456", false)]
        {
            assert_eq!(matches(pattern, name), matched, "{name}");
        }
    }

    #[test]
    fn one_of_several_is_enough() {
        for name in ["a", "team-x", "y-prod"] {
            assert!(matches(&["a", "team-*", "*-prod"], name), "{name}");
        }
        assert!(!matches(&["a", "team-*", "*-prod"], "b"));
    }

    #[test]
    fn what_can_not_be_meant_is_named() {
        for (value, says) in [
            ("", "--namespace \"\": "),
            ("Team_A", "--namespace \"Team_A\": "),
            ("a,", "--namespace \"\": "),
            ("a*,", "remove the comma"),
            ("!", "remove the comma"),
            ("Team-*", "'T' in \"Team-*\""),
            ("a!*", "'!' in \"a!*\""),
            ("[a", "'[' in \"[a\""),
            ("team-*, other", "\"other\" has no effect"),
        ] {
            let error = scope(&[value]).unwrap_err().to_string();
            assert!(error.contains(says), "{value}: {error}");
        }
    }

    #[test]
    fn a_scope_is_told_as_it_was_given() {
        for (values, text) in
            [(&[][..], "all namespaces"), (&["b", "a"], "a, b"), (&["team-*, !team-x", "a"], "a; team-*, !team-x")]
        {
            assert_eq!(scope(values).unwrap().to_string(), text);
        }
    }
}
