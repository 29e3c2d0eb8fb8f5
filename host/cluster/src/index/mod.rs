//! What is known of the cluster, in memory: the store behind [`Observed`](dask_wasm_operator_core::ports::Observed).
//!
//! Two kinds of news come in. Watches tell what happened in the order in which it happened, late; answers to our own writes
//! tell at once, in any order. The index merges them by resource version (integers that grow, KEP-5504), such that an
//! object never goes back in time: what was written can be read as soon as the write returns, and a watch that lags behind
//! brings nothing back.
//!
//! It is synchronous and does no I/O. It must never refuse an object: what is odd in one is for its reader to say.

mod kind;
mod news;
mod scope;
mod shared;
#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard},
};

use dask_wasm_operator_core::{
    inheritance::abridge,
    native::Summary,
    object::{GroupVersionKind, ManagedFields, NamespacedName, Object, ObjectKey, OwnerReference, Part, WireObject},
};

pub(crate) use kind::version_of;
pub use news::Change;
pub use scope::{Scope, WatchId};

use kind::KindIndex;
use news::{News, Uids};
use shared::Shared;

/// Receives changes in the order in which they were made. Must not wait, and must not write to the index.
type Sink = Box<dyn Fn(Change) + Send + Sync>;

/// The store.
pub struct Index {
    state: RwLock<State>,
    /// Held from a change until the sink has it: keeps changes in order while readers go on.
    writer: Mutex<()>,
    sink: Sink,
    summaries: Vec<Summary>,
    shared: Mutex<SharedParts>,
}

#[derive(Default)]
struct SharedParts {
    labels: Shared<BTreeMap<String, String>>,
    owner_references: Shared<[OwnerReference]>,
    managed_fields: Shared<str>,
}

#[derive(Default)]
struct State {
    kinds: HashMap<Arc<GroupVersionKind>, KindIndex>,
    watches: HashMap<WatchId, Arc<GroupVersionKind>>,
    next_watch: u64,
    /// What we deleted.
    deleted: Uids,
    /// What a read showed to be somebody else's.
    foreign: Uids,
}

impl Index {
    /// An empty store.
    pub fn new(sink: impl Fn(Change) + Send + Sync + 'static) -> Self {
        Self {
            state: RwLock::default(),
            writer: Mutex::default(),
            sink: Box::new(sink),
            summaries: Vec::new(),
            shared: Mutex::default(),
        }
    }

    /// The same, keeping summaries of some kinds.
    #[must_use]
    pub fn that_keeps(self, summaries: Vec<Summary>) -> Self {
        Self { summaries, ..self }
    }

    /// One object.
    pub fn get(&self, kind: &GroupVersionKind, at: &NamespacedName) -> Option<Arc<Object>> {
        self.read().kinds.get(kind)?.get(at)
    }

    /// The objects of a kind that the subject of this uid controls, ordered by name.
    pub fn controlled_by(&self, kind: &GroupVersionKind, uid: &str) -> Vec<Arc<Object>> {
        self.read().kinds.get(kind).map(|kind| kind.controlled_by(uid)).unwrap_or_default()
    }

    /// See [`Observed::departed`](dask_wasm_operator_core::ports::Observed::departed).
    pub fn departed(&self, kind: &GroupVersionKind, uid: &str) -> Vec<Arc<Object>> {
        self.read().kinds.get(kind).map(|kind| kind.departed(uid)).unwrap_or_default()
    }

    /// All objects of a kind, ordered by namespace and name.
    pub fn list(&self, kind: &GroupVersionKind) -> Vec<Arc<Object>> {
        self.read().kinds.get(kind).map(|kind| kind.all().cloned().collect()).unwrap_or_default()
    }

    /// The object of a kind that comes next in the order of [`Self::list`]; none before it: the first.
    pub fn next(&self, kind: &GroupVersionKind, before: Option<&NamespacedName>) -> Option<Arc<Object>> {
        self.read().kinds.get(kind)?.next(before)
    }

    /// Whether a watch covers all objects of a kind in a namespace, whatever their labels.
    pub fn is_watched_whole(&self, kind: &GroupVersionKind, namespace: Option<&str>) -> bool {
        self.read().kinds.get(kind).is_some_and(|kind| kind.is_watched_whole(namespace))
    }

