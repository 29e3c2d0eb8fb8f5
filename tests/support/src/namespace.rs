//! A namespace for one test.

use std::fmt::Write;
use std::panic::{AssertUnwindSafe, resume_unwind};

use anyhow::Context;
use futures::FutureExt;
use k8s_openapi::api::core::v1::Namespace;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::api::{DeleteParams, DynamicObject, ListParams, PostParams};
use kube::discovery::{Discovery, Scope, verbs};
use kube::{Api, Client, ResourceExt};
use serde_json::Value;

/// Runs `body` with a new namespace, which is deleted at the end. When `body` fails or panics, a report of the objects
/// in the namespace goes to stderr first.
///
/// # Errors
/// Those of `body`, and when the namespace cannot be created.
pub async fn with_namespace<T>(
    client: &Client,
    body: impl AsyncFnOnce(&str) -> anyhow::Result<T>,
) -> anyhow::Result<T> {
    let api: Api<Namespace> = Api::all(client.clone());
    let namespace = Namespace {
        metadata: ObjectMeta { generate_name: Some("test-".into()), ..Default::default() },
        ..Default::default()
    };
    let created = api.create(&PostParams::default(), &namespace).await;
    let name = created.context("creating a namespace")?.name_any();
    let outcome = AssertUnwindSafe(body(&name)).catch_unwind().await;
    if !matches!(outcome, Ok(Ok(_))) {
        let report = namespace_report(client, &name).await;
        eprintln!("{}", report.unwrap_or_else(|error| format!("no report of {name}: {error:#}")));
    }
    let deleted = api.delete(&name, &DeleteParams::default()).await;
    match outcome {
        Ok(Ok(value)) => deleted.map(|_| value).with_context(|| format!("deleting the namespace {name}")),
        Ok(Err(error)) => Err(error),
        Err(panic) => resume_unwind(panic),
    }
}

/// One line for each object in a namespace: kind, name, owner, phase and conditions; for an Event what it says.
///
/// # Errors
/// When the API server does not say which kinds there are.
pub async fn namespace_report(client: &Client, namespace: &str) -> anyhow::Result<String> {
    let discovery = Discovery::new(client.clone()).run_aggregated().await.context("asking which kinds there are")?;
    let mut text = format!("objects in namespace {namespace}:\n");
    for group in discovery.groups() {
        // Metrics and the like are views, and the same Events are listed in the core group.
        if group.name() == "events.k8s.io" {
            continue;
        }
        for (resource, capabilities) in group.recommended_resources() {
            if capabilities.scope != Scope::Namespaced || !capabilities.supports_operation(verbs::LIST) {
                continue;
            }
            let api: Api<DynamicObject> = Api::namespaced_with(client.clone(), namespace, &resource);
            match api.list(&ListParams::default()).await {
                Ok(list) => {
                    for object in list.items.iter().filter(|object| !is_in_every_namespace(object)) {
                        let _ = writeln!(text, "  {} {}", resource.kind, describe(object));
                    }
                }
                Err(error) => {
                    let _ = writeln!(text, "  {}: {error}", resource.kind);
                }
            }
        }
    }
    Ok(text)
}

fn is_in_every_namespace(object: &DynamicObject) -> bool {
    matches!(object.name_any().as_str(), "default" | "kube-root-ca.crt")
}

fn describe(object: &DynamicObject) -> String {
    let mut text = object.name_any();
    for owner in object.owner_references() {
        let _ = write!(text, ", owned by {} {}", owner.kind, owner.name);
    }
    if object.metadata.deletion_timestamp.is_some() {
        text.push_str(", being deleted");
    }
    for field in ["/status/phase", "/reason", "/message"] {
        if let Some(Value::String(value)) = object.data.pointer(field) {
            let _ = write!(text, ", {value}");
        }
    }
    let conditions = object.data.pointer("/status/conditions").and_then(Value::as_array);
    for condition in conditions.into_iter().flatten() {
        let field = |name: &str| condition[name].as_str().unwrap_or_default();
        let _ = write!(text, ", {}={} {}", field("type"), field("status"), field("reason"));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::describe;
    use serde_json::json;

    #[test]
    fn an_object_is_described_in_one_line() {
        let object = serde_json::from_value(json!({
            "metadata": {
                "name": "a-scheduler",
                "ownerReferences": [{"apiVersion": "v1", "kind": "DaskCluster", "name": "a", "uid": "1"}],
            },
            "status": {
                "phase": "Pending",
                "conditions": [{"type": "PodScheduled", "status": "False", "reason": "Unschedulable"}],
            },
        }))
        .unwrap();
        assert_eq!(describe(&object), "a-scheduler, owned by DaskCluster a, Pending, PodScheduled=False Unschedulable");
    }
}
