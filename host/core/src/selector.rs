//! Label selectors in Kubernetes' text form, evaluated here: `a=b,team in (x,y),!legacy`.
//! <https://kubernetes.io/docs/concepts/overview/working-with-objects/labels/#label-selectors>

use std::collections::BTreeMap;

use thiserror::Error;

/// A parsed selector. All requirements must hold; without any it selects everything.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Selector(Vec<Requirement>);

#[derive(Clone, Debug, PartialEq, Eq)]
enum Requirement {
    Exists(String),
    Absent(String),
    In(String, Vec<String>),
    NotIn(String, Vec<String>),
}

/// What is wrong with a selector.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error(
    "{requirement:?} is no label requirement; write key=value, key!=value, key in (a,b), key notin (a,b), key or !key"
)]
pub struct SelectorError {
    requirement: String,
}

impl Selector {
    /// Parses the text form.
    ///
    /// # Errors
    /// Names the requirement that can't be read.
    pub fn parse(text: &str) -> Result<Self, SelectorError> {
        split_outside_parentheses(text)
            .map(str::trim)
            .filter(|requirement| !requirement.is_empty())
            .map(|requirement| parse(requirement).ok_or_else(|| SelectorError { requirement: requirement.to_owned() }))
            .collect::<Result<_, _>>()
            .map(Self)
    }

    /// Whether an object with these labels is selected.
    pub fn matches(&self, labels: &BTreeMap<String, String>) -> bool {
        self.0.iter().all(|requirement| match requirement {
            Requirement::Exists(key) => labels.contains_key(key),
            Requirement::Absent(key) => !labels.contains_key(key),
            Requirement::In(key, values) => labels.get(key).is_some_and(|value| values.contains(value)),
            Requirement::NotIn(key, values) => labels.get(key).is_none_or(|value| !values.contains(value)),
        })
    }
}

fn split_outside_parentheses(text: &str) -> impl Iterator<Item = &str> {
    let mut depth = 0_i32;
    text.split(move |character| {
        match character {
            '(' => depth += 1,
            ')' => depth -= 1,
            _ => {}
        }
        character == ',' && depth == 0
    })
}

fn parse(requirement: &str) -> Option<Requirement> {
    if let Some((key, value)) = requirement.split_once("!=") {
        return Some(Requirement::NotIn(key_of(key)?, vec![value_of(value)?]));
    }
    if let Some((key, value)) = requirement.split_once('=') {
        let value = value.strip_prefix('=').unwrap_or(value);
        return Some(Requirement::In(key_of(key)?, vec![value_of(value)?]));
    }
    if let Some(list) = requirement.strip_suffix(')') {
        let (head, list) = list.split_once('(')?;
        let values = list.split(',').map(value_of).collect::<Option<Vec<_>>>()?;
        let (key, operator) = head.trim().rsplit_once(char::is_whitespace)?;
        return match operator {
            "in" => Some(Requirement::In(key_of(key)?, values)),
            "notin" => Some(Requirement::NotIn(key_of(key)?, values)),
            _ => None,
        };
    }
    match requirement.strip_prefix('!') {
        Some(key) => key_of(key).map(Requirement::Absent),
        None => key_of(requirement).map(Requirement::Exists),
    }
}

fn key_of(text: &str) -> Option<String> {
    let key = text.trim();
    let allowed = |character: char| character.is_ascii_alphanumeric() || "-_./".contains(character);
    (!key.is_empty() && key.chars().all(allowed)).then(|| key.to_owned())
}

fn value_of(text: &str) -> Option<String> {
    let value = text.trim();
    let allowed = |character: char| character.is_ascii_alphanumeric() || "-_.".contains(character);
    value.chars().all(allowed).then(|| value.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn matches(selector: &str, labels: &[(&str, &str)]) -> bool {
        let labels = labels.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
        Selector::parse(selector).unwrap().matches(&labels)
    }

    #[test]
    fn each_form_selects_as_kubernetes_does() {
        let labels = [("dask.org/component", "scheduler"), ("team", "a")];
        for yes in [
            "",
            "dask.org/component=scheduler",
            "team == a",
            "team!=b",
            "other!=b",
            "team in (a, b)",
            "team notin (b)",
            "team",
            "!legacy",
            "team in (a,b),dask.org/component",
        ] {
            assert!(matches(yes, &labels), "{yes}");
        }
        for no in ["team=b", "team!=a", "team in (b)", "team notin (a,b)", "legacy", "!team", "team,legacy"] {
            assert!(!matches(no, &labels), "{no}");
        }
    }

    #[test]
    fn nonsense_is_named() {
        for bad in ["a in b", "a ~ b", "=a", "a in (b", "a b", "a=b&watch=true"] {
            assert!(Selector::parse(bad).is_err(), "{bad}");
        }
    }
}
