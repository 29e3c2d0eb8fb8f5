//! A cluster in memory with a DaskCluster, and handlers of plugins that are about it.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex},
};

use dask_wasm_operator_core::{
    action::{Action, Apply, ApplyTarget, Precondition, WriteError, Written},
    contract::{
        Call, Child, HandlerDeclaration, KindReference, Outcome, Patch, PatchPermission, PatchStrategy, PatchTarget,
        Permissions, Subscription, TriggerRequest,
    },
    dask::{Environment, Handler, Pipeline, Reconciler, cluster_in_memory},
    identity::Identity,
    memory::{MemoryCluster, built_in_resources},
    native::Native as _,
    object::{GroupVersionKind, NamespacedName, Object, ObjectKey, Resource, Unreadable},
    pipeline::{MountedHandler, Remembered, Report, SubjectState},
    plugin::{HandlerName, Mounted, Rights},
    ports::{CallError, CallReport, Guest, Mandate, Observed, Pending, Writes},
    spec::{Grants, KindGrant, Limits, PatchGrant},
};
use serde_json::{Value, json};

pub(crate) const NOW: u64 = 1_795_372_200_000;

/// Polls a future that never waits: the cluster in memory answers at once.
fn now<T>(future: impl Future<Output = T>) -> T {
    match std::pin::pin!(future).poll(&mut std::task::Context::from_waker(std::task::Waker::noop())) {
        std::task::Poll::Ready(value) => value,
        std::task::Poll::Pending => panic!("the cluster in memory made somebody wait"),
    }
}

type Answer = Result<Outcome, CallError>;

type Answers = Box<dyn Fn(&Call) -> Answer + Send>;

/// A guest that answers what it was told, and notes why it was called.
pub(crate) struct Puppet {
    answer: Mutex<Answers>,
    calls: Mutex<Vec<String>>,
}

impl Puppet {
    pub(crate) fn new(answer: impl Fn(&Call) -> Answer + Send + 'static) -> Arc<Self> {
        Arc::new(Self { answer: Mutex::new(Box::new(answer)), calls: Mutex::default() })
    }

    pub(crate) fn answers(&self, answer: impl Fn(&Call) -> Answer + Send + 'static) {
        *self.answer.lock().unwrap() = Box::new(answer);
    }

    /// The triggers since this was last asked: `Observed`, `Created again`.
    pub(crate) fn take_calls(&self) -> Vec<String> {
        std::mem::take(&mut self.calls.lock().unwrap())
    }
}

impl Guest for Puppet {
    fn call(&self, call: Call) -> Pending<'_, CallReport> {
        let again = if call.redelivery { " again" } else { "" };
        self.calls.lock().unwrap().push(format!("{:?}{again}", call.trigger));
        let result = (self.answer.lock().unwrap())(&call);
        let report = CallReport { result, log: Vec::new(), log_dropped: 0, duration: std::time::Duration::ZERO };
        Box::pin(std::future::ready(report))
    }
}

/// A child of this kind and name.
pub(crate) fn child(kind: &str, name: &str, fields: Value) -> Child {
    let version = if kind.starts_with("Dask") { "kubernetes.dask.org/v1" } else { "v1" };
    let mut object = json!({"apiVersion": version, "kind": kind, "metadata": {"name": name}});
    object.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
    Child { key: name.to_owned(), object: object.to_string() }
}

pub(crate) fn children(children: impl IntoIterator<Item = Child>) -> Answer {
    Ok(Outcome { children: Some(children.into_iter().collect()), ..Outcome::default() })
}

/// Patches of the subject's annotations.
pub(crate) fn annotations(annotations: &[Value]) -> Answer {
    let patches = annotations.iter().map(|annotations| Patch {
        target: PatchTarget::Subject,
        strategy: PatchStrategy::Apply,
        body: json!({"metadata": {"annotations": annotations}}).to_string(),
    });
    Ok(Outcome { patches: Some(patches.collect()), ..Outcome::default() })
}

fn cluster_kind() -> Resource {
    let kind = GroupVersionKind::new("kubernetes.dask.org", "v1", "DaskCluster");
    Resource { kind, plural: "daskclusters".to_owned(), namespaced: true }
}

