//! What a handler or a plugin leaves at its end and may not be deleted: told, kept, and gone as soon as it may.

use anyhow::ensure;
use dask_wasm_operator_test_support::wait_for;
use kube::api::{Api, ApiResource, DeleteParams, DynamicObject, PostParams};
use serde_json::json;

use crate::{
    objects::{CONFIG_MAP, Kind, PLUGIN, TIMEOUT},
    stage::{Stage, on_stage},
};

const POLICIES: [Kind<'_>; 2] = [
    Kind("admissionregistration.k8s.io/v1", "ValidatingAdmissionPolicy"),
    Kind("admissionregistration.k8s.io/v1", "ValidatingAdmissionPolicyBinding"),
];

fn policies(stage: &Stage, Kind(api_version, kind): Kind<'_>) -> Api<DynamicObject> {
    let plural = format!("{}s", kind.to_lowercase()).replace("policys", "policies");
    let resource = ApiResource { plural, ..Kind(api_version, kind).resource() };
    Api::all_with(stage.client.clone(), &resource)
}

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
    for (kind, spec) in POLICIES.into_iter().zip(specs) {
        let object = json!({"apiVersion": kind.0, "kind": kind.1, "metadata": {"name": namespace}, "spec": spec});
        policies(stage, kind).create(&PostParams::default(), &serde_json::from_value(object)?).await?;
    }
    let as_operator = stage.kubeconfig.client().await?;
    let api: Api<DynamicObject> = Api::namespaced_with(as_operator, namespace, &CONFIG_MAP.resource());
    wait_for("the policy to be in force", TIMEOUT, async || {
        let tried = api.delete(name, &DeleteParams { dry_run: true, ..DeleteParams::default() }).await;
        Ok(tried.is_err_and(|error| error.to_string().contains("it is to stay")).then_some(()))
    })
    .await
}

async fn allow_deletion(stage: &Stage) -> anyhow::Result<()> {
    for kind in POLICIES {
        policies(stage, kind).delete(&stage.namespace, &DeleteParams::default()).await?;
    }
    Ok(())
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
