//! A cluster in memory: what `render` and fast tests run the pipeline over.
//!
//! It does what the pipeline relies on, checked against a real API server by the integration tests: server-side apply with a
//! set of fields per manager, conflicts, uids, resource versions, generations, preconditions, finalizers, removal of what has
//! lost its owners. It simplifies: nothing is defaulted or validated, Deployments are available at once.

mod kinds;
mod merge;
mod rules;
mod stored;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::{
    action::{Action, Apply, Precondition, WriteError, Written},
    claim::claimed,
    fields::hex,
    inheritance::inherited,
    native::{Native, Summary},
    object::{GroupVersionKind, NamespacedName, Object, ObjectKey, Resource},
    ownership::{Makes, is_of_author},
    ports::{Observed, Pending, Writes},
    schema::KnownFields,
};
pub use kinds::{built_in_kinds, built_in_resources};
use rules::Rules;
use stored::{Refusal, Stored};

/// A cluster in memory.
pub struct MemoryCluster {
    resources: Vec<Resource>,
    created_at: String,
    known_fields: Arc<KnownFields>,
    /// What native reconcilers make, and keep of what.
    makes: Makes,
    summaries: Vec<Summary>,
    objects: Mutex<Objects>,
}

#[derive(Clone, Default)]
struct Objects {
    stored: BTreeMap<ObjectKey, Stored>,
    version: u64,
    /// How often objects of the same kind and name were there before.
    earlier: BTreeMap<ObjectKey, u32>,
    /// What was written since the last look, in order.
    written: Vec<(ObjectKey, String)>,
    /// The field that was changed last by a manager that had applied it before.
    changed: Option<String>,
    /// Addresses of the workers that schedulers were asked to retire.
    retired: BTreeSet<String>,
}

impl MemoryCluster {
    /// An empty cluster that serves these kinds. `created_at` is the time of all objects, RFC 3339.
    pub fn new(resources: Vec<Resource>, created_at: &str) -> Self {
        let created_at = created_at.to_owned();
        Self {
            resources,
            created_at,
            known_fields: Arc::default(),
            makes: |_, _| false,
            summaries: Vec::new(),
            objects: Mutex::default(),
        }
    }

    /// The same, for an operator with these reconcilers.
    #[must_use]
    pub fn that_serves<N: Native>(self) -> Self {
        Self { makes: N::makes, summaries: N::summaries(), ..self }
    }

    /// The same, as a server that says which fields it knows.
    #[must_use]
    pub fn that_knows(self, fields: KnownFields) -> Self {
        Self { known_fields: Arc::new(fields), ..self }
    }

    /// Puts an object in as a person would create it.
    ///
    /// # Errors
    /// When it is no object of a kind that is served.
    pub fn create(&self, mut object: Value) -> Result<ObjectKey, String> {
        let kind = object_kind(&object);
        let resource = self
            .served(&kind)
            .ok_or_else(|| format!("the kind {kind} is not known; give its CustomResourceDefinition too"))?;
        let name =
            object.pointer("/metadata/name").and_then(Value::as_str).ok_or("metadata.name is missing")?.to_owned();
        let namespace = object.pointer("/metadata/namespace").and_then(Value::as_str).unwrap_or("default").to_owned();
        let namespace = resource.namespaced.then_some(namespace);
        if let Some(namespace) = &namespace {
            object["metadata"]["namespace"] = json!(namespace);
        }
        // Whatever version is given, an object is stored once.
        let key = ObjectKey { kind: resource.kind, at: NamespacedName { namespace, name } };
        let mut objects = self.lock();
        if objects.stored.contains_key(&key) {
            return Err(format!("{key} exists already"));
        }
        let mut stored = Stored::new(&key)?;
        stored.is_given = true;
        stored.update(Rules::of(&key.kind), &Value::Null, &object);
        self.put(&mut objects, &key, stored)?;
        Ok(key)
    }

    /// All objects, ordered by kind and name.
    pub fn objects(&self) -> Vec<Arc<Object>> {
        self.lock().stored.values().map(|stored| Arc::clone(&stored.seen)).collect()
    }

