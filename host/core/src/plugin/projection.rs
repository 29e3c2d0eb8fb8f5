//! Field paths, and the part of an object that they select.

use std::collections::BTreeSet;

use serde_json::{Map, Value};
use thiserror::Error;

use crate::{
    contract::{FieldPath, append_name},
    object::{Object, Part},
};

/// What every object has, whatever is asked for.
const ENVELOPE: [&str; 3] = ["apiVersion", "kind", "metadata"];

/// A parsed [`crate::contract::FieldPath`].
#[derive(Clone, Debug, PartialEq, Eq)]
struct Path(Vec<String>);

/// What is wrong with a field path.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error(
    "{path:?} is no path; write names joined by dots, and names that hold other characters as [\"a.b/c\"]: metadata.labels[\"a.b/c\"]"
)]
pub struct FieldPathError {
    path: String,
}

impl Path {
    fn parse(path: &str) -> Result<Self, FieldPathError> {
        let error = || FieldPathError { path: path.to_owned() };
        let mut names = Vec::new();
        let mut rest = path;
        while !rest.is_empty() {
            if let Some(quoted) = rest.strip_prefix("[\"") {
                let (name, after) = quoted.split_once("\"]").ok_or_else(error)?;
                names.push(name.to_owned());
                rest = after;
            } else {
                let rest_of_name = if names.is_empty() { rest } else { rest.strip_prefix('.').ok_or_else(error)? };
                let end = rest_of_name.find(['.', '[']).unwrap_or(rest_of_name.len());
                let (name, after) = rest_of_name.split_at(end);
                let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'$');
                if !name.bytes().all(is_plain) {
                    return Err(error());
                }
                names.push(name.to_owned());
                rest = after;
            }
        }
        let good = !names.is_empty() && names.iter().all(|name| !name.is_empty());
        if good { Ok(Self(names)) } else { Err(error()) }
    }
}

/// Whether a text is a field path.
///
/// # Errors
/// What is wrong with it.
pub fn check_field_path(path: &str) -> Result<(), FieldPathError> {
    Path::parse(path).map(|_| ())
}

/// The fields that somebody needs, or may touch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Projection(Vec<Path>);

impl Projection {
    /// Parses paths.
    ///
    /// # Errors
    /// Names the path that can't be read.
    pub fn parse<'a>(paths: impl IntoIterator<Item = &'a String>) -> Result<Self, FieldPathError> {
        paths.into_iter().map(|path| Path::parse(path)).collect::<Result<_, _>>().map(Self)
    }

    /// What is needed of objects for [`Self::of`].
    pub fn part(&self) -> Part {
        let names = self.0.iter().filter_map(|Path(names)| names.first());
        Part::Fields(names.filter(|name| !ENVELOPE.contains(&name.as_str())).cloned().collect())
    }

    /// The part of an object that is selected, its identity included.
    pub fn of(&self, object: &Value) -> Value {
        let mut part = Map::new();
        let identity = [
            vec!["apiVersion"],
            vec!["kind"],
            vec!["metadata", "name"],
            vec!["metadata", "namespace"],
            vec!["metadata", "uid"],
        ];
        for path in identity {
            copy(object, path.into_iter(), &mut part);
        }
        for Path(names) in &self.0 {
            copy(object, names.iter().map(String::as_str), &mut part);
        }
        Value::Object(part)
    }

    /// Whether two states of an object differ in what is selected.
    pub fn differs(&self, one: &Object, other: &Object) -> bool {
        let raw = |object: &Object, name: &str| object.fields.get(name).map(|raw| raw.get().to_owned());
        let names: BTreeSet<&str> = self.0.iter().filter_map(|Path(names)| names.first()).map(String::as_str).collect();
        // What is the same as text needs no decoding.
        let changed: Vec<_> = names
            .into_iter()
            .filter(|name| *name == "metadata" && one.metadata != other.metadata || raw(one, name) != raw(other, name))
            .collect();
        let shown = |object: &Object| {
            let value = |name: &&str| match *name {
                "metadata" => serde_json::to_value(&object.metadata).unwrap_or_default(),
                name => object.field(name).and_then(Result::ok).unwrap_or_default(),
            };
            self.of(&changed.iter().map(|name| ((*name).to_owned(), value(name))).collect::<Map<_, _>>().into())
        };
        !changed.is_empty() && shown(one) != shown(other)
    }

    /// The first leaf of a partial object that none of the paths covers; none if all are covered.
    pub fn uncovered(&self, object: &Value) -> Option<String> {
        self.uncovered_below(object, &mut Vec::new())
    }

    fn uncovered_below(&self, value: &Value, at: &mut Vec<String>) -> Option<String> {
        let covered = self.0.iter().any(|Path(names)| at.starts_with(names));
        if covered {
            return None;
        }
        match value.as_object() {
            Some(fields) if !fields.is_empty() => fields.iter().find_map(|(name, value)| {
                at.push(name.clone());
                let found = self.uncovered_below(value, at);
                at.pop();
                found
            }),
            _ => Some(in_words(at)),
        }
    }

    /// Whether one of the paths covers all of this one.
    pub fn covers(&self, path: &str) -> bool {
        Path::parse(path).is_ok_and(|Path(names)| self.0.iter().any(|Path(covering)| names.starts_with(covering)))
    }
}

