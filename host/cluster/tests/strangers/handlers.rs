//! Who wants what: two plugins that want the same children, and the Dask reconcilers of clusters and groups.

use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex},
};

use dask_wasm_operator_core::{
    contract::{Call, Child, HandlerDeclaration, KindReference, Outcome, Permissions, Subscription, TriggerRequest},
    dask::{Handler, Reconciler},
    identity::Identity,
    memory::built_in_resources,
    object::{ObjectKey, Resource},
    pipeline::MountedHandler,
    plugin::{HANDLER_LABEL, HandlerName, Mounted, PLUGIN_LABEL, Rights, SUBJECT_UID_LABEL},
    ports::{CallReport, Guest, Pending},
    spec::{Grants, Limits},
};
use serde_json::{Value, json};

use crate::{identity, key};

/// The names of the DaskClusters.
pub(crate) const CLUSTERS: [&str; 2] = ["one", "two"];

/// The children that plugins want: the kinds of the default grant.
pub(crate) const CHILDREN: [(&str, &str, &str); 5] = [
    ("", "v1", "ConfigMap"),
    ("", "v1", "Service"),
    ("networking.k8s.io", "v1", "Ingress"),
    ("networking.k8s.io", "v1", "NetworkPolicy"),
    ("policy", "v1", "PodDisruptionBudget"),
];

/// Handlers: the two plugins', the reconciler of clusters, and that of groups.
pub(crate) const COUNT: usize = 4;

/// Where handlers want an object.
pub(crate) struct Place {
    group: &'static str,
    version: &'static str,
    kind: &'static str,
    name: &'static str,
}

impl Place {
    pub(crate) fn key(&self) -> ObjectKey {
        key(self.group, self.version, self.kind, self.name)
    }

    /// An object for it, whose one field has this value.
    pub(crate) fn object(&self, value: &str) -> Value {
        let mut object = identity(&self.key());
        object["spec"] = json!({"field": value});
        object
    }
}

pub(crate) fn places() -> Vec<Place> {
    let children = CHILDREN.map(|(group, version, kind)| Place { group, version, kind, name: "child" });
    let native = [
        Place { group: "", version: "v1", kind: "Service", name: "one-scheduler" },
        Place { group: "apps", version: "v1", kind: "Deployment", name: "one-scheduler" },
    ];
    children.into_iter().chain(native).collect()
}

/// As a copy of a child has them.
pub(crate) fn labels_of_children() -> Value {
    json!({
        PLUGIN_LABEL: "p0", HANDLER_LABEL: "h", SUBJECT_UID_LABEL: "x",
        "dask.org/component": "scheduler", "dask.org/cluster-name": "one",
    })
}

pub(crate) fn cluster_key(cluster: usize) -> ObjectKey {
    key("kubernetes.dask.org", "v1", "DaskCluster", CLUSTERS[cluster])
}

pub(crate) fn cluster(cluster: usize) -> Value {
    let pod = json!({"containers": [{"name": "c", "image": "i", "args": ["dask"]}]});
    let service = json!({"type": "ClusterIP", "selector": {"a": "b"}, "ports": [{"name": "tcp-comm", "port": 8786}]});
    let mut object = identity(&cluster_key(cluster));
    object["spec"] = json!({
        "scheduler": {"spec": pod, "service": service},
        "worker": {"replicas": 1, "spec": pod},
    });
    object
}

/// A plugin whose answer changes.
pub(crate) struct Plugin {
    pub(crate) handler: Arc<MountedHandler>,
    puppet: Arc<Puppet>,
}

#[derive(Default)]
struct Puppet {
    wanted: Mutex<BTreeSet<usize>>,
}

impl Guest for Puppet {
    fn call(&self, _: Call) -> Pending<'_, CallReport> {
        let child = |child: &usize| {
            let (group, version, kind) = CHILDREN[*child];
            let place = Place { group, version, kind, name: "child" };
            let mut object = place.object("wanted");
            object["metadata"].as_object_mut().unwrap().remove("namespace");
            Child { key: format!("c{child}"), object: object.to_string() }
        };
        let children = self.wanted.lock().unwrap().iter().map(child).collect();
        let outcome = Outcome { children: Some(children), ..Outcome::default() };
        let report =
            CallReport { result: Ok(outcome), log: Vec::new(), log_dropped: 0, duration: std::time::Duration::ZERO };
        Box::pin(std::future::ready(report))
    }
}

impl Plugin {
    pub(crate) fn new(number: usize) -> Self {
        let puppet = Arc::<Puppet>::default();
        let guest = Arc::clone(&puppet) as Arc<dyn Guest>;
        Self { handler: Arc::new(mounted(&format!("p{number}"), 0, guest)), puppet }
    }

    /// Wants a child, or wants it no longer. As another configuration it is another handler, and is asked again.
    pub(crate) fn toggle(&mut self, child: usize) {
        let mut wanted = self.puppet.wanted.lock().unwrap();
        if !wanted.remove(&child) {
            wanted.insert(child);
        }
        drop(wanted);
        let guest = Arc::clone(&self.puppet) as Arc<dyn Guest>;
        self.handler = Arc::new(mounted(&self.handler.name.plugin, self.handler.code + 1, guest));
    }

    /// What it wants for each cluster.
    pub(crate) fn wanted(&self) -> Vec<ObjectKey> {
        let wanted = self.puppet.wanted.lock().unwrap();
        let key = |child: &usize| {
            let (group, version, kind) = CHILDREN[*child];
            key(group, version, kind, "child")
        };
        wanted.iter().map(key).collect()
    }
}

pub(crate) fn native(handler: usize) -> Handler {
    Handler::Native(if handler == 2 { Reconciler::Cluster } else { Reconciler::WorkerGroup })
}

fn mounted(plugin: &str, code: u64, guest: Arc<dyn Guest>) -> MountedHandler {
    let kind =
        |group: &str, name: &str| KindReference { group: Some(group.to_owned()), version: None, name: name.to_owned() };
    let declaration = HandlerDeclaration {
        name: "h".to_owned(),
        subscription: Subscription {
            kind: kind("kubernetes.dask.org", "DaskCluster"),
            namespaces: Vec::new(),
            labels: None,
            annotations: Vec::new(),
            fields: Vec::new(),
            expression: None,
        },
        triggers: vec![TriggerRequest::Observed],
        projection: None,
        related: Vec::new(),
    };
    let asked = Permissions {
        create: CHILDREN.iter().map(|(group, _, name)| kind(group, name)).collect(),
        ..Permissions::default()
    };
    let resolve = |reference: &KindReference| {
        let is_it = |resource: &Resource| {
            resource.kind.kind == reference.name && Some(&resource.kind.group) == reference.group.as_ref()
        };
        built_in_resources().into_iter().find(is_it).ok_or_else(|| "it is not served".to_owned())
    };
    let rights = Rights::new(&asked, &Grants::default(), Limits::default(), &resolve);
    let subject = built_in_resources().into_iter().find(|resource| resource.kind.kind == "DaskCluster").unwrap();
    MountedHandler {
        name: HandlerName { plugin: plugin.to_owned(), handler: "h".to_owned() },
        mounted: Mounted::new(&declaration, &[]).unwrap(),
        declaration,
        subject,
        children: rights.children(),
        rights,
        projection: None,
        config: "null".to_owned(),
        code,
        takes_conflicts: false,
        identity: Identity::Operator,
        guest,
    }
}
