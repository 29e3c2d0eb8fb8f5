//! Maps that are to be emptied, which takes two applies.
//!
//! Server-side apply takes from a map each field that its manager stops to send. Where it still sends the map itself, and
//! nothing is left in it, the API server makes null of the map instead of `{}`. Kinds of Kubernetes' own take that for no map;
//! a definition of custom resources refuses it, at each attempt. So the map is left out until it has lost its fields, and
//! applied empty by the reconcile after that (docs/adr/0049).

use serde_json::{Map, Value};

use super::lists::{HeldItems, Items};

/// What of `wanted` can be applied to an object that is `live`, of which the manager holds `held`: all but the maps that would
/// become null.
pub fn without_emptied(mut wanted: Value, live: &Value, held: &Value) -> Value {
    if let (Some(wanted), Some(held)) = (wanted.as_object_mut(), held.as_object()) {
        leave_out(wanted, live, held);
    }
    wanted
}

fn leave_out(wanted: &mut Map<String, Value>, live: &Value, held: &Map<String, Value>) {
    wanted.retain(|name, value| {
        let below = held.get(&format!("f:{name}")).and_then(Value::as_object);
        let (Some(live), Some(held)) = (live.get(name), below) else { return true };
        can_be_applied(value, live, held)
    });
}

fn can_be_applied(wanted: &mut Value, live: &Value, held: &Map<String, Value>) -> bool {
    match (wanted, live) {
        (Value::Object(wanted), Value::Object(fields)) => {
            leave_out(wanted, live, held);
            // What somebody else has put into the map stays in it.
            let is_held = |name: &String| held.contains_key(&format!("f:{name}"));
            !wanted.is_empty() || fields.is_empty() || !fields.keys().all(is_held)
        }
        (Value::Array(wanted), Value::Array(_)) => {
            let (mut live, mut held) = (Items::of(live), HeldItems::of(held));
            for item in wanted {
                let of_item =
                    held.of_item(item).and_then(|(keys, held)| Some((live.with_keys(keys)?, held.as_object()?)));
                if let (Some((live, held)), Some(item)) = (of_item, item.as_object_mut()) {
                    leave_out(item, live, held);
                }
            }
            true
        }
        _ => true,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// As Kubernetes 1.36 answers for a kind whose `ports` are told apart by `port`, and `list` by nothing.
    fn held() -> Value {
        json!({"f:spec": {
            "f:context": {"f:user": {}, "f:deep": {"f:more": {"f:last": {}}}},
            "f:selector": {},
            "f:list": {},
            "f:ports": {"k:{\"port\":1}": {".": {}, "f:port": {}, "f:options": {"f:a": {}}}},
        }})
    }

    fn live() -> Value {
        json!({"spec": {
            "context": {"user": 1, "deep": {"more": {"last": 1}}},
            "selector": {"matchLabels": {"a": "b"}},
            "list": [{"options": {"a": "b"}}],
            "ports": [{"port": 1, "options": {"a": "b"}}],
        }})
    }

    fn applied(spec: Value) -> Value {
        without_emptied(json!({"kind": "K", "spec": spec}), &live(), &held())["spec"].take()
    }

    #[test]
    fn a_map_that_would_lose_its_last_field_is_left_out() {
        assert_eq!(applied(json!({"context": {}, "a": 1})), json!({"a": 1}));
        let deep = json!({"context": {"user": 1, "deep": {}}});
        assert_eq!(applied(deep), json!({"context": {"user": 1}}));
        let ports = json!({"ports": [{"port": 1, "options": {}}, {"port": 2, "options": {}}]});
        assert_eq!(applied(ports), json!({"ports": [{"port": 1}, {"port": 2, "options": {}}]}));
    }

    #[test]
    fn a_map_that_is_empty_without_those_is_left_out_too() {
        assert_eq!(applied(json!({"context": {"deep": {"more": {}}}, "a": 1})), json!({"a": 1}));
    }

    #[test]
    fn what_is_owned_as_a_whole_and_what_was_empty_or_absent_is_applied_as_it_is() {
        for spec in [json!({"selector": {}, "list": [{"options": {}}], "new": {}}), json!({"context": {"user": 2}})] {
            assert_eq!(applied(spec.clone()), spec);
        }
        let again = json!({"context": {}});
        assert_eq!(without_emptied(again.clone(), &json!({"context": {}}), &json!({"f:context": {}})), again);
    }

    #[test]
    fn a_map_in_which_somebody_else_has_a_field_is_applied_as_it_is() {
        let wanted = json!({"context": {}});
        let live = json!({"context": {"user": 1, "theirs": 2}});
        assert_eq!(without_emptied(wanted.clone(), &live, &json!({"f:context": {"f:user": {}}})), wanted);
    }
}
