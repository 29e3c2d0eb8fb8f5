//! A cluster in memory with one worker group, and a scheduler that the test speaks for.

use dask_wasm_operator_core::{
    dask::{Environment, Handler, Pipeline, Reconciler, cluster_in_memory},
    memory::{MemoryCluster, built_in_resources},
    object::{NamespacedName, ObjectKey},
    pipeline::{Report, SubjectState},
    scheduler::{Left, SchedulerCall, SchedulerError, SchedulerReply, SchedulerWorker},
    time::rfc3339,
};
use serde_json::{Value, json};

pub(crate) const BEGIN: u64 = 1_795_372_200_000;
pub(crate) const SECOND: u64 = 1_000;

/// See the module.
pub(crate) struct World {
    pub(crate) cluster: MemoryCluster,
    pub(crate) state: SubjectState,
    pub(crate) now: u64,
    /// What was said to the scheduler and not answered yet.
    pub(crate) asked: Vec<SchedulerCall>,
}

fn now<T>(future: impl Future<Output = T>) -> T {
    match std::pin::pin!(future).poll(&mut std::task::Context::from_waker(std::task::Waker::noop())) {
        std::task::Poll::Ready(value) => value,
        std::task::Poll::Pending => panic!("the cluster in memory made somebody wait"),
    }
}

impl World {
    pub(crate) fn new(replicas: u32) -> Self {
        let cluster = cluster_in_memory(built_in_resources(), "2026-11-22T18:30:00Z");
        let pod = json!({"containers": [{"name": "dask", "image": "dask"}]});
        let worker = json!({"replicas": replicas, "spec": pod});
        for object in [
            json!({"apiVersion": "kubernetes.dask.org/v1", "kind": "DaskCluster", "metadata": {"name": "c", "namespace": "n"},
                "spec": {"worker": worker, "scheduler": {"spec": pod, "service": {"ports": [{"name": "tcp-comm", "port": 8786}]}}}}),
            json!({"apiVersion": "kubernetes.dask.org/v1", "kind": "DaskWorkerGroup", "metadata": {"name": "g", "namespace": "n"},
                "spec": {"cluster": "c", "worker": worker}}),
        ] {
            cluster.create(object).unwrap();
        }
        let mut world = Self { cluster, state: SubjectState::default(), now: BEGIN, asked: Vec::new() };
        let mut cluster_state = SubjectState::default();
        world.reconcile_by(Reconciler::Cluster, "c", &mut cluster_state);
        world.settle();
        world
    }

    fn reconcile_by(&self, reconciler: Reconciler, name: &str, state: &mut SubjectState) -> Report {
        let environment = Environment::default();
        let pipeline = Pipeline::new(&self.cluster, &self.cluster, &environment);
        now(pipeline.reconcile(&Handler::Native(reconciler), &NamespacedName::new("n", name), state, self.now))
    }

    pub(crate) fn reconcile(&mut self) -> Report {
        let mut state = std::mem::take(&mut self.state);
        let report = self.reconcile_by(Reconciler::WorkerGroup, "g", &mut state);
        self.state = state;
        // A call that is under way is not made twice.
        let calls: Vec<_> = report.calls.iter().map(|(_, call)| call.clone()).collect();
        self.asked.extend(calls.into_iter().filter(|call| !self.asked.contains(call)).collect::<Vec<_>>());
        report
    }

    pub(crate) fn settle(&mut self) {
        while self.reconcile().writes > 0 {}
    }

    pub(crate) fn scale(&mut self, replicas: u32) -> Report {
        self.edit("DaskWorkerGroup", "g", |group| group["spec"]["worker"]["replicas"] = json!(replicas));
        self.reconcile()
    }

    pub(crate) fn edit(&self, kind: &str, name: &str, change: impl FnOnce(&mut Value)) {
        self.cluster.edit(&self.key(kind, name), change);
    }

    pub(crate) fn key(&self, kind: &str, name: &str) -> ObjectKey {
        let objects = self.cluster.objects();
        objects.iter().find(|object| object.kind.kind == kind && object.metadata.name == name).unwrap().key()
    }

    pub(crate) fn workers(&self) -> Vec<String> {
        let objects = self.cluster.objects().into_iter();
        let workers =
            objects.filter(|object| object.kind.kind == "Deployment" && object.metadata.name.starts_with("g-"));
        workers.map(|object| object.metadata.name.clone()).collect()
    }

    /// Whether workers are recorded that are to be retired.
    pub(crate) fn is_retiring(&self) -> bool {
        let key = self.key("DaskWorkerGroup", "g");
        let objects = self.cluster.objects();
        let group = objects.iter().find(|object| object.key() == key).unwrap();
        group.metadata.annotations["operator.dask.org/worker-ordinals"].contains("retiring")
    }

