//! A cluster in memory with one DaskJob, and a clock that is set by hand.

use dask_wasm_operator_core::{
    dask::{Environment, Handler, Pipeline, Reconciler, cluster_in_memory},
    memory::{MemoryCluster, built_in_resources},
    object::{GroupVersionKind, NamespacedName, ObjectKey},
    pipeline::{Report, SubjectState},
    ports::Observed,
};
use serde_json::{Value, json};

/// 2026-11-22T18:30:00Z, in milliseconds: the time of all objects.
pub(crate) const START: u64 = 1_795_372_200_000;

pub(crate) struct World {
    pub(crate) cluster: MemoryCluster,
    state: SubjectState,
    pub(crate) environment: Environment,
    pub(crate) now: u64,
    /// Whether a fresh process makes each reconcile.
    pub(crate) restarts: bool,
    /// Events and problems so far, each change once.
    told: Vec<String>,
}

/// Polls a future that never waits: the cluster in memory answers at once.
pub(crate) fn now<T>(future: impl Future<Output = T>) -> T {
    match std::pin::pin!(future).poll(&mut std::task::Context::from_waker(std::task::Waker::noop())) {
        std::task::Poll::Ready(value) => value,
        std::task::Poll::Pending => panic!("the cluster in memory made somebody wait"),
    }
}

pub(crate) fn key(kind: &str, name: &str) -> ObjectKey {
    let (group, version) = if kind == "Pod" { ("", "v1") } else { ("kubernetes.dask.org", "v1") };
    ObjectKey { kind: GroupVersionKind::new(group, version, kind), at: NamespacedName::new("ns1", name) }
}

pub(crate) fn golden() -> Value {
    serde_json::from_str(include_str!("../fixtures/python-operator-job.json")).unwrap()
}

/// The DaskJob of the Python operator's tests, put together again from the objects that it makes of it.
pub(crate) fn simple() -> Value {
    let golden = golden();
    let mut runner = golden["jobpod"]["spec"].clone();
    runner["containers"][0].as_object_mut().unwrap().remove("env");
    json!({
        "apiVersion": "kubernetes.dask.org/v1", "kind": "DaskJob",
        "metadata": {"name": "simple-job", "namespace": "ns1",
            "annotations": {"test-annotation": "annotation-value", "kubectl.kubernetes.io/last-applied-configuration": "y"}},
        "spec": {"job": {"spec": runner}, "cluster": {"spec": golden["jobcluster"]["spec"]}},
    })
}

pub(crate) fn with(mut job: Value, fields: Value) -> Value {
    job["spec"].as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
    job
}

impl World {
    pub(crate) fn new(job: Value) -> Self {
        let cluster = cluster_in_memory(built_in_resources(), "2026-11-22T18:30:00Z");
        cluster.create(job).unwrap();
        Self {
            cluster,
            state: SubjectState::default(),
            environment: Environment::default(),
            now: START,
            restarts: false,
            told: Vec::new(),
        }
    }

    pub(crate) fn pipeline(&self) -> Pipeline<'_> {
        Pipeline::new(&self.cluster, &self.cluster, &self.environment)
    }

    pub(crate) fn at() -> NamespacedName {
        NamespacedName::new("ns1", "simple-job")
    }

    /// One reconcile, without the status.
    pub(crate) fn reconcile(&mut self) -> Report {
        let mut state = if self.restarts { SubjectState::default() } else { std::mem::take(&mut self.state) };
        let report =
            now(self.pipeline().reconcile(&Handler::Native(Reconciler::Job), &Self::at(), &mut state, self.now));
        self.state = state;
        let problems =
            report.findings.problems.iter().map(|problem| format!("{}: {}", problem.reason, problem.message));
        let events = report.events.iter().map(|event| format!("{}: {}", event.reason, event.message));
        for told in events.chain(problems).collect::<Vec<_>>() {
            if !self.told.contains(&told) {
                self.told.push(told);
            }
        }
        report
    }

    pub(crate) fn publish(&self) {
        now(self.pipeline().publish(Reconciler::Job, &Self::at(), self.state.found().as_ref(), self.now)).unwrap();
    }

    /// Reconciles and statuses until nothing is left to be written; the last reconcile.
    pub(crate) fn settle(&mut self) -> Report {
        for _ in 0..10 {
            let report = self.reconcile();
            self.publish();
            if self.cluster.take_written().is_empty() {
                return report;
            }
        }
        panic!("no end of writes");
    }

    pub(crate) fn get(&self, kind: &str, name: &str) -> Option<Value> {
        let key = key(kind, name);
        self.cluster.get(&key.kind, &key.at).map(|object| object.to_value())
    }

    pub(crate) fn status(&self) -> Value {
        self.get("DaskJob", "simple-job").unwrap()["status"].clone()
    }

    pub(crate) fn job_status(&self) -> String {
        self.status()["jobStatus"].as_str().unwrap().to_owned()
    }

    /// Whether there are a cluster and a runner.
    pub(crate) fn made(&self) -> (bool, bool) {
        (self.get("DaskCluster", "simple-job").is_some(), self.runner().is_some())
    }

    pub(crate) fn runner(&self) -> Option<Value> {
        self.get("Pod", "simple-job-runner")
    }

    pub(crate) fn runner_uid(&self) -> String {
        self.runner().unwrap()["metadata"]["uid"].as_str().unwrap().to_owned()
    }

    pub(crate) fn edit(&self, change: impl FnOnce(&mut Value)) {
        self.cluster.edit(&key("DaskJob", "simple-job"), change);
    }

    /// The kubelet reports.
    pub(crate) fn report(&mut self, status: Value) -> Report {
        self.cluster.edit(&key("Pod", "simple-job-runner"), |pod| pod["status"] = status);
        self.settle()
    }

    pub(crate) fn runs(&mut self) {
        self.report(json!({"phase": "Running", "startTime": "2026-11-22T18:30:01Z", "containerStatuses": [
            {"name": "job", "state": {"running": {"startedAt": "2026-11-22T18:30:02Z"}}}]}));
    }

    pub(crate) fn ends(&mut self, phase: &str, exit_code: i32) -> Report {
        self.report(json!({"phase": phase, "startTime": "2026-11-22T18:30:01Z", "containerStatuses": [
            {"name": "job", "state": {"terminated": {"exitCode": exit_code, "reason": "Error",
                "startedAt": "2026-11-22T18:30:02Z", "finishedAt": "2026-11-22T18:30:05Z"}}}]}))
    }

    pub(crate) fn lose_runner(&mut self) -> Report {
        self.cluster.delete(&key("Pod", "simple-job-runner"));
        self.settle()
    }

    pub(crate) fn wait(&mut self, seconds: u64) -> Report {
        self.now += seconds * 1000;
        self.settle()
    }

    pub(crate) fn was_told(&self, what: &str) -> bool {
        self.told.iter().any(|told| told.contains(what))
    }

    pub(crate) fn times_told(&self, what: &str) -> usize {
        self.told.iter().filter(|told| told.contains(what)).count()
    }
}
