//! Objects that the Python operator holds: freed once, and let alone while it is at work.
#![expect(clippy::panic, clippy::unwrap_used, reason = "the helpers of a test fail as a test does")]

use std::time::Duration;

use dask_wasm_operator_core::{
    action::{Action, WriteError, Written},
    dask::{
        Environment, Handler, KOPF_FINALIZER, Pipeline, Reconciler, cluster_in_memory, cluster_kind, worker_group_kind,
    },
    memory::{MemoryCluster, built_in_resources},
    native::Native as _,
    object::{NamespacedName, ObjectKey},
    pipeline::{Report, SubjectState},
    ports::{Pending, Writes},
    retry::Retry,
};
use serde_json::{Value, json};

const NOW: u64 = 1_795_372_200_000;

struct World {
    cluster: MemoryCluster,
    state: SubjectState,
    environment: Environment,
    now: u64,
}

fn simple() -> Value {
    let pod = json!({"containers": [{"name": "c", "image": "i"}]});
    json!({
        "apiVersion": "kubernetes.dask.org/v1",
        "kind": "DaskCluster",
        "metadata": {"name": "simple", "namespace": "n", "finalizers": ["other.example.org/keep", KOPF_FINALIZER]},
        "spec": {
            "worker": {"replicas": 1, "spec": pod},
            "scheduler": {"spec": pod, "service": {"type": "ClusterIP", "ports": [{"port": 8786}]}},
        },
    })
}

fn now<T>(future: impl Future<Output = T>) -> T {
    match std::pin::pin!(future).poll(&mut std::task::Context::from_waker(std::task::Waker::noop())) {
        std::task::Poll::Ready(value) => value,
        std::task::Poll::Pending => panic!("the cluster in memory made somebody wait"),
    }
}

impl World {
    fn new() -> Self {
        let cluster = cluster_in_memory(built_in_resources(), "2026-11-22T18:30:00Z");
        cluster.create(simple()).unwrap();
        Self { cluster, state: SubjectState::default(), environment: Environment::default(), now: NOW }
    }

    fn key() -> ObjectKey {
        ObjectKey { kind: cluster_kind(), at: NamespacedName::new("n", "simple") }
    }

    fn reconcile(&mut self) -> Report {
        let pipeline = Pipeline::new(&self.cluster, &self.cluster, &self.environment);
        let handler = Handler::Native(Reconciler::Cluster);
        now(pipeline.reconcile(&handler, &Self::key().at, &mut self.state, self.now))
    }

    fn finalizers(&self) -> Value {
        let objects = self.cluster.objects();
        let simple = objects.iter().find(|object| object.key() == Self::key()).unwrap();
        json!(simple.metadata.finalizers)
    }

    fn owner(&self) -> Value {
        let objects = self.cluster.objects();
        json!(objects.iter().find(|object| object.key() == Self::key()).unwrap().as_owner())
    }

    /// As kopf does when its finalizer is missing.
    fn put_back(&self) {
        self.cluster.edit(&Self::key(), |object| {
            object["metadata"]["finalizers"] = json!(["other.example.org/keep", KOPF_FINALIZER]);
        });
    }

    fn has_group(&self) -> bool {
        self.cluster.objects().iter().any(|object| object.kind.same_kind(&worker_group_kind()))
    }
}

#[test]
fn the_finalizer_goes_first_and_those_of_others_stay() {
    let mut world = World::new();
    assert_eq!(world.reconcile().writes, 1);
    assert_eq!(world.finalizers(), json!(["other.example.org/keep"]));
    let report = world.reconcile();
    assert_eq!((report.writes, report.requeue_after), (0, Some(Duration::from_secs(5))), "it might come back");
    assert!(!world.has_group());
    world.now += 5_000;
    world.reconcile();
    assert!(world.has_group());
}

