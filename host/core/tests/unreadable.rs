//! Objects that are there and can't be read as a whole: nothing is made, changed or removed because of them.
#![expect(clippy::panic, clippy::unwrap_used, reason = "the helpers of a test fail as a test does")]

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex},
};

use dask_wasm_operator_core::{
    dask::{Environment, Handler, Pipeline, Reconciler, cluster_in_memory},
    memory::{MemoryCluster, built_in_resources},
    native::Native as _,
    object::{GroupVersionKind, NamespacedName, Object, ObjectKey, Resource, Unreadable},
    pipeline::{Report, SubjectState},
    ports::{Observed, Schedulers},
    wanted::Problem,
};
use serde_json::{Value, json};

const NOW: u64 = 1_795_372_200_000;

/// A cluster in which some objects can't be read.
struct Blurred {
    cluster: MemoryCluster,
    blurred: Mutex<BTreeMap<ObjectKey, &'static str>>,
}

impl Blurred {
    /// As the watches would have it: what can't be read is not there.
    fn seen(&self, object: Arc<Object>) -> Arc<Object> {
        let Some(path) = self.blurred.lock().unwrap().get(&object.key()).copied() else { return object };
        let mut seen = (*object).clone();
        seen.unreadable = Some(Box::new(Unreadable::new(path, "the object nests deeper than 100 levels here")));
        if path == "metadata.labels" {
            seen.metadata.labels = Arc::default();
        } else {
            let readable = object.fields.iter().filter(|(name, _)| *name != "spec");
            seen.fields = readable.map(|(name, raw)| (name.to_owned(), raw.to_owned())).collect();
        }
        Arc::new(seen)
    }
}

