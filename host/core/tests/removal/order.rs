//! Who goes, in which order, and what happens when the scheduler does not say.

use std::collections::BTreeSet;

use dask_wasm_operator_core::scheduler::{Left, SchedulerCall, SchedulerReply};
use serde_json::json;

use crate::world::{SECOND, Scheduler, World, asked, in_order, leaving, registered, retired, worker};

#[test]
fn fault_01_only_what_the_scheduler_has_retired_is_deleted() {
    let mut world = World::new(4);
    let workers = world.workers();
    world.scale(2);
    assert_eq!(world.asked, [SchedulerCall::Workers]);
    assert_eq!(world.workers(), workers, "nothing goes before the scheduler has said which");
    // It can do without the third first, then the first.
    let order: Vec<_> = [2, 0, 1, 3].map(|at| workers[at].clone()).to_vec();
    world.answer(registered(&order));
    assert_eq!(world.asked, [asked(&order[..2])]);
    assert_eq!(world.workers(), workers, "nothing goes before it is retired");
    // One of the two could not be emptied.
    let report = world.answer(retired(&workers[2..3]));
    assert_eq!(report.findings.problems[0].reason, "RetireIncomplete");
    assert_eq!(world.asked, [SchedulerCall::Workers]);
    world.answer(leaving(&order, &workers[2..3], Left::Nothing));
    assert_eq!(world.asked, [asked(&workers[2..3])]);
    assert_eq!(world.workers(), workers, "nothing goes before it is found empty when it can get nothing more");
    let report = world.answer(retired(&workers[2..3]));
    assert_eq!(world.workers(), [0, 1, 3].map(|at| workers[at].clone()));
    assert_eq!(world.asked, [], "it is not asked at once again");
    assert!(report.requeue_after.is_some());
    world.settle();
    world.wait(20 * SECOND);
    assert_eq!(world.asked, [SchedulerCall::Workers]);
    let mut scheduler = Scheduler::of(&[3, 0, 1].map(|at| workers[at].clone()));
    let reply = scheduler.answer(&SchedulerCall::Workers);
    world.answer(reply);
    assert_eq!(world.asked, [asked(&workers[..1])], "the same that was chosen before");
    scheduler.serve(&mut world);
    assert_eq!(world.workers(), [1, 3].map(|at| workers[at].clone()));
}

#[test]
fn fault_02_workers_of_other_groups_are_not_chosen_and_several_processes_go_together() {
    let mut world = World::new(2);
    let workers = world.workers();
    world.scale(1);
    let reply = in_order([
        worker("other-worker-1", "tcp://other"),
        worker(&format!("{}-0", workers[0]), "tcp://0"),
        worker(&format!("{}-0", workers[1]), "tcp://2"),
        worker(&format!("{}-1", workers[1]), "tcp://3"),
        worker(&format!("{}-1", workers[0]), "tcp://1"),
    ]);
    let SchedulerReply::Workers(mut told) = reply.clone() else { panic!("{reply:?}") };
    world.answer(reply);
    let addresses = ["tcp://2", "tcp://3"].map(str::to_owned).to_vec();
    assert_eq!(world.asked, [SchedulerCall::Retire(addresses.clone())]);
    world.answer(SchedulerReply::Retired(addresses[..1].to_vec()));
    told[2].retiring = Some(Left::Nothing);
    world.answer(SchedulerReply::Workers(told));
    assert_eq!(
        (world.asked.as_slice(), world.workers()),
        ([].as_slice(), workers),
        "one of its processes still holds something"
    );
}

#[test]
fn a_second_process_that_registers_while_the_first_is_emptied_is_emptied_too() {
    let mut world = World::new(2);
    let workers = world.workers();
    workers.iter().zip(["10.0.0.1", "10.0.0.2"]).for_each(|(name, ip)| world.run_pod(name, ip));
    world.now += 60 * SECOND;
    world.scale(1);
    let first = worker(&format!("{}-0", workers[0]), "tcp://10.0.0.1:1");
    let mut scheduler = Scheduler { workers: vec![first, worker(&workers[1], "tcp://10.0.0.2:1")], full: Vec::new() };
    for _ in 0..2 {
        let reply = scheduler.answer(&world.asked[0].clone());
        world.answer(reply);
    }
    let reply = scheduler.answer(&SchedulerCall::Workers);
    world.answer(reply);
    assert_eq!(world.asked, [SchedulerCall::Retire(vec!["tcp://10.0.0.1:1".to_owned()])], "it has much to hand over");
    let reply = scheduler.answer(&world.asked[0].clone());
    let SchedulerReply::Retired(empty) = &reply else { panic!("{reply:?}") };
    assert_eq!(empty.len(), 1);
    scheduler.workers.push(worker(&format!("{}-1", workers[0]), "tcp://10.0.0.1:2"));
    world.now += 40 * SECOND;
    world.answer(reply);
    assert_eq!(world.workers(), workers, "what the scheduler said is old by now");
    scheduler.serve(&mut world);
    assert_eq!(world.workers(), workers[1..]);
    assert!(scheduler.workers.iter().all(|worker| worker.address != "tcp://10.0.0.1:2" || worker.retiring.is_some()));
}

