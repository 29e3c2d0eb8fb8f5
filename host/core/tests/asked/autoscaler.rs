//! The autoscaler over a cluster in memory: how many workers there are, when, and who decides it.

mod silent;
mod waits;

use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex},
};

use dask_wasm_operator_core::{
    action::{Action, WriteError, Written},
    dask::Reconciler,
    memory::MemoryCluster,
    object::{NamespacedName, ObjectKey},
    ports::{Pending, Writes},
    scheduler::{SchedulerCall, SchedulerError, SchedulerReply},
};
use serde_json::{Value, json};

use crate::world::{BEGIN, SECOND, World, dask_cluster, unreachable};

fn autoscaler(minimum: u32, maximum: u32) -> Value {
    json!({
        "apiVersion": "kubernetes.dask.org/v1", "kind": "DaskAutoscaler", "metadata": {"name": "a", "namespace": "ns1"},
        "spec": {"cluster": "a", "minimum": minimum, "maximum": maximum},
    })
}

fn with(mut autoscaler: Value, field: &str, value: Value) -> Value {
    autoscaler["spec"][field] = value;
    autoscaler
}

/// A cluster with so many workers, its autoscaler, and a scheduler that asks for so many.
fn world(replicas: u32, autoscaler: Value, mut target: impl FnMut(u64) -> u64 + 'static) -> World {
    World::new([dask_cluster(replicas), autoscaler], move |call, now| match call {
        SchedulerCall::AdaptiveTarget => Ok(SchedulerReply::AdaptiveTarget(target(now))),
        SchedulerCall::Workers => Ok(SchedulerReply::Workers(Vec::new())),
        _ => unreachable(),
    })
}

fn replicas_of(world: &World, group: &str) -> u64 {
    world.get("DaskWorkerGroup", group)["spec"]["worker"]["replicas"].as_u64().unwrap()
}

fn replicas(world: &World) -> u64 {
    replicas_of(world, "a-default")
}

fn scale(world: &World, replicas: u32) {
    world.edit("DaskWorkerGroup", "a-default", |group| group["spec"]["worker"]["replicas"] = json!(replicas));
}

fn workers(world: &World) -> usize {
    world.of_kind("Deployment").iter().filter(|object| object.metadata.name.contains("-worker-")).count()
}

/// Every change of the number of workers within a time: second and number.
fn course(world: &mut World, seconds: u64) -> Vec<(u64, u64)> {
    let begin = world.now;
    let mut course = vec![(0, replicas(world))];
    while world.now < begin + seconds * SECOND {
        world.advance_to_next();
        if course.last().is_some_and(|(_, last)| *last != replicas(world)) {
            course.push(((world.now - begin) / SECOND, replicas(world)));
        }
    }
    course
}

fn status(world: &World) -> Value {
    world.get("DaskAutoscaler", "a")["status"].clone()
}

#[test]
fn it_scales_to_what_the_scheduler_asks_for_and_says_so() {
    let mut world = world(1, autoscaler(0, 10), |_| 5);
    world.advance(5 * SECOND);
    assert_eq!((replicas(&world), workers(&world)), (5, 5));
    assert_eq!(world.events_of("Scaled"), ["Scaled workers of a-default from 1 to 5: the scheduler asks for 5"]);
    let status = status(&world);
    assert_eq!((&status["desiredReplicas"], &status["currentReplicas"]), (&json!(5), &json!(5)));
    assert!(status["lastScaleTime"].is_string());
    assert_eq!(world.condition("DaskAutoscaler", "a", "Available").0, "True");
    assert_eq!(world.condition("DaskAutoscaler", "a", "Progressing").1, "Settled");
    assert_eq!(world.condition("DaskAutoscaler", "a", "Degraded").0, "False");
    world.advance(300 * SECOND);
    assert_eq!(world.events_of("Scaled").len(), 1, "nothing is said of what does not change");
    let group = world.object("DaskWorkerGroup", "a-default");
    assert!(group.applied_by("dask-operator/autoscaler").is_some());
}

