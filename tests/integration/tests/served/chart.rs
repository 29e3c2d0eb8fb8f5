//! The chart: linted, rendered in its main combinations, and accepted by a real API server.

use std::process::Command;

use anyhow::{Context, ensure};
use dask_wasm_operator_test_support::{chart, control_plane::ensure_helm, render_chart};
use kube::{
    api::{Api, DynamicObject, Patch, PatchParams},
    discovery::{Discovery, Scope},
};
use serde_json::{Value, json};

use crate::{
    objects::{Objects, text},
    stage::in_namespace,
};

/// A plugin as the values of the documentation have it.
fn plugins() -> Value {
    json!([{
        "name": "istio",
        "source": {"configMap": {"name": "istio-plugin", "keys": ["istio.wasm.gz"]}, "sha256": "0".repeat(64)},
        "config": {"gateway": "dask/public"},
        "grants": {
            "create": [
                {"group": "networking.istio.io", "kind": "VirtualService"},
                {"group": "gateway.networking.k8s.io", "kind": "Gateway", "plural": "gateways"},
            ],
            "patch": [{"group": "kubernetes.dask.org", "kind": "DaskCluster", "fields": ["metadata.annotations"]}],
        },
    }])
}

/// The main combinations, and whether the rights in them end at a namespace.
fn combinations() -> Vec<(&'static str, Value, bool)> {
    vec![
        ("default", json!({}), false),
        ("one namespace", json!({"rbac": {"cluster": false}}), true),
        ("another namespace", json!({"rbac": {"cluster": false}, "namespace": "default"}), true),
        ("plugins", json!({"plugins": plugins()}), false),
        ("plugins in one namespace", json!({"plugins": plugins(), "rbac": {"cluster": false}}), true),
        ("no plugins", json!({"disablePlugins": true}), false),
        (
            "much",
            json!({
                "fullnameOverride": "dask", "logFormat": "json", "pluginDir": "/plugins",
                "serviceAccount": {"annotations": {"a": "b"}, "name": "somebody"},
                "imagePullSecrets": [{"name": "secret"}], "priorityClassName": "high",
                "volumes": [{"name": "plugins", "emptyDir": {}}],
                "volumeMounts": [{"name": "plugins", "mountPath": "/plugins"}],
                "extraEnv": [{"name": "A", "value": "b"}], "nodeSelector": {"a": "b"},
                "tolerations": [{"operator": "Exists"}], "podAnnotations": {"a": "b"},
            }),
            false,
        ),
        ("flags of kopf", json!({"kopfArgs": ["--all-namespaces", "--verbose"]}), false),
    ]
}

#[test]
fn helm_lints_it() -> anyhow::Result<()> {
    let helm = ensure_helm(&|line| eprintln!("{line}"))?;
    let output = Command::new(helm).args(["lint", "--strict"]).arg(chart()).output().context("running helm")?;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
    Ok(())
}

#[test]
fn values_that_nothing_reads_are_refused() -> anyhow::Result<()> {
    for (values, says) in [
        (json!({"plugin": []}), "plugin"),
        (json!({"logFormat": "xml"}), "logFormat"),
        (json!({"plugins": [{"source": {}}]}), "name"),
        (json!({"namespace": "team-a"}), "only with rbac.cluster=false"),
    ] {
        let error = render_chart("dask-operator", &values).err().with_context(|| format!("{values} was rendered"))?;
        ensure!(format!("{error:#}").contains(says), "{values}: {error:#}");
    }
    Ok(())
}

#[tokio::test]
async fn the_api_server_accepts_each_combination() -> anyhow::Result<()> {
    in_namespace(async |objects, _| {
        let discovery = Discovery::new(objects.client.clone()).run_aggregated().await?;
        for (combination, values, ends_at_namespace) in combinations() {
            let rendered = render_chart(&objects.namespace, &values)?;
            for object in &rendered {
                accepted(&objects, &discovery, object).await.with_context(|| {
                    format!("{combination}: {} {}", text(object, "/kind"), text(object, "/metadata/name"))
                })?;
            }
            let kinds: Vec<_> = rendered.iter().map(|object| text(object, "/kind")).collect();
            assert_eq!(kinds.iter().any(|kind| kind.starts_with("Cluster")), !ends_at_namespace, "{combination}");
            let mounted = values["plugins"].as_array().map_or(0, Vec::len);
            assert_eq!(kinds.iter().filter(|kind| **kind == "DaskPlugin").count(), mounted, "{combination}");
        }
        Ok(())
    })
    .await
}

/// Server-side dry run of a server-side apply.
async fn accepted(objects: &Objects, discovery: &Discovery, object: &Value) -> anyhow::Result<()> {
    let parsed: DynamicObject = serde_json::from_value(object.clone())?;
    let types = parsed.types.context("an object has no kind")?;
    let (resource, capabilities) = discovery
        .resolve_gvk(&kube::core::GroupVersionKind::try_from(&types)?)
        .context("the API server does not serve its kind")?;
    let api: Api<DynamicObject> = match (capabilities.scope, parsed.metadata.namespace) {
        (Scope::Cluster, _) => Api::all_with(objects.client.clone(), &resource),
        (Scope::Namespaced, namespace) => {
            let namespace = namespace.unwrap_or_else(|| objects.namespace.clone());
            Api::namespaced_with(objects.client.clone(), &namespace, &resource)
        }
    };
    let mut parameters = PatchParams::apply("helm").force().dry_run();
    parameters.field_validation = Some(kube::api::ValidationDirective::Strict);
    api.patch(text(object, "/metadata/name"), &parameters, &Patch::Apply(object)).await?;
    Ok(())
}

#[test]
fn rights_follow_the_grants() -> anyhow::Result<()> {
    let rendered = render_chart("dask-operator", &json!({"plugins": plugins()}))?;
    let role = rendered.iter().find(|object| object["kind"] == "ClusterRole").context("there is no ClusterRole")?;
    let rules = role["rules"].as_array().into_iter().flatten();
    let rules: Vec<_> = rules
        .filter(|rule| rule["apiGroups"].to_string().contains("istio") || rule["resources"] == json!(["gateways"]))
        .collect();
    let verbs = json!(["get", "list", "watch", "create", "patch", "delete"]);
    assert_eq!(
        rules,
        [
            &json!({"apiGroups": ["networking.istio.io"], "resources": ["virtualservices"], "verbs": verbs}),
            &json!({"apiGroups": ["gateway.networking.k8s.io"], "resources": ["gateways"], "verbs": verbs}),
        ]
    );
    Ok(())
}
