//! A restart tells nothing: while nothing has changed, no condition, phase or Event does, in whatever order reconciles and
//! statuses come. The belief that is attacked: that what a new process knows of an object is what there is to know.
#![expect(clippy::panic, clippy::unwrap_used, reason = "the helpers of a test fail as a test does")]

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use dask_wasm_operator_core::{
    action::{Action, WriteError, Written},
    contract::EventNote,
    dask::{Environment, Handler, Pipeline, Reconciler, cluster_in_memory},
    memory::{MemoryCluster, built_in_resources},
    native::Native as _,
    object::{GroupVersionKind, NamespacedName, Object, ObjectKey, Resource},
    pipeline::SubjectState,
    ports::{Observed, Pending, Writes},
    scheduler::{SchedulerCall, SchedulerError, SchedulerReply},
};
use dask_wasm_operator_test_properties::cases;
use proptest::{collection::vec, prelude::*};
use serde_json::{Value, json};

const BEGIN: u64 = 1_795_372_200_000;

/// A cluster in memory where a quota is used up, and where a definition may have no status.
struct Site {
    cluster: MemoryCluster,
    has_status: bool,
    /// Whether every write fails because the object has changed in between, as right after a start.
    is_behind: AtomicBool,
}

impl Observed for Site {
    fn get(&self, kind: &GroupVersionKind, at: &NamespacedName) -> Option<Arc<Object>> {
        self.cluster.get(kind, at)
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

    fn has_status(&self, _kind: &GroupVersionKind) -> bool {
        self.has_status
    }
}

impl Writes for Site {
    fn write(&self, action: Action) -> Pending<'_, Result<Written, WriteError>> {
        let object = action.object().clone();
        let refused = match &action {
            Action::Apply(_) | Action::DryRun(_) if self.is_behind.load(Ordering::Relaxed) => {
                Some(WriteError::Stale { object, message: "it has changed".to_owned() })
            }
            Action::Apply(_) if object.at.name.contains("quota") && object.kind.kind == "Deployment" => {
                let (reason, message) = ("Forbidden".to_owned(), "exceeded quota".to_owned());
                Some(WriteError::Refused { object, code: 403, reason, message, fields: Vec::new() })
            }
            _ => None,
        };
        match refused {
            Some(error) => Box::pin(std::future::ready(Err(error))),
            None => self.cluster.write(action),
        }
    }
}

/// The objects, and what a process knows of them.
struct World {
    site: Site,
    environment: Environment,
    states: BTreeMap<(Reconciler, NamespacedName), SubjectState>,
    announced: BTreeMap<(Reconciler, NamespacedName), SubjectState>,
    now: u64,
    told: BTreeSet<String>,
}

/// Polls a future that never waits: the cluster in memory answers at once.
fn now<T>(future: impl Future<Output = T>) -> T {
    match std::pin::pin!(future).poll(&mut std::task::Context::from_waker(std::task::Waker::noop())) {
        std::task::Poll::Ready(value) => value,
        std::task::Poll::Pending => panic!("the cluster in memory made somebody wait"),
    }
}

fn cluster(name: &str, change: impl FnOnce(&mut Value)) -> Value {
    let mut cluster = json!({
        "apiVersion": "kubernetes.dask.org/v1", "kind": "DaskCluster",
        "metadata": {"name": name, "namespace": "ns1", "annotations": {}},
        "spec": {
            "scheduler": {
                "spec": {"containers": [{"name": "scheduler", "image": "dask"}]},
                "service": {"ports": [{"name": "tcp-comm", "port": 8786}, {"name": "http-dashboard", "port": 8787}]},
            },
            "worker": {"replicas": 2, "spec": {"containers": [{"name": "worker", "image": "dask"}]}},
        },
    });
    change(&mut cluster);
    cluster
}

fn autoscaler(name: &str, minimum: u32) -> Value {
    json!({
        "apiVersion": "kubernetes.dask.org/v1", "kind": "DaskAutoscaler", "metadata": {"name": name, "namespace": "ns1"},
        "spec": {"cluster": name, "minimum": minimum, "maximum": 5},
    })
}

fn job(name: &str, change: impl FnOnce(&mut Value)) -> Value {
    let cluster = cluster(name, |_| ());
    let mut job = json!({
        "apiVersion": "kubernetes.dask.org/v1", "kind": "DaskJob", "metadata": {"name": name, "namespace": "ns1"},
        "spec": {
            "job": {"spec": {"containers": [{"name": "job", "image": "dask"}]}},
            "cluster": {"spec": cluster["spec"]},
        },
    });
    change(&mut job);
    job
}

