//! The program itself: its commands, how it starts, what it says of itself, and how it ends.

use std::{
    os::unix::fs::PermissionsExt,
    process::{Command, Output, Stdio},
    time::Duration,
};

use anyhow::{Context, bail, ensure};
use dask_wasm_operator_api::crds;
use dask_wasm_operator_test_support::{
    Installation, Operator, apply_crds, chart,
    control_plane::{Binaries, ControlPlane},
    program, wait_for,
};
use hyper::StatusCode;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use serde_json::{Value, json};

use crate::{
    endpoints::{free_port, get, metric},
    manifests,
    objects::{CLUSTER, DEPLOYMENT, Kind, LEASE, SERVICE, TIMEOUT, text},
    stage::{in_namespace, on_stage, on_stage_with},
};

const ROLE: Kind<'_> = Kind("rbac.authorization.k8s.io/v1", "Role");
const LEASE_NAME: &str = "dask-wasm-operator";

/// Runs the program to its end, without a word of this machine's clusters.
pub(crate) fn run(arguments: &[&str]) -> anyhow::Result<Output> {
    let output = Command::new(program()?)
        .args(arguments)
        .env_remove("KUBECONFIG")
        .env("HOME", "/nonexistent")
        .stdin(Stdio::null())
        .output();
    output.context("running the operator")
}

pub(crate) fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn crds_are_those_of_the_chart() -> anyhow::Result<()> {
    let output = run(&["crds"])?;
    ensure!(output.status.success(), "{}", stderr(&output));
    let printed: Vec<Value> = documents(&String::from_utf8(output.stdout)?)?;
    assert_eq!(printed.len(), crds().len());
    let mut files = 0;
    for file in std::fs::read_dir(chart().join("crds"))? {
        let committed = documents(&std::fs::read_to_string(file?.path())?)?;
        for crd in &committed {
            ensure!(printed.contains(crd), "{} is not what `crds` prints", text(crd, "/metadata/name"));
        }
        files += committed.len();
    }
    assert_eq!(files, printed.len());
    Ok(())
}

fn documents(yaml: &str) -> anyhow::Result<Vec<Value>> {
    Ok(serde_saphyr::from_multiple(yaml)?)
}

#[test]
fn bad_arguments_are_named_with_what_to_write_instead() -> anyhow::Result<()> {
    for (arguments, says) in [
        (["run", "--no-such-flag"], "--no-such-flag"),
        (["run", "--namespace=team-*,b"], "give --namespace once more for it"),
        (["run", "--namespace=[a"], "is in no namespace's name"),
        (["run", "--namespace=UPPER"], "--namespace \"UPPER\""),
        (["run", "--liveness=nonsense"], "--liveness"),
        (["run", "--otlp-endpoint=https://collector:4318"], "such as http://collector.observability:4318"),
        (["run", "--module=my.handlers"], "make its handlers a plugin"),
        (["--namespace=a", "--namespace="], "--namespace \"\""),
        (["--all-namespaces", "--namespace=a"], "cannot be used with"),
    ] {
        let output = run(&arguments)?;
        assert_eq!(output.status.code(), Some(2), "{arguments:?}");
        ensure!(stderr(&output).contains(says), "{arguments:?}: {}", stderr(&output));
    }
    Ok(())
}

#[test]
fn without_a_cluster_it_says_so() -> anyhow::Result<()> {
    let output = run(&["run", "--kubeconfig=/nonexistent/kubeconfig"])?;
    assert_eq!(output.status.code(), Some(78), "{}", stderr(&output));
    ensure!(stderr(&output).contains("name a kubeconfig by --kubeconfig"), "{}", stderr(&output));
    Ok(())
}

#[tokio::test]
async fn missing_definitions_are_named() -> anyhow::Result<()> {
    let binaries = tokio::task::spawn_blocking(|| Binaries::ensure(&|line| eprintln!("{line}"))).await??;
    let mut some = crds();
    some.retain(|crd| !matches!(crd.spec.names.kind.as_str(), "DaskJob" | "DaskPluginRecord"));
    let control_plane = ControlPlane::start(&binaries, &some).await?;
    let mut operator = Operator::start(control_plane.kubeconfig(), &[])?;
    operator.until_logged(&["the cluster does not serve these CRDs", "daskjobs.kubernetes.dask.org"]).await?;
    let status = operator.ended(TIMEOUT).await?;
    assert_eq!(status.code(), Some(78));
    let log = operator.log();
    assert_eq!(log.matches("does not serve these CRDs").count(), 1, "{log}");
    let says = "the cluster has no daskjobs.kubernetes.dask.org, daskpluginrecords.plugins.dask.org; install the CRDs";
    ensure!(log.contains(says), "{log}");
    Ok(())
}

