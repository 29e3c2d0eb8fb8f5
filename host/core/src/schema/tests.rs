use proptest::prelude::*;
use serde_json::json;

use super::*;

fn schema(root: Value, definitions: Value) -> Schema {
    let root = OpenApi::deserialize(root).unwrap();
    Schema::new(root, |name| OpenApi::deserialize(definitions.get(name)?).ok())
}

/// As Kubernetes writes it: references that are wrapped, maps, lists, texts without any schema of their own.
fn pods() -> Schema {
    let reference = |name: &str| json!({"$ref": format!("#/components/schemas/{name}")});
    let wrapped = |name: &str| json!({"allOf": [reference(name)], "default": {}, "description": "…"});
    let quantities = json!({"type": "object", "additionalProperties": wrapped("Quantity")});
    let root = json!({"type": "object", "properties": {
        "containers": {"type": "array", "items": wrapped("Container"), "x-kubernetes-list-type": "map"},
        "nodeSelector": {"type": "object", "additionalProperties": {"type": "string", "default": ""}},
        "restartPolicy": {"type": "string"},
    }});
    let definitions = json!({
        "Container": {"type": "object", "required": ["name"], "properties": {
            "name": {"type": "string"},
            "resources": wrapped("Resources"),
            "sidecar": reference("Container"),
            "fields": {"type": "object"},
            "open": {"type": "object", "properties": {"a": {}}, "x-kubernetes-preserve-unknown-fields": true},
        }},
        "Resources": {"type": "object", "properties": {"limits": quantities, "requests": quantities}},
        "Quantity": {"oneOf": [{"type": "string"}, {"type": "number"}]},
    });
    schema(root, definitions)
}

fn pruned(mut value: Value) -> (Value, Vec<String>) {
    let pruned = pods().prune(&mut value);
    (value, pruned.paths)
}

#[test]
fn what_the_server_does_not_know_is_taken_out_and_named_by_its_path() {
    let (value, paths) = pruned(json!({
        "containers": [
            {"name": "a", "imagePullSecrets": []},
            {"name": "b", "resources": {"limit": {"cpu": "1"}, "limits": {"cpu": 4, "example.org/gpu": "1"}}},
        ],
        "restartPolicy": "Never",
        "a.b/c": null,
        "": {"deep": [{"er": 1}]},
    }));
    let expected = json!({
        "containers": [{"name": "a"}, {"name": "b", "resources": {"limits": {"cpu": 4, "example.org/gpu": "1"}}}],
        "restartPolicy": "Never",
    });
    assert_eq!(value, expected);
    assert_eq!(paths, ["[\"\"]", "[\"a.b/c\"]", ".containers[0].imagePullSecrets", ".containers[1].resources.limit"]);
}

#[test]
fn what_may_hold_anything_holds_anything() {
    let value = json!({
        "nodeSelector": {"any/key": "x"},
        "containers": [{"fields": {"f:x": {}}, "open": {"a": 1, "b": {"c": 1}}}],
    });
    assert_eq!(pruned(value.clone()), (value, vec![]));
}

#[test]
fn what_is_of_another_type_is_left_to_the_server() {
    for value in [json!({"containers": {"name": "a"}}), json!({"containers": ["a", null, 1]}), json!("text"), json!([])]
    {
        assert_eq!(pruned(value.clone()), (value, vec![]));
    }
}

#[test]
fn the_root_may_be_a_reference_itself() {
    let wrapped = json!({"allOf": [{"$ref": "#/components/schemas/Spec"}], "default": {}});
    let wrapped = schema(wrapped, json!({"Spec": {"properties": {"a": {"type": "string"}}}}));
    let mut value = json!({"a": "1", "b": 2});
    assert_eq!(wrapped.prune(&mut value).within("spec"), "spec.b");
    assert_eq!(value, json!({"a": "1"}));
}

