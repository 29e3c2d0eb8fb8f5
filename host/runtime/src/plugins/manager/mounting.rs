//! From plugins that are loaded to handlers that are called, and back.

use std::sync::Arc;

use dask_wasm_operator_cluster::{discovery::KindTable, watch::WatchKey};
use dask_wasm_operator_core::{
    contract::KindReference,
    object::Resource,
    spec::{DaskPluginSpec, PluginState, RemovalPolicy},
};
use tokio::time::Instant;

use super::PluginManager;
use crate::{
    plugins::{
        entry::{Entry, Prepared, Served},
        mount::Mounting,
        progress::Stage,
        report::{Report, Step},
        status::{Newest, Serving},
        sweep::{Declared, Reach, Sweep},
        watches::start_watches,
    },
    watches::served::ServedWatch,
};

impl PluginManager {
    /// Resolves what a loaded plugin asks for and starts the watches that its handlers need.
    pub(super) fn prepare_mount(&mut self, name: &str) {
        let table = self.surroundings.discovery.table();
        let resolve = |reference: &KindReference| resolve(&table, reference);
        let Some(entry) = self.plugins.get_mut(name) else { return };
        let (Some(prepared), Some(edition)) = (entry.prepared.clone(), entry.progress.edition()) else { return };
        let mut mounting = prepared.mount(name, &entry.identity, &resolve);
        entry.missing = prepared.kinds().filter(|kind| resolve(kind).is_err()).cloned().collect();
        // What the former code needs is let go only when this one is called: without news it would be misled.
        entry.watches_to_come = start_watches(&mut mounting, &self.surroundings.served, &resolve);
        entry.progress.reach(Stage::Described);
        let sync: Vec<_> = entry.watches_to_come.iter().map(ServedWatch::when_synced).collect();
        let step = Step::Synced(Box::new((prepared, mounting)));
        let (report, reports_tx) = (Report { plugin: name.to_owned(), edition, step }, self.reports_tx.clone());
        tokio::spawn(async move {
            futures::future::join_all(sync).await;
            // The manager may be gone by now.
            let _ = reports_tx.send(report);
        });
        self.await_kinds();
        self.statuses.soon();
    }

    /// All that the handlers need is known: they are called from now on.
    pub(super) fn mounted(&mut self, name: String, (prepared, mounting): (Prepared, Mounting)) {
        let Some(entry) = self.plugins.get_mut(&name) else { return };
        let manifest = prepared.loaded.manifest();
        let table = self.surroundings.discovery.table();
        let declared = Declared::by(manifest, &|reference| Some(resolve(&table, reference).ok()?.kind));
        let unswept = self.sweeps.stop(&name);
        let drops = entry.served.as_ref().is_some_and(|former| former.declared.exceeds(&declared));
        let must_sweep = drops || unswept.is_some();
        entry.reach.join(unswept.unwrap_or_default());
        self.surroundings.controller.mount(&name, &mounting.handlers);
        let former_watches = std::mem::replace(&mut entry.watches, std::mem::take(&mut entry.watches_to_come));
        let serving = Serving {
            digest: prepared.loaded.digest().to_string(),
            manifest: manifest.clone(),
            handlers: mounting.statuses,
        };
        entry.progress.reach(Stage::Mounted(if mounting.handlers.is_empty() {
            Newest::new(
                PluginState::NotServed,
                "NoHandlerServed",
                "none of its handlers is served; status.handlers says why",
            )
        } else {
            let called = format!("{} handlers are called", mounting.handlers.len());
            let message = match mounting.ungranted.as_slice() {
                [] => called,
                ungranted => format!("{called}; asked for and not granted: {}", ungranted.join(", ")),
            };
            Newest::new(PluginState::Ready, "Ready", message)
        }));
        tracing::info!(plugin = name, handlers = mounting.handlers.len(), "plugin mounted");
        let handlers = mounting.handlers.iter().map(|handler| handler.name.handler.clone()).collect();
        entry.served = Some(Served { prepared, handlers, declared: declared.clone(), serving });
        if must_sweep {
            let (plugin, reach, identity) = (name, entry.reach.clone(), entry.identity.clone());
            let sweep = Sweep { plugin, reach, declared, identity, is_removal: false };
            self.sweeps.start(&self.surroundings, sweep, former_watches);
        }
        self.statuses.soon();
    }