#[tokio::test]
async fn fault_09_definitions_that_are_applied_after_the_start_are_waited_for() -> anyhow::Result<()> {
    let binaries = tokio::task::spawn_blocking(|| Binaries::ensure(&|line| eprintln!("{line}"))).await??;
    let control_plane = ControlPlane::start(&binaries, &[]).await?;
    let port = free_port()?;
    let admin_address = format!("--admin-address=127.0.0.1:{port}");
    let mut operator = Operator::start(control_plane.kubeconfig(), &["--standalone", &admin_address])?;
    operator.until_logged(&["the cluster does not serve these CRDs", "daskclusters.kubernetes.dask.org"]).await?;
    // Whoever starts again what is not healthy lets it wait.
    assert_eq!(get(port, "/healthz").await?.0, StatusCode::OK);
    assert_eq!(get(port, "/readyz").await?.0, StatusCode::SERVICE_UNAVAILABLE);
    let client = control_plane.kubeconfig().client().await?;
    apply_crds(&client, &crds()).await?;
    operator.ready().await?;
    assert_eq!(get(port, "/readyz").await?.0, StatusCode::OK);
    let objects = crate::objects::Objects { client, namespace: "default".into() };
    objects.running_cluster("simple", 1).await?;
    operator.must_run()
}

#[tokio::test]
async fn fault_15_definitions_that_would_drop_the_idle_timeout_are_named() -> anyhow::Result<()> {
    let binaries = tokio::task::spawn_blocking(|| Binaries::ensure(&|line| eprintln!("{line}"))).await??;
    let mut older = serde_json::to_value(crds())?;
    let cluster = older.as_array_mut().into_iter().flatten().find(|crd| crd["spec"]["names"]["kind"] == "DaskCluster");
    let cluster = cluster.context("there is a definition of it")?;
    let version = &mut cluster["spec"]["versions"][0];
    let spec = version.pointer_mut("/schema/openAPIV3Schema/properties/spec/properties");
    spec.and_then(Value::as_object_mut).and_then(|fields| fields.remove("idleTimeout")).context("it has the field")?;
    let older: Vec<CustomResourceDefinition> = serde_json::from_value(older)?;
    let control_plane = ControlPlane::start(&binaries, &older).await?;
    let schemas = control_plane.kubeconfig().client().await?;
    wait_for("the schema to be published", TIMEOUT, async || {
        let request = http::Request::get("/openapi/v3/apis/kubernetes.dask.org/v1").body(Vec::new())?;
        Ok(schemas.request_text(request).await.ok().filter(|text| text.contains("DaskAutoscaler")))
    })
    .await?;
    let mut operator = Operator::start(control_plane.kubeconfig(), &["--standalone"])?;
    operator.ready().await?;
    let log = operator.log();
    let says = "the API server drops these fields of DaskCluster: spec.idleTimeout;";
    ensure!(log.contains(says), "{log}");
    assert_eq!(log.matches("older than this operator").count(), 1, "{log}");
    Ok(())
}

