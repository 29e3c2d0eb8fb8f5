//! `migrate` where one tenant's object can't be read as a whole: it is named, and all others are migrated.

use std::{process::Stdio, time::Duration};

use anyhow::{Context, bail, ensure};
use dask_wasm_operator_api::crds;
use dask_wasm_operator_test_support::{
    control_plane::{Binaries, ControlPlane},
    program,
};
use http::Method;
use serde_json::{Value, json};
use tokio::{process::Command, time::sleep};

use crate::{
    manifests,
    objects::{CLUSTER, GROUP, JOB, Kind, Objects},
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

/// A new API server, and what is in its namespace `default`.
async fn site() -> anyhow::Result<(ControlPlane, Objects)> {
    let binaries = tokio::task::spawn_blocking(|| Binaries::ensure(&|line| eprintln!("{line}"))).await??;
    let control_plane = ControlPlane::start(&binaries, &crds()).await?;
    let client = control_plane.kubeconfig().client().await?;
    Ok((control_plane, Objects { client, namespace: "default".to_owned() }))
}

/// A DaskWorkerGroup that this operator has had.
fn group(name: &str) -> Value {
    json!({
        "apiVersion": "kubernetes.dask.org/v1", "kind": "DaskWorkerGroup",
        "metadata": {"name": name, "annotations": {"operator.dask.org/worker-ordinals": r#"{"next":1}"#}},
        "spec": {"cluster": "other", "worker": {"replicas": 1, "spec": {"containers": [{"name": "worker", "image": "i"}]}}},
    })
}

#[tokio::test]
async fn an_object_that_nests_too_deep_is_named_and_all_others_are_migrated() -> anyhow::Result<()> {
    let (control_plane, objects) = site().await?;
    objects.create(&group("good")).await?;
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

const LEASE: Kind<'_> = Kind("coordination.k8s.io/v1", "Lease");

/// An operator's name that clears a terminal and writes a line of its own.
const HOLDER: &str = "a\nstart the Python operator now\u{1b}[2J";

/// The beliefs that are attacked: that annotations can always be written, and that a Lease holds what an operator wrote.
#[tokio::test]
async fn what_the_server_refuses_to_mark_is_named_and_an_odd_lease_forges_nothing() -> anyhow::Result<()> {
    let (control_plane, objects) = site().await?;
    objects.create(&group("good")).await?;
    // Kubernetes allows 256 KiB of annotations.
    let mut full = group("full");
    full["metadata"]["annotations"]["notes"] = "a".repeat(262_000).into();
    let full = objects.create(&full).await?;
    let lease = json!({
        "apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": {"name": "dask-wasm-operator"},
        "spec": {"holderIdentity": HOLDER, "leaseDurationSeconds": 15, "renewTime": "2999-01-01T00:00:00.000000Z"},
    });
    objects.create(&lease).await?;

    // Somebody renews it.
    let renewals = async {
        for transitions in 0.. {
            objects.merge(LEASE, "dask-wasm-operator", &json!({"spec": {"leaseTransitions": transitions}})).await?;
            sleep(Duration::from_millis(200)).await;
        }
        anyhow::Ok(())
    };
    let (code, report) = tokio::select! {
        ended = migrate(&control_plane, &["--to-python"]) => ended?,
        error = renewals => bail!("the Lease can't be renewed: {error:?}"),
    };
    ensure!(
        code != Some(0) && report.contains("this operator runs: a\n    start the Python operator now\\u{1b}[2J renews"),
        "{code:?} {report}"
    );
    ensure!(!report.contains('\u{1b}') && !report.lines().any(|line| line.starts_with("start the Python")), "{report}");

    // Nobody renews it any more, whatever time it says.
    let (code, report) = migrate(&control_plane, &["--to-python"]).await?;
    ensure!(code == Some(1) && report.contains("kept       DaskWorkerGroup default/good\n"), "{code:?} {report}");
    let named = report
        .lines()
        .find(|line| line.starts_with("attention  DaskWorkerGroup default/full: can't be marked as handled: "));
    ensure!(named.is_some_and(|line| line.contains("annotations")), "{report}");
    ensure!(report.contains("run this again") && !report.contains("start the Python operator now"), "{report}");
    assert_eq!(objects.get(GROUP, "full").await?["metadata"]["resourceVersion"], full["metadata"]["resourceVersion"]);

    objects.merge(GROUP, "full", &json!({"metadata": {"annotations": {"notes": null}}})).await?;
    let (code, report) = migrate(&control_plane, &["--to-python"]).await?;
    ensure!(code == Some(0) && report.contains("kept       DaskWorkerGroup default/full\n"), "{code:?} {report}");
    Ok(())
}
