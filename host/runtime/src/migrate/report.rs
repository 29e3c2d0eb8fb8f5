//! What a takeover from the Python operator would meet. Pure: from what was read to lines for people.

use std::fmt::{self, Display};

use dask_wasm_operator_core::{
    dask::KOPF_FINALIZER,
    dask::unknown_fields,
    names::{check_dns_label, check_label_value},
    object::{Object, Unreadable},
    schema::KnownFields,
    text::{STATUS_BYTES, line},
};
use serde_json::Value;

use super::objects::{items, name, text};

/// The name that the Python operator's chart gives to its application and its image.
const PYTHON_CHART: &str = "dask-kubernetes-operator";

/// How a definition of ours is installed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Definition {
    /// Not at all.
    Missing,
    /// As this release has it.
    Ours,
    /// Without a status subresource, as the Python operator's chart has it.
    Python,
    /// From another release: it drops these fields.
    Older(String),
}

/// One thing that a person should know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Finding {
    /// Kind and name of what it is about.
    pub(super) object: String,
    /// What there is, and what is done with it or what to do.
    pub(super) message: String,
    /// Whether something is to be done before the takeover.
    pub(super) needs_attention: bool,
}

impl Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mark = if self.needs_attention { "attention" } else { "fine" };
        let told = format!("{}: {}", self.object, self.message);
        write!(f, "{mark:<9}  {}", line(&told, STATUS_BYTES))
    }
}

fn fine(object: String, message: &str) -> Finding {
    Finding { object, message: message.to_owned(), needs_attention: false }
}

fn attention(object: String, message: String) -> Finding {
    Finding { object, message, needs_attention: true }
}

/// About one definition, by its name `daskclusters.kubernetes.dask.org`.
pub(super) fn definition(name: &str, definition: &Definition) -> Finding {
    let upgrade = "upgrade it: dask-wasm-operator migrate --from-python --apply";
    let object = format!("definition {name}");
    match definition {
        Definition::Ours => fine(object, "as this release needs it"),
        Definition::Missing => attention(object, format!("is not installed; {upgrade}")),
        Definition::Python => {
            attention(object, format!("is the Python operator's, which stores little of a status; {upgrade}"))
        }
        Definition::Older(fields) => attention(object, format!("drops fields of this release, {fields}; {upgrade}")),
    }
}

/// About an object of which not everything can be read, so that nothing is concluded from it.
pub(super) fn unreadable(object: &Object) -> Option<Finding> {
    let Unreadable { path, why } = &**object.unreadable.as_ref()?;
    let message = format!("can't be read and is left as it is: {path}: {why}; correct this field, or delete it");
    Some(attention(format!("{} {}", object.kind.kind, object.at()), message))
}

/// About an item of a list that does not say which object it is.
pub(super) fn garbled(kind: &str, plural: &str, why: &str) -> Finding {
    let message =
        format!("there is one that can't be read and is left as it is: {why}; find it by kubectl get {plural} -A");
    attention(kind.to_owned(), message)
}

/// About an object that the API server keeps from being marked as handled.
pub(super) fn refused(object: &Value, why: &str) -> Finding {
    attention(name(object), format!("can't be marked as handled: {why}"))
}

/// About an object of Dask, if there is anything to say. `known`: which fields the API server knows.
pub(super) fn dask_object(object: &Value, known: &KnownFields) -> Vec<Finding> {
    let title = || name(object);
    let mut findings = Vec::new();
    if items(object, "/metadata/finalizers").any(|finalizer| finalizer == KOPF_FINALIZER) {
        findings.push(fine(title(), "has kopf's finalizer, which the takeover removes"));
    }
    match text(object, "/kind") {
        "DaskCluster" => findings.extend(service_name(object, "its Service")),
        "DaskWorkerGroup" => {
            if let Err(problem) = check_label_value(text(object, "/metadata/name")) {
                let message = format!(
                    "its workers can't carry its name as a label: it {problem}; recreate it under another name"
                );
                findings.push(attention(title(), message));
            }
        }
        "DaskJob" => {
            findings.extend(service_name(object, "the Service of its cluster"));
            let status = text(object, "/status/jobStatus");
            if !["Successful", "Failed"].contains(&status) {
                let status = if status.is_empty() { "without a status" } else { status };
                findings.push(fine(title(), &format!("is not finished ({status}), and continues after the takeover")));
            }
        }
        _ => {}
    }
    if let Some(fields) = unknown_fields(text(object, "/kind"), object, known) {
        let message = format!(
            "has fields that the API server does not know; they are dropped, as by the Python operator: {fields}"
        );
        findings.push(fine(title(), &message));
    }
    findings
}

/// About a name from which that of a scheduler's Service is made.
fn service_name(object: &Value, what: &str) -> Option<Finding> {
    let service = format!("{}-scheduler", text(object, "/metadata/name"));
    let problem = check_dns_label(&service).err()?;
    let message = format!("{what} can't be named {service}, which {problem}; recreate it under another name");
    Some(attention(name(object), message))
}

/// Whether a Deployment runs the Python operator: by its chart's label or image, or by the command of a container.
pub(super) fn runs_python_operator(deployment: &Value) -> bool {
    let label = deployment["metadata"]["labels"]["app.kubernetes.io/name"] == PYTHON_CHART;
    let containers = || items(deployment, "/spec/template/spec/containers");
    let image = |container: &Value| {
        let path = text(container, "/image").split(['@', ':']).next().unwrap_or_default();
        path.rsplit('/').next() == Some(PYTHON_CHART)
    };
    let command = |container: &Value| {
        let words = || items(container, "/command").chain(items(container, "/args")).filter_map(Value::as_str);
        words().any(|word| word.contains("kopf")) && words().any(|word| word.contains("dask_kubernetes"))
    };
    let is_on = deployment.pointer("/spec/replicas").and_then(Value::as_u64) != Some(0);
    is_on && (label || containers().any(|container| image(container) || command(container)))
}