/// A handler of DaskClusters that may make ConfigMaps, Services, Pods and objects of all Dask kinds, and patch annotations.
pub(crate) fn handler(plugin: &str, triggers: &[TriggerRequest], guest: &Arc<Puppet>) -> MountedHandler {
    let kind =
        |group: &str, name: &str| KindReference { group: Some(group.to_owned()), version: None, name: name.to_owned() };
    let subject = kind("kubernetes.dask.org", "DaskCluster");
    let declaration = HandlerDeclaration {
        name: "h".to_owned(),
        subscription: Subscription {
            kind: subject.clone(),
            namespaces: Vec::new(),
            labels: None,
            annotations: Vec::new(),
            fields: Vec::new(),
            expression: None,
        },
        triggers: triggers.to_vec(),
        projection: None,
        related: Vec::new(),
    };
    let fields = vec!["metadata.annotations".to_owned()];
    let dask = ["DaskCluster", "DaskWorkerGroup", "DaskJob", "DaskAutoscaler"];
    let asked = Permissions {
        create: [kind("", "ConfigMap"), kind("", "Service"), kind("", "Pod")]
            .into_iter()
            .chain(dask.map(|name| kind("kubernetes.dask.org", name)))
            .collect(),
        patch: vec![PatchPermission { kind: subject, fields: fields.clone(), strategy: PatchStrategy::Apply }],
        ..Permissions::default()
    };
    let (group, name) = ("kubernetes.dask.org".to_owned(), "DaskCluster".to_owned());
    let grant = |group: &str, kind: &str| KindGrant { group: group.to_owned(), kind: kind.to_owned() };
    let create = dask.map(|kind| grant(&group, kind)).into_iter().chain([grant("", "Pod")]).collect();
    let granted =
        Grants { create, patch: vec![PatchGrant { group, kind: name, fields, merge: false }], ..Grants::default() };
    let resolve = |reference: &KindReference| {
        let named = |resource: &Resource| resource.kind.kind == reference.name;
        built_in_resources().into_iter().find(named).ok_or_else(|| "it is not served".to_owned())
    };
    let rights = Rights::new(&asked, &granted, Limits::default(), &resolve);
    MountedHandler {
        name: HandlerName { plugin: plugin.to_owned(), handler: "h".to_owned() },
        mounted: Mounted::new(&declaration, &[]).unwrap(),
        declaration,
        subject: cluster_kind(),
        children: rights.children(),
        rights,
        projection: None,
        config: "null".to_owned(),
        code: 1,
        takes_conflicts: false,
        identity: Identity::Operator,
        guest: Arc::clone(guest) as Arc<dyn Guest>,
    }
}

/// A cluster of which some objects are not watched, and which refuses some writes.
pub(crate) struct Watched {
    pub(crate) cluster: MemoryCluster,
    hidden: Mutex<BTreeSet<ObjectKey>>,
    refused: Mutex<BTreeMap<ObjectKey, &'static str>>,
    /// Objects that can't be read, and where.
    blurred: Mutex<BTreeMap<ObjectKey, &'static str>>,
    /// What was done to which kind, and in whose name.
    written: Mutex<Vec<(String, Identity)>>,
}

impl Watched {
    fn seen(&self, object: Arc<Object>) -> Arc<Object> {
        let Some(path) = self.blurred.lock().unwrap().get(&object.key()).copied() else { return object };
        let unreadable = Some(Box::new(Unreadable::new(path, "is odd")));
        Arc::new(Object { unreadable, ..(*object).clone() })
    }
}

impl Observed for Watched {
    fn get(&self, kind: &GroupVersionKind, at: &NamespacedName) -> Option<Arc<Object>> {
        let is_hidden = |object: &Arc<Object>| self.hidden.lock().unwrap().contains(&object.key());
        self.cluster.get(kind, at).filter(|object| !is_hidden(object)).map(|object| self.seen(object))
    }

    fn controlled_by(&self, kind: &GroupVersionKind, uid: &str) -> Vec<Arc<Object>> {
        self.cluster.controlled_by(kind, uid).into_iter().map(|object| self.seen(object)).collect()
    }

