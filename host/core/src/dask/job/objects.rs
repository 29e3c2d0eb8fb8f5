//! The objects that a DaskJob asks for: its cluster and its runner.

use serde_json::{Value, json};

use super::runner_name;
use crate::{
    dask::{
        children::{metadata::ChildMetadata, pod_spec::with_variables, replicas::Copied},
        environment::Environment,
        kinds::cluster_kind,
        naming::{CLUSTER_NAME_LABEL, COMPONENT_LABEL},
        reconciler::Reconciler,
    },
    native::Native as _,
    object::Object,
    spec::{DaskJobSpec, Metadata},
    wanted::WantedChild,
};

fn metadata(job: &Object, section: Option<&Metadata>, environment: &Environment) -> ChildMetadata {
    let job = &job.metadata;
    ChildMetadata::new(environment.inherited(&job.labels), environment.inherited(&job.annotations), section)
        .reserve([(CLUSTER_NAME_LABEL, &job.name)])
}

/// `live`: the cluster as it is, if it is there.
pub(super) fn cluster(
    job: &Object,
    spec: &DaskJobSpec,
    live: Option<&Object>,
    environment: &Environment,
) -> WantedChild {
    let metadata = metadata(job, spec.cluster.metadata.as_ref(), environment);
    // As it stands in the job, so that nothing newer than us is lost on the way.
    let raw: Value = job.field("spec").and_then(Result::ok).unwrap_or_default();
    let object = json!({
        "apiVersion": cluster_kind().api_version(),
        "kind": cluster_kind().kind,
        "metadata": metadata.named(&job.metadata.name),
        "spec": raw.pointer("/cluster/spec"),
    });
    let asked = spec.cluster.spec.worker.replicas;
    let copied = Copied { source: job, path: "/spec/cluster/spec/worker/replicas", asked };
    copied.write(WantedChild::new("cluster", object), live, &Reconciler::Job.field_manager())
}

/// `pod`: its spec as it can be applied.
pub(super) fn runner(job: &Object, spec: &DaskJobSpec, pod: &Value, environment: &Environment) -> WantedChild {
    let name = job.metadata.name.as_str();
    let metadata = metadata(job, spec.job.metadata.as_ref(), environment)
        .reserve([(COMPONENT_LABEL, "job-runner")])
        .without_istio();
    let address = environment.scheduler_address(name, job.metadata.namespace.as_deref());
    let pod = with_variables(pod, &[("DASK_SCHEDULER_ADDRESS", &address)]);
    let object =
        json!({"apiVersion": "v1", "kind": "Pod", "metadata": metadata.named(&runner_name(name)), "spec": pod});
    WantedChild::new("runner", object)
}