/// Objects that are well, in error, degraded for every kind of reason, paused, and jobs.
fn objects() -> Vec<Value> {
    vec![
        cluster("fine", |cluster| cluster["spec"]["idleTimeout"] = json!(3_600)),
        autoscaler("fine", 0),
        cluster("silent", |cluster| cluster["spec"]["idleTimeout"] = json!(3_600)),
        autoscaler("silent", 1),
        cluster("error", |cluster| cluster["spec"]["idleTimeout"] = json!(-1)),
        cluster("toomany", |cluster| cluster["spec"]["worker"]["replicas"] = json!(20_000)),
        cluster("quota", |_| ()),
        cluster("quota-paused", |_| ()),
        cluster("outdated", |_| ()),
        cluster("noted", |cluster| {
            cluster["metadata"]["annotations"]["operator.dask.org/paused"] = json!("yes");
        }),
        cluster("shrinking", |_| ()),
        autoscaler("nobody", 0),
        job("runs", |_| ()),
        job("quota-job", |_| ()),
        job("broken", |job| job["spec"]["backoffLimit"] = json!("x")),
    ]
}

impl World {
    /// As it is after a while.
    fn new(has_status: bool) -> Self {
        let cluster = cluster_in_memory(built_in_resources(), "2026-11-22T18:30:00Z");
        for object in objects() {
            cluster.create(object).unwrap();
        }
        let mut world = Self {
            site: Site { cluster, has_status, is_behind: AtomicBool::new(false) },
            environment: Environment { scale_down_deadline: Duration::from_secs(1 << 30), ..Environment::default() },
            states: BTreeMap::new(),
            announced: BTreeMap::new(),
            now: BEGIN,
            told: BTreeSet::new(),
        };
        world.go_on();
        world.edit("DaskCluster", "quota-paused", |cluster| {
            cluster["metadata"]["annotations"]["operator.dask.org/paused"] = json!("true");
        });
        world.edit("DaskCluster", "outdated", |cluster| {
            cluster["spec"]["worker"]["spec"]["containers"][0]["image"] = json!("newer");
        });
        world.edit("DaskWorkerGroup", "shrinking-default", |group| group["spec"]["worker"]["replicas"] = json!(1));
        world.go_on();
        world
    }

    /// A minute of reconciles and statuses.
    fn go_on(&mut self) {
        for _ in 0..12 {
            self.now += 5_000;
            for key in self.subjects() {
                self.reconcile(&key);
                self.publish(&key);
            }
        }
    }

    fn subjects(&self) -> Vec<(Reconciler, NamespacedName)> {
        let of = |reconciler: Reconciler| {
            let objects = self.site.cluster.objects().into_iter();
            objects
                .filter(move |object| object.kind.same_kind(&reconciler.subject()))
                .map(move |object| (reconciler, object.at()))
        };
        Reconciler::ALL.into_iter().flat_map(of).collect()
    }

    fn edit(&self, kind: &str, name: &str, change: impl FnOnce(&mut Value)) {
        let objects = self.site.cluster.objects();
        let object = objects.iter().find(|object| object.kind.kind == kind && object.metadata.name == name).unwrap();
        self.site.cluster.edit(&object.key(), change);
    }

    fn tell(&mut self, at: &NamespacedName, notes: impl IntoIterator<Item = EventNote>) -> Vec<String> {
        let told = notes.into_iter().map(|note| format!("{at} {}: {}", note.reason, note.message));
        told.filter(|told| self.told.insert(told.clone())).collect()
    }

    /// What it says that was not said before.
    fn reconcile(&mut self, key: &(Reconciler, NamespacedName)) -> Vec<String> {
        let (reconciler, at) = key;
        let pipeline = Pipeline::new(&self.site, &self.site, &self.environment);
        let state = self.states.entry(key.clone()).or_default();
        let report = now(pipeline.reconcile(&Handler::Native(*reconciler), at, state, self.now));
        for (scheduler, call) in &report.calls {
            state.heard(call, answer(&scheduler.cluster.name, call), self.now);
        }
        let problems = report.findings.problems.iter().filter(|_| !reconciler.traits().has_conditions);
        let notes: Vec<_> =
            problems.map(dask_wasm_operator_core::wanted::Problem::as_event).chain(report.events).collect();
        self.tell(at, notes)
    }

    /// The same of a status.
    fn publish(&mut self, key: &(Reconciler, NamespacedName)) -> Vec<String> {
        let (reconciler, at) = key;
        let pipeline = Pipeline::new(&self.site, &self.site.cluster, &self.environment);
        let found = self.states.get(key).and_then(SubjectState::found);
        let announced = self.announced.entry(key.clone()).or_default();
        let mut notes = pipeline.announce(*reconciler, at, found.as_ref(), announced, self.now);
        notes.extend(now(pipeline.publish(*reconciler, at, found.as_ref(), self.now)).unwrap());
        self.tell(at, notes)
    }

    fn restart(&mut self) {
        self.states.clear();
        self.announced.clear();
    }