    /// What is not allowed any more is taken from what serves at once, whatever becomes of the newer specification and code.
    pub(super) fn revoke(&mut self, name: &str, newer: &DaskPluginSpec) {
        let Some(Entry { served: Some(served), identity, .. }) = self.plugins.get_mut(name) else { return };
        let left = served.prepared.spec.restricted_by(newer);
        if left.as_ref() == Some(&served.prepared.spec) || served.handlers.is_empty() {
            return;
        }
        let mut handlers = Vec::new();
        if let Some(left) = left {
            served.prepared.spec = left;
            let table = self.surroundings.discovery.table();
            handlers = served.prepared.mount(name, identity, &|reference| resolve(&table, reference)).handlers;
            handlers.retain(|handler| served.handlers.contains(&handler.name.handler));
        }
        served.handlers = handlers.iter().map(|handler| handler.name.handler.clone()).collect();
        tracing::info!(plugin = name, handlers = handlers.len(), "what the plugin may do was restricted");
        self.surroundings.controller.mount(name, &handlers);
    }

    /// Its handlers are not called any more; children stay.
    pub(super) fn halt(&mut self, name: &str, newest: Newest) {
        tracing::info!(plugin = name, reason = newest.reason, message = newest.message, "plugin halted");
        self.surroundings.controller.mount(name, &[]);
        if let Some(entry) = self.plugins.get_mut(name) {
            entry.progress.reach(Stage::Refused(newest));
            (entry.prepared, entry.served) = (None, None);
            entry.missing.clear();
            entry.watches.clear();
            entry.watches_to_come.clear();
        }
        self.await_kinds();
        self.statuses.soon();
    }

    /// It is gone, and with it what it made, if that is wanted.
    pub(super) fn remove(&mut self, name: &str) {
        let Some(entry) = self.plugins.remove(name) else { return };
        let prune = entry.on_removal == Some(RemovalPolicy::Prune);
        tracing::info!(plugin = name, prune, "plugin removed");
        self.surroundings.controller.mount(name, &[]);
        let reach = if prune { entry.reach } else { Reach::default() };
        let (plugin, declared, identity) = (name.to_owned(), Declared::nothing(), entry.identity);
        let sweep = Sweep { plugin, reach, declared, identity, is_removal: true };
        self.sweeps.start(&self.surroundings, sweep, entry.watches);
        self.await_kinds();
    }

    /// Looks out for kinds as long as plugins wait for some.
    fn await_kinds(&mut self) {
        if self.plugins.values().all(|entry| entry.missing.is_empty()) {
            self.awaited.stop();
            self.definitions = None;
            return;
        }
        self.awaited.soon(Instant::now());
        if let Some(definitions) = self.surroundings.definitions.as_ref().filter(|_| self.definitions.is_none()) {
            let key = WatchKey { resource: definitions.clone(), namespace: None, labels: None };
            match self.surroundings.watches.start(&key) {
                Ok(handle) => self.definitions = Some(handle),
                Err(error) => tracing::warn!(%error, "CRDs can't be watched; new kinds are noticed later"),
            }
        }
    }

    /// Asks for kinds that were missed.
    pub(super) fn ask_for_kinds(&mut self) {
        self.awaited.asked(Instant::now());
        if self.asking.is_empty() {
            let discovery = Arc::clone(&self.surroundings.discovery);
            self.asking.spawn(async move {
                if let Err(error) = discovery.refresh().await {
                    tracing::debug!(%error, "which kinds are served can't be asked");
                }
            });
        }
    }

    /// Mounts what can be served with the kinds that are there now.
    pub(super) fn asked_for_kinds(&mut self) {
        let table = self.surroundings.discovery.table();
        let mut names = Vec::new();
        // Where newer code or grants are no good, what serves stays as it was mounted.
        for (name, entry) in &mut self.plugins {
            let Some(prepared) = entry.prepared.as_ref().filter(|_| entry.progress.is_mounted()) else { continue };
            if entry.missing.iter().any(|kind| table.resolve(kind).is_ok()) {
                names.push(name.clone());
            } else {
                // What has vanished is waited for, too.
                entry.missing = prepared.kinds().filter(|kind| table.resolve(kind).is_err()).cloned().collect();
            }
        }
        names.iter().for_each(|name| self.prepare_mount(name));
    }
}

fn resolve(table: &KindTable, reference: &KindReference) -> Result<Resource, String> {
    table.resolve(reference).map(|served| served.resource.clone()).map_err(|error| error.to_string())
}
