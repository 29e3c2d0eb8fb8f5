//! The OpenAPI schema of a Rust type as schemars derives it, and the schemas in it.

use schemars::{JsonSchema, generate::SchemaSettings};
use serde_json::{Map, Value};

/// The schema that schemars derives, without references to other schemas.
pub(crate) fn openapi_schema_of<T: JsonSchema>() -> Value {
    let settings = SchemaSettings::openapi3().with(|settings| {
        settings.inline_subschemas = true;
        settings.meta_schema = None;
    });
    settings.into_generator().into_root_schema_for::<T>().to_value()
}

/// Calls `visit` with each schema that `schema` directly holds.
pub(crate) fn for_each_subschema(schema: &mut Map<String, Value>, visit: &mut dyn FnMut(&mut Value)) {
    if let Some(Value::Object(properties)) = schema.get_mut("properties") {
        properties.values_mut().for_each(&mut *visit);
    }
    for keyword in ["items", "additionalProperties"] {
        if let Some(subschema @ Value::Object(_)) = schema.get_mut(keyword) {
            visit(subschema);
        }
    }
}
