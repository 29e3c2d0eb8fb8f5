//! `run`: what is set up around the operator, in the order of start and of end.

use std::{
    collections::BTreeSet,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::Duration,
};

use anyhow::{Context as _, anyhow};
use dask_wasm_operator_cluster::{
    applier::{Applier, CONCURRENCY},
    client::Clients,
    config_maps::ConfigMaps,
    events::Events,
    gate::Gate,
    index::{Change, Index},
    lease::{self, LeaseSettings, holder_identity},
    observed::ObservedCluster,
    scheduler::{Addresses, Deadlines, FindPod, Route, SchedulerClient},
    watch::{WatchHandle, Watches},
};
use dask_wasm_operator_core::{
    dask::{Reconciler, cluster_kind, idle_since, scheduler_pod},
    native::Native as _,
    object::{Metadata, Object},
    ports::{Observed, Writes},
    spec::{DASK_PLUGIN, code_resource},
};
use rustix::process::{Resource as RlimitResource, Rlimit, getrlimit, setrlimit};
use tokio::sync::{Notify, mpsc};

use crate::{
    admin::{
        health::{HealthFromStart, OperatorHealth},
        server::AdminServer,
    },
    controller::{Controller, Surroundings},
    metrics::{Metrics, writes::MeteredWrites},
    plugins::{ManagerSurroundings, PluginManager, engine},
    process::{
        exit::Failure,
        heap,
        shutdown::Shutdown,
        stalls::{Stalls, Watcher},
        task::{Task, first_failure},
    },
    settings::{Leadership, PluginSources, RunSettings, Scope},
    start::{Start, start},
    telemetry,
    watches::{
        known_fields::follow,
        namespaces::{NamespaceFollower, namespace_kind},
        own::{definition_kind, definitions, namespaces_at_start, own_watches, watches_beside},
        served::{ServedWatch, ServedWatches},
    },
};

/// How long reconciles that are under way may take after SIGTERM: within Kubernetes' default grace period of 30 s.
const DRAIN: Duration = Duration::from_secs(20);

/// Serves until told to stop.
pub(crate) fn run(settings: RunSettings) -> Result<(), Failure> {
    let traces = telemetry::install(&settings.log, settings.collector.as_ref())?;
    heap::share();
    allow_open_files();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().context("starting threads")?;
    let result = runtime.block_on(operate(settings));
    // Whatever still runs (a plugin that is being compiled) must not hold up the end.
    runtime.shutdown_background();
    if let Some(traces) = traces {
        traces.close();
    }
    result
}

/// Each watch of each namespace is a connection. Processes may begin with as few as 1,024 files, and a hundred namespaces
/// have 800 watches.
fn allow_open_files() {
    let limit = getrlimit(RlimitResource::Nofile);
    if let Err(error) = setrlimit(RlimitResource::Nofile, Rlimit { current: limit.maximum, ..limit }) {
        tracing::debug!(%error, "the limit of open files stays as it is");
    }
}

