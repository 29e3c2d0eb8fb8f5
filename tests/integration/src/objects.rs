//! Objects of a namespace as JSON values: reading, changing and waiting for them. Each call fails when the API server refuses,
//! and a wait when it takes longer than [`TIMEOUT`].

use std::time::Duration;

use anyhow::Context;
use dask_wasm_operator_test_support::wait_for;
use kube::{
    Client,
    api::{Api, ApiResource, DeleteParams, DynamicObject, ListParams, Patch, PatchParams, PostParams},
    core::GroupVersionKind,
};
use serde_json::{Value, json};

/// How long anything may take.
pub const TIMEOUT: Duration = Duration::from_secs(120);

/// A kind: its API version and name.
#[derive(Clone, Copy, Debug)]
pub struct Kind<'a>(pub &'a str, pub &'a str);

pub const CLUSTER: Kind<'_> = Kind("kubernetes.dask.org/v1", "DaskCluster");
pub const GROUP: Kind<'_> = Kind("kubernetes.dask.org/v1", "DaskWorkerGroup");
pub const JOB: Kind<'_> = Kind("kubernetes.dask.org/v1", "DaskJob");
pub const AUTOSCALER: Kind<'_> = Kind("kubernetes.dask.org/v1", "DaskAutoscaler");
pub const PLUGIN: Kind<'_> = Kind("plugins.dask.org/v1alpha1", "DaskPlugin");
pub const PLUGIN_RECORD: Kind<'_> = Kind("plugins.dask.org/v1alpha1", "DaskPluginRecord");
pub const VIRTUAL_SERVICE: Kind<'_> = Kind("networking.istio.io/v1", "VirtualService");
pub const DEPLOYMENT: Kind<'_> = Kind("apps/v1", "Deployment");
pub const REPLICA_SET: Kind<'_> = Kind("apps/v1", "ReplicaSet");
pub const SERVICE: Kind<'_> = Kind("v1", "Service");
pub const POD: Kind<'_> = Kind("v1", "Pod");
pub const CONFIG_MAP: Kind<'_> = Kind("v1", "ConfigMap");
pub const EVENT: Kind<'_> = Kind("events.k8s.io/v1", "Event");
pub const LEASE: Kind<'_> = Kind("coordination.k8s.io/v1", "Lease");

impl Kind<'_> {
    /// The kind as the API server serves it; its plural is regular.
    pub fn resource(self) -> ApiResource {
        let (group, version) = self.0.split_once('/').unwrap_or(("", self.0));
        let singular = self.1.to_lowercase();
        let plural = match singular.strip_suffix('y') {
            Some(stem) => format!("{stem}ies"),
            None if singular.ends_with('s') => format!("{singular}es"),
            None => format!("{singular}s"),
        };
        ApiResource::from_gvk_with_plural(&GroupVersionKind::gvk(group, version, self.1), &plural)
    }
}

/// The objects of one namespace, as its administrator.
#[derive(Clone)]
pub struct Objects {
    /// With the rights of an administrator.
    pub client: Client,
    /// Its name.
    pub namespace: String,
}

impl Objects {
    /// The objects of a kind.
    pub fn api(&self, kind: Kind<'_>) -> Api<DynamicObject> {
        Api::namespaced_with(self.client.clone(), &self.namespace, &kind.resource())
    }

    /// An object, if it exists.
    pub async fn find(&self, kind: Kind<'_>, name: &str) -> anyhow::Result<Option<Value>> {
        let object = self.api(kind).get_opt(name).await.with_context(|| format!("reading {} {name}", kind.1))?;
        Ok(object.map(serde_json::to_value).transpose()?)
    }

    /// An object that exists.
    pub async fn get(&self, kind: Kind<'_>, name: &str) -> anyhow::Result<Value> {
        self.find(kind, name).await?.with_context(|| format!("there is no {} {name}", kind.1))
    }

