//! What a person gave and what managers applied, as layers of one object. Pure.

use serde_json::{Value, json};

/// Keys by which Kubernetes merges the lists of built-in kinds, the first that all items have.
const LIST_KEYS: [&str; 6] = ["name", "containerPort", "port", "mountPath", "uid", "type"];

/// Lays what a manager applied over an object. The owner references of all kinds are merged by their uids.
pub(super) fn lay_over(object: &mut Value, applied: &Value, by_keys: bool) {
    let owners = |value: &Value| value.pointer("/metadata/ownerReferences").and_then(Value::as_array).cloned();
    let before = owners(object).unwrap_or_default();
    merge(object, applied, by_keys);
    let Some(applied) = owners(applied) else { return };
    let is_kept = |owner: &Value| applied.iter().all(|other| other["uid"] != owner["uid"]);
    let kept = before.into_iter().filter(is_kept);
    object["metadata"]["ownerReferences"] = kept.chain(applied.iter().cloned()).collect();
}

/// Lays `from` over `into`.
fn merge(into: &mut Value, from: &Value, by_keys: bool) {
    match (into, from) {
        (Value::Object(into), Value::Object(from)) => {
            for (name, value) in from {
                merge(into.entry(name).or_insert(Value::Null), value, by_keys);
            }
        }
        (Value::Array(into), Value::Array(from)) if by_keys => {
            if !merge_lists(into, from) {
                into.clone_from(from);
            }
        }
        (into, from) => *into = from.clone(),
    }
}

/// Merges lists whose items all have the same key; false if they have none.
fn merge_lists(into: &mut Vec<Value>, from: &[Value]) -> bool {
    let key = LIST_KEYS.into_iter().find(|key| into.iter().chain(from).all(|item| item.get(key).is_some()));
    let Some(key) = key else { return false };
    for item in from {
        match into.iter_mut().find(|other| other.get(key) == item.get(key)) {
            Some(other) => merge(other, item, true),
            None => into.push(item.clone()),
        }
    }
    true
}

/// Path of the first field that differs; empty for the values themselves.
pub(super) fn first_difference(before: &Value, after: &Value) -> Option<String> {
    if before == after {
        return None;
    }
    let (Some(old), Some(new)) = (before.as_object(), after.as_object()) else { return Some(String::new()) };
    old.keys().chain(new.keys()).find_map(|name| {
        let none = Value::Null;
        let below = first_difference(old.get(name).unwrap_or(&none), new.get(name).unwrap_or(&none))?;
        Some(if below.is_empty() { name.clone() } else { format!("{name}.{below}") })
    })
}

/// Lays over what a person gave what they changed between two states of the object.
pub(super) fn give(given: &mut Value, before: &Value, after: &Value) {
    let (Some(before), Some(after)) = (before.as_object(), after.as_object()) else { return given.clone_from(after) };
    if !given.is_object() {
        *given = json!({});
    }
    let Some(given) = given.as_object_mut() else { return };
    given.retain(|name, _| after.contains_key(name));
    for (name, value) in after.iter().filter(|(name, value)| before.get(*name) != Some(*value)) {
        give(given.entry(name).or_insert(Value::Null), before.get(name).unwrap_or(&Value::Null), value);
    }
}

/// Takes from an applied set what differs between two states of the object.
pub(super) fn take_changed(body: &mut Value, before: &Value, after: &Value) {
    let Some(fields) = body.as_object_mut() else { return };
    fields.retain(|name, value| {
        let (before, after) = (before.get(name), after.get(name));
        if before == after {
            return true;
        }
        match (before, after) {
            (Some(before), Some(after)) if value.is_object() => {
                take_changed(value, before, after);
                true
            }
            _ => false,
        }
    });
}

/// Takes from an applied set the plain values that another manager forces to be different.
pub(super) fn take_conflicts(theirs: &mut Value, forced: &Value) {
    let Some(fields) = theirs.as_object_mut() else { return };
    fields.retain(|name, value| match forced.get(name) {
        Some(forced) if value.is_object() || value.is_array() => {
            take_conflicts(value, forced);
            true
        }
        forced => forced.is_none_or(|forced| forced == value),
    });
}

/// Takes the fields of a set out of an object, and what is empty without them.
pub(super) fn take_held(object: &mut Value, held: &Value) {
    let (Some(fields), Some(held)) = (object.as_object_mut(), held.as_object()) else { return };
    fields.retain(|name, value| match held.get(&format!("f:{name}")) {
        Some(below) if value.is_object() && below.as_object().is_some_and(|below| !below.is_empty()) => {
            take_held(value, below);
            value.as_object().is_some_and(|left| !left.is_empty())
        }
        held => held.is_none(),
    });
}

/// Path of the first map that an apply leaves nothing in, although it still says that there is one: what the API server makes
/// null of. `before` and `after` are what was there before and with the apply, whoever set it.
pub(super) fn first_null(applied: &Value, before: &Value, after: &Value) -> Option<String> {
    let (Some(applied), Some(old), Some(new)) = (applied.as_object(), before.as_object(), after.as_object()) else {
        return None;
    };
    if new.is_empty() && !old.is_empty() {
        return Some(String::new());
    }
    applied.iter().find_map(|(name, value)| {
        let below = first_null(value, old.get(name)?, new.get(name)?)?;
        Some(if below.is_empty() { name.clone() } else { format!("{name}.{below}") })
    })
}
