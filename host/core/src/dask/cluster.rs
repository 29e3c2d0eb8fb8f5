//! DaskCluster → scheduler Deployment, scheduler Service, default worker group.

use std::sync::Arc;

use serde_json::{Value, json};

use super::{
    Environment, Lookup, Reconciler, decode_spec, deployment_kind, field_manager,
    metadata::{CLUSTER_NAME_LABEL, COMPONENT_LABEL, ChildMetadata},
    pods,
    update::rolling,
    worker_group_kind,
};
use crate::{
    fields,
    names::{DNS_LABEL_MAX, check_dns_label},
    object::{ManagedFields, Object},
    spec::{DaskClusterSpec, Metadata},
    wanted::{OnNewTemplate, Problem, Snapshot, Wanted, WantedChild},
};

/// Longest name of a cluster: its Service `<name>-scheduler` must be a DNS label.
pub(super) const NAME_MAX: usize = DNS_LABEL_MAX - "-scheduler".len();
const _: () = assert!(NAME_MAX == 53, "the length that clients of the Python operator know");

/// The value of `spec.worker.replicas` that was last copied to the default group. The group's own value counts until the
/// cluster's changes: scaling writes only the group.
const COPIED_REPLICAS: &str = "operator.dask.org/copied-replicas";

/// Where kopf 1.x notes what it has handled, as JSON, unless it is told otherwise, which the Python operator does not.
pub const KOPF_LAST_HANDLED: &str = "kopf.zalando.org/last-handled-configuration";

/// The default group's workers, for the status.
pub(super) const WORKERS: &str = "workers";

pub(super) fn scheduler_name(cluster: &str) -> String {
    format!("{cluster}-scheduler")
}

pub(super) fn default_group_name(cluster: &str) -> String {
    format!("{cluster}-default")
}

pub(super) fn lookups(subject: &Object, children: &[Arc<Object>]) -> Vec<(&'static str, Lookup)> {
    let group = default_group_name(&subject.metadata.name);
    let workers = children
        .iter()
        .filter(|child| child.kind.same_kind(&worker_group_kind()) && child.metadata.name == group)
        .map(|child| (WORKERS, Lookup::ControlledBy(deployment_kind(), child.metadata.uid.clone())));
    workers.chain([pods::lookup(&subject.at())]).collect()
}

pub(super) fn check_name(name: &str) -> Result<(), Problem> {
    let why = match check_dns_label(name) {
        Err(error) => error.to_string(),
        Ok(()) if name.len() > NAME_MAX => format!("has {} characters", name.len()),
        Ok(()) => return Ok(()),
    };
    Err(Problem::permanent(
        "InvalidName",
        format!(
            "DaskCluster {name}: metadata.name {why}; a cluster's name is a DNS label of at most {NAME_MAX} characters, because \
             its Service is named <name>-scheduler: make it anew under another name"
        ),
    ))
}

pub(super) fn reconcile(seen: &Snapshot, environment: &Environment) -> Wanted {
    match (Cluster { seen, environment }).children() {
        Ok(children) => Wanted { children: Some(children), ..Wanted::default() },
        Err(problem) => Wanted { findings: problem.into(), ..Wanted::default() },
    }
}

/// A cluster as it is seen.
#[derive(Clone, Copy)]
struct Cluster<'a> {
    seen: &'a Snapshot,
    environment: &'a Environment,
}