    /// The pod of a worker runs at this address since now, as kubelet reports it; again, if it did before.
    pub(crate) fn run_pod(&self, deployment: &str, ip: &str) {
        let name = format!("{deployment}-5d4f9c7b68-x7k2p");
        let status = json!({
            "phase": "Running", "podIP": ip, "podIPs": [{"ip": ip}],
            "containerStatuses": [{"name": "dask", "ready": true, "state": {"running": {"startedAt": rfc3339(self.now)}}}],
        });
        if self.cluster.objects().iter().any(|object| object.metadata.name == name) {
            self.edit("Pod", &name, |pod| pod["status"] = status);
            return;
        }
        let labels =
            json!({"dask.org/cluster-name": "c", "dask.org/component": "worker", "pod-template-hash": "5d4f9c7b68"});
        let set = json!({"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": format!("{deployment}-5d4f9c7b68"),
            "uid": "r", "controller": true});
        let metadata = json!({"name": name, "namespace": "n", "labels": labels, "ownerReferences": [set]});
        let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "status": status});
        self.cluster.create(pod).unwrap();
    }

    /// The pod of a worker goes with its Deployment.
    pub(crate) fn end_pod(&self, deployment: &str) {
        let name = format!("{deployment}-5d4f9c7b68-x7k2p");
        let objects = self.cluster.objects();
        objects.iter().filter(|object| object.metadata.name == name).for_each(|pod| self.cluster.delete(&pod.key()));
    }

    /// The scheduler answers what it was asked; it was asked one thing only.
    pub(crate) fn answer(&mut self, reply: SchedulerReply) -> Report {
        self.reply(Ok(reply))
    }

    pub(crate) fn reply(&mut self, reply: Result<SchedulerReply, SchedulerError>) -> Report {
        let [call] = self.asked.as_slice() else { panic!("the scheduler was asked {:?}", self.asked) };
        self.reply_to(&call.clone(), reply)
    }

    /// The scheduler answers one of the things that it was asked.
    pub(crate) fn reply_to(&mut self, call: &SchedulerCall, reply: Result<SchedulerReply, SchedulerError>) -> Report {
        self.asked.retain(|asked| asked != call);
        self.state.heard(call, reply, self.now);
        self.reconcile()
    }

    pub(crate) fn unreachable(&mut self) -> Report {
        self.reply(Err(SchedulerError::Unreachable("refused".to_owned())))
    }

    /// The process is killed, and another begins.
    pub(crate) fn restart(&mut self) {
        self.asked.clear();
        self.state = SubjectState::default();
    }

    /// The next reconcile after some time, in which the scheduler says nothing.
    pub(crate) fn wait(&mut self, millis: u64) -> Report {
        self.now += millis;
        self.reconcile()
    }
}

/// A scheduler that does what it is asked.
#[derive(Debug, Default)]
pub(crate) struct Scheduler {
    /// In the order in which it can do without them.
    pub(crate) workers: Vec<SchedulerWorker>,
    /// Addresses of those that it can't empty.
    pub(crate) full: Vec<String>,
}

impl Scheduler {
    pub(crate) fn of(names: &[String]) -> Self {
        let SchedulerReply::Workers(workers) = registered(names) else { unreachable!() };
        Self { workers, full: Vec::new() }
    }

    pub(crate) fn answer(&mut self, call: &SchedulerCall) -> SchedulerReply {
        let SchedulerCall::Retire(addresses) = call else { return in_order(self.workers.clone()) };
        let mut retired = Vec::new();
        for worker in self.workers.iter_mut().filter(|worker| addresses.contains(&worker.address)) {
            if !self.full.contains(&worker.address) {
                worker.retiring = worker.retiring.or(Some(Left::Nothing));
                retired.push(worker.address.clone());
            }
        }
        SchedulerReply::Retired(retired)
    }

    /// Answers until nothing is asked any more; the reconciles after the answers.
    pub(crate) fn serve(&mut self, world: &mut World) -> Vec<Report> {
        let mut reconciles = Vec::new();
        while let Some(call) = world.asked.first().cloned() {
            assert!(reconciles.len() < 100, "no end of questions: {:?}", world.asked);
            let reply = self.answer(&call);
            reconciles.push(world.reply_to(&call, Ok(reply)));
            let left = world.workers();
            self.workers.retain(|worker| left.iter().any(|name| worker.name.starts_with(name.as_str())));
        }
        reconciles
    }
}

pub(crate) fn worker(name: &str, address: &str) -> SchedulerWorker {
    SchedulerWorker { name: name.to_owned(), address: address.to_owned(), place: 0, retiring: None }
}

/// The scheduler can do without the first best.
pub(crate) fn in_order(workers: impl IntoIterator<Item = SchedulerWorker>) -> SchedulerReply {
    let workers = workers.into_iter().enumerate().map(|(place, worker)| SchedulerWorker { place, ..worker });
    SchedulerReply::Workers(workers.collect())
}

pub(crate) fn registered(names: &[String]) -> SchedulerReply {
    leaving(names, &[], Left::Nothing)
}

/// These are registered, and some of them get no more work.
pub(crate) fn leaving(names: &[String], leaving: &[String], left: Left) -> SchedulerReply {
    in_order(names.iter().map(|name| {
        let retiring = leaving.contains(name).then_some(left);
        SchedulerWorker { retiring, ..worker(name, &format!("tcp://{name}")) }
    }))
}

pub(crate) fn retire(names: &[String]) -> Vec<String> {
    names.iter().map(|name| format!("tcp://{name}")).collect()
}

/// What asks for these to be retired, in one call.
pub(crate) fn asked(names: &[String]) -> SchedulerCall {
    let mut addresses = retire(names);
    addresses.sort_unstable();
    SchedulerCall::Retire(addresses)
}

pub(crate) fn retired(names: &[String]) -> SchedulerReply {
    SchedulerReply::Retired(retire(names))
}
