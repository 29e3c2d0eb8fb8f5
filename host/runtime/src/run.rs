//! `run`: what is set up around the operator, in the order of start and of end.

use std::{
    collections::BTreeSet,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use anyhow::Context as _;
use dask_wasm_operator_api::{crds, inaccessible, required_access};
use dask_wasm_operator_cluster::{
    access::missing_access,
    applier::{Applier, CONCURRENCY},
    client::{self, Clients},
    discovery::Discovery,
    events::Events,
    gate::Gate,
    index::Index,
    lease::{self, LeaseSettings, holder_identity},
    namespaces::absent_namespaces,
    observed::ObservedCluster,
    outdated::outdated,
    scheduler::{Addresses, Deadlines, Route, SchedulerClient},
    watch::{WatchHandle, WatchKey, Watches},
};
use dask_wasm_operator_core::{
    dask::{
        COMPONENT_LABEL, autoscaler_kind, cluster_kind, deployment_kind, idle_since, job_kind, pod_kind,
        pod_summary_kind, pod_summary_resource, service_kind, worker_group_kind,
    },
    object::{GroupVersionKind, Resource},
    ports::{Observed, Writes},
    spec::{DASK_AUTOSCALER, DASK_CLUSTER, DASK_JOB, DASK_PLUGIN, DASK_PLUGIN_RECORD, DASK_WORKER_GROUP},
};
use rustix::process::{Resource as RlimitResource, Rlimit, getrlimit, setrlimit};
use tokio::{
    sync::{Notify, mpsc},
    time::timeout,
};

use crate::{
    Connection, Failure, Health, Leadership, Metrics, PluginSources, RunSettings, Scope, Shutdown,
    admin::AdminServer,
    controller::{Controller, Surroundings},
    namespaces::{NamespaceFollower, namespace_kind, namespace_watch},
    plugins::{ManagerSurroundings, PluginManager, engine},
    served::{Interest, Party, ServedWatch, ServedWatches},
    telemetry,
    writes::MeteredWrites,
};

/// How long passes that are under way may take after SIGTERM: within Kubernetes' default grace period of 30 s.
const DRAIN: Duration = Duration::from_secs(20);

/// A watch that tried nothing for so long is stuck: each list, connection and silence has a shorter limit of its own.
const WATCH_LIMIT: Duration = Duration::from_secs(90);

/// Serves until told to stop.
pub(crate) fn run(settings: RunSettings) -> Result<(), Failure> {
    telemetry::install(&settings.log)?;
    allow_open_files();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().context("starting threads")?;
    let result = runtime.block_on(operate(settings));
    // Whatever still runs (a plugin that is being compiled) must not hold up the end.
    runtime.shutdown_background();
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
    let admin = match &settings.admin {
        Some(endpoint) => Some(AdminServer::bind(endpoint).await?),
        None => None,
    };
    let start = async {
        let clients = connect(&settings.connection).await?;
        let discovery = discover(&clients).await?;
        let operator_namespace = settings.operator_namespace.clone().unwrap_or_else(|| clients.namespace.clone());
        check_definitions(&discovery)?;
        warn_of_outdated_definitions(&clients).await;
        check_rights(&clients, &settings.scope, &operator_namespace).await?;
        warn_of_absent_namespaces(&clients, &settings.scope).await;
        Ok::<_, Failure>((clients, discovery, operator_namespace))
    };
    let (clients, discovery, operator_namespace) = tokio::select! {
        started = start => started?,
        () = shutdown.requested() => return Ok(()),
    };
    tracing::info!(version = env!("CARGO_PKG_VERSION"), operator_namespace, scope = %settings.scope, "starting");

    let (changes_tx, changes_rx) = mpsc::unbounded_channel();
    let plugins_changed = Arc::new(Notify::new());
    let namespaces_changed = Arc::new(Notify::new());
    let definitions_changed = Arc::new(Notify::new());
    let changed = [&plugins_changed, &namespaces_changed, &definitions_changed].map(Arc::clone);
    let index = Arc::new(Index::new(sink(changes_tx, changed, operator_namespace.clone())));
    let metrics = Arc::new(Metrics::new().of_objects(Arc::clone(&index)));
    let leadership = match settings.leadership {
        Leadership::Standalone => None,
        Leadership::Lease => {
            let lease = LeaseSettings::new(&operator_namespace, holder_identity(&host_name()));
            Some(lease::Leadership::start(clients.unary.clone(), lease).context("standing for the Lease")?)
        }
    };
    let gate = leadership.as_ref().map_or_else(Gate::open, lease::Leadership::gate);
    let observed: Arc<dyn Observed> = Arc::new(ObservedCluster::new(Arc::clone(&index), Arc::clone(&discovery)));
    let applier = Applier::new(clients.unary.clone(), Arc::clone(&index), gate.clone(), CONCURRENCY);
    let writes: Arc<dyn Writes> = Arc::new(MeteredWrites::new(applier, Arc::clone(&metrics)));
    let controller = Arc::new(Controller::new(Surroundings {
        index: Arc::clone(&index),
        observed: Arc::clone(&observed),
        writes: Arc::clone(&writes),
        gate: gate.clone(),
        schedulers: Arc::new(schedulers(&clients, &settings, Arc::clone(&index))),
        environment: settings.environment.clone(),
        metrics: Arc::clone(&metrics),
        events: Events::start(clients.unary.clone(), gate, host_name(), settings.events),
    }));

    let watches = Watches::new(clients.watch.clone(), Arc::clone(&index));
    let served = ServedWatches::new(watches.clone(), namespaces_at_start(&settings.scope));
    let own = own_watches(&served, &discovery)?;
    let beside = watches_beside(&watches, &discovery, &settings.scope, &operator_namespace)?;
    let in_sync = Arc::new(AtomicBool::new(false));
    let health = Arc::new(OperatorHealth {
        served: served.clone(),
        beside: beside.iter().map(|watch| watch.key().clone()).collect(),
        watches: watches.clone(),
        controller: Arc::clone(&controller),
        in_sync: Arc::clone(&in_sync),
    });
    if let Some(admin) = admin {
        let mut shutdown = shutdown.clone();
        let serving = admin.serve(health, Arc::clone(&metrics), async move { shutdown.requested().await });
        tokio::spawn(async move {
            if let Err(error) = serving.await {
                tracing::error!(%error, "health and metrics are no longer served");
            }
        });
    }
    let mut namespaces = NamespaceFollower {
        scope: settings.scope.clone(),
        index: Arc::clone(&index),
        watches: watches.clone(),
        served: served.clone(),
        controller: Arc::clone(&controller),
        changed: namespaces_changed,
        worked_on: BTreeSet::new(),
    };
    let settled = async {
        watches.settled().await;
        namespaces.begin().await
    };
    tokio::select! {
        settled = settled => settled.context("watching namespaces")?,
        () = shutdown.requested() => return end(leadership).await,
    }
    tokio::spawn(namespaces.run(shutdown.clone()));
    if let PluginSources::Enabled { directory } = &settings.plugins {
        // Who is confined to a list of namespaces has no right to watch what is outside of them.
        let may_watch = !matches!(settings.scope, Scope::Namespaces(_));
        let definitions = may_watch.then(|| resource(&discovery, &definition_kind())).transpose()?;
        let manager = PluginManager::new(ManagerSurroundings {
            engine: engine(settings.cache_directory.clone()).context("preparing to run plugins")?,
            index,
            observed,
            writes,
            watches: watches.clone(),
            discovery,
            controller: Arc::clone(&controller),
            operator_namespace,
            served,
            directory: directory.clone(),
            definitions,
            changed: plugins_changed,
            definitions_changed,
        });
        tokio::spawn(manager.run(shutdown.clone()));
    }
    in_sync.store(true, Ordering::Release);
    tracing::info!("ready");

    let working = tokio::spawn(Arc::clone(&controller).run(changes_rx, shutdown.clone()));
    let lost = async {
        match &leadership {
            Some(leadership) => leadership.lost().await,
            None => std::future::pending().await,
        }
    };
    tokio::select! {
        () = shutdown.requested() => {}
        why = lost => return Err(anyhow::anyhow!("this process lost the Lease and must not write any more: {why}").into()),
    }
    if timeout(DRAIN, working).await.is_err() {
        tracing::warn!("not everything that was under way came to its end in time; the next process goes on with it");
    }
    drop((own, beside));
    end(leadership).await
}

async fn end(leadership: Option<lease::Leadership>) -> Result<(), Failure> {
    if let Some(leadership) = leadership {
        leadership.release().await;
    }
    tracing::info!("stopped");
    Ok(())
}

pub(crate) async fn connect(connection: &Connection) -> Result<Clients, Failure> {
    let Connection { kubeconfig, context } = connection;
    let connection = match (kubeconfig, context) {
        (None, None) => client::Connection::Infer,
        (path, context) => client::Connection::Kubeconfig { path: path.clone(), context: context.clone() },
    };
    Clients::connect(&connection).await.map_err(|error| Failure::Connection(error.into()))
}

async fn discover(clients: &Clients) -> Result<Arc<Discovery>, Failure> {
    let discovery = Discovery::start(clients.unary.clone()).await;
    discovery
        .map(Arc::new)
        .map_err(|error| Failure::Unreachable { server: clients.server.clone(), source: error.into() })
}

fn check_definitions(discovery: &Discovery) -> Result<(), Failure> {
    let table = discovery.table();
    let ours = [DASK_CLUSTER, DASK_WORKER_GROUP, DASK_JOB, DASK_AUTOSCALER, DASK_PLUGIN, DASK_PLUGIN_RECORD];
    let missing = ours.iter().filter(|kind| table.get(&kind.group_version_kind()).is_none());
    let names: Vec<_> = missing.map(|kind| format!("{}.{}", kind.plural, kind.group)).collect();
    if names.is_empty() { Ok(()) } else { Err(Failure::MissingCrds { names }) }
}

/// What they drop is nothing that could be noticed later.
async fn warn_of_outdated_definitions(clients: &Clients) {
    match outdated(&clients.unary, &crds()).await {
        Ok(definitions) => definitions.iter().for_each(|definition| {
            tracing::warn!(
                "the installed definition is older than this operator, and the API server drops these fields of \
                 {definition}; upgrade it: dask-wasm-operator crds | kubectl apply --server-side --force-conflicts -f -"
            );
        }),
        Err(error) => tracing::debug!(%error, "whether the installed definitions are older can't be seen"),
    }
}

/// A listed namespace in which nothing is granted may not exist yet; it does not keep the others from being served.
async fn check_rights(clients: &Clients, scope: &Scope, operator_namespace: &str) -> Result<(), Failure> {
    let required = required_access(scope.served(), operator_namespace);
    let missing = missing_access(&clients.unary, &required).await;
    let mut rights =
        missing.map_err(|error| Failure::Unreachable { server: clients.server.clone(), source: error.into() })?;
    if let Scope::Namespaces(names) = scope {
        let inaccessible = inaccessible(names, &required, &rights);
        if inaccessible.len() < names.len() {
            for namespace in inaccessible {
                tracing::warn!(
                    namespace,
                    "the operator has no right in this namespace: it does not exist, or the chart's Role is not there; \
                     it is served as soon as the rights are"
                );
                rights.retain(|access| access.namespace.as_deref() != Some(namespace));
            }
        }
    }
    if rights.is_empty() { Ok(()) } else { Err(Failure::MissingRights { rights }) }
}

async fn warn_of_absent_namespaces(clients: &Clients, scope: &Scope) {
    let Scope::Namespaces(names) = scope else { return };
    match absent_namespaces(&clients.unary, names).await {
        Ok(absent) => absent.iter().for_each(|namespace| {
            tracing::warn!(namespace, "this namespace does not exist; it is served as soon as it does");
        }),
        Err(error) => tracing::debug!(%error, "whether the namespaces exist can't be seen"),
    }
}

/// In a pod, schedulers are reached by the names of their Services; elsewhere through the API server.
fn schedulers(clients: &Clients, settings: &RunSettings, index: Arc<Index>) -> SchedulerClient {
    let route = if settings.in_pod {
        Route::ServiceDns { cluster_domain: settings.environment.cluster_domain.clone() }
    } else {
        Route::PortForward(clients.watch.clone())
    };
    let given = settings.scheduler_addresses.iter().map(|given| (given.cluster.clone(), given.address.clone()));
    let addresses = Addresses { given: given.collect(), route };
    SchedulerClient::new(clients.unary.clone(), addresses, Deadlines::default())
        .with_idle_since(move |cluster| index.get(&cluster_kind(), cluster).and_then(|cluster| idle_since(&cluster)))
}

/// The namespaces that are known before anything is read; none: all are served.
fn namespaces_at_start(scope: &Scope) -> Option<BTreeSet<String>> {
    match scope {
        Scope::AllNamespaces => None,
        Scope::Namespaces(names) => Some(names.clone()),
        Scope::Matching(_) => Some(BTreeSet::new()),
    }
}

/// What the operator itself watches wherever it serves: Dask's kinds, and what it makes of them.
fn own_watches(served: &ServedWatches, discovery: &Discovery) -> Result<Vec<ServedWatch>, Failure> {
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
            let interest = Interest { resource: resource(discovery, &kind)?, labels };
            Ok(served.start(interest, Party::Operator).context("starting a watch")?)
        })
        .collect()
}

