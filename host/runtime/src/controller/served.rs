//! Where the controller works: everywhere, until it is told of namespaces.

use std::{
    collections::BTreeSet,
    sync::{Arc, PoisonError},
};

use dask_wasm_operator_core::{
    dask::Reconciler, native::Native as _, object::NamespacedName, pipeline::MountedHandler,
};

use super::{Controller, Inner, Work, mounted::Mounted};

impl Controller {
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
}

impl Inner {
    /// Whether a subject may be worked on.
    pub(super) fn serves(&self, at: &NamespacedName) -> bool {
        self.namespaces.as_ref().is_none_or(|namespaces| serves(namespaces, at))
    }

    fn forget_others(&mut self) {
        let Some(namespaces) = self.namespaces.clone() else { return };
        let serves = |at: &NamespacedName| serves(&namespaces, at);
        self.states.retain(serves);
        self.found.retain(|(_, at), _| serves(at));
        self.publishing.retain(|(_, at), _| serves(at));
        self.waiting.retain(|_, at| serves(at));
        self.requeues.retain(|(_, at), _| serves(at));
    }
}

/// What has no namespace is served in any case.
pub(super) fn serves(namespaces: &BTreeSet<String>, at: &NamespacedName) -> bool {
    at.namespace.as_ref().is_none_or(|namespace| namespaces.contains(namespace))
}