    /// The objects of a kind with these labels, by name.
    pub async fn list(&self, kind: Kind<'_>, labels: &str) -> anyhow::Result<Vec<Value>> {
        let list = self.api(kind).list(&ListParams::default().labels(labels)).await;
        let list = list.with_context(|| format!("listing {} {labels}", kind.1))?;
        Ok(list.items.into_iter().map(serde_json::to_value).collect::<Result<_, _>>()?)
    }

    /// As `kubectl create`.
    pub async fn create(&self, object: &Value) -> anyhow::Result<Value> {
        let kind = Kind(text(object, "/apiVersion"), text(object, "/kind"));
        let parsed = serde_json::from_value(object.clone())?;
        let created = self.api(kind).create(&PostParams::default(), &parsed).await;
        let created = created.with_context(|| format!("creating {} {}", kind.1, text(object, "/metadata/name")))?;
        Ok(serde_json::to_value(created)?)
    }

    /// A merge patch: null removes.
    pub async fn merge(&self, kind: Kind<'_>, name: &str, patch: &Value) -> anyhow::Result<Value> {
        let patched = self.api(kind).patch(name, &PatchParams::default(), &Patch::Merge(patch)).await;
        Ok(serde_json::to_value(patched.with_context(|| format!("patching {} {name}", kind.1))?)?)
    }

    /// As `kubectl scale`.
    pub async fn scale(&self, kind: Kind<'_>, name: &str, replicas: u32) -> anyhow::Result<()> {
        let patch = json!({"spec": {"replicas": replicas}});
        let scaled = self.api(kind).patch_scale(name, &PatchParams::default(), &Patch::Merge(&patch)).await;
        scaled.with_context(|| format!("scaling {} {name}", kind.1))?;
        Ok(())
    }

    /// As `kubectl delete --wait=false`.
    pub async fn delete(&self, kind: Kind<'_>, name: &str) -> anyhow::Result<()> {
        let deleted = self.api(kind).delete(name, &DeleteParams::background()).await;
        deleted.with_context(|| format!("deleting {} {name}", kind.1))?;
        Ok(())
    }

    /// Waits until an object is as wanted; the last state of it is part of the error.
    pub async fn until(
        &self,
        kind: Kind<'_>,
        name: &str,
        wanted: &str,
        condition: impl Fn(&Value) -> bool,
    ) -> anyhow::Result<Value> {
        let mut last = None;
        let description = format!("{} {name} to be {wanted}", kind.1);
        let reached = wait_for(&description, TIMEOUT, async || {
            last = self.find(kind, name).await?;
            Ok(last.clone().filter(|object| condition(object)))
        });
        let reached = reached.await;
        reached.with_context(|| match last {
            Some(mut object) => {
                object["metadata"]["managedFields"] = Value::Null;
                format!("it is {object:#}")
            }
            None => "it does not exist".to_owned(),
        })
    }

    /// Waits until an object exists.
    pub async fn until_there(&self, kind: Kind<'_>, name: &str) -> anyhow::Result<Value> {
        self.until(kind, name, "there", |_| true).await
    }

    /// Waits until an object is another than the one of this uid.
    pub async fn until_new(&self, kind: Kind<'_>, name: &str, old: &Value) -> anyhow::Result<Value> {
        self.until(kind, name, "made anew", |object| uid(object) != uid(old)).await
    }

    /// Waits until an object is gone.
    pub async fn until_gone(&self, kind: Kind<'_>, name: &str) -> anyhow::Result<()> {
        let description = format!("{} {name} to be gone", kind.1);
        wait_for(&description, TIMEOUT, async || Ok(self.find(kind, name).await?.is_none().then_some(()))).await
    }

