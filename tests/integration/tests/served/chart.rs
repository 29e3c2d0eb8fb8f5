//! The chart: linted, rendered in its main combinations, and accepted by a real API server.

use std::{fs, os::unix::fs::PermissionsExt, process::Command};

use anyhow::{Context, ensure};
use dask_wasm_operator_test_support::{
    Installation, Operator, PythonOperator, chart, control_plane::ensure_helm, render_chart, wait_for,
};
use hyper::StatusCode;
use kube::{
    api::{Api, DynamicObject, Patch, PatchParams},
    discovery::{Discovery, Scope},
};
use serde_json::{Value, json};

use crate::{
    endpoints::{free_port, get},
    manifests::odd_subject,
    objects::{CONFIG_MAP, Objects, TIMEOUT, text},
    plugins::mounting::{odd, plugin},
    process::{run, stderr},
    stage::{container, in_namespace},
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

/// The same, with an account.
fn with_account() -> Value {
    let mut plugins = plugins();
    plugins[0]["serviceAccountName"] = json!("istio-plugin");
    plugins
}

/// The main combinations, and whether the rights in them end at a namespace.
fn combinations() -> Vec<(&'static str, Value, bool)> {
    vec![
        ("default", json!({}), false),
        ("one namespace", json!({"rbac": {"cluster": false}}), true),
        ("other namespaces", json!({"rbac": {"cluster": false}, "namespaces": ["default", "kube-public"]}), true),
        ("patterns", json!({"namespaces": ["team-*, !team-test", "production"]}), false),
        ("schedulers with TLS", json!({"rbac": {"tlsSecretNames": ["simple-tls"]}}), false),
        ("batches of workers", json!({"workerAllocation": {"size": 10, "delay": 0.5}}), false),
        ("plugins", json!({"plugins": plugins()}), false),
        ("a plugin with an account", json!({"plugins": with_account()}), false),
        ("plugins in one namespace", json!({"plugins": plugins(), "rbac": {"cluster": false}}), true),
        ("no plugins", json!({"disablePlugins": true}), false),
        (
            "much",
            json!({
                "fullnameOverride": "dask", "logFormat": "json", "otlpEndpoint": "http://collector:4318", "pluginDir": "/plugins",
                "serviceAccount": {"annotations": {"a": "b"}, "name": "somebody"},
                "imagePullSecrets": [{"name": "secret"}], "priorityClassName": "high",
                "volumes": [{"name": "plugins", "emptyDir": {}}],
                "volumeMounts": [{"name": "plugins", "mountPath": "/plugins"}],
                "extraEnv": [{"name": "A", "value": "b"}], "nodeSelector": {"a": "b"},
                "tolerations": [{"operator": "Exists"}], "podAnnotations": {"a": "b"},
            }),
            false,
        ),
        ("flags of kopf", flags_of_kopf(), false),
    ]
}

/// Flags that the chart gives, too, but for the scope.
fn flags_of_kopf() -> Value {
    let liveness = "--liveness=http://0.0.0.0:8080/healthz";
    json!({"kopfArgs": ["--all-namespaces", "--verbose", "--verbose", "--log-format=json", liveness]})
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
        (json!({"otlpEndpoint": "https://collector:4318"}), "otlpEndpoint"),
        (json!({"plugins": [{"source": {}}]}), "name"),
        (json!({"namespace": "team-a"}), "namespace"),
        (json!({"namespaces": ["team-*"], "rbac": {"cluster": false}}), "set rbac.cluster=true"),
        (json!({"workerAllocation": {"batchSize": 10}}), "batchSize"),
    ] {
        let error = render_chart("dask-operator", &values).err().with_context(|| format!("{values} was rendered"))?;
        ensure!(format!("{error:#}").contains(says), "{values}: {error:#}");
    }
    Ok(())
}

/// What a chart renders that has this one among its own, under another name, as best practice of Helm has it.
fn rendered_by_a_parent(values: &Value) -> anyhow::Result<String> {
    let directory = tempfile::tempdir()?;
    let parent = directory.path().join("umbrella");
    fs::create_dir(&parent)?;
    let dependency = json!({
        "name": "dask-wasm-operator", "version": "0.1.0", "repository": format!("file://{}", chart().display()),
        "alias": "dask", "condition": "dask.enabled",
    });
    let about = json!({"apiVersion": "v2", "name": "umbrella", "version": "0.1.0", "dependencies": [dependency]});
    fs::write(parent.join("Chart.yaml"), about.to_string())?;
    fs::write(parent.join("values.yaml"), values.to_string())?;
    let helm = ensure_helm(&|line| eprintln!("{line}"))?;
    let mut printed = String::new();
    for arguments in [["dependency", "update"], ["template", "release"]] {
        let output = Command::new(&helm)
            .args(arguments)
            .arg(&parent)
            .envs(["HELM_CACHE_HOME", "HELM_CONFIG_HOME", "HELM_DATA_HOME"].map(|name| (name, directory.path())))
            .output()
            .context("running helm")?;
        ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        printed = String::from_utf8(output.stdout)?;
    }
    Ok(printed)
}

