//! Nothing restarts that nobody asked to: `OnDelete`, takeover, labels and annotations.

use std::collections::BTreeMap;

use dask_wasm_operator_core::dask::Environment;
use serde_json::{Value, json};

use crate::world::{World, cluster, image, rolling};

/// What a pod runs, by the name of its Deployment: whatever changes it restarts the pod.
pub(crate) fn pods(world: &World) -> BTreeMap<String, (Value, Value)> {
    let objects = world.kubernetes.cluster.objects();
    let deployments = objects.iter().filter(|object| object.kind.kind == "Deployment").map(|object| object.to_value());
    deployments
        .map(|deployment| {
            let name = deployment["metadata"]["name"].as_str().unwrap().to_owned();
            (name, (deployment["metadata"]["uid"].clone(), deployment["spec"].clone()))
        })
        .collect()
}

fn worker_names(world: &World) -> Vec<String> {
    world.workers().iter().map(|worker| worker.metadata.name.clone()).collect()
}

#[test]
fn on_delete_restarts_nothing_and_still_propagates_labels() {
    for strategy in [json!(null), json!({}), json!({"type": "OnDelete", "rollingUpdate": {"maxSurge": 1}})] {
        let mut world = World::settled(cluster(3, strategy));
        let before = pods(&world);
        world.set_image("worker", "new");
        world.set_image("scheduler", "new");
        world.edit("DaskCluster", "c", |cluster| cluster["metadata"]["labels"]["team"] = json!("a"));
        world.settle();
        assert_eq!(pods(&world), before);
        for name in before.keys() {
            assert_eq!(world.value("Deployment", name)["metadata"]["labels"]["team"], "a", "{name}");
        }
        assert_eq!(world.value("DaskWorkerGroup", "c-default")["status"]["outdatedReplicas"], 3);
        assert_eq!(world.value("DaskCluster", "c")["status"]["outdatedReplicas"], 4);

        let deleted = worker_names(&world).remove(1);
        world.kubernetes.cluster.delete(&world.key("Deployment", &deleted));
        world.settle();
        assert_eq!(world.images().iter().filter(|image| *image == "new").count(), 1);
        assert_eq!(image(&world.value("Deployment", &deleted)), "new");
    }
}

/// A cluster as the Python operator leaves it behind: ours, without any trace that we made it.
fn made_by_python(replicas: u32, worker_image: &str) -> World {
    let mut world = World::settled(cluster(replicas, json!(null)));
    world.settle();
    let mut objects = vec![world.value("DaskCluster", "c")];
    objects[0].as_object_mut().unwrap().remove("status");
    for object in world.kubernetes.cluster.objects() {
        let mut value = object.to_value();
        if object.kind.kind == "DaskCluster" {
            continue;
        }
        value.as_object_mut().unwrap().remove("status");
        if let Some(annotations) = value["metadata"]["annotations"].as_object_mut() {
            annotations.retain(|key, _| !key.starts_with("operator.dask.org/"));
        }
        if let Some((_, number)) = object.metadata.name.split_once("-worker-") {
            let name = format!("c-default-worker-python{number}");
            let text = value.to_string().replace(&object.metadata.name, &name);
            value = serde_json::from_str(&text).unwrap();
            value["spec"]["template"]["spec"]["containers"][0]["image"] = json!(worker_image);
        }
        objects.push(value);
    }
    World::new(objects)
}

#[test]
fn a_takeover_restarts_nothing_whatever_the_template() {
    for worker_image in ["old", "another"] {
        let mut world = made_by_python(3, worker_image);
        let before = pods(&world);
        world.settle();
        assert_eq!(pods(&world), before, "{worker_image}");
        let outdated = if worker_image == "old" { 0 } else { 3 };
        assert_eq!(world.value("DaskWorkerGroup", "c-default")["status"]["outdatedReplicas"], outdated);
        for worker in world.workers() {
            let held = worker.applied_by("dask-operator/workergroup").and_then(|held| held.decoded()).unwrap();
            assert!(held.get("f:spec").is_some(), "the spec is ours, whatever it says");
        }
        world.restart();
        assert_eq!(world.settle().iter().filter(|problem| problem.reason != "TemplateOutdated").count(), 0);
        assert_eq!(pods(&world), before, "{worker_image}");
    }
}

