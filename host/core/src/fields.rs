//! Field ownership: whether an object still is what its manager applied.
//!
//! The API server records for each manager which fields it holds (`FieldsV1`). Another writer that changes the *value* of a
//! field takes it from everybody else, so drift shows as a field that we want and don't hold any more; no value has to be
//! compared, and what the server normalises (quantities, defaults, webhooks) is no drift.
//! <https://kubernetes.io/docs/reference/using-api/server-side-apply/#field-management>

mod emptied;
mod lists;
mod sets;

use std::hash::{DefaultHasher, Hash, Hasher};

use serde_json::{Map, Value};
use sha2::{Digest, Sha256};

pub use self::emptied::without_emptied;
use self::lists::{HeldItems, Items};
pub(crate) use self::sets::Fields;

/// Whether the set of fields that a manager holds is exactly that of `wanted`: nothing lost, nothing left over.
pub fn holds_exactly(held: &Value, wanted: &Value) -> bool {
    let Some(held) = held.as_object() else { return false };
    nothing_left_over(held, wanted) && nothing_lost(held, wanted, true)
}

/// Whether a manager holds fields that `wanted` says nothing of (any more).
pub fn holds_more(held: &Value, wanted: &Value) -> bool {
    held.as_object().is_some_and(|held| !nothing_left_over(held, wanted))
}

/// Every held field stands in `wanted`.
fn nothing_left_over(held: &Map<String, Value>, wanted: &Value) -> bool {
    let mut items = Items::of(wanted);
    held.iter().all(|(path, below)| {
        let child = match path.split_once(':') {
            Some(("f", name)) => wanted.get(name),
            Some(("k", keys)) => {
                serde_json::from_str(keys).ok().and_then(|keys: Map<String, Value>| items.with_keys(&keys))
            }
            Some(("v", value)) => serde_json::from_str(value).ok().and_then(|value: Value| items.with_value(&value)),
            _ => return true,
        };
        match (child, below.as_object()) {
            (None, _) => false,
            (Some(_), None) => true,
            (Some(child), Some(below)) => nothing_left_over(below, child),
        }
    })
}

/// Every wanted field is held. Identity (`apiVersion`, `metadata.name`, …) is nobody's field.
fn nothing_lost(held: &Map<String, Value>, wanted: &Value, root: bool) -> bool {
    let Some(wanted) = wanted.as_object() else { return true };
    wanted.iter().all(|(name, value)| {
        if is_empty(value) || (root && matches!(name.as_str(), "apiVersion" | "kind")) {
            return true;
        }
        let below = held.get(&format!("f:{name}")).and_then(Value::as_object);
        if root && name == "metadata" {
            let fields: Map<String, Value> = value
                .as_object()
                .into_iter()
                .flatten()
                .filter(|(name, _)| !matches!(name.as_str(), "name" | "namespace" | "uid" | "resourceVersion"))
                .map(|(name, value)| (name.clone(), value.clone()))
                .collect();
            return nothing_lost(below.unwrap_or(&Map::new()), &Value::Object(fields), false);
        }
        below.is_some_and(|below| below.is_empty() || value_is_held(below, value))
    })
}

fn value_is_held(held: &Map<String, Value>, wanted: &Value) -> bool {
    let Some(items) = wanted.as_array() else { return nothing_lost(held, wanted, false) };
    let mut held = HeldItems::of(held);
    items.iter().all(|item| {
        let is_held =
            |below: &Value| below.as_object().is_none_or(|below| below.is_empty() || nothing_lost(below, item, false));
        held.has_value(item) || held.may_be(item).into_iter().any(is_held)
    })
}

/// Empty maps and lists and nulls are dropped by the API server or mean nothing to it.
fn is_empty(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Array(items) => items.is_empty(),
        Value::Object(fields) => fields.is_empty(),
        _ => false,
    }
}

/// Whether `live` says all that `wanted` says. Lists of objects may hold more items (a sidecar), lists of plain values may not.
pub fn contains(live: &Value, wanted: &Value) -> bool {
    match (live, wanted) {
        (live, wanted) if is_empty(wanted) => is_empty(live) || live.is_object(),
        (Value::Object(live), Value::Object(wanted)) => wanted
            .iter()
            .all(|(name, value)| is_empty(value) || live.get(name).is_some_and(|live| contains(live, value))),
        (Value::Array(live), Value::Array(wanted)) if wanted.iter().all(Value::is_object) => {
            let mut rest = live.iter();
            wanted.iter().all(|item| rest.any(|live| contains(live, item)))
        }
        (live, wanted) => live == wanted,
    }
}

