//! What Kubernetes takes when an object is created comes into being, also where server-side apply is stricter.

use anyhow::ensure;
use serde_json::{Value, json};

use crate::{
    manifests,
    objects::{CLUSTER, DEPLOYMENT, GROUP, JOB, POD, name, uid},
    stage::{Stage, container, on_stage},
};

/// A cluster without typos that people have published, and with them: what belongs to the pod inside of a container, a
/// singular, another word, another case. The paths are those of the scheduler's, and of the workers'.
fn typos(mut sound: Value) -> (Value, Value, [Vec<&'static str>; 2]) {
    let probe = json!({"httpGet": {"port": 8787, "path": "/health"}});
    sound["spec"]["scheduler"]["spec"]["containers"][0]["readinessProbe"] = probe;
    let worker = &mut sound["spec"]["worker"]["spec"];
    worker["containers"][0]["resources"] = json!({"requests": {"cpu": 1}});
    worker["containers"][0]["securityContext"] = json!({});
    // Not empty without the typo: what becomes of maps that are emptied is in emptied.rs.
    worker["securityContext"] = json!({"fsGroup": 1000});
    worker["volumes"] = json!([{"name": "tmp", "emptyDir": {}}]);

    let mut broken = sound.clone();
    let scheduler = &mut broken["spec"]["scheduler"];
    scheduler["spec"]["containers"][0]["imagePullSecrets"] = json!([]);
    scheduler["spec"]["containers"][0]["readinessProbe"]["initialDelay"] = json!(5);
    scheduler["service"]["port"] = json!(8786);
    let worker = &mut broken["spec"]["worker"]["spec"];
    worker["containers"][0]["resources"]["limit"] = json!({"memory": "8Gi"});
    worker["containers"][0]["securityContext"]["runAsUSer"] = json!(1000);
    worker["securityContext"]["fsgroup"] = json!(1000);
    worker["volumes"][0]["emptyDir"]["sizelimit"] = json!("1Gi");
    let of_scheduler = vec![
        "spec.scheduler.spec.containers[0].imagePullSecrets",
        "spec.scheduler.spec.containers[0].readinessProbe.initialDelay",
    ];
    let of_workers = vec![
        "spec.worker.spec.containers[0].resources.limit",
        "spec.worker.spec.containers[0].securityContext.runAsUSer",
        "spec.worker.spec.securityContext.fsgroup",
        "spec.worker.spec.volumes[0].emptyDir.sizelimit",
    ];
    (sound, broken, [of_scheduler, of_workers])
}

/// Whatever changes these restarts a pod.
async fn pods(stage: &Stage) -> anyhow::Result<Vec<(String, Value)>> {
    let deployments = stage.list(DEPLOYMENT, "dask.org/cluster-name=simple").await?;
    Ok(deployments.iter().map(|deployment| (uid(deployment).to_owned(), deployment["spec"].clone())).collect())
}

#[tokio::test]
async fn fields_that_kubernetes_does_not_know_are_left_out_and_named() -> anyhow::Result<()> {
    on_stage(async |stage| {
        let (sound, broken, [of_scheduler, of_workers]) = typos(manifests::cluster("simple", 2));
        stage.create(&broken).await?;
        stage.until_running("simple", 2).await?;
        let workers = stage.until_workers("simple-default", 2).await?;
        assert_eq!(container(&workers[0])["resources"], json!({"requests": {"cpu": "1"}}));
        for (kind, name, paths) in [(CLUSTER, "simple", of_scheduler), (GROUP, "simple-default", of_workers)] {
            let message = stage.until_condition(kind, name, ["Degraded", "True", "UnknownField"]).await?;
            for path in paths {
                ensure!(message.contains(path), "no {path} in {message}");
            }
            ensure!(message.contains("correct the name or the place"), "{message}");
            assert_eq!(stage.until_event(kind, name, "UnknownField").await?, message);
        }
        ensure!(stage.operator.log().contains("spec.scheduler.service.port"), "the Service's is told, too");
        stage.until_condition(GROUP, "simple-default", ["Progressing", "True", "WorkersStarting"]).await?;

        let before = pods(stage).await?;
        let mut correction =
            json!({"spec": {"scheduler": sound["spec"]["scheduler"], "worker": sound["spec"]["worker"]}});
        correction["spec"]["scheduler"]["service"]["port"] = Value::Null;
        correction["spec"]["worker"]["spec"]["securityContext"]["fsgroup"] = Value::Null;
        stage.merge(CLUSTER, "simple", &correction).await?;
        stage.until_condition(CLUSTER, "simple", ["Degraded", "False", "AsWanted"]).await?;
        stage.until_condition(GROUP, "simple-default", ["Degraded", "False", "AsWanted"]).await?;
        assert_eq!(pods(stage).await?, before, "nothing restarts when a typo is corrected");
        Ok(())
    })
    .await
}

#[tokio::test]
async fn so_are_those_of_a_job_and_its_cluster() -> anyhow::Result<()> {
    on_stage(async |stage| {
        let mut job = manifests::job("simple");
        job["spec"]["job"]["spec"]["containers"][0]["resources"] = json!({"limit": {"cpu": "1"}});
        job["spec"]["cluster"]["spec"]["worker"]["spec"]["restartpolicy"] = json!("Always");
        stage.create(&job).await?;
        let runner = stage.until_there(POD, "simple-runner").await?;
        assert_eq!(runner["spec"]["containers"][0]["resources"], json!({}));
        let told = stage.until_event(JOB, "simple", "UnknownField").await?;
        ensure!(told.contains("spec.job.spec.containers[0].resources.limit"), "{told}");
        stage.until_workers("simple-default", 1).await?;
        let told = stage.until_condition(GROUP, "simple-default", ["Degraded", "True", "UnknownField"]).await?;
        ensure!(told.contains("spec.worker.spec.restartpolicy"), "{told}");
        Ok(())
    })
    .await
}

#[tokio::test]
async fn what_stands_twice_in_a_list_means_what_it_means_to_the_kubelet() -> anyhow::Result<()> {
    on_stage(async |stage| {
        let mut cluster = manifests::cluster("simple", 1);
        let worker = &mut cluster["spec"]["worker"]["spec"];
        worker["containers"][0]["env"] = json!([
            {"name": "HOST", "value": "h"},
            {"name": "URL", "value": "http://$(HOST)/$(DASK_WORKER_NAME)"},
            {"name": "HOST", "value": "h2"},
            {"name": "IP", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}},
            {"name": "IP", "value": "tcp://$(IP):8786"},
        ]);
        worker["hostAliases"] = json!([
            {"ip": "10.0.0.5", "hostnames": ["nfs1"]},
            {"ip": "10.0.0.5", "hostnames": ["nfs2"]},
        ]);
        stage.create(&cluster).await?;
        stage.until_running("simple", 1).await?;
        let worker = stage.until_workers("simple-default", 1).await?.remove(0);
        let env = container(&worker)["env"].as_array().map(Vec::as_slice).unwrap_or_default();
        assert_eq!(env[0], json!({"name": "URL", "value": "http://h/$(DASK_WORKER_NAME)"}));
        assert_eq!(env[1], json!({"name": "HOST", "value": "h2"}));
        assert_eq!(env[2]["name"], "IP__1");
        assert_eq!(env[3], json!({"name": "IP", "value": "tcp://$(IP__1):8786"}));
        let aliases = &worker["spec"]["template"]["spec"]["hostAliases"];
        assert_eq!(aliases, &json!([{"ip": "10.0.0.5", "hostnames": ["nfs1", "nfs2"]}]));
        stage.until_condition(CLUSTER, "simple", ["Degraded", "False", "AsWanted"]).await?;
        Ok(())
    })
    .await
}

