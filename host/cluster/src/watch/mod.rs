//! The watches: one task for each kind, scope and label selector that somebody is interested in, feeding the index.
//!
//! Users hold a [`WatchHandle`]; the same watch asked for twice is one. A watch that can't be had (its kind is not served, a
//! right is missing, the server is away) says so and tries again for ever; it never holds up another.

pub(crate) mod event;
mod lines;
mod stream;

use std::{
    collections::BTreeMap,
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use dask_wasm_operator_core::{
    object::{GroupVersionKind, Resource},
    selector::{Selector, SelectorError},
};
use kube::Client;
use thiserror::Error;
use tokio::{sync::watch, task::AbortHandle, time::Instant};

use crate::{
    index::{Index, Scope},
    path::{self, PathError},
    request::RequestError,
};
use stream::WatchTask;

/// What is watched.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct WatchKey {
    /// The kind.
    pub resource: Resource,
    /// One namespace; none: all.
    pub namespace: Option<String>,
    /// A label selector in text form; none: all.
    pub labels: Option<String>,
}

impl fmt::Display for WatchKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} in ", self.resource.kind)?;
        match &self.namespace {
            Some(namespace) => write!(f, "namespace {namespace}")?,
            None => f.write_str("all namespaces")?,
        }
        if let Some(labels) = &self.labels {
            write!(f, " with {labels}")?;
        }
        Ok(())
    }
}

/// Why a watch can't be started.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum WatchKeyError {
    /// A name can't be part of a URL.
    #[error("{key} can't be watched")]
    Path {
        /// What was to be watched.
        key: Box<WatchKey>,
        /// The name.
        #[source]
        source: PathError,
    },
    /// The label selector can't be understood.
    #[error("{key} can't be watched")]
    Labels {
        /// What was to be watched.
        key: Box<WatchKey>,
        /// The requirement.
        #[source]
        source: SelectorError,
    },
}

/// Why a watch gets no news at the moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WatchProblem {
    /// The server does not serve the kind.
    NotServed,
    /// We have no right to list or watch it, in the server's words.
    Forbidden(String),
    /// The server does not take the request, in its words: the selector, most likely.
    Refused(String),
    /// No answer, or one that says to try again.
    Unavailable(String),
    /// Something was told that can't be understood, in words of ours. The other news are heard.
    Undecodable(String),
}

impl From<&RequestError> for WatchProblem {
    fn from(error: &RequestError) -> Self {
        match (error.code(), error) {
            (_, RequestError::Decode(message)) => Self::Undecodable(message.clone()),
            (404, _) => Self::NotServed,
            (401 | 403, error) => Self::Forbidden(error.to_string()),
            (400, error) => Self::Refused(error.to_string()),
            (_, error) => Self::Unavailable(error.to_string()),
        }
    }
}

impl WatchProblem {
    /// A constant word for condition reasons, labels and log fields.
    pub const fn kind(&self) -> &'static str {
        match self {
            Self::NotServed => "NotServed",
            Self::Forbidden(_) => "Forbidden",
            Self::Refused(_) => "Refused",
            Self::Unavailable(_) => "ApiUnavailable",
            Self::Undecodable(_) => "Undecodable",
        }
    }
}

impl fmt::Display for WatchProblem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotServed => {
                f.write_str("the API server does not serve this kind; is its CustomResourceDefinition installed?")
            }
            Self::Forbidden(message) => write!(f, "a permission to list or watch is missing: {message}"),
            Self::Refused(message) => write!(f, "the API server refuses the watch: {message}"),
            Self::Unavailable(message) => write!(f, "the API server can't be reached: {message}"),
            Self::Undecodable(message) => write!(f, "what the API server says can't be understood: {message}"),
        }
    }
}

/// How a watch is doing.
#[derive(Clone, Debug)]
pub struct WatchStatus {
    /// Whether everything that it covers has been listed once. It stays so when the connection is lost later: what is known
    /// then is old, not wrong.
    pub is_synced: bool,
    /// What is wrong at the moment.
    pub problem: Option<WatchProblem>,
    /// When something was last tried or heard: a list, a connection, an event.
    pub last_attempt: Instant,
}

impl WatchStatus {
    /// Whether it is in sync, or can't be for a reason that is its own (not served, forbidden, refused).
    pub fn is_settled(&self) -> bool {
        let is_its_own =
            |problem: &WatchProblem| !matches!(problem, WatchProblem::Unavailable(_) | WatchProblem::Undecodable(_));
        self.is_synced || self.problem.as_ref().is_some_and(is_its_own)
    }
}

/// All watches of this process.
#[derive(Clone)]
pub struct Watches {
    shared: Arc<Shared>,
}

struct Shared {
    client: Client,
    index: Arc<Index>,
    running: Mutex<BTreeMap<WatchKey, Running>>,
    /// Counts changes of any watch's state of synchronisation, and watches that ended, to wait for.
    changes: watch::Sender<u64>,
    failures: Arc<FailureCounts>,
}

