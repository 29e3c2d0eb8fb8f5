//! What a migration reads from the API server and writes to it.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context as _, bail};
use dask_wasm_operator_api::{crds, known_fields, schemas};
use dask_wasm_operator_cluster::{
    RequestError,
    client::Clients,
    crds::installed,
    discovery::Discovery,
    lease::LeaseSettings,
    once::{self, Listed, Selection},
    outdated::outdated,
    published::PublishedFields,
};
use dask_wasm_operator_core::{
    object::{GroupVersionKind, NamespacedName, Object, Resource},
    schema::KnownFields,
};
use kube::{
    Api,
    api::{ApiResource, DynamicObject, PostParams},
};
use serde::Deserialize as _;
use serde_json::Value;
use tokio::time::{Instant, sleep, timeout};

use super::{
    error::MigrateError,
    objects::text,
    report::{self, Definition, Finding},
};
use crate::{process::exit::Failure, settings::MigrationSettings, start};

/// The owner of the fields that a migration writes.
const FIELD_MANAGER: &str = "dask-wasm-operator-migrate";

/// How long a definition may take until it is served; it is a second where nothing else is to be done.
const SERVED_DEADLINE: Duration = Duration::from_secs(60);

/// Between two looks at it.
const LOOK_INTERVAL: Duration = Duration::from_millis(250);

/// A kind of object, and which of them.
#[derive(Clone, Copy)]
pub(super) struct Kind {
    group: &'static str,
    version: &'static str,
    kind: &'static str,
    plural: &'static str,
    labels: &'static str,
}

impl Kind {
    const CLUSTER: Self = Self::dask("DaskCluster", "daskclusters");
    const GROUP: Self = Self::dask("DaskWorkerGroup", "daskworkergroups");
    pub(super) const JOB: Self = Self::dask("DaskJob", "daskjobs");
    const AUTOSCALER: Self = Self::dask("DaskAutoscaler", "daskautoscalers");
    pub(super) const DEPLOYMENT: Self =
        Self { group: "apps", version: "v1", kind: "Deployment", plural: "deployments", labels: "" };
    const LEASE: Self =
        Self { group: "coordination.k8s.io", version: "v1", kind: "Lease", plural: "leases", labels: "" };
    const SERVICE: Self =
        Self { group: "", version: "v1", kind: "Service", plural: "services", labels: "dask.org/component=scheduler" };
    const RUNNER: Self =
        Self { group: "", version: "v1", kind: "Pod", plural: "pods", labels: "dask.org/component=job-runner" };

    /// What users write.
    pub(super) const DASK: [Self; 4] = [Self::CLUSTER, Self::GROUP, Self::JOB, Self::AUTOSCALER];

    /// What the Python operator has handlers for.
    pub(super) const STAMPED: [Self; 6] =
        [Self::CLUSTER, Self::GROUP, Self::JOB, Self::AUTOSCALER, Self::SERVICE, Self::RUNNER];

    const fn dask(kind: &'static str, plural: &'static str) -> Self {
        Self { group: "kubernetes.dask.org", version: "v1", kind, plural, labels: "" }
    }

    fn resource(self) -> Resource {
        let kind = GroupVersionKind::new(self.group, self.version, self.kind);
        Resource { kind, plural: self.plural.to_owned(), namespaced: true }
    }
}

/// What there is of a kind.
pub(super) struct Found {
    /// The objects that can be read.
    pub(super) objects: Vec<Value>,
    /// Those that are there and can't be read.
    pub(super) unread: Vec<Finding>,
}

/// The cluster that is migrated.
pub(super) struct Site {
    clients: Clients,
    discovery: Discovery,
    /// Namespace of this operator's Lease; none: any.
    operator_namespace: Option<String>,
}

impl Site {
    pub(super) async fn connect(settings: &MigrationSettings) -> Result<Self, Failure> {
        let clients = start::connect(&settings.connection).await?;
        let started = Discovery::start(clients.unary.clone()).await;
        let discovery =
            started.map_err(|error| Failure::Unreachable { server: clients.server.clone(), source: error.into() })?;
        Ok(Self { clients, discovery, operator_namespace: settings.operator_namespace.clone() })
    }

    /// Which fields the API server knows; if it does not say so, those of the Kubernetes version that this release is built for.
    pub(super) async fn known_fields(&self) -> KnownFields {
        let published = PublishedFields::new(self.clients.unary.clone());
        match published.refresh().await {
            Ok(_) => published.known().as_ref().clone(),
            Err(_) => known_fields(),
        }
    }

