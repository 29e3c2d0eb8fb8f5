//! A cluster in memory with a clock and a scheduler that answers what a test says: reconciles are made when something
//! changed or when they are due, as the controller does.

use std::{collections::BTreeMap, sync::Arc};

use dask_wasm_operator_core::{
    contract::EventNote,
    dask::{Environment, Handler, Pipeline, Reconciler, cluster_in_memory},
    memory::{MemoryCluster, built_in_resources},
    native::Native as _,
    object::{NamespacedName, Object, ObjectKey},
    pipeline::SubjectState,
    ports::{Observed, Writes},
    retry::Retry,
    scheduler::{SchedulerCall, SchedulerError, SchedulerReply},
    wanted::Problem,
};
use serde_json::{Value, json};

/// When the world begins, in milliseconds since the Unix epoch.
pub(crate) const BEGIN: u64 = 1_795_372_200_000;
pub(crate) const SECOND: u64 = 1_000;

type Answer = Result<SchedulerReply, SchedulerError>;
type Scheduler = dyn FnMut(&SchedulerCall, u64) -> Answer;
type Subject = (Reconciler, NamespacedName);

/// What the operator sees of the cluster, and sends to it.
pub(crate) trait Api: Observed + Writes {
    /// The time at which it is asked from now on.
    fn set_now(&self, _now: u64) {}

    /// An Event is posted on this object.
    fn post(&self, _subject: &ObjectKey, _event: &EventNote) {}
}

impl Api for MemoryCluster {}

pub(crate) struct World {
    pub(crate) cluster: Arc<MemoryCluster>,
    api: Arc<dyn Api>,
    /// Those that run.
    pub(crate) reconcilers: Vec<Reconciler>,
    pub(crate) now: u64,
    /// What the scheduler says.
    pub(crate) scheduler: Box<Scheduler>,
    /// What the scheduler was asked, and when.
    pub(crate) asked: Vec<(u64, SchedulerCall)>,
    /// Events, and whether their subject was still there.
    pub(crate) events: Vec<(EventNote, bool)>,
    /// The operator is killed after so many reconciles from now on, before the status is written.
    pub(crate) killed_after: Option<usize>,
    /// When it is killed, the status that the reconcile before called for was just being written, of the cluster as it is by
    /// then.
    pub(crate) publishes_late: bool,
    states: BTreeMap<Subject, SubjectState>,
    due: BTreeMap<Subject, u64>,
    environment: Environment,
}

/// Polls a future that never waits: the cluster in memory answers at once.
pub(crate) fn now<T>(future: impl Future<Output = T>) -> T {
    match std::pin::pin!(future).poll(&mut std::task::Context::from_waker(std::task::Waker::noop())) {
        std::task::Poll::Ready(value) => value,
        std::task::Poll::Pending => panic!("the cluster in memory made somebody wait"),
    }
}

impl World {
    pub(crate) fn new(
        objects: impl IntoIterator<Item = Value>,
        scheduler: impl FnMut(&SchedulerCall, u64) -> Answer + 'static,
    ) -> Self {
        let cluster = cluster_in_memory(built_in_resources(), "2026-11-22T18:30:00Z");
        objects.into_iter().for_each(|object| {
            cluster.create(object).unwrap();
        });
        let cluster = Arc::new(cluster);
        let mut world = Self::over(Arc::clone(&cluster), cluster, scheduler);
        world.settle();
        world
    }

    /// One whose operator sees of the cluster what this API lets it see. No reconcile is made yet.
    pub(crate) fn over(
        cluster: Arc<MemoryCluster>,
        api: Arc<dyn Api>,
        scheduler: impl FnMut(&SchedulerCall, u64) -> Answer + 'static,
    ) -> Self {
        Self {
            cluster,
            api,
            reconcilers: Reconciler::ALL.to_vec(),
            now: BEGIN,
            scheduler: Box::new(scheduler),
            asked: Vec::new(),
            events: Vec::new(),
            killed_after: None,
            publishes_late: false,
            states: BTreeMap::new(),
            due: BTreeMap::new(),
            environment: Environment::default(),
        }
    }

    /// Reconciles over every subject until there is nothing left to do at this moment.
    pub(crate) fn settle(&mut self) {
        for _ in 0..50 {
            if !self.round() && self.due.values().all(|due| *due > self.now) {
                return;
            }
        }
        panic!("no end of it: {:?}", self.cluster.last_changed_field());
    }

    /// Lets time pass.
    pub(crate) fn advance(&mut self, millis: u64) {
        let end = self.now + millis;
        while let Some(next) = self.due.values().copied().filter(|due| *due <= end).min() {
            self.now = self.now.max(next);
            self.settle();
        }
        self.now = end;
        self.settle();
    }

    /// Lets time pass until somebody is due.
    pub(crate) fn advance_to_next(&mut self) {
        let next = self.due.values().copied().min().unwrap_or(self.now);
        self.advance(next.saturating_sub(self.now));
    }

    /// One reconcile over every subject; whether anything came of it.
    fn round(&mut self) -> bool {
        let mut busy = false;
        for reconciler in self.reconcilers.clone() {
            for object in self.of_kind(&reconciler.subject().kind) {
                busy |= self.reconcile(reconciler, &object.at());
            }
        }
        self.due.retain(|(reconciler, at), _| {
            let kind = reconciler.subject();
            self.cluster.objects().iter().any(|object| object.kind.same_kind(&kind) && object.at() == *at)
        });
        busy
    }

    /// One reconcile, with its status; whether anything came of it.
    pub(crate) fn reconcile(&mut self, reconciler: Reconciler, at: &NamespacedName) -> bool {
        self.reconcile_over(reconciler, at, &*Arc::clone(&self.api))
    }

