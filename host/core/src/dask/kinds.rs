//! Dask's kinds and those of what is made for them; how the spec of one is read.

use serde::de::DeserializeOwned;

use crate::{
    error::of_field,
    object::{GroupVersionKind, NamespacedName, Object, ObjectKey},
    quote::quote,
    spec::{DASK_AUTOSCALER, DASK_CLUSTER, DASK_GROUP, DASK_JOB, DASK_VERSION, DASK_WORKER_GROUP},
    wanted::Problem,
};

/// Kind of a Deployment.
pub fn deployment_kind() -> GroupVersionKind {
    GroupVersionKind::new("apps", "v1", "Deployment")
}

/// Kind of a Service.
pub fn service_kind() -> GroupVersionKind {
    GroupVersionKind::new("", "v1", "Service")
}

/// Kind of a Pod.
pub fn pod_kind() -> GroupVersionKind {
    GroupVersionKind::new("", "v1", "Pod")
}

/// Kind of a DaskCluster.
pub fn cluster_kind() -> GroupVersionKind {
    GroupVersionKind::new(DASK_GROUP, DASK_VERSION, DASK_CLUSTER.kind)
}

/// The DaskCluster of this name beside an object.
pub(super) fn cluster_key(beside: &Object, name: &str) -> ObjectKey {
    let at = NamespacedName { namespace: beside.metadata.namespace.clone(), name: name.to_owned() };
    ObjectKey { kind: cluster_kind(), at }
}

/// Kind of a DaskWorkerGroup.
pub fn worker_group_kind() -> GroupVersionKind {
    GroupVersionKind::new(DASK_GROUP, DASK_VERSION, DASK_WORKER_GROUP.kind)
}

/// Kind of a DaskJob.
pub fn job_kind() -> GroupVersionKind {
    GroupVersionKind::new(DASK_GROUP, DASK_VERSION, DASK_JOB.kind)
}

/// Kind of a DaskAutoscaler.
pub fn autoscaler_kind() -> GroupVersionKind {
    GroupVersionKind::new(DASK_GROUP, DASK_VERSION, DASK_AUTOSCALER.kind)
}

/// Decodes a subject's `spec`, naming the field that is wrong.
pub(super) fn decode_spec<T: DeserializeOwned>(subject: &Object) -> Result<T, Problem> {
    let invalid = |path: &str, why: String| {
        let at = if path == "." { "spec".to_owned() } else { format!("spec.{path}") };
        let message = format!("{} {}: {at}: {why}; correct this field", subject.kind.kind, subject.metadata.name);
        Problem::permanent("InvalidSpec", message)
    };
    let Some(raw) = subject.fields.get("spec") else { return Err(invalid(".", "is missing".to_owned())) };
    let mut decoder = serde_json::Deserializer::from_str(raw.get());
    serde_path_to_error::deserialize(&mut decoder)
        .map_err(|error| invalid(&error.path().to_string(), quote(&of_field(error.inner()))))
}
