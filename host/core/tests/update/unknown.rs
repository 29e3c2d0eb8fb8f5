//! Fields that the API server does not know: everything else is made, they are named, and nothing restarts when it learns them.

use dask_wasm_operator_core::{
    schema::{KnownFields, OpenApi, Schema},
    wanted::Problem,
};
use serde_json::{Value, from_value, json};

use crate::{
    left_alone::pods,
    world::{World, cluster, rolling},
};

/// An API server whose containers have no field but these.
fn known(container: &[&str]) -> KnownFields {
    let fields = |names: &[&str]| -> Value {
        let fields: serde_json::Map<_, _> = names.iter().map(|name| ((*name).to_owned(), json!({}))).collect();
        json!({"properties": fields})
    };
    let pod = json!({"properties": {"containers": {"items": fields(container)}, "restartPolicy": {}}});
    let schema = |value| Schema::new(from_value::<OpenApi>(value).unwrap(), |_| None);
    KnownFields { pod: Some(schema(pod)), service: Some(schema(fields(&["ports"]))) }
}

fn today() -> KnownFields {
    known(&["name", "image", "env"])
}

/// With two fields in pods and one in the Service that the API server does not know.
fn with_typos(replicas: u32, strategy: Value) -> Value {
    let mut cluster = cluster(replicas, strategy);
    for part in ["scheduler", "worker"] {
        cluster["spec"][part]["spec"]["containers"][0]["newer"] = json!({"a": 1});
        cluster["spec"][part]["spec"]["restartpolicy"] = json!("Always");
    }
    cluster["spec"]["scheduler"]["service"]["port"] = json!(1);
    cluster
}

fn settled(cluster: Value, known: KnownFields) -> (World, Vec<Problem>) {
    let mut world = World::new([cluster]);
    world.kubernetes.know(known);
    let problems = world.settle();
    (world, problems)
}

#[test]
fn everything_else_is_made_and_each_field_is_named() {
    let (mut world, problems) = settled(with_typos(3, json!(null)), today());
    let deployments = pods(&world);
    assert_eq!(deployments.len(), 4);
    for (name, (_, spec)) in &deployments {
        let pod = &spec["template"]["spec"];
        let container = pod["containers"][0].as_object().unwrap();
        assert!(!container.contains_key("newer") && pod.get("restartpolicy").is_none(), "{name}: {pod}");
        assert_eq!(container["image"], "old", "{name}");
    }
    assert!(world.value("Service", "c-scheduler")["spec"].get("port").is_none());
    assert_eq!(world.value("DaskCluster", "c")["status"]["phase"], "Running");

    let reasons: Vec<_> = problems.iter().map(|problem| problem.reason.clone()).collect();
    assert_eq!(reasons, ["UnknownField"; 3]);
    let (status, reason, message) = world.condition("DaskWorkerGroup", "c-default", "Degraded");
    assert_eq!((status.as_str(), reason.as_str()), ("True", "UnknownField"));
    for words in ["DaskWorkerGroup c-default", "spec.worker.spec.containers[0].newer, spec.worker.spec.restartpolicy"] {
        assert!(message.contains(words), "{message}");
    }
    let (_, reason, message) = world.condition("DaskCluster", "c", "Degraded");
    assert_eq!(reason, "UnknownField");
    assert!(message.contains("spec.scheduler.spec.containers[0].newer"), "{message}");
    assert!(problems.iter().any(|problem| problem.message.contains("spec.scheduler.service.port")), "{problems:?}");
    let (status, reason, _) = world.condition("DaskWorkerGroup", "c-default", "Progressing");
    assert_eq!((status.as_str(), reason.as_str()), ("False", "Settled"));

    world.edit("DaskCluster", "c", |object| object["spec"] = cluster(3, json!(null))["spec"].clone());
    assert!(world.settle().is_empty(), "what was left out is no part of the template");
    assert_eq!(pods(&world), deployments);
    assert_eq!(world.condition("DaskCluster", "c", "Degraded").1, "AsWanted");
}

#[test]
fn a_server_that_knows_more_than_we_do_gets_it() {
    let (world, problems) = settled(with_typos(1, json!(null)), KnownFields::default());
    assert!(problems.is_empty(), "who says nothing of its fields gets them all: {problems:?}");
    let newer =
        |world: &World| world.workers()[0].to_value()["spec"]["template"]["spec"]["containers"][0]["newer"].clone();
    assert_eq!(newer(&world), json!({"a": 1}));
    let (world, _) = settled(with_typos(1, json!(null)), known(&["name", "image", "env", "newer"]));
    assert_eq!(newer(&world), json!({"a": 1}));
}

#[test]
fn nothing_restarts_when_the_server_is_upgraded() {
    let (mut world, _) = settled(with_typos(2, json!(null)), today());
    let before = pods(&world);
    world.kubernetes.know(known(&["name", "image", "env", "newer"]));
    let problems = world.settle();
    assert_eq!(pods(&world), before);
    let outdated = problems.iter().filter(|problem| problem.reason == "TemplateOutdated").count();
    assert_eq!(outdated, 3, "{problems:?}");
    world.restart();
    world.kubernetes.know(today());
    assert_eq!(world.settle().iter().filter(|problem| problem.reason == "TemplateOutdated").count(), 0);
    assert_eq!(pods(&world), before);
}

#[test]
fn a_rolling_update_brings_what_an_upgraded_server_knows() {
    let (mut world, _) = settled(with_typos(2, rolling(json!(0), json!(1))), today());
    world.kubernetes.know(known(&["name", "image", "env", "newer"]));
    for _ in 0..20 {
        world.wait(1000);
    }
    let workers = world.workers();
    assert_eq!(workers.len(), 2);
    for worker in workers {
        assert_eq!(worker.to_value()["spec"]["template"]["spec"]["containers"][0]["newer"], json!({"a": 1}));
    }
}