async fn operate(settings: RunSettings) -> Result<(), Failure> {
    let mut shutdown = Shutdown::on_signals().context("listening for signals")?;
    if !settings.ignored.is_empty() {
        tracing::warn!(flags = settings.ignored.join(" "), "these flags of the Python operator have no effect here");
    }
    for why in &settings.unusable {
        tracing::warn!("a setting of the Python operator in the environment is not used, its default holds: {why}");
    }
    let health = Arc::new(HealthFromStart::default());
    if let Some(endpoint) = &settings.admin {
        serve(AdminServer::bind(endpoint).await?, Arc::clone(&health), shutdown.clone())?;
    }
    let start = tokio::select! {
        started = start(&settings) => started?,
        () = shutdown.requested() => return Ok(()),
    };
    let operator_namespace = &start.operator_namespace;
    tokio::spawn(heap::give_back());
    tracing::info!(version = env!("CARGO_PKG_VERSION"), operator_namespace, scope = %settings.scope, "starting");

    let leadership = match settings.leadership {
        Leadership::Standalone => None,
        Leadership::Lease => {
            let lease = LeaseSettings::new(operator_namespace, holder_identity(&host_name()));
            Some(lease::Leadership::start(start.clients.unary.clone(), lease).context("standing for the Lease")?)
        }
    };
    let gate = leadership.as_ref().map_or_else(Gate::open, lease::Leadership::gate);
    let (changes_tx, mut changes_rx) = mpsc::unbounded_channel();
    let operator = Operator::new(&settings, start, gate, changes_tx)?;
    health.begin(operator.health());
    let mut beside = tokio::select! {
        begun = operator.begin(&settings, shutdown.clone()) => begun?,
        // From the first on: changes must not pile up while something can't be listed.
        () = operator.controller.note(&mut changes_rx) => return Err(anyhow!("nothing is heard of changes any more").into()),
        () = shutdown.requested() => return end(leadership).await,
    };
    let work = Arc::clone(&operator.controller).run(changes_rx, shutdown.clone());
    let work = operator.stalls.watch("controller".to_owned(), "all subjects".to_owned(), work);
    let mut controller = Task::spawn("controller", &shutdown, work);
    tokio::select! {
        biased;
        () = shutdown.requested() => {}
        why = lost(leadership.as_ref()) => {
            return Err(anyhow!("this process lost the Lease and must not write any more: {why}").into());
        }
        error = first_failure(beside.iter_mut().chain([&mut controller])) => return Err(error.into()),
    }
    if !controller.ends_within(DRAIN).await {
        tracing::warn!("not everything that was under way came to its end in time; the next process goes on with it");
    }
    drop(operator);
    end(leadership).await
}

/// Serves health and metrics, on a thread of their own: they are asked for most when no other gets on.
fn serve(admin: AdminServer, health: Arc<HealthFromStart>, mut shutdown: Shutdown) -> Result<(), Failure> {
    let serving = admin.serve(health, async move { shutdown.requested().await });
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().context("starting a thread")?;
    let serve = move || {
        if let Err(error) = runtime.block_on(serving) {
            tracing::error!(%error, "health and metrics are no longer served");
        }
    };
    thread::Builder::new().name("admin".to_owned()).spawn(serve).context("starting a thread")?;
    Ok(())
}

async fn lost(leadership: Option<&lease::Leadership>) -> String {
    match leadership {
        Some(leadership) => leadership.lost().await,
        None => std::future::pending().await,
    }
}

async fn end(leadership: Option<lease::Leadership>) -> Result<(), Failure> {
    if let Some(leadership) = leadership {
        leadership.release().await;
    }
    tracing::info!("stopped");
    Ok(())
}

/// What works together.
struct Operator {
    start: Start,
    index: Arc<Index>,
    metrics: Arc<Metrics>,
    observed: Arc<dyn Observed>,
    writes: Arc<dyn Writes>,
    controller: Arc<Controller>,
    watches: Watches,
    served: ServedWatches,
    /// The operator's own, wherever it serves.
    _own: Vec<ServedWatch>,
    beside: Vec<WatchHandle>,
    plugins_changed: Arc<Notify>,
    statuses_changed: Arc<Notify>,
    namespaces_changed: Arc<Notify>,
    definitions_changed: Arc<Notify>,
    in_sync: Arc<AtomicBool>,
    stalls: Arc<Stalls>,
    _watcher: Watcher,
}

