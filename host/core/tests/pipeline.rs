//! The native pipeline over a cluster in memory: what is made, what is repaired, what is left alone.
#![expect(clippy::panic, clippy::unwrap_used, reason = "the helpers of a test fail as a test does")]

use std::{collections::BTreeMap, sync::Arc};

use dask_wasm_operator_core::{
    dask::{Environment, Handler, Pipeline, Reconciler, cluster_in_memory},
    memory::{MemoryCluster, built_in_resources},
    native::Native as _,
    object::{NamespacedName, Object, ObjectKey},
    pipeline::{Report, SubjectState},
    ports::{Observed, Schedulers},
};
use serde_json::{Value, json};

const NOW: u64 = 1_795_372_200_000;

struct World {
    cluster: MemoryCluster,
    states: BTreeMap<(Reconciler, NamespacedName), SubjectState>,
    environment: Environment,
    /// What the last round wrote.
    written: Vec<(ObjectKey, String)>,
}

/// Polls a future that never waits: the cluster in memory answers at once.
fn now<T>(future: impl Future<Output = T>) -> T {
    match std::pin::pin!(future).poll(&mut std::task::Context::from_waker(std::task::Waker::noop())) {
        std::task::Poll::Ready(value) => value,
        std::task::Poll::Pending => panic!("the cluster in memory made somebody wait"),
    }
}

impl World {
    fn new(objects: impl IntoIterator<Item = Value>) -> Self {
        let cluster = cluster_in_memory(built_in_resources(), "2026-11-22T18:30:00Z");
        objects.into_iter().for_each(|object| {
            cluster.create(object).unwrap();
        });
        Self { cluster, states: BTreeMap::new(), environment: Environment::default(), written: Vec::new() }
    }

    /// One reconcile over each subject, with its status; returns the number of writes.
    fn round(&mut self) -> (usize, Vec<Report>) {
        let mut reconciles = Vec::new();
        for reconciler in Reconciler::ALL {
            for object in self.cluster.objects().iter().filter(|object| object.kind.same_kind(&reconciler.subject())) {
                let pipeline = Pipeline::new(&self.cluster, &self.cluster, &self.environment);
                let state = self.states.entry((reconciler, object.at())).or_default();
                let report = now(pipeline.reconcile(&Handler::Native(reconciler), &object.at(), state, NOW));
                for (scheduler, call) in &report.calls {
                    let reply = now(self.cluster.call(scheduler.clone(), call.clone()));
                    state.heard(call, reply, NOW);
                }
                reconciles.push(report);
                now(pipeline.publish(reconciler, &object.at(), state.found().as_ref(), NOW)).unwrap();
            }
        }
        self.written = self.cluster.take_written();
        (self.written.len(), reconciles)
    }

    fn settle(&mut self) -> Vec<Report> {
        for _ in 0..10 {
            let (written, reconciles) = self.round();
            if written == 0 && reconciles.iter().all(|report| report.calls.is_empty()) {
                return reconciles;
            }
        }
        panic!("no end of writes: {:?}", self.written);
    }

    fn restart(&mut self) {
        self.states.clear();
    }

    fn of_kind(&self, kind: &str) -> Vec<Arc<Object>> {
        self.cluster.objects().into_iter().filter(|object| object.kind.kind == kind).collect()
    }

    fn get(&self, kind: &str, name: &str) -> Value {
        let found = self.of_kind(kind).into_iter().find(|object| object.metadata.name == name);
        found.unwrap_or_else(|| panic!("there is no {kind} {name}")).to_value()
    }

    /// Changes an object as a person would, who does not touch what others applied.
    fn edit(&self, kind: &str, name: &str, change: impl FnOnce(&mut Value)) {
        let object = self.of_kind(kind).into_iter().find(|object| object.metadata.name == name).unwrap();
        self.cluster.edit(&object.key(), change);
    }

    fn workers(&self) -> Vec<String> {
        let workers = self.of_kind("Deployment").into_iter().filter(|object| object.metadata.name.contains("-worker-"));
        workers.map(|object| object.metadata.name.clone()).collect()
    }

