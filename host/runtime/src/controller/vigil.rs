//! Watches of objects that somebody waits for and that nobody watches otherwise: a user's ConfigMap that has the name of a child,
//! a ResourceQuota. Only metadata is watched, in the namespace of who waits, as long as anybody waits.

use std::{collections::BTreeMap, sync::Arc};

use dask_wasm_operator_cluster::watch::{WatchHandle, WatchKey};
use dask_wasm_operator_core::{
    object::{NamespacedName, ObjectKey},
    pipeline::SubjectState,
    queue::Slot,
};

use super::{Controller, Inner, Work};

/// Each is a connection. Who waits for more is tried again now and then.
const AT_ONCE: usize = 100;

/// See the module.
pub(super) type Vigils = BTreeMap<WatchKey, WatchHandle>;

impl Controller {
    /// Watches what somebody waits for, and nothing else.
    pub(super) fn keep_vigil(self: &Arc<Self>, inner: &mut Inner) {
        let keys: Vec<_> = inner.waiting.objects().filter_map(|object| self.unwatched(object)).collect();
        inner.vigils.retain(|key, _| keys.contains(key));
        while inner.tasks.try_join_next().is_some() {}
        for key in keys {
            if inner.vigils.contains_key(&key) || inner.vigils.len() >= AT_ONCE {
                continue;
            }
            match self.surroundings.watches.start(&key) {
                Ok(handle) => {
                    let (synced, controller) = (handle.when_synced(), Arc::clone(self));
                    // What happened before is not told.
                    let begun = key.clone();
                    inner.tasks.spawn(async move {
                        synced.await;
                        controller.begin_vigil(&begun);
                    });
                    inner.vigils.insert(key, handle);
                }
                Err(error) => tracing::debug!(%error, "an awaited object can't be watched"),
            }
        }
    }

    /// Where an object is to be watched, if no watch covers it.
    fn unwatched(&self, object: &ObjectKey) -> Option<WatchKey> {
        let resource = self.surroundings.observed.resource(&object.kind)?;
        let namespace = object.at.namespace.clone().filter(|_| resource.namespaced)?;
        let is_watched = self.surroundings.index.is_watched_whole(&resource.kind, Some(&namespace));
        (!is_watched).then(|| WatchKey { resource: resource.metadata_only(), namespace: Some(namespace), labels: None })
    }

    fn begin_vigil(&self, key: &WatchKey) {
        let Some(kind) = key.resource.kind.of_metadata() else { return };
        let mut inner = self.lock();
        let begun = |object: &&ObjectKey| object.kind.same_kind(&kind) && object.at.namespace == key.namespace;
        let objects: Vec<_> = inner.waiting.objects().filter(begun).cloned().collect();
        for object in objects {
            let waiting = inner.waiting.look_again(&object, self.millis());
            inner.wake_those(waiting);
        }
        drop(inner);
        self.woken.notify_one();
    }

    /// Has those try again who wait for an object, which has changed.
    pub(super) fn remind(&self, inner: &mut Inner, object: &ObjectKey) {
        let waiting = inner.waiting.hear(object, self.millis());
        inner.wake_those(waiting);
    }
}

impl Inner {
    fn wake_those(&mut self, waiting: Vec<((Work, NamespacedName), u64)>) {
        waiting.into_iter().for_each(|((work, at), due)| self.queue.appoint(work, at, Slot::Reminder, due));
    }

    /// A subject is about to be tried because of what it waits for, unless it does so no more.
    pub(super) fn take_reminder(&mut self, key: &(Work, NamespacedName), state: &mut SubjectState) -> bool {
        let reminder = self.waiting.take(key);
        if reminder.is_some_and(|reminder| reminder.is_news) {
            state.hope();
        }
        reminder.is_some()
    }
}