    /// What there is of a kind; nothing where the cluster does not know it.
    pub(super) async fn list(&self, kind: Kind) -> anyhow::Result<Found> {
        let Listed { objects, garbled } = match self.listed(kind, None, "").await {
            Ok(listed) => listed,
            Err(error) if error.code() == 404 => Listed::default(),
            Err(error) => return Err(error).with_context(|| format!("listing {}", kind.plural)),
        };
        let (whole, parts): (Vec<_>, Vec<_>) = objects.into_iter().partition(|object| object.unreadable.is_none());
        let unread = parts.iter().filter_map(report::unreadable);
        let unread = unread.chain(garbled.map(|why| report::garbled(kind.kind, kind.plural, &why))).collect();
        Ok(Found { objects: whole.iter().map(Object::to_value).collect(), unread })
    }

    async fn listed(&self, kind: Kind, namespace: Option<&str>, fields: &str) -> Result<Listed, RequestError> {
        let resource = kind.resource();
        let selection = Selection { resource: &resource, namespace, labels: kind.labels, fields };
        patiently(async || once::list(&self.clients.unary, selection).await).await
    }

    /// How each definition of ours is installed, by its name.
    pub(super) async fn definitions(&self) -> anyhow::Result<Vec<(String, Definition)>> {
        self.discovery.refresh().await.context("asking what is served")?;
        let table = self.discovery.table();
        let mut found = Vec::new();
        for ours in crds() {
            let names = &ours.spec.names;
            let subresources = ours.spec.versions.first().and_then(|version| version.subresources.as_ref());
            let needs_status = subresources.is_some_and(|subresources| subresources.status.is_some());
            let definition = match installed(&table, &ours.spec.group, &names.kind) {
                None => Definition::Missing,
                Some(kind) if needs_status && !kind.has_status_subresource => Definition::Python,
                Some(_) => {
                    let schema = schemas().filter(|(kind, _)| kind.kind == names.kind);
                    let older = outdated(&self.clients.unary, schema).await;
                    let older = older.with_context(|| format!("reading the schema of {}", names.kind))?;
                    older.first().map_or(Definition::Ours, |older| Definition::Older(older.to_string()))
                }
            };
            found.push((format!("{}.{}", names.plural, ours.spec.group), definition));
        }
        Ok(found)
    }

    /// Makes a definition what is given, and keeps the metadata of the one that is there.
    ///
    /// By a replacement and not by an apply, which would leave the fields of the old one to whoever installed it.
    pub(super) async fn install(&self, definition: &Value) -> anyhow::Result<()> {
        let name = text(definition, "/metadata/name");
        let doing = || format!("installing the definition {name}");
        let kind = kube::core::GroupVersionKind::gvk("apiextensions.k8s.io", "v1", "CustomResourceDefinition");
        let resource = ApiResource::from_gvk_with_plural(&kind, "customresourcedefinitions");
        let api = Api::<DynamicObject>::all_with(self.clients.unary.clone(), &resource);
        let parameters = PostParams { field_manager: Some(FIELD_MANAGER.to_owned()), ..PostParams::default() };
        loop {
            let written = match api.get_opt(name).await.with_context(doing)? {
                Some(mut present) => {
                    present.data["spec"] = definition["spec"].clone();
                    api.replace(name, &parameters, &present).await
                }
                None => {
                    let new = DynamicObject::deserialize(definition).with_context(doing)?;
                    api.create(&parameters, &new).await
                }
            };
            match written {
                Ok(_) => return Ok(()),
                // Somebody else wrote in between, such as the API server a condition.
                Err(kube::Error::Api(status)) if status.code == 409 => {}
                Err(error) => return Err(error).with_context(doing),
            }
        }
    }

    /// Waits until what was installed is what the API server offers.
    pub(super) async fn until_served(&self, definition: &Value) -> anyhow::Result<()> {
        let (group, kind) = (text(definition, "/spec/group"), text(definition, "/spec/names/kind"));
        let with_status = has_status_subresource(definition);
        let served = async {
            loop {
                self.discovery.refresh().await.context("asking what is served")?;
                let found = installed(&self.discovery.table(), group, kind);
                if found.is_some_and(|found| found.has_status_subresource == with_status) {
                    return Ok(());
                }
                sleep(LOOK_INTERVAL).await;
            }
        };
        timeout(SERVED_DEADLINE, served)
            .await
            .with_context(|| format!("{kind} is not served by its new definition within {SERVED_DEADLINE:?}"))?
    }

    /// Merges annotations into an object; one that is gone meanwhile needs none. What the server refuses is told.
    pub(super) async fn annotate(&self, kind: Kind, object: &Value, patch: &Value) -> anyhow::Result<Option<Finding>> {
        let (client, resource) = (&self.clients.unary, kind.resource());
        let at = NamespacedName::new(text(object, "/metadata/namespace"), text(object, "/metadata/name"));
        match patiently(async || once::merge(client, &resource, &at, FIELD_MANAGER, patch).await).await {
            Ok(()) => Ok(None),
            Err(error) if error.code() == 404 => Ok(None),
            Err(error @ RequestError::Status(_)) => Ok(Some(report::refused(object, &error.to_string()))),
            Err(error) => Err(error).with_context(|| format!("annotating {}", super::objects::name(object))),
        }
    }

