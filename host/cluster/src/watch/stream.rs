//! One watch: list everything, then follow the changes, over and over.
//!
//! kube's own watcher does the same, but tells neither its attempts, on which liveness rests, nor bookmarks, by which the
//! index knows how far a watch has come.

use std::{pin::pin, sync::Arc, time::Duration};

use dask_wasm_operator_core::object::{GroupVersionKind, Object, WireObject};
use futures::TryStreamExt;
use http::Request;
use kube::{Client, api::WatchEvent};
use serde::Deserialize;
use serde_json::value::RawValue;
use tokio::{
    sync::watch,
    time::{Instant, sleep, timeout},
};

use super::{Shared, WatchKey, WatchProblem, WatchStatus};
use crate::{
    backoff::Backoff,
    client::WATCH_SECONDS,
    index::{Index, Scope, WatchId, version_of},
    path::with_parameter,
    request::{Call, RequestError},
};

/// Objects in one page of a list.
const PAGE: &str = "500";

/// How long one page may take.
const LIST_DEADLINE: Duration = Duration::from_secs(40);

/// How long to wait for the next event: the server ends the watch before.
const SILENCE_LIMIT: Duration = Duration::from_secs(WATCH_SECONDS + 5);

/// A watch that ends sooner than this without an event counts as failed: a server that accepts and hangs up is not hammered.
const SHORTEST_WATCH: Duration = Duration::from_secs(1);

/// Waits between attempts.
const BACKOFF: Backoff = Backoff::new(Duration::from_millis(200), Duration::from_secs(15));

/// A running watch.
pub(super) struct WatchTask {
    client: Client,
    index: Arc<Index>,
    watch: Registration,
    kind: Arc<GroupVersionKind>,
    key: WatchKey,
    path: String,
    status: watch::Sender<WatchStatus>,
    changes: watch::Sender<u64>,
}

/// The watch in the index, as long as the task lives.
struct Registration {
    index: Arc<Index>,
    id: WatchId,
}

impl Drop for Registration {
    fn drop(&mut self) {
        self.index.remove_watch(self.id);
    }
}

/// Why a watch did not go on.
enum Interruption {
    /// The resource version is too old to go on from.
    Expired,
    /// The request failed.
    Failed(RequestError),
}

impl From<RequestError> for Interruption {
    fn from(error: RequestError) -> Self {
        if error.code() == 410 { Self::Expired } else { Self::Failed(error) }
    }
}

#[derive(Deserialize)]
struct Page {
    metadata: PageMetadata,
    #[serde(default)]
    items: Option<Vec<Box<RawValue>>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct PageMetadata {
    resource_version: String,
    #[serde(default, rename = "continue")]
    next: String,
}

impl WatchTask {
    pub(super) fn new(
        shared: &Shared,
        key: &WatchKey,
        path: String,
        scope: Scope,
        status: watch::Sender<WatchStatus>,
    ) -> Self {
        let kind = Arc::new(key.resource.kind.clone());
        let id = shared.index.add_watch(&kind, scope);
        let path = match &key.labels {
            Some(labels) => with_parameter(path, "labelSelector", labels),
            None => path,
        };
        Self {
            client: shared.client.clone(),
            index: Arc::clone(&shared.index),
            watch: Registration { index: Arc::clone(&shared.index), id },
            kind,
            key: key.clone(),
            path,
            status,
            changes: shared.changes.clone(),
        }
    }

    pub(super) async fn run(self) {
        let mut backoff = BACKOFF;
        // Apart from the other: a list succeeds, and the watch from its very version may be refused again.
        let mut expiries = BACKOFF;
        let mut version = None;
        loop {
            let outcome = match version {
                None => self.list().await,
                Some(from) => self.follow(from).await.inspect(|_| expiries.reset()),
            };
            match outcome {
                Ok(reached) => {
                    version = Some(reached);
                    backoff.reset();
                }
                Err(Interruption::Expired) => {
                    version = None;
                    sleep(expiries.after_failure()).await;
                }
                Err(Interruption::Failed(error)) => {
                    if error.code() == 404 {
                        version = None;
                    }
                    self.report(&error);
                    sleep(backoff.after_failure()).await;
                }
            }
        }
    }

    /// Lists all pages, of which the first is as recent as any answer of the server.
    async fn list(&self) -> Result<u64, Interruption> {
        let mut objects = Vec::new();
        let mut next = String::new();
        loop {
            let mut path = with_parameter(self.path.clone(), "limit", PAGE);
            if !next.is_empty() {
                path = with_parameter(path, "continue", &next);
            }
            self.attempt();
            let page: Page = Call::get(&path).send(&self.client, LIST_DEADLINE).await?.decode()?;
            objects.extend(page.items.unwrap_or_default().iter().filter_map(|item| self.decode(item)));
            if page.metadata.next.is_empty() {
                let version = number(&page.metadata.resource_version)?;
                self.index.relisted(self.watch.id, version, objects);
                self.synced();
                return Ok(version);
            }
            next = page.metadata.next;
        }
    }

