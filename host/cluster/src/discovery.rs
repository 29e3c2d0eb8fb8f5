//! Which kinds the API server serves, and under which names: asked at start, and again when something is missing.

use std::{
    fmt,
    sync::{Arc, PoisonError, RwLock},
    time::Duration,
};

use dask_wasm_operator_core::{
    contract::KindReference,
    object::{GroupVersionKind, Resource},
};
use kube::{
    Client,
    client::{APIGroupDiscoveryList, APIResourceDiscovery},
    core::discovery::v2::ACCEPT_AGGREGATED_DISCOVERY_V2,
};
use thiserror::Error;
use tokio::{
    sync::Mutex,
    time::{Instant, sleep},
};

use crate::request::{Call, RequestError, TOTAL_DEADLINE};

/// The server is asked again at most this often: a kind that is missing is asked for by every object that needs it.
const REFRESH_INTERVAL: Duration = Duration::from_secs(5);

/// How often the server is asked at start for kinds that are about to be served.
const AWAIT_INTERVAL: Duration = Duration::from_secs(1);

/// A kind that is served, with all its names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServedKind {
    /// What URLs are built from.
    pub resource: Resource,
    /// Singular name in lower case, `deployment`.
    pub singular: String,
    /// Short names, `deploy`.
    pub short_names: Vec<String>,
    /// Names of subresources, `status`.
    pub subresources: Vec<String>,
}

/// The kinds that are served; of each group the preferred version first.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct KindTable {
    kinds: Vec<ServedKind>,
}

/// Why a reference names no kind.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum KindError {
    /// Nothing of this name is served.
    #[error("the API server serves no kind {reference}; is its CustomResourceDefinition installed?{}", hint(.similar))]
    Unknown {
        /// As it was given.
        reference: String,
        /// The same name in other groups or versions.
        similar: Vec<String>,
    },
    /// Several groups have the name.
    #[error("{reference} is served by several groups: {}; name one of them in `group`", candidates.join(", "))]
    Ambiguous {
        /// As it was given.
        reference: String,
        /// `Kind.group/version` of each.
        candidates: Vec<String>,
    },
}

fn hint(similar: &[String]) -> String {
    if similar.is_empty() { String::new() } else { format!(" It serves {}", similar.join(", ")) }
}

impl FromIterator<ServedKind> for KindTable {
    fn from_iter<T: IntoIterator<Item = ServedKind>>(kinds: T) -> Self {
        Self { kinds: kinds.into_iter().collect() }
    }
}

impl KindTable {
    /// A kind by its exact group, version and kind.
    pub fn get(&self, kind: &GroupVersionKind) -> Option<&ServedKind> {
        self.kinds.iter().find(|served| served.resource.kind == *kind)
    }

    /// All versions of a kind, the preferred one first.
    pub fn versions<'a>(&'a self, group: &'a str, kind: &'a str) -> impl Iterator<Item = &'a ServedKind> {
        self.kinds.iter().filter(move |served| served.resource.kind.group == group && served.resource.kind.kind == kind)
    }

    /// The kind that a person means: by kind, else by plural, else by singular, else by short name.
    ///
    /// # Errors
    /// When there is none, or the name alone does not tell which group is meant.
    pub fn resolve(&self, reference: &KindReference) -> Result<&ServedKind, KindError> {
        let fits = |served: &&ServedKind| {
            let kind = &served.resource.kind;
            reference.group.as_ref().is_none_or(|group| *group == kind.group)
                && reference.version.as_ref().is_none_or(|version| *version == kind.version)
        };
        let fitting = named(self.kinds.iter().filter(fits).collect(), &reference.name);
        let Some(&first) = fitting.first() else {
            let similar = named(self.kinds.iter().collect(), &reference.name).into_iter().map(name).collect();
            return Err(KindError::Unknown { reference: describe(reference), similar });
        };
        if fitting.iter().all(|served| served.resource.kind.same_kind(&first.resource.kind)) {
            Ok(first)
        } else {
            let mut candidates: Vec<String> = fitting.into_iter().map(name).collect();
            candidates.dedup();
            Err(KindError::Ambiguous { reference: describe(reference), candidates })
        }
    }
}

/// Those of the kinds that have this name, by the first sort of name by which there are any.
fn named<'a>(kinds: Vec<&'a ServedKind>, name: &str) -> Vec<&'a ServedKind> {
    let is = |candidate: &str| candidate.eq_ignore_ascii_case(name);
    let sorts: [&dyn Fn(&ServedKind) -> bool; 4] = [
        &|served| is(&served.resource.kind.kind),
        &|served| is(&served.resource.plural),
        &|served| is(&served.singular),
        &|served| served.short_names.iter().any(|short| is(short)),
    ];
    let mut found = sorts.iter().map(|sort| kinds.iter().copied().filter(|served| sort(served)).collect::<Vec<_>>());
    found.find(|kinds| !kinds.is_empty()).unwrap_or_default()
}

