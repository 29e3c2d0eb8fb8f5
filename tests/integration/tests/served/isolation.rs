//! Whatever one object or plugin is or does, it is told on that object; all others and the process go on.

use anyhow::{Context, ensure};
use dask_wasm_operator_api::crds;
use dask_wasm_operator_test_support::{
    Operator,
    control_plane::{Binaries, ControlPlane},
    with_namespace,
};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::{CustomResourceDefinition, JSONSchemaProps};
use odd_guest::Behaviour;
use serde_json::{Value, json};

use crate::{
    manifests,
    objects::{CLUSTER, DEPLOYMENT, GROUP, Objects, PLUGIN, condition, text},
    plugins::mounting::odd,
    stage::{Stage, on_stage},
};

/// Runs `body` with a plugin of this code and behaviour beside a healthy one, and looks whether everything else goes on.
async fn beside_healthy_ones(
    bytes: &[u8],
    behaviour: Behaviour,
    body: impl AsyncFnOnce(&Stage) -> anyhow::Result<String>,
    says: &str,
) -> anyhow::Result<()> {
    on_stage(async |stage| {
        let pid = stage.operator.pid();
        stage.mount_odd("mirror", "Mirror").await?;
        stage.mount("bad", bytes, &json!({"config": {"do": behaviour}})).await?;
        stage.the_mirror_works("first").await?;
        let message = body(stage).await?;
        ensure!(message.contains(says), "{message}");
        stage.the_mirror_works("second").await?;
        stage.running_cluster("simple", 1).await?;
        let mirror = stage.get(PLUGIN, "mirror").await?;
        assert_eq!((text(&mirror, "/status/state"), &mirror["status"]["counts"]["failures"]), ("Ready", &json!(0)));
        stage.operator.must_run()?;
        assert_eq!(stage.operator.pid(), pid);
        Ok(())
    })
    .await
}

/// A file that can't be a plugin.
async fn bad_file(bytes: &[u8], reason: &str, says: &str) -> anyhow::Result<()> {
    let told = async |stage: &Stage| {
        stage.until_state("bad", "Failed", reason).await?;
        stage.until_condition(PLUGIN, "bad", ["Ready", "False", reason]).await
    };
    beside_healthy_ones(bytes, Behaviour::Answer, told, says).await
}

/// A plugin that is well-formed and does this when it is called.
async fn bad_behaviour(behaviour: Behaviour, reason: &str, says: &str) -> anyhow::Result<()> {
    let told = async |stage: &Stage| stage.until_condition(PLUGIN, "bad", ["Degraded", "True", reason]).await;
    beside_healthy_ones(odd()?, behaviour, told, says).await
}

#[tokio::test]
async fn a_file_that_is_not_wasm() -> anyhow::Result<()> {
    bad_file(b"<html>404 not found</html>", "NotWasm", "it looks like HTML").await
}

#[tokio::test]
async fn a_module_that_is_no_component() -> anyhow::Result<()> {
    bad_file(b"\0asm\x01\0\0\0", "CoreModule", "component").await
}

#[tokio::test]
async fn a_component_of_the_wrong_world() -> anyhow::Result<()> {
    // The smallest component: it exports nothing.
    bad_file(b"\0asm\x0d\0\x01\0", "WrongWorld", "does not export dask:operator/handler").await
}

#[tokio::test]
async fn a_trap() -> anyhow::Result<()> {
    bad_behaviour(Behaviour::Unreachable, "Trap", "unreachable").await
}

#[tokio::test]
async fn a_panic() -> anyhow::Result<()> {
    bad_behaviour(Behaviour::Panic, "Trap", "boom while handling").await
}

#[tokio::test]
async fn an_endless_loop() -> anyhow::Result<()> {
    bad_behaviour(Behaviour::Loop, "DeadlineExceeded", "spec.limits.deadline").await
}

#[tokio::test]
async fn a_memory_hog() -> anyhow::Result<()> {
    bad_behaviour(Behaviour::Hog, "MemoryExceeded", "spec.limits.memory").await
}

#[tokio::test]
async fn a_hundred_megabytes_of_output() -> anyhow::Result<()> {
    bad_behaviour(Behaviour::Output, "OutputExceeded", "spec.limits.outcome").await
}

