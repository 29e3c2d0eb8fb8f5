//! Keeps the mounted plugins what the DaskPlugins (and the plugin directory) say.
//!
//! Each plugin is loaded by a task of its own: one that takes long to compile holds up no other. What serves calls is
//! replaced only by something that is ready to.

use std::{
    collections::BTreeMap,
    hash::{DefaultHasher, Hash, Hasher},
    path::PathBuf,
    sync::Arc,
    time::Duration,
};

use dask_wasm_operator_cluster::{
    discovery::Discovery,
    index::Index,
    watch::{WatchHandle, WatchKey, Watches},
};
use dask_wasm_operator_core::{
    action::{Action, Apply, ApplyTarget},
    contract::KindReference,
    fields::contains,
    object::{GroupVersionKind, NamespacedName, Object, Resource},
    pipeline::MountedHandler,
    ports::{Guest, Observed, Writes},
    spec::{
        ConflictPolicy, DASK_PLUGIN, DaskPluginSpec, DaskPluginStatus, Mode, PluginState, RemovalPolicy, SelectedSource,
    },
};
use dask_wasm_operator_engine::{Engine, LoadedPlugin};
use serde_json::{Value, json};
use tokio::{
    sync::{Notify, mpsc},
    task::JoinSet,
    time::{Instant, MissedTickBehavior, interval, sleep},
};

use super::{
    chain, files,
    mount::{Mountable, Mounting, mount},
    prepare::{prepare, require_digest},
    source,
    status::{Newest, Serving, Standing},
    watches::start_watches,
};
use crate::{
    Shutdown,
    controller::{Controller, now},
    served::{ServedWatch, ServedWatches},
};

/// Field manager of the status of DaskPlugins.
const MANAGER: &str = "dask-operator/plugins";
/// A status is written at most so often.
const STATUS_WINDOW: Duration = Duration::from_millis(500);
/// How often the plugin directory is looked at, and whether kinds that were missed are served now.
const LOOK_INTERVAL: Duration = Duration::from_secs(2);

/// What the manager needs.
pub(crate) struct ManagerSurroundings {
    pub(crate) engine: Engine,
    pub(crate) index: Arc<Index>,
    pub(crate) observed: Arc<dyn Observed>,
    pub(crate) writes: Arc<dyn Writes>,
    pub(crate) watches: Watches,
    pub(crate) discovery: Arc<Discovery>,
    pub(crate) controller: Arc<Controller>,
    /// Where DaskPlugins and their ConfigMaps are.
    pub(crate) operator_namespace: String,
    /// What is watched wherever Dask objects are served.
    pub(crate) served: ServedWatches,
    pub(crate) directory: Option<PathBuf>,
    /// Told when a DaskPlugin or a ConfigMap of the operator's namespace changed.
    pub(crate) changed: Arc<Notify>,
}

/// See the module.
pub(crate) struct PluginManager {
    surroundings: ManagerSurroundings,
    plugins: BTreeMap<String, Entry>,
    loads: JoinSet<(String, u64, Loaded)>,
    statuses_due: Option<Instant>,
    config_maps: Option<WatchHandle>,
    mounts_tx: mpsc::UnboundedSender<Mount>,
    mounts_rx: mpsc::UnboundedReceiver<Mount>,
}

/// Everything about one plugin.
#[derive(Default)]
struct Entry {
    /// Fingerprint of the specification and code that were last looked at.
    looked_at: Option<u64>,
    spec: Option<DaskPluginSpec>,
    generation: Option<i64>,
    /// Whether it comes from the directory, and has no object to show its state on.
    from_file: bool,
    loaded: Option<Arc<LoadedPlugin>>,
    standing: Standing,
    /// Watches that its handlers need.
    watches: Vec<ServedWatch>,
    /// Whether a kind that it needs was not served.
    misses_kinds: bool,
}

/// A plugin as it is found.
struct Found {
    name: String,
    spec: Result<DaskPluginSpec, String>,
    generation: Option<i64>,
    from_file: bool,
}

type Loaded = Result<Arc<LoadedPlugin>, Newest>;

