//! Rolling updates, step by step.

use dask_wasm_operator_core::dask::Reconciler;
use serde_json::json;

use crate::{
    kubernetes::Kill,
    world::{SECOND, World, cluster, image, rolling},
};

fn updated(replicas: u32, unavailable: u32, surge: u32) -> World {
    let mut world = World::settled(cluster(replicas, rolling(json!(unavailable), json!(surge))));
    world.most = 0;
    world.set_image("worker", "new");
    world
}

fn names(world: &World) -> Vec<String> {
    world.workers().iter().map(|worker| worker.metadata.name.clone()).collect()
}

#[test]
fn fault_13_workers_follow_a_changed_template_within_both_bounds() {
    for (unavailable, surge) in [(1, 0), (0, 1), (2, 3), (5, 5), (0, 9)] {
        let mut world = updated(5, unavailable, surge);
        let before = names(&world);
        world.settle();
        let context = format!("maxUnavailable {unavailable}, maxSurge {surge}");
        assert_eq!(world.images(), ["new"; 5], "{context}");
        assert!(names(&world).iter().all(|name| !before.contains(name)), "{context}: none was changed in place");
        assert!(world.most <= 5 + surge as usize, "{context}: {} workers", world.most);
        assert!(world.fewest >= 5_usize.saturating_sub(unavailable as usize), "{context}: {} ready", world.fewest);
        assert_eq!(world.condition("DaskWorkerGroup", "c-default", "Progressing").1, "Settled", "{context}");
        assert_eq!(world.value("DaskWorkerGroup", "c-default")["status"]["outdatedReplicas"], 0, "{context}");
    }
}

#[test]
fn old_workers_go_only_as_new_ones_become_ready() {
    let mut world = updated(4, 0, 1);
    let old = names(&world);
    world.kubernetes.start_slowly();
    for replaced in 0..4 {
        world.settle();
        assert_eq!((world.workers().len(), world.available()), (5, 4), "{replaced} replaced");
        let (status, reason, message) = world.condition("DaskWorkerGroup", "c-default", "Progressing");
        assert_eq!((status.as_str(), reason.as_str()), ("True", "Updating"));
        assert!(message.contains(&(4 - replaced).to_string()), "{message}");
        assert_eq!(world.condition("DaskWorkerGroup", "c-default", "Degraded").0, "False");
        let started = world.workers().into_iter().find(|worker| !world.kubernetes.is_ready(worker)).unwrap();
        world.kubernetes.set_ready(&started, true);
    }
    world.settle();
    assert_eq!((world.workers().len(), world.available()), (4, 4));
    assert!(names(&world).iter().all(|name| !old.contains(name)));
}

#[test]
fn an_update_that_never_becomes_ready_stops_and_can_be_turned_back() {
    let mut world = updated(4, 1, 1);
    let old = names(&world);
    world.kubernetes.start_slowly();
    world.settle();
    world.wait(3600 * SECOND);
    assert_eq!((world.workers().len(), world.available()), (5, 3), "one old worker made room for two new ones");
    world.set_image("worker", "old");
    world.settle();
    assert_eq!(world.images(), ["old"; 4]);
    assert_eq!(names(&world).iter().filter(|name| old.contains(name)).count(), 3, "those that are left are kept");
}

#[test]
fn workers_that_are_not_ready_are_replaced_first() {
    let mut world = updated(4, 1, 0);
    let broken = world.workers().remove(2);
    world.kubernetes.set_ready(&broken, false);
    world.kubernetes.start_slowly();
    world.settle();
    assert!(!names(&world).contains(&broken.metadata.name));
    assert_eq!(world.available(), 3, "none that works was touched");
}