/// What it watches beside these: the plugins and, for patterns, the namespaces.
fn watches_beside(
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

fn resource(discovery: &Discovery, kind: &GroupVersionKind) -> Result<Resource, Failure> {
    let served = discovery.table().get(kind).map(|served| served.resource.clone());
    let summaries = Some(pod_summary_resource()).filter(|resource| resource.kind == *kind);
    Ok(served.or(summaries).with_context(|| format!("the API server does not serve {kind}"))?)
}

fn definition_kind() -> GroupVersionKind {
    GroupVersionKind::new("apiextensions.k8s.io", "v1", "CustomResourceDefinition")
}

/// Changes go to the controller; those of plugins, their code and definitions are also told to the plugin manager, those of
/// Namespaces to their follower. Both look by themselves.
fn sink(
    changes_tx: mpsc::UnboundedSender<dask_wasm_operator_cluster::index::Change>,
    [plugins_changed, namespaces_changed, definitions_changed]: [Arc<Notify>; 3],
    operator_namespace: String,
) -> impl Fn(dask_wasm_operator_cluster::index::Change) + Send + Sync + 'static {
    let plugin = DASK_PLUGIN.group_version_kind();
    let config_map = GroupVersionKind::new("", "v1", "ConfigMap");
    let (namespace, definition) = (namespace_kind(), definition_kind());
    move |change| {
        let object = change.new.as_ref().or(change.old.as_ref());
        let concerns_plugins = object.is_some_and(|object| {
            let kind = object.kind.same_kind(&plugin) || object.kind.same_kind(&config_map);
            kind && object.metadata.namespace.as_deref() == Some(&operator_namespace)
        });
        if concerns_plugins {
            plugins_changed.notify_one();
        }
        if change.kind.same_kind(&namespace) {
            namespaces_changed.notify_one();
        }
        if change.kind.same_kind(&definition) {
            definitions_changed.notify_one();
        }
        // The receiver is gone only when the process is about to end.
        let _ = changes_tx.send(change);
    }
}