impl Observed for Blurred {
    fn get(&self, kind: &GroupVersionKind, at: &NamespacedName) -> Option<Arc<Object>> {
        self.cluster.get(kind, at).map(|object| self.seen(object))
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

struct World {
    observed: Blurred,
    states: BTreeMap<(Reconciler, NamespacedName), SubjectState>,
}

/// Polls a future that never waits: the cluster in memory answers at once.
fn now<T>(future: impl Future<Output = T>) -> T {
    match std::pin::pin!(future).poll(&mut std::task::Context::from_waker(std::task::Waker::noop())) {
        std::task::Poll::Ready(value) => value,
        std::task::Poll::Pending => panic!("the cluster in memory made somebody wait"),
    }
}

fn cluster() -> Value {
    let container = json!({"name": "c", "image": "i", "args": ["dask-worker"]});
    let service = json!({"type": "ClusterIP", "selector": {"a": "b"}, "ports": [{"name": "tcp-comm", "port": 8786}]});
    json!({
        "apiVersion": "kubernetes.dask.org/v1", "kind": "DaskCluster", "metadata": {"name": "simple", "namespace": "n"},
        "spec": {
            "scheduler": {"spec": {"containers": [container]}, "service": service},
            "worker": {"replicas": 3, "spec": {"containers": [container]}},
        },
    })
}

fn job() -> Value {
    let runner = json!({"containers": [{"name": "job", "image": "i"}]});
    json!({
        "apiVersion": "kubernetes.dask.org/v1", "kind": "DaskJob", "metadata": {"name": "job", "namespace": "n"},
        "spec": {"job": {"spec": runner}, "cluster": {"spec": cluster()["spec"]}},
    })
}

fn autoscaler() -> Value {
    json!({
        "apiVersion": "kubernetes.dask.org/v1", "kind": "DaskAutoscaler", "metadata": {"name": "simple", "namespace": "n"},
        "spec": {"cluster": "simple", "minimum": 1, "maximum": 5},
    })
}

impl World {
    fn new() -> Self {
        let cluster_in_memory = cluster_in_memory(built_in_resources(), "2026-11-22T18:30:00Z");
        for object in [cluster(), job(), autoscaler()] {
            cluster_in_memory.create(object).unwrap();
        }
        let observed = Blurred { cluster: cluster_in_memory, blurred: Mutex::default() };
        let mut world = Self { observed, states: BTreeMap::new() };
        world.settle();
        world
    }

    /// Reconciles over all subjects until nothing is written; answers the last ones by kind and name of their subject.
    fn settle(&mut self) -> BTreeMap<String, Report> {
        for _ in 0..20 {
            let mut reconciles = BTreeMap::new();
            for reconciler in Reconciler::ALL {
                let subject = reconciler.subject();
                for object in self.observed.cluster.objects().iter().filter(|object| object.kind.same_kind(&subject)) {
                    let environment = Environment::default();
                    let pipeline = Pipeline::new(&self.observed, &self.observed.cluster, &environment);
                    let state = self.states.entry((reconciler, object.at())).or_default();
                    let report = now(pipeline.reconcile(&Handler::Native(reconciler), &object.at(), state, NOW));
                    for (scheduler, call) in &report.calls {
                        let reply = now(self.observed.cluster.call(scheduler.clone(), call.clone()));
                        state.heard(call, reply, NOW);
                    }
                    now(pipeline.publish(reconciler, &object.at(), state.found().as_ref(), NOW)).unwrap();
                    reconciles.insert(format!("{} {}", reconciler.name(), object.metadata.name), report);
                }
            }
            let is_asking = reconciles.values().any(|report| !report.calls.is_empty());
            if self.observed.cluster.take_written().is_empty() && !is_asking {
                return reconciles;
            }
        }
        panic!("no end of writes");
    }

    fn key(&self, kind: &str, name: &str) -> ObjectKey {
        let objects = self.observed.cluster.objects();
        let found = objects.iter().find(|object| object.kind.kind == kind && object.metadata.name == name);
        found.unwrap_or_else(|| panic!("there is no {kind} {name}")).key()
    }

    fn blur(&self, key: &ObjectKey, path: &'static str) {
        self.observed.blurred.lock().unwrap().insert(key.clone(), path);
    }

    fn clear(&self) {
        self.observed.blurred.lock().unwrap().clear();
    }

    fn restart(&mut self) {
        self.states.clear();
    }

    /// Everything but statuses: what there is, and which states of it.
    fn picture(&self) -> BTreeMap<ObjectKey, (String, Value)> {
        let objects = self.observed.cluster.objects().into_iter();
        objects.map(|object| (object.key(), (object.metadata.uid.clone(), object.to_value()["spec"].take()))).collect()
    }

    fn status(&self, key: &ObjectKey) -> Value {
        self.observed.cluster.get(&key.kind, &key.at).unwrap().to_value()["status"].take()
    }

    fn degraded(&self, key: &ObjectKey) -> (String, String) {
        let status = self.status(key);
        let conditions = status["conditions"].as_array().unwrap();
        let degraded = conditions.iter().find(|condition| condition["type"] == "Degraded").unwrap();
        let text = |field: &str| degraded[field].as_str().unwrap().to_owned();
        (text("reason"), text("message"))
    }

    fn of_kind(&self, kind: &str) -> Vec<ObjectKey> {
        let objects = self.observed.cluster.objects().into_iter();
        objects.filter(|object| object.kind.kind == kind).map(|object| object.key()).collect()
    }
}

fn words(problems: &[Problem]) -> Vec<String> {
    problems.iter().map(|problem| format!("{}: {}", problem.reason, problem.message)).collect()
}

const PATHS: [&str; 2] = ["spec.worker.spec.a", "metadata.labels"];

#[test]
fn fault_01_a_subject_that_can_not_be_read_says_so_and_keeps_what_it_has() {
    for (kind, name) in [
        ("DaskCluster", "simple"),
        ("DaskWorkerGroup", "simple-default"),
        ("DaskJob", "job"),
        ("DaskAutoscaler", "simple"),
    ] {
        for (path, restarts) in PATHS.into_iter().flat_map(|path| [(path, false), (path, true)]) {
            let mut world = World::new();
            let (before, key) = (world.picture(), world.key(kind, name));
            let status = world.status(&key);
            world.blur(&key, path);
            if restarts {
                world.restart();
            }
            let reconciles = world.settle();
            let expected =
                format!("{kind} {name}: {path}: the object nests deeper than 100 levels here; correct this field");
            if kind == "DaskJob" {
                let reconciler = format!("job {name}");
                assert_eq!(words(&reconciles[&reconciler].findings.problems), [format!("InvalidSpec: {expected}")]);
                assert_eq!(world.status(&key), status, "its status is what its clients compare");
            } else {
                let (reason, message) = world.degraded(&key);
                // That its group waits for it is told, too.
                assert!(reason == "InvalidSpec" && message.starts_with(&expected), "{reason}: {message}");
            }
            if kind == "DaskCluster" {
                assert_eq!(world.status(&key)["phase"], "Error");
            }
            assert_eq!(world.picture(), before, "{kind} {path}");
            world.clear();
            world.settle();
            assert_eq!(world.picture(), before, "{kind} {path}: nothing is left to do");
            if kind != "DaskJob" {
                assert_ne!(world.degraded(&key).0, "InvalidSpec");
            }
        }
    }
}

#[test]
fn fault_01_a_child_that_can_not_be_read_is_neither_made_again_nor_changed_nor_removed() {
    let children = |world: &World| -> Vec<ObjectKey> {
        let kinds = ["Deployment", "Service", "DaskWorkerGroup", "Pod"];
        let of_job = world.of_kind("DaskCluster").into_iter().filter(|key| key.at.name == "job");
        kinds.iter().flat_map(|kind| world.of_kind(kind)).chain(of_job).collect()
    };
    let all = children(&World::new());
    assert!(all.len() > 10, "{all:?}");
    for child in all {
        for path in PATHS {
            let mut world = World::new();
            let before = world.picture();
            world.blur(&child, path);
            world.restart();
            let reconciles = world.settle();
            assert_eq!(world.picture(), before, "{child} {path}");
            let told = reconciles.values().flat_map(|report| words(&report.findings.problems));
            let told: Vec<_> = told.filter(|problem| problem.starts_with("Unreadable")).collect();
            assert!(
                told.iter().any(|problem| problem.contains(&child.to_string()) && problem.contains(path)),
                "{told:?}"
            );
        }
    }
}

#[test]
fn fault_01_others_are_looked_after_as_before() {
    let mut world = World::new();
    world.blur(&world.key("DaskWorkerGroup", "simple-default"), "spec.worker.spec.a");
    let scheduler = world.key("Deployment", "simple-scheduler");
    world.observed.cluster.delete(&scheduler);
    world.observed.cluster.delete(&world.key("Service", "job-scheduler"));
    world.settle();
    world.key("Deployment", "simple-scheduler");
    world.key("Service", "job-scheduler");
    // Of the group that can't be read nothing is repaired, and nothing removed.
    assert_eq!(world.of_kind("Deployment").len(), 8);
}

#[test]
fn fault_01_nothing_is_scaled_by_a_group_or_cluster_that_can_not_be_read() {
    let mut world = World::new();
    let workers = |world: &World| {
        let workers = world.of_kind("Deployment").into_iter();
        workers.filter(|key| key.at.name.starts_with("simple-default-worker-")).collect::<BTreeSet<_>>()
    };
    let before = workers(&world);
    let group = world.key("DaskWorkerGroup", "simple-default");
    world.blur(&world.key("DaskCluster", "simple"), "spec.worker.spec.a");
    world.observed.cluster.edit(&group, |group| group["spec"]["worker"]["replicas"] = json!(1));
    let reconciles = world.settle();
    assert_eq!(workers(&world), before, "whether its scheduler is to be asked with certificates is not known");
    let told = words(&reconciles["workergroup simple-default"].findings.problems);
    assert!(told[0].starts_with("Unreadable: DaskCluster.kubernetes.dask.org n/simple can't be read"), "{told:?}");
    world.clear();
    world.settle();
    assert_eq!(workers(&world).len(), 1);

    world.blur(&group, "spec.worker.spec.a");
    let reconciles = world.settle();
    let told = words(&reconciles["autoscaler simple"].findings.problems);
    assert!(told[0].starts_with("Unreadable: DaskWorkerGroup"), "it is there: {told:?}");
}