/// Whether an object is `live` as `wanted` says, of which its manager holds `held`: exactly so where a list or map is owned as
/// a whole, because nobody else can have put anything into it, and elsewhere at least so. Empty maps have to be there.
pub fn says_exactly(live: &Value, wanted: &Value, held: &Value) -> bool {
    let Some(wanted) = wanted.as_object() else { return contains(live, wanted) };
    wanted.iter().all(|(name, value)| match name.as_str() {
        // It is the same for all kinds.
        "metadata" => live.get(name).is_some_and(|live| contains(live, value)),
        _ => field_says(live.get(name), value, held.get(format!("f:{name}"))),
    })
}

fn field_says(live: Option<&Value>, wanted: &Value, held: Option<&Value>) -> bool {
    let live = live.unwrap_or(&Value::Null);
    match (live, wanted, held.and_then(Value::as_object)) {
        (live, Value::Object(wanted), _) if wanted.is_empty() && !live.is_object() => false,
        (live, wanted, None) => is_empty(wanted) || contains(live, wanted),
        (live, wanted, Some(held)) if held.is_empty() => live == wanted || is_empty(live) && is_empty(wanted),
        (Value::Object(live), Value::Object(wanted), Some(held)) => {
            wanted.iter().all(|(name, value)| field_says(live.get(name), value, held.get(&format!("f:{name}"))))
        }
        (Value::Array(live), Value::Array(wanted), Some(held)) if wanted.iter().all(Value::is_object) => {
            let (mut held, mut rest) = (HeldItems::of(held), live.iter());
            wanted.iter().all(|item| {
                let held = held.may_be(item);
                let says = |live| held.iter().any(|held| field_says(Some(live), item, Some(held)));
                rest.any(|live| says(live) || held.is_empty() && contains(live, item))
            })
        }
        (live, wanted, Some(_)) => contains(live, wanted),
    }
}

/// Whether a manager holds a field, `path` from the root.
pub fn holds(held: &Value, path: &[&str]) -> bool {
    path.iter().try_fold(held, |held, name| held.get(format!("f:{name}"))).is_some()
}

/// The entries of a map of strings in `live` that a manager holds: the labels it set, say.
pub fn held_entries(held: &Value, live: &Value, path: &[&str]) -> Map<String, Value> {
    let fields = path.iter().try_fold(held, |held, name| held.get(format!("f:{name}")));
    let entries = path.iter().try_fold(live, |live, name| live.get(name)).and_then(Value::as_object);
    let (Some(fields), Some(entries)) = (fields, entries) else { return Map::new() };
    entries
        .iter()
        .filter(|(name, _)| fields.get(format!("f:{name}")).is_some())
        .map(|(name, value)| (name.clone(), value.clone()))
        .collect()
}

/// What `live` says of the fields that a manager holds: applying it changes nothing.
pub fn held_part(held: &Value, live: &Value) -> Value {
    // A field without any below it is held as a whole.
    let Some(fields) = held.as_object().filter(|fields| !fields.is_empty()) else { return live.clone() };
    match live {
        Value::Object(live) => {
            let part = |(name, value): (&String, &Value)| {
                Some((name.clone(), held_part(fields.get(&format!("f:{name}"))?, value)))
            };
            live.iter().filter_map(part).collect::<Map<_, _>>().into()
        }
        Value::Array(items) => {
            let mut held = HeldItems::of(fields);
            items.iter().filter_map(|item| held_item(&mut held, item)).collect()
        }
        value => value.clone(),
    }
}

/// An item of a list that is held, by its keys or its value; with the keys, whoever holds those.
fn held_item(held: &mut HeldItems<'_>, item: &Value) -> Option<Value> {
    if held.has_value(item) {
        return Some(item.clone());
    }
    let (keys, below) = held.of_item(item)?;
    let mut part = held_part(below, item);
    part.as_object_mut()?.extend(keys.clone());
    Some(part)
}

/// A digest of a value for comparison within this process only.
pub fn fingerprint(value: &Value) -> u64 {
    let mut hasher = DefaultHasher::new();
    fingerprint_into(value, &mut hasher);
    hasher.finish()
}

fn fingerprint_into(value: &Value, hasher: &mut DefaultHasher) {
    match value {
        Value::Object(fields) => {
            '{'.hash(hasher);
            for (name, value) in sorted(fields) {
                name.hash(hasher);
                fingerprint_into(value, hasher);
            }
            '}'.hash(hasher);
        }
        Value::Array(items) => {
            '['.hash(hasher);
            items.iter().for_each(|item| fingerprint_into(item, hasher));
            ']'.hash(hasher);
        }
        other => other.to_string().hash(hasher),
    }
}