    fn key(&self, kind: &str, name: &str) -> ObjectKey {
        self.of_kind(kind).into_iter().find(|object| object.metadata.name == name).unwrap().key()
    }
}

fn golden() -> Value {
    serde_json::from_str(include_str!("fixtures/python-operator-objects.json")).unwrap()
}

/// The DaskCluster of the Python operator's tests, put together again from the objects that it makes of it.
fn simple(replicas: u32) -> Value {
    let golden = golden();
    let scheduler = golden["scheduler"]["spec"]["template"]["spec"].clone();
    let service = golden["service"]["spec"].clone();
    let mut worker = golden["wg"]["spec"]["worker"].clone();
    worker["replicas"] = json!(replicas);
    json!({
        "apiVersion": "kubernetes.dask.org/v1", "kind": "DaskCluster",
        "metadata": {"name": "simple", "namespace": "ns1", "labels": {"test-label": "label-value"},
            "annotations": {"test-annotation": "annotation-value", "kopf.zalando.org/last": "x", "kubectl.kubernetes.io/last-applied-configuration": "y"}},
        "spec": {
            "scheduler": {"metadata": {"labels": {"scheduler-sublabel": "label-value"}, "annotations": {"scheduler-subannotation": "annotation-value"}},
                "spec": scheduler, "service": service},
            "worker": worker,
        },
    })
}

#[test]
fn the_objects_are_those_of_the_python_operator_but_for_the_listed_differences() {
    let mut world = World::new([simple(1)]);
    world.settle();
    let golden = golden();
    let workers = world.workers();
    let pairs = [
        ("scheduler", world.get("Deployment", "simple-scheduler")),
        ("service", world.get("Service", "simple-scheduler")),
        ("wg", world.get("DaskWorkerGroup", "simple-default")),
        ("worker", world.get("Deployment", &workers[0])),
    ];
    for (name, mut ours) in pairs {
        let mut theirs = golden[name].clone();
        // Of the API server, not of the maker.
        for field in ["uid", "resourceVersion", "generation", "creationTimestamp"] {
            ours["metadata"].as_object_mut().unwrap().remove(field);
        }
        ours.as_object_mut().unwrap().remove("status");
        ours["metadata"]["ownerReferences"][0]["uid"] = theirs["metadata"]["ownerReferences"][0]["uid"].clone();
        // The operator's own records.
        let annotations = ours["metadata"]["annotations"].as_object_mut().unwrap();
        annotations.retain(|key, _| !key.starts_with("operator.dask.org/"));
        // A pod template has labels and annotations; its name, namespace and owner mean nothing and are left out.
        if let Some(metadata) = theirs.pointer_mut("/spec/template/metadata").and_then(Value::as_object_mut) {
            metadata.retain(|key, _| matches!(key.as_str(), "labels" | "annotations"));
        }
        if name == "worker" {
            // The suffix follows from the group's uid and an ordinal instead of chance.
            let text = theirs.to_string().replace("simple-default-worker-0123456789", &workers[0]);
            theirs = serde_json::from_str(&text).unwrap();
        }
        if name == "wg" {
            theirs["spec"]["worker"]["replicas"] = json!(1);
        }
        assert_eq!(ours, theirs, "{name}");
    }
    assert!(
        workers[0].starts_with("simple-default-worker-") && workers[0].len() == "simple-default-worker-".len() + 10
    );
}

#[test]
fn a_settled_cluster_stays_as_it_is_also_after_a_restart() {
    let mut world = World::new([simple(3)]);
    world.settle();
    assert_eq!(world.round().0, 0);
    world.restart();
    assert_eq!(world.round().0, 0, "what an earlier process applied is recognised");
}

