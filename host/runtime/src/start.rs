//! What `run` looks at before it begins: whether the cluster can be reached and has what the operator needs.

use std::{sync::Arc, time::Duration};

use dask_wasm_operator_api::{inaccessible, required_access, schemas};
use dask_wasm_operator_cluster::{
    access::missing_access,
    client::{self, Clients},
    discovery::Discovery,
    namespaces::absent_namespaces,
    outdated::outdated,
    published::PublishedFields,
};
use dask_wasm_operator_core::spec::{
    DASK_AUTOSCALER, DASK_CLUSTER, DASK_JOB, DASK_PLUGIN, DASK_PLUGIN_RECORD, DASK_WORKER_GROUP,
};

use crate::{
    process::exit::Failure,
    settings::{Connection, RunSettings, Scope},
    watches::known_fields,
};

/// How long the definitions may take to be served: who installs everything at once applies them just before the operator.
const DEFINITIONS_PATIENCE: Duration = Duration::from_secs(60);

/// A cluster that has what the operator needs.
pub(crate) struct Start {
    pub(crate) clients: Clients,
    pub(crate) discovery: Arc<Discovery>,
    pub(crate) fields: Arc<PublishedFields>,
    /// Where the Lease and the DaskPlugins are.
    pub(crate) operator_namespace: String,
}

/// Finds the cluster and looks at it.
///
/// # Errors
/// What is missing.
pub(crate) async fn start(settings: &RunSettings) -> Result<Start, Failure> {
    let clients = connect(&settings.connection).await?;
    let discovery = discover(&clients).await?;
    let operator_namespace = settings.operator_namespace.clone().unwrap_or_else(|| clients.namespace.clone());
    await_definitions(&discovery).await?;
    let fields = Arc::new(PublishedFields::new(clients.unary.clone()));
    tokio::join!(warn_of_outdated_definitions(&clients), known_fields::ask(&fields));
    check_rights(&clients, &settings.scope, &operator_namespace).await?;
    warn_of_absent_namespaces(&clients, &settings.scope).await;
    Ok(Start { clients, discovery, fields, operator_namespace })
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

async fn await_definitions(discovery: &Discovery) -> Result<(), Failure> {
    let missing = async |patience| {
        let ours = [DASK_CLUSTER, DASK_WORKER_GROUP, DASK_JOB, DASK_AUTOSCALER, DASK_PLUGIN, DASK_PLUGIN_RECORD];
        let missing = discovery.await_kinds(&ours.map(|kind| kind.group_version_kind()), patience).await;
        let named = ours.iter().filter(|kind| missing.contains(&kind.group_version_kind()));
        named.map(|kind| format!("{}.{}", kind.plural, kind.group)).collect::<Vec<_>>()
    };
    let names = missing(Duration::ZERO).await;
    if names.is_empty() {
        return Ok(());
    }
    tracing::warn!(
        definitions = names.join(", "),
        "the cluster does not serve these CRDs; the operator starts as soon as it does, or exits in {} s",
        DEFINITIONS_PATIENCE.as_secs()
    );
    let names = missing(DEFINITIONS_PATIENCE).await;
    if names.is_empty() { Ok(()) } else { Err(Failure::MissingCrds { names }) }
}

/// What they drop is nothing that could be noticed later.
async fn warn_of_outdated_definitions(clients: &Clients) {
    match outdated(&clients.unary, schemas()).await {
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
