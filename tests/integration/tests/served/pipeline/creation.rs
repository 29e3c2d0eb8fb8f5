//! A DaskCluster comes into being, is shown, and goes.

use anyhow::ensure;
use http::{Request, header::ACCEPT};
use serde_json::{Value, json};

use crate::{
    manifests,
    objects::{CLUSTER, DEPLOYMENT, GROUP, POD, SERVICE, condition, controller, name, text, uid},
    stage::{Stage, container, on_stage},
};

#[tokio::test]
async fn a_cluster_becomes_its_objects() -> anyhow::Result<()> {
    on_stage(async |stage| {
        let mut cluster = manifests::cluster("simple", 3);
        cluster["metadata"]["labels"] = json!({"team": "blue"});
        cluster["spec"]["worker"]["metadata"] = json!({"labels": {"pool": "spot"}, "annotations": {"note": "kept"}});
        stage.create(&cluster).await?;
        let cluster = stage.until_running("simple", 3).await?;

        let scheduler = stage.get(DEPLOYMENT, "simple-scheduler").await?;
        assert_eq!(controller(&scheduler), uid(&cluster));
        let labels = json!({
            "dask.org/cluster-name": "simple", "dask.org/component": "scheduler",
            "sidecar.istio.io/inject": "false", "team": "blue",
        });
        assert_eq!(scheduler["metadata"]["labels"], labels);
        assert_eq!(scheduler["spec"]["selector"]["matchLabels"], labels);
        assert_eq!(scheduler["spec"]["template"]["metadata"]["labels"], labels);
        assert_eq!(container(&scheduler)["ports"][1]["containerPort"], 8787);

        let service = stage.get(SERVICE, "simple-scheduler").await?;
        assert_eq!(controller(&service), uid(&cluster));
        assert_eq!(service["metadata"]["labels"]["dask.org/component"], "scheduler");
        assert_eq!(service["spec"]["selector"], cluster["spec"]["scheduler"]["service"]["selector"]);
        assert_eq!(service["spec"]["ports"][0]["port"], 8786);

        let group = stage.get(GROUP, "simple-default").await?;
        assert_eq!(controller(&group), uid(&cluster));
        assert_eq!(group["metadata"]["labels"]["dask.org/component"], "workergroup");
        assert_eq!(group["spec"]["cluster"], "simple");

        for worker in stage.until_workers("simple-default", 3).await? {
            a_worker_is_as_clients_know_it(stage, &group, &worker)?;
        }
        Ok(())
    })
    .await
}

fn a_worker_is_as_clients_know_it(stage: &Stage, group: &Value, worker: &Value) -> anyhow::Result<()> {
    assert_eq!(controller(worker), uid(group));
    ensure!(name(worker).starts_with("simple-default-worker-"), "{}", name(worker));
    assert_eq!(
        worker["metadata"]["labels"],
        json!({
            "dask.org/cluster-name": "simple", "dask.org/component": "worker",
            "dask.org/workergroup-name": "simple-default", "sidecar.istio.io/inject": "false",
            "team": "blue", "pool": "spot",
        })
    );
    assert_eq!(worker["metadata"]["annotations"]["note"], "kept");
    assert_eq!(worker["spec"]["replicas"], 1);
    let address = format!("tcp://simple-scheduler.{}.svc.cluster.local:8786", stage.namespace);
    assert_eq!(
        container(worker)["env"],
        json!([
            {"name": "DASK_WORKER_NAME", "value": name(worker)},
            {"name": "DASK_SCHEDULER_ADDRESS", "value": address},
        ])
    );
    Ok(())
}

