//! `render`: the pipeline and the plugins of `run` over a cluster in memory, until nothing changes.

mod manifests;
mod output;

use std::{collections::BTreeMap, fmt::Write as _, sync::Arc};

use anyhow::{Context as _, bail};
use dask_wasm_operator_core::{
    contract::KindReference,
    dask::{Environment, Reconciler},
    memory::{MemoryCluster, built_in_resources},
    object::{GroupVersionKind, NamespacedName, ObjectKey, Resource},
    pipeline::{Handler, Pipeline, SubjectState},
    plugin::HandlerName,
    ports::{Guest, Schedulers},
    spec::{DaskPluginSpec, HandlerState},
    time::rfc3339,
};

use crate::{
    Failure, PluginFiles, RenderArgs,
    plugins::{Mountable, engine, mount, plugin, prepare},
    print,
    settings::cache_directory,
};

/// Rounds over all objects. One that needs more is going round in circles.
const ROUNDS: usize = 20;

/// The time of every object and call, so that the same input gives the same output: 2026-01-01T00:00:00Z.
const NOW: u64 = 1_767_225_600_000;

/// Prints what would be made of the given manifests.
pub(crate) fn render(arguments: RenderArgs) -> Result<(), Failure> {
    let RenderArgs { files, plugins, output } = arguments;
    let runtime = tokio::runtime::Builder::new_current_thread().build().context("starting the event loop")?;
    let manifests = manifests::read(&files)?;
    let mut resources = built_in_resources();
    resources.extend(manifests.definitions);
    let plugins: Vec<_> = plugins.iter().map(|files| Ok((files, plugin(files)?))).collect::<anyhow::Result<_>>()?;
    plugins.iter().for_each(|(_, (_, spec))| assume_granted(spec, &mut resources));
    let handlers = load(&plugins, &resources)?;
    let cluster = MemoryCluster::new(resources, &rfc3339(NOW));
    for (file, object) in manifests.objects {
        cluster.create(object).map_err(|why| anyhow::anyhow!("{}: {why}", file.display()))?;
    }
    let report = runtime.block_on(settle(&cluster, &handlers))?;
    print(&output::write(&cluster, output)?)?;
    if report.is_empty() { Ok(()) } else { Err(anyhow::anyhow!("not everything could be made:{report}").into()) }
}

/// Kinds that are granted are taken to be served, in namespaces and in version v1, unless a definition says more.
fn assume_granted(spec: &DaskPluginSpec, resources: &mut Vec<Resource>) {
    for grant in &spec.grants.create {
        let kind = GroupVersionKind::new(&grant.group, "v1", &grant.kind);
        if !resources.iter().any(|resource| resource.kind.same_kind(&kind)) {
            let plural = format!("{}s", grant.kind.to_lowercase());
            resources.push(Resource { kind, plural, namespaced: true });
        }
    }
}

fn load(plugins: &[(&PluginFiles, (String, DaskPluginSpec))], resources: &[Resource]) -> anyhow::Result<Vec<Handler>> {
    let mut handlers = Vec::from(Reconciler::ALL.map(Handler::Native));
    if plugins.is_empty() {
        return Ok(handlers);
    }
    let engine = engine(cache_directory().join("compiled"))?;
    for (files, (name, spec)) in plugins {
        let bytes = std::fs::read(&files.wasm).with_context(|| format!("reading {}", files.wasm.display()))?;
        let loaded = Arc::new(
            prepare(&engine, &[&bytes], spec).with_context(|| format!("plugin {name} ({})", files.wasm.display()))?,
        );
        let guest: Arc<dyn Guest> = loaded.clone();
        let digest = loaded.digest().to_string();
        let mountable = Mountable { name, spec, manifest: loaded.manifest(), digest: &digest, guest };
        let mounting = mount(&mountable, &|reference| resolve(reference, resources));
        if let Some(status) = mounting.statuses.iter().find(|status| status.state == HandlerState::NotServed) {
            bail!("plugin {name}: handler {}: {}", status.name, status.message.as_deref().unwrap_or("is not served"));
        }
        handlers.extend(mounting.handlers.into_iter().map(Handler::Plugin));
    }
    Ok(handlers)
}

/// Without an API server, kinds are known from the built-in list and the given definitions.
fn resolve(reference: &KindReference, resources: &[Resource]) -> Result<Resource, String> {
    let group = |resource: &&Resource| reference.group.as_ref().is_none_or(|group| *group == resource.kind.group);
    let name = |resource: &&Resource| {
        let singular = resource.kind.kind.eq_ignore_ascii_case(&reference.name);
        singular || resource.plural.eq_ignore_ascii_case(&reference.name)
    };
    let found: Vec<_> = resources.iter().filter(group).filter(name).collect();
    match found.as_slice() {
        [one] => Ok((*one).clone()),
        [] => Err(format!("the kind {} is not known; give its CustomResourceDefinition as a FILE too", reference.name)),
        several => {
            let names: Vec<_> = several.iter().map(|resource| resource.kind.to_string()).collect();
            Err(format!("{} could be {}; name the group too", reference.name, names.join(" or ")))
        }
    }
}

/// Looks at every subject of every handler until nothing is written. Answers what could not be done, a line each.
async fn settle(cluster: &MemoryCluster, handlers: &[Handler]) -> anyhow::Result<String> {
    let environment = Environment::default();
    let pipeline = Pipeline { observed: cluster, writes: cluster, environment: &environment };
    let mut states: BTreeMap<(Option<HandlerName>, ObjectKey), SubjectState> = BTreeMap::new();
    for _ in 0..ROUNDS {
        let (mut report, mut asked) = (String::new(), false);
        for handler in handlers {
            for at in subjects(cluster, handler) {
                let name = match handler {
                    Handler::Native(_) => None,
                    Handler::Plugin(handler) => Some(handler.name.clone()),
                };
                let state = states.entry((name, ObjectKey { kind: handler.subject(), at: at.clone() })).or_default();
                let pass = pipeline.reconcile(handler, &at, state, NOW).await;
                asked |= !pass.calls.is_empty();
                for (scheduler, call) in pass.calls {
                    let reply = cluster.call(scheduler, call.clone()).await;
                    state.heard(&call, reply, NOW);
                }
                for line in pass.call.iter().flat_map(|call| &call.log) {
                    tracing::info!(target: "guest", subject = %at, "{}", line.message);
                }
                for problem in &pass.findings.problems {
                    let _ = write!(report, "\n  {} {at}: {problem}", handler.subject().kind);
                }
                if let Handler::Native(reconciler) = handler {
                    pipeline.publish(*reconciler, &at, state.findings(), NOW).await?;
                }
            }
        }
        let written = cluster.take_written();
        if written.is_empty() && !asked {
            return Ok(report);
        }
    }
    bail!("after {ROUNDS} rounds something is still changing: {}", cluster.last_changed_field().unwrap_or_default())
}

fn subjects(cluster: &MemoryCluster, handler: &Handler) -> Vec<NamespacedName> {
    let kind = handler.subject();
    cluster.objects().iter().filter(|object| object.kind.same_kind(&kind)).map(|object| object.at()).collect()
}