    /// Remembers that schedulers were asked to retire these workers.
    pub(crate) fn retire(&self, addresses: impl IntoIterator<Item = String>) {
        self.lock().retired.extend(addresses);
    }

    /// Whether a scheduler was asked to retire the worker at this address.
    pub(crate) fn is_retired(&self, address: &str) -> bool {
        self.lock().retired.contains(address)
    }

    /// The resource version of the last change.
    pub fn version(&self) -> u64 {
        self.lock().version
    }

    /// Managers that applied to an object, in order.
    pub fn authors(&self, key: &ObjectKey) -> Vec<String> {
        let objects = self.lock();
        let stored = objects.stored.get(key);
        stored.into_iter().flat_map(Stored::appliers).map(str::to_owned).collect()
    }

    /// Whether a person gave the object, and no handler made it.
    pub fn was_given(&self, key: &ObjectKey) -> bool {
        self.lock().stored.get(key).is_some_and(|stored| stored.is_given)
    }

    /// What was written since this was last asked: object and manager.
    pub fn take_written(&self) -> Vec<(ObjectKey, String)> {
        std::mem::take(&mut self.lock().written)
    }

    /// The field that a manager changed last after it had applied it before: what keeps changing if there is no end.
    pub fn last_changed_field(&self) -> Option<String> {
        self.lock().changed.clone()
    }

    /// Deletes an object as a person would. Finalizers keep it.
    pub fn delete(&self, key: &ObjectKey) {
        self.remove(&mut self.lock(), key);
    }

    /// Changes an object as a person would: what they change is theirs from then on, as with an update. False: there is no such
    /// object, or the API server would refuse the change.
    pub fn edit(&self, key: &ObjectKey, change: impl FnOnce(&mut Value)) -> bool {
        let mut objects = self.lock();
        let Some(mut stored) = objects.stored.get(key).cloned() else { return false };
        let before = stored.seen.to_value();
        let mut after = before.clone();
        change(&mut after);
        if !stored.update(Rules::of(&key.kind), &before, &after) {
            return false;
        }
        stored.deletion = after["metadata"]["deletionTimestamp"].as_str().map(str::to_owned);
        self.put(&mut objects, key, stored).is_ok()
    }

    /// Removes what a manager applied to an object.
    pub fn forget_apply(&self, key: &ObjectKey, manager: &str) {
        let mut objects = self.lock();
        let Some(mut stored) = objects.stored.get(key).cloned() else { return };
        stored.forget(Rules::of(&key.kind), manager);
        let _ = self.put(&mut objects, key, stored);
    }

    fn lock(&self) -> MutexGuard<'_, Objects> {
        self.objects.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn served(&self, kind: &GroupVersionKind) -> Option<Resource> {
        self.resources.iter().find(|resource| resource.kind.same_kind(kind)).cloned()
    }

