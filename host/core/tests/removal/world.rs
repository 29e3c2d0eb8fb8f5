//! A cluster in memory with one worker group, and a scheduler that the test speaks for.

use dask_wasm_operator_core::{
    dask::{Environment, Reconciler},
    memory::{MemoryCluster, built_in_resources},
    object::{NamespacedName, ObjectKey},
    pipeline::{Handler, Pass, Pipeline, SubjectState},
    scheduler::{SchedulerCall, SchedulerError, SchedulerReply, SchedulerWorker},
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
        let cluster = MemoryCluster::new(built_in_resources(), "2026-11-22T18:30:00Z");
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
        world.reconcile(Reconciler::Cluster, "c", &mut cluster_state);
        world.settle();
        world
    }

    fn reconcile(&self, reconciler: Reconciler, name: &str, state: &mut SubjectState) -> Pass {
        let environment = Environment::default();
        let pipeline = Pipeline { observed: &self.cluster, writes: &self.cluster, environment: &environment };
        now(pipeline.reconcile(&Handler::Native(reconciler), &NamespacedName::new("n", name), state, self.now))
    }

    pub(crate) fn pass(&mut self) -> Pass {
        let mut state = std::mem::take(&mut self.state);
        let pass = self.reconcile(Reconciler::WorkerGroup, "g", &mut state);
        self.state = state;
        self.asked.extend(pass.calls.iter().map(|(_, call)| call.clone()));
        pass
    }

    pub(crate) fn settle(&mut self) {
        while self.pass().writes > 0 {}
    }

    pub(crate) fn scale(&mut self, replicas: u32) -> Pass {
        self.edit("DaskWorkerGroup", "g", |group| group["spec"]["worker"]["replicas"] = json!(replicas));
        self.pass()
    }

    pub(crate) fn edit(&self, kind: &str, name: &str, change: impl FnOnce(&mut Value)) {
        self.cluster.edit(&self.key(kind, name), change);
    }

    fn key(&self, kind: &str, name: &str) -> ObjectKey {
        let objects = self.cluster.objects();
        objects.iter().find(|object| object.kind.kind == kind && object.metadata.name == name).unwrap().key()
    }

    pub(crate) fn workers(&self) -> Vec<String> {
        let objects = self.cluster.objects().into_iter();
        let workers =
            objects.filter(|object| object.kind.kind == "Deployment" && object.metadata.name.starts_with("g-"));
        workers.map(|object| object.metadata.name.clone()).collect()
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

    /// The scheduler answers what it was asked last.
    pub(crate) fn answer(&mut self, reply: SchedulerReply) -> Pass {
        self.reply(Ok(reply))
    }

    pub(crate) fn reply(&mut self, reply: Result<SchedulerReply, SchedulerError>) -> Pass {
        let call = self.asked.pop().expect("the scheduler was asked something");
        self.state.heard(&call, reply, self.now);
        self.asked.clear();
        self.pass()
    }

    pub(crate) fn unreachable(&mut self) -> Pass {
        self.reply(Err(SchedulerError::Unreachable("refused".to_owned())))
    }
}

pub(crate) fn worker(name: &str, address: &str) -> SchedulerWorker {
    SchedulerWorker { name: name.to_owned(), address: address.to_owned(), is_retired: false }
}

pub(crate) fn registered(names: &[String]) -> SchedulerReply {
    SchedulerReply::Workers(names.iter().map(|name| worker(name, &format!("tcp://{name}"))).collect())
}

pub(crate) fn retire(names: &[String]) -> Vec<String> {
    names.iter().map(|name| format!("tcp://{name}")).collect()
}