#[tokio::test]
async fn what_can_not_be_given_once_is_refused_with_the_remedy() -> anyhow::Result<()> {
    on_stage(async |stage| {
        let mut cluster = manifests::cluster("simple", 1);
        let optional = json!({"name": "none", "key": "k", "optional": true});
        cluster["spec"]["worker"]["spec"]["containers"][0]["env"] =
            json!([{"name": "A", "value": "default"}, {"name": "A", "valueFrom": {"configMapKeyRef": optional}}]);
        stage.create(&cluster).await?;
        let message = stage.until_condition(GROUP, "simple-default", ["Degraded", "True", "Refused"]).await?;
        for words in ["duplicate entries for key", "give it once, in spec.worker.spec of DaskCluster simple"] {
            ensure!(message.contains(words), "no {words} in {message}");
        }
        Ok(())
    })
    .await
}

#[tokio::test]
async fn a_group_may_have_a_dot_in_its_name() -> anyhow::Result<()> {
    on_stage(async |stage| {
        stage.running_cluster("simple", 1).await?;
        stage.create(&manifests::group("gpu-1.5", "simple", 2)).await?;
        let workers = stage.until_workers("gpu-1.5", 2).await?;
        for worker in &workers {
            ensure!(name(worker).starts_with("gpu-1.5-worker-"), "{}", name(worker));
        }
        stage.until_condition(GROUP, "gpu-1.5", ["Degraded", "False", "AsWanted"]).await?;
        Ok(())
    })
    .await
}
