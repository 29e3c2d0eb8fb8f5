//! A cluster in memory: what `render` and fast tests run the pipeline over.
//!
//! It does what the pipeline relies on, checked against a real API server by the integration tests: server-side apply with a
//! set of fields per manager, uids, resource versions, preconditions, removal of children. It simplifies: nothing is
//! defaulted, lists of custom kinds are replaced as a whole, Deployments are available at once, conflicts are for force only.

mod kinds;
mod layers;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::{
    action::{Action, Apply, ApplyTarget, Precondition, WriteError, Written},
    dask::{CLUSTER_NAME_LABEL, COMPONENT_LABEL, pod_kind, pod_summary_kind, summary},
    fields::{fields_of, fingerprint, held_part, hex},
    inheritance::inherited,
    object::{GroupVersionKind, NamespacedName, Object, ObjectKey, Resource},
    ownership::is_of_author,
    ports::{Observed, Pending, Schedulers, Writes},
    scheduler::{Left, Scheduler, SchedulerCall, SchedulerError, SchedulerReply, SchedulerWorker},
    schema::KnownFields,
};
pub use kinds::{built_in_kinds, built_in_resources};
use layers::{first_difference, first_null, give, lay_over, take_changed, take_conflicts, take_held};

/// A cluster in memory.
pub struct MemoryCluster {
    resources: Vec<Resource>,
    created_at: String,
    known_fields: Arc<KnownFields>,
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
    /// Addresses of the workers that the schedulers were asked to retire.
    retired: BTreeSet<String>,
}

#[derive(Clone)]
struct Stored {
    /// As a person gave it, before anything was applied; empty for what handlers made.
    given: Value,
    /// The last apply of each manager, by manager and target, in the order of their first apply.
    applied: Vec<(String, ApplyTarget, Value)>,
    seen: Arc<Object>,
    generation: i64,
    /// Fingerprint of the specification that has this generation.
    spec: Option<u64>,
}

impl Stored {
    fn new(given: Value, seen: Object) -> Self {
        Self { given, applied: Vec::new(), seen: Arc::new(seen), generation: 0, spec: None }
    }
}

impl MemoryCluster {
    /// An empty cluster that serves these kinds. `created_at` is the time of all objects, RFC 3339.
    pub fn new(resources: Vec<Resource>, created_at: &str) -> Self {
        let created_at = created_at.to_owned();
        Self { resources, created_at, known_fields: Arc::default(), objects: Mutex::default() }
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
        let stored = Stored::new(object, placeholder(&key)?);
        objects.stored.insert(key.clone(), stored);
        self.refresh(&mut objects, &key)?;
        Ok(key)
    }

    /// All objects, ordered by kind and name.
    pub fn objects(&self) -> Vec<Arc<Object>> {
        self.lock().stored.values().map(|stored| Arc::clone(&stored.seen)).collect()
    }

    /// The resource version of the last change.
    pub fn version(&self) -> u64 {
        self.lock().version
    }

    /// Managers that applied to an object, in order.
    pub fn authors(&self, key: &ObjectKey) -> Vec<String> {
        let objects = self.lock();
        let stored = objects.stored.get(key);
        stored.into_iter().flat_map(|stored| &stored.applied).map(|(manager, _, _)| manager.clone()).collect()
    }

    /// Whether a person gave the object, and no handler made it.
    pub fn was_given(&self, key: &ObjectKey) -> bool {
        self.lock().stored.get(key).is_some_and(|stored| !stored.given.is_null())
    }

    /// What was written since this was last asked: object and manager.
    pub fn take_written(&self) -> Vec<(ObjectKey, String)> {
        std::mem::take(&mut self.lock().written)
    }

    /// The field that a manager changed last after it had applied it before: what keeps changing if there is no end.
    pub fn last_changed_field(&self) -> Option<String> {
        self.lock().changed.clone()
    }

    /// Deletes an object and what it controls, without a trace.
    pub fn delete(&self, key: &ObjectKey) {
        remove(&mut self.lock(), key);
    }

