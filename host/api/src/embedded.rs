//! Schemas of Kubernetes' own types inside ours: pod specs and service specs.
//!
//! They are those of the Kubernetes version that we build for, so that mistakes are refused early and `kubectl explain` knows
//! the fields, and every object in them keeps the fields that it does not know, so that a newer cluster's fields pass. They
//! have no descriptions: a DaskJob holds three pod specs and must fit into the annotation of a client-side `kubectl apply`.

use dask_wasm_operator_core::schema::{KnownFields, OpenApi, Schema};
use k8s_openapi::api::core::v1::{PodSpec, ServiceSpec};
use schemars::JsonSchema;
use serde::Deserialize as _;
use serde_json::{Value, json};

use crate::openapi::{for_each_subschema, openapi_schema_of};

const PRESERVE: &str = "x-kubernetes-preserve-unknown-fields";

/// Additions at one place of a schema.
type Addition = (&'static str, fn() -> Value);

/// Lists that server-side apply merges by key, and the defaults that the keys need: those of the Python operator's definitions,
/// so that a change of operator changes neither ownership nor validity of stored objects.
const POD_SPEC_ADDITIONS: [Addition; 5] = [
    ("/properties/containers/items/properties/ports", || list_map(&["containerPort", "protocol"])),
    ("/properties/containers/items/properties/ports/items/properties/protocol", || json!({ "default": "TCP" })),
    ("/properties/initContainers/items/properties/ports", || list_map(&["containerPort", "protocol"])),
    ("/properties/initContainers/items/properties/ports/items/properties/protocol", || json!({ "default": "TCP" })),
    ("/properties/topologySpreadConstraints", || list_map(&["topologyKey", "whenUnsatisfiable"])),
];

/// As [`POD_SPEC_ADDITIONS`], for services.
const SERVICE_SPEC_ADDITIONS: [Addition; 4] = [
    ("/properties/ports", || list_map(&["port", "protocol"])),
    ("/properties/ports/items/properties/protocol", || json!({ "default": "TCP" })),
    ("/properties/clusterIPs", || json!({ "x-kubernetes-list-type": "atomic" })),
    ("/properties/ipFamilies", || json!({ "x-kubernetes-list-type": "atomic" })),
];

/// A runner pod ends: with Kubernetes' own default, `Always`, a job never would.
const RUNNER_ADDITIONS: [Addition; 1] = [("/properties/restartPolicy", || json!({ "default": "OnFailure" }))];

/// Properties, and what their objects need not have. Kubernetes takes an empty name in these references, and the Python
/// operator's definitions an alias without address; the Rust types are stricter.
const OPTIONAL: [(&str, &str); 9] = [
    ("configMap", "name"),
    ("configMapKeyRef", "name"),
    ("configMapRef", "name"),
    ("hostAliases", "ip"),
    ("imagePullSecrets", "name"),
    ("nodePublishSecretRef", "name"),
    ("secret", "name"),
    ("secretKeyRef", "name"),
    ("secretRef", "name"),
];

/// The schema that a mark of `dask_wasm_operator_core::spec` stands for; none for a mark that is not known.
pub(crate) fn schema(mark: &str) -> Option<Value> {
    match mark {
        "PodSpec" => Some(embedded::<PodSpec>(&[&POD_SPEC_ADDITIONS])),
        "RunnerPodSpec" => Some(embedded::<PodSpec>(&[&POD_SPEC_ADDITIONS, &RUNNER_ADDITIONS])),
        "ServiceSpec" => Some(embedded::<ServiceSpec>(&[&SERVICE_SPEC_ADDITIONS])),
        _ => None,
    }
}

/// The fields that the Kubernetes version that we build for knows: for those who can't ask a server.
pub fn known_fields() -> KnownFields {
    KnownFields { pod: known::<PodSpec>(), service: known::<ServiceSpec>() }
}

fn known<T: JsonSchema>() -> Option<Schema> {
    let root = OpenApi::deserialize(openapi_schema_of::<T>()).ok()?;
    Some(Schema::new(root, |_| None))
}

fn embedded<T: JsonSchema>(additions: &[&[Addition]]) -> Value {
    let mut schema = openapi_schema_of::<T>();
    strip_and_preserve(&mut schema);
    for (pointer, addition) in additions.iter().copied().flatten() {
        merge(&mut schema, pointer, addition());
    }
    schema
}

fn strip_and_preserve(schema: &mut Value) {
    let Value::Object(fields) = schema else { return };
    fields.remove("description");
    fields.remove("title");
    if fields.get("type").is_some_and(|type_| type_ == "object") && !fields.contains_key("additionalProperties") {
        fields.insert(PRESERVE.to_owned(), true.into());
    }
    if let Some(Value::Object(properties)) = fields.get_mut("properties") {
        for (property, optional) in OPTIONAL {
            if let Some(schema) = properties.get_mut(property) {
                make_optional(schema, optional);
            }
        }
        // Only a label selector has these; what it selects is the whole of it.
        if properties.contains_key("matchLabels") {
            fields.insert("x-kubernetes-map-type".to_owned(), "atomic".into());
        }
    }
    for_each_subschema(fields, &mut strip_and_preserve);
}

/// Takes `name` from what the object, or each item of the list, requires.
fn make_optional(schema: &mut Value, name: &str) {
    let object = if schema.get("items").is_some() { &mut schema["items"] } else { schema };
    let Some(Value::Array(required)) = object.get_mut("required") else { return };
    required.retain(|required| required != name);
    if required.is_empty()
        && let Value::Object(fields) = object
    {
        fields.remove("required");
    }
}

fn merge(schema: &mut Value, pointer: &str, addition: Value) {
    if let (Some(Value::Object(fields)), Value::Object(mut addition)) = (schema.pointer_mut(pointer), addition) {
        fields.append(&mut addition);
    }
}

fn list_map(keys: &[&str]) -> Value {
    json!({ "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": keys })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_addition_has_its_place() {
        for (mark, additions) in [
            ("PodSpec", POD_SPEC_ADDITIONS.as_slice()),
            ("ServiceSpec", SERVICE_SPEC_ADDITIONS.as_slice()),
            ("RunnerPodSpec", RUNNER_ADDITIONS.as_slice()),
        ] {
            let schema = schema(mark).unwrap();
            for (pointer, addition) in additions {
                let place = schema.pointer(pointer).and_then(Value::as_object);
                for (key, value) in addition().as_object().unwrap() {
                    assert_eq!(place.and_then(|fields| fields.get(key)), Some(value), "{mark}{pointer}");
                }
            }
        }
    }
}
