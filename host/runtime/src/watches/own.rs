//! What the operator itself watches, whatever plugins there are.

use std::collections::BTreeSet;

use anyhow::Context as _;
use dask_wasm_operator_cluster::{
    discovery::Discovery,
    watch::{WatchHandle, WatchKey, Watches},
};
use dask_wasm_operator_core::{
    dask::{
        COMPONENT_LABEL, autoscaler_kind, cluster_kind, deployment_kind, job_kind, pod_kind, pod_summary_kind,
        pod_summary_resource, service_kind, worker_group_kind,
    },
    object::{GroupVersionKind, Part, Resource},
    spec::DASK_PLUGIN,
};

use super::{
    namespaces::namespace_watch,
    served::{Interest, Party, ServedWatch, ServedWatches},
};
use crate::{process::exit::Failure, settings::Scope};

/// The namespaces that are known before anything is read; none: all are served.
pub(crate) fn namespaces_at_start(scope: &Scope) -> Option<BTreeSet<String>> {
    match scope {
        Scope::AllNamespaces => None,
        Scope::Namespaces(names) => Some(names.clone()),
        Scope::Matching(_) => Some(BTreeSet::new()),
    }
}

/// What the operator itself watches wherever it serves: Dask's kinds, and what it makes of them.
pub(crate) fn own_watches(served: &ServedWatches, discovery: &Discovery) -> Result<Vec<ServedWatch>, Failure> {
    let components = |names: &str| Some(format!("{COMPONENT_LABEL} in ({names})"));
    let wanted = [
        (cluster_kind(), None),
        (worker_group_kind(), None),
        (job_kind(), None),
        (autoscaler_kind(), None),
        (pod_kind(), components("job-runner")),
        (pod_summary_kind(), components("scheduler,worker")),
        (deployment_kind(), components("scheduler,worker")),
        (service_kind(), components("scheduler")),
    ];
    wanted
        .into_iter()
        .map(|(kind, labels)| {
            let interest = Interest { resource: resource(discovery, &kind)?, labels, part: Part::Whole };
            Ok(served.start(interest, Party::Operator).context("starting a watch")?)
        })
        .collect()
}

/// What it watches beside these: the plugins and, for patterns, the namespaces.
pub(crate) fn watches_beside(
    watches: &Watches,
    discovery: &Discovery,
    scope: &Scope,
    operator_namespace: &str,
) -> Result<Vec<WatchHandle>, Failure> {
    let resource = resource(discovery, &DASK_PLUGIN.group_version_kind())?;
    let mut keys = vec![WatchKey { resource, namespace: Some(operator_namespace.to_owned()), labels: None }];
    if matches!(scope, Scope::Matching(_)) {
        keys.push(namespace_watch());
    }
    keys.iter().map(|key| Ok(watches.start(key).context("starting a watch")?)).collect()
}

/// The definitions, for the plugin manager; none for who is confined to a list of namespaces and has no right to watch what is
/// outside of them.
pub(crate) fn definitions(discovery: &Discovery, scope: &Scope) -> Result<Option<Resource>, Failure> {
    let may_watch = !matches!(scope, Scope::Namespaces(_));
    may_watch.then(|| resource(discovery, &definition_kind())).transpose()
}

pub(crate) fn definition_kind() -> GroupVersionKind {
    GroupVersionKind::new("apiextensions.k8s.io", "v1", "CustomResourceDefinition")
}

fn resource(discovery: &Discovery, kind: &GroupVersionKind) -> Result<Resource, Failure> {
    let served = discovery.table().get(kind).map(|served| served.resource.clone());
    let summaries = Some(pod_summary_resource()).filter(|resource| resource.kind == *kind);
    Ok(served.or(summaries).with_context(|| format!("the API server does not serve {kind}"))?)
}
