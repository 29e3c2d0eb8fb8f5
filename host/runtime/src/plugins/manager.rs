//! Keeps the mounted plugins what the DaskPlugins (and the plugin directory) say.
//!
//! Each plugin is loaded by a task of its own: one that takes long to compile holds up no other. What serves calls is
//! replaced only by something that is ready to. Files and ConfigMaps are read, kinds asked for and statuses written by tasks, too:
//! whatever hangs, what is withdrawn from a plugin is so at the next look.

mod loading;
mod mounting;

use std::{
    collections::BTreeMap,
    hash::{DefaultHasher, Hash, Hasher},
    path::PathBuf,
    sync::Arc,
    time::Duration,
};

use dask_wasm_operator_cluster::watch::{WatchHandle, WatchKey};
use dask_wasm_operator_core::{
    error::{chain, of_field},
    object::Object,
    spec::{DASK_PLUGIN, DaskPluginSpec, PluginState, SelectedSource, code_resource},
};
use tokio::{
    sync::mpsc,
    task::JoinSet,
    time::{Instant, MissedTickBehavior, interval, sleep_until},
};

use super::{
    awaited::Awaited,
    directory::{self, Directory, Found, Origin},
    entry::Entry,
    files::Survey,
    mount::identity,
    progress::{Edition, Stage},
    refusal::refusal,
    report::{Report, Step},
    source::{self, Code},
    status::Newest,
    statuses::{Statuses, Written},
    surroundings::ManagerSurroundings,
    sweep::Sweeps,
};
use crate::process::{heap, shutdown::Shutdown};

/// How often files are looked at.
const LOOK_INTERVAL: Duration = Duration::from_secs(2);

/// DaskPlugins are compared with what is mounted at most so often, however often they or their ConfigMaps change.
const LOOK_WINDOW: Duration = Duration::from_millis(200);

/// See the module.
pub(crate) struct PluginManager {
    surroundings: Arc<ManagerSurroundings>,
    plugins: BTreeMap<String, Entry>,
    directory: Directory,
    /// Why the directory can't be read.
    unreadable: Option<String>,
    /// Files of the directory whose name is taken.
    taken: BTreeMap<PathBuf, String>,
    /// See [`Survey`].
    marks: BTreeMap<PathBuf, u64>,
    surveys: JoinSet<Survey>,
    loads: JoinSet<()>,
    sweeps: Sweeps,
    awaited: Awaited,
    definitions: Option<WatchHandle>,
    /// Asks which kinds are served.
    asking: JoinSet<()>,
    statuses: Statuses,
    config_maps: Option<WatchHandle>,
    looked: Option<Instant>,
    look_due: Option<Instant>,
    reports_tx: mpsc::UnboundedSender<Report>,
    reports_rx: mpsc::UnboundedReceiver<Report>,
}

/// What the manager is woken by.
enum Event {
    PluginsChanged,
    StatusesChanged,
    DefinitionsChanged,
    TimeToSurvey,
    Surveyed(Option<Survey>),
    Reported(Box<Report>),
    LoadEnded,
    Swept,
    KindsAsked,
    StatusWritten(Written),
    CountsChanged,
    Due,
}

impl PluginManager {
    pub(crate) fn new(surroundings: ManagerSurroundings) -> Self {
        let (reports_tx, reports_rx) = mpsc::unbounded_channel();
        Self {
            surroundings: Arc::new(surroundings),
            plugins: BTreeMap::new(),
            directory: Directory::default(),
            unreadable: None,
            taken: BTreeMap::new(),
            marks: BTreeMap::new(),
            surveys: JoinSet::new(),
            loads: JoinSet::new(),
            sweeps: Sweeps::default(),
            awaited: Awaited::default(),
            definitions: None,
            asking: JoinSet::new(),
            statuses: Statuses::default(),
            config_maps: None,
            looked: None,
            look_due: None,
            reports_tx,
            reports_rx,
        }
    }

    /// Works until told to stop.
    pub(crate) async fn run(mut self, mut shutdown: Shutdown) {
        let mut look = interval(LOOK_INTERVAL);
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let surroundings = Arc::clone(&self.surroundings);
        let figures = surroundings.controller.figures();
        self.look();
        loop {
            let due = self.next_due();
            let event = tokio::select! {
                biased;
                // First of all: watches end now, and what they knew is not gone.
                () = shutdown.requested() => return,
                () = surroundings.changed.notified() => Event::PluginsChanged,
                () = surroundings.statuses_changed.notified() => Event::StatusesChanged,
                () = surroundings.definitions_changed.notified() => Event::DefinitionsChanged,
                _ = look.tick() => Event::TimeToSurvey,
                Some(survey) = self.surveys.join_next() => Event::Surveyed(survey.ok()),
                Some(report) = self.reports_rx.recv() => Event::Reported(Box::new(report)),
                Some(_) = self.loads.join_next() => Event::LoadEnded,
                Some(()) = self.sweeps.ended() => Event::Swept,
                Some(_) = self.asking.join_next() => Event::KindsAsked,
                Some(written) = self.statuses.written() => Event::StatusWritten(written),
                () = figures.parked() => Event::StatusesChanged,
                () = figures.changed(), if !self.statuses.counts() => Event::CountsChanged,
                () = sleep_until(due.unwrap_or_else(Instant::now)), if due.is_some() => Event::Due,
            };
            let begun = Instant::now();
            self.heed(event);
            surroundings.metrics.managed_plugins(begun.elapsed());
        }
    }

