//! The port through which the pipeline reads: the index, and what the server serves and knows.

use std::sync::Arc;

use dask_wasm_operator_core::{
    object::{GroupVersionKind, NamespacedName, Object, Resource},
    ports::Observed,
    schema::KnownFields,
};

use crate::{discovery::Discovery, index::Index, published::PublishedFields};

/// The observed world.
pub struct ObservedCluster {
    index: Arc<Index>,
    discovery: Arc<Discovery>,
    fields: Arc<PublishedFields>,
}

impl ObservedCluster {
    /// Reads from these.
    pub fn new(index: Arc<Index>, discovery: Arc<Discovery>, fields: Arc<PublishedFields>) -> Self {
        Self { index, discovery, fields }
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

    fn known_fields(&self) -> Arc<KnownFields> {
        self.fields.known()
    }
}
