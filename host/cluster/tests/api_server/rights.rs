//! Missing rights, and Events.

use std::collections::BTreeSet;

use dask_wasm_operator_api::Access;
use dask_wasm_operator_cluster::{
    access::missing_access,
    events::{EventLevel, Events, Regarding, Source},
    gate::Gate,
};
use dask_wasm_operator_core::contract::{EventNote, EventSeverity};
use dask_wasm_operator_test_support::{TestCluster, service_account_token, wait_for};
use k8s_openapi::api::events::v1::Event;
use kube::{Api, api::ListParams};
use serde_json::json;

use crate::{PATIENCE, connect, in_world};

#[tokio::test]
async fn every_missing_right_is_named() -> anyhow::Result<()> {
    in_world(async |world| {
        world.write(world.apply("serviceaccount", "half", json!({}))).await?;
        let rules = json!([{"apiGroups": ["apps"], "resources": ["deployments"], "verbs": ["get", "patch"]}]);
        world.write(world.apply("role", "half", json!({"rules": rules}))).await?;
        let binding = json!({
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "half"},
            "subjects": [{"kind": "ServiceAccount", "name": "half", "namespace": world.namespace}],
        });
        world.write(world.apply("rolebinding", "half", binding)).await?;
        let token = service_account_token(&world.admin, &world.namespace, "half").await?;
        let clients = connect(&TestCluster::obtain(&[]).await?.kubeconfig().with_token(&token)?).await?;
        let here = Some(world.namespace.as_str());
        let needed = BTreeSet::from([
            Access::new("apps", "deployments", "patch", here),
            Access::new("apps", "deployments/status", "patch", here),
            Access::new("apps", "deployments", "patch", None),
            Access::new("", "services", "list", here),
        ]);
        let missing = wait_for("the binding to be in force", PATIENCE, async || {
            let missing = missing_access(&clients.unary, &needed).await?;
            Ok((missing.len() < needed.len()).then_some(missing))
        })
        .await?;
        let lines: Vec<String> = missing.iter().map(ToString::to_string).collect();
        assert_eq!(
            lines,
            [
                format!("list services in namespace {}", world.namespace),
                "patch deployments.apps in all namespaces".to_owned(),
                format!("patch deployments/status.apps in namespace {}", world.namespace),
            ]
        );
        let all = missing_access(&world.clients.unary, &needed).await?;
        assert_eq!(all, BTreeSet::new(), "an administrator may do everything");
        Ok(())
    })
    .await
}

#[tokio::test]
async fn an_event_is_posted_once() -> anyhow::Result<()> {
    in_world(async |world| {
        let object = world.write(world.apply("configmap", "a", json!({}))).await?;
        let events = Events::start(world.clients.unary.clone(), Gate::open(), "test".to_owned(), EventLevel::All);
        let note = |message: &str| EventNote {
            severity: EventSeverity::Warning,
            reason: "ForeignObject".to_owned(),
            message: message.to_owned(),
        };
        for message in ["x", "x", "last"] {
            events.post(&Source::Operator, Regarding::from(&*object), note(message)).ended().await;
        }
        let api: Api<Event> = Api::namespaced(world.admin.clone(), &world.namespace);
        let posted = api.list(&ListParams::default()).await?.items;
        assert_eq!(posted.len(), 2, "what was waited for is there");
        let regarding = posted[0].regarding.clone().unwrap();
        assert_eq!(regarding.uid.as_deref(), Some(object.metadata.uid.as_str()));
        assert_eq!(posted[0].reporting_controller.as_deref(), Some("dask-wasm-operator"));
        assert_eq!(posted[0].type_.as_deref(), Some("Warning"));
        assert_eq!(events.dropped()[&Source::Operator], 0);
        Ok(())
    })
    .await
}