#[test]
fn it_goes_with_its_cluster_whoever_else_controls_it() {
    let mut world = world(1, autoscaler(0, 10), |_| 1);
    let cluster = world.object("DaskCluster", "a").metadata.uid.clone();
    assert!(world.object("DaskAutoscaler", "a").is_controlled_by(&cluster));
    world.cluster.delete(&world.key("DaskCluster", "a"));
    assert!(world.of_kind("DaskAutoscaler").is_empty());

    let mut theirs = autoscaler(0, 10);
    theirs["metadata"]["ownerReferences"] =
        json!([{"apiVersion": "v1", "kind": "ConfigMap", "name": "c", "uid": "u", "controller": true}]);
    world.reconcilers = vec![Reconciler::Cluster];
    world.cluster.create(dask_cluster(1)).unwrap();
    world.cluster.create(theirs).unwrap();
    world.settle();
    world.reconcile(Reconciler::Autoscaler, &NamespacedName::new("ns1", "a"));
    let owners = world.get("DaskAutoscaler", "a")["metadata"]["ownerReferences"].clone();
    let ours = owners.as_array().unwrap().iter().find(|owner| owner["kind"] == "DaskCluster").unwrap();
    assert_eq!(ours.get("controller"), None, "an object has one controller");
}

#[test]
fn down_it_goes_by_a_quarter_and_after_each_change_it_waits() {
    let mut world = world(20, autoscaler(2, 30), |_| 0);
    let course = course(&mut world, 400);
    let numbers: Vec<_> = course.iter().map(|(_, replicas)| *replicas).collect();
    assert_eq!(numbers, [20, 15, 12, 9, 7, 6, 5, 4, 3, 2]);
    assert!(course[1..].windows(2).all(|pair| pair[1].0 - pair[0].0 == 15), "{course:?}");
    assert_eq!(workers(&world), 2);
    assert_eq!(status(&world)["desiredReplicas"], 2);
}

#[test]
fn it_asks_every_interval_and_by_no_event_in_between() {
    for (interval, millis) in [(None, 5_000), (Some(2), 2_000), (Some(0), 1_000), (Some(300), 300_000)] {
        let mut spec = autoscaler(1, 1);
        spec["spec"]["intervalSeconds"] = json!(interval.unwrap_or(5));
        if interval.is_none() {
            spec["spec"].as_object_mut().unwrap().remove("intervalSeconds");
        }
        let mut world = world(1, spec, |_| 1);
        for _ in 0..20 {
            world.advance(millis / 4);
            world.edit("DaskWorkerGroup", "a-default", |group| group["metadata"]["labels"]["x"] = json!("y"));
        }
        let times = world.times_of(&SchedulerCall::AdaptiveTarget);
        assert!(
            times.len() >= 4 && times.windows(2).all(|pair| pair[1] - pair[0] == millis),
            "{interval:?}: {times:?}"
        );
    }
}

#[test]
fn nobody_is_asked_while_no_scheduler_runs() {
    for (missing, reason) in
        [("Service", "SchedulerMissing"), ("Deployment", "SchedulerMissing"), ("", "SchedulerNotReady")]
    {
        let mut world = world(3, autoscaler(0, 10), |_| 5);
        world.reconcilers = vec![Reconciler::Autoscaler];
        world.asked.clear();
        if missing.is_empty() {
            world.edit("Deployment", "a-scheduler", |scheduler| scheduler["spec"]["replicas"] = json!(0));
        } else {
            world.cluster.delete(&world.key(missing, "a-scheduler"));
        }
        world.advance(60 * SECOND);
        assert_eq!(world.asked, []);
        assert_eq!(world.problems(Reconciler::Autoscaler, "a"), []);
        let (status, found, _) = world.condition("DaskAutoscaler", "a", "Available");
        assert_eq!((status.as_str(), found.as_str()), ("False", reason));
        assert_eq!(replicas(&world), 3);
    }
}

#[test]
fn somebody_elses_number_stands_until_the_next_decision_which_starts_from_it() {
    let mut world = world(1, autoscaler(0, 100), |_| 8);
    world.advance(5 * SECOND);
    assert_eq!(replicas(&world), 8);
    world.advance(30 * SECOND);
    // Right after an answer, so that this answer would be a reason to change it back at once.
    let last = *world.times_of(&SchedulerCall::AdaptiveTarget).last().unwrap();
    assert_eq!(replicas(&world), 8);
    scale(&world, 40);
    world.settle();
    assert_eq!(replicas(&world), 40, "KubeCluster.scale, kubectl scale: their value");
    world.advance(last + 5 * SECOND - world.now - 1);
    assert_eq!((replicas(&world), workers(&world)), (40, 40));
    assert_eq!(status(&world)["currentReplicas"], 40);
    world.advance(SECOND);
    assert_eq!(replicas(&world), 30, "a quarter of what it was made");
    scale(&world, 4);
    world.restart();
    world.advance(14 * SECOND);
    assert_eq!(replicas(&world), 4, "a restart forces nothing back, and the cooldown goes on");
    world.advance(10 * SECOND);
    assert_eq!(replicas(&world), 8);
}