#[tokio::test]
async fn each_missing_right_is_named() -> anyhow::Result<()> {
    in_namespace(async |objects, admin| {
        let values = json!({"rbac": {"cluster": false}});
        let installation = Installation::apply(&admin, &objects.namespace, &values).await?;
        let roles = objects.list(ROLE, "").await?;
        let role = roles.iter().find(|role| role["rules"].to_string().contains("deployments"));
        let role = role.context("the chart renders a Role for Deployments")?;
        let mut rules = role["rules"].as_array().cloned().unwrap_or_default();
        rules.retain(|rule| rule["resources"] != json!(["deployments"]));
        objects.merge(ROLE, text(role, "/metadata/name"), &json!({"rules": rules})).await?;

        let scope = ["--namespace", &objects.namespace, "--operator-namespace", &objects.namespace, "--standalone"];
        // The API server's authorizer learns of the change by a watch of its own.
        let log = wait_for("the operator to lack rights", TIMEOUT, async || {
            let mut operator = Operator::start(&installation.kubeconfig, &scope)?;
            let ended = operator.ended(Duration::from_secs(5)).await;
            Ok(ended.is_ok_and(|status| status.code() == Some(77)).then(|| operator.log()))
        })
        .await?;
        let named: Vec<_> = log.lines().filter(|line| line.contains("deployments")).collect();
        for verb in ["get", "list", "watch", "create", "patch", "delete"] {
            let right = format!("{verb} deployments.apps");
            ensure!(named.iter().any(|line| line.contains(&right)), "{right} is not named in:\n{log}");
        }
        assert_eq!(named.len(), 6, "only what is missing is named:\n{log}");
        ensure!(log.contains("bind it to the roles that the chart renders"), "{log}");
        Ok(())
    })
    .await
}

#[tokio::test]
async fn it_says_how_it_is() -> anyhow::Result<()> {
    let port = free_port()?;
    on_stage_with(&json!({}), &[&format!("--admin-address=127.0.0.1:{port}")], async |stage| {
        assert_eq!(get(port, "/healthz").await?.0, StatusCode::OK);
        assert_eq!(get(port, "/readyz").await?.0, StatusCode::OK);
        assert_eq!(get(port, "/nothing").await?.0, StatusCode::NOT_FOUND);
        stage.running_cluster("simple", 2).await?;
        let (status, metrics) = get(port, "/metrics").await?;
        assert_eq!(status, StatusCode::OK);
        ensure!(metric(&metrics, "dask_operator_api_writes_total") >= 5.0, "{metrics}");
        let running = "dask_operator_objects{kind=\"DaskCluster\",phase=\"Running\"} 1";
        ensure!(metrics.lines().any(|line| line == running), "{metrics}");
        ensure!(metric(&metrics, "process_resident_memory_bytes") > 1e6, "{metrics}");
        let lines = stage.operator.log();
        let ready = lines.lines().filter(|line| line.ends_with(" ready") || *line == "ready").count();
        assert_eq!(ready, 1, "{lines}");
        Ok(())
    })
    .await
}

#[tokio::test]
async fn it_may_open_as_many_files_as_the_system_allows() -> anyhow::Result<()> {
    in_namespace(async |objects, admin| {
        let values = json!({"rbac": {"cluster": false}});
        let kubeconfig = Installation::apply(&admin, &objects.namespace, &values).await?.kubeconfig;
        let directory = tempfile::tempdir()?;
        let frugal = directory.path().join("frugal");
        std::fs::write(&frugal, format!("#!/bin/sh\nulimit -Sn 256\nexec '{}' \"$@\"\n", program()?.display()))?;
        std::fs::set_permissions(&frugal, std::fs::Permissions::from_mode(0o700))?;
        let scope = ["--namespace", &objects.namespace, "--operator-namespace", &objects.namespace, "--standalone"];
        let mut operator = Operator::start_program(&frugal, &kubeconfig, &scope)?;
        operator.ready().await?;
        let limits = std::fs::read_to_string(format!("/proc/{}/limits", operator.pid()))?;
        let files = limits.lines().find_map(|line| line.strip_prefix("Max open files")).context("it has no limit")?;
        let [soft, hard] = files.split_whitespace().take(2).collect::<Vec<_>>()[..] else { bail!("{files}") };
        assert_eq!(soft, hard);
        operator.must_run()
    })
    .await
}

#[tokio::test]
async fn sigterm_ends_it_in_the_midst_of_work() -> anyhow::Result<()> {
    on_stage(async |stage| {
        for index in 0..10 {
            stage.create(&manifests::cluster(&format!("cluster-{index}"), 5)).await?;
        }
        stage.until_there(DEPLOYMENT, "cluster-0-scheduler").await?;
        stage.stop().await?;
        let log = stage.operator.log();
        ensure!(log.lines().any(|line| line.contains("stopped")), "{log}");
        ensure!(!log.contains("not everything that was under way came to its end"), "{log}");
        // The next one goes on with what was left.
        stage.start().await?;
        for index in 0..10 {
            stage.until_running(&format!("cluster-{index}"), 5).await?;
        }
        Ok(())
    })
    .await
}

