//! What is done, as values that mean the same for every store: objects and managers are numbers, uids and versions are looked
//! up when the step is performed.

use std::{
    fmt,
    sync::atomic::{AtomicUsize, Ordering},
    time::Duration,
};

use dask_wasm_operator_core::{
    action::{Action, Apply, ApplyTarget, Precondition},
    object::{NamespacedName, ObjectKey, Resource},
};
use serde_json::{Value, json};

use super::{
    kinds::Kind,
    stores::{Answer, Store},
    view::Viewer,
};
use crate::{PATIENCE, World};

/// So many objects there are at most. Those of higher numbers may own those of lower ones.
pub(crate) const OBJECTS: usize = 3;

/// Those who apply.
pub(crate) const MANAGERS: [&str; 3] = ["dask-plugin/a/h", "dask-plugin/b/h", "dask-operator/workergroup"];

/// Fields and their values, as paths in the object.
#[derive(Clone, PartialEq)]
pub(crate) struct Fields(pub(crate) Vec<(&'static str, Value)>);

impl fmt::Debug for Fields {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.0.iter().map(|(path, value)| (path, value.to_string()))).finish()
    }
}

/// What must hold of the object of a write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Expected {
    /// There is none.
    Absent,
    /// It is the one that is there now; if there is none, one that is gone.
    This,
    /// It is another.
    Another,
    /// It is the one that is there now, and was not changed since.
    Unchanged,
    /// It is the one that is there now, as it was before some change.
    Outdated,
}

/// How a user changes an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum By {
    /// It is read, changed and put back.
    Update,
    MergePatch,
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Step {
    /// A user makes an object.
    Create {
        object: usize,
        fields: Fields,
    },
    /// A user sets fields and takes out others.
    Change {
        object: usize,
        by: By,
        set: Fields,
        remove: Vec<&'static str>,
    },
    /// A manager applies. Without fields it applies what every object has.
    Apply {
        object: usize,
        manager: usize,
        fields: Fields,
        force: bool,
        expected: Expected,
    },
    /// A manager applies nothing at all.
    Withdraw {
        object: usize,
        manager: usize,
    },
    /// A manager applies to the status.
    ApplyStatus {
        object: usize,
        manager: usize,
        fields: Fields,
        force: bool,
    },
    Delete {
        object: usize,
        expected: Expected,
    },
    /// The first finalizer goes.
    RemoveFinalizer {
        object: usize,
        expected: Expected,
    },
}

impl Step {
    pub(crate) fn object(&self) -> usize {
        match self {
            Self::Create { object, .. }
            | Self::Change { object, .. }
            | Self::Apply { object, .. }
            | Self::Withdraw { object, .. }
            | Self::ApplyStatus { object, .. }
            | Self::Delete { object, .. }
            | Self::RemoveFinalizer { object, .. } => *object,
        }
    }
}

/// The objects that steps are about.
pub(crate) struct Scene {
    pub(crate) kind: &'static Kind,
    pub(crate) resource: Resource,
    namespace: String,
    number: usize,
    /// How long the garbage collector may take.
    pub(crate) patience: Duration,
}

impl Scene {
    pub(crate) fn new(world: &World, kind: &'static Kind) -> Self {
        /// Each scene has objects of its own: those of others may still be on their way out.
        static SCENES: AtomicUsize = AtomicUsize::new(0);
        Self {
            kind,
            resource: world.resource(kind.name),
            namespace: world.namespace.clone(),
            number: SCENES.fetch_add(1, Ordering::Relaxed),
            patience: PATIENCE,
        }
    }

    pub(crate) fn key(&self, object: usize) -> ObjectKey {
        let name = format!("s{}-{object}", self.number);
        ObjectKey { kind: self.resource.kind.clone(), at: NamespacedName::new(&self.namespace, &name) }
    }

    pub(crate) fn keys(&self) -> impl Iterator<Item = ObjectKey> {
        (0..OBJECTS).map(|object| self.key(object))
    }

    fn identity(&self, object: usize) -> Value {
        json!({
            "apiVersion": self.resource.kind.api_version(), "kind": self.resource.kind.kind,
            "metadata": {"name": self.key(object).at.name, "namespace": self.namespace},
        })
    }

    /// An object with these fields besides those that every object has.
    async fn body(&self, store: &impl Store, object: usize, fields: &Fields) -> anyhow::Result<Value> {
        let mut body = self.identity(object);
        for (name, value) in self.kind.base.as_object().into_iter().flatten() {
            body[name] = value.clone();
        }
        self.set(store, &mut body, fields).await?;
        Ok(body)
    }

    async fn set(&self, store: &impl Store, body: &mut Value, fields: &Fields) -> anyhow::Result<()> {
        for (path, value) in &fields.0 {
            let value = match *path {
                "/metadata/ownerReferences" => self.owners(store, value).await?,
                _ => value.clone(),
            };
            // Of a custom kind the API server stores an empty list, and drops it at the next write, whatever that is.
            if value.as_array().is_none_or(|items| !items.is_empty()) {
                put(body, path, value);
            }
        }
        Ok(())
    }