/// How often watches did not get all news, by kind of the objects and of the problem. They outlive the watches.
#[derive(Default)]
struct FailureCounts(Mutex<BTreeMap<(String, &'static str), u64>>);

impl FailureCounts {
    fn count(&self, kind: &GroupVersionKind, problem: &'static str) {
        *self.lock().entry((kind.kind.clone(), problem)).or_default() += 1;
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<(String, &'static str), u64>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

struct Running {
    users: usize,
    task: AbortHandle,
    status: watch::Receiver<WatchStatus>,
}

/// Keeps a watch going until it is dropped.
pub struct WatchHandle {
    key: WatchKey,
    status: watch::Receiver<WatchStatus>,
    shared: Arc<Shared>,
}

impl Watches {
    /// None yet. `client` must have the timeouts of [`Clients::watch`](crate::client::Clients::watch).
    pub fn new(client: Client, index: Arc<Index>) -> Self {
        let running = Mutex::default();
        let (changes, failures) = (watch::Sender::new(0), Arc::default());
        Self { shared: Arc::new(Shared { client, index, running, changes, failures }) }
    }

    /// Starts a watch, or joins the one that is there. Must be called within a tokio runtime.
    ///
    /// # Errors
    /// When a name or the selector in it can't be used.
    pub fn start(&self, key: &WatchKey) -> Result<WatchHandle, WatchKeyError> {
        let path = path::collection(&key.resource, key.namespace.as_deref())
            .map_err(|source| WatchKeyError::Path { key: Box::new(key.clone()), source })?;
        let labels = Selector::parse(key.labels.as_deref().unwrap_or_default())
            .map_err(|source| WatchKeyError::Labels { key: Box::new(key.clone()), source })?;
        let scope = Scope { namespace: key.namespace.clone(), labels };
        let mut running = self.shared.running();
        let entry = running.entry(key.clone()).or_insert_with(|| self.shared.spawn(key, path, scope));
        entry.users += 1;
        Ok(WatchHandle { key: key.clone(), status: entry.status.clone(), shared: Arc::clone(&self.shared) })
    }

    /// How each watch is doing.
    pub fn statuses(&self) -> Vec<(WatchKey, WatchStatus)> {
        let running = self.shared.running();
        running.iter().map(|(key, entry)| (key.clone(), entry.status.borrow().clone())).collect()
    }

    /// How often watches did not get all news since the start: kind of the objects, word of the problem, number.
    pub fn failures(&self) -> Vec<(String, &'static str, u64)> {
        let counts = self.shared.failures.lock();
        counts.iter().map(|((kind, problem), count)| (kind.clone(), *problem, *count)).collect()
    }

    /// Watches that have tried nothing for this long, although each list, connection and silence has a time limit below it.
    pub fn stuck(&self, limit: Duration) -> Vec<WatchKey> {
        let stuck = self.statuses().into_iter().filter(|(_, status)| status.last_attempt.elapsed() > limit);
        stuck.map(|(key, _)| key).collect()
    }

    /// Tells when a watch has come in sync, has met a problem, or has ended.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.shared.changes.subscribe()
    }

    /// Waits until every watch is [settled](WatchStatus::is_settled).
    pub async fn settled(&self) {
        let mut changes = self.changes();
        while !self.statuses().iter().all(|(_, status)| status.is_settled()) {
            if changes.changed().await.is_err() {
                return;
            }
        }
    }
}

impl Shared {
    fn running(&self) -> MutexGuard<'_, BTreeMap<WatchKey, Running>> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn spawn(&self, key: &WatchKey, path: String, scope: Scope) -> Running {
        let initial = WatchStatus { is_synced: false, problem: None, last_attempt: Instant::now() };
        let (sender, status) = watch::channel(initial);
        let task = WatchTask::new(self, key, path, scope, sender);
        Running { users: 0, task: tokio::spawn(task.run()).abort_handle(), status }
    }
}

impl WatchHandle {
    /// What is watched.
    pub fn key(&self) -> &WatchKey {
        &self.key
    }

    /// How it is doing.
    pub fn status(&self) -> WatchStatus {
        self.status.borrow().clone()
    }

    /// Waits until everything that it covers has been listed once.
    pub async fn synced(&self) {
        self.when_synced().await;
    }

    /// As [`Self::synced`], for a task of its own. Returns also when the watch has ended.
    pub fn when_synced(&self) -> impl Future<Output = ()> + Send + use<> {
        let mut status = self.status.clone();
        async move {
            let _ = status.wait_for(|status| status.is_synced).await;
        }
    }
}

impl Drop for WatchHandle {
    fn drop(&mut self) {
        let mut running = self.shared.running();
        if let Some(entry) = running.get_mut(&self.key) {
            entry.users -= 1;
            if entry.users == 0 {
                entry.task.abort();
                running.remove(&self.key);
                self.shared.changes.send_modify(|count| *count += 1);
            }
        }
    }
}

#[cfg(test)]
mod tests;