#[tokio::test]
async fn a_second_operator_waits_for_the_lease() -> anyhow::Result<()> {
    in_namespace(async |objects, admin| {
        let values = json!({"rbac": {"cluster": false}});
        let kubeconfig = Installation::apply(&admin, &objects.namespace, &values).await?.kubeconfig;
        let port = free_port()?;
        let scope = ["--namespace", &objects.namespace, "--operator-namespace", &objects.namespace];
        let mut first = Operator::start(&kubeconfig, &scope)?;
        first.ready().await?;
        objects.create(&manifests::cluster("first", 1)).await?;
        objects.until(CLUSTER, "first", "Running", |cluster| cluster["status"]["phase"] == "Running").await?;
        let holder = text(&objects.get(LEASE, LEASE_NAME).await?, "/spec/holderIdentity").to_owned();

        let admin_address = format!("--admin-address=127.0.0.1:{port}");
        let mut second = Operator::start(&kubeconfig, &[&scope[..], &[&admin_address]].concat())?;
        second.ready().await?;
        objects.create(&manifests::cluster("second", 1)).await?;
        objects.until(CLUSTER, "second", "Running", |cluster| cluster["status"]["phase"] == "Running").await?;
        let writes = metric(&get(port, "/metrics").await?.1, "dask_operator_api_writes_total");
        assert_eq!(writes, 0.0, "the second one wrote while the first had the Lease");
        assert_eq!(text(&objects.get(LEASE, LEASE_NAME).await?, "/spec/holderIdentity"), holder);

        ensure!(first.stop().await?.success(), "{}", first.log());
        objects.create(&manifests::cluster("third", 1)).await?;
        objects.until(CLUSTER, "third", "Running", |cluster| cluster["status"]["phase"] == "Running").await?;
        assert_ne!(text(&objects.get(LEASE, LEASE_NAME).await?, "/spec/holderIdentity"), holder);
        second.must_run()?;
        ensure!(second.stop().await?.success(), "{}", second.log());
        Ok(())
    })
    .await
}

#[tokio::test]
async fn it_starts_as_the_image_of_the_python_operator_does() -> anyhow::Result<()> {
    let binaries = tokio::task::spawn_blocking(|| Binaries::ensure(&|line| eprintln!("{line}"))).await??;
    let control_plane = ControlPlane::start(&binaries, &crds()).await?;
    let port = free_port()?;
    let directory = tempfile::tempdir()?;
    let kubeconfig = directory.path().join("kubeconfig");
    control_plane.kubeconfig().write(&kubeconfig)?;
    // Without the word `run`, and with the kubeconfig where kubectl looks for it.
    let mut operator = KillOnDrop(
        Command::new(program()?)
            .args([&format!("--liveness=http://127.0.0.1:{port}/healthz"), "--verbose", "--all-namespaces"])
            .env("KUBECONFIG", &kubeconfig)
            .env("XDG_CACHE_HOME", directory.path())
            .stdin(Stdio::null())
            .stderr(std::fs::File::create(directory.path().join("log"))?)
            .spawn()?,
    );
    let log = || std::fs::read_to_string(directory.path().join("log")).unwrap_or_default();
    let objects =
        crate::objects::Objects { client: control_plane.kubeconfig().client().await?, namespace: "default".into() };
    let served = async {
        wait_for("the health check", TIMEOUT, async || {
            Ok((get(port, "/healthz").await?.0 == StatusCode::OK).then_some(()))
        })
        .await?;
        objects.create(&manifests::cluster("simple", 1)).await?;
        objects.until(CLUSTER, "simple", "Running", |cluster| cluster["status"]["phase"] == "Running").await?;
        objects.get(SERVICE, "simple-scheduler").await
    };
    served.await.with_context(|| format!("log of the operator:\n{}", log()))?;
    ensure!(operator.0.try_wait()?.is_none(), "{}", log());
    Ok(())
}

/// A child that ends with its test.
struct KillOnDrop(std::process::Child);

impl Drop for KillOnDrop {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn it_knows_its_version() -> anyhow::Result<()> {
    let output = run(&["--version"])?;
    assert_eq!(String::from_utf8(output.stdout)?, "dask-wasm-operator 0.1.0\n");
    Ok(())
}
