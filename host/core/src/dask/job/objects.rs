//! The objects that a DaskJob asks for: its cluster and its runner.

use serde_json::{Value, json};

use super::{Environment, cluster_kind, runner_name};
use crate::{
    dask::{
        metadata::{CLUSTER_NAME_LABEL, COMPONENT_LABEL, ChildMetadata},
        workergroup::{add_environment, scheduler_address},
    },
    object::Object,
    spec::{DaskJobSpec, Metadata},
    wanted::WantedChild,
};

fn metadata(job: &Object, section: Option<&Metadata>, environment: &Environment) -> ChildMetadata {
    let job = &job.metadata;
    ChildMetadata::new(environment.inherited(&job.labels), environment.inherited(&job.annotations), section)
        .reserve([(CLUSTER_NAME_LABEL, &job.name)])
}

pub(super) fn cluster(job: &Object, spec: &DaskJobSpec, environment: &Environment) -> WantedChild {
    let metadata = metadata(job, spec.cluster.metadata.as_ref(), environment);
    // As it stands in the job, so that nothing newer than us is lost on the way.
    let raw: Value = job.field("spec").and_then(Result::ok).unwrap_or_default();
    let object = json!({
        "apiVersion": cluster_kind().api_version(),
        "kind": cluster_kind().kind,
        "metadata": metadata.named(&job.metadata.name),
        "spec": raw.pointer("/cluster/spec"),
    });
    WantedChild::new("cluster", object)
}

pub(super) fn runner(job: &Object, spec: &DaskJobSpec, environment: &Environment) -> WantedChild {
    let name = job.metadata.name.as_str();
    let metadata = metadata(job, spec.job.metadata.as_ref(), environment)
        .reserve([(COMPONENT_LABEL, "job-runner")])
        .without_istio();
    let address = scheduler_address(name, job.metadata.namespace.as_deref(), environment);
    let mut pod = spec.job.spec.clone();
    for container in pod.get_mut("containers").and_then(Value::as_array_mut).into_iter().flatten() {
        add_environment(container, &[("DASK_SCHEDULER_ADDRESS", &address)]);
    }
    let object =
        json!({"apiVersion": "v1", "kind": "Pod", "metadata": metadata.named(&runner_name(name)), "spec": pod});
    WantedChild::new("runner", object)
}