    fn apply(&self, apply: &Apply) -> Result<Written, WriteError> {
        let mut objects = self.lock();
        // Whatever version is applied, an object is stored once.
        let kind = self.served(&apply.object.kind).map_or_else(|| apply.object.kind.clone(), |resource| resource.kind);
        let key = &ObjectKey { kind, at: apply.object.at.clone() };
        let stale = |message: &str| WriteError::Stale { object: key.clone(), message: message.to_owned() };
        let live = objects.stored.get(key).map(|stored| Arc::clone(&stored.seen));
        match (&apply.precondition, &live) {
            (Precondition::Absent, Some(live)) if is_of_author(apply, live, self.makes) => {
                return Err(stale("it exists already"));
            }
            (Precondition::Absent, Some(_)) => {
                return Err(WriteError::Foreign { object: key.clone(), owner: "somebody else".to_owned() });
            }
            (Precondition::Uid(_) | Precondition::Unchanged { .. }, None) => return Err(stale("no existing object")),
            _ => {}
        }
        let before = objects.stored.get(key).cloned();
        let mut stored = match &before {
            Some(before) => before.clone(),
            None => Stored::new(key).map_err(|message| refused(key, message))?,
        };
        // As the API server, which tells of conflicts first and of what is invalid last.
        let outcome = stored.apply(Rules::of(&key.kind), apply);
        if let Err(Refusal::Conflict(conflicts)) = outcome {
            return Err(WriteError::Conflict { object: key.clone(), conflicts });
        }
        if let Some(live) = &live {
            check(&apply.precondition, live).map_err(stale)?;
        }
        match outcome {
            Ok(()) => {}
            Err(Refusal::SecondController) => {
                return Err(WriteError::Foreign { object: key.clone(), owner: "another controller".to_owned() });
            }
            Err(Refusal::Conflict(conflicts)) => return Err(WriteError::Conflict { object: key.clone(), conflicts }),
            Err(Refusal::Invalid(message)) => return Err(refused(key, message)),
        }
        let had_applied = before.as_ref().is_some_and(|before| before.appliers().any(|name| name == apply.manager));
        let changed = before.as_ref().and_then(|before| stored.changed_since(before)).filter(|_| had_applied);
        let written = self.put(&mut objects, key, stored).map_err(|message| refused(key, message))?;
        if written.is_news {
            objects.written.push((key.clone(), apply.manager.clone()));
        }
        if let Some(path) = changed {
            objects.changed = Some(format!("{key}: {path}, applied by {}", apply.manager));
        }
        Ok(Written::Applied(written.seen))
    }

    /// Leaves everything as it was.
    fn dry_run(&self, apply: &Apply) -> Result<Written, WriteError> {
        let before = self.lock().clone();
        let result = self.apply(apply);
        *self.lock() = before;
        result
    }

    /// Fields of an object become a manager's.
    fn hand_over(
        &self,
        key: &ObjectKey,
        uid: &str,
        manager: &str,
        change: impl FnOnce(&Value) -> Option<Value>,
    ) -> Result<Option<Written>, WriteError> {
        let mut objects = self.lock();
        let Some(live) = objects.stored.get(key) else { return Ok(Some(Written::Deleted)) };
        let mut stored = live.clone();
        if stored.seen.metadata.uid != uid {
            return Err(WriteError::Stale { object: key.clone(), message: "uid mismatch".to_owned() });
        }
        if !stored.hand_over(change) {
            return Ok(None);
        }
        let written = self.put(&mut objects, key, stored).map_err(|message| refused(key, message))?;
        objects.written.push((key.clone(), manager.to_owned()));
        Ok(Some(Written::Applied(written.seen)))
    }

    fn remove_finalizer(
        &self,
        key: &ObjectKey,
        precondition: &Precondition,
        position: usize,
        annotations: &BTreeMap<String, String>,
    ) -> Result<Written, WriteError> {
        let stale = |message: &str| WriteError::Stale { object: key.clone(), message: message.to_owned() };
        let mut objects = self.lock();
        let Some(live) = objects.stored.get(key) else { return Ok(Written::Deleted) };
        let mut stored = live.clone();
        check(precondition, &stored.seen).map_err(stale)?;
        let before = stored.seen.to_value();
        let mut after = before.clone();
        match after["metadata"]["finalizers"].as_array_mut() {
            Some(finalizers) if position < finalizers.len() => drop(finalizers.remove(position)),
            _ => return Err(stale("there is no such finalizer")),
        }
        after["metadata"]["annotations"] = json!(annotations);
        stored.update(Rules::of(&key.kind), &before, &after);
        let written = self.put(&mut objects, key, stored).map_err(|message| refused(key, message))?;
        objects.written.push((key.clone(), "remove-finalizer".to_owned()));
        Ok(if written.is_gone { Written::Deleted } else { Written::Applied(written.seen) })
    }

    /// Stores an object, if anything of it is new. What is being deleted goes with its last finalizer.
    fn put(&self, objects: &mut Objects, key: &ObjectKey, mut stored: Stored) -> Result<Put, String> {
        let before = objects.stored.get(key);
        if let Some(before) = before.filter(|before| before.is_same(&stored)) {
            return Ok(Put { seen: Arc::clone(&before.seen), is_news: false, is_gone: false });
        }
        let had_finalizers = before.is_some_and(|before| !before.finalizers().is_empty());
        let is_gone = stored.deletion.is_some() && had_finalizers && stored.finalizers().is_empty();
        let earlier = objects.earlier.get(key).copied().unwrap_or(0);
        stored.refresh(key, &uid(key, earlier), objects.version + 1, &self.created_at)?;
        objects.version += 1;
        let seen = Arc::clone(&stored.seen);
        objects.stored.insert(key.clone(), stored);
        if is_gone {
            self.end(objects, key);
        }
        Ok(Put { seen, is_news: true, is_gone })
    }

