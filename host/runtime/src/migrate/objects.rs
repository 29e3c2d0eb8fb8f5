//! Reading JSON objects of the API server.

use serde_json::Value;

/// The text at a pointer; empty if there is none.
pub(super) fn text<'a>(object: &'a Value, pointer: &str) -> &'a str {
    object.pointer(pointer).and_then(Value::as_str).unwrap_or_default()
}

/// The items of the list at a pointer.
pub(super) fn items<'a>(object: &'a Value, pointer: &str) -> impl Iterator<Item = &'a Value> {
    object.pointer(pointer).and_then(Value::as_array).into_iter().flatten()
}

/// Kind, namespace and name, for people.
pub(super) fn name(object: &Value) -> String {
    let kind = match text(object, "/kind") {
        "" => "Deployment",
        kind => kind,
    };
    format!("{kind} {}/{}", text(object, "/metadata/namespace"), text(object, "/metadata/name"))
}
