//! Workers under names that are not those of their Deployments, and containers that are started again.

use std::collections::{BTreeMap, BTreeSet};

use dask_wasm_operator_core::scheduler::{Left, SchedulerCall, SchedulerReply, SchedulerWorker};
use dask_wasm_operator_test_properties::cases;
use proptest::prelude::*;

use crate::world::{SECOND, World, in_order, registered, retire, worker};

fn workers(of: &[(&str, &str)]) -> SchedulerReply {
    in_order(of.iter().map(|(name, address)| worker(name, address)))
}

/// The same, and some addresses get no more work.
fn leaving(of: &[(&str, &str)], leaving: &[&str]) -> SchedulerReply {
    in_order(of.iter().map(|(name, address)| {
        let retiring = leaving.contains(address).then_some(Left::Nothing);
        SchedulerWorker { retiring, ..worker(name, address) }
    }))
}

fn retired(addresses: &[&str]) -> SchedulerReply {
    SchedulerReply::Retired(addresses.iter().map(|address| (*address).to_owned()).collect())
}

fn asked_to_retire(addresses: &[&str]) -> Vec<SchedulerCall> {
    vec![SchedulerCall::Retire(addresses.iter().map(|address| (*address).to_owned()).collect())]
}

#[test]
fn fault_08_a_process_that_begins_anew_after_it_was_retired_is_retired_too() {
    let mut world = World::new(2);
    let names = world.workers();
    names.iter().zip(["10.0.0.1", "10.0.0.2"]).for_each(|(name, ip)| world.run_pod(name, ip));
    world.now += 60 * SECOND;
    world.scale(1);
    world.answer(workers(&[(&names[0], "tcp://10.0.0.1:1"), (&names[1], "tcp://10.0.0.2:1")]));
    assert_eq!(world.asked, asked_to_retire(&["tcp://10.0.0.1:1"]));
    world.answer(retired(&["tcp://10.0.0.1:1"]));
    world.now += SECOND;
    let before = [(names[0].as_str(), "tcp://10.0.0.1:1"), (&names[1], "tcp://10.0.0.2:1")];
    world.answer(leaving(&before, &["tcp://10.0.0.1:1"]));
    world.run_pod(&names[0], "10.0.0.1");
    world.answer(retired(&["tcp://10.0.0.1:1"]));
    assert_eq!(world.workers(), names, "its new process may have been given something since");
    world.wait(6 * SECOND);
    assert_eq!(world.asked, [SchedulerCall::Workers], "it has registered by now");
    let after = [(names[1].as_str(), "tcp://10.0.0.2:1"), (&names[0], "tcp://10.0.0.1:2")];
    world.answer(workers(&after));
    assert_eq!(world.asked, asked_to_retire(&["tcp://10.0.0.1:2"]), "the same worker, although another is first now");
    world.answer(retired(&["tcp://10.0.0.1:2"]));
    world.answer(leaving(&after, &["tcp://10.0.0.1:2"]));
    world.answer(retired(&["tcp://10.0.0.1:2"]));
    assert_eq!(world.workers(), names[1..]);
}

#[test]
fn fault_08_so_is_one_that_comes_back_at_the_address_of_the_retired_one() {
    let mut world = World::new(2);
    let names = world.workers();
    names.iter().zip(["10.0.0.1", "10.0.0.2"]).for_each(|(name, ip)| world.run_pod(name, ip));
    world.now += 60 * SECOND;
    let both = [(names[0].as_str(), "tcp://10.0.0.1:1"), (&names[1], "tcp://10.0.0.2:1")];
    world.scale(1);
    world.answer(workers(&both));
    world.answer(retired(&["tcp://10.0.0.1:1"]));
    world.answer(leaving(&both, &["tcp://10.0.0.1:1"]));
    world.run_pod(&names[0], "10.0.0.1");
    world.answer(retired(&["tcp://10.0.0.1:1"]));
    world.wait(6 * SECOND);
    world.answer(workers(&both));
    assert_eq!(world.asked, asked_to_retire(&["tcp://10.0.0.1:1"]), "what was retired is another process");
    world.answer(retired(&["tcp://10.0.0.1:1"]));
    world.answer(leaving(&both, &["tcp://10.0.0.1:1"]));
    assert_eq!(world.workers(), names, "and found empty");
    world.answer(retired(&["tcp://10.0.0.1:1"]));
    assert_eq!(world.workers(), names[1..]);
}