/// Handlers whose watches are in sync.
struct Mount {
    plugin: String,
    looked_at: Option<u64>,
    handlers: Vec<Arc<MountedHandler>>,
    ungranted: Vec<String>,
}

impl PluginManager {
    pub(crate) fn new(surroundings: ManagerSurroundings) -> Self {
        let (mounts_tx, mounts_rx) = mpsc::unbounded_channel();
        let (plugins, loads) = (BTreeMap::new(), JoinSet::new());
        Self { surroundings, plugins, loads, statuses_due: None, config_maps: None, mounts_tx, mounts_rx }
    }

    /// Works until told to stop.
    pub(crate) async fn run(mut self, mut shutdown: Shutdown) {
        let mut look = interval(LOOK_INTERVAL);
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let changed = Arc::clone(&self.surroundings.changed);
        let controller = Arc::clone(&self.surroundings.controller);
        self.look().await;
        loop {
            let due = self.statuses_due;
            tokio::select! {
                () = shutdown.requested() => return,
                () = changed.notified() => self.look().await,
                _ = look.tick() => self.look_at_surroundings().await,
                Some(load) = self.loads.join_next() => {
                    if let Ok((name, looked_at, loaded)) = load {
                        self.loaded(&name, looked_at, loaded);
                    }
                }
                Some(mount) = self.mounts_rx.recv() => self.mounted(&mount),
                () = controller.figures().changed() => self.show_soon(),
                () = async { sleep(due.map_or(Duration::MAX, |due| due.saturating_duration_since(Instant::now()))).await }, if due.is_some() => {
                    self.statuses_due = None;
                    self.show().await;
                }
            }
        }
    }

    fn show_soon(&mut self) {
        self.statuses_due.get_or_insert_with(|| Instant::now() + STATUS_WINDOW);
    }

    /// What does not come by watches: files, and kinds that were missed.
    async fn look_at_surroundings(&mut self) {
        if self.surroundings.directory.is_some() {
            self.look().await;
        }
        // Where newer code or grants are no good, what serves stays as it was mounted.
        let misses = |entry: &Entry| {
            entry.misses_kinds && matches!(entry.standing.newest.state, PluginState::Ready | PluginState::NotServed)
        };
        if self.plugins.values().any(misses) && self.surroundings.discovery.refresh().await.unwrap_or(false) {
            let names: Vec<_> =
                self.plugins.iter().filter(|(_, entry)| misses(entry)).map(|(name, _)| name.clone()).collect();
            names.iter().for_each(|name| self.prepare_mount(name));
        }
    }

    /// Compares what is wanted with what is mounted.
    async fn look(&mut self) {
        let found = self.found();
        let gone: Vec<_> =
            self.plugins.keys().filter(|name| found.iter().all(|found| found.name != **name)).cloned().collect();
        for name in gone {
            self.remove(&name).await;
        }
        self.watch_config_maps(&found).await;
        for plugin in found {
            self.consider(plugin);
        }
        self.show_soon();
    }

    fn found(&self) -> Vec<Found> {
        let surroundings = &self.surroundings;
        let objects = surroundings.index.list(&DASK_PLUGIN.group_version_kind());
        let ours = objects
            .iter()
            .filter(|object| object.metadata.namespace.as_deref() == Some(&surroundings.operator_namespace));
        let mut found: Vec<_> =
            ours.filter(|object| !object.is_being_deleted()).map(|object| of_object(object)).collect();
        let files = surroundings.directory.as_ref().map(|directory| files::directory(directory));
        match files {
            Some(Ok(files)) => found.extend(files.iter().map(|file| {
                let default = file.wasm.file_stem().and_then(|stem| stem.to_str()).unwrap_or("plugin").to_owned();
                match files::plugin(file) {
                    Ok((name, spec)) => Found { name, spec: Ok(spec), generation: None, from_file: true },
                    Err(error) => {
                        Found { name: default, spec: Err(format!("{error:#}")), generation: None, from_file: true }
                    }
                }
            })),
            Some(Err(error)) => tracing::warn!(error = format!("{error:#}"), "the plugin directory can't be read"),
            None => {}
        }
        found
    }

