//! Which subjects a change concerns: of an object, of the namespaces that are served, of what the API server knows.

use std::{
    collections::BTreeSet,
    sync::{Arc, PoisonError},
    time::Duration,
};

use dask_wasm_operator_cluster::index::Change;
use dask_wasm_operator_core::{
    dask::Reconciler,
    native::Native as _,
    object::{GroupVersionKind, NamespacedName, Object, ObjectKey, OwnerReference},
    pipeline::MountedHandler,
    plugin::{HandlerName, PLUGIN_LABEL},
    related::Concern,
};

use super::{
    Controller, Inner, STATUS_WINDOW, Work,
    mounted::{Handlers, Mounted},
    served::serves,
};

/// What of an object changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Extent {
    /// More than its status: somebody may have to do something about it.
    Whole,
    /// Its status only.
    Status,
    /// Nothing that anybody looks at.
    Nothing,
}

fn extent(old: Option<&Object>, new: Option<&Object>) -> Extent {
    let (Some(old), Some(new)) = (old, new) else { return Extent::Whole };
    let (before, after) = (&old.metadata, &new.metadata);
    let metadata = before.uid == after.uid
        && before.labels == after.labels
        && before.annotations == after.annotations
        && before.owner_references == after.owner_references
        && before.finalizers == after.finalizers
        && before.deletion_timestamp == after.deletion_timestamp
        && old.unreadable == new.unreadable;
    if !metadata || !beside_status(old).eq(beside_status(new)) || !held(old).eq(held(new)) {
        Extent::Whole
    } else if status(old) != status(new) {
        Extent::Status
    } else {
        Extent::Nothing
    }
}

fn beside_status(object: &Object) -> impl Iterator<Item = (&str, &str)> {
    object.fields.iter().filter(|(name, _)| *name != "status").map(|(name, raw)| (name, raw.get()))
}

fn status(object: &Object) -> Option<&str> {
    object.fields.get("status").map(|raw| raw.get())
}

/// The sets of fields that are held through the object itself: one that shrinks is drift.
fn held(object: &Object) -> impl Iterator<Item = (&str, Option<&str>)> {
    let entries = object.managed_fields.iter().filter(|entry| entry.subresource.is_empty());
    entries.map(|entry| (entry.manager.as_str(), entry.fields.as_deref()))
}

impl Inner {
    /// Whether Deployments of a subject run another template than they would be made from now.
    fn is_outdated(&self, reconciler: Reconciler, at: &NamespacedName) -> bool {
        let found = self.found.get(&(reconciler, at.clone()));
        found.and_then(|found| found.findings.outdated).is_some_and(|outdated| outdated > 0)
    }
}

impl Controller {
    /// Wakes everybody whom a change concerns.
    pub(super) fn wake(&self, change: &Change) {
        let extent = extent(change.old.as_deref(), change.new.as_deref());
        let Some(object) = change.new.as_ref().or(change.old.as_ref()) else { return };
        if let Some(kind) = object.kind.of_metadata() {
            // What changed is not known.
            return self.remind(&mut self.lock(), &ObjectKey { kind, at: object.at() });
        }
        if extent == Extent::Nothing {
            return;
        }
        let handlers = self.handlers.read().unwrap_or_else(PoisonError::into_inner);
        let mut inner = self.lock();
        self.wake_related(&mut inner, change, extent);
        if Reconciler::summaries().iter().any(|summary| summary.kind.same_kind(&object.kind)) {
            return;
        }
        if extent == Extent::Whole {
            self.remind(&mut inner, &object.key());
        }
        self.wake_subject(&mut inner, change, object, extent, &handlers);
        let mut owners: Vec<OwnerReference> = Vec::new();
        for side in [&change.old, &change.new].into_iter().flatten() {
            if let Some(owner) = side.metadata.controller()
                && !owners.contains(owner)
            {
                owners.push(owner.clone());
            }
        }
        for owner in owners {
            self.wake_owner(&mut inner, object, &owner, extent, &handlers);
        }
    }