    /// Changes an object as a person would: what they change is theirs from then on, as with an update.
    pub fn edit(&self, key: &ObjectKey, change: impl FnOnce(&mut Value)) {
        let mut objects = self.lock();
        let Some(stored) = objects.stored.get_mut(key) else { return };
        let before = stored.seen.to_value();
        let mut after = before.clone();
        change(&mut after);
        for (_, _, body) in &mut stored.applied {
            take_changed(body, &before, &after);
        }
        give(&mut stored.given, &before, &after);
        // The edited object can only be one that was decoded before.
        let _ = self.refresh(&mut objects, key);
    }

    /// Removes what a manager applied to an object.
    pub fn forget_apply(&self, key: &ObjectKey, manager: &str) {
        let mut objects = self.lock();
        let Some(stored) = objects.stored.get_mut(key) else { return };
        stored.applied.retain(|(name, _, _)| name != manager);
        let _ = self.refresh(&mut objects, key);
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
        let before = if key.kind.is_built_in() { None } else { objects.stored.get(key).cloned() };
        let version = |live: &Object| live.metadata.resource_version.clone();
        match (&apply.precondition, &live) {
            (Precondition::Absent, None) => {
                let seen = placeholder(key).map_err(|message| refused(key, message))?;
                objects.stored.insert(key.clone(), Stored::new(Value::Null, seen));
            }
            (Precondition::Absent, Some(live)) if is_of_author(apply, live) => return Err(stale("it exists already")),
            (Precondition::Absent, Some(_)) => {
                return Err(WriteError::Foreign { object: key.clone(), owner: "somebody else".to_owned() });
            }
            (Precondition::Uid(uid) | Precondition::Unchanged { uid, .. }, live)
                if live.as_ref().is_none_or(|live| live.metadata.uid != *uid) =>
            {
                return Err(stale("uid mismatch"));
            }
            (Precondition::Unchanged { resource_version, .. }, Some(live)) if version(live) != *resource_version => {
                return Err(stale("the object has been modified"));
            }
            (_, Some(live)) if has_other_controller(apply, live) => {
                return Err(WriteError::Foreign { object: key.clone(), owner: "another controller".to_owned() });
            }
            (Precondition::Uid(_) | Precondition::Unchanged { .. }, _) => {}
        }
        let body = apply.body.clone();
        let Some(stored) = objects.stored.get_mut(key) else { return Err(stale("no existing object")) };
        if apply.force {
            let others = stored.applied.iter_mut().filter(|(manager, _, _)| *manager != apply.manager);
            others.for_each(|(_, _, theirs)| take_conflicts(theirs, &body));
        }
        let mut changed = None;
        match stored
            .applied
            .iter_mut()
            .find(|(manager, target, _)| *manager == apply.manager && *target == apply.target)
        {
            Some((_, _, before)) if *before == body => return Ok(Written::Applied(Arc::clone(&stored.seen))),
            Some((_, _, before)) => {
                changed = first_difference(before, &body);
                *before = body;
            }
            None => stored.applied.push((apply.manager.clone(), apply.target, body)),
        }
        self.refresh(&mut objects, key).map_err(|message| refused(key, message))?;
        let after = objects.stored.get(key).map(|stored| Arc::clone(&stored.seen));
        if let (Some(before), Some(after)) = (before, after)
            && let Some(path) = first_null(&apply.body, &before.seen.to_value(), &after.to_value())
        {
            objects.stored.insert(key.clone(), before);
            return Err(refused(key, format!("{path} in body must be of type object: \"null\"")));
        }
        objects.written.push((key.clone(), apply.manager.clone()));
        if let Some(path) = changed {
            objects.changed = Some(format!("{key}: {path}, applied by {}", apply.manager));
        }
        let seen = objects.stored.get(key).map(|stored| Arc::clone(&stored.seen));
        seen.map(Written::Applied).ok_or_else(|| stale("no existing object"))
    }

    /// Leaves everything as it was.
    fn dry_run(&self, apply: &Apply) -> Result<Written, WriteError> {
        let before = self.lock().clone();
        let result = self.apply(apply);
        *self.lock() = before;
        result
    }

