//! DaskCluster → scheduler Deployment, scheduler Service, default worker group.

pub(in crate::dask) mod idle;
mod service;

use std::{cell::LazyCell, sync::Arc};

use serde_json::{Value, json};

use self::service::misdirected;
use crate::{
    dask::{
        children::{
            metadata::ChildMetadata,
            pod_spec::{pod_spec, service_spec},
            replicas::Copied,
        },
        environment::Environment,
        kinds::{decode_spec, deployment_kind, worker_group_kind},
        naming::{CLUSTER_NAME_LABEL, COMPONENT_LABEL, WORKERS, check_name, default_group_name, scheduler_name},
        pods::{self, corrected},
        reconciler::Reconciler,
        workers::update::rolling,
    },
    native::Native as _,
    object::{NamespacedName, Object},
    ports::Observed,
    related::{Concern, Lookup, Related},
    spec::{DaskClusterSpec, Metadata},
    wanted::{Findings, OnNewTemplate, Problem, Snapshot, Wanted, WantedChild},
};

pub(in crate::dask) fn lookups(subject: &Object, observed: &dyn Observed) -> Vec<Lookup> {
    let at = subject.at();
    let group = NamespacedName { name: default_group_name(&at.name), ..at.clone() };
    let group = observed.get(&worker_group_kind(), &group);
    let workers = group.filter(|group| group.is_controlled_by(&subject.metadata.uid)).map(|group| {
        let related = Related::ControlledBy(deployment_kind(), group.metadata.uid.clone());
        Lookup::new(WORKERS, related).concerning(Concern::Status)
    });
    // It says what is wrong with its scheduler's pods.
    let pods = pods::lookup(&at).concerning(Concern::Status).labelled(COMPONENT_LABEL, "scheduler");
    workers.into_iter().chain([pods]).collect()
}

pub(in crate::dask) fn reconcile(seen: &Snapshot, environment: &Environment) -> Wanted {
    match (Cluster { seen, environment }).wanted() {
        Ok(wanted) => wanted,
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
    fn wanted(self) -> Result<Wanted, Problem> {
        let subject = &self.seen.subject;
        check_name(&subject.metadata.name)?;
        let spec: DaskClusterSpec = decode_spec(subject)?;
        let updates = rolling(subject, spec.update_strategy.as_ref())?.is_some();
        let (pod, unknown_of_pod) = pod_spec(self.seen, "spec.scheduler.spec", &spec.scheduler.spec);
        let (service, unknown_of_service) = service_spec(self.seen, "spec.scheduler.service", &spec.scheduler.service);
        let (scheduler, service) = (self.scheduler(&spec, &pod, updates), self.service(&spec, &service));
        let misdirected = misdirected(self.seen, &service.object["spec"], &scheduler.object);
        let problems = [misdirected, unknown_of_pod, unknown_of_service].into_iter().flatten().collect();
        Ok(Wanted {
            children: Some(vec![scheduler, service, self.default_group(&spec)]),
            findings: Findings { problems, ..Findings::default() },
            ..Wanted::default()
        })
    }

    fn metadata(self, section: Option<&Metadata>, component: &str) -> ChildMetadata {
        let cluster = &self.seen.subject.metadata;
        let inherited = |entries| self.environment.inherited(entries);
        ChildMetadata::new(inherited(&cluster.labels), inherited(&cluster.annotations), section)
            .reserve([(CLUSTER_NAME_LABEL, &cluster.name), (COMPONENT_LABEL, component)])
    }

    fn scheduler(self, spec: &DaskClusterSpec, pod: &Value, updates: bool) -> WantedChild {
        let metadata = self.metadata(spec.scheduler.metadata.as_ref(), "scheduler").without_istio();
        let object = json!({
            "apiVersion": "apps/v1",
            "kind": "Deployment",
            "metadata": metadata.named(&scheduler_name(&self.seen.subject.metadata.name)),
            "spec": {
                "replicas": 1,
                "selector": {"matchLabels": metadata.labels()},
                "template": {"metadata": metadata.of_template(), "spec": pod},
            },
        });
        let child = WantedChild::new("scheduler", object);
        if updates {
            return WantedChild { on_new_template: OnNewTemplate::Apply, ..child };
        }
        let live = self.seen.child(&deployment_kind(), &scheduler_name(&self.seen.subject.metadata.name));
        let pods = LazyCell::new(|| pods::Pods::of(self.seen, Some("scheduler")));
        corrected(child, live.map(AsRef::as_ref), &pods)
    }

    fn service(self, spec: &DaskClusterSpec, service: &Value) -> WantedChild {
        let metadata = self.metadata(spec.scheduler.metadata.as_ref(), "scheduler");
        let object = json!({
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": metadata.named(&scheduler_name(&self.seen.subject.metadata.name)),
            "spec": service,
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
        let worker = raw["worker"].take();

        let mut object = json!({
            "apiVersion": worker_group_kind().api_version(),
            "kind": worker_group_kind().kind,
            "metadata": metadata.named(&name),
            "spec": {"cluster": cluster, "worker": worker},
        });
        // A cluster that says nothing of it leaves the group its own.
        if spec.update_strategy.is_some() {
            object["spec"]["updateStrategy"] = raw["updateStrategy"].take();
        }
        let copied = Copied { source: &self.seen.subject, path: "/spec/worker/replicas", asked: spec.worker.replicas };
        let manager = Reconciler::Cluster.field_manager();
        copied.write(WantedChild::new("workergroup", object), live.map(Arc::as_ref), &manager)
    }
}
