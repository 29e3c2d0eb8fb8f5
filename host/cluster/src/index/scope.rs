//! What a watch of the index covers.

use dask_wasm_operator_core::{object::Object, selector::Selector};

/// One watch of the index.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct WatchId(pub(super) u64);

/// Which objects of a kind a watch covers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Scope {
    /// One namespace; none: all.
    pub namespace: Option<String>,
    /// By labels.
    pub labels: Selector,
}

impl Scope {
    pub(super) fn covers(&self, object: &Object) -> bool {
        self.covers_namespace(object.metadata.namespace.as_deref()) && self.labels.matches(&object.metadata.labels)
    }

    pub(super) fn selects_all(&self) -> bool {
        self.labels == Selector::default()
    }

    pub(super) fn covers_namespace(&self, namespace: Option<&str>) -> bool {
        self.namespace.is_none() || self.namespace.as_deref() == namespace
    }
}