    /// One reconcile that writes to something else than the cluster itself, except for the status.
    pub(crate) fn reconcile_over(&mut self, reconciler: Reconciler, at: &NamespacedName, writes: &dyn Writes) -> bool {
        let key = (reconciler, at.clone());
        self.api.set_now(self.now);
        let pipeline = Pipeline::new(&*self.api, writes, &self.environment);
        let state = self.states.entry(key.clone()).or_default();
        let found_before = state.found();
        let report = now(pipeline.reconcile(&Handler::Native(reconciler), at, state, self.now));
        let killed = self.killed_after.as_mut().is_some_and(|left| {
            *left = left.wrapping_sub(1);
            *left == usize::MAX
        });
        if killed {
            if self.publishes_late {
                let pipeline = Pipeline { writes: &*self.api, ..pipeline };
                now(pipeline.publish(reconciler, at, found_before.as_ref(), self.now)).unwrap();
            }
            self.restart();
            return true;
        }
        let exists = self.cluster.objects().iter().any(|object| object.at() == *at);
        let subject = ObjectKey { kind: reconciler.subject(), at: at.clone() };
        let mut notes = report.events.clone();
        if !reconciler.traits().has_conditions {
            let before = found_before.map(|found| found.findings.problems).unwrap_or_default();
            let new = report.findings.problems.iter().filter(|problem| !problem.is_among(&before));
            notes.extend(new.map(Problem::as_event));
        }
        let pipeline = Pipeline { writes: &*self.api, ..pipeline };
        notes.iter().for_each(|event| self.api.post(&subject, event));
        self.events.extend(notes.into_iter().map(|event| (event, exists)));
        let notes = match report.is_told {
            true => Vec::new(),
            false => now(pipeline.publish(reconciler, at, state.found().as_ref(), self.now)).unwrap(),
        };
        notes.iter().for_each(|event| self.api.post(&subject, event));
        self.events.extend(notes.into_iter().map(|event| (event, exists)));
        let mut busy = !self.cluster.take_written().is_empty();
        for (_, call) in report.calls {
            self.asked.push((self.now, call.clone()));
            state.heard(&call, (self.scheduler)(&call, self.now), self.now);
            busy = true;
        }
        let wait = match report.retry {
            Some(Retry::After(delay) | Retry::Parked(delay)) => Some(delay),
            None => report.requeue_after,
        };
        match wait {
            Some(wait) => self.due.insert(key, self.now + u64::try_from(wait.as_millis()).unwrap()),
            None => self.due.remove(&key),
        };
        busy
    }

    /// The operator is started anew.
    pub(crate) fn restart(&mut self) {
        self.states.clear();
        self.due.clear();
        self.killed_after = None;
    }

    pub(crate) fn of_kind(&self, kind: &str) -> Vec<Arc<Object>> {
        self.cluster.objects().into_iter().filter(|object| object.kind.kind == kind).collect()
    }

    pub(crate) fn key(&self, kind: &str, name: &str) -> ObjectKey {
        let found = self.of_kind(kind).into_iter().find(|object| object.metadata.name == name);
        found.unwrap_or_else(|| panic!("there is no {kind} {name}")).key()
    }

    pub(crate) fn object(&self, kind: &str, name: &str) -> Arc<Object> {
        self.of_kind(kind).into_iter().find(|object| object.metadata.name == name).unwrap()
    }

    pub(crate) fn get(&self, kind: &str, name: &str) -> Value {
        self.object(kind, name).to_value()
    }

    /// Changes an object as a person would.
    pub(crate) fn edit(&self, kind: &str, name: &str, change: impl FnOnce(&mut Value)) {
        self.cluster.edit(&self.key(kind, name), change);
    }

    pub(crate) fn problems(&self, reconciler: Reconciler, name: &str) -> Vec<Problem> {
        let state = self.states.get(&(reconciler, NamespacedName::new("ns1", name)));
        state.map(|state| state.findings().problems.clone()).unwrap_or_default()
    }

    /// Reason and message of one condition.
    pub(crate) fn condition(&self, kind: &str, name: &str, type_: &str) -> (String, String, String) {
        let object = self.get(kind, name);
        let conditions = object["status"]["conditions"].as_array().unwrap().clone();
        let found = conditions.into_iter().find(|condition| condition["type"] == type_).unwrap();
        let text = |field: &str| found[field].as_str().unwrap().to_owned();
        (text("status"), text("reason"), text("message"))
    }

    /// When this was asked.
    pub(crate) fn times_of(&self, call: &SchedulerCall) -> Vec<u64> {
        self.asked.iter().filter(|(_, asked)| asked == call).map(|(at, _)| *at).collect()
    }

    pub(crate) fn events_of(&self, reason: &str) -> Vec<String> {
        self.events.iter().filter(|(event, _)| event.reason == reason).map(|(event, _)| event.message.clone()).collect()
    }
}

pub(crate) fn unreachable() -> Answer {
    Err(SchedulerError::Unreachable("connection refused".to_owned()))
}

/// A DaskCluster `a` in `ns1`.
pub(crate) fn dask_cluster(replicas: u32) -> Value {
    json!({
        "apiVersion": "kubernetes.dask.org/v1", "kind": "DaskCluster",
        "metadata": {"name": "a", "namespace": "ns1"},
        "spec": {
            "scheduler": {
                "spec": {"containers": [{"name": "scheduler", "image": "dask"}]},
                "service": {"ports": [{"name": "tcp-comm", "port": 8786}, {"name": "http-dashboard", "port": 8787}]},
            },
            "worker": {"replicas": replicas, "spec": {"containers": [{"name": "worker", "image": "dask"}]}},
        },
    })
}
