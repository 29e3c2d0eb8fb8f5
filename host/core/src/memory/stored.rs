//! One object as it is stored: what it says, and who holds which of its fields. Pure.

use std::sync::Arc;

use serde_json::{Map, Value, json};

use crate::{
    action::{Apply, ApplyTarget},
    conflict::{Conflict, bounded},
    fields::{Fields, fingerprint},
    object::{Object, ObjectKey},
};

use super::{
    merge::{first_difference, substance},
    rules::Rules,
};

/// The field manager of people.
const GIVEN: &str = "given";

/// Whose is what nobody held when somebody applied first.
const BEFORE_FIRST_APPLY: &str = "before-first-apply";

#[derive(Clone)]
pub(super) struct Stored {
    /// Whether a person made it.
    pub(super) is_given: bool,
    pub(super) seen: Arc<Object>,
    /// Without its identity and what the server writes of it.
    live: Value,
    /// In the order in which they came.
    managers: Vec<Manager>,
    generation: i64,
    /// Fingerprint of what has this generation.
    counted: Option<u64>,
    /// Since when it is being deleted.
    pub(super) deletion: Option<String>,
}

#[derive(Clone, PartialEq)]
struct Manager {
    name: String,
    operation: String,
    subresource: String,
    held: Fields,
}

impl Manager {
    fn is(&self, name: &str, operation: &str, subresource: &str) -> bool {
        (&*self.name, &*self.operation, &*self.subresource) == (name, operation, subresource)
    }

    fn to_json(&self) -> Value {
        let Self { name, operation, subresource, held } = self;
        json!({"manager": name, "operation": operation, "subresource": subresource, "fieldsV1": held.to_json()})
    }

    fn from_json(entry: &Value) -> Self {
        let text = |name: &str| entry[name].as_str().unwrap_or_default().to_owned();
        let held = Fields::from_json(&entry["fieldsV1"]);
        Self { name: text("manager"), operation: text("operation"), subresource: text("subresource"), held }
    }
}

/// Why an apply is not carried out.
pub(super) enum Refusal {
    /// Others hold fields with other values.
    Conflict(Vec<Conflict>),
    SecondController,
    Invalid(String),
}

fn subresource(target: ApplyTarget) -> &'static str {
    match target {
        ApplyTarget::Object => "",
        ApplyTarget::Status => "status",
    }
}

impl Stored {
    /// An object without any field.
    pub(super) fn new(key: &ObjectKey) -> Result<Self, String> {
        let live = Self::nothing(Rules::of(&key.kind));
        let object =
            json!({"apiVersion": key.kind.api_version(), "kind": key.kind.kind, "metadata": {"name": key.at.name}});
        let seen = Object::from_value(&object).map_err(|error| error.to_string())?;
        Ok(Self {
            is_given: false,
            seen: Arc::new(seen),
            live,
            managers: Vec::new(),
            generation: 0,
            counted: None,
            deletion: None,
        })
    }

    /// Whether nothing is different between two states.
    pub(super) fn is_same(&self, other: &Self) -> bool {
        self.live == other.live && self.managers == other.managers && self.deletion == other.deletion
    }

    pub(super) fn finalizers(&self) -> &[Value] {
        self.live["metadata"]["finalizers"].as_array().map(Vec::as_slice).unwrap_or_default()
    }

    /// Who applied it.
    pub(super) fn appliers(&self) -> impl Iterator<Item = &str> {
        self.managers.iter().filter(|manager| manager.operation == "Apply").map(|manager| &*manager.name)
    }

    /// Lays over it what a manager applies, and takes out what the manager applied before and nobody holds any more.
    pub(super) fn apply(&mut self, rules: Rules<'_>, apply: &Apply) -> Result<(), Refusal> {
        let subresource = subresource(apply.target);
        let body = substance(&apply.body);
        let mut wanted = rules.fields_of("", "", &body);
        // Its metadata are nobody's field.
        if body["metadata"].as_object().is_none_or(Map::is_empty) {
            wanted.take(&["f:metadata"]);
        }
        if self.managers.is_empty() {
            self.take(rules, BEFORE_FIRST_APPLY, &Self::nothing(rules), &self.live.clone());
        }
        let is_own = |manager: &Manager| manager.is(&apply.manager, "Apply", subresource);
        let (before, held) = self.held_by(is_own);
        let mut live = self.live.clone();
        rules.merge("", "", &mut live, &body);
        let mut kept = held;
        kept.add(&wanted);
        let emptied = rules.prune(("", ""), &mut live, &before, &kept);
        complete(rules, &mut live);
        let changes = rules.compare("", "", Some(&self.live), Some(&live));
        let mut conflicts = Vec::new();
        for other in self.managers.iter_mut().filter(|manager| !is_own(manager)) {
            let taken = other.held.common(&changes.set);
            conflicts.extend(
                taken
                    .paths()
                    .iter()
                    .map(|path| Conflict::new(&apply.object, &apply.body, path, &other.name, &other.subresource)),
            );
            other.held.subtract(&taken);
            other.held.subtract(&changes.removed);
        }
        if !apply.force && !conflicts.is_empty() {
            return Err(Refusal::Conflict(bounded(conflicts)));
        }
        if has_two_controllers(&live) {
            return Err(Refusal::SecondController);
        }
        let is_refused = |path: &String| !rules.is_built_in() && !path.starts_with("metadata.");
        if let Some(path) = emptied.filter(is_refused) {
            return Err(Refusal::Invalid(format!("{path} in body must be of type object: \"null\"")));
        }
        if self.deletion.is_some() && has_new_finalizers(&self.live, &live) {
            let message = "metadata.finalizers: no new finalizers can be added if the object is being deleted";
            return Err(Refusal::Invalid(message.to_owned()));
        }
        self.set(rules, live);
        match self.managers.iter_mut().find(|manager| is_own(manager)) {
            Some(own) => own.held = wanted,
            None => self.managers.push(Manager {
                name: apply.manager.clone(),
                operation: "Apply".to_owned(),
                subresource: subresource.to_owned(),
                held: wanted,
            }),
        }
        self.managers.retain(|manager| !manager.held.is_empty());
        Ok(())
    }

