//! What the API server refuses, and what is said about it.

use serde_json::json;

use crate::world::{World, cluster};

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
        world.pass(dask_wasm_operator_core::dask::Reconciler::Cluster);
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
    world.pass(dask_wasm_operator_core::dask::Reconciler::Cluster);
    let (_, reason, message) = world.condition("DaskCluster", "c", "Degraded");
    assert_eq!(reason, "InvalidName");
    assert!(message.contains("make it anew under another one"), "{message}");
    assert_eq!(world.value("DaskCluster", "c")["status"]["phase"], "Error");
}
