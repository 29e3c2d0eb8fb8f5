//! A DaskCluster with its default group, over [`Kubernetes`], and a scheduler that keeps count of who may go.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use dask_wasm_operator_core::{
    dask::{Environment, Handler, Pipeline, Reconciler},
    object::{NamespacedName, Object, ObjectKey},
    pipeline::{Builder, Report, SubjectState},
    scheduler::{Left, SchedulerCall, SchedulerError, SchedulerReply, SchedulerWorker},
    wanted::Problem,
};
use serde_json::{Value, json};

use crate::kubernetes::Kubernetes;

pub(crate) const BEGIN: u64 = 1_795_372_200_000;
pub(crate) const SECOND: u64 = 1_000;

/// Polls a future that never waits: the cluster in memory answers at once.
pub(crate) fn now<T>(future: impl Future<Output = T>) -> T {
    match std::pin::pin!(future).poll(&mut std::task::Context::from_waker(std::task::Waker::noop())) {
        std::task::Poll::Ready(value) => value,
        std::task::Poll::Pending => panic!("the cluster in memory made somebody wait"),
    }
}

pub(crate) struct World {
    pub(crate) kubernetes: Kubernetes,
    pub(crate) environment: Environment,
    pub(crate) now: u64,
    /// Whether the scheduler answers.
    pub(crate) reachable: bool,
    /// Names of workers that it can't empty.
    pub(crate) full: BTreeSet<String>,
    /// Uids of the Deployments whose workers were retired.
    pub(crate) retired: BTreeSet<String>,
    /// Uids of the Deployments whose workers became ready after they had been chosen to go: they take nothing away that was
    /// there when they were chosen.
    pub(crate) recovered: BTreeSet<String>,
    /// The fewest workers that were ready and not retired when others than those were retired.
    pub(crate) fewest: usize,
    /// The most workers that there were.
    pub(crate) most: usize,
    /// Reasons of the Events that statuses called for.
    pub(crate) events: Vec<String>,
    pub(crate) builders: Vec<Box<dyn Builder>>,
    states: BTreeMap<Reconciler, SubjectState>,
}

/// The DaskCluster `c` in namespace `n`.
pub(crate) fn cluster(replicas: u32, strategy: Value) -> Value {
    let pod = json!({"containers": [{"name": "dask", "image": "old"}]});
    let mut cluster = json!({
        "apiVersion": "kubernetes.dask.org/v1", "kind": "DaskCluster", "metadata": {"name": "c", "namespace": "n"},
        "spec": {
            "scheduler": {"spec": pod, "service": {"ports": [{"name": "tcp-comm", "port": 8786}]}},
            "worker": {"replicas": replicas, "spec": pod},
        },
    });
    if !strategy.is_null() {
        cluster["spec"]["updateStrategy"] = strategy;
    }
    cluster
}

pub(crate) fn rolling(unavailable: Value, surge: Value) -> Value {
    json!({"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": unavailable, "maxSurge": surge}})
}

impl World {
    /// A cluster that is settled.
    pub(crate) fn new(objects: impl IntoIterator<Item = Value>) -> Self {
        Self::within(Environment::default(), objects)
    }

    pub(crate) fn within(environment: Environment, objects: impl IntoIterator<Item = Value>) -> Self {
        let kubernetes = Kubernetes::new(BEGIN);
        objects.into_iter().for_each(|object| {
            let key = kubernetes.cluster.create(object).unwrap();
            let object = kubernetes.cluster.objects().into_iter().find(|object| object.key() == key).unwrap();
            kubernetes.set_ready(&object, true);
        });
        Self {
            kubernetes,
            environment,
            now: BEGIN,
            reachable: true,
            full: BTreeSet::new(),
            retired: BTreeSet::new(),
            recovered: BTreeSet::new(),
            fewest: usize::MAX,
            most: 0,
            events: Vec::new(),
            builders: Vec::new(),
            states: BTreeMap::new(),
        }
    }

    pub(crate) fn settled(cluster: Value) -> Self {
        let mut world = Self::new([cluster]);
        world.settle();
        world.fewest = usize::MAX;
        world
    }

    /// One reconcile of a reconciler, its questions answered, and its status.
    pub(crate) fn reconcile(&mut self, reconciler: Reconciler) -> Report {
        let name = if reconciler == Reconciler::Cluster { "c" } else { "c-default" };
        let at = NamespacedName::new("n", name);
        let mut state = self.states.remove(&reconciler).unwrap_or_default();
        let pipeline = Pipeline::new(&self.kubernetes, &self.kubernetes, &self.environment);
        let pipeline = Pipeline { builders: &self.builders, ..pipeline };
        let report = now(pipeline.reconcile(&Handler::Native(reconciler), &at, &mut state, self.now));
        self.most = self.most.max(self.workers().len());
        for (_, call) in &report.calls {
            let reply = self.answer(call);
            state.heard(call, reply, self.now);
        }
        let pipeline = Pipeline::new(&self.kubernetes, &self.kubernetes, &self.environment);
        // A status that can't be written is written later.
        let notes = now(pipeline.publish(reconciler, &at, state.found().as_ref(), self.now)).unwrap_or_default();
        self.events.extend(notes.into_iter().map(|note| note.reason));
        self.states.insert(reconciler, state);
        self.check_deleted();
        report
    }