#[test]
fn the_clusters_number_counts_when_it_changes() {
    let mut world = world(1, autoscaler(0, 100), |_| 8);
    world.advance(5 * SECOND);
    assert_eq!(replicas(&world), 8);
    world.edit("DaskCluster", "a", |cluster| cluster["spec"]["worker"]["replicas"] = json!(3));
    world.settle();
    assert_eq!(replicas(&world), 3);
    world.advance(20 * SECOND);
    assert_eq!(replicas(&world), 8);
    world.edit("DaskCluster", "a", |cluster| cluster["metadata"]["labels"] = json!({"x": "y"}));
    world.restart();
    world.settle();
    assert_eq!(replicas(&world), 8, "what the cluster says of labels does not touch the number");
}

#[test]
fn without_an_autoscaler_the_last_number_stands() {
    let mut world = world(1, autoscaler(0, 100), |_| 8);
    world.advance(5 * SECOND);
    world.cluster.delete(&world.key("DaskAutoscaler", "a"));
    world.advance(60 * SECOND);
    world.restart();
    world.settle();
    assert_eq!((replicas(&world), workers(&world)), (8, 8));
    scale(&world, 2);
    world.settle();
    assert_eq!(replicas(&world), 2);
}

/// Up to the reconcile that has the scheduler's first answer and is to write.
fn answered(world: &mut World) -> NamespacedName {
    world.reconcilers = vec![Reconciler::Autoscaler];
    let at = NamespacedName::new("ns1", "a");
    while world.asked.is_empty() {
        world.now += SECOND;
        assert!(world.now < BEGIN + 60 * SECOND, "nobody is asked");
        world.reconcile(Reconciler::Autoscaler, &at);
    }
    at
}

/// A cluster that takes no writes.
struct ReadOnly;

impl Writes for ReadOnly {
    fn write(&self, action: Action) -> Pending<'_, Result<Written, WriteError>> {
        let object = action.object().clone();
        let message = "read-only".to_owned();
        let refused =
            WriteError::Refused { object, code: 403, reason: "Forbidden".to_owned(), message, fields: Vec::new() };
        Box::pin(std::future::ready(Err(refused)))
    }
}

#[test]
fn a_change_that_can_not_be_written_is_none_and_is_not_made_when_it_is_old() {
    for (later, expected) in [(SECOND, 8), (60 * SECOND, 1)] {
        let mut world = world(1, autoscaler(0, 100), |_| 8);
        let at = answered(&mut world);
        for _ in 0..3 {
            world.reconcile_over(Reconciler::Autoscaler, &at, &ReadOnly);
            assert_eq!(world.problems(Reconciler::Autoscaler, "a").len(), 1);
        }
        assert_eq!((status(&world).get("lastScaleTime"), world.events_of("Scaled")), (None, Vec::new()));
        world.scheduler = Box::new(|_, _| unreachable());
        world.now += later;
        world.settle();
        assert_eq!(replicas(&world), expected, "after {later} ms");
        assert_eq!(world.events_of("Scaled").len(), usize::from(expected == 8));
    }
}

/// A cluster in which somebody else is faster by a moment, once.
struct Outrun<'a> {
    cluster: &'a MemoryCluster,
    group: ObjectKey,
    replicas: Mutex<Option<u32>>,
}

impl Writes for Outrun<'_> {
    fn write(&self, action: Action) -> Pending<'_, Result<Written, WriteError>> {
        if let Some(replicas) = self.replicas.lock().unwrap().take() {
            self.cluster.edit(&self.group, |group| group["spec"]["worker"]["replicas"] = json!(replicas));
        }
        self.cluster.write(action)
    }
}

#[test]
fn a_change_at_the_same_moment_is_not_overwritten() {
    let mut world = world(1, autoscaler(0, 100), |_| 8);
    let at = answered(&mut world);
    let group = world.key("DaskWorkerGroup", "a-default");
    let cluster = Arc::clone(&world.cluster);
    let outrun = Outrun { cluster: &cluster, group, replicas: Mutex::new(Some(3)) };
    world.reconcile_over(Reconciler::Autoscaler, &at, &outrun);
    assert_eq!(*outrun.replicas.lock().unwrap(), None, "it wrote");
    assert_eq!(replicas(&world), 3);
    assert_eq!(world.problems(Reconciler::Autoscaler, "a"), [], "that our view was old is nobody's business");
    world.settle();
    assert_eq!((replicas(&world), world.events_of("Scaled")), (3, Vec::new()));
    world.reconcilers = Reconciler::ALL.to_vec();
    world.advance(6 * SECOND);
    assert_eq!(world.events_of("Scaled"), ["Scaled workers of a-default from 3 to 8: the scheduler asks for 8"]);
}

