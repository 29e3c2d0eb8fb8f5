//! Label selectors in Kubernetes' text form, evaluated here: `a=b,team in (x,y),!legacy`.
//! <https://kubernetes.io/docs/concepts/overview/working-with-objects/labels/#label-selectors>

use std::collections::BTreeMap;

use thiserror::Error;

use crate::names::{check_label_value, check_qualified_name};

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
        if trim(text).is_empty() {
            return Ok(Self::default());
        }
        split_outside_parentheses(text)
            .map(trim)
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
        if trim(list).is_empty() {
            return None;
        }
        let values = list.split(',').map(value_of).collect::<Option<Vec<_>>>()?;
        let (key, operator) = trim(head).rsplit_once(is_space)?;
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
    let key = trim(text);
    check_qualified_name(key).ok().map(|()| key.to_owned())
}

fn value_of(text: &str) -> Option<String> {
    let value = trim(text);
    check_label_value(value).ok().map(|()| value.to_owned())
}

fn trim(text: &str) -> &str {
    text.trim_matches(is_space)
}

/// What Kubernetes takes for space.
fn is_space(character: char) -> bool {
    matches!(character, ' ' | '\t' | '\r' | '\n')
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
    fn what_the_api_server_refuses_is_named() {
        let (long, longer) = ("x".repeat(63), "x".repeat(64));
        for bad in [
            "a in b",
            "a ~ b",
            "=a",
            "a in (b",
            "a in ()",
            "a b",
            "a=b&watch=true",
            "a//b",
            "a/b/c",
            "/b",
            "a/",
            "A_b/c",
            "a..b/c",
            "-a",
            "a.",
            "a=-b",
            "a=b_",
            "a=b,",
            ",a",
            "a,,b",
            "a\u{a0}",
            &longer,
            &format!("a={longer}"),
            &format!("{}/b", "x".repeat(254)),
        ] {
            assert!(Selector::parse(bad).is_err(), "{bad}");
        }
        for good in [&*format!("example.com/{long}={long}"), "A_b.c-d", "a=", "a in (,b)", " a in( b ) , ! c"] {
            assert!(Selector::parse(good).is_ok(), "{good}");
        }
    }
}
