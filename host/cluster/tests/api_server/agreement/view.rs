//! What can be observed of objects, in words that are the same for both stores.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use super::{
    kinds::Kind,
    steps::{MANAGERS, OBJECTS, Scene},
    stores::{Answer, USER},
};

/// What is observed of the objects of a scene; none for one that is not there.
pub(crate) type Seen = Vec<Value>;

/// Looks at one store.
pub(crate) struct Viewer<'a> {
    scene: &'a Scene,
    /// By uid, which object it is: the first of number 0, the second of that number.
    names: BTreeMap<String, String>,
    /// The version of each object that was seen at the last step, and that which was seen first.
    versions: [Option<String>; OBJECTS],
    first: [Option<String>; OBJECTS],
    seen: [Option<String>; OBJECTS],
}

impl<'a> Viewer<'a> {
    pub(crate) fn new(scene: &'a Scene) -> Self {
        let (names, versions) = (BTreeMap::new(), <[_; OBJECTS]>::default());
        Self { scene, names, versions: versions.clone(), first: versions.clone(), seen: versions }
    }

    /// The version that an object had when it was seen first.
    pub(crate) fn first_version(&self, object: usize) -> Option<String> {
        self.first.get(object)?.clone()
    }

    /// What was seen last is what the next look is compared with.
    pub(crate) fn keep(&mut self) {
        self.versions.clone_from(&self.seen);
        for (first, seen) in self.first.iter_mut().zip(&self.seen) {
            match seen {
                Some(version) => drop(first.get_or_insert_with(|| version.clone())),
                None => *first = None,
            }
        }
    }

    pub(crate) fn look(&mut self, objects: Vec<Option<Value>>) -> Seen {
        for (number, object) in objects.iter().enumerate() {
            let uid = object.as_ref().and_then(|object| object["metadata"]["uid"].as_str());
            let times = self.names.values().filter(|name| name.starts_with(&format!("uid {number}."))).count();
            if let Some(uid) = uid {
                self.names.entry(uid.to_owned()).or_insert_with(|| format!("uid {number}.{times}"));
            }
        }
        let version = |object: &Option<Value>| {
            object.as_ref().and_then(|object| object["metadata"]["resourceVersion"].as_str()).map(str::to_owned)
        };
        for (seen, object) in self.seen.iter_mut().zip(&objects) {
            *seen = version(object);
        }
        let views = objects.into_iter().enumerate().map(|(number, object)| match object {
            Some(object) => self.view(number, object),
            None => Value::Null,
        });
        views.collect()
    }

    /// A text in which objects stand in the place of their uids.
    fn named(&self, text: String) -> String {
        self.names.iter().fold(text, |text, (uid, name)| text.replace(uid, name))
    }

    /// An answer that does not depend on uids.
    pub(crate) fn answer(&self, answer: Answer) -> Answer {
        match answer {
            Answer::Conflict(conflicts) => {
                Answer::Conflict(conflicts.into_iter().map(|(who, path)| (who, self.named(path))).collect())
            }
            answer => answer,
        }
    }

    fn view(&self, number: usize, mut object: Value) -> Value {
        let kind = self.scene.kind;
        let managers = managers(kind, &object["metadata"]["managedFields"]);
        for path in kind.defaults {
            remove(&mut object, &steps(path), false);
        }
        for (path, value) in &kind.default_values {
            if object.pointer(path) == Some(value) {
                remove(&mut object, &steps(path), false);
            }
        }
        drop_empty(&mut object["metadata"]);
        if self.scene.resource.kind.is_built_in() {
            drop_empty(&mut object);
        }
        let mut metadata = object["metadata"].take();
        let mut view: Map<String, Value> = object.as_object().cloned().unwrap_or_default();
        ["apiVersion", "kind", "metadata"].iter().for_each(|name| drop(view.remove(*name)));
        for name in ["uid", "labels", "annotations", "finalizers"] {
            view.insert(name.to_owned(), metadata[name].take());
        }
        let owners = metadata["ownerReferences"].as_array().into_iter().flatten();
        let owners = owners.map(|owner| json!([owner["uid"], owner["controller"] == true]));
        view.insert("owners".to_owned(), owners.collect());
        view.insert("isBeingDeleted".to_owned(), json!(metadata["deletionTimestamp"].is_string()));
        view.insert("generation".to_owned(), metadata["generation"].take());
        view.insert("managers".to_owned(), managers);
        if !kind.is_controlled {
            let version = self.versions.get(number).and_then(Option::as_deref);
            let is_new = version.is_some_and(|version| metadata["resourceVersion"] != version);
            view.insert("hasNewVersion".to_owned(), json!(version.is_none() || is_new));
        }
        serde_json::from_str(&self.named(Value::from(view).to_string())).unwrap_or_default()
    }
}

