//! What a handler or a plugin leaves at its end and may not be deleted: told, kept, and gone as soon as it may.

use anyhow::ensure;
use dask_wasm_operator_test_support::wait_for;
use kube::api::{Api, DeleteParams, DynamicObject};
use serde_json::json;

use super::admission::{forget, install};
use crate::{
    objects::{CONFIG_MAP, Kind, PLUGIN, TIMEOUT},
    stage::{Stage, on_stage},
};

const POLICIES: [Kind<'_>; 2] = [
    Kind("admissionregistration.k8s.io/v1", "ValidatingAdmissionPolicy"),
    Kind("admissionregistration.k8s.io/v1", "ValidatingAdmissionPolicyBinding"),
];

/// Forbids the operator to delete a ConfigMap of its namespace, and returns when that is in force.
async fn forbid_deletion(stage: &Stage, name: &str) -> anyhow::Result<()> {
    let namespace = &stage.namespace;
    let is_it = format!(
        "request.namespace == '{namespace}' && request.name == '{name}' \
         && request.userInfo.username.startsWith('system:serviceaccount:{namespace}:')"
    );
    let rules =
        json!([{"apiGroups": [""], "apiVersions": ["v1"], "operations": ["DELETE"], "resources": ["configmaps"]}]);
    let specs = [
        json!({
            "failurePolicy": "Fail",
            "matchConstraints": {"resourceRules": rules},
            "matchConditions": [{"name": "it", "expression": is_it}],
            "validations": [{"expression": "false", "message": "it is to stay", "reason": "Forbidden"}],
        }),
        json!({"policyName": namespace, "validationActions": ["Deny"]}),
    ];
    install(stage, POLICIES.into_iter().zip(specs)).await?;
    let as_operator = stage.kubeconfig.client().await?;
    let api: Api<DynamicObject> = Api::namespaced_with(as_operator, namespace, &CONFIG_MAP.resource());
    wait_for("the policy to be in force", TIMEOUT, async || {
        let tried = api.delete(name, &DeleteParams { dry_run: true, ..DeleteParams::default() }).await;
        Ok(tried.is_err_and(|error| error.to_string().contains("it is to stay")).then_some(()))
    })
    .await
}

async fn allow_deletion(stage: &Stage) -> anyhow::Result<()> {
    forget(stage, POLICIES).await
}

/// Two children, of which one may not be deleted.
async fn mirrored(stage: &Stage) -> anyhow::Result<()> {
    stage.mount_odd("mirror", "Mirror").await?;
    stage.subject("pair", &json!({"left": "1", "right": "2"})).await?;
    for child in ["pair-left", "pair-right"] {
        stage.until_there(CONFIG_MAP, child).await?;
    }
    forbid_deletion(stage, "pair-left").await
}

#[tokio::test]
async fn a_child_whose_subject_fits_no_longer_goes_as_soon_as_it_may() -> anyhow::Result<()> {
    on_stage(async |stage| {
        mirrored(stage).await?;
        stage.merge(CONFIG_MAP, "pair", &json!({"metadata": {"labels": null}})).await?;
        stage.until_gone(CONFIG_MAP, "pair-right").await?;
        let note = stage.until_event(CONFIG_MAP, "pair-left", "Forbidden").await?;
        ensure!(note.contains("mirror/odd") && note.contains("it is to stay"), "{note}");
        stage.get(CONFIG_MAP, "pair-left").await?;
        allow_deletion(stage).await?;
        stage.until_gone(CONFIG_MAP, "pair-left").await
    })
    .await
}

#[tokio::test]
async fn what_a_removed_plugin_made_goes_as_soon_as_it_may() -> anyhow::Result<()> {
    on_stage(async |stage| {
        mirrored(stage).await?;
        stage.delete(PLUGIN, "mirror").await?;
        stage.until_gone(CONFIG_MAP, "pair-right").await?;
        let note = stage.until_event(CONFIG_MAP, "pair-left", "Forbidden").await?;
        ensure!(note.contains("the plugin mirror") && note.contains("it is to stay"), "{note}");
        stage.get(CONFIG_MAP, "pair-left").await?;
        allow_deletion(stage).await?;
        stage.until_gone(CONFIG_MAP, "pair-left").await
    })
    .await
}
