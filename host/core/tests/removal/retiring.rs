//! Workers on their way out: how long each may take, and that none waits for another.

use dask_wasm_operator_core::scheduler::{Left, SchedulerCall};

use crate::world::{SECOND, Scheduler, World, asked, leaving, registered, retired};

#[test]
fn one_that_has_much_to_hand_over_holds_up_no_other() {
    let mut world = World::new(4);
    let workers = world.workers();
    world.scale(1);
    world.answer(registered(&workers));
    let all = asked(&workers[..3]);
    assert_eq!(world.asked, std::slice::from_ref(&all));
    // The answer comes when the slowest is empty.
    world.wait(5 * SECOND);
    let reply = leaving(&workers, &workers[..3], Left::Nothing);
    world.reply_to(&SchedulerCall::Workers, Ok(reply));
    let each: Vec<_> = workers[..3].iter().map(|name| asked(std::slice::from_ref(name))).collect();
    assert_eq!(world.asked, [[all.clone()].as_slice(), &each].concat());
    world.reply_to(&each[0], Ok(retired(&workers[..1])));
    world.reply_to(&each[2], Ok(retired(&workers[2..3])));
    assert_eq!(world.workers(), [1, 3].map(|at| workers[at].clone()));
    for _ in 0..20 {
        world.wait(5 * SECOND);
        if world.asked.contains(&SchedulerCall::Workers) {
            let left = [1, 3].map(|at| workers[at].clone());
            world.reply_to(&SchedulerCall::Workers, Ok(leaving(&left, &workers[1..2], Left::Nothing)));
        }
        assert_eq!(world.asked, [all.clone(), each[1].clone()], "it is not asked again while it is being emptied");
    }
    let mut scheduler = Scheduler::of(&[1, 3].map(|at| workers[at].clone()));
    scheduler.serve(&mut world);
    assert_eq!(world.workers(), workers[3..]);
}

#[test]
fn as_many_as_there_may_be_are_emptied_at_a_time() {
    let mut world = World::new(40);
    let workers = world.workers();
    world.scale(0);
    world.answer(registered(&workers));
    world.answer(retired(&workers));
    world.answer(leaving(&workers, &workers, Left::Nothing));
    assert_eq!(world.asked.len(), 16);
    Scheduler::of(&workers).serve(&mut world);
    assert_eq!(world.workers().len(), 0);
}

#[test]
fn after_a_restart_those_that_are_empty_go_although_another_is_not() {
    let mut world = World::new(3);
    let workers = world.workers();
    world.scale(1);
    world.answer(registered(&workers));
    world.restart();
    world.reconcile();
    world.answer(leaving(&workers, &workers[..2], Left::Nothing));
    world.reply_to(&asked(&workers[1..2]), Ok(retired(&workers[1..2])));
    assert_eq!(world.workers(), [0, 2].map(|at| workers[at].clone()));
}

#[test]
fn what_a_worker_has_begun_is_waited_for_for_half_a_minute_and_what_it_has_not_for_a_heartbeat() {
    for (left, seconds) in [(Left::Tasks { begun: true }, 30), (Left::Tasks { begun: false }, 6)] {
        let mut world = World::new(2);
        let workers = world.workers();
        world.scale(1);
        world.answer(registered(&workers));
        world.answer(retired(&workers[..1]));
        world.answer(leaving(&workers, &workers[..1], left));
        let mut waited = 0;
        while world.asked != [asked(&workers[..1])] {
            assert!(waited < 60, "it is not asked for");
            waited += 1;
            world.wait(SECOND);
            if world.asked == [SchedulerCall::Workers] {
                world.answer(leaving(&workers, &workers[..1], left));
            }
        }
        assert_eq!((waited, world.workers()), (seconds, workers.clone()), "{left:?}");
        world.answer(retired(&workers[..1]));
        assert_eq!(world.workers(), workers[1..]);
    }
}

#[test]
fn results_that_come_after_a_worker_was_retired_are_moved_too() {
    let mut world = World::new(2);
    let workers = world.workers();
    world.scale(1);
    world.answer(registered(&workers));
    world.answer(retired(&workers[..1]));
    let report = world.answer(leaving(&workers, &workers[..1], Left::Tasks { begun: true }));
    world.wait(SECOND);
    assert!(report.requeue_after.is_some_and(|after| after.as_secs() <= 1));
    world.answer(leaving(&workers, &workers[..1], Left::Nothing));
    assert_eq!(world.asked, [asked(&workers[..1])], "once more, now that nothing comes any more");
    assert_eq!(world.workers(), workers);
    world.answer(retired(&workers[..1]));
    assert_eq!(world.workers(), workers[1..]);
}

#[test]
fn a_scheduler_that_takes_long_to_answer_is_understood_over_several_reconciles() {
    let mut world = World::new(5);
    let workers = world.workers();
    let mut scheduler = Scheduler::of(&workers);
    world.scale(2);
    for _ in 0..30 {
        let Some(call) = world.asked.first().cloned() else { break };
        let reply = scheduler.answer(&call);
        for _ in 0..3 {
            world.wait(5 * SECOND);
        }
        world.reply_to(&call, Ok(reply));
        scheduler.workers.retain(|worker| world.workers().contains(&worker.name));
    }
    assert_eq!(world.workers(), workers[3..]);
}

#[test]
fn where_no_other_is_left_to_take_it_what_workers_hold_goes_with_them_at_the_deadline() {
    let mut world = World::new(2);
    let workers = world.workers();
    let mut scheduler = Scheduler::of(&workers);
    scheduler.full = vec![format!("tcp://{}", workers[1])];
    world.scale(0);
    scheduler.serve(&mut world);
    assert_eq!(world.workers(), workers[1..], "the other has nothing to lose");
    let (mut waited, mut reconciles) = (0, Vec::new());
    while !world.workers().is_empty() {
        assert!(waited < 150, "they never go");
        waited += 5;
        reconciles = vec![world.wait(5 * SECOND)];
        reconciles.extend(scheduler.serve(&mut world));
        if !world.workers().is_empty() {
            let problem = &reconciles.last().unwrap().findings.problems[0];
            assert_eq!(problem.reason, "RetireIncomplete");
            assert!(problem.message.contains("no other worker"), "{problem}");
        }
    }
    assert!(waited >= 120, "{waited} s");
    let events: Vec<_> = reconciles.iter().flat_map(|report| &report.events).collect();
    assert_eq!((events.len(), events[0].reason.as_str()), (1, "ScaledDownBlindly"));
    assert!(events[0].message.contains("no other worker"), "{}", events[0].message);
}

#[test]
fn as_long_as_another_could_take_it_what_a_worker_holds_stays() {
    let mut world = World::new(2);
    let workers = world.workers();
    let mut scheduler = Scheduler::of(&workers);
    scheduler.full = vec![format!("tcp://{}", workers[0])];
    world.scale(1);
    for _ in 0..60 {
        scheduler.serve(&mut world);
        let report = world.wait(5 * SECOND);
        let problem = &report.findings.problems[0];
        assert_eq!(problem.reason, "RetireIncomplete");
        assert!(problem.message.contains("actors"), "{problem}");
    }
    assert_eq!(world.workers(), workers);
}
