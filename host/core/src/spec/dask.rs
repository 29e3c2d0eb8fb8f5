//! Dask's kinds. Everything that the Python operator's custom resources hold is here under the same name.

use serde::{Deserialize, Serialize};
use serde_json::Value;

#[cfg(feature = "schema")]
use super::schema;
use super::{Condition, Metadata, UpdateStrategy};

/// What the definitions allow where the Python operator's set no bounds: objects that it took must stay valid. A number that
/// can't be used is a problem of the object, with a condition that names it.
#[cfg(feature = "schema")]
type AnyInteger = i64;

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
    #[cfg_attr(feature = "schema", schemars(with = "AnyInteger"))]
    pub idle_timeout: u64,
    /// Name of a Secret with `ca.crt`, `tls.crt` and `tls.key`, with which the operator talks to a scheduler that wants TLS.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tls_secret_name: Option<String>,
    /// How the scheduler and the default group's workers follow a changed template. Not set: `OnDelete`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub update_strategy: Option<UpdateStrategy>,
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
    #[cfg_attr(feature = "schema", schemars(with = "AnyInteger"))]
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
    /// Since when the scheduler has had nothing to do. Only for clusters with `idleTimeout`; absent while it is busy.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "schema", schemars(extend("format" = "date-time")))]
    pub idle_since: Option<String>,
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
#[serde(rename_all = "camelCase")]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct DaskWorkerGroupSpec {
    /// Name of the DaskCluster that the workers belong to.
    pub cluster: String,
    /// The workers.
    pub worker: WorkerSpec,
    /// How the workers follow a changed template. Not set: `OnDelete`. The default group's is that of its cluster.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub update_strategy: Option<UpdateStrategy>,
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
#[serde(rename_all = "camelCase")]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct DaskJobSpec {
    /// The pod that runs the job, made as the Pod `<job>-runner`.
    pub job: JobRunner,
    /// The cluster that the job works with, made as a DaskCluster of the job's name.
    pub cluster: JobCluster,
    /// While true, neither pod nor cluster exist; set back to false, the job begins anew. Has no effect on a job that ended.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub suspend: bool,
    /// Delete the job so many seconds after it ended. Not set: it stays.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ttl_seconds_after_finished: Option<u32>,
    /// The job fails when it takes longer than this, in seconds from when its runner was created first, or from the last time it was resumed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub active_deadline_seconds: Option<u32>,
    /// How often a pod that failed or was lost is replaced, after 10 s, 20 s, 40 s, … at most 6 minutes. If set, restarts of
    /// containers under `restartPolicy: OnFailure` count too. Not set: the job fails with its pod, and such restarts don't count.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub backoff_limit: Option<u32>,
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

/// Scales a group of workers to what the cluster's scheduler asks for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct DaskAutoscalerSpec {
    /// Name of the DaskCluster to scale.
    pub cluster: String,
    /// Never fewer workers than this.
    #[cfg_attr(feature = "schema", schemars(with = "AnyInteger"))]
    pub minimum: u32,
    /// Never more workers than this. Where `minimum` is greater, `maximum` counts.
    #[cfg_attr(feature = "schema", schemars(with = "AnyInteger"))]
    pub maximum: u32,
    /// Name of the DaskWorkerGroup to scale, in full or without `<cluster>-`. Not set: the cluster's default group. What the
    /// scheduler asks for is for the cluster as a whole: the workers of its other groups are subtracted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub worker_group: Option<String>,
    /// Ask the scheduler every so many seconds.
    #[serde(default = "five")]
    #[cfg_attr(feature = "schema", schemars(range(min = 1)))]
    pub interval_seconds: u32,
    /// After a change, more workers are asked for no sooner than after so many seconds.
    #[serde(default = "fifteen")]
    pub scale_up_cooldown_seconds: u32,
    /// After a change, workers are removed no sooner than after so many seconds.
    #[serde(default = "fifteen")]
    pub scale_down_cooldown_seconds: u32,
    /// Remove at most so many percent of the workers at a time, but always one.
    #[serde(default = "twenty_five")]
    pub max_scale_down_percent: u32,
    /// Scale up to the fewest workers that were asked for within so many seconds. 0: to what is asked for now.
    #[serde(default)]
    pub scale_up_stabilization_seconds: u32,
    /// Scale down to the most workers that were asked for within so many seconds. 0: to what is asked for now.
    #[serde(default)]
    pub scale_down_stabilization_seconds: u32,
}

fn five() -> u32 {
    5
}

fn fifteen() -> u32 {
    15
}

fn twenty_five() -> u32 {
    25
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
    /// As many workers as the scheduler asked for last, within `minimum` and `maximum`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub desired_replicas: Option<u32>,
    /// As many workers as the group is to have now.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub current_replicas: Option<u32>,
    /// When the autoscaler last changed the group.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "schema", schemars(extend("format" = "date-time")))]
    pub last_scale_time: Option<String>,
}