/// About a Deployment that runs the Python operator.
pub(super) fn python_operator(deployment: &Value) -> Finding {
    let (namespace, name) = (text(deployment, "/metadata/namespace"), text(deployment, "/metadata/name"));
    let stop = format!("kubectl scale deployment -n {namespace} {name} --replicas=0");
    attention(super::objects::name(deployment), format!("runs the Python operator; stop it: {stop}"))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn deployment(spec: Value) -> Value {
        json!({"metadata": {"name": "d", "namespace": "n"}, "spec": {"template": {"spec": {"containers": [spec]}}}})
    }

    #[test]
    fn the_python_operator_is_known_by_label_image_or_command() {
        let image = |image: &str| deployment(json!({"image": image}));
        assert!(runs_python_operator(&image("ghcr.io/dask/dask-kubernetes-operator:2026.3.0")));
        assert!(runs_python_operator(&image("mirror/dask-kubernetes-operator@sha256:00")));
        assert!(!runs_python_operator(&image("ghcr.io/dask/dask:latest")));
        let words = json!({"command": ["sh", "-c"], "args": ["kopf run -m dask_kubernetes.operator.controller"]});
        assert!(runs_python_operator(&deployment(words)));
        assert!(!runs_python_operator(&deployment(json!({"command": ["kopf", "run", "other.py"]}))));
        let mut labelled = image("x");
        labelled["metadata"]["labels"] = json!({"app.kubernetes.io/name": "dask-kubernetes-operator"});
        assert!(runs_python_operator(&labelled));
        labelled["spec"]["replicas"] = json!(0);
        assert!(!runs_python_operator(&labelled), "it is stopped");
    }

    #[test]
    fn jobs_that_run_go_on_and_names_that_are_too_long_need_attention() {
        let job =
            |status: Value| json!({"kind": "DaskJob", "metadata": {"name": "j", "namespace": "n"}, "status": status});
        let dask_object = |object: &Value| dask_object(object, &KnownFields::default());
        assert!(dask_object(&job(json!({"jobStatus": "Successful"}))).is_empty());
        let running = dask_object(&job(json!({"jobStatus": "Running"})));
        assert!(!running[0].needs_attention && running[0].message.contains("(Running)"), "{running:?}");
        let named = |kind: &str, name: &str| {
            let status = json!({"jobStatus": "Successful"});
            dask_object(&json!({"kind": kind, "metadata": {"name": name, "namespace": "n"}, "status": status}))
        };
        for (kind, longest) in [("DaskCluster", 53), ("DaskJob", 53), ("DaskWorkerGroup", 63)] {
            assert!(named(kind, &"x".repeat(longest)).is_empty(), "{kind}");
            assert!(named(kind, &"x".repeat(longest + 1))[0].needs_attention, "{kind}");
            assert_eq!(named(kind, "with.dot").is_empty(), kind == "DaskWorkerGroup", "{kind}");
        }
    }

    #[test]
    fn a_finalizer_is_no_work_for_anybody() {
        let held =
            json!({"kind": "DaskCluster", "metadata": {"name": "c", "namespace": "n", "finalizers": [KOPF_FINALIZER]}});
        let findings = dask_object(&held, &KnownFields::default());
        assert_eq!(
            findings[0].to_string(),
            "fine       DaskCluster n/c: has kopf's finalizer, which the takeover removes"
        );
    }

    #[test]
    fn fields_that_the_api_server_does_not_know_are_named() {
        let container = json!({"name": "a", "imagePullSecrets": [{"name": "pull"}]});
        let pod = json!({"containers": [container]});
        let cluster = json!({"scheduler": {"spec": pod, "service": {"port": 1}}, "worker": {"spec": pod}});
        let object =
            |kind: &str, spec: Value| json!({"kind": kind, "metadata": {"name": "x", "namespace": "n"}, "spec": spec});
        let known = dask_wasm_operator_api::known_fields();
        let of = |kind: &str, spec: Value| dask_object(&object(kind, spec), &known).remove(0);
        let finding = of("DaskCluster", cluster.clone());
        let unknown = [
            "spec.scheduler.spec.containers[0].imagePullSecrets",
            "spec.scheduler.service.port",
            "spec.worker.spec.containers[0].imagePullSecrets",
        ];
        assert!(finding.message.ends_with(&unknown.join(", ")) && !finding.needs_attention, "{finding}");
        let finding = of("DaskWorkerGroup", json!({"worker": {"spec": pod}}));
        assert!(finding.message.ends_with(": spec.worker.spec.containers[0].imagePullSecrets"), "{finding}");
        let mut job = object("DaskJob", json!({"job": {"spec": pod}, "cluster": {"spec": cluster}}));
        job["status"] = json!({"jobStatus": "Successful"});
        let finding = dask_object(&job, &known).remove(0);
        for path in unknown.map(|path| format!("spec.cluster.{path}")) {
            assert!(finding.message.contains(&path), "{finding}");
        }
        assert!(finding.message.contains(": spec.job.spec.containers[0].imagePullSecrets,"), "{finding}");
    }
}