    /// Does not wait for anything.
    fn heed(&mut self, event: Event) {
        match event {
            Event::PluginsChanged => self.look_soon(),
            Event::StatusesChanged => self.statuses.soon(),
            Event::DefinitionsChanged if self.definitions.is_some() => self.awaited.soon(Instant::now()),
            Event::TimeToSurvey => self.survey(),
            Event::Surveyed(Some(survey)) => self.surveyed(survey),
            Event::Reported(report) => self.reported(*report),
            Event::LoadEnded if self.loads.is_empty() => heap::much_is_free(),
            Event::KindsAsked => self.asked_for_kinds(),
            Event::StatusWritten(written) => self.statuses.shown(written),
            Event::CountsChanged => self.statuses.count_soon(Instant::now()),
            Event::Due => self.act_on_due(),
            Event::Swept => heap::much_is_free(),
            Event::DefinitionsChanged | Event::Surveyed(None) | Event::LoadEnded => {}
        }
    }

    fn next_due(&self) -> Option<Instant> {
        let retries = self.plugins.values().filter_map(|entry| entry.progress.due());
        retries.chain(self.statuses.due()).chain(self.awaited.due()).chain(self.look_due).min()
    }

    fn act_on_due(&mut self) {
        let now = Instant::now();
        if self.awaited.due().is_some_and(|due| due <= now) {
            self.ask_for_kinds();
        }
        if self.retry(now) || self.look_due.is_some_and(|due| due <= now) {
            self.look();
        }
        if self.statuses.due().is_some_and(|due| due <= now) {
            self.statuses.show(now, &self.surroundings, &mut self.plugins);
        }
    }

    /// At once, unless it was just done.
    fn look_soon(&mut self) {
        let earliest = self.looked.map(|looked| looked + LOOK_WINDOW);
        match earliest.filter(|earliest| *earliest > Instant::now()) {
            Some(earliest) => self.look_due = Some(earliest),
            None => self.look(),
        }
    }

    /// Has those looked at as if they were new that are to be tried again. Answers whether there are any.
    fn retry(&mut self, now: Instant) -> bool {
        self.plugins.values_mut().filter_map(|entry| entry.progress.begin_again(now).then_some(())).count() > 0
    }

    /// Looks at files, if there are any to look at and nobody does already.
    fn survey(&mut self) {
        let directory = self.surroundings.directory.clone();
        let specs = self.objects().into_iter().filter_map(|found| found.spec.ok());
        let paths: Vec<PathBuf> = specs.filter_map(|spec| spec.source.path.map(PathBuf::from)).collect();
        if self.surveys.is_empty() && (directory.is_some() || !paths.is_empty()) {
            self.surveys.spawn_blocking(move || Survey::make(directory.as_deref(), paths));
        }
    }

    fn surveyed(&mut self, survey: Survey) {
        let unreadable = match survey.listing {
            Some(Ok(listing)) => {
                self.directory.note(listing);
                None
            }
            Some(Err(error)) => Some(error),
            None => None,
        };
        if let Some(error) = unreadable.as_ref().filter(|_| unreadable != self.unreadable) {
            tracing::warn!(error, "the plugin directory can't be read; its plugins stay as they are");
        }
        self.unreadable = unreadable;
        // A file that is missing for a moment is what it was.
        self.marks.extend(survey.marks);
        self.look();
    }

    /// Compares what is wanted with what is mounted.
    fn look(&mut self) {
        (self.looked, self.look_due) = (Some(Instant::now()), None);
        let (found, taken) = directory::all(self.objects(), &self.directory);
        for (file, name) in taken.iter().filter(|(file, name)| self.taken.get(*file) != Some(*name)) {
            let file = file.display();
            tracing::warn!(%file, plugin = name, reason = "NameTaken", "another plugin has this name; rename one of them");
        }
        self.taken = taken;
        let is_found = |name: &String| found.iter().any(|found| found.name == *name);
        let gone: Vec<_> = self.plugins.keys().filter(|name| !is_found(name)).cloned().collect();
        gone.iter().for_each(|name| self.remove(name));
        self.watch_config_maps(&found);
        found.into_iter().for_each(|plugin| self.consider(plugin));
        self.statuses.soon();
    }

    /// The DaskPlugins of the operator's namespace.
    fn objects(&self) -> Vec<Found> {
        let objects = self.surroundings.index.list(&DASK_PLUGIN.group_version_kind());
        let ours = objects.iter().filter(|object| {
            object.metadata.namespace.as_deref() == Some(&self.surroundings.operator_namespace)
                && !object.is_being_deleted()
        });
        ours.map(|object| of_object(object)).collect()
    }

