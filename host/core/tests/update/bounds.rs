//! The bounds of a rolling update hold whatever happens meanwhile.

use dask_wasm_operator_core::dask::Reconciler;
use dask_wasm_operator_test_properties::cases;
use proptest::prelude::*;
use serde_json::{Value, json};

use crate::{
    kubernetes::Kill,
    world::{SECOND, World, cluster, rolling},
};

#[derive(Clone, Copy, Debug)]
enum Step {
    Reconcile,
    /// A pod becomes ready, or is not any more.
    Ready(usize, bool),
    Image(usize),
    Killed(Kill),
    Wait(u64),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        6 => Just(Step::Reconcile),
        4 => (any::<usize>(), prop::bool::weighted(0.8)).prop_map(|(which, ready)| Step::Ready(which, ready)),
        1 => (0..3_usize).prop_map(Step::Image),
        1 => (0..6_usize, any::<bool>()).prop_map(|(at, written)| Step::Killed(Kill { at, written })),
        1 => (1..30_u64).prop_map(Step::Wait),
    ];
    prop::collection::vec(step, 1..60)
}

/// A bound and how it is written.
fn bound(replicas: u32, rounds_up: bool) -> impl Strategy<Value = (u32, Value)> {
    let percent = move |percent: u32| {
        let share = f64::from(replicas) * f64::from(percent) / 100.0;
        let count = if rounds_up { share.ceil() } else { share.floor() };
        (count as u32, json!(format!("{percent}%")))
    };
    prop_oneof![(0..4_u32).prop_map(|count| (count, json!(count))), (1..100_u32).prop_map(percent)]
}

fn bounds() -> impl Strategy<Value = (u32, (u32, Value), (u32, Value))> {
    let all = (1..7_u32).prop_flat_map(|replicas| (Just(replicas), bound(replicas, false), bound(replicas, true)));
    all.prop_filter("one of them is to be above 0", |(_, unavailable, surge)| {
        unavailable.1 != json!(0) || surge.1 != json!(0)
    })
}

proptest! {
    #![proptest_config(cases(60))]

    #[test]
    fn never_too_many_and_never_too_few((replicas, unavailable, surge) in bounds(), steps in steps()) {
        let mut world = World::settled(cluster(replicas, rolling(unavailable.1, surge.1)));
        let unavailable = if surge.0 == 0 { unavailable.0.max(1) } else { unavailable.0 };
        let (most, least) = ((replicas + surge.0) as usize, replicas.saturating_sub(unavailable) as usize);
        world.kubernetes.start_slowly();
        world.set_image("worker", "new-0");
        let mut last = 0;
        let mut was_killed = false;
        for step in steps {
            match step {
                Step::Reconcile => {
                    was_killed = false;
                    world.reconcile(Reconciler::Cluster);
                    world.reconcile(Reconciler::WorkerGroup);
                }
                Step::Ready(which, ready) => {
                    let workers = world.workers();
                    // What fails by itself after another was chosen to go was not to be foreseen.
                    let was_chosen = was_killed || !world.retiring().is_empty();
                    let Some(worker) = workers.get(which % workers.len().max(1)).filter(|_| ready || !was_chosen) else {
                        continue;
                    };
                    // One that was killed may have chosen whom it did not record.
                    let may_be_chosen = was_killed || world.retiring().contains(&json!(worker.metadata.name));
                    if may_be_chosen && !world.kubernetes.is_ready(worker) {
                        world.recovered.insert(worker.metadata.uid.clone());
                    }
                    world.kubernetes.set_ready(worker, ready);
                }
                Step::Image(image) => {
                    last = image;
                    world.set_image("worker", &format!("new-{image}"));
                }
                Step::Killed(kill) => {
                    world.kubernetes.kill(Some(kill));
                    world.reconcile(Reconciler::Cluster);
                    world.reconcile(Reconciler::WorkerGroup);
                    world.restart();
                    was_killed = true;
                }
                Step::Wait(seconds) => {
                    world.wait(seconds * SECOND);
                }
            }
            prop_assert!(world.most <= most, "{} workers, at most {most} after {step:?}", world.most);
            prop_assert!(world.fewest >= least, "{} ready, at least {least} after {step:?}", world.fewest);
        }
        let wanted = vec![format!("new-{last}"); replicas as usize];
        for _ in 0..60 {
            world.wait(20 * SECOND);
            world.workers().iter().for_each(|worker| world.kubernetes.set_ready(worker, true));
            if world.images() == wanted {
                break;
            }
        }
        prop_assert_eq!(world.images(), wanted);
    }
}