    /// Deletes an object, unless finalizers keep it.
    fn remove(&self, objects: &mut Objects, key: &ObjectKey) {
        let Some(mut stored) = objects.stored.get(key).cloned() else { return };
        if stored.finalizers().is_empty() {
            return self.end(objects, key);
        }
        stored.begin_deletion(&self.created_at);
        let _ = self.put(objects, key, stored);
    }

    /// An object is gone, and with it what nobody else owns.
    fn end(&self, objects: &mut Objects, key: &ObjectKey) {
        let Some(gone) = objects.stored.remove(key) else { return };
        objects.version += 1;
        *objects.earlier.entry(key.clone()).or_default() += 1;
        let uid = gone.seen.metadata.uid.clone();
        let is_owned = |stored: &Stored| stored.seen.metadata.owner_references.iter().any(|owner| owner.uid == uid);
        let owned = objects.stored.iter().filter(|(_, stored)| is_owned(stored));
        let owned: Vec<_> = owned.map(|(key, _)| key.clone()).collect();
        for key in owned {
            let Some(mut stored) = objects.stored.get(&key).cloned() else { continue };
            let is_there = |uid: &str| objects.stored.values().any(|stored| stored.seen.metadata.uid == uid);
            if !stored.seen.metadata.owner_references.iter().any(|owner| is_there(&owner.uid)) {
                self.remove(objects, &key);
                continue;
            }
            let before = stored.seen.to_value();
            let mut after = before.clone();
            if let Some(owners) = after["metadata"]["ownerReferences"].as_array_mut() {
                owners.retain(|owner| owner["uid"] != *uid);
            }
            stored.update(Rules::of(&key.kind), &before, &after);
            let _ = self.put(objects, &key, stored);
        }
    }
}

/// What became of an object that was to be stored.
struct Put {
    seen: Arc<Object>,
    is_news: bool,
    is_gone: bool,
}

/// Whether an object is the one that is meant; if not, in what it is another.
fn check(precondition: &Precondition, live: &Object) -> Result<(), &'static str> {
    match precondition {
        Precondition::Uid(uid) | Precondition::Unchanged { uid, .. } if live.metadata.uid != *uid => {
            Err("uid mismatch")
        }
        Precondition::Unchanged { resource_version, .. } if live.metadata.resource_version != *resource_version => {
            Err("the object has been modified")
        }
        _ => Ok(()),
    }
}

fn refused(key: &ObjectKey, message: String) -> WriteError {
    WriteError::Refused { object: key.clone(), code: 422, reason: "Invalid".to_owned(), message, fields: Vec::new() }
}

fn object_kind(object: &Value) -> GroupVersionKind {
    let text = |field: &str| object.get(field).and_then(Value::as_str).unwrap_or_default();
    GroupVersionKind::from_api_version(text("apiVersion"), text("kind"))
}

/// The same object has the same uid in each run; one that is made anew has another than those before it.
fn uid(key: &ObjectKey, earlier: u32) -> String {
    let seed = if earlier == 0 { key.to_string() } else { format!("{key} {earlier}") };
    let digest = hex(&Sha256::digest(seed)[..16]);
    format!("{}-{}-{}-{}-{}", &digest[..8], &digest[8..12], &digest[12..16], &digest[16..20], &digest[20..])
}

/// What Kubernetes' own controllers would say of an object after a while.
fn simulate_controllers(kind: &GroupVersionKind, object: &mut Value) {
    if kind.group == "apps" && kind.kind == "Deployment" {
        let replicas = object.pointer("/spec/replicas").cloned().unwrap_or_else(|| json!(1));
        object["status"] = json!({
            "observedGeneration": object["metadata"]["generation"],
            "replicas": replicas, "updatedReplicas": replicas, "readyReplicas": replicas, "availableReplicas": replicas,
        });
    }
}

