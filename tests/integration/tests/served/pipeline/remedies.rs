//! What is wrong is told once and where people look, and its remedy helps when it is carried out as it is written.

use anyhow::ensure;
use kube::api::{Api, DynamicObject, Patch, PatchParams};
use serde_json::{Value, json};

use crate::{
    manifests,
    objects::{CLUSTER, DEPLOYMENT, EVENT, GROUP, JOB, Kind, POD, condition},
    stage::{Stage, image, on_stage},
};

const NAMESPACE: Kind<'_> = Kind("v1", "Namespace");
const QUOTA: Kind<'_> = Kind("v1", "ResourceQuota");

/// Merges these fields into the pod specs of scheduler and workers, and into their first containers.
fn corrected(cluster: &Value, pod: &Value, container: &Value) -> Value {
    let mut spec = cluster["spec"].clone();
    for part in ["scheduler", "worker"] {
        let add = |target: &mut Value, fields: &Value| {
            let fields = fields.as_object().cloned().unwrap_or_default();
            target.as_object_mut().into_iter().for_each(|target| target.extend(fields.clone()));
        };
        add(&mut spec[part]["spec"], pod);
        add(&mut spec[part]["spec"]["containers"][0], container);
    }
    json!({"spec": spec})
}

/// A cluster of which no pod can be made, for what these words say; what it says of itself contradicts nothing of that.
async fn without_pods(stage: &Stage, cluster: &Value, words: &str) -> anyhow::Result<()> {
    stage.create(cluster).await?;
    let message = stage.until_condition(CLUSTER, "simple", ["Degraded", "True", "SchedulerFailed"]).await?;
    ensure!(message.contains(words), "no {words} in: {message}");
    let message = stage.until_condition(GROUP, "simple-default", ["Degraded", "True", "WorkersFailed"]).await?;
    ensure!(message.contains(words), "no {words} in: {message}");
    stage.until_condition(CLUSTER, "simple", ["Available", "False", "SchedulerFailed"]).await?;
    stage.until_event(CLUSTER, "simple", "SchedulerFailed").await?;
    stage.until_event(GROUP, "simple-default", "WorkersFailed").await?;
    Ok(())
}

/// The pods are there, and nothing is wrong any more.
async fn with_pods(stage: &Stage) -> anyhow::Result<Vec<Value>> {
    let pods = stage.until_count(POD, "dask.org/cluster-name=simple", 2).await?;
    stage.until_condition(GROUP, "simple-default", ["Degraded", "False", "AsWanted"]).await?;
    stage.until_condition(CLUSTER, "simple", ["Degraded", "False", "AsWanted"]).await?;
    Ok(pods)
}

#[tokio::test]
async fn pods_that_pod_security_forbids_are_made_when_the_spec_is_corrected() -> anyhow::Result<()> {
    on_stage(async |stage| {
        let enforced = json!({"metadata": {"labels": {"pod-security.kubernetes.io/enforce": "restricted"}}});
        let namespaces: Api<DynamicObject> = Api::all_with(stage.client.clone(), &NAMESPACE.resource());
        namespaces.patch(&stage.namespace, &PatchParams::default(), &Patch::Merge(&enforced)).await?;
        let cluster = manifests::cluster("simple", 1);
        without_pods(stage, &cluster, "set what it asks for in spec.").await?;

        let container = json!({"securityContext": {"allowPrivilegeEscalation": false, "capabilities": {"drop": ["ALL"]}}});
        let pod = json!({"securityContext": {"runAsNonRoot": true, "runAsUser": 1000, "seccompProfile": {"type": "RuntimeDefault"}}});
        stage.merge(CLUSTER, "simple", &corrected(&cluster, &pod, &container)).await?;
        for pod in with_pods(stage).await? {
            assert_eq!(pod["spec"]["securityContext"]["runAsUser"], 1000);
        }
        Ok(())
    })
    .await
}

#[tokio::test]
async fn a_missing_service_account_can_be_created() -> anyhow::Result<()> {
    on_stage(async |stage| {
        let mut cluster = manifests::cluster("simple", 1);
        cluster["spec"] = corrected(&cluster, &json!({"serviceAccountName": "robot"}), &json!({}))["spec"].take();
        without_pods(stage, &cluster, "create ServiceAccount robot, or correct serviceAccountName in spec.").await?;
        stage.create(&json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "robot"}})).await?;
        with_pods(stage).await?;
        Ok(())
    })
    .await
}

