//! From the schema of a Rust type to one that Kubernetes accepts for custom resources, a *structural* schema: every value has
//! one type, and alternatives only validate.

use schemars::JsonSchema;
use serde_json::{Map, Value};

use crate::{
    embedded,
    openapi::{for_each_subschema, openapi_schema_of},
};

/// The structural schema of one of our own types, with Kubernetes' schemas where the type has a mark for them.
pub(crate) fn schema_of<T: JsonSchema>() -> Value {
    let mut schema = openapi_schema_of::<T>();
    rewrite(&mut schema);
    schema
}

fn rewrite(schema: &mut Value) {
    let Value::Object(fields) = schema else { return };
    hoist_optional(fields);
    hoist_enum(fields);
    fields.remove("title");
    // The API server drops a null for a field that is not nullable, and an absent field is what our types read it as.
    fields.remove("nullable");
    if fields.get("default").is_some_and(Value::is_null) {
        fields.remove("default");
    }
    if fields.get("additionalProperties") == Some(&Value::Bool(true)) {
        fields.remove("additionalProperties");
    }
    // Formats that the API server knows; unsigned types keep their `minimum: 0`.
    if let Some(format) = fields.get_mut("format") {
        match format.as_str() {
            Some("uint32") => *format = "int32".into(),
            Some("uint64") => *format = "int64".into(),
            _ => {}
        }
    }
    if let Some(Value::String(description)) = fields.get_mut("description") {
        *description = description.split_whitespace().collect::<Vec<_>>().join(" ");
    }
    let embedded = fields.get("x-embedded").and_then(Value::as_str).and_then(embedded::schema);
    if let Some(Value::Object(mut embedded)) = embedded {
        fields.remove("x-embedded");
        fields.append(&mut embedded);
        return;
    }
    for_each_subschema(fields, &mut rewrite);
}

/// `anyOf` of a schema and null, as an optional enum has it, becomes the schema.
fn hoist_optional(fields: &mut Map<String, Value>) {
    let is_null = |schema: &Value| schema.get("enum") == Some(&Value::Array(vec![Value::Null]));
    let Some(Value::Array(alternatives)) = fields.get("anyOf") else { return };
    if let [Value::Object(first), second] = alternatives.as_slice()
        && is_null(second)
    {
        let mut first = first.clone();
        fields.remove("anyOf");
        // The field's own description says more than that of its type.
        if fields.contains_key("description") {
            first.remove("description");
        }
        fields.append(&mut first);
    }
}

/// `oneOf` of single values, as an enum with documented variants has it, becomes a list of values.
fn hoist_enum(fields: &mut Map<String, Value>) {
    let Some(Value::Array(variants)) = fields.get("oneOf") else { return };
    let values: Option<Vec<_>> = variants.iter().map(|variant| variant.get("enum")?.as_array().cloned()).collect();
    if let Some(values) = values {
        fields.remove("oneOf");
        fields.insert("type".to_owned(), "string".into());
        fields.insert("enum".to_owned(), values.concat().into());
    }
}

#[cfg(test)]
mod tests {
    use dask_wasm_operator_core::spec::{DaskPluginSpec, DaskPluginStatus};
    use serde_json::json;

    use super::*;

    #[test]
    fn enums_are_lists_of_values() {
        let status = schema_of::<DaskPluginStatus>();
        let state = &status["properties"]["state"];
        assert_eq!(state["type"], "string");
        assert_eq!(state["enum"][0], "Found");
        assert_eq!(state["description"], "How far the plugin is on its way from source to service.");
        let spec = schema_of::<DaskPluginSpec>();
        let mode = &spec["properties"]["mode"];
        assert_eq!((&mode["enum"], &mode["default"]), (&json!(["live", "shadow"]), &json!("live")));
    }

    #[test]
    fn free_configuration_is_kept() {
        let config = &schema_of::<DaskPluginSpec>()["properties"]["config"];
        assert_eq!(config["type"], "object");
        assert_eq!(config["x-kubernetes-preserve-unknown-fields"], true);
        assert!(config.get("additionalProperties").is_none());
    }
}
