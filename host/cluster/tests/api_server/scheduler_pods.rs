//! That the pods which Kubernetes' own controllers make of a scheduler's Deployment are found, and no others.

use std::net::{IpAddr, Ipv4Addr};

use dask_wasm_operator_cluster::{observed::ObservedCluster, published::PublishedFields, watch::WatchKey};
use dask_wasm_operator_core::{
    dask::{SchedulerPod, cluster_kind, pod_summary_resource, scheduler_pod},
    object::{GroupVersionKind, Object},
    ports::Observed,
    scheduler::{ServicePort, TargetPort},
};
use dask_wasm_operator_test_support::wait_for;
use k8s_openapi::api::core::v1::Pod;
use kube::api::{ListParams, Patch, PatchParams, PostParams};

use super::*;

/// What was observed, with a ConfigMap in the place of the DaskCluster, of which the server has no definition.
struct WithCluster {
    observed: ObservedCluster,
    cluster: Arc<Object>,
}

impl Observed for WithCluster {
    fn get(&self, kind: &GroupVersionKind, at: &NamespacedName) -> Option<Arc<Object>> {
        if kind.same_kind(&cluster_kind()) { Some(Arc::clone(&self.cluster)) } else { self.observed.get(kind, at) }
    }

    fn controlled_by(&self, kind: &GroupVersionKind, uid: &str) -> Vec<Arc<Object>> {
        self.observed.controlled_by(kind, uid)
    }

    fn departed(&self, kind: &GroupVersionKind, uid: &str) -> Vec<Arc<Object>> {
        self.observed.departed(kind, uid)
    }

    fn resource(&self, kind: &GroupVersionKind) -> Option<Resource> {
        self.observed.resource(kind)
    }

    fn has_status(&self, kind: &GroupVersionKind) -> bool {
        self.observed.has_status(kind)
    }
}

#[tokio::test]
async fn the_pod_of_a_clusters_own_deployment_is_its_scheduler() -> anyhow::Result<()> {
    in_world(async |world| {
        let labels = json!({"dask.org/cluster-name": "c", "dask.org/component": "scheduler"});
        let _deployments = world.watch("deployments", None).await?;
        let (resource, namespace) = (pod_summary_resource(), Some(world.namespace.clone()));
        let handle = world.watches.start(&WatchKey { resource, namespace, labels: None })?;
        tokio::time::timeout(PATIENCE, handle.synced()).await?;

        let cluster = world.write(world.apply("configmaps", "c", json!({"data": {}}))).await?;
        let ports = json!([{"name": "tcp-comm", "containerPort": 8786}]);
        let containers = json!([{"name": "scheduler", "image": "dask", "ports": ports}]);
        let deployment = json!({
            "metadata": {"labels": labels, "ownerReferences": controlled_by(&cluster)},
            "spec": {"replicas": 1, "selector": {"matchLabels": labels}, "template": {
                "metadata": {"labels": labels}, "spec": {"containers": containers}}},
        });
        world.write(world.apply("deployments", "c-scheduler", deployment)).await?;

        let api: kube::Api<Pod> = kube::Api::namespaced(world.admin.clone(), &world.namespace);
        let pod = wait_for("the Deployment's pod", PATIENCE, async || {
            let pods = api.list(&ListParams::default().labels("pod-template-hash")).await?;
            Ok(pods.items.into_iter().find_map(|pod| pod.metadata.name))
        })
        .await?;
        let impostor = json!({"apiVersion": "v1", "kind": "Pod",
            "metadata": {"name": "c-scheduler-impostor", "labels": labels}, "spec": {"containers": containers}});
        api.create(&PostParams::default(), &serde_json::from_value(impostor)?).await?;
        for (name, ip, ready) in [("c-scheduler-impostor", "127.0.0.9", "True"), (&*pod, "127.0.0.7", "False")] {
            let status = json!({"status": {"phase": "Running", "podIP": ip, "podIPs": [{"ip": ip}],
                "conditions": [{"type": "Ready", "status": ready}]}});
            api.patch_status(name, &PatchParams::default(), &Patch::Merge(&status)).await?;
        }

        let published = Arc::new(PublishedFields::new(world.clients.unary.clone()));
        let observed = ObservedCluster::new(Arc::clone(&world.index), Arc::new(world.discovery), published);
        let seen = WithCluster { observed, cluster };
        let at = NamespacedName::new(&world.namespace, "c");
        let found = wait_for("its address", PATIENCE, async || Ok(scheduler_pod(&seen, &at))).await?;
        let SchedulerPod { name, ips, .. } = &found;
        assert_eq!((name, ips.as_slice()), (&pod, &[IpAddr::V4(Ipv4Addr::new(127, 0, 0, 7))][..]));
        let by_name = ServicePort { number: 1, target: TargetPort::Name("tcp-comm".to_owned()) };
        assert_eq!(found.port(&by_name), Some(8786));
        Ok(())
    })
    .await
}