#[test]
fn fault_05_no_more_are_asked_for_while_workers_are_pending_but_fewer_may_be() {
    let mut world = world(4, autoscaler(0, 100), |_| 8);
    world.reconcilers = vec![Reconciler::Autoscaler];
    let ready = |world: &World, ready: Value| {
        world.edit("DaskWorkerGroup", "a-default", |group| group["status"]["readyReplicas"] = ready);
    };
    ready(&world, json!(3));
    world.advance(60 * SECOND);
    assert_eq!(replicas(&world), 4);
    assert_eq!(world.condition("DaskAutoscaler", "a", "Progressing").1, "WorkersStarting");
    world.scheduler = Box::new(|_, _| Ok(SchedulerReply::AdaptiveTarget(2)));
    world.advance(6 * SECOND);
    assert_eq!(replicas(&world), 3, "down is always allowed");
    world.scheduler = Box::new(|_, _| Ok(SchedulerReply::AdaptiveTarget(9)));
    world.advance(20 * SECOND);
    assert_eq!(replicas(&world), 9, "the three are ready");
    ready(&world, Value::Null);
    world.scheduler = Box::new(|_, _| Ok(SchedulerReply::AdaptiveTarget(12)));
    world.advance(20 * SECOND);
    assert_eq!(replicas(&world), 12, "nothing is known of them");
}

#[test]
fn a_minimum_that_is_raised_counts_while_workers_are_pending_and_while_nobody_answers() {
    let raise = |world: &World| {
        world.edit("DaskAutoscaler", "a", |autoscaler| autoscaler["spec"]["minimum"] = json!(6));
    };
    let mut pending = world(2, autoscaler(2, 10), |_| 9);
    pending.reconcilers = vec![Reconciler::Autoscaler];
    pending.edit("DaskWorkerGroup", "a-default", |group| group["status"]["readyReplicas"] = json!(1));
    raise(&pending);
    pending.advance(60 * SECOND);
    assert_eq!(replicas(&pending), 6);
    assert_eq!(pending.condition("DaskAutoscaler", "a", "Progressing").1, "WorkersStarting", "not up to nine");

    let mut silent = world(2, autoscaler(2, 10), |_| 9);
    silent.scheduler = Box::new(|_, _| unreachable());
    silent.advance(60 * SECOND);
    assert_eq!(replicas(&silent), 2);
    raise(&silent);
    silent.advance(121 * SECOND);
    assert_eq!(replicas(&silent), 6);
    let [event] = &silent.events_of("Scaled")[..] else { panic!("{:?}", silent.events) };
    assert!(event.contains("from 2 to 6") && event.contains("spec.minimum"), "{event}");
    assert_eq!(silent.condition("DaskAutoscaler", "a", "Available").0, "False");
}

fn extra_group(replicas: u32) -> Value {
    json!({
        "apiVersion": "kubernetes.dask.org/v1", "kind": "DaskWorkerGroup", "metadata": {"name": "a-gpu", "namespace": "ns1"},
        "spec": {"cluster": "a", "worker": {"replicas": replicas, "spec": {"containers": [{"name": "worker"}]}}},
    })
}

#[test]
fn fault_07_one_group_is_scaled_by_the_rest_of_what_is_asked_for() {
    for name in ["gpu", "a-gpu"] {
        let mut world = world(3, with(autoscaler(1, 100), "workerGroup", json!(name)), |_| 10);
        world.cluster.create(extra_group(2)).unwrap();
        world.advance(10 * SECOND);
        assert_eq!((replicas_of(&world, "a-gpu"), replicas(&world)), (7, 3), "{name}");
        world.scheduler = Box::new(|_, _| Ok(SchedulerReply::AdaptiveTarget(2)));
        world.advance(300 * SECOND);
        assert_eq!((replicas_of(&world, "a-gpu"), replicas(&world)), (1, 3), "not below its minimum");
    }
    let mut world = world(3, autoscaler(0, 100), |_| 10);
    world.cluster.create(extra_group(4)).unwrap();
    world.advance(10 * SECOND);
    assert_eq!((replicas_of(&world, "a-gpu"), replicas(&world)), (4, 6));
}