#[test]
fn what_is_deleted_or_edited_is_repaired() {
    let mut world = World::new([simple(3)]);
    world.settle();
    let before = world.workers();
    let scheduler = world.get("Deployment", "simple-scheduler");
    for (kind, name) in [
        ("Deployment", "simple-scheduler"),
        ("Service", "simple-scheduler"),
        ("Deployment", before[1].as_str()),
        ("DaskWorkerGroup", "simple-default"),
    ] {
        world.cluster.delete(&world.key(kind, name));
        world.settle();
        assert_eq!(world.workers().len(), 3, "after {kind} {name} was deleted");
    }
    assert_eq!(world.get("Deployment", "simple-scheduler")["spec"], scheduler["spec"]);
}

#[test]
fn scaling_follows_the_group_unless_the_cluster_changes() {
    let mut world = World::new([simple(3)]);
    world.settle();
    world.edit("DaskWorkerGroup", "simple-default", |group| group["spec"]["worker"]["replicas"] = json!(5));
    world.settle();
    assert_eq!(world.workers().len(), 5, "the group was scaled");
    world.restart();
    world.settle();
    assert_eq!(world.workers().len(), 5, "a restart keeps the group's own value");
    world.edit("DaskCluster", "simple", |cluster| cluster["spec"]["worker"]["replicas"] = json!(2));
    world.settle();
    assert_eq!(world.workers().len(), 2, "the cluster's value changed");
    world.edit("DaskCluster", "simple", |cluster| cluster["spec"]["worker"]["replicas"] = json!(0));
    world.settle();
    assert_eq!(world.workers().len(), 0);
}

#[test]
fn names_of_removed_workers_are_not_used_again() {
    let mut world = World::new([simple(3)]);
    world.settle();
    let before = world.workers();
    for replicas in [1, 3] {
        world.edit("DaskWorkerGroup", "simple-default", |group| group["spec"]["worker"]["replicas"] = json!(replicas));
        world.settle();
    }
    let after = world.workers();
    assert_eq!(after.iter().filter(|name| before.contains(name)).count(), 1);
    assert_eq!(after.len(), 3);
}