    /// ConfigMaps are watched only if a plugin comes from one.
    fn watch_config_maps(&mut self, found: &[Found]) {
        if !found.iter().filter_map(|found| found.spec.as_ref().ok()).any(comes_from_config_maps) {
            self.config_maps = None;
        } else if self.config_maps.is_none() {
            let resource = code_resource();
            let namespace = Some(self.surroundings.operator_namespace.clone());
            match self.surroundings.watches.start(&WatchKey { resource, namespace, labels: None }) {
                Ok(handle) => {
                    let (synced, changed) = (handle.when_synced(), Arc::clone(&self.surroundings.changed));
                    tokio::spawn(async move {
                        synced.await;
                        changed.notify_one();
                    });
                    self.config_maps = Some(handle);
                }
                Err(error) => {
                    let namespace = self.surroundings.operator_namespace.as_str();
                    tracing::warn!(namespace, %error, "ConfigMaps of plugins can't be read");
                }
            }
        }
    }

    /// Looks at one plugin, and loads it if it is not what it was.
    fn consider(&mut self, found: Found) {
        let Found { name, origin, spec, generation } = found;
        let entry = self.plugins.entry(name.clone()).or_default();
        (entry.generation, entry.origin) = (generation, origin);
        let spec = match spec {
            Ok(spec) => spec,
            Err(why) => {
                let newest = Newest::new(PluginState::Failed, "InvalidSpec", why);
                return if self.is_new(&name, fingerprint(&newest.message)) {
                    self.fail(&name, newest)
                };
            }
        };
        let text = serde_json::to_string(&spec).unwrap_or_default();
        entry.on_removal = Some(spec.on_removal);
        entry.reach.grow(&spec.grants);
        if let Ok(identity) = identity(&spec, &self.surroundings.operator_namespace) {
            entry.identity = identity;
        }
        // What is withdrawn is so before anything else is looked at, which may not be known or take its time.
        if let Some(newest) = refusal(&name, &spec) {
            return if self.is_new(&name, fingerprint(&text)) {
                self.halt(&name, newest)
            };
        }
        self.revoke(&name, &spec);
        if comes_from_config_maps(&spec) && !self.config_maps_are_known() {
            return;
        }
        let code = source::find(&spec, &self.surroundings.operator_namespace, self.surroundings.observed.as_ref());
        let version = match &code {
            Ok(Code::File(file)) => match self.marks.get(file) {
                Some(mark) => *mark,
                None => return self.survey(),
            },
            Ok(Code::ConfigMaps(parts)) => fingerprint(parts),
            Err(error) => fingerprint(&error.to_string()),
        };
        if !self.is_new(&name, fingerprint(&(text, version))) {
            return;
        }
        match code {
            Ok(code) => self.load(&name, version, code, spec),
            Err(error) => self.fail(&name, Newest::new(PluginState::Failed, error.reason(), chain(&error))),
        }
    }

    /// Whether a plugin is not what it was when it was last looked at. Then it is from now on.
    fn is_new(&mut self, name: &str, edition: Edition) -> bool {
        let Some(entry) = self.plugins.get_mut(name) else { return false };
        let is_new = entry.progress.begin(edition);
        if let Some(former) = entry.loading.take_if(|_| is_new) {
            former.abort();
        }
        is_new
    }

    /// A producer has done its part. What is of a former edition does not count.
    fn reported(&mut self, Report { plugin, edition, step }: Report) {
        let Some(entry) = self.plugins.get_mut(&plugin).filter(|entry| entry.progress.is_about(edition)) else {
            return;
        };
        match step {
            Step::Read => {
                entry.progress.reach(Stage::Read);
                self.statuses.soon();
            }
            Step::Loaded(loaded) => self.loaded(&plugin, *loaded),
            Step::Synced(synced) => self.mounted(plugin, *synced),
        }
    }

    fn config_maps_are_known(&self) -> bool {
        self.config_maps.as_ref().is_some_and(|config_maps| config_maps.status().is_synced)
    }
}

fn comes_from_config_maps(spec: &DaskPluginSpec) -> bool {
    matches!(spec.source.select(), Ok(SelectedSource::ConfigMap(_)))
}

fn of_object(object: &Object) -> Found {
    let spec = match &object.unreadable {
        Some(unreadable) => Err(format!("{}: {}; correct this field", unreadable.path, unreadable.why)),
        None => {
            let spec = object.fields.get("spec").map_or("{}", |raw| raw.get());
            let mut decoder = serde_json::Deserializer::from_str(spec);
            serde_path_to_error::deserialize(&mut decoder)
                .map_err(|error| format!("spec.{}: {}", error.path(), of_field(error.inner())))
        }
    };
    let generation = object.metadata.generation;
    Found { name: object.metadata.name.clone(), origin: Origin::Object, spec, generation }
}

fn fingerprint(of: &(impl Hash + ?Sized)) -> u64 {
    let mut hasher = DefaultHasher::new();
    of.hash(&mut hasher);
    hasher.finish()
}
