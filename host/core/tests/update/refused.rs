//! What the API server refuses, and what is said about it.

use dask_wasm_operator_core::dask::Reconciler;
use serde_json::json;

use crate::world::{World, cluster, rolling};

#[test]
fn a_changed_service_is_applied() {
    let mut world = World::settled(cluster(1, json!(null)));
    world.edit("DaskCluster", "c", |cluster| {
        cluster["spec"]["scheduler"]["service"] =
            json!({"type": "NodePort", "ports": [{"name": "tcp-comm", "port": 1}]});
    });
    world.settle();
    let spec = world.value("Service", "c-scheduler")["spec"].clone();
    assert_eq!(spec, json!({"type": "NodePort", "ports": [{"name": "tcp-comm", "port": 1}]}));
}

/// The words are those of Kubernetes 1.36.
#[test]
fn the_remedy_for_a_field_that_can_not_change_is_named() {
    for words in [
        r#"Service "c-scheduler" is invalid: spec.clusterIPs[0]: Invalid value: ["None"]: may not change once set"#,
        r#"Service "c-scheduler" is invalid: spec.healthCheckNodePort: Invalid value: 1: field is immutable"#,
    ] {
        let mut world = World::settled(cluster(1, json!(null)));
        world.kubernetes.refuse("Service", words);
        world.edit("DaskCluster", "c", |cluster| {
            cluster["spec"]["scheduler"]["service"]["clusterIP"] = json!("None");
        });
        world.pass(Reconciler::Cluster);
        let (_, reason, message) = world.condition("DaskCluster", "c", "Degraded");
        assert_eq!(reason, "Refused");
        for part in [words, "delete it to have it made anew", "spec.scheduler.service of DaskCluster c"] {
            assert!(message.contains(part), "{message}");
        }
        assert_eq!(world.value("DaskCluster", "c")["status"]["phase"], "Running");

        world.kubernetes.accept();
        world.kubernetes.cluster.delete(&world.key("Service", "c-scheduler"));
        world.settle();
        assert_eq!(world.value("Service", "c-scheduler")["spec"]["clusterIP"], "None");
        assert_eq!(world.condition("DaskCluster", "c", "Degraded").0, "False");
    }
}

#[test]
fn a_name_that_the_api_server_refuses_is_an_error_of_the_cluster() {
    let mut world = World::new([cluster(1, json!(null))]);
    let words = r#"Service "0-scheduler" is invalid: metadata.name: Invalid value: "0-scheduler": a DNS-1035 label must start with an alphabetic character"#;
    world.kubernetes.refuse("Service", words);
    world.pass(Reconciler::Cluster);
    let (_, reason, message) = world.condition("DaskCluster", "c", "Degraded");
    assert_eq!(reason, "InvalidName");
    assert!(message.contains("make it anew under another one"), "{message}");
    assert_eq!(world.value("DaskCluster", "c")["status"]["phase"], "Error");
}

#[test]
fn a_worker_whose_change_is_refused_keeps_no_others_from_going() {
    for at in 0..4 {
        let mut world = World::settled(cluster(4, json!(null)));
        let refused = world.workers()[at].metadata.name.clone();
        world.kubernetes.refuse(&refused, "admission webhook \"labels\" denied the request");
        world.edit("DaskWorkerGroup", "c-default", |group| {
            group["metadata"]["labels"]["team"] = json!("a");
            group["spec"]["worker"]["replicas"] = json!(2);
        });
        for _ in 0..10 {
            world.pass(Reconciler::WorkerGroup);
        }
        assert_eq!((world.workers().len(), world.retired.len()), (2, 2));
    }
}

#[test]
fn what_a_quota_refuses_keeps_no_outdated_worker_from_going() {
    let mut world = World::settled(cluster(3, rolling(json!(1), json!(1))));
    world.set_image("worker", "new");
    world.pass(Reconciler::Cluster);
    world.kubernetes.refuse("Deployment", "exceeded quota: few");
    for _ in 0..10 {
        world.pass(Reconciler::WorkerGroup);
    }
    assert_eq!((world.workers().len(), world.retired.len()), (2, 1));
}

#[test]
fn nothing_is_told_to_a_scheduler_that_could_not_be_recorded() {
    let mut world = World::settled(cluster(3, json!(null)));
    world.edit("DaskWorkerGroup", "c-default", |group| group["spec"]["worker"]["replicas"] = json!(2));
    world.kubernetes.refuse("DaskWorkerGroup", "admission webhook \"groups\" denied the request");
    for _ in 0..10 {
        world.pass(Reconciler::WorkerGroup);
    }
    assert_eq!((world.workers().len(), world.retired.len()), (3, 0));
}

/// Its pods may have run under an earlier template.
#[test]
fn a_scheduler_that_does_not_start_after_a_change_is_none_that_never_ran() {
    for (revision, left) in [("1", 1), ("2", 2)] {
        let mut world = World::new([cluster(2, json!(null))]);
        world.kubernetes.start_slowly();
        world.reachable = false;
        world.settle();
        world.workers().iter().for_each(|worker| world.kubernetes.set_ready(worker, true));
        world.edit("Deployment", "c-scheduler", |scheduler| {
            scheduler["metadata"]["annotations"]["deployment.kubernetes.io/revision"] = json!(revision);
        });
        world.edit("DaskWorkerGroup", "c-default", |group| group["spec"]["worker"]["replicas"] = json!(1));
        world.settle();
        assert_eq!(world.workers().len(), left, "revision {revision}");
    }
}
