//! A copy of a spec follows it, whatever is put in, taken out or emptied.
#![expect(clippy::panic, clippy::unwrap_used, reason = "the helpers of a test fail as a test does")]

use dask_wasm_operator_core::{
    action::{Action, Apply, ApplyTarget, Precondition, WriteError},
    dask::{Environment, Handler, Pipeline, Reconciler, cluster_in_memory},
    memory::{MemoryCluster, built_in_resources},
    object::{GroupVersionKind, NamespacedName, ObjectKey},
    pipeline::SubjectState,
    ports::{Observed as _, Writes as _},
};
use dask_wasm_operator_test_properties::cases;
use proptest::prelude::*;
use serde_json::{Map, Value, json};

/// Polls a future that never waits: the cluster in memory answers at once.
fn now<T>(future: impl Future<Output = T>) -> T {
    match std::pin::pin!(future).poll(&mut std::task::Context::from_waker(std::task::Waker::noop())) {
        std::task::Poll::Ready(value) => value,
        std::task::Poll::Pending => panic!("the cluster in memory made somebody wait"),
    }
}

/// A DaskCluster whose workers' pods have a field that nobody knows, and its default group.
struct World {
    cluster: MemoryCluster,
    subject: ObjectKey,
    state: SubjectState,
}

impl World {
    fn new(field: Option<&Value>) -> Self {
        let cluster = cluster_in_memory(built_in_resources(), "2026-11-22T18:30:00Z");
        let pod = |name: &str| json!({"containers": [{"name": name, "image": "i"}]});
        let service = json!({"ports": [{"port": 8786}]});
        let subject = cluster.create(json!({
            "apiVersion": "kubernetes.dask.org/v1", "kind": "DaskCluster",
            "metadata": {"name": "simple", "namespace": "n"},
            "spec": {
                "scheduler": {"spec": pod("scheduler"), "service": service},
                "worker": {"replicas": 1, "spec": pod("worker")},
            },
        }));
        let mut world = Self { cluster, subject: subject.unwrap(), state: SubjectState::default() };
        world.ask(field);
        world.settle();
        world
    }

    fn ask(&self, field: Option<&Value>) {
        self.cluster.edit(&self.subject, |object| {
            let pod = object["spec"]["worker"]["spec"].as_object_mut().unwrap();
            pod.remove("field");
            pod.extend(field.map(|field| ("field".to_owned(), field.clone())));
        });
    }

    /// Reconciles until nothing is written any more; returns how many writes the group has got.
    fn settle(&mut self) -> usize {
        let environment = Environment::default();
        let pipeline = Pipeline::new(&self.cluster, &self.cluster, &environment);
        let handler = Handler::Native(Reconciler::Cluster);
        let mut writes = 0;
        for _ in 0..5 {
            let report = now(pipeline.reconcile(&handler, &self.subject.at, &mut self.state, 0));
            assert!(report.retry.is_none(), "{:?}", report.retry);
            let written = self.cluster.take_written();
            if written.is_empty() {
                return writes;
            }
            writes += written.iter().filter(|(key, _)| key.kind.kind == "DaskWorkerGroup").count();
        }
        panic!("no end of writes")
    }

    fn copy(&self) -> Option<Value> {
        let kind = GroupVersionKind::new("kubernetes.dask.org", "v1", "DaskWorkerGroup");
        let group = self.cluster.get(&kind, &NamespacedName::new("n", "simple-default")).unwrap();
        group.to_value().pointer("/spec/worker/spec/field").cloned()
    }
}

/// Few names and shallow, so that two of them often differ in the emptiness of the same map. Empty lists are left out: where
/// none was, they are not applied.
fn field() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![Just(json!(1)), Just(json!("x")), Just(json!({}))];
    leaf.prop_recursive(4, 12, 3, |below| {
        prop_oneof![
            3 => proptest::collection::btree_map("[ab]", below.clone(), 0..3)
                .prop_map(|fields| Value::Object(fields.into_iter().collect::<Map<_, _>>())),
            1 => proptest::collection::vec(below, 1..3).prop_map(Value::Array),
        ]
    })
}

proptest! {
    #![proptest_config(cases(256))]
    #[test]
    fn a_copy_is_the_same_after_two_writes_at_most(
        before in proptest::option::of(field()), after in proptest::option::of(field()), restarts: bool,
    ) {
        let mut world = World::new(before.as_ref());
        prop_assert_eq!(world.copy(), before);
        if restarts {
            world.state = SubjectState::default();
        }
        world.ask(after.as_ref());
        let writes = world.settle();
        prop_assert_eq!(world.copy(), after);
        prop_assert!(writes <= 2, "{} writes", writes);
    }
}

#[test]
fn what_loses_a_field_but_not_the_last_takes_one_write() {
    let mut world = World::new(Some(&json!({"a": {"b": 1, "c": 2}, "d": [{"e": {"f": 1}}]})));
    for (field, writes) in [
        (json!({"a": {"b": 1}, "d": [{"e": {"f": 1}}]}), 1),
        (json!({"a": {"b": 1}, "d": [{"e": {}}]}), 1),
        (json!({"a": {}, "d": [{"e": {}}]}), 2),
        (json!({"a": {}, "d": []}), 1),
    ] {
        world.ask(Some(&field));
        assert_eq!((world.settle(), world.copy()), (writes, Some(field)));
    }
}

/// As a real API server, see `api_server/emptied.rs`.
#[test]
fn the_cluster_in_memory_makes_null_of_a_map_that_loses_its_last_field() {
    let world = World::new(Some(&json!({"a": {"b": 1}})));
    let kind = GroupVersionKind::new("kubernetes.dask.org", "v1", "DaskWorkerGroup");
    let live = world.cluster.get(&kind, &NamespacedName::new("n", "simple-default")).unwrap();
    let apply = |field: Value| {
        let mut body = json!({"apiVersion": "kubernetes.dask.org/v1", "kind": "DaskWorkerGroup"});
        body["metadata"]["name"] = json!("simple-default");
        body["spec"]["worker"]["spec"]["field"] = field;
        let resource = world.cluster.resource(&kind).unwrap();
        let (manager, target) = ("dask-operator/cluster".to_owned(), ApplyTarget::Object);
        let (object, precondition) = (live.key(), Precondition::is(&live));
        now(world.cluster.write(Action::Apply(Apply {
            resource,
            object,
            target,
            manager,
            precondition,
            body,
            force: true,
        })))
    };
    let error = apply(json!({"a": {}})).unwrap_err();
    assert!(matches!(&error, WriteError::Refused { message, .. } if message.contains("null")), "{error:?}");
    assert_eq!(world.copy(), Some(json!({"a": {"b": 1}})), "nothing has changed");
    assert!(apply(json!({})).is_err(), "whatever is below");
    assert!(apply(json!({"a": {"c": 1}})).is_ok());
    assert_eq!(world.copy(), Some(json!({"a": {"c": 1}})));
}
