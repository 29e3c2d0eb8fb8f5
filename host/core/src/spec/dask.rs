//! Dask's kinds. Everything that the Python operator's custom resources hold is here under the same name.

use serde::{Deserialize, Serialize};
use serde_json::Value;

#[cfg(feature = "schema")]
use super::schema;
use super::{Condition, Metadata};

/// A Dask cluster: one scheduler, its Service and a default group of workers.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct DaskClusterSpec {
    /// The scheduler.
    pub scheduler: SchedulerSpec,
    /// The default group of workers, made as the DaskWorkerGroup `<cluster>-default`.
    pub worker: WorkerSpec,
    /// Delete the cluster when its scheduler has been idle for so many seconds. 0: never.
    #[serde(default)]
    pub idle_timeout: u64,
}

/// A scheduler: a pod and the Service in front of it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct SchedulerSpec {
    /// Labels and annotations for the scheduler's Deployment and Service.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub metadata: Option<Metadata>,
    /// The pod spec of the scheduler.
    #[cfg_attr(feature = "schema", schemars(schema_with = "schema::pod_spec"))]
    pub spec: Value,
    /// The spec of the scheduler's Service.
    #[cfg_attr(feature = "schema", schemars(schema_with = "schema::service_spec"))]
    pub service: Value,
}

/// Workers that are all alike.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct WorkerSpec {
    /// How many workers.
    #[serde(default = "one")]
    pub replicas: u32,
    /// Labels and annotations for the workers' Deployments.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub metadata: Option<Metadata>,
    /// The pod spec of each worker.
    #[cfg_attr(feature = "schema", schemars(schema_with = "schema::pod_spec"))]
    pub spec: Value,
}

fn one() -> u32 {
    1
}

/// State of a DaskCluster.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct DaskClusterStatus {
    /// `Created`, `Pending` (the Service waits for its load balancer), `Running` (everything has been created; conditions tell
    /// whether it is ready) or `Error`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "schema", schemars(with = "String"))]
    pub phase: Option<ClusterPhase>,
    /// Available, Progressing, Degraded.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[cfg_attr(feature = "schema", schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["type"])))]
    pub conditions: Vec<Condition>,
    /// The generation of the object that this status was found for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// Workers that exist in the default group.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub replicas: Option<u32>,
    /// Workers of the default group that are ready.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ready_replicas: Option<u32>,
    /// Workers of the default group, and the scheduler, that run an older template than the one above.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub outdated_replicas: Option<u32>,
    /// Selects the pods of the default group's workers, in text form.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub label_selector: Option<String>,
}

/// How far a cluster is. Clients wait for `Running`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ClusterPhase {
    /// Accepted; its parts are being made.
    Created,
    /// Its Service waits for a load balancer.
    Pending,
    /// Its parts exist.
    Running,
    /// It can't be made; the conditions say why.
    Error,
    /// A phase that another operator has written.
    #[serde(other)]
    Unknown,
}

/// A group of workers of a Dask cluster.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct DaskWorkerGroupSpec {
    /// Name of the DaskCluster that the workers belong to.
    pub cluster: String,
    /// The workers.
    pub worker: WorkerSpec,
}

/// State of a DaskWorkerGroup.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct DaskWorkerGroupStatus {
    /// Available, Progressing, Degraded.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[cfg_attr(feature = "schema", schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["type"])))]
    pub conditions: Vec<Condition>,
    /// The generation of the object that this status was found for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// Workers that exist.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub replicas: Option<u32>,
    /// Workers that are ready.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ready_replicas: Option<u32>,
    /// Workers that run an older template than the one above.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub outdated_replicas: Option<u32>,
    /// Selects the workers' pods, in text form.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub label_selector: Option<String>,
}

/// A pod that runs once, and a cluster for the time of its run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct DaskJobSpec {
    /// The pod that runs the job, made as the Pod `<job>-runner`.
    pub job: JobRunner,
    /// The cluster that the job works with, made as a DaskCluster of the job's name.
    pub cluster: JobCluster,
}

/// The pod that runs a job.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct JobRunner {
    /// Labels and annotations for the pod.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub metadata: Option<Metadata>,
    /// The spec of the pod.
    #[serde(default)]
    #[cfg_attr(feature = "schema", schemars(schema_with = "schema::runner_pod_spec"))]
    pub spec: Value,
}

/// The cluster of a job.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[cfg_attr(feature = "schema", schemars(extend("x-kubernetes-preserve-unknown-fields" = true)))]
pub struct JobCluster {
    /// Labels and annotations for the cluster.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub metadata: Option<Metadata>,
    /// The cluster.
    pub spec: DaskClusterSpec,
}

/// State of a DaskJob: these five fields and no more, as clients compare it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct DaskJobStatus {
    /// Name of the job's DaskCluster.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cluster_name: Option<String>,
    /// Name of the pod that runs the job.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub job_runner_pod_name: Option<String>,
    /// `JobCreated`, `ClusterCreated`, `Running`, `Successful` or `Failed`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "schema", schemars(with = "String"))]
    pub job_status: Option<JobStatus>,
    /// When the pod began to run.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "schema", schemars(extend("format" = "date-time")))]
    pub start_time: Option<String>,
    /// When the pod ended.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "schema", schemars(extend("format" = "date-time")))]
    pub end_time: Option<String>,
}

/// How far a job is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum JobStatus {
    /// Accepted.
    JobCreated,
    /// Its cluster and its pod exist.
    ClusterCreated,
    /// Its pod runs.
    Running,
    /// Its pod succeeded.
    Successful,
    /// Its pod failed.
    Failed,
    /// A status that another operator has written.
    #[serde(other)]
    Unknown,
}

/// Scales the default group of a cluster to what its scheduler asks for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct DaskAutoscalerSpec {
    /// Name of the DaskCluster to scale.
    pub cluster: String,
    /// Never fewer workers than this.
    pub minimum: u32,
    /// Never more workers than this.
    pub maximum: u32,
}

/// State of a DaskAutoscaler.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct DaskAutoscalerStatus {
    /// Available, Progressing, Degraded.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[cfg_attr(feature = "schema", schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["type"])))]
    pub conditions: Vec<Condition>,
    /// The generation of the object that this status was found for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
}