    /// What a manager holds, and what all others do.
    fn held_by(&self, is_own: impl Fn(&Manager) -> bool) -> (Fields, Fields) {
        let (mut own, mut others) = (Fields::default(), Fields::default());
        for manager in &self.managers {
            let held = if is_own(manager) { &mut own } else { &mut others };
            held.add(&manager.held);
        }
        (own, others)
    }

    /// As if a manager had never applied it.
    pub(super) fn forget(&mut self, rules: Rules<'_>, manager: &str) {
        let is_own = |other: &Manager| other.name == manager && other.operation == "Apply";
        let (before, held) = self.held_by(is_own);
        let mut live = self.live.clone();
        let _ = rules.prune(("", ""), &mut live, &before, &held);
        self.managers.retain(|other| !is_own(other));
        self.set(rules, live);
    }

    /// A person changes it: what they change is theirs from then on. False: the API server refuses it.
    pub(super) fn update(&mut self, rules: Rules<'_>, before: &Value, after: &Value) -> bool {
        let (before, after) = (substance(before), substance(after));
        let mut live = self.live.clone();
        put_changes(&mut live, &before, &after);
        rules.drop_empty(&mut live);
        complete(rules, &mut live);
        if self.deletion.is_some() && has_new_finalizers(&self.live, &live) {
            return false;
        }
        // Where nobody holds anything, nothing is noted before the first apply.
        if !self.managers.is_empty() || self.generation == 0 {
            let before = std::mem::take(&mut self.live);
            self.take(rules, GIVEN, &before, &live);
        }
        self.set(rules, live);
        true
    }

    /// What is different between two states becomes that of who writes it by a plain request.
    fn take(&mut self, rules: Rules<'_>, name: &str, before: &Value, after: &Value) {
        let changes = rules.compare("", "", Some(before), Some(after));
        if !self.managers.iter().any(|manager| manager.is(name, "Update", "")) {
            let (name, operation) = (name.to_owned(), "Update".to_owned());
            self.managers.push(Manager { name, operation, subresource: String::new(), held: Fields::default() });
        }
        for manager in &mut self.managers {
            manager.held.subtract(&changes.removed);
            if manager.is(name, "Update", "") {
                manager.held.add(&changes.set);
            } else {
                manager.held.subtract(&changes.set);
            }
        }
        self.managers.retain(|manager| !manager.held.is_empty());
    }

    fn nothing(rules: Rules<'_>) -> Value {
        let mut nothing = json!({});
        complete(rules, &mut nothing);
        nothing
    }

    fn set(&mut self, rules: Rules<'_>, mut live: Value) {
        rules.drop_empty(&mut live);
        complete(rules, &mut live);
        self.live = live;
    }

    /// Changes who holds what; false if nothing is to be changed.
    pub(super) fn hand_over(&mut self, change: impl FnOnce(&Value) -> Option<Value>) -> bool {
        let mut object = self.seen.to_value();
        object["metadata"]["managedFields"] = self.managed_fields();
        let Some(entries) = change(&object) else { return false };
        self.managers = entries.as_array().into_iter().flatten().map(Manager::from_json).collect();
        self.managers.retain(|manager| !manager.held.is_empty());
        true
    }

    fn managed_fields(&self) -> Value {
        self.managers.iter().map(Manager::to_json).collect()
    }

    /// The field in which it differs from an earlier state.
    pub(super) fn changed_since(&self, before: &Self) -> Option<String> {
        first_difference(&before.live, &self.live)
    }

    /// Begins to delete it, or does nothing if that has begun.
    pub(super) fn begin_deletion(&mut self, now: &str) {
        if self.deletion.is_none() {
            self.deletion = Some(now.to_owned());
            self.generation += 1;
        }
    }

