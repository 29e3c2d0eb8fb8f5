//! What is known of one plugin, from its code to the handlers that are called.

use std::sync::Arc;

use dask_wasm_operator_cluster::watch::{WatchKey, WatchProblem};
use dask_wasm_operator_core::{
    contract::KindReference,
    identity::Identity,
    object::Resource,
    ports::Guest,
    spec::{DaskPluginSpec, RemovalPolicy},
};
use dask_wasm_operator_engine::LoadedPlugin;
use tokio::task::AbortHandle;

use super::{
    directory::Origin,
    mount::{Mountable, Mounting, mount},
    progress::Progress,
    status::Serving,
    sweep::{Declared, Reach},
};
use crate::watches::served::ServedWatch;

/// Everything about one plugin.
#[derive(Default)]
pub(super) struct Entry {
    /// Where its newest code stands.
    pub(super) progress: Progress,
    pub(super) generation: Option<i64>,
    pub(super) origin: Origin,
    /// None: its specification could not be read so far.
    pub(super) on_removal: Option<RemovalPolicy>,
    /// In whose name it writes from now on, and is swept.
    pub(super) identity: Identity,
    /// The newest that could be loaded.
    pub(super) prepared: Option<Prepared>,
    pub(super) loading: Option<AbortHandle>,
    /// What serves calls.
    pub(super) served: Option<Served>,
    /// Watches that the handlers that are called need.
    pub(super) watches: Vec<ServedWatch>,
    /// Watches that those need that are about to be.
    pub(super) watches_to_come: Vec<ServedWatch>,
    /// Kinds that it needs and that are not served.
    pub(super) missing: Vec<KindReference>,
    /// In what it may have left something since this process knows it.
    pub(super) reach: Reach,
}

impl Entry {
    /// A watch that has no news, and why.
    pub(super) fn watch_problem(&self) -> Option<(WatchKey, WatchProblem)> {
        self.watches_to_come.iter().chain(&self.watches).find_map(ServedWatch::problem)
    }
}

/// A plugin that has described itself, and the specification that it was loaded for.
#[derive(Clone)]
pub(super) struct Prepared {
    pub(super) loaded: Arc<LoadedPlugin>,
    /// Fingerprint of the code and of what else it was loaded by.
    pub(super) loaded_of: u64,
    pub(super) spec: DaskPluginSpec,
}

impl Prepared {
    pub(super) fn mount(
        &self,
        name: &str,
        identity: &Identity,
        resolve: &dyn Fn(&KindReference) -> Result<Resource, String>,
    ) -> Mounting {
        let guest: Arc<dyn Guest> = self.loaded.clone();
        let digest = self.loaded.digest().to_string();
        let (manifest, identity) = (self.loaded.manifest(), identity.clone());
        mount(&Mountable { name, spec: &self.spec, manifest, digest: &digest, identity, guest }, resolve)
    }

    /// The kinds that it needs.
    pub(super) fn kinds(&self) -> impl Iterator<Item = &KindReference> {
        let manifest = self.loaded.manifest();
        let subjects = manifest.handlers.iter().map(|handler| &handler.subscription.kind);
        subjects.chain(&manifest.permissions.create)
    }
}

/// What serves a plugin's calls.
pub(super) struct Served {
    pub(super) prepared: Prepared,
    pub(super) handlers: Vec<String>,
    pub(super) declared: Declared,
    /// For people.
    pub(super) serving: Serving,
}