#[test]
fn nothing_is_written_while_the_python_operator_is_at_work() {
    let mut world = World::new();
    world.reconcile();
    world.put_back();
    for _ in 0..3 {
        let report = world.reconcile();
        assert_eq!((report.writes, &*report.findings.problems[0].reason), (0, "PythonOperatorActive"));
        assert!(report.findings.problems[0].message.contains("uninstall"), "{report:?}");
        assert_eq!(report.requeue_after, Some(Duration::from_secs(30)));
        // What is known of it survives a restart.
        world.state = SubjectState::default();
    }
    world.now += 30_000;
    assert_eq!(world.reconcile().writes, 1, "some time later it is tried again");
    assert!(!world.has_group());
    world.now += 5_000;
    world.reconcile();
    assert!(world.has_group(), "and this time it stayed away");
}

/// The belief that is attacked: that the time there was written by a process with the same clock.
#[test]
fn a_takeover_that_is_yet_to_come_is_not_waited_for() {
    for time in ["9999-01-01T00:00:00Z", "2026-11-22T18:30:01Z"] {
        let mut world = World::new();
        world.reconcile();
        world.cluster.edit(&World::key(), |object| {
            object["metadata"]["annotations"]["operator.dask.org/taken-over-at"] = json!(time);
        });
        let report = world.reconcile();
        assert!(world.has_group() && report.requeue_after.is_none(), "{time}: {report:?}");
        world.put_back();
        world.reconcile();
        assert_eq!(world.finalizers(), json!(["other.example.org/keep"]), "{time}");
    }
}

#[test]
fn a_group_waits_for_its_cluster() {
    let mut world = World::new();
    let group = |world: &World, state: &mut SubjectState| {
        let pipeline = Pipeline::new(&world.cluster, &world.cluster, &world.environment);
        let handler = Handler::Native(Reconciler::WorkerGroup);
        now(pipeline.reconcile(&handler, &NamespacedName::new("n", "simple-default"), state, world.now))
    };
    world.reconcile();
    world.now += 5_000;
    world.reconcile();
    world.put_back();
    world.now += 30_000;
    let mut state = SubjectState::default();
    assert_eq!(group(&world, &mut state).writes, 0, "the cluster is held");
    world.reconcile();
    let report = group(&world, &mut state);
    assert_eq!((report.writes, report.requeue_after), (0, Some(Duration::from_secs(5))), "it might come back");
    world.now += 5_000;
    assert!(group(&world, &mut state).writes > 0);
}

#[test]
fn a_number_that_the_python_operator_has_not_seen_is_copied_and_no_other() {
    for (handled, expected) in [(2, 3), (3, 2)] {
        let mut world = World::new();
        world.reconcile();
        world.now += 5_000;
        world.reconcile();
        // As the Python operator leaves a cluster and its group.
        let group = ObjectKey { kind: worker_group_kind(), at: NamespacedName::new("n", "simple-default") };
        world.cluster.forget_apply(&group, "dask-operator/cluster");
        let owner = world.owner();
        world.cluster.edit(&group, |object| {
            object["metadata"]["annotations"] = json!({});
            object["metadata"]["ownerReferences"] = json!([owner]);
            object["spec"] = simple()["spec"].clone();
            object["spec"]["cluster"] = json!("simple");
            object["spec"]["worker"]["replicas"] = json!(2);
        });
        world.cluster.edit(&World::key(), |object| {
            let handled = json!({"spec": {"worker": {"replicas": handled}}}).to_string();
            object["metadata"]["annotations"]["kopf.zalando.org/last-handled-configuration"] = json!(handled);
            object["spec"]["worker"]["replicas"] = json!(3);
        });
        world.reconcile(); // What there is becomes ours.
        world.reconcile();
        let objects = world.cluster.objects();
        let group = objects.iter().find(|object| object.key() == group).unwrap().to_value();
        assert_eq!(
            group["spec"]["worker"]["replicas"], expected,
            "of 2 workers, with 3 asked for and {handled} handled"
        );
    }
}

/// Of the cluster `simple`, held by the Python operator, which has just put its finalizer back.
fn held_with(object: Value) -> World {
    let mut world = World::new();
    world.cluster.create(object).unwrap();
    world.reconcile();
    world.put_back();
    world.cluster.take_written();
    world
}

