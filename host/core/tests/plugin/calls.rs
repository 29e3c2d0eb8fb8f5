//! When a handler is called, and what is kept of its answer.

use std::sync::Arc;

use dask_wasm_operator_core::{
    contract::{
        Child, Failure, Outcome, Trigger,
        TriggerRequest::{Created, Observed},
    },
    pipeline::MountedHandler,
    ports::CallError,
    retry::Retry,
};
use serde_json::json;

use crate::world::{Puppet, World, annotations, child, children, handler, problems};

fn one() -> Child {
    child("ConfigMap", "one", json!({"data": {"a": "b"}}))
}

#[test]
fn a_handler_is_called_again_when_something_of_its_answer_is_gone_and_not_before() {
    let mut world = World::new();
    let guest = Puppet::new(|_| children([one()]));
    let plugin = Arc::new(handler("p", &[Observed], &guest));
    world.settle(&plugin);
    world.reconcile(&plugin);
    assert_eq!((guest.take_calls(), world.state(&plugin).share().children), (vec!["Observed".to_owned()], 1));
    world.delete("ConfigMap", "one");
    world.settle(&plugin);
    assert_eq!(guest.take_calls(), ["Observed"]);
    assert!(world.get("ConfigMap", "one").is_some());
    world.edit("ConfigMap", "one", |child| child["data"]["a"] = json!("edited"));
    world.reconcile(&plugin);
    assert_eq!(guest.take_calls(), ["Observed"]);
}

#[test]
fn no_opinion_leaves_what_is_there() {
    let mut world = World::new();
    let guest = Puppet::new(|call| match call.trigger {
        Trigger::Created => children([one()]),
        _ => Ok(Outcome::default()),
    });
    let plugin = Arc::new(handler("p", &[Created, Observed], &guest));
    for _ in 0..3 {
        world.reconcile(&plugin);
    }
    assert_eq!(guest.take_calls(), ["Created", "Observed"]);
    // What was made for `created` is asked for by `created`.
    world.delete("ConfigMap", "one");
    for _ in 0..3 {
        world.reconcile(&plugin);
    }
    assert_eq!(guest.take_calls(), ["Created again", "Observed"]);
    assert!(world.get("ConfigMap", "one").is_some());
}

#[test]
fn nothing_is_written_to_withdraw_what_never_was() {
    let mut world = World::new();
    let guest = Puppet::new(|_| annotations(&[]));
    let plugin = Arc::new(handler("p", &[Observed], &guest));
    for _ in 0..2 {
        assert_eq!(world.reconcile(&plugin).writes, 0);
        world.restart();
    }
    guest.answers(|_| annotations(&[json!({"a": "b"})]));
    world.settle(&plugin);
    assert_eq!(world.get("DaskCluster", "simple").unwrap()["metadata"]["annotations"]["a"], "b");
    guest.answers(|_| annotations(&[]));
    world.restart();
    assert_eq!(world.reconcile(&plugin).writes, 1);
    assert_eq!(world.get("DaskCluster", "simple").unwrap()["metadata"].get("annotations"), None);
}

#[test]
fn a_call_that_the_host_can_not_make_is_never_given_up() {
    let mut world = World::new();
    let guest = Puppet::new(|_| Err(CallError::Host("no place".to_owned())));
    let plugin = Arc::new(handler("p", &[Observed], &guest));
    for _ in 0..20 {
        let report = world.reconcile(&plugin);
        assert!(matches!(report.retry, Some(Retry::After(_))), "{report:?}");
        assert_eq!(problems(&report), ["HostFailure: p/h: the call could not be made: “no place”"]);
    }
    assert!(!world.state(&plugin).share().is_parked);
    guest.answers(|_| children([one()]));
    world.settle(&plugin);
    assert!(world.get("ConfigMap", "one").is_some());
}

#[test]
fn of_an_answer_that_is_refused_little_is_kept() {
    let mut world = World::new();
    let guest = Puppet::new(|_| {
        let child = |n: usize| Child { key: "é".repeat(10_000), object: format!("{n}") };
        children((0..50).map(child))
    });
    let plugin = Arc::new(handler("p", &[Observed], &guest));
    world.reconcile(&plugin);
    let state = world.state(&plugin);
    assert!(state.share().is_parked && state.findings().problems.len() == 10);
    let kept: usize = state.findings().problems.iter().map(|problem| problem.message.len()).sum();
    assert!(kept < 12_000, "{kept} bytes");
    assert!(state.findings().problems[9].message.ends_with("and 40 more problems"));

    guest.answers(|_| Err(CallError::Handler(Failure::Permanent { message: "x".repeat(1 << 20) })));
    let renewed = Arc::new(MountedHandler { code: 2, ..handler("p", &[Observed], &guest) });
    world.reconcile(&renewed);
    assert!(world.state(&renewed).findings().problems[0].message.len() < 2_000);
}