#[test]
fn two_autoscalers_of_one_cluster_share_what_is_asked_for() {
    let mut second = with(autoscaler(0, 100), "workerGroup", json!("gpu"));
    second["metadata"]["name"] = json!("b");
    let mut world = world(0, autoscaler(0, 100), |_| 10);
    world.cluster.create(extra_group(0)).unwrap();
    world.cluster.create(second).unwrap();
    world.advance(150 * SECOND);
    assert_eq!(replicas(&world) + replicas_of(&world, "a-gpu"), 10);
}

#[test]
fn what_is_wrong_is_named_with_its_remedy() {
    let problem = |autoscaler: Value| {
        let mut world = world(2, autoscaler, |_| 5);
        world.advance(10 * SECOND);
        let [problem] = &world.problems(Reconciler::Autoscaler, "a")[..] else { panic!("no problem") };
        let (degraded, reason, message) = world.condition("DaskAutoscaler", "a", "Degraded");
        assert_eq!((degraded.as_str(), reason.as_str(), &message), ("True", &*problem.reason, &problem.message));
        assert_eq!(world.events_of(&reason), std::slice::from_ref(&message), "one Event");
        (problem.reason.clone(), message, replicas(&world))
    };
    let (reason, message, replicas) = problem(with(autoscaler(0, 9), "workerGroup", json!("nobody")));
    assert_eq!((&*reason, replicas), ("WorkerGroupNotFound", 2));
    assert!(message.contains("nobody or a-nobody") && message.contains("spec.workerGroup"), "{message}");
    let (reason, message, replicas) = problem(with(autoscaler(0, 9), "cluster", json!("b")));
    assert_eq!((&*reason, replicas), ("ClusterNotFound", 2));
    assert!(message.contains("spec.cluster names b"), "{message}");
    let (reason, message, replicas) = problem(with(autoscaler(0, 9), "maximum", json!("many")));
    assert_eq!((&*reason, replicas), ("InvalidSpec", 2));
    assert!(message.contains("spec.maximum"), "{message}");
    let (reason, message, replicas) = problem(autoscaler(7, 4));
    assert_eq!((&*reason, replicas), ("MinimumAboveMaximum", 4), "the maximum counts");
    assert!(message.contains("spec.minimum (7)") && message.contains("spec.maximum (4)"), "{message}");
}

#[test]
fn nothing_is_changed_that_is_paused() {
    for (kind, name) in [("DaskWorkerGroup", "a-default"), ("DaskCluster", "a"), ("DaskAutoscaler", "a")] {
        let mut world = world(1, autoscaler(0, 10), |_| 5);
        world.edit(kind, name, |object| object["metadata"]["annotations"]["operator.dask.org/paused"] = json!("true"));
        world.advance(60 * SECOND);
        assert_eq!(replicas(&world), 1, "{kind}");
        assert_eq!(world.condition("DaskAutoscaler", "a", "Progressing").1, "Paused", "{kind}");
    }
}

#[test]
fn a_restart_at_any_step_changes_neither_the_numbers_nor_the_waits() {
    for (killed_after, publishes_late) in (0..40).flat_map(|reconciles| [(reconciles, false), (reconciles, true)]) {
        let mut world = world(7, autoscaler(2, 20), |_| 0);
        world.reconcilers = vec![Reconciler::Autoscaler];
        (world.killed_after, world.publishes_late) = (Some(killed_after), publishes_late);
        let course = course(&mut world, 120);
        let when = format!("killed after {killed_after} reconciles, with the status late: {publishes_late}");
        let numbers: Vec<_> = course.iter().map(|(_, replicas)| *replicas).collect();
        assert_eq!(numbers, [7, 6, 5, 4, 3, 2], "{when}");
        let waits = course[1..].windows(2).map(|pair| pair[1].0 - pair[0].0);
        assert!(waits.clone().all(|wait| (15..=26).contains(&wait)), "{when}: {course:?}");
        assert!(status(&world)["lastScaleTime"].is_string(), "{when}");
        let told: BTreeSet<_> = world.events_of("Scaled").into_iter().collect();
        assert_eq!(told.len(), world.events_of("Scaled").len(), "{when}: told twice");
    }
}

#[test]
fn after_a_restart_the_status_stays_as_it_was() {
    let mut world = world(1, autoscaler(0, 10), |_| 5);
    world.advance(60 * SECOND);
    let before = status(&world);
    world.restart();
    world.settle();
    assert_eq!(status(&world), before);
    world.advance(30 * SECOND);
    assert_eq!(status(&world), before);
}
