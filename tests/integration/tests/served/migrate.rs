//! `migrate` where one tenant's object can't be read as a whole: it is named, and all others are migrated.

use std::process::Stdio;

use anyhow::{Context, ensure};
use dask_wasm_operator_api::crds;
use dask_wasm_operator_test_support::{
    control_plane::{Binaries, ControlPlane},
    program,
};
use http::Method;
use serde_json::{Value, json};
use tokio::process::Command;

use crate::{
    manifests,
    objects::{CLUSTER, GROUP, JOB, Objects},
    unreadable::{nested, raw},
};

const NOTED: &str = "kopf.zalando.org/last-handled-configuration";

/// Runs `migrate`; answers its exit code, and all that it wrote.
pub(crate) async fn migrate(control_plane: &ControlPlane, arguments: &[&str]) -> anyhow::Result<(Option<i32>, String)> {
    let output = Command::new(program()?)
        .arg("migrate")
        .args(arguments)
        .arg("--kubeconfig")
        .arg(control_plane.kubeconfig_path())
        .stdin(Stdio::null())
        .output()
        .await
        .context("running migrate")?;
    let text = [output.stdout, output.stderr].concat();
    Ok((output.status.code(), String::from_utf8(text).context("reading what it wrote")?))
}

#[tokio::test]
async fn an_object_that_nests_too_deep_is_named_and_all_others_are_migrated() -> anyhow::Result<()> {
    let binaries = tokio::task::spawn_blocking(|| Binaries::ensure(&|line| eprintln!("{line}"))).await??;
    let control_plane = ControlPlane::start(&binaries, &crds()).await?;
    let client = control_plane.kubeconfig().client().await?;
    let objects = Objects { client, namespace: "default".to_owned() };
    let mut group = json!({
        "apiVersion": "kubernetes.dask.org/v1", "kind": "DaskWorkerGroup", "metadata": {"name": "good"},
        "spec": {"cluster": "other", "worker": {"replicas": 1, "spec": {"containers": [{"name": "worker", "image": "i"}]}}},
    });
    group["metadata"]["annotations"] = json!({"operator.dask.org/worker-ordinals": r#"{"next":1}"#});
    objects.create(&group).await?;
    objects.create(&manifests::cluster("fresh", 1)).await?;
    let (mut cluster, mut job) = (manifests::cluster("deep", 1), manifests::job("deep"));
    // More than anybody reads, and as many as others read.
    cluster["spec"]["worker"]["spec"]["deep"] = nested(500);
    job["spec"]["job"]["spec"]["deep"] = nested(115);
    raw(&objects, Method::POST, CLUSTER, "deep", &cluster).await?;
    raw(&objects, Method::POST, JOB, "deep", &job).await?;
    let told = |report: &str| {
        [
            "DaskCluster default/deep: can't be read and is left as it is: spec.worker.spec.deep.a",
            "DaskJob default/deep: can't be read and is left as it is: spec.job.spec.deep.a",
        ]
        .iter()
        .all(|named| {
            report.lines().any(|line| {
                line.starts_with("attention ")
                    && line.contains(named)
                    && line.ends_with("correct this field, or delete it")
            })
        })
    };

    let (code, report) = migrate(&control_plane, &["--from-python", "--check"]).await?;
    ensure!(code == Some(1) && told(&report) && report.contains("4 objects of Dask; 2 findings"), "{code:?} {report}");
    let (code, report) = migrate(&control_plane, &["--from-python", "--apply"]).await?;
    ensure!(code == Some(0), "{code:?} {report}");

    let (code, report) = migrate(&control_plane, &["--to-python"]).await?;
    ensure!(code == Some(1) && told(&report), "{code:?} {report}");
    ensure!(report.contains("kept       DaskWorkerGroup default/good\n"), "{report}");
    ensure!(report.contains("new        DaskCluster default/fresh: "), "{report}");
    ensure!(report.contains("run this again") && !report.contains("start the Python operator now"), "{report}");
    let group = objects.get(GROUP, "good").await?;
    ensure!(group["metadata"]["annotations"][NOTED].is_string(), "{group:#}");
    for kind in [CLUSTER, JOB] {
        let deep = raw(&objects, Method::GET, kind, "deep", &Value::Null).await?;
        ensure!(!deep.contains(NOTED), "it is left as it is: {deep}");
    }

    // With both out of the way it ends well.
    for kind in [CLUSTER, JOB] {
        raw(&objects, Method::DELETE, kind, "deep", &json!({})).await?;
    }
    let (code, report) = migrate(&control_plane, &["--to-python"]).await?;
    ensure!(code == Some(0) && report.ends_with("start the Python operator now\n"), "{code:?} {report}");
    Ok(())
}
