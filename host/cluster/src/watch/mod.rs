//! The watches: one task for each kind, scope and label selector that somebody is interested in, feeding the index.
//!
//! Users hold a [`WatchHandle`]; the same watch asked for twice is one. A watch that can't be had (its kind is not served, a
//! right is missing, the server is away) says so and tries again for ever; it never holds up another.

pub(crate) mod event;
mod failures;
mod key;
mod lines;
pub(crate) mod pages;
mod status;
mod stream;

use std::{
    collections::{BTreeMap, btree_map::Entry},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use dask_wasm_operator_core::{object::Part, selector::Selector};
use kube::Client;
use tokio::{sync::watch, task::AbortHandle, time::Instant};

pub use key::{WatchKey, WatchKeyError};
pub use status::{WatchProblem, WatchStatus};

use crate::{
    index::{Index, Scope, WatchId},
    path,
};
use failures::FailureCounts;
use stream::{Report, WatchTask};

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

struct Running {
    id: WatchId,
    /// What each user needs of the objects.
    parts: Vec<Part>,
    /// How often more was asked for than before. Everything is listed again then.
    grown: watch::Sender<u64>,
    task: AbortHandle,
    status: watch::Receiver<WatchStatus>,
}

impl Running {
    /// What all users need.
    fn part(&self) -> Part {
        self.parts.iter().fold(Part::METADATA, Part::and)
    }
}

/// Keeps a watch going until it is dropped.
pub struct WatchHandle {
    key: WatchKey,
    part: Part,
    /// The list after the watch had grown so often is the first that has all that is needed.
    grown: u64,
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

    /// Starts a watch of whole objects, or joins the one that is there. Must be called within a tokio runtime.
    ///
    /// # Errors
    /// When a name or the selector in it can't be used.
    pub fn start(&self, key: &WatchKey) -> Result<WatchHandle, WatchKeyError> {
        self.start_for(key, &Part::Whole)
    }

    /// As [`Self::start`], for a part of the objects. A watch keeps what all its users need. If one needs more than those
    /// before, everything is listed again, and for this user the watch is in sync after that.
    ///
    /// # Errors
    /// When a name or the selector in it can't be used.
    pub fn start_for(&self, key: &WatchKey, part: &Part) -> Result<WatchHandle, WatchKeyError> {
        let path = path::collection(&key.resource, key.namespace.as_deref())
            .map_err(|source| WatchKeyError::Path { key: Box::new(key.clone()), source })?;
        let labels = Selector::parse(key.labels.as_deref().unwrap_or_default())
            .map_err(|source| WatchKeyError::Labels { key: Box::new(key.clone()), source })?;
        let scope = Scope { namespace: key.namespace.clone(), labels };
        let mut running = self.shared.running();
        let entry = match running.entry(key.clone()) {
            Entry::Vacant(free) => free.insert(self.shared.spawn(key, path, scope, part)),
            Entry::Occupied(entry) => {
                let entry = entry.into_mut();
                let before = entry.part();
                entry.parts.push(part.clone());
                if !before.includes(part) {
                    self.shared.index.set_part(entry.id, entry.part());
                    entry.grown.send_modify(|count| *count += 1);
                }
                entry
            }
        };
        let (status, grown) = (entry.status.clone(), *entry.grown.borrow());
        Ok(WatchHandle { key: key.clone(), part: part.clone(), grown, status, shared: Arc::clone(&self.shared) })
    }

    /// How each watch is doing.
    pub fn statuses(&self) -> Vec<(WatchKey, WatchStatus)> {
        let running = self.shared.running();
        running.iter().map(|(key, entry)| (key.clone(), entry.status.borrow().clone())).collect()
    }

    /// How often watches did not get all news since the start: kind of the objects, word of the problem, number.
    pub fn failures(&self) -> Vec<(String, &'static str, u64)> {
        self.shared.failures.all()
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

    fn spawn(&self, key: &WatchKey, path: String, scope: Scope, part: &Part) -> Running {
        let initial = WatchStatus { is_synced: false, problem: None, grown: 0, last_attempt: Instant::now() };
        let (grown, growth) = watch::channel(0);
        let (sender, status) = watch::channel(initial);
        let (client, changes, failures) = (self.client.clone(), self.changes.clone(), Arc::clone(&self.failures));
        let report = Report { status: sender, changes, failures };
        let task = WatchTask::new(client, &self.index, key, path, scope, growth, report);
        let id = task.id();
        self.index.set_part(id, part.clone());
        Running { id, parts: vec![part.clone()], grown, task: tokio::spawn(task.run()).abort_handle(), status }
    }
}

impl WatchHandle {
    /// What is watched.
    pub fn key(&self) -> &WatchKey {
        &self.key
    }

    /// How it is doing.
    pub fn status(&self) -> WatchStatus {
        let mut status = self.status.borrow().clone();
        status.is_synced &= status.grown >= self.grown;
        status
    }

    /// Waits until everything that it covers has been listed once.
    pub async fn synced(&self) {
        self.when_synced().await;
    }

    /// As [`Self::synced`], for a task of its own. Returns also when the watch has ended.
    pub fn when_synced(&self) -> impl Future<Output = ()> + Send + use<> {
        let (mut status, grown) = (self.status.clone(), self.grown);
        async move {
            let _ = status.wait_for(|status| status.is_synced && status.grown >= grown).await;
        }
    }
}

impl Drop for WatchHandle {
    fn drop(&mut self) {
        let mut running = self.shared.running();
        if let Some(entry) = running.get_mut(&self.key) {
            if let Some(own) = entry.parts.iter().position(|part| *part == self.part) {
                entry.parts.swap_remove(own);
            }
            if entry.parts.is_empty() {
                entry.task.abort();
                running.remove(&self.key);
                self.shared.changes.send_modify(|count| *count += 1);
            } else {
                self.shared.index.set_part(entry.id, entry.part());
            }
        }
    }
}

#[cfg(test)]
mod tests;
