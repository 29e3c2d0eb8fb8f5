//! The port through which the pipeline reads: the index, and what the server serves.

use std::sync::Arc;

use dask_wasm_operator_core::{
    object::{GroupVersionKind, NamespacedName, Object, Resource},
    ports::Observed,
};

use crate::{discovery::Discovery, index::Index};

/// The observed world.
pub struct ObservedCluster {
    index: Arc<Index>,
    discovery: Arc<Discovery>,
}

impl ObservedCluster {
    /// Reads from these.
    pub fn new(index: Arc<Index>, discovery: Arc<Discovery>) -> Self {
        Self { index, discovery }
    }
}

impl Observed for ObservedCluster {
    fn get(&self, kind: &GroupVersionKind, at: &NamespacedName) -> Option<Arc<Object>> {
        self.index.get(kind, at)
    }

    fn controlled_by(&self, kind: &GroupVersionKind, uid: &str) -> Vec<Arc<Object>> {
        self.index.controlled_by(kind, uid)
    }

    fn departed(&self, kind: &GroupVersionKind, uid: &str) -> Vec<Arc<Object>> {
        self.index.departed(kind, uid)
    }

    fn resource(&self, kind: &GroupVersionKind) -> Option<Resource> {
        self.discovery.table().get(kind).map(|served| served.resource.clone())
    }

    fn has_status(&self, kind: &GroupVersionKind) -> bool {
        let table = self.discovery.table();
        table.get(kind).is_some_and(|served| served.subresources.iter().any(|name| name == "status"))
    }
}