#[test]
fn fault_09_workers_under_names_of_their_own_are_found_by_the_addresses_of_their_pods() {
    let mut world = World::new(2);
    let names = world.workers();
    names.iter().zip(["10.0.0.1", "fd00::2"]).for_each(|(name, ip)| world.run_pod(name, ip));
    world.now += 60 * SECOND;
    world.scale(1);
    // Two processes of the second, under the name of the first and another; the first is what it can do without least.
    let all = [
        ("alice", "tcp://[fd00::2]:1"),
        (&names[0], "tcp://[fd00::2]:2"),
        ("elsewhere", "tcp://10.9.9.9:1"),
        ("bob", "tcp://10.0.0.1:1"),
    ];
    world.answer(workers(&all));
    let both = ["tcp://[fd00::2]:1", "tcp://[fd00::2]:2"];
    assert_eq!(world.asked, asked_to_retire(&both));
    world.answer(retired(&both));
    world.answer(leaving(&all, &both));
    assert_eq!(world.asked, asked_to_retire(&both));
    world.answer(retired(&both));
    assert_eq!(world.workers(), names[..1]);
}

#[test]
fn fault_09_what_cannot_be_told_apart_waits_until_the_deadline_and_says_why() {
    let mut world = World::new(2);
    let names = world.workers();
    world.scale(1);
    let strangers = || workers(&[("alice", "tcp://10.9.9.9:1"), ("bob", "tcp://node-2:1")]);
    let report = world.answer(strangers());
    let problem = &report.findings.problems[0];
    assert_eq!(problem.reason, "WorkersNotRecognized");
    assert!(problem.message.contains("2 workers (the first runs at 10.9.9.9)"), "{problem}");
    assert!(!problem.message.contains("alice"), "names are the words of who answers: {problem}");
    for _ in 0..19 {
        world.wait(6 * SECOND);
        assert_eq!(world.asked, [SchedulerCall::Workers]);
        let report = world.answer(strangers());
        assert_eq!((report.events.len(), world.workers()), (0, names.clone()), "{:?}", report.events);
    }
    let report = world.wait(6 * SECOND);
    assert_eq!((report.events[0].reason.as_str(), world.workers().len()), ("ScaledDownBlindly", 1));
}

#[test]
fn of_two_the_one_that_the_scheduler_knows_by_name_goes_before_one_that_may_be_a_stranger() {
    let mut world = World::new(2);
    let names = world.workers();
    world.scale(1);
    world.answer(workers(&[("alice", "tcp://node-1:1"), (&names[1], "tcp://node-2:1")]));
    assert_eq!(world.asked, asked_to_retire(&["tcp://node-2:1"]));
}

#[test]
fn pods_on_the_network_of_their_node_are_told_apart_by_name() {
    let mut world = World::new(2);
    let names = world.workers();
    names.iter().for_each(|name| world.run_pod(name, "172.18.0.2"));
    world.now += 60 * SECOND;
    world.scale(1);
    world.answer(workers(&[(&names[1], "tcp://172.18.0.2:1"), (&names[0], "tcp://172.18.0.2:2")]));
    assert_eq!(world.asked, asked_to_retire(&["tcp://172.18.0.2:1"]));
}

#[test]
fn what_was_told_of_a_worker_that_is_gone_is_not_told_of_another_on_its_node() {
    let mut world = World::new(3);
    let names = world.workers();
    names.iter().for_each(|name| world.run_pod(name, "172.18.0.2"));
    world.run_pod(&names[1], "10.0.0.1");
    world.now += 60 * SECOND;
    world.scale(1);
    let [first, second, stays] = ["tcp://172.18.0.2:1", "tcp://10.0.0.1:1", "tcp://172.18.0.2:2"];
    let all = [(names[0].as_str(), first), (&names[1], second), (&names[2], stays)];
    world.answer(workers(&all));
    assert_eq!(world.asked, asked_to_retire(&[first, second]));
    world.answer(retired(&[first, second]));
    world.answer(leaving(&all, &[first, second]));
    world.reply_to(&asked_to_retire(&[first])[0], Ok(retired(&[first])));
    assert_eq!(world.workers(), names[1..]);
    // Now one pod is left on the node, and the scheduler has not said yet that the other's process is gone.
    world.end_pod(&names[0]);
    world.reconcile();
    assert_eq!(world.asked, asked_to_retire(&[second]));
    world.answer(retired(&[second]));
    assert_eq!(world.workers(), names[2..], "and none is made in its place");
    assert!(!world.is_retiring());
}