#[test]
fn a_worker_that_can_not_be_emptied_stays_and_holds_up_no_other_beyond_the_bound() {
    let mut world = updated(4, 2, 0);
    let full = names(&world).remove(1);
    world.full.insert(full.clone());
    world.settle();
    for _ in 0..20 {
        world.wait(20 * SECOND);
    }
    assert_eq!(world.images().iter().filter(|image| *image == "new").count(), 3);
    assert!(names(&world).contains(&full));
    let (status, reason, _) = world.condition("DaskWorkerGroup", "c-default", "Degraded");
    assert_eq!((status.as_str(), reason.as_str()), ("True", "RetireIncomplete"));
    world.full.clear();
    world.wait(20 * SECOND);
    assert_eq!(world.images(), ["new"; 4]);
}

#[test]
fn a_silent_scheduler_is_waited_for_and_then_done_without() {
    let mut world = updated(3, 1, 0);
    let old = names(&world);
    world.reachable = false;
    world.settle();
    for _ in 0..11 {
        world.wait(10 * SECOND);
    }
    assert_eq!(names(&world), old, "110 s");
    for _ in 0..60 {
        world.wait(10 * SECOND);
    }
    assert_eq!(world.images(), ["new"; 3]);
}

#[test]
fn a_group_that_is_scaled_meanwhile_ends_with_the_wanted_number() {
    for replicas in [0, 1, 2, 9] {
        let mut world = updated(5, 1, 2);
        world.kubernetes.start_slowly();
        world.settle();
        world.edit("DaskWorkerGroup", "c-default", |group| group["spec"]["worker"]["replicas"] = json!(replicas));
        for _ in 0..30 {
            world.wait(20 * SECOND);
            world.workers().iter().for_each(|worker| world.kubernetes.set_ready(worker, true));
        }
        assert_eq!(world.images(), vec!["new"; replicas], "{replicas}");
    }
}