#[tokio::test]
async fn the_status_follows_the_pods() -> anyhow::Result<()> {
    on_stage(async |stage| {
        let cluster = stage.running_cluster("simple", 2).await?;
        assert_eq!(condition(&cluster, "Available")["reason"], "SchedulerNotReady");
        assert_eq!(condition(&cluster, "Progressing")["reason"], "WorkersStarting");
        assert_eq!(condition(&cluster, "Degraded")["status"], "False");
        stage.until_condition(GROUP, "simple-default", ["Available", "False", "WorkersNotReady"]).await?;

        stage.run_pod_of("simple-scheduler").await?;
        for worker in stage.workers("simple-default").await? {
            stage.run_pod_of(name(&worker)).await?;
        }
        stage.until_condition(CLUSTER, "simple", ["Available", "True", "SchedulerAvailable"]).await?;
        stage.until_condition(CLUSTER, "simple", ["Progressing", "False", "Settled"]).await?;
        stage.until_condition(GROUP, "simple-default", ["Available", "True", "WorkersReady"]).await?;
        for kind_and_name in [(CLUSTER, "simple"), (GROUP, "simple-default")] {
            let object = stage.get(kind_and_name.0, kind_and_name.1).await?;
            assert_eq!((&object["status"]["replicas"], &object["status"]["readyReplicas"]), (&json!(2), &json!(2)));
            assert_eq!(condition(&object, "Available")["observedGeneration"], object["metadata"]["generation"]);
        }

        let cluster = table(stage, "daskclusters", "simple").await?;
        assert_eq!(cluster, json!({"Name": "simple", "Workers": 2, "Ready": 2, "Status": "Running"}));
        let group = table(stage, "daskworkergroups", "simple-default").await?;
        assert_eq!(group, json!({"Name": "simple-default", "Cluster": "simple", "Workers": 2, "Ready": 2}));
        Ok(())
    })
    .await
}

/// What `kubectl get` shows: the columns that are not only for `--output wide`, but for the age.
async fn table(stage: &Stage, plural: &str, name: &str) -> anyhow::Result<Value> {
    let path = format!("/apis/kubernetes.dask.org/v1/namespaces/{}/{plural}/{name}", stage.namespace);
    let request = Request::get(path).header(ACCEPT, "application/json;as=Table;v=v1;g=meta.k8s.io").body(Vec::new())?;
    let table: Value = stage.client.request(request).await?;
    let columns = table["columnDefinitions"].as_array().into_iter().flatten();
    let cells = table["rows"][0]["cells"].as_array().into_iter().flatten();
    let shown = columns.zip(cells).filter(|(column, _)| column["priority"] == 0 && column["name"] != "Age");
    Ok(shown.map(|(column, cell)| (text(column, "/name").to_owned(), cell.clone())).collect())
}

#[tokio::test]
async fn deleting_a_cluster_removes_everything() -> anyhow::Result<()> {
    on_stage(async |stage| {
        stage.running_cluster("simple", 2).await?;
        stage.running_cluster("other", 1).await?;
        stage.delete(CLUSTER, "simple").await?;
        for kind in [CLUSTER, GROUP, DEPLOYMENT, SERVICE, POD] {
            stage.until_count(kind, "dask.org/cluster-name=simple", 0).await?;
        }
        assert_eq!(stage.find(CLUSTER, "simple").await?, None);
        // The operator does not get in the way of the garbage collector, nor touch what is not concerned.
        assert_eq!(stage.workers("other-default").await?.len(), 1);
        Ok(())
    })
    .await
}

#[tokio::test]
async fn fields_newer_than_this_kubernetes_are_kept_and_named() -> anyhow::Result<()> {
    on_stage(async |stage| {
        let mut cluster = manifests::cluster("tomorrow", 1);
        cluster["spec"]["worker"]["spec"]["containers"][0]["fieldOfTomorrow"] = json!({"a": 1});
        stage.create(&cluster).await?;
        let group = stage.until_there(GROUP, "tomorrow-default").await?;
        assert_eq!(group["spec"]["worker"]["spec"]["containers"][0]["fieldOfTomorrow"], json!({"a": 1}));
        // It is kept for the API server that will know it.
        let message = stage.until_condition(GROUP, "tomorrow-default", ["Degraded", "True", "UnknownField"]).await?;
        ensure!(message.contains("fieldOfTomorrow"), "{message}");
        Ok(())
    })
    .await
}