    /// ConfigMaps are watched only if a plugin comes from one.
    async fn watch_config_maps(&mut self, found: &[Found]) {
        let from_config_map = |found: &Found| {
            let spec = found.spec.as_ref().ok();
            spec.is_some_and(|spec| matches!(spec.source.select(), Ok(SelectedSource::ConfigMap(_))))
        };
        if !found.iter().any(from_config_map) {
            self.config_maps = None;
        } else if self.config_maps.is_none() {
            let resource = Resource { kind: config_map_kind(), plural: "configmaps".to_owned(), namespaced: true };
            let key =
                WatchKey { resource, namespace: Some(self.surroundings.operator_namespace.clone()), labels: None };
            match self.surroundings.watches.start(&key) {
                Ok(handle) => {
                    handle.synced().await;
                    self.config_maps = Some(handle);
                }
                Err(error) => tracing::warn!(%error, "ConfigMaps of plugins can't be read"),
            }
        }
    }

    /// Looks at one plugin, and loads it if it is not what it was.
    fn consider(&mut self, found: Found) {
        let entry = self.plugins.entry(found.name.clone()).or_default();
        entry.generation = found.generation;
        entry.from_file = found.from_file;
        let spec = match found.spec {
            Ok(spec) => spec,
            Err(why) => return self.fail(&found.name, Newest::new(PluginState::Failed, "InvalidSpec", why)),
        };
        let code = source::read(&spec, &self.surroundings.operator_namespace, self.surroundings.observed.as_ref());
        let mut hasher = DefaultHasher::new();
        serde_json::to_string(&spec).unwrap_or_default().hash(&mut hasher);
        code.as_ref().map(|code| code.fingerprint).map_err(ToString::to_string).hash(&mut hasher);
        let looked_at = hasher.finish();
        if entry.looked_at == Some(looked_at) {
            return;
        }
        entry.looked_at = Some(looked_at);
        entry.spec = Some(spec.clone());
        if let Some(newest) = not_served(&spec) {
            return self.halt(&found.name, newest);
        }
        let code = match code {
            Ok(code) => code,
            Err(error) => {
                let newest = Newest::new(PluginState::Failed, error.reason(), chain(&error));
                return self.fail(&found.name, newest);
            }
        };
        entry.standing.newest =
            Newest::new(PluginState::Compiling, "Loading", "its code is being checked and compiled");
        let engine = self.surroundings.engine.clone();
        let name = found.name;
        self.loads.spawn(async move {
            let loaded = tokio::task::spawn_blocking(move || load(&engine, &code, &spec)).await;
            let lost = |_| Newest::new(PluginState::Failed, "HostFailure", "loading it was given up");
            (name, looked_at, loaded.map_err(lost).and_then(|loaded| loaded))
        });
    }

    /// A load came to its end.
    fn loaded(&mut self, name: &str, looked_at: u64, loaded: Loaded) {
        let Some(entry) = self.plugins.get_mut(name).filter(|entry| entry.looked_at == Some(looked_at)) else { return };
        match loaded {
            Ok(loaded) => {
                entry.loaded = Some(loaded);
                self.prepare_mount(name);
            }
            Err(newest) => self.fail(name, newest),
        }
    }

    /// The newest is no good. What serves goes on.
    fn fail(&mut self, name: &str, newest: Newest) {
        tracing::warn!(plugin = name, reason = newest.reason, message = newest.message, "plugin not ready");
        if let Some(entry) = self.plugins.get_mut(name) {
            entry.standing.newest = newest;
        }
        self.show_soon();
    }

    /// Its handlers are not called any more; children stay.
    fn halt(&mut self, name: &str, newest: Newest) {
        tracing::info!(plugin = name, reason = newest.reason, message = newest.message, "plugin halted");
        self.surroundings.controller.mount(name, &[]);
        if let Some(entry) = self.plugins.get_mut(name) {
            entry.standing.newest = newest;
            entry.standing.serving = None;
            entry.watches.clear();
        }
        self.show_soon();
    }

