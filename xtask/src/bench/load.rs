//! What is made, and where.

use dask_wasm_operator_test_support::apply_objects;
use jiff::Timestamp;
use kube::{
    Api, Client,
    api::{ApiResource, DynamicObject, GroupVersionKind},
};
use serde_json::{Value, json};

/// How much is made.
#[derive(Clone, Copy, Debug)]
pub(super) struct Load {
    pub(super) clusters: usize,
    pub(super) workers: usize,
}

impl Load {
    /// Objects besides the DaskClusters: scheduler Deployment and Service, group, workers.
    pub(super) fn objects(self) -> usize {
        self.clusters * (3 + self.workers)
    }
}

/// A DaskCluster as people write them.
pub(super) fn dask_cluster(number: usize, workers: usize) -> Value {
    let name = format!("bench-{number:04}");
    json!({
        "apiVersion": "kubernetes.dask.org/v1", "kind": "DaskCluster", "metadata": {"name": name},
        "spec": {
            "scheduler": {
                "spec": {"containers": [{
                    "name": "scheduler", "image": "ghcr.io/dask/dask:latest", "args": ["dask", "scheduler"],
                    "ports": [{"name": "tcp-comm", "containerPort": 8786, "protocol": "TCP"}, {"name": "http-dashboard", "containerPort": 8787, "protocol": "TCP"}],
                    "readinessProbe": {"httpGet": {"port": "http-dashboard", "path": "/health"}, "initialDelaySeconds": 5, "periodSeconds": 10},
                    "livenessProbe": {"httpGet": {"port": "http-dashboard", "path": "/health"}, "initialDelaySeconds": 15, "periodSeconds": 20},
                }]},
                "service": {
                    "type": "ClusterIP", "selector": {"dask.org/cluster-name": name, "dask.org/component": "scheduler"},
                    "ports": [{"name": "tcp-comm", "protocol": "TCP", "port": 8786, "targetPort": "tcp-comm"}, {"name": "http-dashboard", "protocol": "TCP", "port": 8787, "targetPort": "http-dashboard"}],
                },
            },
            "worker": {"replicas": workers, "spec": {"containers": [{
                "name": "worker", "image": "ghcr.io/dask/dask:latest",
                "args": ["dask", "worker", "--name", "$(DASK_WORKER_NAME)", "--dashboard", "--dashboard-address", "8788"],
                "ports": [{"name": "http-dashboard", "containerPort": 8788, "protocol": "TCP"}],
                "resources": {"requests": {"cpu": "500m", "memory": "1Gi"}, "limits": {"cpu": "1", "memory": "2Gi"}},
            }]}},
        },
    })
}

pub(super) fn dask_clusters(client: &Client, namespace: &str) -> Api<DynamicObject> {
    let resource = ApiResource::from_gvk(&GroupVersionKind::gvk("kubernetes.dask.org", "v1", "DaskCluster"));
    Api::namespaced_with(client.clone(), namespace, &resource)
}

pub(super) async fn namespace(client: &Client) -> anyhow::Result<String> {
    let name = format!("bench-{}", Timestamp::now().as_millisecond());
    apply_objects(client, "default", &[json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}})])
        .await?;
    Ok(name)
}