impl Operator {
    /// Puts it together and begins to watch.
    fn new(
        settings: &RunSettings,
        start: Start,
        gate: Gate,
        changes: mpsc::UnboundedSender<Change>,
    ) -> Result<Self, Failure> {
        let Start { clients, discovery, fields, operator_namespace } = &start;
        let [plugins_changed, statuses_changed, namespaces_changed, definitions_changed] =
            std::array::from_fn(|_| Arc::new(Notify::new()));
        let changed = [&plugins_changed, &statuses_changed, &namespaces_changed, &definitions_changed].map(Arc::clone);
        let index = Arc::new(
            Index::new(sink(changes, changed, operator_namespace.clone())).that_keeps(Reconciler::summaries()),
        );
        let watches = Watches::new(clients.watch.clone(), Arc::clone(&index));
        let events = Events::start(clients.unary.clone(), gate.clone(), host_name(), settings.events);
        let metrics =
            Metrics::new().of_objects(Arc::clone(&index)).of_watches(watches.clone()).of_events(events.clone());
        let metrics = Arc::new(metrics);
        let stalls = Arc::new(Stalls::new(Arc::clone(&metrics)));
        let watcher = stalls.start().context("starting a thread")?;
        let observed: Arc<dyn Observed> =
            Arc::new(ObservedCluster::new(Arc::clone(&index), Arc::clone(discovery), Arc::clone(fields)));
        let applier = Applier::new(clients.unary.clone(), Arc::clone(&index), gate.clone(), CONCURRENCY);
        let writes: Arc<dyn Writes> = Arc::new(MeteredWrites::new(applier, Arc::clone(&metrics)));
        let controller = Arc::new(Controller::new(Surroundings {
            index: Arc::clone(&index),
            watches: watches.clone(),
            observed: Arc::clone(&observed),
            writes: Arc::clone(&writes),
            gate,
            schedulers: Arc::new(schedulers(clients, settings, Arc::clone(&index), Arc::clone(&observed))),
            environment: settings.environment.clone(),
            metrics: Arc::clone(&metrics),
            stalls: Arc::clone(&stalls),
            events,
        }));
        let served = ServedWatches::new(watches.clone(), namespaces_at_start(&settings.scope));
        let own = own_watches(&served, discovery)?;
        let beside = watches_beside(&watches, discovery, &settings.scope, operator_namespace)?;
        let in_sync = Arc::new(AtomicBool::new(false));
        Ok(Self {
            start,
            index,
            metrics,
            observed,
            writes,
            controller,
            watches,
            served,
            _own: own,
            beside,
            plugins_changed,
            statuses_changed,
            namespaces_changed,
            definitions_changed,
            in_sync,
            stalls,
            _watcher: watcher,
        })
    }

    fn health(&self) -> OperatorHealth {
        OperatorHealth {
            served: self.served.clone(),
            beside: self.beside.iter().map(|watch| watch.key().clone()).collect(),
            watches: self.watches.clone(),
            controller: Arc::clone(&self.controller),
            in_sync: Arc::clone(&self.in_sync),
            metrics: Arc::clone(&self.metrics),
        }
    }

    /// Waits until what is in the cluster has been read, and starts what works beside the controller.
    async fn begin(&self, settings: &RunSettings, shutdown: Shutdown) -> Result<Vec<Task>, Failure> {
        let mut namespaces = NamespaceFollower {
            scope: settings.scope.clone(),
            index: Arc::clone(&self.index),
            watches: self.watches.clone(),
            served: self.served.clone(),
            controller: Arc::clone(&self.controller),
            changed: Arc::clone(&self.namespaces_changed),
            worked_on: BTreeSet::new(),
        };
        self.watches.settled().await;
        namespaces.begin().await.context("watching namespaces")?;
        let mut tasks = Vec::new();
        if settings.scope != Scope::AllNamespaces {
            tasks.push(Task::spawn("follower of namespaces", &shutdown, namespaces.run(shutdown.clone())));
        }
        let known_fields = follow(Arc::clone(&self.start.fields), Arc::clone(&self.controller), shutdown.clone());
        tasks.push(Task::spawn("follower of known fields", &shutdown, known_fields));
        if let PluginSources::Enabled { directory } = &settings.plugins {
            let manager = PluginManager::new(ManagerSurroundings {
                engine: engine(settings.cache_directory.clone()).context("preparing to run plugins")?,
                index: Arc::clone(&self.index),
                observed: Arc::clone(&self.observed),
                writes: Arc::clone(&self.writes),
                watches: self.watches.clone(),
                discovery: Arc::clone(&self.start.discovery),
                controller: Arc::clone(&self.controller),
                metrics: Arc::clone(&self.metrics),
                config_maps: ConfigMaps::new(self.start.clients.unary.clone(), self.start.operator_namespace.clone()),
                operator_namespace: self.start.operator_namespace.clone(),
                served: self.served.clone(),
                directory: directory.clone(),
                definitions: definitions(&self.start.discovery, &settings.scope)?,
                changed: Arc::clone(&self.plugins_changed),
                statuses_changed: Arc::clone(&self.statuses_changed),
                definitions_changed: Arc::clone(&self.definitions_changed),
            });
            tasks.push(Task::spawn("plugin manager", &shutdown, manager.run(shutdown.clone())));
        }
        self.in_sync.store(true, Ordering::Release);
        tracing::info!("ready");
        Ok(tasks)
    }
}