impl World {
    fn reconcile_of(&self, reconciler: Reconciler, name: &str) -> Report {
        let pipeline = Pipeline::new(&self.cluster, &self.cluster, &self.environment);
        let at = NamespacedName::new("n", name);
        let mut state = SubjectState::default();
        let report = now(pipeline.reconcile(&Handler::Native(reconciler), &at, &mut state, self.now));
        if !reconciler.traits().has_conditions {
            now(pipeline.publish(reconciler, &at, state.found().as_ref(), self.now)).unwrap();
        }
        report
    }
}

#[test]
fn what_belongs_to_a_held_cluster_waits_although_it_carries_no_finalizer() {
    let object = |kind: &str, name: &str, spec: Value| {
        let metadata = json!({"name": name, "namespace": "n"});
        json!({"apiVersion": "kubernetes.dask.org/v1", "kind": kind, "metadata": metadata, "spec": spec})
    };
    let group = object("DaskWorkerGroup", "more", json!({"cluster": "simple", "worker": simple()["spec"]["worker"]}));
    let autoscaler = object("DaskAutoscaler", "a", json!({"cluster": "simple", "minimum": 1, "maximum": 3}));
    let job = object(
        "DaskJob",
        "simple",
        json!({
            "job": {"spec": {"containers": [{"name": "c", "image": "i"}]}}, "cluster": {"spec": simple()["spec"]},
        }),
    );
    for (reconciler, name, object) in [
        (Reconciler::WorkerGroup, "more", group),
        (Reconciler::Autoscaler, "a", autoscaler),
        (Reconciler::Job, "simple", job),
    ] {
        let mut world = held_with(object);
        let report = world.reconcile_of(reconciler, name);
        assert_eq!((report.writes, report.requeue_after), (0, Some(Duration::from_secs(30))), "{reconciler:?}");
        assert_eq!(world.cluster.take_written(), [], "{reconciler:?}: nor its status");
        world.now += 30_000;
        world.reconcile();
        world.cluster.take_written();
        let report = world.reconcile_of(reconciler, name);
        assert_eq!((report.writes, report.requeue_after), (0, Some(Duration::from_secs(5))), "{reconciler:?}");
        world.now += 5_000;
        world.reconcile_of(reconciler, name);
        assert_ne!(world.cluster.take_written(), [], "{reconciler:?}");
    }
}

/// A webhook that refuses everything.
struct Refusing;

impl Writes for Refusing {
    fn write(&self, action: Action) -> Pending<'_, Result<Written, WriteError>> {
        let error = WriteError::Refused {
            object: action.object().clone(),
            code: 403,
            reason: "Forbidden".to_owned(),
            message: "denied".to_owned(),
            fields: Vec::new(),
        };
        Box::pin(std::future::ready(Err(error)))
    }
}

#[test]
fn a_refused_removal_is_tried_less_and_less_often() {
    for is_ending in [false, true] {
        let mut world = World::new();
        if is_ending {
            world.cluster.edit(&World::key(), |object| {
                object["metadata"]["deletionTimestamp"] = json!("2026-11-22T18:30:00Z");
            });
        }
        let mut last = Duration::ZERO;
        for attempt in 0..6 {
            let pipeline = Pipeline::new(&world.cluster, &Refusing, &world.environment);
            let handler = Handler::Native(Reconciler::Cluster);
            let report = now(pipeline.reconcile(&handler, &World::key().at, &mut world.state, world.now));
            let Some(Retry::After(delay)) = report.retry else { panic!("{report:?}") };
            assert!(!world.state.is_spent(), "the controller would forget it");
            assert!(attempt < 2 || delay > last, "attempt {attempt} after {delay:?}");
            last = delay;
        }
    }
}

#[test]
fn force_goes_on_nevertheless() {
    let mut world = World::new();
    world.environment.force_takeover = true;
    world.reconcile();
    world.put_back();
    assert_eq!(world.reconcile().writes, 1);
    world.reconcile();
    assert!(world.has_group());
}