    /// Follows the changes until the server ends the watch; returns how far it came.
    async fn follow(&self, from: u64) -> Result<u64, Interruption> {
        let mut path = with_parameter(self.path.clone(), "watch", "true");
        for (name, value) in [
            ("allowWatchBookmarks", "true"),
            ("timeoutSeconds", &*WATCH_SECONDS.to_string()),
            ("resourceVersion", &*from.to_string()),
        ] {
            path = with_parameter(path, name, value);
        }
        let request =
            Request::get(path).body(Vec::new()).map_err(|error| RequestError::Transport(error.to_string()))?;
        let started = Instant::now();
        self.attempt();
        let connected = timeout(SILENCE_LIMIT, self.client.request_events::<WireObject>(request)).await;
        let events = connected.map_err(|_| RequestError::Timeout(SILENCE_LIMIT))?.map_err(RequestError::from_kube)?;
        let mut events = pin!(events);
        self.healthy();
        let mut version = from;
        loop {
            let next = timeout(SILENCE_LIMIT, events.try_next()).await;
            self.attempt();
            let event = match next.map_err(|_| RequestError::Timeout(SILENCE_LIMIT))? {
                Ok(Some(event)) => event,
                Ok(None) if version == from && started.elapsed() < SHORTEST_WATCH => {
                    return Err(RequestError::Transport("the server ended a watch at once".to_owned()).into());
                }
                Ok(None) => return Ok(version),
                Err(kube::Error::SerdeError(error)) => {
                    self.skip(&error);
                    continue;
                }
                // What was told so far stands; the next attempt goes on from there.
                Err(error) if version > from => {
                    self.report(&RequestError::from_kube(error));
                    return Ok(version);
                }
                Err(error) => return Err(RequestError::from_kube(error).into()),
            };
            version = version.max(self.handle(event)?);
        }
    }

    fn handle(&self, event: WatchEvent<WireObject>) -> Result<u64, Interruption> {
        match event {
            WatchEvent::Added(object) | WatchEvent::Modified(object) => {
                let object = self.object(object);
                let version = version_of(&object);
                self.index.observed(self.watch.id, object);
                Ok(version)
            }
            WatchEvent::Deleted(object) => {
                let object = self.object(object);
                self.index.vanished(self.watch.id, &object);
                Ok(version_of(&object))
            }
            WatchEvent::Bookmark(bookmark) => {
                let version = number(&bookmark.metadata.resource_version)?;
                self.index.advanced(self.watch.id, version);
                Ok(version)
            }
            WatchEvent::Error(status) => Err(RequestError::from_kube(kube::Error::Api(status)).into()),
        }
    }

    fn object(&self, object: WireObject) -> Object {
        self.index.object(&self.kind, object)
    }

    fn decode(&self, item: &RawValue) -> Option<Object> {
        match serde_json::from_str::<WireObject>(item.get()) {
            Ok(object) => Some(self.object(object)),
            Err(error) => {
                self.skip(&error);
                None
            }
        }
    }

    /// An object whose very metadata can't be understood, or that nests beyond all bounds, is no object for us; the others are.
    fn skip(&self, error: &serde_json::Error) {
        tracing::warn!(watch = %self.key, %error, "an object that can't be decoded is ignored");
    }

    fn attempt(&self) {
        self.update(|status| status.last_attempt = Instant::now());
    }

    fn healthy(&self) {
        self.update(|status| status.problem = None);
    }

    fn synced(&self) {
        if !self.status.borrow().is_synced {
            tracing::debug!(watch = %self.key, "in sync");
        }
        self.update(|status| {
            status.is_synced = true;
            status.problem = None;
        });
        self.tell();
    }

    fn report(&self, error: &RequestError) {
        let problem = match (error.code(), error.to_string()) {
            (404, _) => WatchProblem::NotServed,
            (401 | 403, message) => WatchProblem::Forbidden(message),
            (400, message) => WatchProblem::Refused(message),
            (_, message) => WatchProblem::Unavailable(message),
        };
        // Said once, not at each attempt.
        if self.status.borrow().problem.as_ref().map(WatchProblem::kind) != Some(problem.kind()) {
            tracing::warn!(watch = %self.key, reason = problem.kind(), %error, "a watch gets no news");
        }
        self.update(|status| status.problem = Some(problem));
        self.tell();
    }

    fn update(&self, update: impl FnOnce(&mut WatchStatus)) {
        self.status.send_modify(update);
    }

    fn tell(&self) {
        self.changes.send_modify(|count| *count += 1);
    }
}

fn number(version: &str) -> Result<u64, RequestError> {
    version.parse().map_err(|_| RequestError::Decode(format!("resourceVersion {version:?} is not a number")))
}
