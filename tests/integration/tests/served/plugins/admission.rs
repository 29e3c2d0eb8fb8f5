//! Children that admission changes: they stay as it makes them, and nobody repeats himself.

use anyhow::ensure;
use dask_wasm_operator_test_support::wait_for;
use kube::api::{Api, ApiResource, DeleteParams, DynamicObject, PostParams};
use serde_json::{Value, json};

use crate::{
    objects::{CONFIG_MAP, Kind, PLUGIN, TIMEOUT},
    stage::{Stage, on_stage},
};

const POLICIES: [Kind<'_>; 2] = [
    Kind("admissionregistration.k8s.io/v1", "MutatingAdmissionPolicy"),
    Kind("admissionregistration.k8s.io/v1", "MutatingAdmissionPolicyBinding"),
];
const NETWORK_POLICY: Kind<'_> = Kind("networking.k8s.io/v1", "NetworkPolicy");

fn policies(stage: &Stage, Kind(api_version, kind): Kind<'_>) -> Api<DynamicObject> {
    let plural = format!("{}s", kind.to_lowercase()).replace("policys", "policies");
    let resource = ApiResource { plural, ..Kind(api_version, kind).resource() };
    Api::all_with(stage.client.clone(), &resource)
}

/// Makes policies and bindings, which have the name of the stage's namespace.
pub(super) async fn install(
    stage: &Stage,
    policies_of: impl IntoIterator<Item = (Kind<'_>, Value)>,
) -> anyhow::Result<()> {
    for (kind, spec) in policies_of {
        let name = &stage.namespace;
        let object = json!({"apiVersion": kind.0, "kind": kind.1, "metadata": {"name": name}, "spec": spec});
        policies(stage, kind).create(&PostParams::default(), &serde_json::from_value(object)?).await?;
    }
    Ok(())
}

/// Deletes them.
pub(super) async fn forget(stage: &Stage, kinds: impl IntoIterator<Item = Kind<'_>>) -> anyhow::Result<()> {
    for kind in kinds {
        policies(stage, kind).delete(&stage.namespace, &DeleteParams::default()).await?;
    }
    Ok(())
}

fn policy(name: &str) -> Value {
    let Kind(api_version, kind) = NETWORK_POLICY;
    let spec = json!({"podSelector": {}, "policyTypes": ["Ingress"], "ingress": [{"ports": [{"port": 80}]}]});
    json!({"apiVersion": api_version, "kind": kind, "metadata": {"name": name}, "spec": spec})
}

fn ports(policy: &Value) -> Vec<&Value> {
    let rules = policy["spec"]["ingress"].as_array().into_iter().flatten();
    rules.map(|rule| &rule["ports"][0]["port"]).collect()
}

/// Admission opens another port in each NetworkPolicy of the namespace, at these operations. Returns when it is in force.
async fn open_another_port(stage: &Stage, operations: &[&str]) -> anyhow::Result<()> {
    let rules = json!([{
        "apiGroups": ["networking.k8s.io"], "apiVersions": ["v1"], "operations": operations,
        "resources": ["networkpolicies"],
    }]);
    let is_closed = format!(
        "request.namespace == '{}' && !object.spec.ingress.exists(rule, rule.ports.exists(port, port.port == 443))",
        stage.namespace
    );
    let add = r#"[JSONPatch{op: "add", path: "/spec/ingress/-", value: {"ports": [{"port": 443}]}}]"#;
    let specs = [
        json!({
            "failurePolicy": "Fail",
            "reinvocationPolicy": "Never",
            "matchConstraints": {"resourceRules": rules},
            "matchConditions": [{"name": "closed", "expression": is_closed}],
            "mutations": [{"patchType": "JSONPatch", "jsonPatch": {"expression": add}}],
        }),
        json!({"policyName": stage.namespace}),
    ];
    install(stage, POLICIES.into_iter().zip(specs)).await?;
    let api = stage.api(NETWORK_POLICY);
    let tried = serde_json::from_value(policy("tried"))?;
    wait_for("the policy to be in force", TIMEOUT, async || {
        let tried = api.create(&PostParams { dry_run: true, ..PostParams::default() }, &tried).await?;
        Ok((ports(&serde_json::to_value(tried)?).len() == 2).then_some(()))
    })
    .await
}

/// The belief that is attacked: that a list which nobody else can own says what was applied.
async fn nobody_repeats_himself(operations: &[&str]) -> anyhow::Result<()> {
    on_stage(async |stage| {
        open_another_port(stage, operations).await?;
        stage.mount_puppet("puppet", &json!({"children": []}), &json!({})).await?;
        stage.subject("of-gate", &json!({})).await?;
        stage.script("of-gate", &json!({"children": [{"key": "gate", "object": policy("gate")}]})).await?;
        let first = stage.until_there(NETWORK_POLICY, "gate").await?;
        ensure!(ports(&first) == [80, 443], "{first:#}");
        for restarts in [false, true] {
            if restarts {
                stage.stop().await?;
                stage.start().await?;
            }
            // Each change is one call, and what came of it is told at most each 10 s: long enough for who goes round in circles.
            for number in 0..3 {
                let change = json!({"data": {"number": format!("{number} {restarts}")}});
                stage.merge(CONFIG_MAP, "of-gate", &change).await?;
                stage
                    .until(PLUGIN, "puppet", "called", |plugin| {
                        plugin["status"]["counts"]["calls"].as_u64() > Some(number)
                    })
                    .await?;
            }
            let plugin = stage.get(PLUGIN, "puppet").await?;
            ensure!(plugin["status"]["counts"]["calls"].as_u64() <= Some(10), "{plugin:#}");
            let last = stage.get(NETWORK_POLICY, "gate").await?;
            ensure!(last["metadata"]["generation"].as_u64() <= Some(2) && ports(&last)[0] == 80, "{last:#}");
        }
        forget(stage, POLICIES).await
    })
    .await
}

#[tokio::test]
async fn admission_may_add_to_a_list_when_a_child_is_made() -> anyhow::Result<()> {
    nobody_repeats_himself(&["CREATE"]).await
}

#[tokio::test]
async fn and_each_time_it_is_written() -> anyhow::Result<()> {
    nobody_repeats_himself(&["CREATE", "UPDATE"]).await
}
