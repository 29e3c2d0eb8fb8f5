//! The handler on values, with neither wasm nor a cluster.

use dask_operator_sdk::{Call, Failure, Outcome, Value, json, testing};
use istio_virtual_service::plugin;

fn service(ports: Value) -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {
            "name": "simple-scheduler",
            "namespace": "team-a",
            "uid": "5f0c",
            "labels": {"dask.org/cluster-name": "simple", "dask.org/component": "scheduler"},
        },
        "spec": {"ports": ports},
    })
}

fn handle(call: &Call) -> Result<Outcome, Failure> {
    plugin().handle(call)
}

fn port_for(ports: Value) -> Value {
    let outcome = handle(&testing::call("dashboard", &service(ports))).expect("the Service is in order");
    testing::child(&outcome, "dashboard")["spec"]["http"][0]["route"][0]["destination"]["port"]["number"].clone()
}

#[test]
fn the_whole_object() {
    let ports = json!([{"name": "tcp-comm", "port": 8786}, {"name": "http-dashboard", "port": 8787}]);
    let outcome = handle(&testing::call("dashboard", &service(ports))).unwrap();
    let expected = json!({
        "apiVersion": "networking.istio.io/v1",
        "kind": "VirtualService",
        "metadata": {"name": "simple-scheduler", "labels": {"dask.org/cluster-name": "simple"}},
        "spec": {
            "gateways": ["istio-system/public"],
            "hosts": ["simple.team-a.dask.local"],
            "http": [{"route": [{"destination": {
                "host": "simple-scheduler.team-a.svc.cluster.local",
                "port": {"number": 8787},
            }}]}],
        },
    });
    assert_eq!(testing::child(&outcome, "dashboard"), expected);
    assert_eq!(outcome.children.map(|children| children.len()), Some(1));
}

#[test]
fn the_port_is_found_by_name() {
    assert_eq!(port_for(json!([{"name": "dashboard", "port": 1}, {"name": "http-dashboard", "port": 2}])), 2);
    assert_eq!(port_for(json!([{"name": "other", "port": 3}, {"name": "dashboard", "port": 1}])), 1);
    assert_eq!(port_for(json!([{"port": 3}])), 8787);
    assert_eq!(port_for(json!([])), 8787);
}

#[test]
fn gateway_and_host_come_from_the_configuration() {
    let config = json!({"gateway": "dask/public", "host": "{cluster}.example.org"}).to_string();
    let call = Call { config, ..testing::call("dashboard", &service(json!([]))) };
    let object = testing::child(&handle(&call).unwrap(), "dashboard");
    assert_eq!(object["spec"]["gateways"], json!(["dask/public"]));
    assert_eq!(object["spec"]["hosts"], json!(["simple.example.org"]));
}

#[test]
fn a_wrong_configuration_is_a_permanent_failure_that_names_the_field() {
    let config = json!({"gatway": "dask/public"}).to_string();
    let call = Call { config, ..testing::call("dashboard", &service(json!([]))) };
    let Err(Failure::Permanent(message)) = handle(&call) else { panic!("expected a permanent failure") };
    assert!(message.starts_with("spec.config of the DaskPlugin can't be read: unknown field `gatway`"), "{message}");
}