#[test]
fn workers_that_a_crash_left_behind_are_asked_before_they_go() {
    let mut world = World::new([simple(5)]);
    world.settle();
    let before = world.workers();
    // The record was written; before the four were deleted there was a crash, and then more were asked for.
    world.edit("DaskWorkerGroup", "simple-default", |group| {
        group["metadata"]["annotations"]["operator.dask.org/worker-ordinals"] = json!(r#"{"next":5,"workers":"0"}"#);
        group["spec"]["worker"]["replicas"] = json!(4);
    });
    world.restart();
    world.round();
    assert_eq!(world.workers(), before, "by now they may hold something");
    world.settle();
    let after = world.workers();
    assert_eq!(after.len(), 4);
    assert!(
        after.iter().all(|name| before.contains(name)),
        "those that hold something are kept as far as they are wanted"
    );
}

#[test]
fn a_changed_template_leaves_what_runs_alone_and_says_so() {
    let mut world = World::new([simple(2)]);
    world.settle();
    let image = |world: &World, name: &str| {
        world.get("Deployment", name)["spec"]["template"]["spec"]["containers"][0]["image"].clone()
    };
    let old = world.workers();
    world.edit("DaskCluster", "simple", |cluster| {
        cluster["spec"]["worker"]["spec"]["containers"][0]["image"] = json!("new");
        cluster["spec"]["scheduler"]["spec"]["containers"][0]["image"] = json!("new");
    });
    world.settle();
    assert!(old.iter().all(|name| image(&world, name) == "dask-kubernetes:dev"));
    assert_eq!(world.get("DaskWorkerGroup", "simple-default")["status"]["outdatedReplicas"], 2);
    world.cluster.delete(&world.key("Deployment", &old[0]));
    world.settle();
    assert_eq!(image(&world, &old[0]), "new", "deleting the Deployment gives the new template");
    assert_eq!(image(&world, &old[1]), "dask-kubernetes:dev");
    assert_eq!(world.get("DaskWorkerGroup", "simple-default")["status"]["outdatedReplicas"], 1);
}

#[test]
fn new_labels_of_a_cluster_reach_object_metadata_but_not_templates() {
    let mut world = World::new([simple(1)]);
    world.settle();
    let worker = world.workers().remove(0);
    let template = world.get("Deployment", &worker)["spec"].clone();
    world.edit("DaskCluster", "simple", |cluster| cluster["metadata"]["labels"]["team"] = json!("a"));
    world.settle();
    let after = world.get("Deployment", &worker);
    assert_eq!((&after["metadata"]["labels"]["team"], &after["spec"]), (&json!("a"), &template));
}

#[test]
fn bad_input_is_named_and_stops_nothing_else() {
    let mut bad_name = simple(1);
    bad_name["metadata"]["name"] = json!("dotted.name");
    let mut bad_spec = simple(1);
    bad_spec["metadata"]["name"] = json!("bad-spec");
    bad_spec["spec"]["worker"]["replicas"] = json!("many");
    // The definitions allow it, as the Python operator's do.
    let mut negative = simple(1);
    negative["metadata"]["name"] = json!("negative");
    negative["spec"]["worker"]["replicas"] = json!(-1);
    let lonely = json!({"apiVersion": "kubernetes.dask.org/v1", "kind": "DaskWorkerGroup", "metadata": {"name": "lonely", "namespace": "ns1"},
        "spec": {"cluster": "absent", "worker": {"spec": {"containers": []}}}});
    let mut world = World::new([bad_name, bad_spec, negative, lonely, simple(1)]);
    world.settle();
    let degraded = |kind: &str, name: &str| {
        let object = world.get(kind, name);
        let conditions = object["status"]["conditions"].as_array().unwrap().clone();
        let condition = conditions.into_iter().find(|condition| condition["type"] == "Degraded").unwrap();
        (
            condition["reason"].clone(),
            condition["message"].as_str().unwrap().to_owned(),
            object["status"]["phase"].clone(),
        )
    };
    let (reason, message, phase) = degraded("DaskCluster", "dotted.name");
    assert_eq!((reason, phase), (json!("InvalidName"), json!("Error")));
    assert!(message.contains("metadata.name") && message.contains("53"), "{message}");
    for name in ["bad-spec", "negative"] {
        let (reason, message, phase) = degraded("DaskCluster", name);
        assert_eq!((reason, phase), (json!("InvalidSpec"), json!("Error")));
        assert!(message.contains("spec.worker.replicas"), "{message}");
    }
    let (reason, message, _) = degraded("DaskWorkerGroup", "lonely");
    assert_eq!(reason, json!("ClusterNotFound"));
    assert!(message.contains("spec.cluster") && message.contains("absent"), "{message}");
    assert_eq!(world.get("DaskCluster", "simple")["status"]["phase"], "Running");
    assert_eq!(world.workers().len(), 1);
}

/// A Deployment's name and a label's value may have them.
#[test]
fn a_group_may_have_dots_in_its_name() {
    let mut group = golden()["wg"].clone();
    group["metadata"] = json!({"name": "gpu-1.5", "namespace": "ns1"});
    let mut world = World::new([simple(0), group]);
    assert!(world.settle().iter().all(|report| report.findings.problems.is_empty()));
    let workers = world.workers();
    assert_eq!(workers.len(), 2);
    assert!(workers.iter().all(|worker| worker.starts_with("gpu-1.5-worker-")), "{workers:?}");
}

/// What is composed from a name is checked with it; the API server accepts all of these.
#[test]
fn names_that_nothing_can_be_made_from_are_named_whatever_the_kind() {
    let long = "a".repeat(54);
    let kind = |kind: &str, name: &str, spec: Value| json!({"apiVersion": "kubernetes.dask.org/v1", "kind": kind, "metadata": {"name": name, "namespace": "ns1"}, "spec": spec});
    let with_name = |name: &str| {
        let mut cluster = simple(1);
        cluster["metadata"]["name"] = json!(name);
        cluster
    };
    let worker = json!({"spec": {"containers": []}});
    let limits = |cluster: &str| json!({"cluster": cluster, "minimum": 1, "maximum": 2});
    let job = json!({"job": {"spec": {}}, "cluster": {"spec": simple(1)["spec"].clone()}});
    let mut world = World::new([
        with_name(&long),
        kind("DaskWorkerGroup", &"g".repeat(64), json!({"cluster": "simple", "worker": worker})),
        kind("DaskWorkerGroup", "of-long", json!({"cluster": long, "worker": worker})),
        kind("DaskJob", "dotted.job", job.clone()),
        kind("DaskJob", &long, job),
        kind("DaskAutoscaler", "of-long", limits(&long)),
    ]);
    let problems: Vec<_> = world.settle().into_iter().flat_map(|report| report.findings.problems).collect();
    let named = |kind: &str, name: &str| {
        let of = format!("{kind} {name}: ");
        problems.iter().any(|problem| problem.reason == "InvalidName" && problem.message.starts_with(&of))
    };
    for (kind, name) in [
        ("DaskCluster", long.as_str()),
        ("DaskWorkerGroup", &"g".repeat(64)),
        ("DaskJob", "dotted.job"),
        ("DaskJob", long.as_str()),
    ] {
        assert!(named(kind, name), "{kind} {name}: {problems:?}");
    }
    for (kind, name) in [("DaskWorkerGroup", "of-long"), ("DaskAutoscaler", "of-long")] {
        let status = world.get(kind, name)["status"].clone();
        let degraded = status["conditions"].as_array().unwrap().iter().find(|one| one["type"] == "Degraded").unwrap();
        assert_eq!(degraded["reason"], "InvalidName", "{kind} {name}");
        assert!(degraded["message"].as_str().unwrap().contains("recreate it under another name"));
    }
    assert!(world.workers().is_empty() && world.of_kind("Service").is_empty() && world.of_kind("Pod").is_empty());
}

#[test]
fn a_paused_cluster_is_not_touched() {
    let mut world = World::new([simple(1)]);
    world.settle();
    world.edit("DaskCluster", "simple", |cluster| {
        cluster["metadata"]["annotations"]["operator.dask.org/paused"] = json!("true")
    });
    world.settle();
    world.cluster.delete(&world.key("Service", "simple-scheduler"));
    world.settle();
    assert!(world.of_kind("Service").is_empty());
    let progressing = &world.get("DaskCluster", "simple")["status"]["conditions"][1];
    assert_eq!((&progressing["type"], &progressing["reason"]), (&json!("Progressing"), &json!("Paused")));
}

/// Why a DaskCluster is degraded, and how many of the workers of its group are outdated.
fn told(world: &World) -> (Value, Value) {
    let status = world.get("DaskCluster", "simple")["status"].clone();
    (status["conditions"][2]["reason"].clone(), status["outdatedReplicas"].clone())
}

#[test]
fn what_is_wrong_stays_told_while_it_is_paused_also_after_a_restart() {
    let mut world = World::new([simple(2)]);
    world.settle();
    world.edit("DaskCluster", "simple", |cluster| {
        cluster["spec"]["scheduler"]["spec"]["containers"][0]["image"] = json!("new");
        cluster["spec"]["worker"]["spec"]["containers"][0]["image"] = json!("new");
    });
    world.settle();
    let before = told(&world);
    assert_eq!(before, (json!("TemplateOutdated"), json!(3)));
    for (kind, name) in [("DaskCluster", "simple"), ("DaskWorkerGroup", "simple-default")] {
        world.edit(kind, name, |object| object["metadata"]["annotations"]["operator.dask.org/paused"] = json!("true"));
    }
    world.settle();
    assert_eq!(told(&world), before);
    world.restart();
    world.settle();
    assert_eq!(told(&world), before);
}

#[test]
fn a_group_made_by_hand_is_owned_by_its_cluster_and_gets_its_workers() {
    let mut group = golden()["wg"].clone();
    group["metadata"] = json!({"name": "extra", "namespace": "ns1"});
    let mut world = World::new([simple(1), group]);
    world.settle();
    let extra = world.get("DaskWorkerGroup", "extra");
    assert_eq!(extra["metadata"]["ownerReferences"][0]["name"], "simple");
    assert!(extra["metadata"].get("labels").is_none(), "clients list the default group by labels");
    assert_eq!(world.workers().iter().filter(|name| name.starts_with("extra-worker-")).count(), 2);
    world.cluster.delete(&world.key("DaskCluster", "simple"));
    assert!(world.of_kind("DaskWorkerGroup").is_empty() && world.workers().is_empty());
}

#[test]
fn the_lost_record_of_ordinals_is_made_again() {
    let mut world = World::new([simple(3)]);
    world.settle();
    let before = world.workers();
    world.restart();
    world.cluster.forget_apply(&world.key("DaskWorkerGroup", "simple-default"), "dask-operator/workergroup");
    world.settle();
    assert_eq!(world.workers(), before);
}

#[test]
fn an_object_of_a_stranger_is_left_alone() {
    let stranger = json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "simple-scheduler", "namespace": "ns1"}, "spec": {"x": 1}});
    let mut world = World::new([stranger, simple(1)]);
    let reconciles = world.settle();
    assert!(
        reconciles.iter().any(|report| report
            .findings
            .problems
            .iter()
            .any(|problem| problem.reason == "ForeignObject"))
    );
    assert_eq!(world.get("Service", "simple-scheduler")["spec"], json!({"x": 1}));
    assert_eq!(world.workers().len(), 1, "the rest is made all the same");
}

