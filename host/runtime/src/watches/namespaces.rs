//! Keeps what is watched and worked on to the namespaces that are served, as these come and go.
//!
//! Where all namespaces are served, there is nothing to follow. A namespace is worked on when all of its objects are known: with half of
//! them, workers that exist would be made again. `run` starts it; it writes nothing.

use std::{collections::BTreeSet, sync::Arc};

use dask_wasm_operator_cluster::{
    index::Index,
    watch::{WatchKey, WatchKeyError, Watches},
};
use dask_wasm_operator_core::object::{GroupVersionKind, Resource};
use tokio::sync::Notify;

use super::served::ServedWatches;
use crate::{controller::Controller, process::shutdown::Shutdown, settings::Scope};

/// What the follower needs.
pub(crate) struct NamespaceFollower {
    pub(crate) scope: Scope,
    pub(crate) index: Arc<Index>,
    pub(crate) watches: Watches,
    pub(crate) served: ServedWatches,
    pub(crate) controller: Arc<Controller>,
    /// Told when a Namespace changed.
    pub(crate) changed: Arc<Notify>,
    /// Namespaces that are worked on.
    pub(crate) worked_on: BTreeSet<String>,
}

/// The kind that tells which namespaces there are.
pub(crate) fn namespace_kind() -> GroupVersionKind {
    GroupVersionKind::new("", "v1", "Namespace")
}

/// The watch that patterns need.
pub(crate) fn namespace_watch() -> WatchKey {
    let resource = Resource { kind: namespace_kind(), plural: "namespaces".to_owned(), namespaced: false };
    WatchKey { resource, namespace: None, labels: None }
}

impl NamespaceFollower {
    /// Settles on the namespaces that are there at start.
    ///
    /// # Errors
    /// When the name of a namespace can't be used.
    pub(crate) async fn begin(&mut self) -> Result<(), WatchKeyError> {
        self.look()?;
        self.watches.settled().await;
        self.look()
    }

    /// Works until told to stop.
    pub(crate) async fn run(mut self, mut shutdown: Shutdown) {
        let mut changes = self.watches.changes();
        loop {
            if let Err(error) = self.look() {
                tracing::error!(%error, "a namespace can't be served");
            }
            tokio::select! {
                () = shutdown.requested() => return,
                () = self.changed.notified() => {}
                changed = changes.changed() => if changed.is_err() { return },
            }
        }
    }

    fn look(&mut self) -> Result<(), WatchKeyError> {
        let served = match &self.scope {
            Scope::AllNamespaces => return Ok(()),
            Scope::Namespaces(names) => names.clone(),
            Scope::Matching(patterns) => {
                let there = self.index.list(&namespace_kind());
                let names = there.iter().map(|namespace| namespace.metadata.name.as_str());
                let matching: BTreeSet<String> =
                    names.filter(|name| patterns.matches(name)).map(str::to_owned).collect();
                self.served.serve(&matching)?;
                matching
            }
        };
        // A plugin that was mounted since may have to list first; that is no reason to stop.
        let known = self.served.known();
        let worked_on: BTreeSet<String> =
            served.into_iter().filter(|name| known.contains(name) || self.worked_on.contains(name)).collect();
        for name in worked_on.difference(&self.worked_on) {
            tracing::info!(namespace = name, "namespace is served");
        }
        for name in self.worked_on.difference(&worked_on) {
            tracing::info!(namespace = name, "namespace is gone");
        }
        self.worked_on.clone_from(&worked_on);
        self.controller.serve(worked_on);
        Ok(())
    }
}