    /// Computes what is seen of it.
    pub(super) fn refresh(&mut self, key: &ObjectKey, uid: &str, version: u64, created_at: &str) -> Result<(), String> {
        let rules = Rules::of(&key.kind);
        let annotations = rules.counts_annotations().then(|| &self.live["metadata"]["annotations"]);
        let counted = self.live.get("spec").map(|spec| fingerprint(&json!([spec, annotations])));
        if self.generation == 0 || self.counted != counted {
            self.generation += 1;
            self.counted = counted;
        }
        let mut object = self.live.clone();
        object["apiVersion"] = json!(key.kind.api_version());
        object["kind"] = json!(key.kind.kind);
        let metadata = &mut object["metadata"];
        metadata["name"] = json!(key.at.name);
        if let Some(namespace) = &key.at.namespace {
            metadata["namespace"] = json!(namespace);
        }
        metadata["uid"] = json!(uid);
        metadata["resourceVersion"] = json!(version.to_string());
        if rules.has_generation() {
            metadata["generation"] = json!(self.generation);
        }
        metadata["creationTimestamp"] = json!(created_at);
        if let Some(since) = &self.deletion {
            metadata["deletionTimestamp"] = json!(since);
        }
        metadata["managedFields"] = self.managed_fields();
        if let Some(object) = object.as_object_mut().filter(|_| rules.is_built_in()) {
            object.retain(|name, value| name == "metadata" || !value.as_object().is_some_and(Map::is_empty));
        }
        super::simulate_controllers(&key.kind, &mut object);
        self.seen = Arc::new(Object::from_value(&object).map_err(|error| error.to_string())?);
        Ok(())
    }
}

/// What is never absent, so that nobody holds it: metadata, and two fields of Kubernetes' own types.
fn complete(rules: Rules<'_>, object: &mut Value) {
    let fields: &[&str] = if rules.is_built_in() { &["metadata", "spec", "status"] } else { &["metadata"] };
    for name in fields {
        if object[*name].is_null() {
            object[*name] = json!({});
        }
    }
}

/// A change between two states, made in a third.
fn put_changes(into: &mut Value, before: &Value, after: &Value) {
    let (Some(old), Some(new)) = (before.as_object(), after.as_object()) else { return into.clone_from(after) };
    if !into.is_object() {
        *into = json!({});
    }
    let Some(fields) = into.as_object_mut() else { return };
    fields.retain(|name, _| new.contains_key(name) || !old.contains_key(name));
    for (name, value) in new.iter().filter(|(name, value)| old.get(*name) != Some(*value)) {
        put_changes(fields.entry(name).or_insert(Value::Null), old.get(name).unwrap_or(&Value::Null), value);
    }
}

fn has_two_controllers(object: &Value) -> bool {
    let owners = object["metadata"]["ownerReferences"].as_array().into_iter().flatten();
    owners.filter(|owner| owner["controller"] == true).count() > 1
}

fn has_new_finalizers(before: &Value, after: &Value) -> bool {
    let of = |object: &Value| object["metadata"]["finalizers"].as_array().cloned().unwrap_or_default();
    let old = of(before);
    of(after).iter().any(|finalizer| !old.contains(finalizer))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        fields::{contains, holds_exactly},
        object::{GroupVersionKind, NamespacedName, Resource},
    };

    /// The two are written apart: what is recorded here, and what is looked for there.
    #[test]
    fn who_applies_holds_exactly_what_was_applied() {
        let kind = GroupVersionKind::new("apps", "v1", "Deployment");
        let object = ObjectKey { kind: kind.clone(), at: NamespacedName::new("n", "a") };
        let mut wanted = json!({
            "apiVersion": "apps/v1", "kind": "Deployment",
            "metadata": {"name": "a", "labels": {"a": "1"}, "ownerReferences": [{"uid": "u", "controller": true}]},
            "spec": {"replicas": 1, "template": {"metadata": {"annotations": {}}, "spec": {"containers": [
                {"name": "c", "image": "i", "args": ["a"], "ports": [{"containerPort": 8786}], "env": []},
            ]}}},
        });
        let mut stored = Stored::new(&object).unwrap();
        for replicas in [1, 2] {
            wanted["spec"]["replicas"] = json!(replicas);
            let apply = Apply {
                resource: Resource { kind: kind.clone(), plural: "deployments".to_owned(), namespaced: true },
                object: object.clone(),
                target: ApplyTarget::Object,
                manager: "m".to_owned(),
                precondition: crate::action::Precondition::Absent,
                body: wanted.clone(),
                force: false,
            };
            assert!(stored.apply(Rules::of(&kind), &apply).is_ok());
            let entries = stored.managed_fields();
            assert!(holds_exactly(&entries[0]["fieldsV1"], &wanted), "{entries}");
            assert!(contains(&stored.live, &substance(&wanted)), "{}", stored.live);
        }
    }
}