/// In a pod, the pod's name.
fn host_name() -> String {
    rustix::system::uname().nodename().to_string_lossy().into_owned()
}

struct OperatorHealth {
    served: ServedWatches,
    beside: Vec<WatchKey>,
    watches: Watches,
    controller: Arc<Controller>,
    in_sync: Arc<AtomicBool>,
}

impl Health for OperatorHealth {
    /// Attempts count, not successes: an outage of the API server is no reason for a restart.
    fn live(&self) -> Result<(), String> {
        let stuck = self.watches.stuck(WATCH_LIMIT);
        let stuck = stuck.into_iter().filter(|key| self.beside.contains(key) || self.served.is_own(key));
        let watches = stuck.map(|key| format!("the watch of {key} has tried nothing for {} s", WATCH_LIMIT.as_secs()));
        let passes = self.controller.stuck().into_iter().map(|pass| format!("{pass} does not come to an end"));
        let stuck: Vec<_> = watches.chain(passes).collect();
        if stuck.is_empty() { Ok(()) } else { Err(stuck.join("; ")) }
    }

    fn ready(&self) -> Result<(), String> {
        if self.in_sync.load(Ordering::Acquire) {
            Ok(())
        } else {
            Err("what is in the cluster is still being read".to_owned())
        }
    }
}