#[test]
fn definitions_may_refer_to_themselves_and_to_nothing() {
    let (value, paths) = pruned(json!({"containers": [{"sidecar": {"sidecar": {"name": "x", "y": 1}}}]}));
    assert_eq!(value, json!({"containers": [{"sidecar": {"sidecar": {"name": "x"}}}]}));
    assert_eq!(paths, [".containers[0].sidecar.sidecar.y"]);
    let lost = schema(json!({"properties": {"a": {"$ref": "#/components/schemas/Lost"}}}), json!({}));
    let mut value = json!({"a": {"b": 1}});
    assert!(lost.prune(&mut value).is_empty(), "{value}");
}

#[test]
fn many_and_odd_fields_make_a_short_text() {
    let fields = (0..10_000).map(|number| (format!("\u{202e}\n{number}{}", "x".repeat(1000)), json!(1)));
    let mut value = Value::Object(fields.collect());
    let pruned = pods().prune(&mut value);
    assert_eq!((value, pruned.count()), (json!({}), 10_000));
    let text = pruned.within("spec.worker.spec");
    assert!(text.ends_with(" and 9995 more") && text.len() < 1000, "{text}");
    assert!(text.chars().all(|character| !character.is_control() && character != '\u{202e}'), "{text}");
}

/// Values with fields of the schema and others, at places where they belong and others.
fn values() -> impl Strategy<Value = Value> {
    let name =
        prop::sample::select(vec!["containers", "name", "resources", "limits", "limit", "sidecar", "open", "b", "🦀"]);
    let leaf = prop_oneof![Just(Value::Null), any::<bool>().prop_map(Value::from), "[a-z$]{0,3}".prop_map(Value::from)];
    leaf.prop_recursive(6, 64, 5, move |below| {
        prop_oneof![
            prop::collection::vec(below.clone(), 0..4).prop_map(Value::from),
            prop::collection::btree_map(name.clone().prop_map(str::to_owned), below, 0..5)
                .prop_map(|fields| Value::Object(fields.into_iter().collect())),
        ]
    })
}

/// Whether everything in `part` stands at the same place in `whole`.
fn is_part(part: &Value, whole: &Value) -> bool {
    match (part, whole) {
        (Value::Object(part), Value::Object(whole)) => {
            part.iter().all(|(name, value)| whole.get(name).is_some_and(|whole| is_part(value, whole)))
        }
        (Value::Array(part), Value::Array(whole)) => {
            part.len() == whole.len() && part.iter().zip(whole).all(|(part, whole)| is_part(part, whole))
        }
        (part, whole) => part == whole,
    }
}

proptest! {
    #[test]
    fn nothing_is_changed_but_what_is_named(value in values()) {
        let mut left = value.clone();
        let first = pods().prune(&mut left);
        prop_assert!(is_part(&left, &value));
        prop_assert_eq!(first.is_empty(), left == value);
        let before = left.clone();
        prop_assert!(pods().prune(&mut left).is_empty());
        prop_assert_eq!(left, before);
    }

    #[test]
    fn any_document_can_be_read(document in values()) {
        if let Ok(root) = OpenApi::deserialize(document) {
            let mut value = json!({"a": 1});
            Schema::new(root, |_| None).prune(&mut value);
        }
    }
}

/// The belief that is attacked: that a schema which is read was written by us.
#[test]
fn a_schema_is_read_as_it_was_written_and_refused_if_it_refers_to_what_is_not_there() {
    let schema = serde_json::json!({"nodes": ["Anything", {"Fields": {"a": 2}}, {"Items": 1}], "root": 1});
    let read: Schema = serde_json::from_value(schema.clone()).unwrap();
    assert_eq!(serde_json::to_value(&read).unwrap(), schema);
    for (pointer, number) in [("/root", 3), ("/nodes/1/Fields/a", 3), ("/nodes/2/Items", usize::MAX)] {
        let mut odd = schema.clone();
        *odd.pointer_mut(pointer).unwrap() = number.into();
        let error = serde_json::from_value::<Schema>(odd).unwrap_err().to_string();
        assert!(error.contains(&format!("refers to its node {number}")), "{error}");
    }
}
