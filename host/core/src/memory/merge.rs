//! Server-side apply over JSON values, step by step as Kubernetes does it (`sigs.k8s.io/structured-merge-diff`). Pure.

use std::{
    collections::{HashMap, HashSet},
    sync::LazyLock,
};

use serde_json::{Map, Value};

use super::rules::{ITEM, Rules};
use crate::fields::Fields;

/// Between two states of a value.
#[derive(Default)]
pub(super) struct Changes {
    /// Fields that were not there, or have another value.
    pub(super) set: Fields,
    /// Fields that are no longer there.
    pub(super) removed: Fields,
}

impl Changes {
    fn put(&mut self, step: String, below: Self) {
        self.set.put(step.clone(), below.set);
        self.removed.put(step, below.removed);
    }
}

fn field(name: &str) -> String {
    format!("f:{name}")
}

/// Where the fields of a value are: those of an item below the list.
fn place<'a>(above: &'a str, name: &'a str) -> &'a str {
    if name == ITEM { above } else { name }
}

/// The steps to the items of both lists.
type Steps = (Vec<String>, Vec<String>);

impl Rules<'_> {
    /// The set of fields of who applies a value. `above` is the name of the field above it, here and below.
    pub(super) fn fields_of(self, above: &str, name: &str, value: &Value) -> Fields {
        let mut fields = Fields::default();
        match value {
            Value::Object(map) if !map.is_empty() && !self.is_whole(above, name) => {
                for (below, value) in map {
                    fields.put(field(below), self.fields_of(place(above, name), below, value));
                }
            }
            Value::Array(items) => match self.steps(above, name, items) {
                Some(steps) => {
                    for (step, item) in steps.into_iter().zip(items) {
                        let mut below = self.fields_of(name, ITEM, item);
                        below.join();
                        fields.put(step, below);
                    }
                }
                None => fields.join(),
            },
            _ => fields.join(),
        }
        fields
    }

    /// Lays a value over another.
    pub(super) fn merge(self, above: &str, name: &str, into: &mut Value, from: &Value) {
        match (into, from) {
            (Value::Object(into), Value::Object(from)) if !self.is_whole(above, name) => {
                for (below, value) in from {
                    self.merge(place(above, name), below, into.entry(below).or_insert(Value::Null), value);
                }
            }
            (Value::Array(into), Value::Array(from)) => match self.steps_of_both(above, name, into, from) {
                Some(steps) => *into = self.merge_lists(name, (into, from), &steps),
                None => into.clone_from(from),
            },
            (into, from) => into.clone_from(from),
        }
    }

    fn steps_of_both(self, above: &str, name: &str, left: &[Value], right: &[Value]) -> Option<Steps> {
        Some((self.steps(above, name, left)?, self.steps(above, name, right)?))
    }

    /// Items of the right list stand in its order, those of the left alone where they stood between the others.
    fn merge_lists(self, name: &str, (left, right): (&[Value], &[Value]), steps: &Steps) -> Vec<Value> {
        let (left_steps, right_steps) = steps;
        let is_in_right: HashSet<_> = right_steps.iter().collect();
        // What is there twice is not merged with anything.
        let mut by_step: HashMap<_, Option<&Value>> = HashMap::new();
        for (step, item) in left_steps.iter().zip(left) {
            by_step.entry(step).and_modify(|item| *item = None).or_insert(Some(item));
        }
        let merged = |step: &String, item: &Value| match by_step.get(step) {
            Some(Some(before)) => {
                let mut merged = (*before).clone();
                self.merge(name, ITEM, &mut merged, item);
                merged
            }
            _ => item.clone(),
        };
        let mut shared = right_steps.iter().filter(|step| by_step.contains_key(step));
        let (mut next, mut done) = (shared.next(), HashSet::new());
        let mut list = Vec::new();
        let (mut at_left, mut at_right) = (0, 0);
        while at_left < left.len() || at_right < right.len() {
            if let (Some(step), Some(other)) = (left_steps.get(at_left), right_steps.get(at_right)) {
                if step == other {
                    done.insert(step);
                    list.push(merged(step, &right[at_right]));
                    (at_left, at_right, next) = (at_left + 1, at_right + 1, shared.next());
                    continue;
                }
                if is_in_right.contains(step) && next.is_some_and(|next| next != step) {
                    at_left += 1;
                    continue;
                }
            }
            if let Some(step) = left_steps.get(at_left) {
                if !is_in_right.contains(step) {
                    list.push(left[at_left].clone());
                    at_left += 1;
                    continue;
                }
                at_left += usize::from(done.contains(step));
            }
            if let Some(step) = right_steps.get(at_right) {
                done.insert(step);
                list.push(merged(step, &right[at_right]));
                at_right += 1;
                if next == Some(step) {
                    next = shared.next();
                }
            }
        }
        list
    }

    /// What is different between two states of a value, none where there is none.
    pub(super) fn compare(self, above: &str, name: &str, old: Option<&Value>, new: Option<&Value>) -> Changes {
        let mut changes = Changes::default();
        let (old, new) = (or_empty(old, new), or_empty(new, old));
        match (old, new) {
            (None, None) => return changes,
            (Some(Value::Object(_)) | None, Some(Value::Object(_)) | None)
                if !self.is_whole(above, name) && !is_both_empty(old, new) =>
            {
                let fields = |value: Option<&Value>| value.and_then(Value::as_object).cloned().unwrap_or_default();
                let (before, after) = (fields(old), fields(new));
                for below in before.keys().chain(after.keys().filter(|name| !before.contains_key(*name))) {
                    let place = place(above, name);
                    changes.put(field(below), self.compare(place, below, before.get(below), after.get(below)));
                }
            }
            (Some(Value::Array(_)) | None, Some(Value::Array(_)) | None) if !is_both_empty(old, new) => {
                let items = |value: Option<&Value>| value.and_then(Value::as_array).cloned().unwrap_or_default();
                let (before, after) = (items(old), items(new));
                match self.steps_of_both(above, name, &before, &after) {
                    Some(steps) => self.compare_items(name, (&before, &after), &steps, &mut changes),
                    None => return leaf(old, new),
                }
            }
            _ => return leaf(old, new),
        }
        // A map or list that comes or goes is a field, too.
        if old.is_none() {
            changes.set.join();
        }
        if new.is_none() {
            changes.removed.join();
        }
        changes
    }

    fn compare_items(self, name: &str, (old, new): (&[Value], &[Value]), steps: &Steps, changes: &mut Changes) {
        let by_step = |steps: &[String], items: &[Value]| {
            let mut by_step: HashMap<String, Vec<Value>> = HashMap::new();
            for (step, item) in steps.iter().zip(items) {
                by_step.entry(step.clone()).or_default().push(item.clone());
            }
            by_step
        };
        let (before, after) = (by_step(&steps.0, old), by_step(&steps.1, new));
        let all: HashSet<_> = before.keys().chain(after.keys()).collect();
        for step in all {
            let of = |items: &HashMap<String, Vec<Value>>| items.get(step).cloned().unwrap_or_default();
            let below = match (&of(&before)[..], &of(&after)[..]) {
                (old @ ([] | [_]), new @ ([] | [_])) => self.compare(name, ITEM, old.first(), new.first()),
                // What is there twice is compared as a whole.
                (old, new) => leaf(
                    Some(&Value::from(old.to_vec())).filter(|_| !old.is_empty()),
                    Some(&Value::from(new.to_vec())).filter(|_| !new.is_empty()),
                ),
            };
            changes.put(step.clone(), below);
        }
    }

    /// Takes out of a value what a manager applied before, and nobody holds any more. Answers the path of the first map that
    /// nothing is left in although somebody holds it: the API server makes null of it.
    pub(super) fn prune(
        self,
        (above, name): (&str, &str),
        value: &mut Value,
        before: &Fields,
        held: &Fields,
    ) -> Option<String> {
        let mut emptied = None;
        match value {
            Value::Object(map) if !self.is_whole(above, name) => {
                map.retain(|below, value| {
                    let step = field(below);
                    let outcome = self.prune_below((place(above, name), below), &step, value, (before, held));
                    if let Outcome::Emptied(path) = &outcome {
                        emptied.get_or_insert_with(|| format!("{below}{path}"));
                    }
                    !matches!(outcome, Outcome::Gone)
                });
            }
            Value::Array(items) => {
                let mut steps = self.steps(above, name, items)?.into_iter();
                items.retain_mut(|item| {
                    let Some(step) = steps.next() else { return true };
                    let outcome = self.prune_below((name, ITEM), &step, item, (before, held));
                    if let Outcome::Emptied(path) = &outcome {
                        emptied.get_or_insert_with(|| path.clone());
                    }
                    !matches!(outcome, Outcome::Gone)
                });
            }
            _ => {}
        }
        emptied
    }

    fn prune_below(
        self,
        place: (&str, &str),
        step: &str,
        value: &mut Value,
        (before, held): (&Fields, &Fields),
    ) -> Outcome {
        let Some(before) = before.below(step) else { return Outcome::Stays };
        let Some(held) = held.below(step) else { return Outcome::Gone };
        // Others may hold fields of an item that they have not put there.
        if place.1 == ITEM && before.is_member() && !held.is_member() {
            return Outcome::Gone;
        }
        let was_empty = is_empty(Some(value));
        let below = self.prune(place, value, before, held);
        match below {
            Some(path) => Outcome::Emptied(format!(".{path}")),
            None if is_empty(Some(value)) && !was_empty => {
                *value = Value::Null;
                Outcome::Emptied(String::new())
            }
            None => Outcome::Stays,
        }
    }
}

