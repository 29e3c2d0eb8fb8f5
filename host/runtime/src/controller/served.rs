//! Where the controller works: everywhere, until it is told of namespaces.

use std::collections::BTreeSet;

use dask_wasm_operator_core::object::NamespacedName;

use super::Inner;

impl Inner {
    /// Whether a subject may be worked on.
    pub(super) fn serves(&self, at: &NamespacedName) -> bool {
        self.namespaces.as_ref().is_none_or(|namespaces| serves(namespaces, at))
    }

    /// Drops what is remembered of subjects in other namespaces.
    pub(super) fn forget_others(&mut self) {
        let Some(namespaces) = self.namespaces.clone() else { return };
        let serves = |at: &NamespacedName| serves(&namespaces, at);
        self.states.retain(serves);
        self.found.retain(|(_, at), _| serves(at));
        self.publishing.retain(|(_, at), _| serves(at));
        self.waiting.retain(|_, at| serves(at));
        self.related.retain(|(_, at)| serves(at));
        self.queue.keep_appointments(serves);
    }
}

/// What has no namespace is served in any case.
pub(super) fn serves(namespaces: &BTreeSet<String>, at: &NamespacedName) -> bool {
    at.namespace.as_ref().is_none_or(|namespace| namespaces.contains(namespace))
}
