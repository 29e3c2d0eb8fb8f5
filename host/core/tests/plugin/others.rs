//! Objects that somebody else made: left alone, whoever it was.

use std::sync::Arc;

use dask_wasm_operator_core::{contract::TriggerRequest::Observed, pipeline::MountedHandler};
use serde_json::json;

use crate::world::{Puppet, World, child, children, handler, problems};

fn exposing() -> Arc<Puppet> {
    Puppet::new(|_| children([child("Service", "simple-scheduler", json!({"spec": {"externalIPs": ["192.0.2.1"]}}))]))
}

#[test]
fn what_a_dask_reconciler_made_is_not_merged_into_nor_deleted() {
    for takes_conflicts in [false, true] {
        let mut world = World::new();
        assert!(world.run_cluster().writes > 0);
        let before = world.get("Service", "simple-scheduler");
        let guest = exposing();
        let hostile = Arc::new(MountedHandler { takes_conflicts, ..handler("p", &[Observed], &guest) });

        let report = world.reconcile(&hostile);
        let told = "ForeignObject: Service ns1/simple-scheduler exists already and was made by dask-operator/cluster;";
        assert!(problems(&report)[0].starts_with(told), "{:?}", problems(&report));
        guest.answers(|call| {
            assert_eq!(call.children, [], "it is not its child");
            children([])
        });
        world.restart();
        assert_eq!(world.reconcile(&hostile).writes, 0);
        assert_eq!(world.get("Service", "simple-scheduler"), before);
        assert_eq!(world.authors("Service", "simple-scheduler"), ["dask-operator/cluster"]);
    }
}

#[test]
fn what_a_plugin_made_is_not_taken_by_a_dask_reconciler() {
    let mut world = World::new();
    let plugin = Arc::new(handler("p", &[Observed], &exposing()));
    assert_eq!(world.reconcile(&plugin).writes, 1);
    let told = problems(&world.run_cluster());
    assert!(told.iter().any(|told| told.contains("was made by dask-plugin/p/h")), "{told:?}");
    assert_eq!(world.authors("Service", "simple-scheduler"), ["dask-plugin/p/h"]);
}

#[test]
fn of_two_plugins_that_want_one_object_the_first_has_it() {
    for takes_conflicts in [false, true] {
        let mut world = World::new();
        let wanting = |value: &'static str| {
            Puppet::new(move |_| children([child("ConfigMap", "one", json!({"data": {"of": value}}))]))
        };
        let first = Arc::new(handler("first", &[Observed], &wanting("first")));
        let guest = wanting("second");
        let second = Arc::new(MountedHandler { takes_conflicts, ..handler("second", &[Observed], &guest) });
        world.settle(&first);
        let told = problems(&world.reconcile(&second));
        assert!(told[0].contains("was made by dask-plugin/first/h"), "{told:?}");
        guest.answers(|_| children([]));
        world.reconcile(&second);
        assert_eq!(world.get("ConfigMap", "one").unwrap()["data"]["of"], "first");
        assert_eq!(world.authors("ConfigMap", "one"), ["dask-plugin/first/h"]);
    }
}

#[test]
fn a_child_whose_owner_was_taken_away_is_still_its_own() {
    let mut world = World::new();
    let guest = Puppet::new(|_| children([child("ConfigMap", "one", json!({"data": {"a": "b"}}))]));
    let plugin = Arc::new(handler("p", &[Observed], &guest));
    world.settle(&plugin);
    let uid = world.get("ConfigMap", "one").unwrap()["metadata"]["uid"].clone();
    world.edit("ConfigMap", "one", |child| drop(child["metadata"].as_object_mut().unwrap().remove("ownerReferences")));
    world.settle(&plugin);
    let repaired = world.get("ConfigMap", "one").unwrap();
    assert_eq!(
        (&repaired["metadata"]["uid"], repaired["metadata"]["ownerReferences"][0]["name"].as_str()),
        (&uid, Some("simple"))
    );
}

#[test]
fn a_place_that_is_taken_keeps_nothing_else_from_being_done() {
    let mut world = World::new();
    let config_map = |name| child("ConfigMap", name, json!({"data": {"a": "b"}}));
    let guest = Puppet::new(move |_| children([config_map("old")]));
    let plugin = Arc::new(handler("p", &[Observed], &guest));
    world.settle(&plugin);
    let theirs = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "taken", "namespace": "ns1"}});
    world.watched.cluster.create(theirs).unwrap();
    let before = world.get("ConfigMap", "taken");
    // It is not watched, so nobody knows before the write.
    world.hide("ConfigMap", "taken");
    guest.answers(move |_| children([config_map("taken"), config_map("new")]));
    world.restart();
    let told = problems(&world.reconcile(&plugin));
    assert!(told[0].contains("ConfigMap ns1/taken exists already"), "{told:?}");
    assert_eq!(world.get("ConfigMap", "taken"), before);
    assert!(world.get("ConfigMap", "new").is_some());
    assert_eq!(world.get("ConfigMap", "old"), None);
}

#[test]
fn a_field_that_can_t_be_changed_is_told_with_the_remedy_and_waited_for() {
    let mut world = World::new();
    let guest = Puppet::new(|_| children([child("ConfigMap", "one", json!({"data": {"a": "b"}}))]));
    let plugin = Arc::new(handler("p", &[Observed], &guest));
    world.settle(&plugin);
    world.refuse("ConfigMap", "one", "data: Forbidden: field is immutable when `immutable` is set");
    guest.answers(|_| children([child("ConfigMap", "one", json!({"data": {"a": "c"}}))]));
    world.restart();
    let report = world.reconcile(&plugin);
    let told = problems(&report);
    assert!(told[0].contains("field is immutable") && told[0].contains("; delete it to have it recreated"), "{told:?}");
    let awaited = report.findings.problems[0].waits_for.as_ref().map(ToString::to_string);
    assert_eq!(awaited.as_deref(), Some("ConfigMap ns1/one"));
}