/// What becomes of a value whose parts are taken out.
enum Outcome {
    Stays,
    Gone,
    /// It is null, or what is below it at this path.
    Emptied(String),
}

/// A value, or an empty map or list for a null that stands where the other is one.
fn or_empty<'a>(value: Option<&'a Value>, other: Option<&Value>) -> Option<&'a Value> {
    static EMPTY: LazyLock<(Value, Value)> = LazyLock::new(|| (Map::new().into(), Vec::<Value>::new().into()));
    match (value, other) {
        (Some(Value::Null), Some(Value::Object(_))) => Some(&EMPTY.0),
        (Some(Value::Null), Some(Value::Array(_))) => Some(&EMPTY.1),
        (value, _) => value,
    }
}

fn is_both_empty(old: Option<&Value>, new: Option<&Value>) -> bool {
    is_empty(old) && is_empty(new)
}

fn is_empty(value: Option<&Value>) -> bool {
    match value {
        None => true,
        Some(Value::Object(map)) => map.is_empty(),
        Some(Value::Array(items)) => items.is_empty(),
        Some(_) => false,
    }
}

fn leaf(old: Option<&Value>, new: Option<&Value>) -> Changes {
    let mut changes = Changes::default();
    match (old, new) {
        (Some(_), None) => changes.removed.join(),
        (old, new) if old != new => changes.set.join(),
        _ => {}
    }
    changes
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

/// What the server itself writes of an object's metadata: nobody's fields.
const OF_THE_SERVER: [&str; 9] = [
    "name",
    "namespace",
    "uid",
    "resourceVersion",
    "generation",
    "creationTimestamp",
    "deletionTimestamp",
    "deletionGracePeriodSeconds",
    "managedFields",
];

/// An object without its identity and what the server writes of it.
pub(super) fn substance(object: &Value) -> Value {
    let mut substance = object.as_object().cloned().unwrap_or_default();
    for name in ["apiVersion", "kind"] {
        substance.remove(name);
    }
    if let Some(metadata) = substance.get_mut("metadata").and_then(Value::as_object_mut) {
        OF_THE_SERVER.iter().for_each(|name| drop(metadata.remove(*name)));
        let owners = metadata.get_mut("ownerReferences").and_then(Value::as_array_mut).into_iter().flatten();
        // False and absent are the same, and an object that is read has the latter.
        owners.filter_map(Value::as_object_mut).for_each(|owner| owner.retain(|_, value| *value != false));
    }
    // Metadata are always there, and no field.
    substance.entry("metadata").or_insert_with(|| Map::new().into());
    substance.into()
}
