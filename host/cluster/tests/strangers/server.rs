//! The API server: objects, their history, and what watches are told of it.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
};

use dask_wasm_operator_cluster::index::{Index, Scope, WatchId};
use dask_wasm_operator_core::{
    action::{Action, WriteError, Written},
    dask::{cluster_in_memory, deployment_kind, service_kind, worker_group_kind},
    memory::{MemoryCluster, built_in_resources},
    object::{GroupVersionKind, Object, ObjectKey},
    plugin::PLUGIN_LABEL,
    ports::{Observed as _, Writes as _},
    selector::Selector,
};
use futures::FutureExt as _;
use serde_json::Value;

use crate::handlers::{CHILDREN, cluster_key};

/// The watches of the operator: of the subjects, of what Dask reconcilers make, of plugins' children by their label, and of
/// all ConfigMaps, as a plugin has that is about these.
pub(crate) const WATCHES: usize = 10;

fn watched() -> [(GroupVersionKind, &'static str); WATCHES] {
    let component = "dask.org/component in (scheduler,worker)";
    let child = |child: usize| {
        let (group, version, kind) = CHILDREN[child];
        (GroupVersionKind::new(group, version, kind), PLUGIN_LABEL)
    };
    [
        (cluster_key(0).kind, ""),
        (worker_group_kind(), ""),
        (deployment_kind(), component),
        (service_kind(), component),
        child(0),
        child(1),
        child(2),
        child(3),
        child(4),
        (child(0).0, ""),
    ]
}

struct Event {
    version: u64,
    key: ObjectKey,
    /// None: it was deleted.
    object: Option<Arc<Object>>,
}

pub(crate) struct Server {
    pub(crate) cluster: MemoryCluster,
    history: Mutex<Vec<Event>>,
}

impl Server {
    pub(crate) fn new() -> Self {
        let cluster = cluster_in_memory(built_in_resources(), "2026-11-22T18:30:00Z");
        Self { cluster, history: Mutex::default() }
    }

    pub(crate) fn get(&self, key: &ObjectKey) -> Option<Arc<Object>> {
        self.cluster.get(&key.kind, &key.at)
    }

    pub(crate) fn create(&self, object: Value) {
        self.recorded(|| self.cluster.create(object)).unwrap();
    }

    pub(crate) fn edit(&self, key: &ObjectKey, change: impl FnOnce(&mut Value)) {
        self.recorded(|| self.cluster.edit(key, change));
    }

    pub(crate) fn delete(&self, key: &ObjectKey) {
        self.recorded(|| self.cluster.delete(key));
    }

    pub(crate) fn write(&self, action: Action) -> Result<Written, WriteError> {
        self.recorded(|| self.cluster.write(action).now_or_never().unwrap())
    }

    /// Does something, and notes what has changed by it.
    fn recorded<T>(&self, change: impl FnOnce() -> T) -> T {
        let objects =
            || -> BTreeMap<_, _> { self.cluster.objects().into_iter().map(|object| (object.key(), object)).collect() };
        let before = objects();
        let result = change();
        let after = objects();
        let mut history = self.history.lock().unwrap();
        let gone = before.keys().filter(|key| !after.contains_key(key));
        let version = self.cluster.version();
        history.extend(gone.map(|key| Event { version, key: key.clone(), object: None }));
        let is_news = |(key, object): &(&ObjectKey, &Arc<Object>)| {
            before.get(key).is_none_or(|before| before.metadata.resource_version != object.metadata.resource_version)
        };
        history.extend(after.iter().filter(is_news).map(|(key, object)| Event {
            version: object.metadata.resource_version.parse().unwrap(),
            key: key.clone(),
            object: Some(Arc::clone(object)),
        }));
        result
    }

    fn end_of_history(&self) -> usize {
        self.history.lock().unwrap().len()
    }
}

/// A watch of an index.
pub(crate) struct Watch {
    id: WatchId,
    kind: GroupVersionKind,
    labels: Selector,
    position: usize,
    members: BTreeMap<ObjectKey, Arc<Object>>,
}

/// Starts all watches, which have listed what there is.
pub(crate) fn watches(server: &Server, index: &Index) -> Vec<Watch> {
    let start = |(kind, labels): (GroupVersionKind, &str)| {
        let labels = Selector::parse(labels).unwrap();
        let id = index.add_watch(&kind, Scope { namespace: None, labels: labels.clone() });
        let objects = server.cluster.objects().into_iter();
        let members: BTreeMap<_, _> = objects
            .filter(|object| object.kind.same_kind(&kind) && labels.matches(&object.metadata.labels))
            .map(|object| (object.key(), object))
            .collect();
        index.relisted(id, server.cluster.version(), members.values().map(|object| (**object).clone()).collect());
        Watch { id, kind, labels, position: server.end_of_history(), members }
    };
    watched().into_iter().map(start).collect()
}

impl Watch {
    pub(crate) fn is_up_to_date(&self, server: &Server) -> bool {
        self.position == server.end_of_history()
    }

    /// Tells the next event.
    pub(crate) fn deliver(&mut self, server: &Server, index: &Index) {
        let history = server.history.lock().unwrap();
        let Some(Event { version, key, object }) = history.get(self.position) else { return };
        self.position += 1;
        if !key.kind.same_kind(&self.kind) {
            return;
        }
        let covered = object.as_ref().filter(|object| self.labels.matches(&object.metadata.labels));
        match (covered, self.members.remove(key)) {
            (Some(object), _) => {
                self.members.insert(key.clone(), Arc::clone(object));
                index.observed(self.id, (**object).clone());
            }
            (None, Some(last)) => {
                let mut last = (*last).clone();
                last.metadata.resource_version = version.to_string();
                index.vanished(self.id, &last);
            }
            (None, None) => {}
        }
    }
}