#[test]
fn it_can_be_an_optional_part_of_another_chart() -> anyhow::Result<()> {
    let mut values = json!({
        "global": {"imageRegistry": "registry.example.org"},
        "dask": {"enabled": true, "rbac": {"cluster": false}},
    });
    ensure!(rendered_by_a_parent(&values)?.contains("kind: Deployment"));
    values["dask"]["enabled"] = json!(false);
    ensure!(!rendered_by_a_parent(&values)?.contains("kind: Deployment"), "it is switched off");
    values["dask"] = json!({"enabled": true, "replicas": 2});
    let error = rendered_by_a_parent(&values).err().context("a value that nothing reads was accepted")?;
    ensure!(format!("{error:#}").contains("replicas"), "{error:#}");
    Ok(())
}

/// YAML reads as a number what people mean as a text.
#[test]
fn numbers_are_taken_as_the_texts_that_they_are_written_as() -> anyhow::Result<()> {
    for (tag, expected) in
        [(json!(1.36), "1.36"), (json!(20_261_122), "20261122"), (json!(0), "0"), (json!("1.10"), "1.10")]
    {
        let deployment = deployment("dask-operator", &json!({"image": {"tag": tag}}))?;
        assert_eq!(text(container(&deployment), "/image"), format!("dask-wasm-operator:{expected}"));
    }
    let values = json!({
        "nameOverride": 123_456_789, "fullnameOverride": 987_654_321,
        "serviceAccount": {"name": 11_223_344, "annotations": {"a": 55_667_788, "b": true}},
        "rbac": {"cluster": false, "tlsSecretNames": [20_261_122]}, "namespaces": [20_261_122], "kopfArgs": ["--verbose"],
        "podAnnotations": {"prometheus.io/port": 8080, "prometheus.io/scrape": true},
        "nodeSelector": {"pool": 12_345_678}, "priorityClassName": 12_345_678, "extraEnv": [{"name": "A", "value": 10_000_000}],
        "plugins": [{"name": 12_345_678, "source": {"path": "/plugins/a.wasm"}}],
    });
    let rendered = render_chart("2026", &values)?;
    let all = json!(rendered).to_string();
    ensure!(!all.contains("e+"), "no number is written as a power of ten: {all}");
    for object in &rendered {
        for field in ["/metadata/name", "/metadata/namespace"] {
            ensure!(object.pointer(field).is_some_and(Value::is_string), "{field} of {object}");
        }
        for map in ["labels", "annotations"] {
            let entries = object["metadata"][map].as_object().into_iter().flatten();
            ensure!(entries.into_iter().all(|(_, value)| value.is_string()), "{map} of {object}");
        }
    }
    let deployment = rendered.iter().find(|object| object["kind"] == "Deployment").context("there is no Deployment")?;
    assert_eq!(text(deployment, "/metadata/name"), "987654321");
    let template = &deployment["spec"]["template"];
    assert_eq!(
        template["metadata"]["annotations"],
        json!({"prometheus.io/port": "8080", "prometheus.io/scrape": "true"})
    );
    assert_eq!(template["spec"]["nodeSelector"], json!({"pool": "12345678"}));
    assert_eq!(text(template, "/spec/priorityClassName"), "12345678");
    assert_eq!(text(template, "/spec/serviceAccountName"), "11223344");
    assert_eq!(container(deployment)["env"], json!([{"name": "A", "value": "10000000"}]));
    ensure!(all.contains(r#""resourceNames":["20261122"]"#), "{all}");
    Ok(())
}

#[test]
fn the_values_of_the_python_operators_chart_are_taken() -> anyhow::Result<()> {
    let values = PythonOperator::install()?.values()?;
    ensure!(values["metrics"]["worker"]["podMonitor"].is_object(), "these are its values: {values}");
    let (arguments, _) = started_with(&values)?;
    assert_eq!(arguments.last().map(String::as_str), Some("--all-namespaces"));
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

#[test]
fn the_operator_may_impersonate_the_accounts_that_plugins_name_and_does_not_write_in_their_place() -> anyhow::Result<()>
{
    let rules = |plugins: Value| {
        let rendered = render_chart("dask-operator", &json!({"plugins": plugins}))?;
        let roles = rendered.iter().filter(|object| object["kind"].as_str().is_some_and(|kind| kind.ends_with("Role")));
        let rules = roles.flat_map(|role| role["rules"].as_array().cloned().unwrap_or_default());
        anyhow::Ok(rules.collect::<Vec<_>>())
    };
    let impersonates = |rule: &&Value| rule["verbs"].to_string().contains("impersonate");
    let accounts = json!([{"name": "a", "source": {"path": "/a"}, "serviceAccountName": "robot"},
        {"name": "b", "source": {"path": "/b"}, "serviceAccountName": "robot"}, {"name": "c", "source": {"path": "/c"}}]);
    let rule = json!({
        "apiGroups": [""], "resources": ["serviceaccounts"], "verbs": ["impersonate"], "resourceNames": ["robot"],
    });
    assert_eq!(rules(accounts)?.iter().filter(impersonates).collect::<Vec<_>>(), [&rule]);
    assert_eq!(rules(plugins())?.iter().find(impersonates), None);
    let granted = rules(with_account())?;
    let granted: Vec<_> = granted.iter().filter(|rule| rule["apiGroups"].to_string().contains("istio")).collect();
    let watch = json!(["get", "list", "watch"]);
    assert_eq!(
        granted,
        [&json!({"apiGroups": ["networking.istio.io"], "resources": ["virtualservices"], "verbs": watch})]
    );
    Ok(())
}

/// The operator's Deployment.
fn deployment(namespace: &str, values: &Value) -> anyhow::Result<Value> {
    let rendered = render_chart(namespace, values)?;
    let deployment = rendered.into_iter().find(|object| object["kind"] == "Deployment");
    deployment.context("there is no Deployment")
}

/// The arguments of the operator's container, and its variables with their values.
fn started_with(values: &Value) -> anyhow::Result<(Vec<String>, Vec<String>)> {
    let deployment = deployment("dask-operator", values)?;
    let variables = container(&deployment)["env"].as_array().into_iter().flatten();
    Ok((
        arguments(&deployment),
        variables.map(|variable| format!("{}={}", text(variable, "/name"), text(variable, "/value"))).collect(),
    ))
}

fn arguments(deployment: &Value) -> Vec<String> {
    let arguments = container(deployment)["args"].as_array().into_iter().flatten();
    arguments.filter_map(Value::as_str).map(str::to_owned).collect()
}

#[test]
fn the_program_takes_the_arguments() -> anyhow::Result<()> {
    let disabled = json!({"disablePlugins": true, "pluginDir": "/plugins"});
    for values in combinations().into_iter().map(|(_, values, _)| values).chain([disabled]) {
        let (mut arguments, _) = started_with(&values)?;
        arguments.push("--kubeconfig=/nonexistent".to_owned());
        let output = run(&arguments.iter().map(String::as_str).collect::<Vec<_>>())?;
        assert_eq!(output.status.code(), Some(78), "{values}: {}", stderr(&output));
    }
    Ok(())
}

#[test]
fn flags_of_kopf_come_last() -> anyhow::Result<()> {
    let (arguments, _) = started_with(&flags_of_kopf())?;
    let formats: Vec<_> = arguments.iter().filter(|argument| argument.starts_with("--log-format")).collect();
    assert_eq!(formats, ["--log-format=plain", "--log-format=json"]);
    Ok(())
}

#[test]
fn no_plugins_means_none_of_a_directory_either() -> anyhow::Result<()> {
    let (arguments, _) = started_with(&json!({"disablePlugins": true, "pluginDir": "/plugins"}))?;
    let about_plugins: Vec<_> = arguments.iter().filter(|argument| argument.contains("plugin")).collect();
    assert_eq!(about_plugins, ["--disable-plugins"]);
    Ok(())
}

/// Kubelet makes the directory of an `emptyDir` with these permissions.
const EMPTY_DIRECTORY: u32 = 0o777;

#[tokio::test]
async fn the_program_starts_and_compiles_plugins_in_the_volumes_of_the_pod() -> anyhow::Result<()> {
    in_namespace(async |objects, admin| {
        let directory = tempfile::tempdir()?;
        let (plugins, volume) = (directory.path().join("plugins"), directory.path().join("volume"));
        fs::create_dir(&plugins)?;
        fs::write(plugins.join("mirror.wasm"), odd()?)?;
        fs::write(plugins.join("mirror.yaml"), plugin("mirror", &json!({"config": {"do": "Mirror"}})).to_string())?;
        fs::create_dir(&volume)?;
        fs::set_permissions(&volume, fs::Permissions::from_mode(EMPTY_DIRECTORY))?;

        let values = json!({"rbac": {"cluster": false}, "pluginDir": plugins});
        let kubeconfig = Installation::apply(&admin, &objects.namespace, &values).await?.kubeconfig;
        let deployment = deployment(&objects.namespace, &values)?;
        let container = container(&deployment);
        let port = free_port()?;
        let here = |argument: &String| {
            let argument = argument.replace(text(container, "/volumeMounts/0/mountPath"), &volume.to_string_lossy());
            argument.replace("0.0.0.0:8080", &format!("127.0.0.1:{port}"))
        };
        let arguments: Vec<String> = arguments(&deployment).iter().map(here).collect();
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        let mut operator = Operator::start(&kubeconfig, &arguments)?;
        operator.ready().await?;
        for probe in ["livenessProbe", "readinessProbe"] {
            let path = text(container, &format!("/{probe}/httpGet/path"));
            assert_eq!(get(port, path).await?.0, StatusCode::OK, "{probe}");
        }
        objects.create(&odd_subject("first", &json!({"key": "value"}))).await?;
        objects.until_there(CONFIG_MAP, "first-key").await.with_context(|| operator.log())?;
        wait_for("a compiled plugin in the volume", TIMEOUT, async || {
            let mut compiled = fs::read_dir(volume.join("compiled"))?;
            Ok(compiled.any(|file| file.is_ok_and(|file| file.path().extension().is_some())).then_some(()))
        })
        .await?;
        operator.must_run()
    })
    .await
}

#[test]
fn the_scope_is_that_of_the_roles() -> anyhow::Result<()> {
    for (values, flags, namespaces) in [
        (json!({}), vec!["--all-namespaces"], vec![""]),
        (json!({"rbac": {"cluster": false}}), vec!["--namespace=dask-operator"], vec!["dask-operator"]),
        (
            json!({"rbac": {"cluster": false}, "namespaces": ["a", "b"]}),
            vec!["--namespace=a", "--namespace=b"],
            vec!["a", "b"],
        ),
        (json!({"namespaces": ["a-*, !a-b"]}), vec!["--namespace=a-*, !a-b"], vec![""]),
    ] {
        let (arguments, _) = started_with(&values)?;
        let is_scope = |argument: &&String| argument.contains("-namespaces") || argument.starts_with("--namespace");
        assert_eq!(arguments.iter().filter(is_scope).collect::<Vec<_>>(), flags, "{values}");
        let rendered = render_chart("dask-operator", &values)?;
        for kind in ["Role", "RoleBinding"] {
            let served = |object: &&Value| {
                text(object, "/kind").ends_with(kind) && !text(object, "/metadata/name").ends_with("-own-namespace")
            };
            let found: Vec<_> =
                rendered.iter().filter(served).map(|object| text(object, "/metadata/namespace")).collect();
            assert_eq!(found, namespaces, "{kind} with {values}");
        }
        let lists_namespaces = rendered.iter().any(|object| object["rules"].to_string().contains(r#"["namespaces"]"#));
        assert_eq!(lists_namespaces, flags[0].contains('*'), "{values}");
    }
    Ok(())
}

#[test]
fn secrets_are_read_by_name_or_not_at_all() -> anyhow::Result<()> {
    let rules = |values: &Value| -> anyhow::Result<Vec<Value>> {
        let rendered = render_chart("dask-operator", values)?;
        let rules = rendered.into_iter().flat_map(|object| object["rules"].as_array().cloned().unwrap_or_default());
        Ok(rules.filter(|rule| rule["resources"].to_string().contains("secrets")).collect())
    };
    assert_eq!(rules(&json!({}))?, Vec::<Value>::new());
    let named = rules(&json!({"rbac": {"tlsSecretNames": ["simple-tls"]}}))?;
    let rule = json!({"apiGroups": [""], "resources": ["secrets"], "resourceNames": ["simple-tls"], "verbs": ["get"]});
    assert_eq!(named, [rule]);
    Ok(())
}

#[test]
fn batches_of_workers_are_those_of_the_python_operators_chart() -> anyhow::Result<()> {
    let more = json!([{"name": "A", "value": "b"}]);
    let (_, variables) = started_with(&json!({"workerAllocation": {"size": 10, "delay": 0.5}, "extraEnv": more}))?;
    let prefix = "DASK_KUBERNETES__CONTROLLER__WORKER_ALLOCATION__";
    assert_eq!(variables, [format!("{prefix}BATCH_SIZE=10"), format!("{prefix}DELAY=0.5"), "A=b".to_owned()]);
    assert_eq!(started_with(&json!({}))?.1, Vec::<String>::new());
    Ok(())
}
