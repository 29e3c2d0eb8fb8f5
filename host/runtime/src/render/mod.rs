//! `render`: the pipeline and the plugins of `run` over a cluster in memory, until nothing changes.

mod clock;
mod kinds;
mod manifests;
mod output;

use std::{collections::BTreeMap, fmt::Write as _, sync::Arc};

use anyhow::{Context as _, bail};
use dask_wasm_operator_api::known_fields;
use dask_wasm_operator_core::{
    dask::{Environment, Handler, Pipeline, Reconciler, cluster_in_memory},
    identity::Identity,
    memory::MemoryCluster,
    object::{GroupVersionKind, NamespacedName, ObjectKey},
    pipeline::SubjectState,
    ports::{Guest, Schedulers},
    spec::{DaskPluginSpec, HandlerState},
    time::rfc3339,
};

use crate::{
    plugins::{Mountable, engine, mount, plugin, prepare, read_file, refusal},
    process::{exit::Failure, stdout::print},
    settings::{PluginFiles, RenderArgs, cache_directory},
};
use kinds::Kinds;

/// Rounds over all objects. One that needs more is going round in circles.
const ROUNDS: usize = 20;

/// Prints what would be made of the given manifests.
pub(crate) fn render(arguments: RenderArgs) -> Result<(), Failure> {
    let RenderArgs { files, plugins, output } = arguments;
    let runtime = tokio::runtime::Builder::new_current_thread().build().context("starting the event loop")?;
    let manifests = manifests::read(&files)?;
    let mut kinds = Kinds::built_in();
    manifests.definitions.iter().for_each(|definition| kinds.define(definition));
    let plugins: Vec<_> = plugins.iter().map(|files| Ok((files, plugin(files)?))).collect::<anyhow::Result<_>>()?;
    plugins.iter().for_each(|(_, (_, spec))| kinds.assume_granted(spec));
    let handlers = load(&plugins, &kinds)?;
    let now = clock::now(manifests.objects.iter().map(|(_, object)| object));
    let cluster = cluster_in_memory(kinds.resources(), &rfc3339(now)).that_knows(known_fields());
    for (file, object) in manifests.objects {
        let text = |field: &str| object.get(field).and_then(serde_json::Value::as_str).unwrap_or_default();
        let kind = GroupVersionKind::from_api_version(text("apiVersion"), text("kind"));
        let created = kinds.check(&kind).and_then(|()| cluster.create(object));
        created.map_err(|why| anyhow::anyhow!("{}: {why}", file.display()))?;
    }
    let report = runtime.block_on(settle(&cluster, &handlers, now))?;
    print(&output::write(&cluster, output)?)?;
    if report.is_empty() { Ok(()) } else { Err(anyhow::anyhow!("not everything could be made:{report}").into()) }
}

fn load(plugins: &[(&PluginFiles, (String, DaskPluginSpec))], kinds: &Kinds) -> anyhow::Result<Vec<Handler>> {
    let mut handlers = Vec::from(Reconciler::ALL.map(Handler::Native));
    if plugins.is_empty() {
        return Ok(handlers);
    }
    let engine = engine(cache_directory().join("compiled"))?;
    for (files, (name, spec)) in plugins {
        if let Some(refusal) = refusal(name, spec) {
            bail!("plugin {name} would not be called: {}", refusal.message);
        }
        let program = read_file(&files.wasm).with_context(|| format!("reading {}", files.wasm.display()))?;
        let loaded = Arc::new(
            prepare(&engine, &program, spec).with_context(|| format!("plugin {name} ({})", files.wasm.display()))?,
        );
        let guest: Arc<dyn Guest> = loaded.clone();
        let digest = loaded.digest().to_string();
        // Nobody has permissions in memory.
        let identity = Identity::Operator;
        let mountable = Mountable { name, spec, manifest: loaded.manifest(), digest: &digest, identity, guest };
        let mounting = mount(&mountable, &|reference| kinds.resolve(reference));
        if let Some(status) = mounting.statuses.iter().find(|status| status.state == HandlerState::NotServed) {
            bail!("plugin {name}: handler {}: {}", status.name, status.message.as_deref().unwrap_or("is not served"));
        }
        handlers.extend(mounting.handlers.into_iter().map(Handler::Plugin));
    }
    Ok(handlers)
}

/// Looks at every subject of every handler until nothing is written. Answers what could not be done, a line each.
async fn settle(cluster: &MemoryCluster, handlers: &[Handler], now: u64) -> anyhow::Result<String> {
    let environment = Environment::default();
    let pipeline = Pipeline::new(cluster, cluster, &environment);
    let mut states: BTreeMap<(String, ObjectKey), SubjectState> = BTreeMap::new();
    for _ in 0..ROUNDS {
        let (mut problems, mut asked) = (String::new(), false);
        for handler in handlers {
            for at in subjects(cluster, handler) {
                // Several reconcilers have the same subjects.
                let key = (handler.field_manager(), ObjectKey { kind: handler.subject(), at: at.clone() });
                let state = states.entry(key).or_default();
                let report = pipeline.reconcile(handler, &at, state, now).await;
                asked |= !report.calls.is_empty();
                for (scheduler, call) in report.calls {
                    let reply = cluster.call(scheduler, call.clone()).await;
                    state.heard(&call, reply, now);
                }
                for line in report.call.iter().flat_map(|call| &call.log) {
                    tracing::info!(target: "guest", subject = %at, text = line.message, "the plugin says");
                }
                for problem in &report.findings.problems {
                    let _ = write!(problems, "\n  {} {at}: {problem}", handler.subject().kind);
                }
                if let Handler::Native(reconciler) = handler {
                    pipeline.publish(*reconciler, &at, state.found().as_ref(), now).await?;
                }
            }
        }
        let written = cluster.take_written();
        if written.is_empty() && !asked {
            return Ok(problems);
        }
    }
    bail!("after {ROUNDS} rounds something is still changing: {}", cluster.last_changed_field().unwrap_or_default())
}

fn subjects(cluster: &MemoryCluster, handler: &Handler) -> Vec<NamespacedName> {
    let kind = handler.subject();
    cluster.objects().iter().filter(|object| object.kind.same_kind(&kind)).map(|object| object.at()).collect()
}