    /// Waits until there are this many objects with these labels, and answers them.
    pub async fn until_count(&self, kind: Kind<'_>, labels: &str, count: usize) -> anyhow::Result<Vec<Value>> {
        let mut last = 0;
        let description = format!("{count} objects {} {labels}", kind.1);
        let reached = wait_for(&description, TIMEOUT, async || {
            let found = self.list(kind, labels).await?;
            last = found.len();
            Ok((found.len() == count && found.iter().all(|object| !is_being_deleted(object))).then_some(found))
        });
        let reached = reached.await;
        reached.with_context(|| format!("there are {last}"))
    }

    /// Waits for an Event about an object whose reason is `reason`, and answers its note.
    pub async fn until_event(&self, kind: Kind<'_>, name: &str, reason: &str) -> anyhow::Result<String> {
        wait_for(&format!("an Event {reason} about {} {name}", kind.1), TIMEOUT, async || {
            let events = self.list(EVENT, "").await?;
            let about = |event: &&Value| {
                let regarding = (text(event, "/regarding/kind"), text(event, "/regarding/name"));
                regarding == (kind.1, name) && text(event, "/reason") == reason
            };
            Ok(events.iter().find(about).map(|event| text(event, "/note").to_owned()))
        })
        .await
    }

    /// Waits until a condition of an object has this status and reason, and answers its message.
    pub async fn until_condition(
        &self,
        kind: Kind<'_>,
        name: &str,
        [type_, status, reason]: [&str; 3],
    ) -> anyhow::Result<String> {
        let wanted = format!("{type_}={status} ({reason})");
        let object = self
            .until(kind, name, &wanted, |object| {
                let condition = condition(object, type_);
                text(condition, "/status") == status && text(condition, "/reason") == reason
            })
            .await?;
        Ok(text(condition(&object, type_), "/message").to_owned())
    }
}

/// The text at a JSON pointer; empty if there is none.
pub fn text<'a>(object: &'a Value, pointer: &str) -> &'a str {
    object.pointer(pointer).and_then(Value::as_str).unwrap_or_default()
}

/// The name of an object.
pub fn name(object: &Value) -> &str {
    text(object, "/metadata/name")
}

/// The uid of an object.
pub fn uid(object: &Value) -> &str {
    text(object, "/metadata/uid")
}

/// The names of objects.
pub fn names(objects: &[Value]) -> Vec<&str> {
    objects.iter().map(name).collect()
}

/// Whether its deletion has been asked for.
pub fn is_being_deleted(object: &Value) -> bool {
    !text(object, "/metadata/deletionTimestamp").is_empty()
}

/// All of an object that Kubernetes' own controllers do not change by themselves: where none of them keeps a status, its
/// resource version, too.
pub fn essence(object: &Value) -> Value {
    let mut object = object.clone();
    let kept = ["Deployment", "PodDisruptionBudget", "Pod", "DaskCluster", "DaskWorkerGroup"];
    if kept.contains(&text(&object, "/kind")) {
        object["status"] = Value::Null;
        let metadata = &mut object["metadata"];
        metadata["resourceVersion"] = Value::Null;
        if let Some(annotations) = metadata["annotations"].as_object_mut() {
            annotations.remove("deployment.kubernetes.io/revision");
        }
        metadata["annotations"] = Some(metadata["annotations"].take()).filter(|left| *left != json!({})).into();
        if let Some(entries) = metadata["managedFields"].as_array_mut() {
            entries.retain(|entry| entry["subresource"] != "status");
        }
    }
    object
}

/// The uid of the controller.
pub fn controller(object: &Value) -> &str {
    let owners = object["metadata"]["ownerReferences"].as_array();
    let controller = owners.into_iter().flatten().find(|owner| owner["controller"] == true);
    controller.map(|owner| text(owner, "/uid")).unwrap_or_default()
}

/// A condition of an object; null if it has none of that type.
pub fn condition<'a>(object: &'a Value, type_: &str) -> &'a Value {
    let conditions = object["status"]["conditions"].as_array();
    conditions.into_iter().flatten().find(|condition| condition["type"] == type_).unwrap_or(&Value::Null)
}