#[test]
fn percentages_of_few_workers_still_let_an_update_proceed() {
    let mut world = World::settled(cluster(2, json!({"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 0}})));
    world.set_image("worker", "new");
    world.settle();
    assert_eq!((world.images(), world.fewest), (vec!["new".to_owned(); 2], 1));
}

#[test]
fn the_schedulers_deployment_is_changed_in_place_and_workers_stay() {
    let mut world = updated(2, 1, 0);
    world.set_image("worker", "old");
    world.settle();
    let (scheduler, workers) = (world.value("Deployment", "c-scheduler"), names(&world));
    world.edit("DaskCluster", "c", |cluster| cluster["metadata"]["labels"]["team"] = json!("a"));
    world.set_image("scheduler", "new");
    world.settle();
    let after = world.value("Deployment", "c-scheduler");
    assert_eq!((image(&after), &after["metadata"]["uid"]), ("new".to_owned(), &scheduler["metadata"]["uid"]));
    for unchanged in ["/spec/selector", "/spec/template/metadata"] {
        assert_eq!(after.pointer(unchanged), scheduler.pointer(unchanged));
    }
    assert_eq!(names(&world), workers);
    assert_eq!(world.value("DaskCluster", "c")["status"]["outdatedReplicas"], 0);
}

#[test]
fn a_group_made_by_hand_has_a_strategy_of_its_own_and_the_default_group_that_of_its_cluster() {
    let mut world = World::settled(cluster(1, rolling(json!("50%"), json!(2))));
    let group = world.value("DaskWorkerGroup", "c-default");
    assert_eq!(group["spec"]["updateStrategy"], rolling(json!("50%"), json!(2)));
    world.edit("DaskCluster", "c", |cluster| {
        cluster["spec"].as_object_mut().unwrap().remove("updateStrategy").unwrap();
    });
    world.settle();
    assert_eq!(world.value("DaskWorkerGroup", "c-default")["spec"].get("updateStrategy"), None);
    world.edit("DaskWorkerGroup", "c-default", |group| {
        group["spec"]["updateStrategy"] = rolling(json!(1), json!(0));
    });
    world.set_image("worker", "new");
    world.settle();
    assert_eq!(world.images(), ["new"], "where the cluster says nothing, the group's own counts");
}

#[test]
fn a_strategy_that_could_never_replace_anything_is_refused_by_name() {
    for (strategy, named) in [
        (rolling(json!(0), json!("0%")), "maxUnavailable and maxSurge are both 0"),
        (rolling(json!("many"), json!(1)), "spec.updateStrategy.rollingUpdate"),
        (json!({"type": "Recreate"}), "spec.updateStrategy"),
    ] {
        let mut world = World::new([cluster(1, strategy)]);
        world.settle();
        let (_, reason, message) = world.condition("DaskCluster", "c", "Degraded");
        assert_eq!(reason, "InvalidSpec");
        assert!(message.contains(named), "{message}");
        assert_eq!(world.value("DaskCluster", "c")["status"]["phase"], "Error");
    }
}

/// It was given up before its pod started; then the process was killed, and meanwhile the pod got work.
#[test]
fn a_worker_that_starts_after_it_was_given_up_is_retired_like_any_other() {
    let mut world = World::new([cluster(2, json!(null))]);
    world.kubernetes.start_slowly();
    world.settle();
    world.kubernetes.set_ready(&world.object("Deployment", "c-scheduler"), true);
    world.kubernetes.set_ready(&world.workers()[0], true);
    world.edit("DaskWorkerGroup", "c-default", |group| group["spec"]["worker"]["replicas"] = json!(1));
    world.reconcile(Reconciler::WorkerGroup);
    // The record is written, the Deployment is not deleted.
    world.kubernetes.kill(Some(Kill { at: 1, written: false }));
    world.reconcile(Reconciler::WorkerGroup);
    world.kubernetes.set_ready(&world.workers()[1], true);
    world.restart();
    assert_eq!(world.workers().len(), 2);
    world.wait(20 * SECOND);
    assert_eq!((world.workers().len(), world.retired.len()), (1, 1));
}

/// The process is killed at each write of an update, before it reaches the API server or before its answer returns.
#[test]
fn an_update_that_is_cut_off_at_any_write_goes_on() {
    let mut kills = 0;
    for at in 0.. {
        let mut was_killed = false;
        for written in [false, true] {
            let mut world = updated(3, 1, 1);
            world.kubernetes.kill(Some(Kill { at, written }));
            was_killed |= until_killed(&mut world);
            world.restart();
            world.wait(SECOND);
            let context = format!("killed at write {at}, written: {written}");
            assert_eq!(world.images(), ["new"; 3], "{context}");
            assert!(world.most <= 4, "{context}: {} workers", world.most);
            assert!(world.fewest >= 2, "{context}: {} ready", world.fewest);
            kills += usize::from(was_killed);
        }
        if !was_killed {
            break;
        }
    }
    assert!(kills > 20, "{kills}");
}

/// Whether the process was killed before the update was done.
fn until_killed(world: &mut World) -> bool {
    for _ in 0..100 {
        let reconciles = [world.reconcile(Reconciler::Cluster), world.reconcile(Reconciler::WorkerGroup)];
        if reconciles.iter().any(|report| report.retry.is_some()) {
            return true;
        }
        if reconciles.iter().all(|report| report.writes == 0 && report.calls.is_empty()) {
            return false;
        }
    }
    panic!("no end of it");
}

/// The process is killed after each reconcile, when what the scheduler was asked is done and its answer is not heard.
#[test]
fn an_update_that_is_cut_off_after_any_reconcile_goes_on() {
    for reconciles in 0..25 {
        let mut world = updated(3, 1, 1);
        for _ in 0..reconciles {
            world.reconcile(Reconciler::Cluster);
            world.reconcile(Reconciler::WorkerGroup);
        }
        world.restart();
        world.wait(SECOND);
        assert_eq!(world.images(), ["new"; 3], "killed after {reconciles} reconciles");
        assert!(world.most <= 4 && world.fewest >= 2, "killed after {reconciles} reconciles");
    }
}
