//! The idle shutdown over a cluster in memory: which clusters end, and which never do.

use dask_wasm_operator_core::{
    dask::Reconciler,
    object::NamespacedName,
    scheduler::{SchedulerCall, SchedulerReply},
    time::rfc3339,
};
use serde_json::{Value, json};

use crate::world::{BEGIN, SECOND, World, dask_cluster, unreachable};

const LIMIT: u64 = 60;

fn with_idle_timeout(seconds: u64) -> Value {
    let mut cluster = dask_cluster(1);
    cluster["spec"]["idleTimeout"] = json!(seconds);
    cluster
}

fn world(mut idle_since: impl FnMut(u64) -> Option<u64> + 'static) -> World {
    World::new([with_idle_timeout(LIMIT)], move |call, now| match call {
        SchedulerCall::IdleSince => Ok(SchedulerReply::IdleSince(idle_since(now))),
        _ => unreachable(),
    })
}

fn is_there(world: &World) -> bool {
    !world.of_kind("DaskCluster").is_empty()
}

fn idle_since(world: &World) -> Value {
    world.get("DaskCluster", "a")["status"]["idleSince"].clone()
}

#[test]
fn an_idle_cluster_ends_after_its_time_and_an_event_says_so_first() {
    let since = BEGIN + 3 * SECOND;
    let mut world = world(move |now| (now >= since).then_some(since));
    world.advance(LIMIT * SECOND + 3 * SECOND);
    assert!(is_there(&world), "not before its time");
    assert_eq!(idle_since(&world), rfc3339(since));
    assert_eq!(world.events_of("IdleTimeout"), Vec::<String>::new());
    world.advance(5 * SECOND);
    assert!(world.cluster.objects().is_empty(), "it is gone with all that it made");
    let (event, subject_was_there) = world.events.iter().find(|(event, _)| event.reason == "IdleTimeout").unwrap();
    assert!(subject_was_there);
    assert!(event.message.contains(&rfc3339(since)) && event.message.contains("60 s"), "{}", event.message);
    assert_eq!(world.events_of("IdleTimeout").len(), 1);
}

#[test]
fn work_in_between_begins_the_time_anew() {
    let work = BEGIN + 50 * SECOND..BEGIN + 55 * SECOND;
    let mut world = world(move |now| {
        let since = if now < work.start { BEGIN } else { work.end };
        (!work.contains(&now)).then_some(since)
    });
    world.advance(49 * SECOND);
    assert_eq!(idle_since(&world), rfc3339(BEGIN));
    world.advance(6 * SECOND);
    assert_eq!(idle_since(&world), Value::Null, "while it is busy");
    assert_eq!(world.get("DaskCluster", "a")["status"]["phase"], "Running", "the rest of the status stays");
    world.advance(59 * SECOND);
    assert!(is_there(&world));
    world.advance(7 * SECOND);
    assert!(!is_there(&world));
}

#[test]
fn what_can_not_be_counts_as_busy() {
    type IdleSince = fn(u64) -> Option<u64>;
    let answers: [(&str, IdleSince); 5] = [
        ("busy", |_| None),
        ("in the future", |now| Some(now + 1)),
        ("at the end of time", |_| Some(u64::MAX)),
        ("at the beginning of time", |_| Some(0)),
        ("long before the cluster was made", |_| Some(BEGIN - 7_200 * SECOND)),
    ];
    for (answer, idle_since_then) in answers {
        let mut world = world(idle_since_then);
        world.advance(3 * LIMIT * SECOND);
        assert!(is_there(&world), "{answer}");
        assert_eq!(idle_since(&world), Value::Null, "{answer}");
    }
}

#[test]
fn a_slow_clock_of_the_scheduler_does_not_count_before_the_cluster_was_made() {
    let mut world = world(|_| Some(BEGIN - 600 * SECOND));
    assert_eq!(rfc3339(BEGIN), world.get("DaskCluster", "a")["metadata"]["creationTimestamp"]);
    world.advance(LIMIT * SECOND);
    assert!(is_there(&world));
    world.advance(5 * SECOND);
    assert!(!is_there(&world));
}

/// A scheduler whose clock is ten minutes slow: since when it has been idle, as it says at each time.
fn slow(idle_since: u64) -> u64 {
    idle_since - 600 * SECOND
}

#[test]
fn a_slow_clock_of_the_scheduler_ends_no_cluster_early() {
    let (first, second) = (BEGIN + 120 * SECOND, BEGIN + 150 * SECOND);
    let mut world = world(move |now| {
        // The work between the two is over before the next question.
        (now >= first).then(|| slow(if now < second { first } else { second }))
    });
    world.advance(149 * SECOND);
    assert!(is_there(&world));
    world.advance(LIMIT * SECOND - 5 * SECOND);
    assert!(is_there(&world), "to the second between two questions it can't be told");
    world.advance(12 * SECOND);
    assert!(!is_there(&world));
}