/// In a pod, schedulers are reached at the addresses of their pods; elsewhere through the API server.
fn schedulers(
    clients: &Clients,
    settings: &RunSettings,
    index: Arc<Index>,
    observed: Arc<dyn Observed>,
) -> SchedulerClient {
    let route = if settings.in_pod { Route::PodNetwork } else { Route::PortForward(clients.watch.clone()) };
    let given = settings.scheduler_addresses.iter().map(|given| (given.cluster.clone(), given.address.clone()));
    let pods: FindPod = Arc::new(move |cluster| scheduler_pod(&*observed, cluster));
    let addresses = Addresses { given: given.collect(), pods, route };
    SchedulerClient::new(clients.unary.clone(), addresses, Deadlines::default())
        .with_idle_since(move |cluster| index.get(&cluster_kind(), cluster).and_then(|cluster| idle_since(&cluster)))
}

/// Changes go to the controller; those of plugins, their code and definitions are also told to the plugin manager, those of
/// Namespaces to their follower. Both look by themselves. The statuses of plugins are the manager's own: only what somebody
/// else makes of them is told.
fn sink(
    changes: mpsc::UnboundedSender<Change>,
    [plugins_changed, statuses_changed, namespaces_changed, definitions_changed]: [Arc<Notify>; 4],
    operator_namespace: String,
) -> impl Fn(Change) + Send + Sync + 'static {
    let plugin = DASK_PLUGIN.group_version_kind();
    let code = code_resource().kind;
    let (namespace, definition) = (namespace_kind(), definition_kind());
    move |change| {
        let object = change.new.as_ref().or(change.old.as_ref());
        let is_ours = object.is_some_and(|object| object.metadata.namespace.as_deref() == Some(&operator_namespace));
        if is_ours && *change.kind == code {
            plugins_changed.notify_one();
        }
        if is_ours && change.kind.same_kind(&plugin) {
            if !is_of_status(&change) {
                plugins_changed.notify_one();
            } else if !change.own_write {
                statuses_changed.notify_one();
            }
        }
        if change.kind.same_kind(&namespace) {
            namespaces_changed.notify_one();
        }
        if change.kind.same_kind(&definition) {
            definitions_changed.notify_one();
        }
        // The receiver is gone only when the process is about to end.
        let _ = changes.send(change);
    }
}

/// Whether nothing that a DaskPlugin asks for has changed.
fn is_of_status(change: &Change) -> bool {
    let asked = |object: &Arc<Object>| {
        let Metadata { uid, generation, deletion_timestamp, .. } = &object.metadata;
        (uid.clone(), *generation, deletion_timestamp.clone())
    };
    let (old, new) = (change.old.as_ref().map(asked), change.new.as_ref().map(asked));
    old == new && new.is_some_and(|(_, generation, _)| generation.is_some())
}

/// In a pod, the pod's name.
fn host_name() -> String {
    rustix::system::uname().nodename().to_string_lossy().into_owned()
}