/// Whose an entry is; none if it is that of a controller of Kubernetes. Whoever writes by plain requests is a user.
pub(crate) fn known_manager(name: &str) -> Option<&str> {
    match name {
        "kube-controller-manager" => None,
        name if MANAGERS.contains(&name) || name == "before-first-apply" => Some(name),
        _ => Some(USER),
    }
}

/// Who holds what.
fn managers(kind: &Kind, entries: &Value) -> Value {
    let mut managers: BTreeMap<String, Value> = BTreeMap::new();
    for entry in entries.as_array().into_iter().flatten() {
        let text = |name: &str| entry[name].as_str().unwrap_or_default();
        let Some(manager) = known_manager(text("manager")) else { continue };
        let name = format!("{manager} {} {}", text("operation"), text("subresource"));
        let mut fields = entry["fieldsV1"].clone();
        for path in kind.defaults {
            remove(&mut fields, &steps(path), true);
        }
        drop_dots(&mut fields);
        unite(managers.entry(name.trim_end().to_owned()).or_insert_with(|| json!({})), &fields);
    }
    json!(managers)
}

fn unite(into: &mut Value, fields: &Value) {
    let (Some(into), Some(fields)) = (into.as_object_mut(), fields.as_object()) else { return };
    for (step, below) in fields {
        unite(into.entry(step).or_insert_with(|| json!({})), below);
    }
}

fn steps(path: &str) -> Vec<String> {
    path.split('/').skip(1).map(|step| step.replace("~1", "/")).collect()
}

/// Takes out what is at a path, in an object or in a set of its fields.
fn remove(value: &mut Value, path: &[String], is_set: bool) {
    let Some((step, rest)) = path.split_first() else { return };
    let name = if is_set { format!("f:{step}") } else { step.clone() };
    match (value, &**step) {
        (Value::Array(items), "*") => items.iter_mut().for_each(|item| remove(item, rest, is_set)),
        (Value::Object(fields), "*") if is_set => {
            let items = fields.iter_mut().filter(|(step, _)| step.starts_with("k:"));
            items.for_each(|(_, item)| remove(item, rest, is_set));
        }
        (Value::Object(fields), _) if rest.is_empty() => drop(fields.remove(&name)),
        (Value::Object(fields), _) => {
            if let Some(below) = fields.get_mut(&name) {
                remove(below, rest, is_set);
            }
        }
        _ => {}
    }
}

/// Whether a map is held besides what is in it is not compared: it depends on types that are in no schema.
fn drop_dots(fields: &mut Value) {
    let Some(fields) = fields.as_object_mut() else { return };
    fields.remove(".");
    fields.values_mut().for_each(drop_dots);
}

fn drop_empty(value: &mut Value) {
    let is_empty = |value: &Value| match value {
        Value::Object(fields) => fields.is_empty(),
        Value::Array(items) => items.is_empty(),
        _ => false,
    };
    if let Some(fields) = value.as_object_mut() {
        fields.values_mut().for_each(drop_empty);
        fields.retain(|_, value| !is_empty(value));
    }
}

/// In what the objects differ, a line for each field.
pub(crate) fn difference(memory: &Seen, server: &Seen) -> Option<String> {
    let mut lines = Vec::new();
    for (number, (memory, server)) in memory.iter().zip(server).enumerate() {
        collect(&format!("object {number}"), memory, server, &mut lines);
    }
    (!lines.is_empty()).then(|| lines.join("\n"))
}

fn collect(path: &str, memory: &Value, server: &Value, lines: &mut Vec<String>) {
    match (memory, server) {
        (memory, server) if memory == server => {}
        (Value::Object(left), Value::Object(right)) => {
            let names = left.keys().chain(right.keys().filter(|name| !left.contains_key(*name)));
            let of = |fields: &Map<String, Value>, name: &String| fields.get(name).cloned().unwrap_or_default();
            names.for_each(|name| collect(&format!("{path} {name}"), &of(left, name), &of(right, name), lines));
        }
        _ => lines.push(format!("{path}: in memory {memory}, at the API server {server}")),
    }
}