    fn statuses(&self) -> BTreeMap<ObjectKey, Value> {
        let objects = self.site.cluster.objects().into_iter();
        let dask = objects.filter(|object| object.kind.group == "kubernetes.dask.org");
        dask.map(|object| (object.key(), object.to_value()["status"].clone())).collect()
    }

    /// Reasons of the conditions `Degraded` that are true.
    fn degraded(&self) -> BTreeSet<String> {
        let statuses = self.statuses().into_values();
        let conditions = statuses.flat_map(|status| status["conditions"].as_array().cloned().unwrap_or_default());
        let degraded = conditions.filter(|condition| condition["type"] == "Degraded" && condition["status"] == "True");
        degraded.map(|condition| condition["reason"].as_str().unwrap().to_owned()).collect()
    }
}

fn answer(cluster: &str, call: &SchedulerCall) -> Result<SchedulerReply, SchedulerError> {
    match call {
        SchedulerCall::AdaptiveTarget if cluster == "fine" => Ok(SchedulerReply::AdaptiveTarget(2)),
        SchedulerCall::IdleSince if cluster == "fine" => Ok(SchedulerReply::IdleSince(None)),
        _ => Err(SchedulerError::Unreachable("connection refused".to_owned())),
    }
}

#[test]
fn every_kind_of_trouble_is_there() {
    let world = World::new(true);
    let reasons = [
        "ClusterNotFound",
        "Forbidden",
        "InvalidAnnotation",
        "InvalidSpec",
        "ScaleDownWaiting",
        "SchedulerUnreachable",
        "TemplateOutdated",
        "WorkerGroupDegraded",
    ];
    let expected: BTreeSet<_> = reasons.into_iter().map(str::to_owned).collect();
    assert_eq!(world.degraded(), expected);
    let phases = world.statuses();
    assert!(phases.values().any(|status| status["phase"] == "Error"), "{phases:#?}");
    assert!(phases.values().any(|status| status["jobStatus"] == "Running" || status["jobStatus"] == "ClusterCreated"));
}

#[derive(Clone, Debug)]
enum Step {
    Reconcile(prop::sample::Index),
    Publish(prop::sample::Index),
    Time(u64),
    Restart,
    /// The writes of a reconcile fail because the process does not know yet what has changed.
    Behind(prop::sample::Index),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        8 => any::<prop::sample::Index>().prop_map(Step::Reconcile),
        8 => any::<prop::sample::Index>().prop_map(Step::Publish),
        2 => (0..20_000_u64).prop_map(Step::Time),
        1 => Just(Step::Restart),
        2 => any::<prop::sample::Index>().prop_map(Step::Behind),
    ]
}

fn nothing_changes(has_status: bool, steps: &[Step]) -> Result<(), TestCaseError> {
    let mut world = World::new(has_status);
    let (statuses, subjects) = (world.statuses(), world.subjects());
    world.restart();
    for (number, step) in steps.iter().enumerate() {
        let told = match step {
            Step::Reconcile(index) => world.reconcile(index.get(&subjects)),
            Step::Publish(index) => world.publish(index.get(&subjects)),
            Step::Time(millis) => {
                world.now += millis;
                Vec::new()
            }
            Step::Restart => {
                world.restart();
                Vec::new()
            }
            Step::Behind(index) => {
                world.site.is_behind.store(true, Ordering::Relaxed);
                let told = world.reconcile(index.get(&subjects));
                world.site.is_behind.store(false, Ordering::Relaxed);
                told
            }
        };
        prop_assert!(told.is_empty(), "step {}, {:?}: {:?}", number, step, told);
        for (key, status) in world.statuses() {
            prop_assert_eq!(Some(&status), statuses.get(&key), "step {}, {:?}: {}", number, step, key);
        }
    }
    Ok(())
}

proptest! {
    #![proptest_config(cases(4))]

    #[test]
    fn while_nothing_has_changed_no_status_and_no_event_does(steps in vec(step(), 150)) {
        nothing_changes(true, &steps)?;
    }

    #[test]
    fn nor_with_the_definitions_of_the_python_operator(steps in vec(step(), 150)) {
        nothing_changes(false, &steps)?;
    }
}

#[test]
fn fifty_restarts_in_a_row_change_nothing() {
    let mut world = World::new(true);
    let (statuses, subjects) = (world.statuses(), world.subjects());
    for _ in 0..50 {
        world.restart();
        world.now += 3_000;
        for key in &subjects {
            assert_eq!(world.publish(key), [""; 0], "before the first reconcile of {key:?}");
        }
        for key in &subjects {
            assert_eq!(world.reconcile(key), [""; 0], "{key:?}");
            assert_eq!(world.publish(key), [""; 0], "{key:?}");
        }
        assert_eq!(world.statuses(), statuses);
    }
}