    /// Registers a watch. Nothing that it covers counts as known before its first [`Self::relisted`].
    pub fn add_watch(&self, kind: &GroupVersionKind, scope: Scope) -> WatchId {
        let mut state = self.write();
        state.next_watch += 1;
        let watch = WatchId(state.next_watch);
        let kind = match state.kinds.get_key_value(kind) {
            Some((kind, _)) => Arc::clone(kind),
            None => Arc::new(kind.clone()),
        };
        let index = state.kinds.entry(Arc::clone(&kind)).or_insert_with(|| KindIndex::new(Arc::clone(&kind)));
        index.add_watch(watch, scope);
        state.watches.insert(watch, kind);
        watch
    }

    /// Keeps only this part of what a watch covers, and what others need of it. What is known stays as it is until it is told
    /// again.
    pub fn set_part(&self, watch: WatchId, part: Part) {
        let mut state = self.write();
        let Some(kind) = state.watches.get(&watch).cloned() else { return };
        if let Some(index) = state.kinds.get_mut(&kind) {
            index.set_part(watch, part);
        }
    }

    /// Forgets a watch, and without a change what only it knew: nobody is interested any more.
    pub fn remove_watch(&self, watch: WatchId) {
        let mut state = self.write();
        let Some(kind) = state.watches.remove(&watch) else { return };
        let Some(index) = state.kinds.get_mut(&kind) else { return };
        index.remove_watch(watch);
        if !index.is_watched() {
            state.kinds.remove(&kind);
        }
    }

    /// A watch listed everything that it covers, as of a resource version.
    pub fn relisted(&self, watch: WatchId, version: u64, objects: Vec<Object>) {
        self.update(watch, |index, news| index.relisted(watch, version, objects, news));
    }

    /// A watch listed what it covers, but for what nobody could say which object it is: nothing is known to be gone.
    pub fn listed_in_part(&self, watch: WatchId, objects: Vec<Object>) {
        self.update(watch, |index, news| objects.into_iter().for_each(|object| index.merge(watch, object, news)));
    }

    /// A watch told of an object that was added or changed.
    pub fn observed(&self, watch: WatchId, object: Object) {
        self.update(watch, |index, news| index.observed(watch, object, news));
    }

    /// A watch told of an object that was deleted, or is not selected by its labels any more.
    pub fn vanished(&self, watch: WatchId, object: &Object) {
        self.update(watch, |index, news| index.vanished(watch, object, news));
    }

    /// A watch told that it has told everything up to a resource version.
    pub fn advanced(&self, watch: WatchId, version: u64) {
        self.update(watch, |index, _| index.advanced(watch, version));
    }

    /// An object as it is to be known: without what is never asked for, and sharing with others what they have in common.
    pub(crate) fn object(&self, kind: &GroupVersionKind, wire: WireObject) -> Object {
        let known = self.read().kinds.get_key_value(kind).map(|(kind, index)| (Arc::clone(kind), index.keeps_parts()));
        let (kind, keeps_parts) = known.unwrap_or_else(|| (Arc::new(kind.clone()), false));
        let is_of_metadata = kind.of_metadata().is_some();
        let mut object = Object::new(Arc::clone(&kind), wire);
        if let Some(summary) = self.summaries.iter().find(|summary| summary.kind == *kind) {
            object = (summary.make)(kind, &object);
        }
        if is_of_metadata {
            // kubectl keeps the whole content in an annotation, too.
            object.metadata.annotations.clear();
            object.managed_fields.clear();
        }
        abridge(&mut object, is_own);
        if keeps_parts && let Some(part) = self.read().kinds.get(&object.kind).map(|kind| kind.part_of(&object)) {
            object.fields.retain(|field| part.has(field));
        }
        let mut shared = lock(&self.shared);
        shared.labels.share(&mut object.metadata.labels);
        shared.owner_references.share(&mut object.metadata.owner_references);
        for fields in object.managed_fields.iter_mut().filter_map(|entry| entry.fields.as_mut()) {
            shared.managed_fields.share(fields);
        }
        drop(shared);
        object
    }