    /// Works in these namespaces only, all of whose objects are known. Those that are new get a look at every subject; of
    /// those that are not there any more nothing is remembered.
    pub(crate) fn serve(&self, namespaces: BTreeSet<String>) {
        let handlers = self.handlers.read().unwrap_or_else(PoisonError::into_inner);
        let mut inner = self.lock();
        let before = inner.namespaces.replace(namespaces);
        if inner.namespaces == before {
            return;
        }
        let native =
            Reconciler::ALL.into_iter().map(|reconciler| (Work::Reconcile(reconciler), reconciler.subject(), None));
        let plugins = handlers.iter().map(|(name, Mounted { handler, .. })| {
            (Work::Call(Arc::clone(name)), handler.subject.kind.clone(), Some(handler))
        });
        for (work, kind, handler) in native.chain(plugins) {
            for subject in self.surroundings.index.list(&kind) {
                let is_new = before.as_ref().is_none_or(|before| !serves(before, &subject.at()));
                let concerns = |handler: &Arc<MountedHandler>| {
                    handler.concerns(&subject, self.surroundings.observed.as_ref(), Reconciler::makes)
                };
                if is_new && inner.serves(&subject.at()) && handler.is_none_or(concerns) {
                    inner.queue.wake(work.clone(), subject.at(), self.millis());
                }
            }
        }
        inner.forget_others();
        drop(inner);
        self.woken.notify_one();
    }

    /// Looks at every subject of the native reconcilers.
    pub(crate) fn look_at_everything(&self) {
        let mut inner = self.lock();
        for reconciler in Reconciler::ALL {
            for subject in self.surroundings.index.list(&reconciler.subject()) {
                inner.queue.wake(Work::Reconcile(reconciler), subject.at(), self.millis());
            }
        }
        drop(inner);
        self.woken.notify_one();
    }

    /// The object is the subject of some handlers.
    fn wake_subject(
        &self,
        inner: &mut Inner,
        change: &Change,
        object: &Arc<Object>,
        extent: Extent,
        handlers: &Handlers,
    ) {
        let at = object.at();
        let of_kind =
            |(_, mounted): &(&Arc<HandlerName>, &Mounted)| mounted.handler.subject.kind.same_kind(&object.kind);
        for (name, Mounted { handler, .. }) in handlers.iter().filter(of_kind) {
            let work = Work::Call(Arc::clone(name));
            if inner.heeds(handler, &work, change, &at) {
                inner.queue.wake(work, at.clone(), self.millis());
            }
        }
        for reconciler in Reconciler::ALL.into_iter().filter(|reconciler| reconciler.traits().heeds_status) {
            if reconciler.subject().same_kind(&object.kind) {
                inner.queue.wake(Work::Reconcile(reconciler), object.at(), self.millis());
            }
        }
        if extent != Extent::Whole {
            return;
        }
        for reconciler in Reconciler::ALL.into_iter().filter(|reconciler| reconciler.subject().same_kind(&object.kind))
        {
            inner.queue.wake(Work::Reconcile(reconciler), object.at(), self.millis());
        }
    }

    /// Some subjects have looked the object up, as it was or as it is.
    fn wake_related(&self, inner: &mut Inner, change: &Change, extent: Extent) {
        let sides = [&change.old, &change.new].into_iter().flatten();
        let concerned = sides.flat_map(|side| inner.related.concerned(side));
        let concerned: Vec<_> =
            concerned.map(|((reconciler, at), concern)| (*reconciler, at.clone(), concern)).collect();
        for (reconciler, at, concern) in concerned {
            match concern {
                Concern::Nothing => {}
                // What is to be corrected may wait for what the object says of its pods.
                Concern::Status => {
                    self.wake_status(inner, reconciler, &at, STATUS_WINDOW);
                    if inner.is_outdated(reconciler, &at) {
                        inner.queue.wake(Work::Reconcile(reconciler), at, self.millis());
                    }
                }
                Concern::Reconcile if extent == Extent::Whole => {
                    inner.queue.wake(Work::Reconcile(reconciler), at, self.millis());
                }
                Concern::Reconcile => {}
            }
        }
    }

