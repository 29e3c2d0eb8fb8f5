//! Who goes, in which order, and what happens when the scheduler does not say.

use std::collections::BTreeSet;

use dask_wasm_operator_core::{
    pipeline::SubjectState,
    scheduler::{SchedulerCall, SchedulerReply},
};
use serde_json::json;

use crate::world::{SECOND, World, registered, retire, worker};

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
fn fault_02_workers_of_other_groups_are_not_chosen_and_several_processes_go_together() {
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
fn who_goes_next_is_for_the_schedulers_next_word_to_say() {
    let mut world = World::new(3);
    let workers = world.workers();
    world.scale(2);
    world.answer(registered(&workers));
    world.edit("DaskWorkerGroup", "g", |group| group["spec"]["worker"]["replicas"] = json!(1));
    world.answer(SchedulerReply::Retired(retire(&workers[..1])));
    assert_eq!(world.workers(), workers[1..]);
    assert_eq!(world.asked, [SchedulerCall::Workers], "what it said before is outdated by what was retired since");
    world.answer(registered(&[2, 1].map(|at| workers[at].clone())));
    assert_eq!(world.asked, [SchedulerCall::Retire(retire(&workers[2..]))]);
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