    /// Looks whether a Lease is renewed: a holder that ended without giving it back does not count.
    pub(super) async fn refuse_while_ours_runs(&self) -> Result<(), Failure> {
        let duration = LeaseSettings::new("", String::new()).duration;
        let mut held = self.held_leases().await?;
        let renewed = async {
            while !held.is_empty() {
                sleep(LOOK_INTERVAL).await;
                let now = self.held_leases().await?;
                // One that was given back is nobody's; one that somebody took since then is renewed soon.
                held.retain(|namespace, _| now.contains_key(namespace));
                let is_renewed =
                    |(namespace, spec): &(&String, &Value)| held.get(*namespace).is_some_and(|old| old != *spec);
                if let Some((namespace, spec)) = now.iter().find(is_renewed) {
                    let holder = text(spec, "/holderIdentity").to_owned();
                    return Err(MigrateError::OursRuns { holder, namespace: namespace.clone() }.into());
                }
            }
            Ok(())
        };
        timeout(duration, renewed).await.unwrap_or(Ok(()))
    }

    /// What the Leases of operators of this kind say that somebody holds, by namespace.
    async fn held_leases(&self) -> anyhow::Result<BTreeMap<String, Value>> {
        let selector = format!("metadata.name={}", LeaseSettings::new("", String::new()).name);
        let leases = self.listed(Kind::LEASE, self.operator_namespace.as_deref(), &selector).await;
        let Listed { objects, garbled } =
            leases.context("reading the operator's Lease; --operator-namespace names its namespace")?;
        let odd = objects.iter().find_map(report::unreadable).map(|finding| finding.to_string()).or(garbled);
        if let Some(odd) = odd {
            bail!("whether this operator runs can't be seen from its Lease: {odd}");
        }
        let held = objects.into_iter().filter_map(|lease| {
            let spec = lease.field::<Value>("spec")?.ok()?;
            Some((lease.metadata.namespace?, spec)).filter(|(_, spec)| !text(spec, "/holderIdentity").is_empty())
        });
        Ok(held.collect())
    }
}

/// Repeats a request while the API server asks for that, as it does for a moment after a definition has changed.
async fn patiently<T>(request: impl AsyncFn() -> Result<T, RequestError>) -> Result<T, RequestError> {
    let deadline = Instant::now() + SERVED_DEADLINE;
    loop {
        match request().await {
            Err(error) if error.code() == 429 && Instant::now() < deadline => sleep(LOOK_INTERVAL).await,
            answer => return answer,
        }
    }
}

/// The Python operator's definitions, all four.
pub(super) fn read_python_definitions(path: &Path) -> Result<Vec<Value>, Failure> {
    let mut definitions = Vec::new();
    for file in files(path)? {
        let text = std::fs::read_to_string(&file).with_context(|| format!("reading {}", file.display()))?;
        let documents: Vec<Value> =
            serde_saphyr::from_multiple(&text).with_context(|| format!("parsing {}", file.display()))?;
        definitions.extend(documents);
    }
    let mut python = Vec::new();
    for kind in Kind::DASK {
        let is_it = |definition: &&Value| {
            text(definition, "/spec/group") == kind.group && text(definition, "/spec/names/kind") == kind.kind
        };
        // Only of jobs it writes the status as a subresource.
        let writable = |definition: &&Value| kind.kind == Kind::JOB.kind || !has_status_subresource(definition);
        let found = definitions.iter().filter(is_it).find(writable);
        let found = found.ok_or_else(|| MigrateError::NotPython { path: path.to_owned(), kind: kind.kind })?;
        python.push(found.clone());
    }
    Ok(python)
}

pub(super) fn has_status_subresource(definition: &Value) -> bool {
    definition.pointer("/spec/versions/0/subresources/status").is_some()
}

fn files(path: &Path) -> anyhow::Result<Vec<PathBuf>> {
    if !path.is_dir() {
        return Ok(vec![path.to_owned()]);
    }
    let entries = std::fs::read_dir(path).with_context(|| format!("reading {}", path.display()))?;
    let files: Result<Vec<_>, _> = entries.map(|entry| entry.map(|entry| entry.path())).collect();
    let mut files = files.with_context(|| format!("reading {}", path.display()))?;
    files.retain(|file| file.extension().is_some_and(|extension| extension == "yaml" || extension == "yml"));
    files.sort();
    Ok(files)
}