impl Cluster<'_> {
    fn children(self) -> Result<Vec<WantedChild>, Problem> {
        let subject = &self.seen.subject;
        check_name(&subject.metadata.name)?;
        let spec: DaskClusterSpec = decode_spec(subject)?;
        let updates = rolling(subject, spec.update_strategy.as_ref())?.is_some();
        Ok(vec![self.scheduler(&spec, updates), self.service(&spec), self.default_group(&spec)])
    }

    fn metadata(self, section: Option<&Metadata>, component: &str) -> ChildMetadata {
        let cluster = &self.seen.subject.metadata;
        let inherited = |entries| self.environment.inherited(entries);
        ChildMetadata::new(inherited(&cluster.labels), inherited(&cluster.annotations), section)
            .reserve([(CLUSTER_NAME_LABEL, &cluster.name), (COMPONENT_LABEL, component)])
    }

    fn scheduler(self, spec: &DaskClusterSpec, updates: bool) -> WantedChild {
        let metadata = self.metadata(spec.scheduler.metadata.as_ref(), "scheduler").without_istio();
        let object = json!({
            "apiVersion": "apps/v1",
            "kind": "Deployment",
            "metadata": metadata.named(&scheduler_name(&self.seen.subject.metadata.name)),
            "spec": {
                "replicas": 1,
                "selector": {"matchLabels": metadata.labels()},
                "template": {"metadata": metadata.of_template(), "spec": spec.scheduler.spec},
            },
        });
        let on_new_template = if updates { OnNewTemplate::Apply } else { OnNewTemplate::Leave };
        WantedChild { on_new_template, ..WantedChild::new("scheduler", object) }
    }

    fn service(self, spec: &DaskClusterSpec) -> WantedChild {
        let metadata = self.metadata(spec.scheduler.metadata.as_ref(), "scheduler");
        let object = json!({
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": metadata.named(&scheduler_name(&self.seen.subject.metadata.name)),
            "spec": spec.scheduler.service,
        });
        WantedChild::new("service", object)
    }

    fn default_group(self, spec: &DaskClusterSpec) -> WantedChild {
        let cluster = self.seen.subject.metadata.name.as_str();
        let name = default_group_name(cluster);
        let live = self.seen.child(&worker_group_kind(), &name);
        let metadata = self.metadata(spec.worker.metadata.as_ref(), "workergroup");

        // As it stands in the cluster, so that nothing newer than us is lost on the way.
        let mut raw: Value = self.seen.subject.field("spec").and_then(Result::ok).unwrap_or_default();
        let mut worker = raw["worker"].take();
        let replicas = replicas(&self.seen.subject, live.map(Arc::as_ref), spec.worker.replicas);
        if let Some(fields) = worker.as_object_mut() {
            match replicas {
                Some(replicas) => fields.insert("replicas".to_owned(), json!(replicas)),
                None => fields.remove("replicas"),
            };
        }

        let mut object = json!({
            "apiVersion": worker_group_kind().api_version(),
            "kind": worker_group_kind().kind,
            "metadata": metadata.named(&name),
            "spec": {"cluster": cluster, "worker": worker},
        });
        object["metadata"]["annotations"][COPIED_REPLICAS] = json!(spec.worker.replicas.to_string());
        // A cluster that says nothing of it leaves the group its own.
        if spec.update_strategy.is_some() {
            object["spec"]["updateStrategy"] = raw["updateStrategy"].take();
        }
        WantedChild { guarded: live.is_some() && replicas.is_some(), ..WantedChild::new("workergroup", object) }
    }
}

/// The number that the Python operator saw last: what was changed after that it has not copied.
fn copied_by_python(cluster: &Object) -> Option<String> {
    let handled: Value = serde_json::from_str(cluster.metadata.annotations.get(KOPF_LAST_HANDLED)?).ok()?;
    handled.pointer("/spec/worker/replicas").map(Value::to_string)
}

/// The value of `replicas` to apply to the default group; none: it is in other hands, say nothing of it.
///
/// Server-side apply removes a field that its manager stops to send. So while the field is ours, the live value is sent
/// back, guarded against a change in between; once somebody else scales the group, the field is theirs.
fn replicas(cluster: &Object, live: Option<&Object>, asked: u32) -> Option<u32> {
    let Some(live) = live else { return Some(asked) };
    let copied = live.metadata.annotations.get(COPIED_REPLICAS).cloned().or_else(|| copied_by_python(cluster));
    if copied.is_some_and(|copied| copied != asked.to_string()) {
        return Some(asked);
    }
    let held = live.applied_by(&field_manager(Reconciler::Cluster)).and_then(ManagedFields::decoded)?;
    if !fields::holds(&held, &["spec", "worker", "replicas"]) {
        return None;
    }
    let spec: Value = live.field("spec")?.ok()?;
    spec.pointer("/worker/replicas").and_then(Value::as_u64).and_then(|replicas| u32::try_from(replicas).ok())
}