/// A digest that may be stored: sha256 of the value as JSON with sorted keys and no white space, as hexadecimal digits.
pub fn stable_digest(value: &Value) -> String {
    fn write(value: &Value, digest: &mut Sha256) {
        match value {
            Value::Object(fields) => {
                digest.update(b"{");
                for (index, (name, value)) in sorted(fields).into_iter().enumerate() {
                    if index > 0 {
                        digest.update(b",");
                    }
                    digest.update(Value::from(name.as_str()).to_string());
                    digest.update(b":");
                    write(value, digest);
                }
                digest.update(b"}");
            }
            Value::Array(items) => {
                digest.update(b"[");
                for (index, item) in items.iter().enumerate() {
                    if index > 0 {
                        digest.update(b",");
                    }
                    write(item, digest);
                }
                digest.update(b"]");
            }
            other => digest.update(other.to_string()),
        }
    }
    let mut digest = Sha256::new();
    write(value, &mut digest);
    hex(&digest.finalize())
}

/// Lower-case hexadecimal digits.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// `serde_json`'s maps are sorted or not by a feature that any dependency may switch on: here it must not matter.
fn sorted(fields: &Map<String, Value>) -> Vec<(&String, &Value)> {
    let mut entries: Vec<_> = fields.iter().collect();
    entries.sort_unstable_by_key(|(name, _)| *name);
    entries
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// As Kubernetes 1.36 answers for a small Deployment.
    fn held() -> Value {
        json!({
            "f:metadata": {"f:labels": {"f:a": {}}, "f:ownerReferences": {"k:{\"uid\":\"u\"}": {}}},
            "f:spec": {"f:replicas": {}, "f:template": {"f:spec": {"f:containers": {
                "k:{\"name\":\"c\"}": {".": {}, "f:name": {}, "f:image": {}, "f:args": {},
                    "f:ports": {"k:{\"containerPort\":8786,\"protocol\":\"TCP\"}": {".": {}, "f:containerPort": {}}}}}}}},
        })
    }

    fn wanted() -> Value {
        json!({
            "apiVersion": "apps/v1", "kind": "Deployment",
            "metadata": {"name": "x", "namespace": "n", "labels": {"a": "1"}, "annotations": {},
                "ownerReferences": [{"uid": "u", "controller": true}]},
            "spec": {"replicas": 1, "template": {"spec": {"containers": [
                {"name": "c", "image": "i", "args": ["a"], "ports": [{"containerPort": 8786}]}]}}},
        })
    }

    #[test]
    fn an_object_as_it_was_applied_is_held_exactly() {
        assert!(holds_exactly(&held(), &wanted()));
    }

    #[test]
    fn a_field_that_was_taken_by_another_writer_is_lost() {
        let container = "/f:spec/f:template/f:spec/f:containers/k:{\"name\":\"c\"}";
        for (parent, field) in
            [("/f:metadata", "f:labels"), ("/f:spec", "f:replicas"), (container, "f:image"), (container, "f:ports")]
        {
            let mut held = held();
            held.pointer_mut(parent).and_then(Value::as_object_mut).unwrap().remove(field).unwrap();
            assert!(!holds_exactly(&held, &wanted()), "{parent} without {field}");
        }
    }

    #[test]
    fn who_holds_nothing_holds_all_of_what_says_nothing() {
        let nothing = json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "x", "annotations": {}}});
        assert!(holds_exactly(&json!({}), &nothing));
        assert!(!holds_exactly(&json!({}), &wanted()) && !holds_exactly(&held(), &nothing));
    }

    #[test]
    fn a_field_that_is_no_longer_wanted_is_left_over() {
        let mut wanted = wanted();
        wanted["metadata"]["labels"] = json!({});
        assert!(!holds_exactly(&held(), &wanted));
    }

    #[test]
    fn a_field_that_is_wanted_anew_is_not_held() {
        let mut wanted = wanted();
        wanted["spec"]["paused"] = json!(true);
        assert!(!holds_exactly(&held(), &wanted));
    }

    #[test]
    fn live_contains_what_is_wanted_and_more() {
        let live =
            json!({"a": [{"name": "c", "image": "i"}, {"name": "sidecar"}], "b": {"c": 1}, "d": 2, "args": ["x"]});
        assert!(contains(&live, &json!({"a": [{"name": "c"}], "b": {"c": 1}, "empty": {}})));
        assert!(!contains(&live, &json!({"a": [{"name": "other"}]})));
        assert!(!contains(&live, &json!({"args": ["x", "y"]})));
        assert!(!contains(&live, &json!({"e": 1})));
    }

    #[test]
    fn what_is_owned_as_a_whole_is_the_same_and_the_rest_may_have_more() {
        let held = json!({"f:spec": {
            "f:list": {}, "f:map": {}, "f:merged": {"f:a": {}}, "f:keyed": {"k:{\"name\":\"c\"}": {".": {}, "f:name": {}, "f:args": {}}},
        }});
        let wanted = json!({"spec": {
            "list": [{"a": {}}], "map": {"a": 1}, "merged": {"a": 1}, "keyed": [{"name": "c", "args": [{"b": 1}]}],
        }});
        let mut live = wanted.clone();
        live["spec"]["merged"]["theirs"] = json!(1);
        live["spec"]["keyed"] = json!([{"name": "theirs"}, {"name": "c", "args": [{"b": 1}], "theirs": 1}]);
        assert!(says_exactly(&live, &wanted, &held));
        let more = [
            ("/spec/list", json!([{"a": {}}, {}])),
            ("/spec/list/0", json!({"a": {}, "b": 1})),
            ("/spec/list/0/a", json!({"b": 1})),
            ("/spec/list/0", json!({})),
            ("/spec/map", json!({"a": 1, "b": 1})),
            ("/spec/merged", json!({"theirs": 1})),
            ("/spec/keyed/1/args/0", json!({"b": 1, "c": 1})),
        ];
        for (path, value) in more {
            let mut live = live.clone();
            *live.pointer_mut(path).unwrap() = value;
            assert!(!says_exactly(&live, &wanted, &held), "{path}");
        }
    }

    #[test]
    fn an_empty_map_of_a_custom_resource_is_there_and_an_empty_list_may_be() {
        let wanted = json!({"kind": "K", "metadata": {"labels": {}}, "spec": {"map": {}, "list": []}});
        let says = |spec: Value, held: Value| {
            says_exactly(&json!({"kind": "K", "metadata": {}, "spec": spec}), &wanted, &json!({"f:spec": held}))
        };
        assert!(says(json!({"map": {}}), json!({"f:map": {}, "f:list": {}})));
        assert!(says(json!({"map": {"theirs": 1}}), json!({"f:list": {}})), "somebody else's are in it");
        assert!(!says(json!({"list": []}), json!({"f:map": {}, "f:list": {}})));
        assert!(!says(json!({"map": null}), json!({"f:map": {}})));
    }

    #[test]
    fn digests_do_not_depend_on_the_order_of_keys() {
        let one: Value = serde_json::from_str(r#"{"a": 1, "b": [1, {"x": 1, "y": 2}]}"#).unwrap();
        let two: Value = serde_json::from_str(r#"{"b": [1, {"y": 2, "x": 1}], "a": 1}"#).unwrap();
        assert_eq!(fingerprint(&one), fingerprint(&two));
        assert_eq!(stable_digest(&one), stable_digest(&two));
        assert_ne!(stable_digest(&one), stable_digest(&json!({"a": 1, "b": [{"x": 1, "y": 2}, 1]})));
    }

    #[test]
    fn the_held_part_is_what_the_manager_applied_with_the_values_of_today() {
        let mut live = wanted();
        live["spec"]["template"]["spec"]["schedulerName"] = json!("default");
        let container = &mut live["spec"]["template"]["spec"]["containers"][0];
        container["ports"][0]["protocol"] = json!("TCP");
        container["image"] = json!("mirror/i");
        container["terminationMessagePath"] = json!("/dev/termination-log");
        live["spec"]["template"]["spec"]["containers"].as_array_mut().unwrap().push(json!({"name": "sidecar"}));
        let mut held = held();
        let path = "/f:spec/f:template/f:spec/f:containers/k:{\"name\":\"c\"}";
        held.pointer_mut(path).and_then(Value::as_object_mut).unwrap().remove("f:image");
        let mut expected = wanted()["spec"].clone();
        expected["template"]["spec"]["containers"] =
            json!([{"name": "c", "args": ["a"], "ports": [{"containerPort": 8786, "protocol": "TCP"}]}]);
        assert_eq!(held_part(&held["f:spec"], &live["spec"]), expected);
    }

    #[test]
    fn held_entries_are_those_of_the_manager() {
        let live = json!({"metadata": {"labels": {"a": "1", "foreign": "2"}}});
        assert_eq!(Value::Object(held_entries(&held(), &live, &["metadata", "labels"])), json!({"a": "1"}));
    }
}