fn name(served: &ServedKind) -> String {
    format!("{}/{}", served.resource.kind, served.resource.kind.version)
}

fn describe(reference: &KindReference) -> String {
    let mut text = reference.name.clone();
    if let Some(group) = reference.group.as_ref().filter(|group| !group.is_empty()) {
        text = format!("{text}.{group}");
    }
    match &reference.version {
        Some(version) => format!("{text}/{version}"),
        None => text,
    }
}

/// The kinds as they were when last asked for.
pub struct Discovery {
    client: Client,
    table: RwLock<Arc<KindTable>>,
    /// When the server was last asked; held while it is, so that many who miss a kind ask once.
    asked: Mutex<Instant>,
}

impl fmt::Debug for Discovery {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Discovery").field("table", &self.table).finish_non_exhaustive()
    }
}

impl Discovery {
    /// Asks the server.
    ///
    /// # Errors
    /// When it can't be asked.
    pub async fn start(client: Client) -> Result<Self, RequestError> {
        let table = ask(&client).await?;
        Ok(Self { client, table: RwLock::new(Arc::new(table)), asked: Mutex::new(Instant::now()) })
    }

    /// The kinds as last known.
    pub fn table(&self) -> Arc<KindTable> {
        Arc::clone(&self.table.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Asks again, unless that was done a moment ago. Returns whether anything changed.
    ///
    /// # Errors
    /// When the server can't be asked; what was known before stays.
    pub async fn refresh(&self) -> Result<bool, RequestError> {
        let mut asked = self.asked.lock().await;
        if asked.elapsed() < REFRESH_INTERVAL { Ok(false) } else { self.ask_again(&mut asked).await }
    }

    /// Waits until these kinds are served, at most for so long. Answers those that are not.
    pub async fn await_kinds(&self, kinds: &[GroupVersionKind], patience: Duration) -> Vec<GroupVersionKind> {
        let deadline = Instant::now() + patience;
        loop {
            let table = self.table();
            let missing: Vec<_> = kinds.iter().filter(|kind| table.get(kind).is_none()).cloned().collect();
            if missing.is_empty() || Instant::now() >= deadline {
                return missing;
            }
            sleep(AWAIT_INTERVAL).await;
            if let Err(error) = self.ask_again(&mut *self.asked.lock().await).await {
                tracing::debug!(%error, "the API server does not answer which kinds it serves");
            }
        }
    }

    async fn ask_again(&self, asked: &mut Instant) -> Result<bool, RequestError> {
        *asked = Instant::now();
        let table = Arc::new(ask(&self.client).await?);
        let changed = *self.table() != *table;
        *self.table.write().unwrap_or_else(PoisonError::into_inner) = table;
        Ok(changed)
    }
}

async fn ask(client: &Client) -> Result<KindTable, RequestError> {
    let list = async |path| {
        let call = Call { accept: ACCEPT_AGGREGATED_DISCOVERY_V2, ..Call::get(path) };
        call.send(client, TOTAL_DEADLINE).await?.decode::<APIGroupDiscoveryList>()
    };
    let (core, groups) = futures::future::try_join(list("/api"), list("/apis")).await?;
    let groups = core.items.into_iter().chain(groups.items);
    Ok(groups
        .flat_map(|group| {
            let name = group.metadata.and_then(|metadata| metadata.name).unwrap_or_default();
            group.versions.into_iter().map(move |version| (name.clone(), version))
        })
        .flat_map(|(group, version)| {
            let name = version.version.unwrap_or_default();
            version.resources.into_iter().filter_map(move |resource| served_kind(&group, &name, resource))
        })
        .collect())
}

/// None for what is no kind of objects, such as a review that can only be posted: nothing of it can be watched or applied.
fn served_kind(group: &str, version: &str, resource: APIResourceDiscovery) -> Option<ServedKind> {
    if !resource.verbs.iter().any(|verb| verb == "get") {
        return None;
    }
    let kind = resource.response_kind?.kind?;
    Some(ServedKind {
        resource: Resource {
            kind: GroupVersionKind::new(group, version, &kind),
            plural: resource.resource?,
            namespaced: resource.scope.as_deref() == Some("Namespaced"),
        },
        singular: resource.singular_resource.unwrap_or_default(),
        short_names: resource.short_names,
        subresources: resource.subresources.into_iter().filter_map(|subresource| subresource.subresource).collect(),
    })
}

#[cfg(test)]
mod tests {
    use std::{
        convert::Infallible,
        sync::atomic::{AtomicUsize, Ordering},
    };

    use http::{Request, Response};
    use kube::client::Body;
    use serde_json::json;
    use tower::service_fn;

    use super::*;

    fn served(group: &str, version: &str, kind: &str, plural: &str, singular: &str, short: &[&str]) -> ServedKind {
        ServedKind {
            resource: Resource {
                kind: GroupVersionKind::new(group, version, kind),
                plural: plural.into(),
                namespaced: true,
            },
            singular: singular.into(),
            short_names: short.iter().map(|name| (*name).to_owned()).collect(),
            subresources: vec![],
        }
    }

    fn table() -> KindTable {
        [
            served("", "v1", "Pod", "pods", "pod", &["po"]),
            served("", "v1", "Event", "events", "event", &["ev"]),
            served("apps", "v1", "Deployment", "deployments", "deployment", &["deploy"]),
            served("events.k8s.io", "v1", "Event", "events", "event", &["ev"]),
            served("metrics.k8s.io", "v1beta1", "PodMetrics", "pods", "pod", &[]),
            served("x.io", "v2", "Widget", "widgets", "widget", &[]),
            served("x.io", "v1", "Widget", "widgets", "widget", &[]),
        ]
        .into_iter()
        .collect()
    }

    fn resolve(group: Option<&str>, version: Option<&str>, name: &str) -> Result<String, KindError> {
        let reference =
            KindReference { group: group.map(Into::into), version: version.map(Into::into), name: name.into() };
        table().resolve(&reference).map(super::name)
    }

    #[test]
    fn any_name_in_any_case_will_do() {
        for name in ["Deployment", "deployment", "DEPLOYMENTS", "deploy"] {
            assert_eq!(resolve(None, None, name).unwrap(), "Deployment.apps/v1", "{name}");
        }
        assert_eq!(resolve(None, None, "pod").unwrap(), "Pod/v1");
        assert_eq!(resolve(Some("metrics.k8s.io"), None, "PodMetrics").unwrap(), "PodMetrics.metrics.k8s.io/v1beta1");
    }

    #[test]
    fn the_preferred_version_unless_one_is_named() {
        assert_eq!(resolve(None, None, "widgets").unwrap(), "Widget.x.io/v2");
        assert_eq!(resolve(Some("x.io"), Some("v1"), "widget").unwrap(), "Widget.x.io/v1");
    }

    #[test]
    fn a_name_of_several_groups_needs_one() {
        let error = resolve(None, None, "events").unwrap_err().to_string();
        assert_eq!(
            error,
            "events is served by several groups: Event/v1, Event.events.k8s.io/v1; name one of them in `group`"
        );
        assert_eq!(resolve(Some(""), None, "events").unwrap(), "Event/v1");
    }

    /// A server that serves the kind `Late` from the n-th time on that it is asked, and fails the first time after the start.
    fn late_server(from: usize) -> Client {
        let asked = Arc::new(AtomicUsize::new(0));
        let answer = move |request: Request<Body>| {
            let is_groups = request.uri().path() == "/apis";
            let before = asked.fetch_add(usize::from(is_groups), Ordering::Relaxed);
            let late = json!({"metadata": {"name": "x.io"}, "versions": [{"version": "v1", "resources": [{
                "resource": "lates", "responseKind": {"kind": "Late"}, "scope": "Namespaced", "verbs": ["get"]}]}]});
            let items = if is_groups && before >= from { vec![late] } else { vec![] };
            let status = if is_groups && before == 1 { 503 } else { 200 };
            let body = json!({"kind": "APIGroupDiscoveryList", "metadata": {}, "items": items}).to_string();
            let response = Response::builder().status(status).body(Body::from(body.into_bytes())).unwrap();
            async move { Ok::<_, Infallible>(response) }
        };
        Client::new(service_fn(answer), "default")
    }

    #[tokio::test(start_paused = true)]
    async fn kinds_that_are_about_to_be_served_are_waited_for_and_not_for_ever() {
        let late = GroupVersionKind::new("x.io", "v1", "Late");
        let patience = Duration::from_secs(60);
        for (from, missing, seconds) in [(0, 0, 0..1), (2, 0, 2..3), (30, 0, 30..31), (1_000, 1, 60..61)] {
            let discovery = Discovery::start(late_server(from)).await.unwrap();
            let begun = Instant::now();
            let left = discovery.await_kinds(std::slice::from_ref(&late), patience).await;
            assert_eq!(left.len(), missing, "{from}");
            assert!(seconds.contains(&begun.elapsed().as_secs()), "{from}: {:?}", begun.elapsed());
        }
    }

    #[test]
    fn what_is_not_served_is_said_with_what_is() {
        let error = resolve(Some("x.io"), Some("v9"), "widget").unwrap_err().to_string();
        assert!(error.contains("widget.x.io/v9") && error.contains("Widget.x.io/v2, Widget.x.io/v1"), "{error}");
        let error = resolve(None, None, "VirtualService").unwrap_err().to_string();
        assert!(error.ends_with("is its CustomResourceDefinition installed?"), "{error}");
    }
}
