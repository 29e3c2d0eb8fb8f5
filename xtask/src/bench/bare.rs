//! A bare client: makes the objects of the operator as fast as the API server takes them, and knows nothing else.

use std::sync::Arc;

use anyhow::Context as _;
use futures::future::try_join_all;
use kube::{
    Client, ResourceExt,
    api::{Api, ApiResource, DynamicObject, Patch, PatchParams, PostParams},
    core::GroupVersionKind,
};
use serde_json::{Value, json};
use tokio::sync::Semaphore;

use super::load::{Load, dask_cluster};

/// Requests on their way at once: as many keep-alive connections.
const CONNECTIONS: usize = 16;

/// How objects are made.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Verb {
    /// `POST`.
    Create,
    /// Server-side apply.
    Apply,
}

struct Bare {
    client: Client,
    namespace: String,
    verb: Verb,
    permits: Arc<Semaphore>,
}

/// Makes all clusters with all their objects.
pub(super) async fn make(client: &Client, namespace: &str, load: Load, verb: Verb) -> anyhow::Result<()> {
    let bare = Bare {
        client: client.clone(),
        namespace: namespace.to_owned(),
        verb,
        permits: Arc::new(Semaphore::new(CONNECTIONS)),
    };
    try_join_all((0..load.clusters).map(|number| bare.cluster(number, load.workers))).await?;
    Ok(())
}

impl Bare {
    async fn cluster(&self, number: usize, workers: usize) -> anyhow::Result<()> {
        let cluster = dask_cluster(number, workers);
        let name = cluster["metadata"]["name"].as_str().context("a cluster has a name")?.to_owned();
        let made = self.make(&cluster, Verb::Create).await?;
        let owner = owner(&cluster, &made);
        let labels = |component: &str| json!({"dask.org/cluster-name": name, "dask.org/component": component, "sidecar.istio.io/inject": "false"});
        let metadata = |name: &str, component: &str, owner: &Value| json!({"name": name, "labels": labels(component), "ownerReferences": [owner]});
        let scheduler = format!("{name}-scheduler");
        let deployment = deployment(
            metadata(&scheduler, "scheduler", &owner),
            &labels("scheduler"),
            &cluster["spec"]["scheduler"]["spec"],
        );
        let service = json!({"apiVersion": "v1", "kind": "Service", "metadata": metadata(&scheduler, "scheduler", &owner), "spec": cluster["spec"]["scheduler"]["service"]});
        let group = json!({
            "apiVersion": "kubernetes.dask.org/v1", "kind": "DaskWorkerGroup",
            "metadata": metadata(&format!("{name}-default"), "workergroup", &owner),
            "spec": {"cluster": name, "worker": cluster["spec"]["worker"]},
        });
        let (_, _, made) = tokio::try_join!(
            self.make(&deployment, self.verb),
            self.make(&service, self.verb),
            self.make(&group, self.verb)
        )?;
        let owner = self::owner(&group, &made);
        try_join_all((0..workers).map(|worker| {
            let (owner, labels) = (owner.clone(), labels("worker"));
            let pod = &cluster["spec"]["worker"]["spec"];
            let name = format!("{name}-default-worker-{worker:010x}");
            async move {
                let mut pod = pod.clone();
                pod["containers"][0]["env"] = json!([
                    {"name": "DASK_WORKER_NAME", "value": name},
                    {"name": "DASK_SCHEDULER_ADDRESS", "value": format!("tcp://{}.svc.cluster.local:8786", self.namespace)},
                ]);
                let metadata = json!({"name": name, "labels": labels, "ownerReferences": [owner]});
                self.make(&self::deployment(metadata, &labels, &pod), self.verb).await
            }
        }))
        .await?;
        Ok(())
    }

    async fn make(&self, object: &Value, verb: Verb) -> anyhow::Result<DynamicObject> {
        let _permit = self.permits.acquire().await?;
        let text = |field: &str| object[field].as_str().unwrap_or_default();
        let (group, version) = text("apiVersion").split_once('/').unwrap_or(("", text("apiVersion")));
        let kind = GroupVersionKind::gvk(group, version, text("kind"));
        let resource = ApiResource::from_gvk(&kind);
        let api: Api<DynamicObject> = Api::namespaced_with(self.client.clone(), &self.namespace, &resource);
        let name = object["metadata"]["name"].as_str().unwrap_or_default();
        let made = match verb {
            Verb::Create => api.create(&PostParams::default(), &serde_json::from_value(object.clone())?).await,
            Verb::Apply => api.patch(name, &PatchParams::apply("bare"), &Patch::Apply(object)).await,
        };
        made.with_context(|| format!("making {} {name}", text("kind")))
    }
}

fn owner(object: &Value, made: &DynamicObject) -> Value {
    json!({
        "apiVersion": object["apiVersion"], "kind": object["kind"], "name": made.name_any(), "uid": made.uid(),
        "controller": true, "blockOwnerDeletion": true,
    })
}

fn deployment(metadata: Value, labels: &Value, pod: &Value) -> Value {
    json!({
        "apiVersion": "apps/v1", "kind": "Deployment", "metadata": metadata,
        "spec": {"replicas": 1, "selector": {"matchLabels": labels}, "template": {"metadata": {"labels": labels}, "spec": pod}},
    })
}