/// A path as it is written.
fn in_words(names: &[String]) -> FieldPath {
    let mut path = FieldPath::new();
    names.iter().for_each(|name| append_name(&mut path, name));
    path
}

fn copy<'a>(from: &Value, mut names: impl Iterator<Item = &'a str>, into: &mut Map<String, Value>) {
    let Some(name) = names.next() else { return };
    let Some(value) = from.get(name) else { return };
    let mut rest = names.peekable();
    if rest.peek().is_none() {
        into.insert(name.to_owned(), value.clone());
    } else {
        let below = into.entry(name).or_insert_with(|| Value::Object(Map::new()));
        if let Some(below) = below.as_object_mut() {
            copy_boxed(value, &mut rest, below);
        }
    }
}

/// Ends the recursion of iterator types.
fn copy_boxed(from: &Value, names: &mut dyn Iterator<Item = &str>, into: &mut Map<String, Value>) {
    copy(from, names, into);
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn projection(paths: &[&str]) -> Projection {
        Projection::parse(&paths.iter().map(|path| (*path).to_owned()).collect::<Vec<_>>()).unwrap()
    }

    #[test]
    fn only_the_named_fields_and_the_identity_are_kept() {
        let object = json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "a", "labels": {"x.y/z": "1", "b": "2"}, "finalizers": []},
            "spec": {"ports": [1], "type": "ClusterIP"}, "status": {}});
        let part = projection(&["spec.ports", "metadata.labels[\"x.y/z\"]", "spec.absent.deep"]).of(&object);
        assert_eq!(
            part,
            json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "a", "labels": {"x.y/z": "1"}}, "spec": {"ports": [1]}})
        );
    }

    #[test]
    fn what_is_needed_for_it_are_the_fields_at_the_top_of_its_paths() {
        let needed = projection(&["spec.ports", "spec.type", "metadata.labels", "data[\"a.b\"]", "kind"]).part();
        assert_eq!(needed, Part::Fields(["data", "spec"].map(str::to_owned).into()));
        assert_eq!(projection(&["metadata"]).part(), Part::METADATA);
    }

    #[test]
    fn a_change_elsewhere_is_no_difference() {
        let object = json!({"apiVersion": "v1", "kind": "Service",
            "metadata": {"name": "a", "resourceVersion": "1", "labels": {"a": "1"}, "annotations": {"b": "1"}},
            "spec": {"type": "ClusterIP", "ports": [1]}, "status": {"x": 1}});
        let differs = |paths: &[&str], path: &str, value: Value| {
            let mut other = object.clone();
            *other.pointer_mut(path).unwrap() = value;
            let [one, other] = [&object, &other].map(|object| Object::from_value(object).unwrap());
            projection(paths).differs(&one, &other)
        };
        let paths = ["spec.type", "metadata.labels", "spec.absent", "absent"];
        for elsewhere in ["/status/x", "/spec/ports", "/metadata/resourceVersion", "/metadata/annotations/b"] {
            assert!(!differs(&paths, elsewhere, json!("2")), "{elsewhere}");
        }
        for (path, value) in [("/spec/type", json!("None")), ("/spec", json!({})), ("/metadata/labels/a", json!("2"))] {
            assert!(differs(&paths, path, value), "{path}");
        }
        assert!(differs(&["spec"], "/spec/ports", json!([2])) && !differs(&["kind"], "/spec", json!({})));
        assert!(differs(&["status.x"], "/status", Value::Null), "what vanishes is different");
    }

    #[test]
    fn a_path_covers_what_is_below_it() {
        let allowed = projection(&["metadata.annotations", "metadata.labels[\"a.b\"]"]);
        assert_eq!(allowed.uncovered(&json!({"metadata": {"annotations": {"x": "1"}, "labels": {"a.b": "2"}}})), None);
        assert_eq!(
            allowed.uncovered(&json!({"metadata": {"labels": {"c": "2"}}})),
            Some("metadata.labels.c".to_owned())
        );
        assert_eq!(allowed.uncovered(&json!({"spec": {}})), Some("spec".to_owned()));
        let unplain = allowed.uncovered(&json!({"metadata": {"labels": {"a.b/c": "2"}}}));
        assert_eq!(unplain, Some("metadata.labels[\"a.b/c\"]".to_owned()));
        assert!(allowed.covers("metadata.annotations[\"x/y\"]") && !allowed.covers("metadata"));
    }

    #[test]
    fn paths_are_names_joined_by_dots_or_in_brackets() {
        for good in [
            "spec",
            "spec.worker.replicas",
            "metadata.labels[\"dask.org/component\"]",
            "data[\"a.b\"].c",
            "a[\"b\"][\"c\"]",
        ] {
            assert_eq!(check_field_path(good), Ok(()), "{good}");
        }
        for bad in [
            "",
            ".",
            "a.",
            ".a",
            "a..b",
            "a[b]",
            "a[\"b",
            "a[\"b\"",
            "a[\"\"]",
            "[\"\"]",
            "a.[\"b\"]",
            "a b",
            "a[\"b\"]c",
            "a/b",
        ] {
            assert!(check_field_path(bad).is_err(), "{bad}");
        }
    }
}
