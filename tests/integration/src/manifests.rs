//! The objects that tests create.

use serde_json::{Value, json};

/// The DaskCluster that most tests have.
pub const SIMPLE: &str = "simple";

/// Its default worker group.
pub const SIMPLE_GROUP: &str = "simple-default";

/// What the manifests of the documentation run.
pub const IMAGE: &str = "ghcr.io/dask/dask:latest";

/// A DaskCluster as the documentation writes it.
pub fn cluster(name: &str, workers: u32) -> Value {
    json!({
        "apiVersion": "kubernetes.dask.org/v1",
        "kind": "DaskCluster",
        "metadata": {"name": name},
        "spec": {
            "scheduler": {
                "spec": {"containers": [{
                    "name": "scheduler",
                    "image": IMAGE,
                    "args": ["dask", "scheduler"],
                    "ports": [
                        {"name": "tcp-comm", "containerPort": 8786, "protocol": "TCP"},
                        {"name": "http-dashboard", "containerPort": 8787, "protocol": "TCP"},
                    ],
                }]},
                "service": {
                    "type": "ClusterIP",
                    "selector": {"dask.org/cluster-name": name, "dask.org/component": "scheduler"},
                    "ports": [
                        {"name": "tcp-comm", "protocol": "TCP", "port": 8786, "targetPort": "tcp-comm"},
                        {"name": "http-dashboard", "protocol": "TCP", "port": 8787, "targetPort": "http-dashboard"},
                    ],
                },
            },
            "worker": worker(workers),
        },
    })
}

/// A DaskWorkerGroup made by hand.
pub fn group(name: &str, cluster: &str, workers: u32) -> Value {
    json!({
        "apiVersion": "kubernetes.dask.org/v1",
        "kind": "DaskWorkerGroup",
        "metadata": {"name": name},
        "spec": {"cluster": cluster, "worker": worker(workers)},
    })
}

/// A DaskJob whose cluster has one worker.
pub fn job(name: &str) -> Value {
    json!({
        "apiVersion": "kubernetes.dask.org/v1",
        "kind": "DaskJob",
        "metadata": {"name": name},
        "spec": {
            "job": {"spec": {"containers": [{"name": "job", "image": IMAGE, "args": ["python", "-c", "pass"]}]}},
            "cluster": {"spec": cluster(name, 1)["spec"]},
        },
    })
}

/// A DaskAutoscaler of the cluster of the same name.
pub fn autoscaler(name: &str, minimum: u32, maximum: u32) -> Value {
    json!({
        "apiVersion": "kubernetes.dask.org/v1",
        "kind": "DaskAutoscaler",
        "metadata": {"name": name},
        "spec": {"cluster": name, "minimum": minimum, "maximum": maximum},
    })
}

fn worker(replicas: u32) -> Value {
    json!({
        "replicas": replicas,
        "spec": {"containers": [{
            "name": "worker",
            "image": IMAGE,
            "args": ["dask", "worker", "--name", "$(DASK_WORKER_NAME)"],
        }]},
    })
}

/// A ConfigMap that the odd guest is called for.
pub fn odd_subject(name: &str, data: &Value) -> Value {
    json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name, "labels": {"odd": "yes"}}, "data": data})
}