/// Our definitions, except that a DaskCluster may hold anything.
fn looser_definitions() -> Vec<CustomResourceDefinition> {
    let mut crds = crds();
    for crd in crds.iter_mut().filter(|crd| crd.spec.names.kind == "DaskCluster") {
        let anything = JSONSchemaProps {
            type_: Some("object".to_owned()),
            x_kubernetes_preserve_unknown_fields: Some(true),
            ..JSONSchemaProps::default()
        };
        for version in &mut crd.spec.versions {
            version.schema.get_or_insert_default().open_api_v3_schema = Some(anything.clone());
            // The API server itself would read the number of workers.
            if let Some(subresources) = &mut version.subresources {
                subresources.scale = None;
            }
        }
    }
    crds
}

/// DaskClusters that can't be decoded, and the field that is at fault.
fn undecodable() -> [(&'static str, Value, &'static str); 5] {
    let spec = |change: fn(&mut Value)| {
        let mut spec = manifests::cluster("any", 1)["spec"].take();
        change(&mut spec);
        spec
    };
    [
        ("no-spec", Value::Null, "spec"),
        ("text", json!("text"), "spec"),
        ("no-worker", spec(|spec| *spec = json!({"scheduler": spec["scheduler"]})), "worker"),
        ("replicas", spec(|spec| spec["worker"]["replicas"] = json!("three")), "spec.worker.replicas"),
        (
            "labels",
            spec(|spec| spec["worker"]["metadata"] = json!({"labels": {"a": 1}})),
            "spec.worker.metadata.labels",
        ),
    ]
}

#[tokio::test]
async fn clusters_that_cannot_be_decoded() -> anyhow::Result<()> {
    let binaries = tokio::task::spawn_blocking(|| Binaries::ensure(&|line| eprintln!("{line}"))).await??;
    let control_plane = ControlPlane::start(&binaries, &looser_definitions()).await?;
    let client = control_plane.kubeconfig().client().await?;
    with_namespace(&client, async |namespace| {
        let objects = Objects { client: client.clone(), namespace: namespace.to_owned() };
        let admin = control_plane.kubeconfig();
        let mut operator = Operator::start(admin, &["--all-namespaces", "--operator-namespace", namespace])?;
        let outcome = told_on_each(&objects, &mut operator).await;
        outcome.with_context(|| format!("log of the operator:\n{}", operator.log()))
    })
    .await
}

async fn told_on_each(objects: &Objects, operator: &mut Operator) -> anyhow::Result<()> {
    operator.ready().await?;
    for (name, spec, field) in undecodable() {
        let mut cluster = manifests::cluster(name, 1);
        if spec.is_null() {
            cluster.as_object_mut().map(|cluster| cluster.remove("spec"));
        } else {
            cluster["spec"] = spec;
        }
        objects.create(&cluster).await?;
        let message = objects.until_condition(CLUSTER, name, ["Degraded", "True", "InvalidSpec"]).await?;
        ensure!(message.contains(&format!("DaskCluster {name}: {field}")) || message.contains(field), "{message}");
        ensure!(message.contains("correct this field"), "{message}");
        objects.until_event(CLUSTER, name, "InvalidSpec").await?;
        assert_eq!(objects.get(CLUSTER, name).await?["status"]["phase"], "Error");
    }

    // One whose status is odd is served nevertheless.
    let mut odd = manifests::cluster("odd-status", 1);
    objects.create(&odd).await?;
    odd = objects.until(CLUSTER, "odd-status", "Running", |cluster| cluster["status"]["phase"] == "Running").await?;
    let status = json!({"status": {"phase": 7, "conditions": "none"}});
    objects.api(CLUSTER).patch_status("odd-status", &Default::default(), &kube::api::Patch::Merge(&status)).await?;
    let again =
        objects.until(CLUSTER, "odd-status", "Running again", |cluster| cluster["status"]["phase"] == "Running");
    let again = again.await?;
    assert_eq!(condition(&again, "Degraded")["status"], condition(&odd, "Degraded")["status"]);

    objects.create(&manifests::cluster("healthy", 2)).await?;
    objects.until(CLUSTER, "healthy", "Running", |cluster| cluster["status"]["phase"] == "Running").await?;
    objects.until_there(GROUP, "healthy-default").await?;
    objects.until_count(DEPLOYMENT, "dask.org/workergroup-name=healthy-default", 2).await?;
    operator.must_run()
}
