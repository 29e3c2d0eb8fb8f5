//! Plugins that write in the name of an account.

use anyhow::ensure;
use dask_wasm_operator_api::crds;
use dask_wasm_operator_test_support::{AuditedRequest, TestCluster, apply_objects, say_skipped, sha256, wait_for};
use serde_json::{Value, json};

use super::mounting::{code, odd};
use crate::{
    objects::{CONFIG_MAP, PLUGIN, TIMEOUT, text},
    stage::{Stage, on_stage_with},
};

const RBAC: &str = "rbac.authorization.k8s.io/v1";

/// Values of the chart with a plugin `mirror` that writes in the name of account `robot`.
fn mirror() -> Value {
    let source = json!({"configMap": {"name": "mirror", "keys": ["mirror.wasm"]}});
    let mirror = json!({
        "name": "mirror", "serviceAccountName": "robot", "source": source, "config": {"do": "Mirror"},
    });
    json!({"plugins": [mirror]})
}

/// A Role of these rules, bound to an account of the stage's namespace.
async fn bind(stage: &Stage, role: &str, account: &str, rules: Value) -> anyhow::Result<()> {
    let subject = json!({"kind": "ServiceAccount", "name": account, "namespace": stage.namespace});
    let reference = json!({"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": role});
    let objects = [
        json!({"apiVersion": RBAC, "kind": "Role", "metadata": {"name": role}, "rules": rules}),
        json!({
            "apiVersion": RBAC, "kind": "RoleBinding", "metadata": {"name": role},
            "roleRef": reference, "subjects": [subject],
        }),
    ];
    apply_objects(&stage.client, &stage.namespace, &objects).await
}

fn on_config_maps(verbs: &[&str]) -> Value {
    json!([{"apiGroups": [""], "resources": ["configmaps"], "verbs": verbs}])
}

/// As the API server calls an account of the stage's namespace.
fn user(stage: &Stage, account: &str) -> String {
    format!("system:serviceaccount:{}:{account}", stage.namespace)
}

/// Waits until the audit log has a write of ConfigMap `name` with this verb and code in the name of `account`, and checks that
/// it has none of that ConfigMap in any other name. A cluster without an audit log that can be read here can't tell.
async fn was_written_by(stage: &Stage, account: &str, name: &str, verb: &str, code: u16) -> anyhow::Result<()> {
    let Some(log) = TestCluster::obtain(&crds()).await?.audit_log().cloned() else {
        say_skipped("in whose name is written can't be seen: this cluster's audit log can't be read here");
        return Ok(());
    };
    let (path, account) = (format!("/namespaces/{}/configmaps/{name}?", stage.namespace), user(stage, account));
    let is_of = |request: &AuditedRequest| request.is_write() && format!("{}?", request.uri).contains(&path);
    wait_for(&format!("{verb} of {name} by {account}, with {code}"), TIMEOUT, async || {
        let is_it = |request: &AuditedRequest| {
            is_of(request)
                && (request.verb.as_str(), request.code) == (verb, code)
                && request.impersonated.as_ref() == Some(&account)
        };
        Ok(log.requests()?.iter().any(is_it).then_some(()))
    })
    .await
}

/// What the operator keeps of itself it writes in its own name, and nothing else of the plugin.
async fn only_its_own_is_written_by_the_operator(stage: &Stage) -> anyhow::Result<()> {
    let Some(log) = TestCluster::obtain(&crds()).await?.audit_log().cloned() else { return Ok(()) };
    let (own, namespace) = (user(stage, "dask-dask-wasm-operator"), format!("/namespaces/{}/", stage.namespace));
    let requests = log.requests()?.into_iter();
    let requests: Vec<_> = requests.filter(|request| request.user == own && request.uri.contains(&namespace)).collect();
    ensure!(!requests.is_empty(), "the audit log has no request of {own}");
    for request in requests {
        let is_of_plugin = request.is_write() && request.uri.contains("/configmaps");
        ensure!(is_of_plugin == request.impersonated.is_some(), "{request:?}");
    }
    Ok(())
}