    fn departed(&self, kind: &GroupVersionKind, uid: &str) -> Vec<Arc<Object>> {
        self.cluster.departed(kind, uid)
    }

    fn resource(&self, kind: &GroupVersionKind) -> Option<Resource> {
        self.cluster.resource(kind)
    }

    fn has_status(&self, kind: &GroupVersionKind) -> bool {
        self.cluster.has_status(kind)
    }
}

impl Writes for Watched {
    fn write(&self, action: Action) -> Pending<'_, Result<Written, WriteError>> {
        self.write_under(action, Mandate::default())
    }

    fn write_under(&self, action: Action, mandate: Mandate) -> Pending<'_, Result<Written, WriteError>> {
        self.written
            .lock()
            .unwrap()
            .push((format!("{} {}", action.verb(), action.object().kind.kind), mandate.identity));
        let object = action.object().clone();
        if let Some(words) = self.refused.lock().unwrap().get(&object) {
            let (reason, message) = ("Forbidden".to_owned(), (*words).to_owned());
            return Box::pin(std::future::ready(Err(WriteError::Refused {
                object,
                code: 403,
                reason,
                message,
                fields: Vec::new(),
            })));
        }
        self.cluster.write(action)
    }

    fn is_gone(&self, resource: Resource, object: ObjectKey, uid: String) -> Pending<'_, Result<bool, WriteError>> {
        self.cluster.is_gone(resource, object, uid)
    }
}

pub(crate) struct World {
    pub(crate) watched: Watched,
    states: BTreeMap<String, SubjectState>,
}

impl World {
    /// One DaskCluster, `simple`.
    pub(crate) fn new() -> Self {
        let cluster = cluster_in_memory(built_in_resources(), "2026-11-22T18:30:00Z");
        let container = json!({"name": "c", "image": "i", "args": ["dask-worker"]});
        let service =
            json!({"type": "ClusterIP", "selector": {"a": "b"}, "ports": [{"name": "tcp-comm", "port": 8786}]});
        cluster
            .create(json!({
                "apiVersion": "kubernetes.dask.org/v1", "kind": "DaskCluster",
                "metadata": {"name": "simple", "namespace": "ns1"},
                "spec": {
                    "scheduler": {"spec": {"containers": [container]}, "service": service},
                    "worker": {"replicas": 0, "spec": {"containers": [container]}},
                },
            }))
            .unwrap();
        let watched = Watched {
            cluster,
            hidden: Mutex::default(),
            refused: Mutex::default(),
            blurred: Mutex::default(),
            written: Mutex::default(),
        };
        Self { watched, states: BTreeMap::new() }
    }

    pub(crate) fn at() -> NamespacedName {
        NamespacedName::new("ns1", "simple")
    }

    fn key(kind: &str, name: &str) -> ObjectKey {
        let (group, version) = if kind.starts_with("Dask") { ("kubernetes.dask.org", "v1") } else { ("", "v1") };
        ObjectKey { kind: GroupVersionKind::new(group, version, kind), at: NamespacedName::new("ns1", name) }
    }

    fn reconcile_of(&mut self, name: String, handler: &Handler, at: &NamespacedName) -> Report {
        let environment = Environment::default();
        let pipeline = Pipeline::new(&self.watched, &self.watched, &environment);
        // As it is between two reconciles.
        let remembered = Remembered::from(self.states.remove(&name).unwrap_or_default());
        let state = self.states.entry(name).or_insert(remembered.into());
        now(pipeline.reconcile(handler, at, state, NOW))
    }

    /// One reconcile of a plugin's handler over the DaskCluster.
    pub(crate) fn reconcile(&mut self, handler: &Arc<MountedHandler>) -> Report {
        self.reconcile_of(handler.name.to_string(), &Handler::Plugin(Arc::clone(handler)), &Self::at())
    }

    /// Reconciles until there is nothing left to write.
    pub(crate) fn settle(&mut self, handler: &Arc<MountedHandler>) -> Report {
        for _ in 0..10 {
            let report = self.reconcile(handler);
            if report.writes == 0 {
                return report;
            }
        }
        panic!("no end of writes");
    }

    /// Has the Dask reconciler make the objects of the DaskCluster.
    pub(crate) fn run_cluster(&mut self) -> Report {
        self.reconcile_of("native".to_owned(), &Handler::Native(Reconciler::Cluster), &Self::at())
    }

