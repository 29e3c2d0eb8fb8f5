//! The cluster side against a real API server: what is only true if Kubernetes behaves as the decisions say.

mod accepted;
mod agreement;
mod applier;
mod emptied;
mod inheritance;
mod lease;
mod lost_answer;
mod proxy;
mod rights;
mod scheduler_pods;
mod watches;

use std::{sync::Arc, time::Duration};

use dask_wasm_operator_api::crds;
use dask_wasm_operator_cluster::{
    applier::{Applier, CONCURRENCY},
    client::{Clients, Connection},
    discovery::Discovery,
    gate::Gate,
    index::Index,
    watch::{WatchHandle, WatchKey, Watches},
};
use dask_wasm_operator_core::{
    action::{Action, Apply, ApplyTarget, Precondition, WriteError, Written},
    contract::KindReference,
    dask::Reconciler,
    native::Native as _,
    object::{NamespacedName, Object, ObjectKey, Resource},
    ports::Writes,
};
use dask_wasm_operator_test_support::{Kubeconfig, TestCluster, with_namespace};
use serde_json::{Value, json};

/// How long any condition may take on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// The field manager under test.
const MANAGER: &str = "dask-plugin/istio/dashboard";

/// The cluster side as the runtime wires it, for one test.
struct World {
    namespace: String,
    admin: kube::Client,
    clients: Clients,
    discovery: Discovery,
    index: Arc<Index>,
    applier: Applier,
    watches: Watches,
}

/// Runs a test in a namespace of its own.
async fn in_world(body: impl AsyncFnOnce(World) -> anyhow::Result<()>) -> anyhow::Result<()> {
    let cluster = TestCluster::obtain(&crds()).await?;
    let admin = cluster.client().await?;
    let clients = connect(cluster.kubeconfig()).await?;
    with_namespace(&admin.clone(), async |namespace| {
        let discovery = Discovery::start(clients.unary.clone()).await?;
        let index = Arc::new(Index::new(|_| ()).that_keeps(Reconciler::summaries()));
        let applier = Applier::new(clients.unary.clone(), Arc::clone(&index), Gate::open(), CONCURRENCY);
        let watches = Watches::new(clients.watch.clone(), Arc::clone(&index));
        body(World { namespace: namespace.to_owned(), admin, clients, discovery, index, applier, watches }).await
    })
    .await
}

async fn connect(kubeconfig: &Kubeconfig) -> anyhow::Result<Clients> {
    let directory = tempfile::tempdir()?;
    let path = directory.path().join("kubeconfig");
    kubeconfig.write(&path)?;
    Ok(Clients::connect(&Connection::Kubeconfig { path: Some(path), context: None }).await?)
}

impl World {
    fn resource(&self, name: &str) -> Resource {
        let reference = KindReference { group: None, version: None, name: name.to_owned() };
        self.discovery.table().resolve(&reference).expect("the server serves the kind").resource.clone()
    }

    fn key(&self, kind: &str, name: &str) -> ObjectKey {
        ObjectKey { kind: self.resource(kind).kind, at: NamespacedName::new(&self.namespace, name) }
    }

    /// An apply of `body` that makes an object, without `apiVersion`, `kind` and name, which are added.
    fn apply(&self, kind: &str, name: &str, mut body: Value) -> Apply {
        let resource = self.resource(kind);
        body["apiVersion"] = json!(resource.kind.api_version());
        body["kind"] = json!(resource.kind.kind);
        body["metadata"]["name"] = json!(name);
        body["metadata"]["namespace"] = json!(self.namespace);
        Apply {
            object: self.key(kind, name),
            resource,
            target: ApplyTarget::Object,
            manager: MANAGER.to_owned(),
            precondition: Precondition::Absent,
            body,
            force: false,
        }
    }

    /// An apply of `body` to an object.
    fn apply_to(&self, object: &Object, body: Value) -> Apply {
        let kind = object.kind.kind.to_lowercase();
        Apply { precondition: Precondition::is(object), ..self.apply(&kind, &object.metadata.name, body) }
    }

    async fn write(&self, apply: Apply) -> Result<Arc<Object>, WriteError> {
        match self.applier.write(Action::Apply(apply)).await? {
            Written::Applied(object) => Ok(object),
            Written::Deleted => unreachable!("an apply deletes nothing"),
        }
    }

    async fn delete(&self, kind: &str, name: &str, uid: &str) -> Result<Written, WriteError> {
        let object = self.key(kind, name);
        self.applier
            .write(Action::Delete {
                resource: self.resource(kind),
                object,
                uid: uid.to_owned(),
                resource_version: None,
            })
            .await
    }

    fn known(&self, kind: &str, name: &str) -> Option<Arc<Object>> {
        let key = self.key(kind, name);
        self.index.get(&key.kind, &key.at)
    }

    fn watch_key(&self, kind: &str, labels: Option<&str>) -> WatchKey {
        WatchKey {
            resource: self.resource(kind),
            namespace: Some(self.namespace.clone()),
            labels: labels.map(str::to_owned),
        }
    }

    async fn watch(&self, kind: &str, labels: Option<&str>) -> anyhow::Result<WatchHandle> {
        let handle = self.watches.start(&self.watch_key(kind, labels))?;
        tokio::time::timeout(PATIENCE, handle.synced()).await?;
        Ok(handle)
    }

    /// What an object looks like to somebody else.
    async fn live(&self, kind: &str, name: &str) -> anyhow::Result<Option<Value>> {
        let resource = self.resource(kind);
        let api: kube::Api<kube::core::DynamicObject> =
            kube::Api::namespaced_with(self.admin.clone(), &self.namespace, &api_resource(&resource));
        Ok(api.get_opt(name).await?.map(serde_json::to_value).transpose()?)
    }

    /// Somebody else applies an object.
    async fn somebody_applies(&self, kind: &str, name: &str, body: Value) -> anyhow::Result<Value> {
        let apply = self.apply(kind, name, body);
        let api: kube::Api<kube::core::DynamicObject> =
            kube::Api::namespaced_with(self.admin.clone(), &self.namespace, &api_resource(&apply.resource));
        let parameters = kube::api::PatchParams::apply("somebody").force();
        let object = api.patch(name, &parameters, &kube::api::Patch::Apply(apply.body)).await?;
        Ok(serde_json::to_value(object)?)
    }

    async fn somebody_deletes(&self, kind: &str, name: &str) -> anyhow::Result<()> {
        let api: kube::Api<kube::core::DynamicObject> =
            kube::Api::namespaced_with(self.admin.clone(), &self.namespace, &api_resource(&self.resource(kind)));
        api.delete(name, &kube::api::DeleteParams::default()).await?;
        Ok(())
    }
}

fn api_resource(resource: &Resource) -> kube::core::ApiResource {
    kube::core::ApiResource {
        group: resource.kind.group.clone(),
        version: resource.kind.version.clone(),
        api_version: resource.kind.api_version(),
        kind: resource.kind.kind.clone(),
        plural: resource.plural.clone(),
    }
}

/// A controller reference to a ConfigMap.
fn controlled_by(owner: &Object) -> Value {
    json!([owner.as_owner()])
}