#[test]
fn user_environment_wins_and_fields_newer_than_us_arrive() {
    let mut cluster = simple(1);
    cluster["spec"]["worker"]["spec"]["containers"][0]["env"] = json!([{"name": "DASK_WORKER_NAME", "value": "mine"}]);
    cluster["spec"]["worker"]["spec"]["containers"][0]["fieldOfTheFuture"] = json!({"deep": [1]});
    let mut world = World::new([cluster]);
    world.settle();
    let container = world.get("Deployment", &world.workers()[0])["spec"]["template"]["spec"]["containers"][0].clone();
    assert_eq!(container["env"][0], json!({"name": "DASK_WORKER_NAME", "value": "mine"}));
    assert_eq!(container["env"].as_array().unwrap().len(), 2);
    assert_eq!(container["fieldOfTheFuture"], json!({"deep": [1]}));
    assert!(world.cluster.get(&Reconciler::Cluster.subject(), &NamespacedName::new("ns1", "simple")).is_some());
}

#[test]
fn a_variable_that_is_given_twice_counts_once_and_restarts_nothing_that_has_it_twice() {
    let mut cluster = simple(1);
    let [first, last] = [json!({"name": "A", "value": "1"}), json!({"name": "A", "value": "2"})];
    cluster["spec"]["worker"]["spec"]["containers"][0]["env"] = json!([first, last]);
    cluster["spec"]["scheduler"]["spec"]["containers"][0]["env"] = json!([first, last]);
    let mut world = World::new([cluster]);
    world.settle();
    let env = |world: &World, name: &str| {
        world.get("Deployment", name)["spec"]["template"]["spec"]["containers"][0]["env"].clone()
    };
    let worker = world.workers()[0].clone();
    assert_eq!(env(&world, "simple-scheduler"), json!([last]));
    assert_eq!((env(&world, &worker)[0].clone(), env(&world, &worker).as_array().unwrap().len()), (last.clone(), 3));

    // As the Python operator made it: created, where twice is taken.
    let mut theirs = world.get("Deployment", &worker);
    theirs["spec"]["template"]["spec"]["containers"][0]["env"].as_array_mut().unwrap().insert(0, first);
    theirs["metadata"]["annotations"] = json!({});
    world.cluster.forget_apply(&world.key("Deployment", &worker), "dask-operator/workergroup");
    world.edit("Deployment", &worker, |object| *object = theirs.clone());
    world.restart();
    world.settle();
    assert_eq!(world.get("Deployment", &worker)["spec"]["template"], theirs["spec"]["template"]);
}