#[tokio::test]
async fn a_quota_that_demands_resources_is_told_once_and_met() -> anyhow::Result<()> {
    on_stage(async |stage| {
        let hard = json!({"requests.cpu": "10", "limits.memory": "40Gi", "pods": "10"});
        stage
            .create(&json!({"apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": "q"}, "spec": {"hard": hard}}))
            .await?;
        stage.until(QUOTA, "q", "in force", |quota| quota["status"]["hard"]["pods"] == "10").await?;
        let cluster = manifests::cluster("simple", 1);
        without_pods(stage, &cluster, "set it as resources of each container in spec.").await?;

        let resources = json!({"resources": {"requests": {"cpu": "1"}, "limits": {"cpu": "1", "memory": "1Gi"}}});
        stage.merge(CLUSTER, "simple", &corrected(&cluster, &json!({}), &resources)).await?;
        with_pods(stage).await?;
        let events = stage.list(EVENT, "").await?;
        let of = |reason: &str| events.iter().filter(|event| event["reason"] == reason).count();
        assert_eq!((of("SchedulerFailed"), of("WorkersFailed")), (1, 1));
        Ok(())
    })
    .await
}

#[tokio::test]
async fn a_wrong_image_of_pods_that_never_ran_is_corrected_in_place() -> anyhow::Result<()> {
    on_stage(async |stage| {
        let cluster = stage.running_cluster("simple", 1).await?;
        let waiting = json!({"waiting": {"reason": "ImagePullBackOff", "message": "Back-off pulling image"}});
        let container = json!({"name": "scheduler", "image": "dask", "imageID": "", "ready": false, "restartCount": 0, "state": waiting});
        stage.report_pod_of("simple-scheduler", &json!({"phase": "Pending", "containerStatuses": [container]})).await?;
        stage.until_condition(CLUSTER, "simple", ["Available", "False", "SchedulerImage"]).await?;
        let new = "ghcr.io/dask/dask:new";
        stage.merge(CLUSTER, "simple", &corrected(&cluster, &json!({}), &json!({"image": new}))).await?;
        stage.until(DEPLOYMENT, "simple-scheduler", "of the new image", |deployment| image(deployment) == new).await?;
        let cluster = stage.until_running("simple", 1).await?;
        assert_eq!(condition(&cluster, "Degraded")["status"], "False");
        Ok(())
    })
    .await
}

#[tokio::test]
async fn a_job_whose_service_leads_elsewhere_says_so() -> anyhow::Result<()> {
    on_stage(async |stage| {
        let mut job = manifests::job("simple");
        job["spec"]["cluster"]["spec"]["scheduler"]["service"]["selector"]["dask.org/cluster-name"] = json!("another");
        stage.create(&job).await?;
        let field = "correct spec.cluster.spec.scheduler.service.selector of DaskJob simple";
        let message = stage.until_condition(CLUSTER, "simple", ["Degraded", "True", "ServiceMisdirected"]).await?;
        ensure!(message.contains(field), "{message}");
        ensure!(stage.until_event(JOB, "simple", "ClusterDegraded").await?.contains(field));
        stage.until_event(CLUSTER, "simple", "ServiceMisdirected").await?;

        let selector = json!({"dask.org/cluster-name": "simple"});
        let service = json!({"spec": {"cluster": {"spec": {"scheduler": {"service": {"selector": selector}}}}}});
        stage.merge(JOB, "simple", &service).await?;
        stage.until_condition(CLUSTER, "simple", ["Degraded", "False", "AsWanted"]).await?;
        Ok(())
    })
    .await
}

#[tokio::test]
async fn a_job_that_is_suspended_from_the_start_says_so() -> anyhow::Result<()> {
    on_stage(async |stage| {
        let mut job = manifests::job("simple");
        job["spec"]["suspend"] = true.into();
        stage.create(&job).await?;
        let note = stage.until_event(JOB, "simple", "JobSuspended").await?;
        ensure!(note.contains("spec.suspend"), "{note}");
        Ok(())
    })
    .await
}