    /// The object is a child of the subject of some handlers.
    fn wake_owner(
        &self,
        inner: &mut Inner,
        object: &Object,
        owner: &OwnerReference,
        extent: Extent,
        handlers: &Handlers,
    ) {
        let kind = GroupVersionKind::from_api_version(&owner.api_version, &owner.kind);
        let at = NamespacedName { namespace: object.metadata.namespace.clone(), name: owner.name.clone() };
        for reconciler in Reconciler::ALL.into_iter().filter(|reconciler| reconciler.subject().same_kind(&kind)) {
            // A rolling update goes on when workers are ready.
            if extent == Extent::Whole || reconciler.traits().heeds_status || inner.is_outdated(reconciler, &at) {
                inner.queue.wake(Work::Reconcile(reconciler), at.clone(), self.millis());
            }
            self.wake_status(inner, reconciler, &at, STATUS_WINDOW);
        }
        if extent != Extent::Whole {
            return;
        }
        let makes_such = |handler: &MountedHandler| handler.children.iter().any(|child| child.same_kind(&object.kind));
        let has_such = |handler: &MountedHandler| handler.subject.kind.same_kind(&kind) && makes_such(handler);
        for (name, Mounted { handler, .. }) in handlers.iter().filter(|(_, mounted)| has_such(&mounted.handler)) {
            let (subject, work) =
                (self.surroundings.observed.get(&handler.subject.kind, &at), Work::Call(Arc::clone(name)));
            let is_its_child = object.metadata.labels.get(PLUGIN_LABEL) == Some(&name.plugin);
            if is_its_child || inner.concerns(handler, &work, subject.as_deref(), &at) {
                inner.queue.wake(work, at.clone(), self.millis());
            }
        }
    }

    pub(super) fn wake_status(&self, inner: &mut Inner, reconciler: Reconciler, at: &NamespacedName, after: Duration) {
        let due = self.millis_after(after);
        inner.queue.wake_by(Work::Publish(reconciler), at.clone(), due);
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn object(change: impl FnOnce(&mut Value)) -> Object {
        let mut value = json!({
            "apiVersion": "apps/v1", "kind": "Deployment",
            "metadata": {"name": "a", "uid": "u", "resourceVersion": "1", "labels": {"a": "b"},
                "managedFields": [{"manager": "m", "operation": "Apply", "fieldsV1": {"f:spec": {}}}]},
            "spec": {"replicas": 1}, "status": {"replicas": 0},
        });
        change(&mut value);
        Object::from_value(&value).unwrap()
    }

    fn extent_of(change: impl FnOnce(&mut Value)) -> Extent {
        extent(Some(&object(|_| {})), Some(&object(change)))
    }

    #[test]
    fn what_changed_is_told_apart() {
        assert_eq!(extent_of(|object| object["metadata"]["resourceVersion"] = json!("2")), Extent::Nothing);
        assert_eq!(extent_of(|object| object["status"]["replicas"] = json!(1)), Extent::Status);
        assert_eq!(extent_of(|object| object["spec"]["replicas"] = json!(2)), Extent::Whole);
        assert_eq!(extent_of(|object| object["metadata"]["labels"] = json!({})), Extent::Whole);
        assert_eq!(extent_of(|object| object["metadata"]["uid"] = json!("other")), Extent::Whole);
        assert_eq!(extent_of(|object| object["metadata"]["deletionTimestamp"] = json!("x")), Extent::Whole);
        assert_eq!(extent_of(|object| object["metadata"]["managedFields"][0]["fieldsV1"] = json!({})), Extent::Whole);
        assert_eq!(extent(None, Some(&object(|_| {}))), Extent::Whole);
    }
}