impl Observed for MemoryCluster {
    fn get(&self, kind: &GroupVersionKind, at: &NamespacedName) -> Option<Arc<Object>> {
        let key = ObjectKey { kind: self.served(kind)?.kind, at: at.clone() };
        self.lock().stored.get(&key).map(|stored| Arc::clone(&stored.seen))
    }

    fn controlled_by(&self, kind: &GroupVersionKind, uid: &str) -> Vec<Arc<Object>> {
        let objects = self.lock();
        let stored = objects.stored.values().map(|stored| &stored.seen);
        if let Some(summary) = self.summaries.iter().find(|summary| summary.kind == *kind) {
            let whole = stored.filter(|object| object.kind.same_kind(&summary.of));
            let summaries = whole.map(|object| Arc::new((summary.make)(Arc::new(kind.clone()), object)));
            return summaries.filter(|summary| summary.is_controlled_by(uid)).collect();
        }
        stored.filter(|object| object.kind.same_kind(kind) && object.is_controlled_by(uid)).cloned().collect()
    }

    fn departed(&self, _kind: &GroupVersionKind, _uid: &str) -> Vec<Arc<Object>> {
        Vec::new()
    }

    fn resource(&self, kind: &GroupVersionKind) -> Option<Resource> {
        self.served(kind)
    }

    fn has_status(&self, _kind: &GroupVersionKind) -> bool {
        true
    }

    fn known_fields(&self) -> Arc<KnownFields> {
        Arc::clone(&self.known_fields)
    }
}

impl Writes for MemoryCluster {
    fn write(&self, action: Action) -> Pending<'_, Result<Written, WriteError>> {
        let result = match &action {
            Action::Apply(apply) => self.apply(apply),
            Action::DryRun(apply) => self.dry_run(apply),
            Action::Inherit { object, uid, controller, manager, .. } => {
                let stale = || WriteError::Stale { object: object.clone(), message: "nothing to inherit".to_owned() };
                let inherited = self.hand_over(object, uid, manager, |live| inherited(live, manager, controller));
                inherited.and_then(|inherited| inherited.ok_or_else(stale))
            }
            Action::Displace { apply, parts } => {
                let (object, uid, manager) = (&apply.object, apply.precondition.uid(), apply.manager.as_str());
                let claimed = uid.map(|uid| self.hand_over(object, uid, manager, |live| claimed(live, manager, parts)));
                claimed.transpose().and_then(|_| self.apply(apply))
            }
            Action::Delete { object, uid, resource_version, .. } => {
                let mut objects = self.lock();
                let live = objects.stored.get(object).map(|stored| &stored.seen.metadata);
                let live = live.filter(|live| live.uid == *uid).map(|live| live.resource_version.clone());
                match (live, resource_version) {
                    (Some(live), Some(seen)) if live != *seen => {
                        let message = "the object has been modified".to_owned();
                        Err(WriteError::Stale { object: object.clone(), message })
                    }
                    (Some(_), _) => {
                        self.remove(&mut objects, object);
                        objects.written.push((object.clone(), "delete".to_owned()));
                        Ok(Written::Deleted)
                    }
                    (None, _) => Ok(Written::Deleted),
                }
            }
            Action::RemoveFinalizer { object, uid, resource_version, position, annotations, .. } => {
                let (uid, resource_version) = (uid.clone(), resource_version.clone());
                let precondition = Precondition::Unchanged { uid, resource_version };
                self.remove_finalizer(object, &precondition, *position, annotations)
            }
        };
        Box::pin(std::future::ready(result))
    }

    fn is_gone(&self, _resource: Resource, object: ObjectKey, uid: String) -> Pending<'_, Result<bool, WriteError>> {
        let gone = self.lock().stored.get(&object).is_none_or(|stored| stored.seen.metadata.uid != uid);
        Box::pin(std::future::ready(Ok(gone)))
    }
}