#[tokio::test]
async fn what_an_account_may_not_is_not_written_although_the_operator_may_and_is_once_the_account_may()
-> anyhow::Result<()> {
    on_stage_with(&mirror(), &[], async |stage| {
        stage.create(&code("mirror", odd()?)).await?;
        stage.until_ready("mirror").await?;
        // Another one, without an account, is none the worse for it.
        let grants = json!({"patch": [{"kind": "ConfigMap", "fields": ["metadata.annotations"]}]});
        let spec = json!({"config": {"do": "Note"}, "grants": grants, "source": {"sha256": sha256(odd()?)}});
        stage.mount("noting", odd()?, &spec).await?;
        stage.until_ready("noting").await?;

        stage.subject("subject", &json!({"key": "value", "note": "well"})).await?;
        let is_noted = |subject: &Value| subject["metadata"]["annotations"]["note"] == "well";
        stage.until(CONFIG_MAP, "subject", "noted", is_noted).await?;
        let told = stage.until_event(CONFIG_MAP, "subject", "Forbidden").await?;
        let namespace = stage.namespace.clone();
        let remedy = format!(
            "bind ServiceAccount {namespace}/robot to a Role in namespace {namespace} with the rule {{apiGroups: [\"\"], resources: [configmaps], verbs: [create, patch]}}"
        );
        ensure!(told.contains(&user(stage, "robot")) && told.contains(&remedy), "{told}");
        stage.until(PLUGIN, "mirror", "told", |plugin| text(plugin, "/status/lastError/message").contains(&remedy)).await?;
        was_written_by(stage, "robot", "subject-key", "patch", 403).await?;
        ensure!(stage.find(CONFIG_MAP, "subject-key").await?.is_none(), "it was written all the same");

        // The account need not exist.
        bind(stage, "robot", "robot", on_config_maps(&["create", "patch"])).await?;
        stage.until_there(CONFIG_MAP, "subject-key").await?;
        was_written_by(stage, "robot", "subject-key", "patch", 201).await?;

        // What is no longer wanted is deleted in its name as well.
        stage.merge(CONFIG_MAP, "subject", &json!({"data": {"key": null}})).await?;
        was_written_by(stage, "robot", "subject-key", "delete", 403).await?;
        stage.get(CONFIG_MAP, "subject-key").await?;
        bind(stage, "robot", "robot", on_config_maps(&["create", "patch", "delete"])).await?;
        stage.until_gone(CONFIG_MAP, "subject-key").await?;
        Ok(())
    })
    .await
}

#[tokio::test]
async fn another_account_counts_from_the_next_write_to_the_sweep() -> anyhow::Result<()> {
    on_stage_with(&mirror(), &[], async |stage| {
        stage.create(&code("mirror", odd()?)).await?;
        bind(stage, "robot", "robot", on_config_maps(&["create", "patch", "delete"])).await?;
        stage.subject("first", &json!({"key": "value"})).await?;
        stage.until_there(CONFIG_MAP, "first-key").await?;
        only_its_own_is_written_by_the_operator(stage).await?;

        // The chart does not know this one.
        stage.merge(PLUGIN, "mirror", &json!({"spec": {"serviceAccountName": "other"}})).await?;
        stage.until_ready("mirror").await?;
        stage.subject("second", &json!({"key": "value"})).await?;
        let told = stage.until_event(CONFIG_MAP, "second", "Forbidden").await?;
        let rule = "{apiGroups: [\"\"], resources: [serviceaccounts], resourceNames: [other], verbs: [impersonate]}";
        ensure!(told.contains(rule), "{told}");
        ensure!(stage.find(CONFIG_MAP, "second-key").await?.is_none(), "it was written all the same");
        let impersonate =
            json!([{"apiGroups": [""], "resources": ["serviceaccounts"], "resourceNames": ["other"], "verbs": ["impersonate"]}]);
        bind(stage, "operator-as-other", "dask-dask-wasm-operator", impersonate).await?;
        bind(stage, "other", "other", on_config_maps(&["create", "patch"])).await?;
        stage.until_there(CONFIG_MAP, "second-key").await?;
        was_written_by(stage, "other", "second-key", "patch", 201).await?;

        // At its removal, too: what the account may not delete stays, and is told.
        stage.delete(PLUGIN, "mirror").await?;
        let told = stage.until_event(CONFIG_MAP, "first-key", "Forbidden").await?;
        ensure!(told.contains("resources: [configmaps], verbs: [delete]"), "{told}");
        was_written_by(stage, "other", "first-key", "delete", 403).await?;
        bind(stage, "other", "other", on_config_maps(&["delete"])).await?;
        stage.until_gone(CONFIG_MAP, "first-key").await?;
        stage.until_gone(CONFIG_MAP, "second-key").await?;
        Ok(())
    })
    .await
}
