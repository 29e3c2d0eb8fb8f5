//! What the Python operator has set becomes ours, once, and goes when the Dask object stops asking for it.
#![expect(clippy::panic, clippy::unwrap_used, reason = "the helpers of a test fail as a test does")]

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
};

use dask_wasm_operator_core::{
    action::{Action, WriteError, Written},
    dask::{Environment, Handler, Pipeline, Reconciler, cluster_in_memory},
    memory::{MemoryCluster, built_in_resources},
    object::{NamespacedName, Object, ObjectKey},
    pipeline::SubjectState,
    ports::{Observed, Pending, Writes},
};
use serde_json::{Value, json};

const NOW: u64 = 1_795_372_200_000;

/// What it makes of a DaskCluster with one worker.
const MADE: &str = include_str!("fixtures/python-operator-objects.json");

/// A cluster in memory that notes what is written, and can be out of reach for questions.
struct Noted {
    cluster: MemoryCluster,
    verbs: Mutex<Vec<(&'static str, ObjectKey)>>,
    answers: Mutex<Option<WriteError>>,
}

impl Writes for Noted {
    fn write(&self, action: Action) -> Pending<'_, Result<Written, WriteError>> {
        self.verbs.lock().unwrap().push((action.verb(), action.object().clone()));
        if let (Action::DryRun(_), Some(error)) = (&action, self.answers.lock().unwrap().clone()) {
            return Box::pin(std::future::ready(Err(error)));
        }
        self.cluster.write(action)
    }
}

struct World {
    noted: Noted,
    states: BTreeMap<(Reconciler, NamespacedName), SubjectState>,
}

fn now<T>(future: impl Future<Output = T>) -> T {
    match std::pin::pin!(future).poll(&mut std::task::Context::from_waker(std::task::Waker::noop())) {
        std::task::Poll::Ready(value) => value,
        std::task::Poll::Pending => panic!("the cluster in memory made somebody wait"),
    }
}

impl World {
    /// A cluster as the Python operator leaves it behind.
    fn made(change: impl FnOnce(&mut Value)) -> Self {
        let made: Value = serde_json::from_str(MADE).unwrap();
        let cluster = cluster_in_memory(built_in_resources(), "2026-11-22T18:30:00Z");
        let mut worker = made["wg"]["spec"]["worker"].clone();
        worker["replicas"] = json!(1);
        let mut simple = json!({
            "apiVersion": "kubernetes.dask.org/v1", "kind": "DaskCluster",
            "metadata": {
                "name": "simple", "namespace": "ns1", "labels": {"test-label": "label-value"},
                "annotations": {"test-annotation": "annotation-value"},
            },
            "spec": {
                "scheduler": {
                    "metadata": {
                        "labels": {"scheduler-sublabel": "label-value"},
                        "annotations": {"scheduler-subannotation": "annotation-value"},
                    },
                    "spec": made["scheduler"]["spec"]["template"]["spec"], "service": made["service"]["spec"],
                },
                "worker": worker,
            },
        });
        let mut group = made["wg"].clone();
        group["spec"]["worker"]["replicas"] = json!(1);
        // What was there when it made its objects, and is not asked for any more.
        group["spec"]["worker"]["spec"]["nodeSelector"] = json!({"disk": "ssd"});
        let mut service = made["service"].clone();
        service["spec"]["selector"]["old"] = json!("key");
        service["metadata"]["labels"]["old"] = json!("label");
        change(&mut simple);
        let owned = |object: &Value, owner: &ObjectKey| {
            let uid = cluster.get(&owner.kind, &owner.at).unwrap().metadata.uid.clone();
            let mut object = object.clone();
            object["metadata"]["ownerReferences"][0]["uid"] = json!(uid);
            cluster.create(object).unwrap()
        };
        let simple = cluster.create(simple).unwrap();
        let group = owned(&group, &simple);
        owned(&service, &simple);
        owned(&made["scheduler"], &simple);
        let mut worker = made["worker"].clone();
        worker["spec"]["template"]["spec"]["nodeSelector"] = json!({"disk": "ssd"});
        owned(&worker, &group);
        let noted = Noted { cluster, verbs: Mutex::default(), answers: Mutex::default() };
        Self { noted, states: BTreeMap::new() }
    }

    fn reconcile(&mut self, reconciler: Reconciler, name: &str) -> usize {
        let environment = Environment::default();
        let pipeline = Pipeline::new(&self.noted.cluster, &self.noted, &environment);
        let at = NamespacedName::new("ns1", name);
        let state = self.states.entry((reconciler, at.clone())).or_default();
        now(pipeline.reconcile(&Handler::Native(reconciler), &at, state, NOW)).writes
    }

    fn settle(&mut self) {
        for _ in 0..10 {
            let group = self.reconcile(Reconciler::WorkerGroup, "simple-default");
            if self.reconcile(Reconciler::Cluster, "simple") + group == 0 {
                return;
            }
        }
        panic!("no end of writes: {:?}", self.verbs());
    }

    /// What was written since this was last asked, and of which objects.
    fn verbs(&self) -> Vec<(&'static str, String)> {
        let verbs = std::mem::take(&mut *self.noted.verbs.lock().unwrap());
        let mut verbs: Vec<_> =
            verbs.into_iter().map(|(verb, key)| (verb, format!("{} {}", key.kind.kind, key.at.name))).collect();
        verbs.sort_unstable();
        verbs
    }

    fn find(&self, kind: &str, name: &str) -> Arc<Object> {
        let objects = self.noted.cluster.objects();
        let found = objects.into_iter().find(|object| object.kind.kind == kind && object.metadata.name == name);
        found.unwrap_or_else(|| panic!("there is no {kind} {name}"))
    }

    fn get(&self, kind: &str, name: &str) -> Value {
        self.find(kind, name).to_value()
    }