    /// Resolves what a loaded plugin asks for and starts the watches that its handlers need.
    fn prepare_mount(&mut self, name: &str) {
        let table = self.surroundings.discovery.table();
        let resolve = |reference: &KindReference| {
            table.resolve(reference).map(|served| served.resource.clone()).map_err(|error| error.to_string())
        };
        let Some(entry) = self.plugins.get_mut(name) else { return };
        let (Some(loaded), Some(spec)) = (&entry.loaded, &entry.spec) else { return };
        let guest: Arc<dyn Guest> = loaded.clone();
        let digest = loaded.digest().to_string();
        let mut mounting =
            mount(&Mountable { name, spec, manifest: loaded.manifest(), digest: &digest, guest }, &resolve);
        entry.misses_kinds = mounting.statuses.iter().any(|status| status.reason.as_deref() == Some("KindNotServed"))
            || loaded.manifest().permissions.create.iter().any(|kind| resolve(kind).is_err());

        let watches = start_watches(&mut mounting, &self.surroundings.served, &resolve);
        entry.standing.serving =
            Some(Serving { digest, manifest: loaded.manifest().clone(), handlers: mounting.statuses.clone() });
        entry.standing.newest =
            Newest::new(PluginState::Describing, "WatchesStarting", "what its handlers watch is being read");
        let sync: Vec<_> = watches.iter().map(ServedWatch::when_synced).collect();
        // What the former code needed is let go only now, so that a watch that both need goes on.
        entry.watches = watches;
        let Mounting { handlers, ungranted, .. } = mounting;
        let mount = Mount { plugin: name.to_owned(), looked_at: entry.looked_at, handlers, ungranted };
        let mounts_tx = self.mounts_tx.clone();
        tokio::spawn(async move {
            futures::future::join_all(sync).await;
            // The manager may be gone by now.
            let _ = mounts_tx.send(mount);
        });
        self.show_soon();
    }

    /// All that the handlers need is known: they are called from now on.
    fn mounted(&mut self, mount: &Mount) {
        let Some(entry) = self.plugins.get_mut(&mount.plugin).filter(|entry| entry.looked_at == mount.looked_at) else {
            return;
        };
        self.surroundings.controller.mount(&mount.plugin, &mount.handlers);
        entry.standing.newest = if mount.handlers.is_empty() {
            Newest::new(
                PluginState::NotServed,
                "NoHandlerServed",
                "none of its handlers is served; status.handlers says why",
            )
        } else {
            let called = format!("{} handlers are called", mount.handlers.len());
            let message = match mount.ungranted.as_slice() {
                [] => called,
                ungranted => format!("{called}; asked for and not granted: {}", ungranted.join(", ")),
            };
            Newest::new(PluginState::Ready, "Ready", message)
        };
        tracing::info!(plugin = mount.plugin, handlers = mount.handlers.len(), "plugin mounted");
        self.show_soon();
    }

    async fn remove(&mut self, name: &str) {
        let Some(entry) = self.plugins.remove(name) else { return };
        let prune = entry.spec.as_ref().is_none_or(|spec| spec.on_removal == RemovalPolicy::Prune);
        tracing::info!(plugin = name, prune, "plugin removed");
        self.surroundings.controller.unmount(name, prune).await;
    }