    /// The server answered a write of ours with this object.
    pub fn wrote(&self, object: &Arc<Object>) {
        self.change(|state, changes| {
            if let Some(index) = state.kinds.get_mut(&*object.kind) {
                let mut news = News { deleted: &mut state.deleted, changes, own_write: true };
                index.wrote(object, &mut news);
            }
        });
    }

    /// The server answered that an object is gone by a deletion of ours.
    pub fn deleted(&self, object: &ObjectKey, uid: &str) {
        self.change(|state, changes| {
            state.deleted.insert(uid);
            if let Some(index) = state.kinds.get_mut(&object.kind) {
                let mut news = News { deleted: &mut state.deleted, changes, own_write: true };
                index.deleted(&object.at, uid, &mut news);
            }
        });
    }

    /// A read showed an object of ours, made for the subject of this uid, that no watch has told of: it is late, or none
    /// covers the object.
    pub fn found(&self, object: &Arc<Object>, subject_uid: &str) {
        self.change(|state, changes| {
            if let Some(index) = state.kinds.get_mut(&*object.kind) {
                let mut news = News { deleted: &mut state.deleted, changes, own_write: false };
                index.found(object, subject_uid, &mut news);
            }
        });
    }

    /// A read showed that an object is somebody else's: it is never taken for a departed child.
    pub fn is_foreign(&self, object: &ObjectKey, uid: &str) {
        let mut state = self.write();
        state.foreign.insert(uid);
        if let Some(index) = state.kinds.get_mut(&object.kind) {
            index.forget_departed(&object.at);
        }
    }

    /// The server answered that a departed object does not exist any more.
    pub fn forget_departed(&self, object: &ObjectKey) {
        if let Some(index) = self.write().kinds.get_mut(&object.kind) {
            index.forget_departed(&object.at);
        }
    }

    fn update(&self, watch: WatchId, update: impl FnOnce(&mut KindIndex, &mut News<'_>)) {
        self.change(|state, changes| {
            if let Some(index) = state.watches.get(&watch).and_then(|kind| state.kinds.get_mut(kind)) {
                update(index, &mut News { deleted: &mut state.deleted, changes, own_write: false });
            }
        });
    }

    fn change(&self, change: impl FnOnce(&mut State, &mut Vec<Change>)) {
        let _in_order = lock(&self.writer);
        let mut changes = Vec::new();
        {
            let mut state = self.write();
            change(&mut state, &mut changes);
            state.settle_departed(&changes);
        }
        changes.into_iter().for_each(&self.sink);
    }

    fn read(&self) -> RwLockReadGuard<'_, State> {
        self.state.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> std::sync::RwLockWriteGuard<'_, State> {
        self.state.write().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// Remembers what a watch lost as long as the owner is known; an owner that goes takes its departed with it.
    fn settle_departed(&mut self, changes: &[Change]) {
        for change in changes {
            let Change { kind, old: Some(old), new: None, own_write } = change else { continue };
            for index in self.kinds.values_mut() {
                index.owner_went(&old.metadata.uid);
            }
            // What is being deleted is no loss, and of our own deletions we know.
            if *own_write || old.is_being_deleted() || self.foreign.contains(&old.metadata.uid) {
                continue;
            }
            let Some(owner) = old.metadata.controller().filter(|owner| self.knows(owner, old)) else { continue };
            if let Some(index) = self.kinds.get_mut(kind) {
                index.depart(old, &owner.uid);
            }
        }
    }

    fn knows(&self, owner: &OwnerReference, object: &Object) -> bool {
        let kind = GroupVersionKind::from_api_version(&owner.api_version, &owner.kind);
        self.kinds.iter().filter(|(watched, _)| watched.same_kind(&kind)).any(|(_, index)| {
            [object.metadata.namespace.clone(), None].into_iter().any(|namespace| {
                let at = NamespacedName { namespace, name: owner.name.clone() };
                index.get(&at).is_some_and(|known| known.metadata.uid == owner.uid)
            })
        })
    }
}

/// Of the managed fields those of our own managers are asked for.
fn is_own(entry: &ManagedFields) -> bool {
    entry.manager.starts_with("dask-operator/") || entry.manager.starts_with("dask-plugin/")
}

/// A lock whose holder panicked is as good as any: every update leaves the maps whole.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