#[test]
fn a_worker_of_another_groups_pod_is_none_of_ours() {
    let mut world = World::new(2);
    let names = world.workers();
    world.run_pod("other-worker-1", "10.0.0.7");
    world.scale(1);
    world.answer(workers(&[("alice", "tcp://10.0.0.7:1"), (&names[1], "tcp://10.0.0.2:1")]));
    assert_eq!(world.workers().len(), 1, "one of ours is not registered, and nobody else can be it");
    assert_eq!(world.asked, []);
}

/// How a worker can be seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Sight {
    /// Its pod has an address of its own.
    Pod,
    /// Its pod has that of its node.
    Node,
    /// Its pod is not seen (yet).
    Unseen,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Name {
    Deployment,
    Processes,
    Own,
}

/// A process, and what only it holds.
#[derive(Clone, Debug)]
struct Process {
    deployment: String,
    name: String,
    address: String,
    is_retired: bool,
}

/// Workers of a group with their processes, and a scheduler that tells the truth.
struct Reality {
    world: World,
    sights: BTreeMap<String, Sight>,
    processes: Vec<Process>,
    /// Processes that are gone, and which the scheduler goes on to tell of: a node that is lost says no farewell.
    ghosts: Vec<Process>,
    started: u32,
    /// Whether an Event said that something may be lost.
    is_warned: bool,
}

impl Reality {
    fn new(workers: &[(Sight, Name)]) -> Self {
        let world = World::new(u32::try_from(workers.len()).unwrap());
        let sights = world.workers().into_iter().zip(workers.iter().map(|(sight, _)| *sight)).collect();
        let mut reality =
            Self { world, sights, processes: Vec::new(), ghosts: Vec::new(), started: 0, is_warned: false };
        for (number, (deployment, (_, name))) in reality.world.workers().into_iter().zip(workers).enumerate() {
            let names = match name {
                Name::Deployment => vec![deployment.clone()],
                Name::Processes => vec![format!("{deployment}-0"), format!("{deployment}-1")],
                Name::Own => vec![format!("worker of {number}"), number.to_string()],
            };
            reality.start(&deployment, &names);
        }
        reality.world.now += 60 * SECOND;
        reality
    }

    /// The processes of a worker begin, and are registered at once.
    fn start(&mut self, deployment: &str, names: &[String]) {
        // No two pods that are there have an address in common, if it is not that of their node.
        let number = self.sights.keys().position(|name| name == deployment).unwrap();
        let ip = match self.sights[deployment] {
            Sight::Pod | Sight::Unseen => format!("10.0.0.{number}"),
            Sight::Node => "172.18.0.2".to_owned(),
        };
        for name in names {
            self.started += 1;
            let (deployment, name, address) =
                (deployment.to_owned(), name.clone(), format!("tcp://{ip}:{}", self.started));
            self.processes.push(Process { deployment, name, address, is_retired: false });
        }
        if self.sights[deployment] != Sight::Unseen {
            self.world.run_pod(deployment, &ip);
        }
    }

    fn restart(&mut self, at: usize) {
        let workers = self.world.workers();
        let Some(deployment) = workers.get(at % workers.len().max(1)) else { return };
        if self.sights[deployment] == Sight::Unseen {
            return;
        }
        let (gone, rest): (Vec<_>, Vec<_>) =
            self.processes.drain(..).partition(|process| process.deployment == *deployment);
        self.processes = rest;
        self.start(deployment, &gone.into_iter().map(|process| process.name).collect::<Vec<_>>());
    }

