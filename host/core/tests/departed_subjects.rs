//! A plugin's subject that is not seen any more: its children go, and if they can't, that is tried again.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use dask_wasm_operator_core::{
    action::{Action, WriteError, Written},
    contract::{Call, Child, HandlerDeclaration, KindReference, Outcome, Permissions, Subscription, TriggerRequest},
    dask::{Environment, Handler, Pipeline, cluster_in_memory},
    identity::Identity,
    memory::{MemoryCluster, built_in_resources},
    object::{GroupVersionKind, NamespacedName, Object, Resource},
    pipeline::{MountedHandler, SubjectState},
    plugin::{HandlerName, Mounted, Rights},
    ports::{CallReport, Guest, Observed, Pending, Writes},
    retry::Retry,
    spec::{Grants, Limits, LimitsSpec},
};
use futures_util::FutureExt;
use serde_json::json;

/// Answers one child.
struct OneChild;

impl Guest for OneChild {
    fn call(&self, _: Call) -> Pending<'_, CallReport> {
        let object = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "child"}}).to_string();
        let children = Some(vec![Child { key: "child".to_owned(), object }]);
        let outcome =
            Outcome { children, patches: None, events: Vec::new(), requeue_after: None, delete_subject: false };
        let duration = std::time::Duration::ZERO;
        Box::pin(std::future::ready(CallReport { result: Ok(outcome), log: Vec::new(), log_dropped: 0, duration }))
    }
}

/// A cluster in memory whose subject can leave the watches, and which may be away.
struct World {
    cluster: MemoryCluster,
    is_subject_seen: AtomicBool,
    is_away: AtomicBool,
}

impl Observed for World {
    fn get(&self, kind: &GroupVersionKind, at: &NamespacedName) -> Option<Arc<Object>> {
        let found = self.cluster.get(kind, at);
        found.filter(|object| object.metadata.name != "subject" || self.is_subject_seen.load(Ordering::Relaxed))
    }

    fn controlled_by(&self, kind: &GroupVersionKind, uid: &str) -> Vec<Arc<Object>> {
        self.cluster.controlled_by(kind, uid)
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

impl Writes for World {
    fn write(&self, action: Action) -> Pending<'_, Result<Written, WriteError>> {
        if self.is_away.load(Ordering::Relaxed) {
            let (object, verb) = (action.object().clone(), action.verb());
            let error = WriteError::Unavailable { object, verb, message: "away".to_owned() };
            return Box::pin(std::future::ready(Err(error)));
        }
        self.cluster.write(action)
    }
}

fn handler() -> Handler {
    let kind = KindReference { group: Some(String::new()), version: None, name: "ConfigMap".to_owned() };
    let subscription = Subscription {
        kind: kind.clone(),
        namespaces: Vec::new(),
        labels: None,
        annotations: Vec::new(),
        fields: Vec::new(),
        expression: None,
    };
    let declaration = HandlerDeclaration {
        name: "h".to_owned(),
        subscription,
        triggers: vec![TriggerRequest::Observed],
        projection: None,
        related: Vec::new(),
    };
    let asked = Permissions { read: Vec::new(), create: vec![kind], patch: Vec::new(), delete_subject: false };
    let limits = Limits::resolve(&LimitsSpec::default()).expect("the defaults are in bounds");
    let config_map = GroupVersionKind::new("", "v1", "ConfigMap");
    let subject = Resource { kind: config_map.clone(), plural: "configmaps".to_owned(), namespaced: true };
    Handler::Plugin(Arc::new(MountedHandler {
        name: HandlerName { plugin: "p".to_owned(), handler: "h".to_owned() },
        mounted: Mounted::new(&declaration, &[]).expect("there is no selector"),
        declaration,
        rights: Rights::new(&asked, &Grants::default(), limits, &|_| Ok(subject.clone())),
        subject,
        children: vec![config_map],
        projection: None,
        config: "null".to_owned(),
        code: 1,
        takes_conflicts: false,
        identity: Identity::Operator,
        guest: Arc::new(OneChild),
    }))
}

#[test]
fn children_of_a_subject_that_left_are_deleted_as_soon_as_that_is_possible() {
    let world = World {
        cluster: cluster_in_memory(built_in_resources(), "2026-11-22T18:30:00Z"),
        is_subject_seen: AtomicBool::new(true),
        is_away: AtomicBool::new(false),
    };
    let subject = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "subject"}});
    let at = world.cluster.create(subject).unwrap().at;
    let environment = Environment::default();
    let pipeline = Pipeline::new(&world, &world, &environment);
    let (handler, mut state) = (handler(), SubjectState::default());
    let mut report = || pipeline.reconcile(&handler, &at, &mut state, 0).now_or_never().unwrap();
    assert_eq!(report().writes, 1);
    let is_there = || world.cluster.objects().iter().any(|object| object.metadata.name == "child");
    assert!(is_there());

    world.is_subject_seen.store(false, Ordering::Relaxed);
    world.is_away.store(true, Ordering::Relaxed);
    for _ in 0..10 {
        assert!(matches!(report().retry, Some(Retry::After(_))));
    }
    world.is_away.store(false, Ordering::Relaxed);
    let last = report();
    assert_eq!((last.writes, last.retry), (1, None));
    assert!(!is_there());
}