    /// What was given with the object becomes the last apply of a manager.
    fn inherit(&self, key: &ObjectKey, uid: &str, controller: &str, manager: &str) -> Result<Written, WriteError> {
        let stale = || WriteError::Stale { object: key.clone(), message: "there is nothing to inherit".to_owned() };
        let mut objects = self.lock();
        let stored = objects.stored.get_mut(key).filter(|stored| stored.seen.metadata.uid == uid).ok_or_else(stale)?;
        let mut object = stored.seen.to_value();
        object["metadata"]["managedFields"] = json!([given_entry(&stored.given)]);
        let fields = inherited(&object, manager, controller).ok_or_else(stale)?[0]["fieldsV1"].take();
        let body = held_part(&fields, &stored.given);
        take_held(&mut stored.given, &fields);
        stored.applied.push((manager.to_owned(), ApplyTarget::Object, body));
        self.refresh(&mut objects, key).map_err(|message| refused(key, message))?;
        objects.written.push((key.clone(), manager.to_owned()));
        let seen = objects.stored.get(key).map(|stored| Arc::clone(&stored.seen));
        seen.map(Written::Applied).ok_or_else(stale)
    }

    fn remove_finalizer(
        &self,
        key: &ObjectKey,
        uid: &str,
        position: usize,
        annotations: &BTreeMap<String, String>,
    ) -> Result<Written, WriteError> {
        let stale = || WriteError::Stale { object: key.clone(), message: "uid mismatch".to_owned() };
        let live = |objects: &Objects| objects.stored.get(key).map(|stored| Arc::clone(&stored.seen));
        live(&self.lock()).filter(|live| live.metadata.uid == uid).ok_or_else(stale)?;
        self.edit(key, |object| {
            if let Some(finalizers) = object["metadata"]["finalizers"].as_array_mut() {
                finalizers.remove(position);
            }
            object["metadata"]["annotations"] = json!(annotations);
        });
        let mut objects = self.lock();
        objects.written.push((key.clone(), "remove-finalizer".to_owned()));
        live(&objects).map(Written::Applied).ok_or_else(stale)
    }

    /// Computes an object anew from what was given and applied.
    fn refresh(&self, objects: &mut Objects, key: &ObjectKey) -> Result<(), String> {
        objects.version += 1;
        let version = objects.version;
        let by_keys = self.served(&key.kind).is_some_and(|resource| resource.kind.is_built_in());
        let earlier = objects.earlier.get(key).copied().unwrap_or(0);
        let Some(stored) = objects.stored.get_mut(key) else { return Ok(()) };
        let mut object = if stored.given.is_null() { json!({}) } else { stored.given.clone() };
        for (_, _, body) in &stored.applied {
            lay_over(&mut object, body, by_keys);
        }
        let spec = object.get("spec").map(fingerprint);
        if stored.generation == 0 || stored.spec != spec {
            stored.generation += 1;
            stored.spec = spec;
        }
        object["apiVersion"] = json!(key.kind.api_version());
        object["kind"] = json!(key.kind.kind);
        object["metadata"]["name"] = json!(key.at.name);
        if let Some(namespace) = &key.at.namespace {
            object["metadata"]["namespace"] = json!(namespace);
        }
        object["metadata"]["uid"] = json!(uid(key, earlier));
        object["metadata"]["resourceVersion"] = json!(version.to_string());
        object["metadata"]["generation"] = json!(stored.generation);
        object["metadata"]["creationTimestamp"] = json!(self.created_at);
        let applied = stored.applied.iter().filter_map(|(manager, target, body)| {
            let subresource = if *target == ApplyTarget::Status { "status" } else { "" };
            let fields = fields_of(body);
            // As the API server, which keeps no entry of who holds nothing.
            let is_empty = [json!({}), json!({"f:metadata": {}})].contains(&fields);
            let entry =
                json!({"manager": manager, "operation": "Apply", "subresource": subresource, "fieldsV1": fields});
            (!is_empty).then_some(entry)
        });
        let given = (!stored.given.is_null()).then(|| given_entry(&stored.given));
        object["metadata"]["managedFields"] = applied.chain(given).collect();
        simulate_controllers(&key.kind, &mut object);
        stored.seen = Arc::new(Object::from_value(&object).map_err(|error| error.to_string())?);
        Ok(())
    }
}

/// What a person holds of an object that was given.
fn given_entry(given: &Value) -> Value {
    json!({"manager": "given", "operation": "Update", "fieldsV1": fields_of(given)})
}

/// Whether an object would have a second controller, which the API server refuses.
fn has_other_controller(apply: &Apply, live: &Object) -> bool {
    let (wanted, controller) = (apply.controller_uid(), live.metadata.controller());
    wanted.is_some_and(|wanted| controller.is_some_and(|controller| controller.uid != wanted))
}