    fn edit(&self, kind: &str, name: &str, change: impl FnOnce(&mut Value)) {
        self.noted.cluster.edit(&self.find(kind, name).key(), change);
    }
}

const WORKER: &str = "simple-default-worker-0123456789";

#[test]
fn what_is_there_becomes_ours_before_anything_is_applied_to_it_and_once() {
    let mut world = World::made(|_| ());
    world.reconcile(Reconciler::Cluster, "simple");
    let inherited = ["DaskWorkerGroup simple-default", "Deployment simple-scheduler", "Service simple-scheduler"];
    assert_eq!(world.verbs(), inherited.map(|object| ("inherit", object.to_owned())));
    let scheduler = world.get("Deployment", "simple-scheduler");
    world.settle();
    let verbs = world.verbs();
    let worker = ("inherit", format!("Deployment {WORKER}"));
    assert_eq!(verbs.iter().filter(|(verb, _)| *verb == "inherit").collect::<Vec<_>>(), [&worker]);
    assert_eq!(world.get("Deployment", "simple-scheduler")["spec"], scheduler["spec"]);
    world.states.clear();
    world.settle();
    assert!(world.verbs().iter().all(|(verb, _)| *verb == "dry-run"), "a restart writes nothing");
}

#[test]
fn what_the_cluster_stops_asking_for_goes() {
    let mut world = World::made(|_| ());
    world.settle();
    let service = world.get("Service", "simple-scheduler");
    assert_eq!(service["spec"]["selector"].get("old"), None);
    assert_eq!(service["metadata"]["labels"].get("old"), None);
    let group = world.get("DaskWorkerGroup", "simple-default");
    assert_eq!(group["spec"]["worker"]["spec"].get("nodeSelector"), None, "every new worker would have it");
    assert_eq!(group["spec"]["worker"]["replicas"], 1);
    world.edit("DaskCluster", "simple", |cluster| cluster["metadata"]["labels"] = json!({}));
    world.settle();
    for (kind, name) in [("Deployment", "simple-scheduler"), ("DaskWorkerGroup", "simple-default")] {
        assert_eq!(world.get(kind, name)["metadata"]["labels"].get("test-label"), None, "{kind}");
    }
    let template = world.get("Deployment", "simple-scheduler")["spec"]["template"].clone();
    assert_eq!(template["metadata"]["labels"]["test-label"], "label-value", "that would restart the pod");
}

#[test]
fn a_number_that_was_set_on_the_group_stays() {
    let mut world = World::made(|_| ());
    world.edit("DaskWorkerGroup", "simple-default", |group| group["spec"]["worker"]["replicas"] = json!(2));
    world.settle();
    assert_eq!(world.get("DaskWorkerGroup", "simple-default")["spec"]["worker"]["replicas"], 2);
}

#[test]
fn whether_a_template_is_the_present_one_says_the_server_and_once() {
    let mut world = World::made(|_| ());
    world.edit("Deployment", WORKER, |worker| {
        worker["spec"]["template"]["spec"]["containers"][0]["image"] = json!("older");
    });
    world.settle();
    let stamp = |name: &str| {
        world.get("Deployment", name)["metadata"]["annotations"].get("operator.dask.org/template-hash").cloned()
    };
    assert!(stamp("simple-scheduler").is_some());
    assert_eq!(stamp(WORKER), None);
    let worker = world.get("Deployment", WORKER);
    assert_eq!(worker["spec"]["template"]["spec"]["containers"][0]["image"], "older", "it is left as it is");
    assert_eq!(worker["spec"]["template"]["spec"]["nodeSelector"]["disk"], "ssd");
    let state = &world.states[&(Reconciler::WorkerGroup, NamespacedName::new("ns1", "simple-default"))];
    assert_eq!(state.findings().outdated, Some(1));

    world.verbs();
    world.settle();
    assert_eq!(world.verbs(), [], "the answer is remembered");
    world.states.clear();
    world.settle();
    assert_eq!(world.verbs(), [("dry-run", format!("Deployment {WORKER}"))]);
}

#[test]
fn without_an_answer_nothing_is_decided() {
    let mut world = World::made(|cluster| cluster["spec"]["updateStrategy"] = json!({"type": "RollingUpdate"}));
    let object = world.find("Deployment", WORKER).key();
    let error = WriteError::Unavailable { object, verb: "apply", message: "no answer".to_owned() };
    *world.noted.answers.lock().unwrap() = Some(error);
    for _ in 0..3 {
        world.reconcile(Reconciler::Cluster, "simple");
        world.reconcile(Reconciler::WorkerGroup, "simple-default");
    }
    assert_eq!(world.get("Deployment", WORKER)["metadata"]["annotations"].get("operator.dask.org/template-hash"), None);
    let state = &world.states[&(Reconciler::WorkerGroup, NamespacedName::new("ns1", "simple-default"))];
    assert_eq!(state.findings().problems[0].reason, "ApiUnavailable");
    assert_eq!(state.findings().outdated, Some(0), "an update would replace it");
    let workers = world.noted.cluster.objects().into_iter().filter(|object| object.metadata.name.contains("-worker-"));
    assert_eq!(workers.count(), 1);
}

#[test]
fn an_updated_scheduler_loses_what_was_removed() {
    let mut world = World::made(|cluster| cluster["spec"]["updateStrategy"] = json!({"type": "RollingUpdate"}));
    world.edit("Deployment", "simple-scheduler", |scheduler| {
        scheduler["spec"]["template"]["spec"]["nodeSelector"] = json!({"disk": "ssd"});
    });
    world.settle();
    let scheduler = world.get("Deployment", "simple-scheduler");
    assert_eq!(scheduler["spec"]["template"]["spec"].get("nodeSelector"), None);
}