#[test]
fn what_a_slow_clock_says_counts_from_when_somebody_looked_again() {
    let since = BEGIN + 10 * SECOND;
    let work = BEGIN + 305 * SECOND;
    let idle = move |now: u64| Some(slow(if now < work { since } else { work }));
    let paused = |world: &World, paused: &str| {
        world.edit("DaskCluster", "a", |cluster| {
            cluster["metadata"]["annotations"] = json!({"operator.dask.org/paused": paused});
        });
    };
    let mut after_a_restart = world(idle);
    after_a_restart.advance(11 * SECOND);
    after_a_restart.restart();
    after_a_restart.now = work + SECOND;
    after_a_restart.settle();
    let mut after_a_pause = world(idle);
    after_a_pause.advance(11 * SECOND);
    paused(&after_a_pause, "true");
    after_a_pause.advance(295 * SECOND);
    paused(&after_a_pause, "false");
    after_a_pause.settle();
    for mut world in [after_a_restart, after_a_pause] {
        world.advance(LIMIT * SECOND - 2 * SECOND);
        assert!(is_there(&world));
        world.advance(12 * SECOND);
        assert!(!is_there(&world));
    }
}

#[test]
fn what_a_slow_clock_says_counts_from_when_there_was_a_scheduler_again() {
    let mut world = world(|_| Some(slow(BEGIN + 10 * SECOND)));
    world.advance(12 * SECOND);
    let replicas = |world: &World, replicas: u32| {
        world.edit("Deployment", "a-scheduler", |scheduler| scheduler["spec"]["replicas"] = json!(replicas));
    };
    world.reconcilers = vec![Reconciler::IdleShutdown];
    replicas(&world, 0);
    world.settle();
    assert_eq!(idle_since(&world), Value::Null);
    // Nobody looks meanwhile.
    world.now += 100 * SECOND;
    replicas(&world, 1);
    world.settle();
    let back = world.now;
    world.advance(10 * SECOND);
    assert_eq!(idle_since(&world), rfc3339(back));
    world.advance(LIMIT * SECOND - 11 * SECOND);
    assert!(is_there(&world));
    world.advance(12 * SECOND);
    assert!(!is_there(&world));
}

#[test]
fn what_went_on_before_there_was_a_limit_does_not_count() {
    let mut world = World::new([dask_cluster(1)], |_, _| Ok(SchedulerReply::IdleSince(Some(BEGIN))));
    world.advance(1_000 * SECOND);
    world.edit("DaskCluster", "a", |cluster| cluster["spec"]["idleTimeout"] = json!(LIMIT));
    world.settle();
    world.advance(LIMIT * SECOND - SECOND);
    assert!(is_there(&world));
    world.advance(12 * SECOND);
    assert!(!is_there(&world));
}

#[test]
fn the_scheduler_is_asked_every_five_seconds_and_by_no_event_in_between() {
    let mut world = world(|_| None);
    let first = world.now;
    for _ in 0..240 {
        world.advance(SECOND / 2);
        world.edit("DaskCluster", "a", |cluster| cluster["metadata"]["labels"]["now"] = json!("x"));
    }
    let times = world.times_of(&SchedulerCall::IdleSince);
    assert!(times[0] < first + 5 * SECOND, "{times:?}");
    assert!(times.windows(2).all(|pair| pair[1] - pair[0] == 5 * SECOND), "{times:?}");
    assert!(times.len() >= 23);
}

#[test]
fn a_silent_scheduler_is_asked_less_and_less_never_counts_as_idle_and_is_told_of() {
    let mut world = World::new([with_idle_timeout(LIMIT)], |_, _| unreachable());
    world.advance(25 * SECOND);
    assert_eq!(world.problems(Reconciler::IdleShutdown, "a"), []);
    world.advance(1_000 * SECOND);
    assert!(is_there(&world));
    let times = world.times_of(&SchedulerCall::IdleSince);
    let waits: Vec<_> = times.windows(2).map(|pair| (pair[1] - pair[0]) / SECOND).collect();
    assert_eq!(waits[..6], [5, 5, 10, 20, 40, 60]);
    assert!(waits[6..].iter().all(|wait| *wait == 60), "{waits:?}");
    let [problem] = &world.problems(Reconciler::IdleShutdown, "a")[..] else { panic!("no problem") };
    assert_eq!((&*problem.reason, problem.permanent), ("SchedulerUnreachable", false));
    assert!(problem.message.contains("a-scheduler") && problem.message.contains("connection refused"), "{problem}");

    world.scheduler = Box::new(|_, now| Ok(SchedulerReply::IdleSince(Some(now))));
    world.advance(61 * SECOND);
    assert_eq!(world.problems(Reconciler::IdleShutdown, "a"), []);
    let [.., last_but_one, last] = world.times_of(&SchedulerCall::IdleSince)[..] else { panic!("nobody was asked") };
    assert_eq!(last - last_but_one, 5 * SECOND);
}