#[test]
fn a_restart_between_retiring_and_deleting_chooses_no_others() {
    let mut world = World::new(3);
    let workers = world.workers();
    world.scale(2);
    world.answer(registered(&workers));
    assert_eq!(world.asked, [asked(&workers[..1])]);
    // The scheduler did it, the operator was killed, and now the scheduler would choose another.
    world.restart();
    world.reconcile();
    world.answer(leaving(&[1, 2, 0].map(|at| workers[at].clone()), &workers[..1], Left::Nothing));
    assert_eq!(world.asked, [asked(&workers[..1])]);
    world.answer(retired(&workers[..1]));
    assert_eq!(world.workers(), workers[1..]);
    assert_eq!(world.asked, []);
}

#[test]
fn scaling_up_meanwhile_replaces_what_was_retired() {
    let mut world = World::new(3);
    let workers = world.workers();
    let mut scheduler = Scheduler::of(&workers);
    world.scale(2);
    world.answer(registered(&workers));
    // It does not answer before somebody scales up.
    world.scale(3);
    assert_eq!(world.workers(), workers);
    for _ in 0..3 {
        world.wait(5 * SECOND);
    }
    scheduler.serve(&mut world);
    world.settle();
    let after = world.workers();
    assert_eq!(after.len(), 3);
    assert!(!after.contains(&workers[0]), "it would never get work again");
    assert!(workers[1..].iter().all(|name| after.contains(name)));
    assert!(!world.is_retiring());
}

#[test]
fn scaling_up_meanwhile_keeps_what_could_not_be_retired() {
    let mut world = World::new(3);
    let workers = world.workers();
    let mut scheduler = Scheduler { full: vec![format!("tcp://{}", workers[0])], ..Scheduler::of(&workers) };
    world.scale(2);
    world.answer(registered(&workers));
    world.scale(3);
    assert!(world.is_retiring());
    world.wait(6 * SECOND);
    scheduler.serve(&mut world);
    world.wait(6 * SECOND);
    scheduler.serve(&mut world);
    assert_eq!((world.workers(), world.is_retiring()), (workers, false));
}

#[test]
fn whoever_retired_a_worker_it_goes_and_is_replaced() {
    let mut world = World::new(3);
    let workers = world.workers();
    let mut scheduler = Scheduler::of(&workers);
    scheduler.workers[1].retiring = Some(Left::Nothing);
    scheduler.workers[2].retiring = Some(Left::Nothing);
    world.scale(2);
    scheduler.serve(&mut world);
    world.settle();
    assert_eq!((world.workers().len(), world.workers().contains(&workers[0])), (2, true));
    assert!(workers[1..].iter().all(|name| !world.workers().contains(name)));
}

#[test]
fn who_goes_next_is_for_the_schedulers_next_word_to_say() {
    let mut world = World::new(3);
    let workers = world.workers();
    world.scale(2);
    world.answer(registered(&workers));
    world.edit("DaskWorkerGroup", "g", |group| group["spec"]["worker"]["replicas"] = json!(1));
    world.answer(retired(&workers[..1]));
    assert_eq!(world.asked, [SchedulerCall::Workers], "what it said before is outdated by what was retired since");
    world.answer(leaving(&[2, 1, 0].map(|at| workers[at].clone()), &workers[..1], Left::Nothing));
    assert_eq!(world.asked, [asked(&workers[..1])], "none is chosen that may be given what another hands over");
    world.answer(retired(&workers[..1]));
    assert_eq!((world.workers(), world.asked.as_slice()), (workers[1..].to_vec(), [asked(&workers[2..])].as_slice()));
}

#[test]
fn where_the_scheduler_has_no_order_the_newest_goes() {
    let mut world = World::new(1);
    let first = world.workers();
    world.scale(3);
    world.settle();
    let workers = world.workers();
    world.scale(2);
    let unordered = workers.iter().map(|name| worker(name, &format!("tcp://{name}")));
    world.answer(SchedulerReply::Workers(unordered.collect()));
    let [SchedulerCall::Retire(chosen)] = world.asked.as_slice() else { panic!("{:?}", world.asked) };
    assert_ne!(chosen, &crate::world::retire(&first));
    let names: BTreeSet<_> = chosen.iter().collect();
    assert_eq!(names.len(), 1);
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
    let report = world.scale(2_000_000_000);
    assert!(report.findings.problems[0].message.contains("spec.worker.replicas is 2000000000"));
    assert_eq!(world.workers().len(), 1);
}
