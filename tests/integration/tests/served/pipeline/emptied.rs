//! What a user takes out of a spec goes from the objects that it is copied into, also where an empty map is left.

use anyhow::{Context as _, ensure};
use kube::api::PostParams;
use serde_json::{Value, json};

use crate::{
    manifests,
    objects::{CLUSTER, GROUP, JOB, Kind, Objects, condition},
    stage::on_stage,
};

/// A worker section in which maps are full, at all the places that differ for server-side apply: maps that it merges field by
/// field, one below the other, and maps in lists that it takes as a whole.
fn full(mut spec: Value) -> Value {
    let worker = &mut spec["worker"];
    worker["metadata"] = json!({"labels": {"team": "a"}, "annotations": {"note": "b"}});
    let pod = &mut worker["spec"];
    pod["securityContext"] = json!({"runAsUser": 1000});
    pod["nodeSelector"] = json!({"disk": "ssd"});
    pod["affinity"] = json!({"nodeAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": []}});
    pod["tolerations"] = json!([{"key": "gpu", "operator": "Exists", "effect": "NoSchedule"}]);
    pod["volumes"] = json!([{"name": "tmp", "emptyDir": {"sizeLimit": "1Gi"}}]);
    let container = &mut pod["containers"][0];
    container["resources"] = json!({"limits": {"cpu": "1"}});
    container["securityContext"] = json!({"runAsUser": 1000});
    container["env"] = json!([{"name": "A", "value": "1"}, {"name": "B", "value": "2"}]);
    spec
}

/// The same with the maps emptied.
fn emptied(spec: &Value) -> Value {
    let mut spec = spec.clone();
    let worker = &mut spec["worker"];
    worker["metadata"] = json!({"labels": {}, "annotations": {}});
    let pod = &mut worker["spec"];
    pod["securityContext"] = json!({});
    pod["nodeSelector"] = json!({});
    pod["affinity"] = json!({"nodeAffinity": {}});
    pod["tolerations"] = json!([]);
    pod["volumes"][0]["emptyDir"] = json!({});
    let container = &mut pod["containers"][0];
    container["resources"] = json!({});
    container["securityContext"] = json!({});
    container["env"] = json!([{"name": "B", "value": "2"}]);
    spec
}

/// The same without them, but for what says something by being there.
fn without(spec: &Value) -> Value {
    let mut spec = emptied(spec);
    let worker = &mut spec["worker"];
    worker.as_object_mut().expect("a section").remove("metadata");
    let pod = worker["spec"].as_object_mut().expect("a pod spec");
    pod.retain(|field, _| ["containers", "volumes"].contains(&field.as_str()));
    let container = pod["containers"][0].as_object_mut().expect("a container");
    container.retain(|field, _| !["resources", "securityContext", "env"].contains(&field.as_str()));
    spec
}

/// As `kubectl replace`: what is not said is no longer there.
async fn replace(objects: &Objects, kind: Kind<'_>, name: &str, spec: &Value) -> anyhow::Result<()> {
    loop {
        let mut object = objects.get(kind, name).await?;
        object["spec"] = spec.clone();
        match objects.api(kind).replace(name, &PostParams::default(), &serde_json::from_value(object)?).await {
            Err(kube::Error::Api(status)) if status.code == 409 => {}
            replaced => return replaced.map(drop).context("replacing it"),
        }
    }
}

#[tokio::test]
async fn maps_that_a_cluster_empties_are_emptied_in_its_group() -> anyhow::Result<()> {
    on_stage(async |stage| {
        let mut cluster = manifests::cluster("simple", 1);
        let full = full(cluster["spec"].take());
        cluster["spec"] = full.clone();
        stage.create(&cluster).await?;
        stage.until_running("simple", 1).await?;
        let stages = [emptied(&full), full.clone(), without(&full), emptied(&full), without(&full), full.clone()];
        for spec in stages {
            replace(stage, CLUSTER, "simple", &spec).await?;
            let is_copied = |group: &Value| group["spec"]["worker"] == spec["worker"];
            stage.until(GROUP, "simple-default", "a copy of its cluster's worker section", is_copied).await?;
            stage.until_condition(CLUSTER, "simple", ["Degraded", "False", "AsWanted"]).await?;
        }
        Ok(())
    })
    .await
}

#[tokio::test]
async fn maps_that_a_job_empties_are_emptied_in_its_cluster_and_group() -> anyhow::Result<()> {
    on_stage(async |stage| {
        let mut job = manifests::job("simple");
        let full = full(job["spec"]["cluster"]["spec"].take());
        job["spec"]["cluster"]["spec"] = full.clone();
        stage.create(&job).await?;
        stage.until_there(CLUSTER, "simple").await?;
        stage.until_workers("simple-default", 1).await?;
        let mut spec = job["spec"].take();
        for cluster in [emptied(&full), full.clone(), without(&full)] {
            spec["cluster"]["spec"] = cluster.clone();
            replace(stage, JOB, "simple", &spec).await?;
            let is_copied = |copy: &Value| copy["spec"]["worker"] == cluster["worker"];
            stage.until(CLUSTER, "simple", "a copy of its job's cluster", is_copied).await?;
            stage.until(GROUP, "simple-default", "a copy of its cluster's worker section", is_copied).await?;
        }
        let job = stage.get(JOB, "simple").await?;
        ensure!(condition(&job, "Degraded")["status"] != "True", "{job:#}");
        Ok(())
    })
    .await
}