    /// Writes each status that differs.
    async fn show(&mut self) {
        let kind = DASK_PLUGIN.group_version_kind();
        let Some(resource) = self.surroundings.observed.resource(&kind) else { return };
        for (name, entry) in self.plugins.iter().filter(|(_, entry)| !entry.from_file) {
            if let Some((watch, problem)) = entry.watches.iter().find_map(ServedWatch::problem) {
                tracing::debug!(plugin = name, %watch, %problem, "a watch of a plugin has no news");
            }
            let at = NamespacedName::new(&self.surroundings.operator_namespace, name);
            let Some(object) = self.surroundings.observed.get(&kind, &at) else { continue };
            let before = object.field::<Value>("status").and_then(Result::ok).unwrap_or_default();
            let conditions = serde_json::from_value::<DaskPluginStatus>(before.clone()).unwrap_or_default().conditions;
            let figures = self.surroundings.controller.figures().of(name);
            let standing = with_watch_problems(entry);
            let status = json!(standing.status(figures, entry.generation, &conditions, now()));
            if before == status || (contains(&before, &status) && contains(&status, &before)) {
                continue;
            }
            let body = json!({
                "apiVersion": kind.api_version(), "kind": kind.kind,
                "metadata": {"name": name, "uid": object.metadata.uid}, "status": status,
            });
            let apply = Apply {
                resource: resource.clone(),
                object: object.key(),
                target: ApplyTarget::Status,
                manager: MANAGER.to_owned(),
                body,
                force: true,
                creates: false,
            };
            if let Err(error) = self.surroundings.writes.write(Action::Apply(apply)).await {
                tracing::debug!(plugin = name, %error, "status not written");
                self.statuses_due = Some(Instant::now() + LOOK_INTERVAL);
            }
        }
    }
}

/// A plugin whose watches have no news says so in the place of what it would say.
fn with_watch_problems(entry: &Entry) -> Standing {
    let mut standing = entry.standing.clone();
    if standing.newest.state == PluginState::Describing
        && let Some((key, problem)) = entry.watches.iter().find_map(ServedWatch::problem)
    {
        standing.newest = Newest::new(PluginState::Failed, problem.kind(), format!("{key}: {problem}"));
    }
    standing
}

fn of_object(object: &Object) -> Found {
    let spec = object.fields.get("spec").map_or("{}", |raw| raw.get());
    let mut decoder = serde_json::Deserializer::from_str(spec);
    let spec = serde_path_to_error::deserialize(&mut decoder)
        .map_err(|error| format!("spec.{}: {}", error.path(), error.inner()));
    Found { name: object.metadata.name.clone(), spec, generation: object.metadata.generation, from_file: false }
}

fn config_map_kind() -> GroupVersionKind {
    GroupVersionKind::new("", "v1", "ConfigMap")
}

/// What of a specification can't be served: a plugin must not get more than its DaskPlugin says.
fn not_served(spec: &DaskPluginSpec) -> Option<Newest> {
    if spec.suspend {
        return Some(Newest::new(
            PluginState::Suspended,
            "Suspended",
            "spec.suspend is true; its handlers are not called, its children stay",
        ));
    }
    let unserved = [
        ("serviceAccountName", spec.service_account_name.is_some()),
        ("mode: shadow", spec.mode == Mode::Shadow),
        ("adoptFrom", spec.adopt_from.is_some()),
        ("onConflict: yield", spec.on_conflict == ConflictPolicy::Yield),
        ("grants.deleteSubject", spec.grants.delete_subject),
        ("grants.read", !spec.grants.read.is_empty()),
        ("grants.patch[].merge", spec.grants.patch.iter().any(|grant| grant.merge)),
    ];
    let named: Vec<_> = unserved.iter().filter(|(_, asked)| *asked).map(|(name, _)| format!("spec.{name}")).collect();
    (!named.is_empty()).then(|| {
        let message = format!(
            "this version of the operator does not serve: {}; remove it to have the rest served",
            named.join(", ")
        );
        Newest::new(PluginState::NotServed, "NotServedYet", message)
    })
}

fn load(engine: &Engine, code: &source::Code, spec: &DaskPluginSpec) -> Loaded {
    let parts: Vec<&[u8]> = code.parts.iter().map(Vec::as_slice).collect();
    let loaded = prepare(engine, &parts, spec).and_then(|loaded| {
        if code.is_config_map {
            require_digest(spec, &loaded)?;
        }
        Ok(loaded)
    });
    loaded.map(Arc::new).map_err(|error| Newest {
        digest: dask_wasm_operator_engine::digest(&parts).ok().map(|digest| digest.to_string()),
        ..Newest::new(PluginState::Failed, error.reason(), chain(&error))
    })
}
