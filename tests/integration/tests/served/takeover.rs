//! Clusters of the Python operator, taken over while they run.

use std::{collections::BTreeSet, time::Duration};

use anyhow::{Context, ensure};
use dask_wasm_operator_api::crds;
use dask_wasm_operator_test_support::{
    Operator, PythonOperator, RunningPythonOperator, apply_crds,
    control_plane::{Binaries, ControlPlane},
    wait_for,
};
use serde_json::{Value, json};
use tokio::sync::{Mutex, MutexGuard};

use crate::{
    clusters::workers,
    manifests,
    migrate::migrate,
    objects::{AUTOSCALER, CLUSTER, DEPLOYMENT, GROUP, JOB, Kind, Objects, POD, REPLICA_SET, SERVICE, name, text, uid},
    settled::Listed,
};

/// The Python operator takes its time.
const PATIENCE: Duration = Duration::from_secs(120);

/// Everything of a Dask cluster that must stay the same while its operator changes.
const KINDS: [Kind<'_>; 8] = [CLUSTER, GROUP, JOB, AUTOSCALER, DEPLOYMENT, SERVICE, REPLICA_SET, POD];

const KOPF_FINALIZER: &str = "kopf.zalando.org/KopfFinalizerMarker";

/// A control plane of its own, with the Python operator's definitions and those of plugins.
struct Site {
    _turn: MutexGuard<'static, ()>,
    control_plane: ControlPlane,
    python: PythonOperator,
    objects: Objects,
}

impl Site {
    async fn new() -> anyhow::Result<Self> {
        // Two control planes and two Python operators at once would leave nothing for the other tests.
        static TURNS: Mutex<()> = Mutex::const_new(());
        let turn = TURNS.lock().await;
        let binaries = tokio::task::spawn_blocking(|| Binaries::ensure(&|line| eprintln!("{line}"))).await??;
        let python = tokio::task::spawn_blocking(PythonOperator::install).await??;
        let mut definitions = python.crds()?;
        definitions.extend(crds().into_iter().filter(|crd| crd.spec.group == "plugins.dask.org"));
        let control_plane = ControlPlane::start(&binaries, &definitions).await?;
        let client = control_plane.kubeconfig().client().await?;
        let objects = Objects { client, namespace: "default".to_owned() };
        Ok(Self { _turn: turn, control_plane, python, objects })
    }

    fn start_python(&self) -> anyhow::Result<RunningPythonOperator> {
        self.python.start(self.control_plane.kubeconfig())
    }

    async fn start_ours(&self, arguments: &[&str]) -> anyhow::Result<Operator> {
        let scope = ["--namespace", "default", "--operator-namespace", "default", "--standalone"];
        let mut operator = Operator::start(self.control_plane.kubeconfig(), &[&scope, arguments].concat())?;
        operator.ready().await?;
        Ok(operator)
    }

    /// What the Python operator makes of a cluster with three workers, of which the group was scaled to four, with an
    /// autoscaler.
    async fn made_by_python(&self) -> anyhow::Result<()> {
        let objects = &self.objects;
        let running = self.start_python()?;
        objects.create(&manifests::cluster("simple", 3)).await?;
        self.until_python("three workers", &running, async || {
            // Its phase may stay Pending for ever.
            Ok((objects.list(DEPLOYMENT, &workers("simple-default")).await?.len() == 3).then_some(()))
        })
        .await?;
        objects.create(&manifests::autoscaler("simple", 0, 9)).await?;
        objects.scale(GROUP, "simple-default", 4).await?;
        self.until_python("a fourth worker and the finalizers", &running, async || {
            let there = objects.list(DEPLOYMENT, &workers("simple-default")).await?.len() == 4;
            let held =
                is_held(&objects.get(CLUSTER, "simple").await?) && is_held(&objects.get(AUTOSCALER, "simple").await?);
            Ok((there && held).then_some(()))
        })
        .await
    }

    async fn until_python<T>(
        &self,
        what: &str,
        python: &RunningPythonOperator,
        condition: impl AsyncFnMut() -> anyhow::Result<Option<T>>,
    ) -> anyhow::Result<T> {
        let reached = wait_for(what, PATIENCE, condition).await;
        reached.with_context(|| format!("log of the Python operator:\n{}", python.log()))
    }

    /// Waits until the Python operator has made this many workers of the default group.
    async fn until_workers(&self, count: usize, python: &RunningPythonOperator) -> anyhow::Result<()> {
        self.until_python(&format!("{count} workers"), python, async || {
            let there = self.objects.list(DEPLOYMENT, &workers("simple-default")).await?;
            Ok((there.len() == count).then_some(()))
        })
        .await
    }

    /// Waits until the Python operator says this of a job.
    async fn until_job(&self, name: &str, status: &str, python: &RunningPythonOperator) -> anyhow::Result<Value> {
        self.until_python(&format!("job {name} {status}"), python, async || {
            let job = self.objects.get(JOB, name).await?;
            Ok((text(&job, "/status/jobStatus") == status).then_some(job))
        })
        .await
    }

    /// Kind, name and uid of everything, when it is settled.
    async fn identities(&self) -> anyhow::Result<Vec<(String, String, String)>> {
        let settled = self.objects.settled(&KINDS, |_| None).await?;
        let identity =
            |Listed { kind, object }: &Listed| ((*kind).to_owned(), name(object).to_owned(), uid(object).to_owned());
        Ok(settled.iter().map(identity).collect())
    }

    /// Waits until nothing is left of a job's cluster.
    async fn until_nothing_of(&self, cluster: &str) -> anyhow::Result<()> {
        let is_of_it = |Listed { object, .. }: &&Listed| {
            let labels = &object["metadata"]["labels"];
            labels["dask.org/cluster-name"] == cluster && labels["dask.org/component"] != "job-runner"
        };
        let left = |seen: &[Listed]| {
            let left = seen.iter().find(is_of_it)?;
            Some(format!("there still is {} {}", left.kind, name(&left.object)))
        };
        self.objects.settled(&KINDS, left).await.map(drop)
    }

    /// Runs `migrate`; answers whether it ended with 0, and all that it wrote.
    async fn migrate(&self, arguments: &[&str]) -> anyhow::Result<(bool, String)> {
        let (code, report) = migrate(&self.control_plane, arguments).await?;
        Ok((code == Some(0), report))
    }

    async fn until_free(&self, kind: Kind<'_>) -> anyhow::Result<Value> {
        self.objects.until(kind, "simple", "free of kopf's finalizer", |object| !is_held(object)).await
    }
}

fn is_held(object: &Value) -> bool {
    let finalizers = object["metadata"]["finalizers"].as_array();
    finalizers.into_iter().flatten().any(|finalizer| finalizer == KOPF_FINALIZER)
}

#[tokio::test]
async fn a_cluster_of_the_python_operator_goes_on_without_a_restart() -> anyhow::Result<()> {
    let site = Site::new().await?;
    let objects = &site.objects;
    site.made_by_python().await?;
    let before = site.identities().await?;

    // With the Python operator's definitions still installed.
    let mut operator = site.start_ours(&["--scale-down-deadline", "1"]).await?;
    site.until_free(CLUSTER).await?;
    site.until_free(AUTOSCALER).await?;
    objects
        .until(GROUP, "simple-default", "ours", |group| {
            group["metadata"]["annotations"]["operator.dask.org/worker-ordinals"].is_string()
        })
        .await?;
    objects.scale(GROUP, "simple-default", 5).await?;
    let five = objects.until_count(DEPLOYMENT, &workers("simple-default"), 5).await?;
    let after = site.identities().await?;
    for identity in &before {
        ensure!(after.contains(identity), "{identity:?} is not what it was; there is {after:#?}");
    }
    // The new worker with its ReplicaSet and pod.
    let new: Vec<_> = after.iter().filter(|identity| !before.contains(identity)).collect();
    let kinds: BTreeSet<_> = new.iter().map(|(kind, _, _)| kind.as_str()).collect();
    ensure!(new.len() == 3 && kinds == BTreeSet::from(["Deployment", "Pod", "ReplicaSet"]), "{new:#?}");
    objects.until(CLUSTER, "simple", "Running", |cluster| cluster["status"]["phase"] == "Running").await?;

    // Workers of both makes are removed, the never-started ones here, and what is left belongs to the group.
    objects.scale(GROUP, "simple-default", 1).await?;
    let left = objects.until_count(DEPLOYMENT, &workers("simple-default"), 1).await?;
    ensure!(five.iter().any(|worker| uid(worker) == uid(&left[0])), "{left:#?}");

    // The definitions are upgraded while it runs.
    apply_crds(&objects.client, &crds()).await?;
    operator.stop().await?;
    let _operator = site.start_ours(&[]).await?;
    objects.until(CLUSTER, "simple", "with a whole status", |cluster| cluster["status"]["replicas"] == 1).await?;
    objects.delete(CLUSTER, "simple").await?;
    for kind in [CLUSTER, AUTOSCALER] {
        objects.until_gone(kind, "simple").await?;
    }
    objects.until_gone(GROUP, "simple-default").await?;
    Ok(())
}

#[tokio::test]
async fn while_the_python_operator_is_at_work_nothing_is_changed() -> anyhow::Result<()> {
    let site = Site::new().await?;
    let objects = &site.objects;
    let python = site.start_python()?;
    objects.create(&manifests::cluster("simple", 2)).await?;
    site.until_python("two workers", &python, async || {
        let there = objects.list(DEPLOYMENT, &workers("simple-default")).await?.len() == 2;
        Ok((there && is_held(&objects.get(CLUSTER, "simple").await?)).then_some(()))
    })
    .await?;
    let operator = site.start_ours(&[]).await?;
    let note = objects.until_event(CLUSTER, "simple", "PythonOperatorActive").await;
    let note = note.with_context(|| format!("log of the operator:\n{}", operator.log()))?;
    ensure!(note.contains("uninstall"), "it names the remedy: {note}");
    let group = objects.get(GROUP, "simple-default").await?;
    let annotations = group["metadata"]["annotations"].to_string();
    ensure!(!annotations.contains("operator.dask.org"), "nothing was written to the group: {annotations}");

    // It goes on when the other is gone.
    drop(python);
    site.until_free(CLUSTER).await?;
    objects.merge(CLUSTER, "simple", &json!({"spec": {"worker": {"replicas": 3}}})).await?;
    let three = objects.until_count(DEPLOYMENT, &workers("simple-default"), 3).await;
    three.with_context(|| format!("log of the operator:\n{}", operator.log()))?;
    Ok(())
}

#[tokio::test]
async fn a_cluster_goes_to_this_operator_and_back_and_a_job_that_has_ended_stays_so() -> anyhow::Result<()> {
    let site = Site::new().await?;
    let objects = &site.objects;
    let crds_directory = site.python.crds_directory()?;
    let crds_directory = crds_directory.to_str().context("the path of the Python operator's chart")?;
    // Not where somebody who migrates would look by chance.
    let scope = ["--namespace", "default", "--operator-namespace", "kube-system"];

    let python = site.start_python()?;
    objects.create(&manifests::cluster("simple", 2)).await?;
    site.until_python("two workers", &python, async || {
        let there = objects.list(DEPLOYMENT, &workers("simple-default")).await?.len() == 2;
        Ok((there && is_held(&objects.get(CLUSTER, "simple").await?)).then_some(()))
    })
    .await?;
    drop(python);

    // There, as docs/migrate.md has it.
    let (passed, report) = site.migrate(&["--from-python", "--check"]).await?;
    ensure!(!passed && report.contains("daskclusters.kubernetes.dask.org: is the Python operator's"), "{report}");
    ensure!(report.contains("DaskCluster default/simple: has kopf's finalizer"), "{report}");
    let (passed, report) = site.migrate(&["--from-python", "--apply"]).await?;
    ensure!(passed, "{report}");
    let (passed, report) = site.migrate(&["--from-python", "--check"]).await?;
    ensure!(passed, "{report}");
    let mut operator = Operator::start(site.control_plane.kubeconfig(), &scope)?;
    operator.ready().await?;
    site.until_free(CLUSTER).await?;
    objects.until(CLUSTER, "simple", "with a whole status", |cluster| cluster["status"]["replicas"] == 2).await?;
    objects.scale(GROUP, "simple-default", 3).await?;
    objects.until_count(DEPLOYMENT, &workers("simple-default"), 3).await?;
    objects.create(&manifests::job("done")).await?;
    objects.until_there(POD, "done-runner").await?;
    objects.run_runner("done-runner", "Succeeded", Some(0)).await?;
    objects.until(JOB, "done", "successful", |job| job["status"]["jobStatus"] == "Successful").await?;
    objects.until_gone(CLUSTER, "done").await?;
    site.until_nothing_of("done").await?;

    // And back.
    let back = ["--to-python"];
    let (passed, report) = site.migrate(&back).await?;
    ensure!(!passed && report.contains("this operator runs") && report.contains("-n kube-system"), "{report}");
    operator.stop().await?;
    let before = site.identities().await?;
    for back in [&["--to-python", "--crds", crds_directory][..], &back] {
        let (passed, report) = site.migrate(back).await?;
        ensure!(passed && report.contains("kept       DaskJob default/done"), "{report}");
    }
    assert_eq!(text(&objects.get(CLUSTER, "simple").await?, "/status/phase"), "Running");
    let python = site.start_python()?;
    site.until_python("its finalizer", &python, async || {
        Ok(is_held(&objects.get(CLUSTER, "simple").await?).then_some(()))
    })
    .await?;
    objects.scale(GROUP, "simple-default", 4).await?;
    site.until_python("a fourth worker", &python, async || {
        Ok((objects.list(DEPLOYMENT, &workers("simple-default")).await?.len() == 4).then_some(()))
    })
    .await?;
    let after = site.identities().await?;
    for identity in &before {
        ensure!(after.contains(identity), "{identity:?} is not what it was; log:\n{}", python.log());
    }
    let log = python.log();
    ensure!(!log.contains("DaskJob has been created"), "the job was taken for a new one:\n{log}");
    ensure!(!log.contains("DaskCluster simple created"), "the cluster was taken for a new one:\n{log}");
    ensure!(objects.find(CLUSTER, "done").await?.is_none(), "the job that has ended was run again");
    assert_eq!(text(&objects.get(JOB, "done").await?, "/status/jobStatus"), "Successful");

    // Jobs run to their end there.
    objects.create(&manifests::job("next")).await?;
    // All of its cluster, too: what is still being made while the cluster is deleted, the Python operator may leave behind.
    site.until_python("the runner of a job, and its cluster", &python, async || {
        let workers = objects.list(POD, "dask.org/workergroup-name=next-default").await?;
        let runner = objects.find(POD, "next-runner").await?;
        Ok((runner.is_some() && workers.len() == 1).then_some(()))
    })
    .await?;
    for (phase, code, status) in [("Running", None, "Running"), ("Succeeded", Some(0), "Successful")] {
        objects.run_runner("next-runner", phase, code).await?;
        site.until_job("next", status, &python).await?;
    }
    site.until_nothing_of("next").await?;

    // There once more: what has changed in between counts, and not what was recorded before.
    objects.merge(CLUSTER, "simple", &json!({"spec": {"worker": {"replicas": 5}}})).await?;
    site.until_workers(5, &python).await?;
    objects.scale(GROUP, "simple-default", 6).await?;
    site.until_workers(6, &python).await?;
    drop(python);
    let before = site.identities().await?;
    let (passed, report) = site.migrate(&["--from-python", "--apply"]).await?;
    ensure!(passed, "{report}");
    let mut operator = Operator::start(site.control_plane.kubeconfig(), &scope)?;
    operator.ready().await?;
    site.until_free(CLUSTER).await?;
    let group = objects
        .until(GROUP, "simple-default", "ours with six workers", |group| {
            group["metadata"]["annotations"]["operator.dask.org/copied-replicas"] == "5"
                && group["status"]["replicas"] == 6
        })
        .await?;
    assert_eq!(group["spec"]["worker"]["replicas"], 6);
    let after = site.identities().await?;
    for identity in &before {
        ensure!(after.contains(identity), "{identity:?} is not what it was; log:\n{}", operator.log());
    }
    Ok(())
}

/// A cluster as KubeCluster and users write it, with spellings that the API server writes in another way.
fn spelled_otherwise() -> Value {
    let mut cluster = manifests::cluster("simple", 2);
    cluster["metadata"]["labels"] = json!({"team": "a"});
    let scheduler = &mut cluster["spec"]["scheduler"];
    scheduler["service"]["selector"]["old"] = "key".into();
    let container = &mut scheduler["spec"]["containers"][0];
    container["env"] = json!([{"name": "A", "value": ""}, {"name": "B", "value": "b"}]);
    container["readinessProbe"] =
        json!({"httpGet": {"port": "http-dashboard", "path": "/health"}, "initialDelaySeconds": 0});
    let worker = &mut cluster["spec"]["worker"]["spec"];
    worker["nodeSelector"] = json!({"disk": "ssd"});
    worker["containers"][0]["stdin"] = false.into();
    worker["containers"][0]["resources"] =
        json!({"limits": {"cpu": "2000m", "memory": "1024Mi"}, "requests": {"cpu": "1000m"}});
    cluster
}

#[tokio::test]
async fn what_a_cluster_stops_asking_for_goes_from_what_the_python_operator_made() -> anyhow::Result<()> {
    let site = Site::new().await?;
    let objects = &site.objects;
    let python = site.start_python()?;
    objects.create(&spelled_otherwise()).await?;
    site.until_workers(2, &python).await?;
    site.until_python("its finalizer", &python, async || {
        Ok(is_held(&objects.get(CLUSTER, "simple").await?).then_some(()))
    })
    .await?;
    drop(python);
    // What has never run would get the changed templates at once.
    for deployment in objects.list(DEPLOYMENT, "").await? {
        objects.run_pod_of(name(&deployment)).await?;
    }
    let before = site.identities().await?;
    let (passed, report) = site.migrate(&["--from-python", "--apply"]).await?;
    ensure!(passed, "{report}");
    let operator = site.start_ours(&[]).await?;
    site.until_free(CLUSTER).await?;
    let stamped = |object: &Value| object["metadata"]["annotations"]["operator.dask.org/template-hash"].is_string();
    for deployment in objects.list(DEPLOYMENT, "").await? {
        let stamped = objects.until(DEPLOYMENT, name(&deployment), "of the present template", stamped).await;
        stamped.with_context(|| format!("log of the operator:\n{}", operator.log()))?;
    }

    let changed = json!({
        "metadata": {"labels": {"team": null}},
        "spec": {
            "scheduler": {"service": {"selector": {"old": null}, "ports": [{"name": "tcp-comm", "port": 9786, "targetPort": 8786}]}},
            "worker": {"spec": {"nodeSelector": null}},
        },
    });
    objects.merge(CLUSTER, "simple", &changed).await?;
    objects
        .until(SERVICE, "simple-scheduler", "with the new port and no other", |service| {
            let ports = service["spec"]["ports"].as_array().map(Vec::as_slice).unwrap_or_default();
            matches!(ports, [port] if port["port"] == 9786) && service["spec"]["selector"]["old"].is_null()
        })
        .await?;
    objects
        .until(GROUP, "simple-default", "without the selector of nodes", |group| {
            group["spec"]["worker"]["spec"]["nodeSelector"].is_null()
        })
        .await?;
    for deployment in objects.list(DEPLOYMENT, "").await? {
        let unlabelled = |object: &Value| object["metadata"]["labels"]["team"].is_null();
        objects.until(DEPLOYMENT, name(&deployment), "without the label", unlabelled).await?;
    }
    let after = site.identities().await?;
    for identity in &before {
        ensure!(after.contains(identity), "{identity:?} is not what it was; log:\n{}", operator.log());
    }

    // With an update, what was removed from templates goes, too.
    let scheduler = &spelled_otherwise()["spec"]["scheduler"]["spec"]["containers"][0];
    let mut container = scheduler.clone();
    container["env"] = json!([{"name": "A", "value": ""}]);
    let update = json!({"spec": {
        "updateStrategy": {"type": "RollingUpdate"}, "scheduler": {"spec": {"containers": [container]}},
    }});
    objects.merge(CLUSTER, "simple", &update).await?;
    objects
        .until(DEPLOYMENT, "simple-scheduler", "without the variable", |deployment| {
            let env = &deployment["spec"]["template"]["spec"]["containers"][0]["env"];
            env.as_array().is_some_and(|env| env.iter().all(|variable| variable["name"] != "B"))
        })
        .await?;
    Ok(())
}

#[tokio::test]
async fn a_job_goes_on_while_its_operator_changes() -> anyhow::Result<()> {
    let site = Site::new().await?;
    let objects = &site.objects;
    let python = site.start_python()?;
    objects.create(&manifests::job("simple")).await?;
    site.until_python("the runner", &python, async || objects.find(POD, "simple-runner").await).await?;
    objects.run_runner("simple-runner", "Running", None).await?;
    let running = site.until_job("simple", "Running", &python).await?;
    site.until_python("its finalizer", &python, async || {
        let cluster = objects.find(CLUSTER, "simple").await?;
        Ok(cluster.is_some_and(|cluster| is_held(&cluster)).then_some(()))
    })
    .await?;
    site.until_workers(1, &python).await?;
    drop(python);
    let before = site.identities().await?;
    let (passed, report) = site.migrate(&["--from-python", "--apply"]).await?;
    ensure!(passed, "{report}");
    let operator = site.start_ours(&[]).await?;
    site.until_free(CLUSTER).await?;
    objects
        .until(POD, "simple-runner", "ours", |pod| {
            pod["metadata"]["annotations"]["operator.dask.org/template-hash"].is_string()
        })
        .await
        .with_context(|| format!("log of the operator:\n{}", operator.log()))?;
    let after = site.identities().await?;
    for identity in &before {
        ensure!(after.contains(identity), "{identity:?} is not what it was; log:\n{}", operator.log());
    }
    assert_eq!(objects.get(JOB, "simple").await?["status"], running["status"]);
    objects.run_runner("simple-runner", "Succeeded", Some(0)).await?;
    objects.until(JOB, "simple", "successful", |job| job["status"]["jobStatus"] == "Successful").await?;
    objects.until_gone(CLUSTER, "simple").await
}