    /// Has all Dask reconcilers look at all Dask objects until they have nothing left to write.
    pub(crate) fn run_dask(&mut self) {
        for _ in 0..20 {
            let mut writes = 0;
            for reconciler in Reconciler::ALL {
                let subjects = self.watched.cluster.objects().into_iter();
                for subject in subjects.filter(|object| object.kind.same_kind(&reconciler.subject())) {
                    let name = format!("{} {}", reconciler.name(), subject.metadata.name);
                    writes += self.reconcile_of(name, &Handler::Native(reconciler), &subject.at()).writes;
                }
            }
            if writes == 0 {
                return;
            }
        }
        panic!("no end of writes");
    }

    pub(crate) fn state(&self, handler: &Arc<MountedHandler>) -> &SubjectState {
        &self.states[&handler.name.to_string()]
    }

    pub(crate) fn concerns(&self, handler: &MountedHandler) -> bool {
        let subject = self.watched.get(&handler.subject.kind, &Self::at());
        subject.is_some_and(|subject| handler.concerns(&subject, &self.watched, Reconciler::makes))
    }

    pub(crate) fn restart(&mut self) {
        self.states.clear();
    }

    pub(crate) fn get(&self, kind: &str, name: &str) -> Option<Value> {
        let key = Self::key(kind, name);
        self.watched.cluster.get(&key.kind, &key.at).map(|object| object.to_value())
    }

    pub(crate) fn authors(&self, kind: &str, name: &str) -> Vec<String> {
        self.watched.cluster.authors(&Self::key(kind, name))
    }

    pub(crate) fn edit(&self, kind: &str, name: &str, change: impl FnOnce(&mut Value)) {
        self.watched.cluster.edit(&Self::key(kind, name), change);
    }

    pub(crate) fn delete(&self, kind: &str, name: &str) {
        self.watched.cluster.delete(&Self::key(kind, name));
    }

    /// From now on all writes of an object are refused in these words.
    pub(crate) fn refuse(&self, kind: &str, name: &str, words: &'static str) {
        self.watched.refused.lock().unwrap().insert(Self::key(kind, name), words);
    }

    /// Nothing is refused any more.
    pub(crate) fn refuse_nothing(&self) {
        self.watched.refused.lock().unwrap().clear();
    }

    /// What was done to which kind since this was asked last, and in whose name.
    pub(crate) fn take_written(&self) -> Vec<(String, Identity)> {
        std::mem::take(&mut *self.watched.written.lock().unwrap())
    }

    /// A manager sets the owners that the object has, too.
    pub(crate) fn set_owner_as(&self, manager: &str, kind: &str, name: &str) {
        let object = self.watched.cluster.get(&Self::key(kind, name).kind, &Self::key(kind, name).at).unwrap();
        let owners = object.to_value()["metadata"]["ownerReferences"].take();
        let body = json!({"apiVersion": object.kind.api_version(), "kind": kind,
            "metadata": {"name": name, "ownerReferences": owners}});
        let apply = Apply {
            resource: self.watched.resource(&object.kind).unwrap(),
            object: object.key(),
            target: ApplyTarget::Object,
            manager: manager.to_owned(),
            precondition: Precondition::is(&object),
            body,
            force: true,
        };
        now(self.watched.write(Action::Apply(apply))).unwrap();
    }

    /// The object loses the labels by which it is watched.
    pub(crate) fn hide(&self, kind: &str, name: &str) {
        self.watched.hidden.lock().unwrap().insert(Self::key(kind, name));
    }

    /// The object can't be read at this path.
    pub(crate) fn blur(&self, kind: &str, name: &str, path: &'static str) {
        self.watched.blurred.lock().unwrap().insert(Self::key(kind, name), path);
    }

    /// All objects can be read again.
    pub(crate) fn focus(&self) {
        self.watched.blurred.lock().unwrap().clear();
    }
}

/// Reasons and messages of what could not be done.
pub(crate) fn problems(report: &Report) -> Vec<String> {
    report.findings.problems.iter().map(|problem| format!("{}: {}", problem.reason, problem.message)).collect()
}
