//! Scaling down: who goes, in which order, and what happens when the scheduler does not say.
#![expect(clippy::panic, clippy::unwrap_used, reason = "the helpers of a test fail as a test does")]

use std::collections::BTreeSet;

use dask_wasm_operator_core::{
    dask::{Environment, Reconciler},
    memory::{MemoryCluster, built_in_resources},
    object::{NamespacedName, ObjectKey},
    pipeline::{Handler, Pass, Pipeline, SubjectState},
    scheduler::{SchedulerCall, SchedulerError, SchedulerReply, SchedulerWorker},
};
use serde_json::{Value, json};

const BEGIN: u64 = 1_795_372_200_000;
const SECOND: u64 = 1_000;

/// A group with its cluster, and a scheduler that the test speaks for.
struct World {
    cluster: MemoryCluster,
    state: SubjectState,
    now: u64,
    /// What was said to the scheduler and not answered yet.
    asked: Vec<SchedulerCall>,
}

fn now<T>(future: impl Future<Output = T>) -> T {
    match std::pin::pin!(future).poll(&mut std::task::Context::from_waker(std::task::Waker::noop())) {
        std::task::Poll::Ready(value) => value,
        std::task::Poll::Pending => panic!("the cluster in memory made somebody wait"),
    }
}

impl World {
    fn new(replicas: u32) -> Self {
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

    fn pass(&mut self) -> Pass {
        let mut state = std::mem::take(&mut self.state);
        let pass = self.reconcile(Reconciler::WorkerGroup, "g", &mut state);
        self.state = state;
        self.asked.extend(pass.calls.iter().map(|(_, call)| call.clone()));
        pass
    }

    fn settle(&mut self) {
        while self.pass().writes > 0 {}
    }

    fn scale(&mut self, replicas: u32) -> Pass {
        self.edit("DaskWorkerGroup", "g", |group| group["spec"]["worker"]["replicas"] = json!(replicas));
        self.pass()
    }

    fn edit(&self, kind: &str, name: &str, change: impl FnOnce(&mut Value)) {
        self.cluster.edit(&self.key(kind, name), change);
    }

    fn key(&self, kind: &str, name: &str) -> ObjectKey {
        let objects = self.cluster.objects();
        objects.iter().find(|object| object.kind.kind == kind && object.metadata.name == name).unwrap().key()
    }

    fn workers(&self) -> Vec<String> {
        let objects = self.cluster.objects().into_iter();
        let workers =
            objects.filter(|object| object.kind.kind == "Deployment" && object.metadata.name.starts_with("g-"));
        workers.map(|object| object.metadata.name.clone()).collect()
    }

    /// The scheduler answers what it was asked last.
    fn answer(&mut self, reply: SchedulerReply) -> Pass {
        self.reply(Ok(reply))
    }

    fn reply(&mut self, reply: Result<SchedulerReply, SchedulerError>) -> Pass {
        let call = self.asked.pop().expect("the scheduler was asked something");
        self.state.heard(&call, reply, self.now);
        self.asked.clear();
        self.pass()
    }

    fn unreachable(&mut self) -> Pass {
        self.reply(Err(SchedulerError::Unreachable("refused".to_owned())))
    }
}

fn worker(name: &str, address: &str) -> SchedulerWorker {
    SchedulerWorker { name: name.to_owned(), address: address.to_owned(), is_retired: false }
}

fn registered(names: &[String]) -> SchedulerReply {
    SchedulerReply::Workers(names.iter().map(|name| worker(name, &format!("tcp://{name}"))).collect())
}

fn retire(names: &[String]) -> Vec<String> {
    names.iter().map(|name| format!("tcp://{name}")).collect()
}

#[test]
fn only_what_the_scheduler_has_retired_is_deleted() {
    let mut world = World::new(4);
    let workers = world.workers();
    world.scale(2);
    assert_eq!(world.asked, [SchedulerCall::Workers]);
    assert_eq!(world.workers(), workers, "nothing goes before the scheduler has said which");
    // It can do without the third first, then the first.
    let order: Vec<_> = [2, 0, 1, 3].map(|at| workers[at].clone()).to_vec();
    world.answer(registered(&order));
    let chosen = BTreeSet::from([format!("tcp://{}", workers[2]), format!("tcp://{}", workers[0])]);
    let [SchedulerCall::Retire(addresses)] = world.asked.as_slice() else { panic!("{:?}", world.asked) };
    assert_eq!(addresses.iter().cloned().collect::<BTreeSet<_>>(), chosen);
    assert_eq!(world.workers(), workers, "nothing goes before it is retired");
    // One of the two could not be emptied.
    let pass = world.answer(SchedulerReply::Retired(vec![format!("tcp://{}", workers[2])]));
    assert_eq!(world.workers(), [0, 1, 3].map(|at| workers[at].clone()));
    assert_eq!(world.asked, [], "it is not asked at once again");
    assert!(pass.requeue_after.is_some());
    world.settle();
    world.now += 20 * SECOND;
    world.pass();
    assert_eq!(world.asked, [SchedulerCall::Workers]);
    world.answer(registered(&[0, 1, 3].map(|at| workers[at].clone())));
    assert_eq!(world.asked, [SchedulerCall::Retire(retire(&workers[..1]))], "the same that was chosen before");
    world.answer(SchedulerReply::Retired(retire(&workers[..1])));
    assert_eq!(world.workers(), [1, 3].map(|at| workers[at].clone()));
}

#[test]
fn workers_of_other_groups_are_not_chosen_and_several_processes_go_together() {
    let mut world = World::new(2);
    let workers = world.workers();
    world.scale(1);
    let reply = SchedulerReply::Workers(vec![
        worker("other-worker-1", "tcp://other"),
        worker(&format!("{}-0", workers[0]), "tcp://0"),
        worker(&format!("{}-0", workers[1]), "tcp://2"),
        worker(&format!("{}-1", workers[1]), "tcp://3"),
        worker(&format!("{}-1", workers[0]), "tcp://1"),
    ]);
    world.answer(reply);
    let addresses = ["tcp://2", "tcp://3"].map(str::to_owned).to_vec();
    assert_eq!(world.asked, [SchedulerCall::Retire(addresses.clone())]);
    world.answer(SchedulerReply::Retired(addresses[..1].to_vec()));
    assert_eq!(world.workers(), workers, "one of its processes still holds something");
}

#[test]
fn a_restart_between_retiring_and_deleting_chooses_no_others() {
    let mut world = World::new(3);
    let workers = world.workers();
    world.scale(2);
    world.answer(registered(&workers));
    assert_eq!(world.asked, [SchedulerCall::Retire(retire(&workers[..1]))]);
    // The scheduler did it, the operator was killed, and now the scheduler would choose another.
    world.asked.clear();
    world.state = SubjectState::default();
    world.pass();
    let mut again: Vec<_> = [1, 2, 0].map(|at| worker(&workers[at], &format!("tcp://{}", workers[at]))).to_vec();
    again[2].is_retired = true;
    world.answer(SchedulerReply::Workers(again));
    assert_eq!(world.workers(), workers[1..]);
    assert_eq!(world.asked, []);
}

#[test]
fn scaling_up_meanwhile_replaces_what_was_retired() {
    let mut world = World::new(3);
    let workers = world.workers();
    world.scale(2);
    world.answer(registered(&workers));
    world.edit("DaskWorkerGroup", "g", |group| group["spec"]["worker"]["replicas"] = json!(3));
    world.answer(SchedulerReply::Retired(retire(&workers[..1])));
    world.settle();
    let after = world.workers();
    assert_eq!(after.len(), 3);
    assert!(!after.contains(&workers[0]), "it would never get work again");
    assert!(workers[1..].iter().all(|name| after.contains(name)));
}

#[test]
fn a_silent_scheduler_is_waited_for_and_then_done_without() {
    let mut world = World::new(3);
    world.scale(1);
    let pass = world.unreachable();
    assert_eq!(pass.findings.problems[0].reason, "ScaleDownWaiting");
    assert_eq!((world.workers().len(), world.asked.len()), (3, 0), "it is not asked at once again");
    for _ in 0..11 {
        world.now += 10 * SECOND;
        world.pass();
        world.unreachable();
    }
    assert_eq!(world.workers().len(), 3, "110 s");
    world.now += 15 * SECOND;
    world.pass();
    let pass = world.unreachable();
    assert_eq!(world.workers().len(), 1);
    assert_eq!(pass.events[0].reason, "ScaledDownBlindly");
}

#[test]
fn workers_of_the_python_operator_are_taken_in() {
    let mut world = World::new(2);
    let template = |name: &str| {
        let made = world.cluster.objects().into_iter().find(|object| object.metadata.name.starts_with("g-")).unwrap();
        let mut made = made.to_value();
        made["metadata"] = json!({
            "name": name, "namespace": "n", "labels": made["metadata"]["labels"],
            "ownerReferences": made["metadata"]["ownerReferences"],
        });
        made
    };
    for name in ["g-worker-0123456789", "g-worker-9876543210"] {
        world.cluster.create(template(name)).unwrap();
    }
    world.edit("DaskWorkerGroup", "g", |group| group["spec"]["worker"]["replicas"] = json!(4));
    world.settle();
    assert_eq!(world.workers().len(), 4, "they count as workers of the group");
    world.scale(3);
    world.answer(registered(&["g-worker-0123456789".to_owned()]));
    assert_eq!(world.workers().len(), 3);
}

#[test]
fn more_workers_than_can_be_served_are_refused_by_name() {
    let mut world = World::new(1);
    let pass = world.scale(2_000_000_000);
    assert!(pass.findings.problems[0].message.contains("spec.worker.replicas is 2000000000"));
    assert_eq!(world.workers().len(), 1);
}
