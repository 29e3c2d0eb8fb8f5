//! Schedulers that say nothing, and what they have said long ago.

use dask_wasm_operator_core::scheduler::SchedulerCall;
use serde_json::json;

use crate::world::{SECOND, World, asked, registered};

#[test]
fn a_silent_scheduler_is_waited_for_and_then_done_without() {
    let mut world = World::new(3);
    world.scale(1);
    let report = world.unreachable();
    assert_eq!(report.findings.problems[0].reason, "ScaleDownWaiting");
    assert_eq!((world.workers().len(), world.asked.len()), (3, 0), "it is not asked at once again");
    for _ in 0..11 {
        let report = world.wait(10 * SECOND);
        assert_eq!(report.findings.problems[0].reason, "ScaleDownWaiting");
        world.unreachable();
    }
    assert_eq!(world.workers().len(), 3, "110 s");
    let report = world.wait(15 * SECOND);
    assert_eq!(report.findings.problems[0].reason, "ScaleDownWaiting", "also while it hangs");
    let report = world.unreachable();
    assert_eq!(world.workers().len(), 1);
    assert_eq!(report.events[0].reason, "ScaledDownBlindly");
}

/// The belief that is attacked: that whoever is not ready holds nothing.
#[test]
fn a_silent_scheduler_is_not_waited_for_by_who_never_started_and_is_by_who_runs() {
    let mut world = World::new(3);
    let workers = world.workers();
    world.scale(1);
    // As one that was never ready: the cluster in memory has as many ready pods as are wanted.
    for name in &workers[1..] {
        world.edit("Deployment", name, |deployment| deployment["spec"]["replicas"] = json!(0));
    }
    world.run_pod(&workers[1], "10.0.0.1");
    let report = world.unreachable();
    assert_eq!(world.workers(), workers[..2]);
    assert_eq!(report.findings.problems[0].reason, "ScaleDownWaiting");
}

/// The scheduler was silent for a minute, and an hour later it is again.
fn silent_twice(between: impl FnOnce(&mut World)) {
    let mut world = World::new(3);
    world.scale(2);
    for _ in 0..7 {
        world.unreachable();
        world.wait(10 * SECOND);
    }
    between(&mut world);
    for _ in 0..11 {
        let report = world.unreachable();
        assert_eq!((report.events.len(), world.workers().len()), (0, 3));
        world.wait(10 * SECOND);
    }
    world.unreachable();
    world.wait(10 * SECOND);
    world.unreachable();
    assert_eq!(world.workers().len(), 2, "the deadline is for each by itself");
}

#[test]
fn an_outage_long_after_another_is_waited_for_by_itself() {
    silent_twice(|world| {
        world.unreachable();
        world.scale(3);
        world.now += 3_600 * SECOND;
        world.scale(2);
    });
}

#[test]
fn so_is_one_after_a_pause() {
    silent_twice(|world| {
        let pause = |world: &World, paused: &str| {
            world.edit("DaskWorkerGroup", "g", |group| {
                group["metadata"]["annotations"]["operator.dask.org/paused"] = json!(paused);
            });
        };
        world.unreachable();
        pause(world, "true");
        world.wait(3_600 * SECOND);
        pause(world, "false");
        world.reconcile();
    });
}

#[test]
fn a_second_scale_down_asks_again_before_it_takes_a_worker_for_one_that_is_gone() {
    let mut world = World::new(4);
    let workers = world.workers();
    workers.iter().zip(1..).for_each(|(name, at)| world.run_pod(name, &format!("10.0.0.{at}")));
    world.now += 60 * SECOND;
    world.scale(3);
    world.answer(registered(&workers[..2]));
    let left = world.workers();
    assert_eq!((left.len(), world.asked.len()), (3, 0), "one that is not registered");
    // The other registers late.
    world.now += 9 * SECOND;
    world.scale(2);
    assert_eq!(world.asked, [SchedulerCall::Workers]);
    assert_eq!(world.workers(), left);
    world.answer(registered(&left));
    assert_eq!(world.asked, [asked(&left[..1])]);
    assert_eq!(world.workers(), left);
}

#[test]
fn what_was_asked_before_more_were_too_many_does_not_count() {
    let mut world = World::new(4);
    let workers = world.workers();
    workers.iter().zip(1..).for_each(|(name, at)| world.run_pod(name, &format!("10.0.0.{at}")));
    world.now += 60 * SECOND;
    world.scale(3);
    world.scale(2);
    world.answer(registered(&workers[..2]));
    assert_eq!((world.asked.as_slice(), world.workers()), ([SchedulerCall::Workers].as_slice(), workers));
}

#[test]
fn a_scheduler_whose_service_is_gone_is_waited_for_like_one_that_is_silent() {
    for kind in ["Service", "Deployment"] {
        let mut world = World::new(3);
        world.cluster.delete(&world.key(kind, "c-scheduler"));
        let report = world.scale(1);
        assert_eq!(report.findings.problems[0].reason, "ScaleDownWaiting");
        let message = &report.findings.problems[0].message;
        assert!(message.contains(&format!("no {kind} c-scheduler")), "{message}");
        for _ in 0..23 {
            world.wait(5 * SECOND);
            assert_eq!(world.workers().len(), 3, "{kind}");
        }
        let report = world.wait(6 * SECOND);
        assert_eq!((world.workers().len(), report.events[0].reason.as_str()), (1, "ScaledDownBlindly"));
    }
}
