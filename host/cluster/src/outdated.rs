//! Fields of ours that the installed definitions don't know: the API server drops them from whatever is written, without a
//! word. Asked at start of the published schemas, which every account may read; `run` tells of them.

use std::{
    collections::BTreeMap,
    fmt::{self, Display},
};

use dask_wasm_operator_core::object::GroupVersionKind;
use kube::Client;
use serde::Deserialize;
use serde_json::Value;

use crate::request::{Call, RequestError, TOTAL_DEADLINE};

/// Fields that are named to a person; of more there is only the number.
const NAMED: usize = 5;

/// A kind whose installed definition lacks fields.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outdated {
    /// The kind.
    pub kind: String,
    /// Paths of the fields, `spec.idleTimeout`; what would be below one is not listed.
    pub fields: Vec<String>,
}

impl Display for Outdated {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let named: Vec<_> = self.fields.iter().take(NAMED).map(String::as_str).collect();
        write!(f, "{}: {}", self.kind, named.join(", "))?;
        match self.fields.len().saturating_sub(NAMED) {
            0 => Ok(()),
            more => write!(f, " and {more} more"),
        }
    }
}

/// Those of the kinds whose installed definitions lack fields of these schemas, which are taken one after the other: together
/// they are large. Kinds of which the server publishes no schema (yet) are left out.
///
/// # Errors
/// When the schemas can't be read, or aren't published.
pub async fn outdated(
    client: &Client,
    schemas: impl IntoIterator<Item = (GroupVersionKind, Value)>,
) -> Result<Vec<Outdated>, RequestError> {
    let mut documents: BTreeMap<String, Document> = BTreeMap::new();
    let mut found = Vec::new();
    for (kind, schema) in schemas {
        let path = format!("/openapi/v3/apis/{}/{}", kind.group, kind.version);
        let ours = Schema::deserialize(&schema).ok();
        drop(schema);
        let document = match documents.get(&path) {
            Some(document) => document,
            None => {
                let answer = Call::get(&path).send(client, TOTAL_DEADLINE).await?.decode()?;
                documents.entry(path).or_insert(answer)
            }
        };
        if let (Some(ours), Some(installed)) = (ours, document.schema(&kind)) {
            let fields = installed.lacks(&ours);
            if !fields.is_empty() {
                found.push(Outdated { kind: kind.kind, fields });
            }
        }
    }
    Ok(found)
}

/// The published schemas of a group and version.
#[derive(Deserialize)]
struct Document {
    #[serde(default)]
    components: Components,
}

#[derive(Default, Deserialize)]
struct Components {
    #[serde(default)]
    schemas: BTreeMap<String, Schema>,
}

impl Document {
    fn schema(&self, kind: &GroupVersionKind) -> Option<&Schema> {
        self.components.schemas.values().find(|schema| schema.kinds.contains(kind))
    }
}

/// What of a schema says which fields are kept.
#[derive(Default, Deserialize)]
struct Schema {
    #[serde(default)]
    properties: BTreeMap<String, Schema>,
    items: Option<Box<Schema>>,
    #[serde(default, rename = "x-kubernetes-preserve-unknown-fields")]
    keeps_unknown: bool,
    #[serde(default, rename = "x-kubernetes-group-version-kind")]
    kinds: Vec<GroupVersionKind>,
}

impl Schema {
    /// Fields of `other` that this schema drops, in `spec` and `status`.
    fn lacks(&self, other: &Self) -> Vec<String> {
        let mut missing = Vec::new();
        for name in ["spec", "status"] {
            match (self.properties.get(name), other.properties.get(name)) {
                (Some(known), Some(wanted)) => known.compare(wanted, name, &mut missing),
                (None, Some(_)) if !self.keeps_unknown => missing.push(name.to_owned()),
                _ => {}
            }
        }
        missing
    }

    fn compare(&self, other: &Self, path: &str, missing: &mut Vec<String>) {
        if let (Some(known), Some(wanted)) = (&self.items, &other.items) {
            known.compare(wanted, &format!("{path}[]"), missing);
        }
        for (name, wanted) in &other.properties {
            let path = format!("{path}.{name}");
            match self.properties.get(name) {
                Some(known) => known.compare(wanted, &path, missing),
                None if self.keeps_unknown => {}
                None => missing.push(path),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn lacks(installed: Value, ours: Value) -> Vec<String> {
        let schema = |spec: Value| Schema::deserialize(json!({"properties": {"spec": spec}})).unwrap();
        schema(installed).lacks(&schema(ours))
    }

    #[test]
    fn fields_that_would_be_dropped_are_named_by_their_path() {
        let ours = json!({"properties": {
            "a": {"type": "string"},
            "list": {"items": {"properties": {"x": {}, "y": {}}}},
            "open": {"properties": {"anything": {}}},
        }});
        let older = json!({"properties": {
            "list": {"items": {"properties": {"x": {}}}},
            "open": {"x-kubernetes-preserve-unknown-fields": true},
            "theirs": {},
        }});
        assert_eq!(lacks(older, ours.clone()), ["spec.a", "spec.list[].y"]);
        assert!(lacks(ours.clone(), ours).is_empty());
    }

    #[test]
    fn a_status_that_is_not_known_is_one_field() {
        let none = Schema::deserialize(json!({"properties": {}})).unwrap();
        let ours = Schema::deserialize(json!({"properties": {"status": {"properties": {"phase": {}}}}})).unwrap();
        assert_eq!(none.lacks(&ours), ["status"]);
    }

    #[test]
    fn many_fields_are_a_number() {
        let fields = ["a", "b", "c", "d", "e", "f", "g"].map(str::to_owned).to_vec();
        let outdated = Outdated { kind: "DaskJob".to_owned(), fields };
        assert_eq!(outdated.to_string(), "DaskJob: a, b, c, d, e and 2 more");
    }
}
