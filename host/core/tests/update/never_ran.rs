//! A corrected template reaches what has never run at once, and nothing that has.

use serde_json::{Value, json};

use crate::world::{World, cluster, image};

const FORBIDDEN: &str = "pods \"c-scheduler-1\" is forbidden: violates PodSecurity \"restricted:latest\"";

/// A cluster whose pods have not started.
fn starting(without_pods: bool) -> World {
    let mut world = World::new([cluster(2, json!(null))]);
    world.kubernetes.start_slowly();
    world.kubernetes.without_pods(without_pods.then_some(FORBIDDEN));
    world.settle();
    world
}

fn correct(world: &mut World) -> Vec<String> {
    world.set_image("worker", "new");
    world.set_image("scheduler", "new");
    world.settle();
    let scheduler = image(&world.value("Deployment", "c-scheduler"));
    world.images().into_iter().chain([scheduler]).collect()
}

/// The pod of each Deployment, with this status.
fn pods(world: &World, node: Option<&str>, status: &Value) {
    let deployments = world.workers().into_iter().chain([world.object("Deployment", "c-scheduler")]);
    for deployment in deployments {
        let (name, is_worker) = (&deployment.metadata.name, deployment.metadata.name.contains("-worker-"));
        let component = if is_worker { "worker" } else { "scheduler" };
        let pod = json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": {"name": format!("{name}-5d4f9c7b68-x"), "namespace": "n",
                "labels": {"dask.org/cluster-name": "c", "dask.org/component": component, "pod-template-hash": "5d4f9c7b68"},
                "ownerReferences": [{"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": format!("{name}-5d4f9c7b68"),
                    "uid": "r", "controller": true}]},
            "spec": {"nodeName": node, "containers": [{"name": "dask", "image": "old"}]},
            "status": status,
        });
        world.kubernetes.cluster.create(pod).unwrap();
    }
}

fn waiting(reason: &str) -> Value {
    json!({"phase": "Pending", "containerStatuses": [{"name": "dask", "restartCount": 0, "state": {"waiting": {"reason": reason}}}]})
}

#[test]
fn pods_that_could_not_be_made_are_made_from_the_corrected_template() {
    let mut world = starting(true);
    assert_eq!(world.condition("DaskCluster", "c", "Degraded").1, "SchedulerFailed");
    assert_eq!(world.condition("DaskWorkerGroup", "c-default", "Degraded").1, "WorkersFailed");
    assert_eq!(correct(&mut world), ["new"; 3]);
    assert_eq!(correct(&mut world), ["new"; 3]);
    world.set_image("worker", "newer");
    world.settle();
    assert_eq!(world.images(), ["newer"; 2], "a second mistake can be corrected, too");
    world.kubernetes.without_pods(None);
    // The cluster hears it from its group.
    (0..2).for_each(|_| drop(world.settle()));
    assert_eq!(world.condition("DaskCluster", "c", "Degraded").0, "False");
}

#[test]
fn pods_that_surely_never_ran_are_replaced() {
    let unscheduled = json!({"phase": "Pending", "conditions": [{"type": "PodScheduled", "status": "False", "reason": "Unschedulable"}]});
    for (node, status) in [
        (None, json!({"phase": "Pending"})),
        (None, unscheduled),
        (Some("a"), waiting("ImagePullBackOff")),
        (Some("a"), waiting("CreateContainerConfigError")),
    ] {
        let mut world = starting(false);
        pods(&world, node, &status);
        assert_eq!(correct(&mut world), ["new"; 3], "{status}");
        assert_eq!(world.condition("DaskWorkerGroup", "c-default", "Degraded").0, "False");
    }
}

#[test]
fn whatever_may_have_run_is_left_alone() {
    let ended = json!({"terminated": {"exitCode": 1, "reason": "Error"}});
    let container = |state: Value, last: Value, restarts: u32| json!({"phase": "Pending", "containerStatuses": [{"name": "dask", "restartCount": restarts, "state": state, "lastState": last}]});
    let pull = json!({"waiting": {"reason": "ImagePullBackOff"}});
    let mut initialised = waiting("ImagePullBackOff");
    initialised["initContainerStatuses"] = json!([{"name": "init", "state": {"terminated": {"exitCode": 0}}}]);
    for (node, status) in [
        (Some("a"), json!({"phase": "Pending"})),
        (Some("a"), waiting("ContainerCreating")),
        (Some("a"), container(json!({"running": {}}), json!({}), 0)),
        (Some("a"), container(ended.clone(), json!({}), 0)),
        (Some("a"), container(pull.clone(), ended, 1)),
        (Some("a"), container(pull, json!({}), 1)),
        (Some("a"), waiting("CrashLoopBackOff")),
        (Some("a"), initialised),
        (Some("a"), json!({"phase": "Running"})),
        (Some("a"), json!({"phase": "Unknown"})),
    ] {
        let mut world = starting(false);
        pods(&world, node, &status);
        assert_eq!(correct(&mut world), ["old"; 3], "{status}");
        assert_eq!(world.condition("DaskWorkerGroup", "c-default", "Degraded").1, "TemplateOutdated");
    }
    // Pods of which nobody knows anything.
    assert_eq!(correct(&mut starting(false)), ["old"; 3]);
}

#[test]
fn what_was_ready_once_is_left_alone_although_its_pods_can_not_be_made_any_more() {
    let mut world = World::settled(cluster(2, json!(null)));
    world.kubernetes.without_pods(Some(FORBIDDEN));
    for deployment in world.workers().into_iter().chain([world.object("Deployment", "c-scheduler")]) {
        world.kubernetes.set_ready(&deployment, false);
    }
    assert_eq!(correct(&mut world), ["old"; 3]);
}