#[test]
fn workers_that_were_taken_over_can_be_removed_and_replaced() {
    let mut world = made_by_python(4, "another");
    // Scaled down before the first reconcile, and their pods never started: still none goes that is not ours.
    world.edit("DaskWorkerGroup", "c-default", |group| group["spec"]["worker"]["replicas"] = json!(2));
    world.workers().iter().for_each(|worker| world.kubernetes.set_ready(worker, false));
    world.settle();
    assert_eq!(world.workers().len(), 2);

    let mut world = made_by_python(3, "another");
    world.settle();
    world.edit("DaskCluster", "c", |cluster| cluster["spec"]["updateStrategy"] = rolling(json!(1), json!(1)));
    world.settle();
    assert_eq!(world.images(), ["old"; 3]);
    assert!(world.most <= 4 && world.fewest >= 2);
}

#[test]
fn a_lost_record_forgets_no_worker_that_was_taken_over() {
    let mut world = made_by_python(3, "another");
    world.settle();
    let before = pods(&world);
    world.kubernetes.cluster.forget_apply(&world.key("DaskWorkerGroup", "c-default"), "dask-operator/workergroup");
    world.restart();
    world.settle();
    assert_eq!(pods(&world), before);
}

#[test]
fn fault_14_labels_and_annotations_follow_but_for_those_of_tools() {
    let mut world = World::settled(cluster(1, json!(null)));
    let before = pods(&world);
    let tools = [
        "kopf.zalando.org/a",
        "kubectl.kubernetes.io/last-applied-configuration",
        "argocd.argoproj.io/instance",
        "helm.sh/chart",
        "meta.helm.sh/release-name",
        "operator.dask.org/x",
        "plugins.dask.org/x",
    ];
    for map in ["labels", "annotations"] {
        world.edit("DaskCluster", "c", |cluster| {
            cluster["metadata"][map] = tools.iter().map(|key| ((*key).to_owned(), json!("x"))).collect::<Value>();
            cluster["metadata"][map]["mine/a"] = json!("1");
        });
    }
    world.settle();
    let worker = worker_names(&world).remove(0);
    let children = [
        ("Deployment", "c-scheduler"),
        ("Service", "c-scheduler"),
        ("DaskWorkerGroup", "c-default"),
        ("Deployment", &worker),
    ];
    for (kind, name) in children {
        for map in ["labels", "annotations"] {
            let metadata = world.value(kind, name)["metadata"][map].clone();
            assert_eq!(metadata["mine/a"], "1", "{kind} {name}");
            assert!(tools.iter().all(|key| metadata.get(key).is_none()), "{kind} {name}: {metadata}");
        }
    }
    world.edit("DaskCluster", "c", |cluster| cluster["metadata"]["labels"] = json!({"mine/b": "2"}));
    world.settle();
    for (kind, name) in children {
        let labels = world.value(kind, name)["metadata"]["labels"].clone();
        assert_eq!((labels.get("mine/a"), &labels["mine/b"]), (None, &json!("2")), "{kind} {name}");
    }
    assert_eq!(pods(&world), before);
}

#[test]
fn the_prefixes_of_tools_can_be_set() {
    let mut cluster = cluster(1, json!(null));
    cluster["metadata"]["labels"] = json!({"helm.sh/chart": "x", "vendor/a": "x", "operator.dask.org/x": "x"});
    let environment = Environment { excluded_prefixes: vec!["vendor/".to_owned()], ..Environment::default() };
    let mut world = World::within(environment, [cluster]);
    world.settle();
    let labels = world.value("Service", "c-scheduler")["metadata"]["labels"].clone();
    assert_eq!(labels["helm.sh/chart"], "x");
    assert_eq!((labels.get("vendor/a"), labels.get("operator.dask.org/x")), (None, None));
}

#[test]
fn fault_22_the_istio_label_can_be_set_and_commands_stay_as_they_were_written() {
    let mut cluster = cluster(1, json!(null));
    let label = json!({"labels": {"sidecar.istio.io/inject": "true"}});
    for (part, command) in
        [("worker", json!(["dask-worker", "--nthreads", "1"])), ("scheduler", json!(["dask-scheduler"]))]
    {
        cluster["spec"][part]["metadata"] = label.clone();
        cluster["spec"][part]["spec"]["containers"][0]["args"] = command;
    }
    let mut world = World::new([cluster]);
    world.settle();
    let worker = worker_names(&world).remove(0);
    let expected = [("c-scheduler", json!(["dask-scheduler"])), (&worker, json!(["dask-worker", "--nthreads", "1"]))];
    for (name, command) in expected {
        let template = world.value("Deployment", name)["spec"]["template"].clone();
        assert_eq!(template["metadata"]["labels"]["sidecar.istio.io/inject"], "true");
        assert_eq!(template["spec"]["containers"][0]["args"], command);
    }
}