    /// Reconciles until nothing is left to do at this moment.
    pub(crate) fn settle(&mut self) -> Vec<Problem> {
        for _ in 0..200 {
            let reconciles = [self.reconcile(Reconciler::Cluster), self.reconcile(Reconciler::WorkerGroup)];
            if reconciles.iter().all(|report| report.writes == 0 && report.calls.is_empty() && report.retry.is_none()) {
                return reconciles.into_iter().flat_map(|report| report.findings.problems).collect();
            }
        }
        panic!("no end of it: {:?}", self.kubernetes.cluster.last_changed_field());
    }

    pub(crate) fn wait(&mut self, millis: u64) -> Vec<Problem> {
        self.now += millis;
        self.kubernetes.set_now(self.now);
        self.settle()
    }

    /// The process is killed, and another begins.
    pub(crate) fn restart(&mut self) {
        self.states.clear();
        self.kubernetes.kill(None);
    }

    pub(crate) fn edit(&self, kind: &str, name: &str, change: impl FnOnce(&mut Value)) {
        self.kubernetes.cluster.edit(&self.object(kind, name).key(), change);
    }

    pub(crate) fn set_image(&self, part: &str, image: &str) {
        self.edit("DaskCluster", "c", |cluster| cluster["spec"][part]["spec"]["containers"][0]["image"] = json!(image));
    }

    pub(crate) fn object(&self, kind: &str, name: &str) -> Arc<Object> {
        let mut objects = self.kubernetes.cluster.objects().into_iter();
        let found = objects.find(|object| object.kind.kind == kind && object.metadata.name == name);
        found.unwrap_or_else(|| panic!("there is no {kind} {name}"))
    }

    pub(crate) fn value(&self, kind: &str, name: &str) -> Value {
        self.object(kind, name).to_value()
    }

    pub(crate) fn key(&self, kind: &str, name: &str) -> ObjectKey {
        self.object(kind, name).key()
    }

    pub(crate) fn workers(&self) -> Vec<Arc<Object>> {
        let objects = self.kubernetes.cluster.objects().into_iter();
        let is_worker =
            |object: &Arc<Object>| object.kind.kind == "Deployment" && object.metadata.name.contains("-worker-");
        objects.filter(is_worker).collect()
    }

    /// The workers' images.
    pub(crate) fn images(&self) -> Vec<String> {
        self.workers().iter().map(|worker| image(&worker.to_value())).collect()
    }

    pub(crate) fn condition(&self, kind: &str, name: &str, type_: &str) -> (String, String, String) {
        let object = self.value(kind, name);
        let conditions = object["status"]["conditions"].as_array().unwrap();
        let condition = conditions.iter().find(|condition| condition["type"] == type_).unwrap();
        let text = |field: &str| condition[field].as_str().unwrap().to_owned();
        (text("status"), text("reason"), text("message"))
    }

    /// Ready workers that get work.
    pub(crate) fn available(&self) -> usize {
        self.workers().iter().filter(|worker| self.is_registered(worker) && !self.is_retired(worker)).count()
    }

    /// The names of the workers that are recorded as to be retired.
    pub(crate) fn retiring(&self) -> Vec<Value> {
        let group = self.object("DaskWorkerGroup", "c-default");
        let record = &group.metadata.annotations["operator.dask.org/worker-ordinals"];
        let record: Value = serde_json::from_str(record).unwrap();
        record["retiring"].as_array().cloned().unwrap_or_default()
    }

    fn is_registered(&self, worker: &Object) -> bool {
        self.kubernetes.is_ready(worker)
    }

    fn is_retired(&self, worker: &Object) -> bool {
        self.retired.contains(&worker.metadata.uid)
    }

    fn answer(&mut self, call: &SchedulerCall) -> Result<SchedulerReply, SchedulerError> {
        if !self.reachable {
            return Err(SchedulerError::Unreachable("refused".to_owned()));
        }
        let address = |worker: &Object| format!("tcp://{}", worker.metadata.uid);
        match call {
            SchedulerCall::Workers => {
                let registered = self.workers().into_iter().filter(|worker| self.is_registered(worker));
                let registered = registered.map(|worker| SchedulerWorker {
                    name: worker.metadata.name.clone(),
                    address: address(&worker),
                    place: 0,
                    retiring: self.is_retired(&worker).then_some(Left::Nothing),
                });
                Ok(SchedulerReply::Workers(registered.collect()))
            }
            SchedulerCall::Retire(addresses) => {
                let (mut done, before) = (Vec::new(), self.retired.clone());
                for worker in self.workers() {
                    let is_asked = addresses.contains(&address(&worker)) && !self.full.contains(&worker.metadata.name);
                    if is_asked && self.is_registered(&worker) {
                        self.retired.insert(worker.metadata.uid.clone());
                        done.push(address(&worker));
                    }
                }
                if self.retired.difference(&before).any(|uid| !self.recovered.contains(uid)) {
                    self.fewest = self.fewest.min(self.available());
                }
                Ok(SchedulerReply::Retired(done))
            }
            other => panic!("nobody asks {other:?}"),
        }
    }

    /// Nothing is deleted that holds data which it was not asked to hand over.
    fn check_deleted(&self) {
        for uid in self.kubernetes.take_deleted() {
            assert!(
                !self.reachable || self.retired.contains(&uid) || !self.kubernetes.was_ready_when_deleted(&uid),
                "a worker was deleted that was not retired"
            );
        }
    }
}

pub(crate) fn image(deployment: &Value) -> String {
    deployment["spec"]["template"]["spec"]["containers"][0]["image"].as_str().unwrap_or_default().to_owned()
}