    /// References to those of the owners that are there: what owner is not the garbage collector sees at its leisure.
    async fn owners(&self, store: &impl Store, owners: &Value) -> anyhow::Result<Value> {
        let mut references = Vec::new();
        for owner in owners.as_array().into_iter().flatten() {
            let key = self.key(usize::try_from(owner["object"].as_u64().unwrap_or_default())?);
            let live = store.get(&key).await?.filter(|live| live["metadata"]["deletionTimestamp"].is_null());
            references.extend(live.map(|live| {
                json!({
                    "apiVersion": self.resource.kind.api_version(), "kind": self.resource.kind.kind,
                    "name": key.at.name, "uid": live["metadata"]["uid"], "controller": owner["controller"],
                })
            }));
        }
        Ok(references.into())
    }
}

/// Sets a field, and the maps above it.
fn put(object: &mut Value, path: &str, value: Value) {
    let mut place = object;
    for name in path.split('/').skip(1) {
        place = &mut place[name];
    }
    *place = value;
}

/// Does one thing to one store.
pub(crate) async fn perform(
    scene: &Scene,
    store: &impl Store,
    viewer: &Viewer<'_>,
    step: &Step,
) -> anyhow::Result<Answer> {
    let (resource, object) = (scene.resource.clone(), scene.key(step.object()));
    let live = store.get(&object).await?;
    let text = |field: &str| live.as_ref().and_then(|live| live["metadata"][field].as_str()).map(str::to_owned);
    let uid = |expected| match expected {
        Expected::Another => "00000000-0000-4000-8000-000000000000".to_owned(),
        _ => text("uid").unwrap_or_else(|| "00000000-0000-4000-8000-000000000001".to_owned()),
    };
    let version = |expected| match expected {
        Expected::Outdated => Some(viewer.first_version(step.object()).unwrap_or_else(|| "2".to_owned())),
        Expected::Unchanged => Some(text("resourceVersion").unwrap_or_else(|| "2".to_owned())),
        _ => None,
    };
    let precondition = |expected| match (expected, version(expected)) {
        (Expected::Absent, _) => Precondition::Absent,
        (_, Some(resource_version)) => Precondition::Unchanged { uid: uid(expected), resource_version },
        (_, None) => Precondition::Uid(uid(expected)),
    };
    let apply = |manager: usize, target, body, force, expected| {
        let (resource, object, manager) = (resource.clone(), object.clone(), MANAGERS[manager].to_owned());
        Action::Apply(Apply { resource, object, target, manager, precondition: precondition(expected), body, force })
    };
    match step {
        Step::Create { object, fields } => {
            let given = scene.kind.given.iter().chain(&fields.0).cloned().collect();
            store.create(scene.body(store, *object, &Fields(given)).await?).await
        }
        Step::Change { by, set, remove, .. } => {
            let mut wanted = json!({});
            scene.set(store, &mut wanted, set).await?;
            remove.iter().for_each(|path| put(&mut wanted, path, Value::Null));
            match by {
                By::MergePatch => store.merge(&object, &wanted).await,
                By::Update => store.edit(&object, &|object| merge_patch(object, &wanted)).await,
            }
        }
        Step::Apply { object, manager, fields, force, expected } => {
            let body = scene.body(store, *object, fields).await?;
            store.write(apply(*manager, ApplyTarget::Object, body, *force, *expected)).await
        }
        Step::Withdraw { object, manager } => {
            let body = scene.identity(*object);
            store.write(apply(*manager, ApplyTarget::Object, body, true, Expected::This)).await
        }
        Step::ApplyStatus { object, manager, fields, force } => {
            let mut body = scene.identity(*object);
            scene.set(store, &mut body, fields).await?;
            store.write(apply(*manager, ApplyTarget::Status, body, *force, Expected::This)).await
        }
        Step::Delete { expected, .. } => {
            let (uid, resource_version) = (uid(*expected), version(*expected));
            store.write(Action::Delete { resource, object, uid, resource_version }).await
        }
        Step::RemoveFinalizer { expected, .. } => {
            let resource_version = version(*expected).or_else(|| text("resourceVersion")).unwrap_or_default();
            let annotations = std::collections::BTreeMap::from([("noted".to_owned(), "yes".to_owned())]);
            let (uid, position) = (uid(*expected), 0);
            store
                .write(Action::RemoveFinalizer { resource, object, uid, resource_version, position, annotations })
                .await
        }
    }
}

/// RFC 7386.
pub(crate) fn merge_patch(object: &mut Value, patch: &Value) {
    let Some(fields) = patch.as_object() else { return object.clone_from(patch) };
    if !object.is_object() {
        *object = json!({});
    }
    let Some(object) = object.as_object_mut() else { return };
    for (name, value) in fields {
        match value {
            Value::Null => drop(object.remove(name)),
            value => merge_patch(object.entry(name).or_insert(Value::Null), value),
        }
    }
}