fn refused(key: &ObjectKey, message: String) -> WriteError {
    WriteError::Refused { object: key.clone(), code: 422, reason: "Invalid".to_owned(), message, fields: Vec::new() }
}

fn placeholder(key: &ObjectKey) -> Result<Object, String> {
    let object =
        json!({"apiVersion": key.kind.api_version(), "kind": key.kind.kind, "metadata": {"name": key.at.name}});
    Object::from_value(&object).map_err(|error| error.to_string())
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

fn remove(objects: &mut Objects, key: &ObjectKey) {
    let Some(removed) = objects.stored.remove(key) else { return };
    objects.version += 1;
    *objects.earlier.entry(key.clone()).or_default() += 1;
    let uid = removed.seen.metadata.uid.clone();
    let owned: Vec<_> = objects
        .stored
        .iter()
        .filter(|(_, stored)| stored.seen.metadata.owner_references.iter().any(|owner| owner.uid == uid))
        .map(|(key, _)| key.clone())
        .collect();
    owned.iter().for_each(|key| remove(objects, key));
}

impl Observed for MemoryCluster {
    fn get(&self, kind: &GroupVersionKind, at: &NamespacedName) -> Option<Arc<Object>> {
        let key = ObjectKey { kind: self.served(kind)?.kind, at: at.clone() };
        self.lock().stored.get(&key).map(|stored| Arc::clone(&stored.seen))
    }

    fn controlled_by(&self, kind: &GroupVersionKind, uid: &str) -> Vec<Arc<Object>> {
        let objects = self.lock();
        let stored = objects.stored.values().map(|stored| &stored.seen);
        if *kind == pod_summary_kind() {
            let pods = stored.filter(|object| object.kind.same_kind(&pod_kind()));
            let summaries = pods.map(|pod| Arc::new(summary(Arc::new(kind.clone()), pod)));
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
            Action::Inherit { object, uid, controller, manager, .. } => self.inherit(object, uid, controller, manager),
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
                        remove(&mut objects, object);
                        objects.written.push((object.clone(), "delete".to_owned()));
                        Ok(Written::Deleted)
                    }
                    (None, _) => Ok(Written::Deleted),
                }
            }
            Action::RemoveFinalizer { object, uid, position, annotations, .. } => {
                self.remove_finalizer(object, uid, *position, annotations)
            }
        };
        Box::pin(std::future::ready(result))
    }

    fn is_gone(&self, _resource: Resource, object: ObjectKey, uid: String) -> Pending<'_, Result<bool, WriteError>> {
        let gone = self.lock().stored.get(&object).is_none_or(|stored| stored.seen.metadata.uid != uid);
        Box::pin(std::future::ready(Ok(gone)))
    }
}

/// Its schedulers are busy, have the workers that they want, and give any of them up.
impl Schedulers for MemoryCluster {
    fn call(&self, scheduler: Scheduler, call: SchedulerCall) -> Pending<'_, Result<SchedulerReply, SchedulerError>> {
        let cluster = scheduler.cluster;
        let is_worker = |object: &Object| {
            let label = |key: &str| object.metadata.labels.get(key).map(String::as_str);
            object.metadata.namespace == cluster.namespace
                && label(CLUSTER_NAME_LABEL) == Some(&cluster.name)
                && label(COMPONENT_LABEL) == Some("worker")
        };
        let workers = || {
            let objects = self.objects().into_iter().filter(|object| is_worker(object));
            objects.map(|object| object.metadata.name.clone())
        };
        let worker = |name: String| {
            let address = format!("tcp://{name}");
            let retiring = self.lock().retired.contains(&address).then_some(Left::Nothing);
            SchedulerWorker { name, address, place: 0, retiring }
        };
        let reply = match call {
            SchedulerCall::Workers => SchedulerReply::Workers(workers().map(worker).collect()),
            SchedulerCall::AdaptiveTarget => SchedulerReply::AdaptiveTarget(workers().count() as u64),
            SchedulerCall::IdleSince => SchedulerReply::IdleSince(None),
            SchedulerCall::Retire(addresses) => {
                self.lock().retired.extend(addresses.iter().cloned());
                SchedulerReply::Retired(addresses)
            }
        };
        Box::pin(std::future::ready(Ok(reply)))
    }
}