#[test]
fn one_lost_answer_takes_the_time_back_until_the_next() {
    let mut world = world(|_| Some(BEGIN));
    world.advance(58 * SECOND);
    world.scheduler =
        Box::new(
            |_, now| if now < BEGIN + 70 * SECOND { unreachable() } else { Ok(SchedulerReply::IdleSince(Some(BEGIN))) },
        );
    world.advance(11 * SECOND);
    assert!(is_there(&world), "no answer is not idle");
    assert_eq!(idle_since(&world), Value::Null);
    world.advance(12 * SECOND);
    assert!(!is_there(&world));
}

#[test]
fn who_has_no_limit_no_scheduler_or_is_paused_is_not_asked() {
    let nobody = |mut world: World| {
        world.reconcilers = vec![Reconciler::IdleShutdown];
        world.asked.clear();
        world.advance(3 * LIMIT * SECOND);
        assert_eq!(world.asked, []);
        assert!(is_there(&world));
    };
    let idle = || Ok(SchedulerReply::IdleSince(Some(BEGIN)));
    nobody(World::new([with_idle_timeout(0)], move |_, _| idle()));
    nobody(World::new([dask_cluster(1)], move |_, _| idle()));
    let mut scheduler_is_down = world(|_| Some(BEGIN));
    scheduler_is_down.reconcilers = vec![Reconciler::IdleShutdown];
    scheduler_is_down.edit("Deployment", "a-scheduler", |scheduler| scheduler["spec"]["replicas"] = json!(0));
    nobody(scheduler_is_down);
    let no_service = world(|_| Some(BEGIN));
    no_service.cluster.delete(&no_service.key("Service", "a-scheduler"));
    nobody(no_service);
    let paused = world(|_| Some(BEGIN));
    paused.edit("DaskCluster", "a", |cluster| {
        cluster["metadata"]["annotations"] = json!({"operator.dask.org/paused": "true"});
    });
    nobody(paused);
}

#[test]
fn a_limit_that_is_raised_after_the_announcement_counts() {
    let mut world = world(|_| Some(BEGIN));
    world.advance(58 * SECOND);
    let at = NamespacedName::new("ns1", "a");
    while world.events_of("IdleTimeout").is_empty() {
        world.now += SECOND;
        world.reconcile(Reconciler::IdleShutdown, &at);
        assert!(is_there(&world), "first the Event");
    }
    world.edit("DaskCluster", "a", |cluster| cluster["spec"]["idleTimeout"] = json!(2 * LIMIT));
    world.settle();
    assert!(is_there(&world));
    world.advance(70 * SECOND);
    assert!(!is_there(&world));
    assert_eq!(world.events_of("IdleTimeout").len(), 2);
}

#[test]
fn a_status_that_somebody_else_has_changed_is_written_again() {
    let mut world = world(|_| Some(BEGIN));
    world.advance(10 * SECOND);
    for other in [Value::Null, json!("2026-11-22T18:31:00Z")] {
        world.edit("DaskCluster", "a", |cluster| cluster["status"]["idleSince"] = other);
        world.settle();
        assert_eq!(idle_since(&world), rfc3339(BEGIN));
    }
}

#[test]
fn a_limit_that_is_taken_away_takes_the_status_with_it() {
    let mut world = world(|_| Some(BEGIN));
    world.advance(10 * SECOND);
    assert_eq!(idle_since(&world), rfc3339(BEGIN));
    let key = world.key("DaskCluster", "a");
    assert!(world.cluster.authors(&key).contains(&"dask-operator/idle-shutdown".to_owned()));
    world.edit("DaskCluster", "a", |cluster| cluster["spec"]["idleTimeout"] = json!(0));
    world.advance(10 * LIMIT * SECOND);
    assert_eq!(idle_since(&world), Value::Null);
    assert!(is_there(&world));
}

#[test]
fn a_restart_at_any_step_ends_nothing_early_and_forgets_nothing() {
    for (killed_after, publishes_late) in (0..40).flat_map(|reconciles| [(reconciles, false), (reconciles, true)]) {
        let mut world = world(|_| Some(BEGIN));
        world.reconcilers = vec![Reconciler::IdleShutdown];
        (world.killed_after, world.publishes_late) = (Some(killed_after), publishes_late);
        let when = format!("killed after {killed_after} reconciles, with the status late: {publishes_late}");
        world.advance(LIMIT * SECOND);
        assert!(is_there(&world), "{when}");
        world.advance(12 * SECOND);
        assert!(!is_there(&world), "{when}");
    }
}

#[test]
fn after_a_restart_the_status_stays_until_the_scheduler_has_answered() {
    let mut world = world(|_| Some(BEGIN));
    world.advance(10 * SECOND);
    world.restart();
    world.settle();
    assert_eq!(idle_since(&world), rfc3339(BEGIN));
    world.scheduler = Box::new(|_, _| Ok(SchedulerReply::IdleSince(None)));
    world.advance(6 * SECOND);
    assert_eq!(idle_since(&world), Value::Null);
}