    /// One answer or one look, and what became of the workers by it.
    fn step(&mut self, order: usize, restart: Option<usize>, keeps_ghosts: bool) -> Result<(), TestCaseError> {
        let asked = self.world.asked.get(order % self.world.asked.len().max(1)).cloned();
        let reply = asked.as_ref().map(|asked| match asked {
            SchedulerCall::Retire(addresses) => {
                let chosen = self.processes.iter_mut().filter(|process| addresses.contains(&process.address));
                chosen.for_each(|process| process.is_retired = true);
                SchedulerReply::Retired(addresses.clone())
            }
            _ => {
                let registered = self.processes.iter().chain(&self.ghosts);
                let mut workers: Vec<_> = registered.map(Process::as_registered).collect();
                let middle = order % workers.len().max(1);
                workers.rotate_left(middle);
                in_order(workers)
            }
        });
        if let Some(at) = restart {
            self.restart(at);
        }
        let before = self.world.workers();
        let report = match asked.zip(reply) {
            Some((asked, reply)) => self.world.reply_to(&asked, Ok(reply)),
            None => self.world.wait(4 * SECOND),
        };
        self.is_warned |= report.events.iter().any(|event| event.reason == "ScaledDownBlindly");
        let left: BTreeSet<_> = self.world.workers().into_iter().collect();
        // As many are wanted all the time, and nobody deletes any: none takes the place of another.
        let made: Vec<_> = left.iter().filter(|worker| !before.contains(worker)).collect();
        prop_assert!(made.is_empty(), "made {made:?}");
        for process in self.processes.iter().filter(|process| !left.contains(&process.deployment)) {
            self.world.end_pod(&process.deployment);
            prop_assert!(process.is_retired || self.is_warned, "{process:?} is lost");
        }
        let (here, gone) = self.processes.drain(..).partition(|process| left.contains(&process.deployment));
        self.processes = here;
        if keeps_ghosts {
            // Under other names they would be told from those that took their addresses by nothing.
            self.ghosts.extend(gone.into_iter().filter(|process| process.name.starts_with(&process.deployment)));
        }
        Ok(())
    }
}

impl Process {
    fn as_registered(&self) -> SchedulerWorker {
        let retiring = self.is_retired.then_some(Left::Nothing);
        SchedulerWorker { retiring, ..worker(&self.name, &self.address) }
    }
}

/// Which answer comes next and in which order it has the workers, and whose containers are started again before.
type Step = (usize, Option<usize>);

/// The property, for a group of these workers of which so many are wanted.
fn what_holds_something_is_retired_before_it_is_deleted(
    workers: &[(Sight, Name)],
    wanted: u32,
    steps: &[Step],
    keeps_ghosts: bool,
) -> Result<(), TestCaseError> {
    let mut reality = Reality::new(workers);
    reality.world.scale(wanted.min(u32::try_from(workers.len()).unwrap()));
    for (order, restart) in steps {
        reality.step(*order, *restart, keeps_ghosts)?;
    }
    // Then nothing is started again any more, and it comes to an end, warned of or not.
    for _ in 0..200 {
        reality.step(0, None, keeps_ghosts)?;
    }
    let left = reality.world.workers().len();
    prop_assert_eq!(left, workers.len().min(usize::try_from(wanted).unwrap()));
    let is_told = |(sight, name): &(Sight, Name)| *sight == Sight::Pod || *name != Name::Own;
    prop_assert!(!reality.is_warned || !workers.iter().all(is_told), "no name and no address was missing");
    Ok(())
}

fn any_steps() -> impl Strategy<Value = Vec<Step>> {
    prop::collection::vec((0..10_usize, prop::option::weighted(0.2, 0..10_usize)), 12..24)
}

proptest! {
    #![proptest_config(cases(64))]

    #[test]
    fn fault_09_whatever_the_names_what_holds_something_is_retired_before_it_is_deleted(
        workers in prop::collection::vec(
            (
                prop_oneof![Just(Sight::Pod), Just(Sight::Node), Just(Sight::Unseen)],
                prop_oneof![Just(Name::Deployment), Just(Name::Processes), Just(Name::Own)],
            ),
            1..5,
        ),
        wanted in 0..4_u32,
        steps in any_steps(),
        keeps_ghosts: bool,
    ) {
        what_holds_something_is_retired_before_it_is_deleted(&workers, wanted, &steps, keeps_ghosts)?;
    }

    #[test]
    fn so_it_is_where_the_last_worker_of_a_node_is_to_stay(steps in any_steps(), keeps_ghosts: bool) {
        let workers = [
            (Sight::Node, Name::Processes),
            (Sight::Unseen, Name::Deployment),
            (Sight::Node, Name::Deployment),
            (Sight::Pod, Name::Processes),
        ];
        what_holds_something_is_retired_before_it_is_deleted(&workers, 2, &steps, keeps_ghosts)?;
    }
}

#[test]
fn several_processes_of_a_worker_go_together_with_its_data() {
    let mut world = World::new(1);
    let names = world.workers();
    world.scale(0);
    world.answer(registered(&[format!("{}-0", names[0]), format!("{}-1", names[0])]));
    assert_eq!(world.asked, [SchedulerCall::Retire(retire(&[format!("{}-0", names[0]), format!("{}-1", names[0])]))]);
}
