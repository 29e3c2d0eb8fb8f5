//! Loads plugins: each by a task of its own, whose end the manager hears of.

use std::sync::Arc;

use dask_wasm_operator_core::{
    error::chain,
    quote::says_the_same,
    retry::Retry,
    spec::{DaskPluginSpec, PluginState},
};
use dask_wasm_operator_engine::LoadedPlugin;
use tokio::{task::spawn_blocking, time::Instant};

use super::{PluginManager, fingerprint};
use crate::plugins::{
    entry::Prepared,
    prepare::{prepare, require_digest},
    source::Code,
    status::Newest,
    surroundings::ManagerSurroundings,
};

impl PluginManager {
    /// `version` stands for the code.
    pub(super) fn load(&mut self, name: String, looked_at: u64, version: u64, code: Code, spec: DaskPluginSpec) {
        let Some(entry) = self.plugins.get_mut(&name) else { return };
        let loaded_by = serde_json::to_string(&(&spec.source, &spec.limits, spec.profile)).unwrap_or_default();
        let loaded_of = fingerprint(&(version, loaded_by));
        if let Some(prepared) = entry.prepared.as_ref().filter(|prepared| prepared.loaded_of == loaded_of) {
            // The very code is loaded: what changed is what it may do.
            let loaded = Arc::clone(&prepared.loaded);
            let prepared = allowed(&code, &spec, &loaded).map(|()| Prepared { loaded, loaded_of, spec });
            return self.loaded(&name, looked_at, prepared);
        }
        // One that is tried again keeps saying why it has to be.
        if entry.backoff.attempts() == 0 {
            entry.standing.newest =
                Newest::new(PluginState::Compiling, "Loading", "its code is being checked and compiled");
        }
        let surroundings = Arc::clone(&self.surroundings);
        let loading = self.loads.spawn(async move {
            let loaded = load(&surroundings, code, spec, loaded_of).await;
            (name, looked_at, loaded)
        });
        entry.loading = Some(loading);
    }

    /// A load came to its end.
    pub(super) fn loaded(&mut self, name: &str, looked_at: u64, loaded: Result<Prepared, Newest>) {
        let Some(entry) = self.plugins.get_mut(name).filter(|entry| entry.looked_at == Some(looked_at)) else { return };
        match loaded {
            Ok(prepared) => {
                entry.backoff.succeed();
                entry.prepared = Some(prepared);
                self.prepare_mount(name);
            }
            Err(newest) => {
                let is_the_hosts =
                    matches!(newest.reason.as_str(), "HostFailure" | "FileNotReadable" | "ConfigMapNotReadable");
                if is_the_hosts && let Retry::After(delay) = entry.backoff.fail(&name, None, None) {
                    entry.retry = Some(Instant::now() + delay);
                }
                self.fail(name, newest);
            }
        }
    }

    /// The newest is no good. What serves goes on.
    pub(super) fn fail(&mut self, name: &str, newest: Newest) {
        let before = self.plugins.get(name).map(|entry| &entry.standing.newest);
        let is_same = |before: &Newest| {
            (before.state, &before.reason, &before.digest) == (newest.state, &newest.reason, &newest.digest)
                && says_the_same(&before.message, &newest.message)
        };
        if before.is_some_and(is_same) {
            tracing::debug!(plugin = name, reason = newest.reason, message = newest.message, "plugin still not ready");
            return;
        }
        tracing::warn!(plugin = name, reason = newest.reason, message = newest.message, "plugin not ready");
        if let Some(entry) = self.plugins.get_mut(name) {
            entry.standing.newest = newest;
        }
        self.statuses.soon();
    }
}

/// Reads, checks and compiles. Takes its time.
async fn load(
    surroundings: &ManagerSurroundings,
    code: Code,
    spec: DaskPluginSpec,
    loaded_of: u64,
) -> Result<Prepared, Newest> {
    let parts = code.clone().read(&surroundings.config_maps).await;
    let parts = parts.map_err(|error| Newest::new(PluginState::Failed, error.reason(), chain(&error)))?;
    let engine = surroundings.engine.clone();
    let loading = spawn_blocking(move || {
        let parts: Vec<&[u8]> = parts.iter().map(Vec::as_slice).collect();
        let loaded = prepare(&engine, &parts, &spec).map_err(|error| {
            // By the digest of a file that is no code one could guess at what is in it.
            let tells_digest = matches!(code, Code::ConfigMaps(_)) || error.reason() != "NotWasm";
            let digest = tells_digest.then(|| dask_wasm_operator_engine::digest(&parts).ok()).flatten();
            Newest {
                digest: digest.map(|digest| digest.to_string()),
                ..Newest::new(PluginState::Failed, error.reason(), chain(&error))
            }
        })?;
        allowed(&code, &spec, &loaded)?;
        Ok(Prepared { loaded: Arc::new(loaded), loaded_of, spec })
    });
    let lost = |_| Err(Newest::new(PluginState::Failed, "HostFailure", "loading it was given up"));
    loading.await.unwrap_or_else(lost)
}

/// Whether code may have what its DaskPlugin grants.
fn allowed(code: &Code, spec: &DaskPluginSpec, loaded: &LoadedPlugin) -> Result<(), Newest> {
    if let Code::File(_) = code {
        return Ok(());
    }
    require_digest(spec, loaded).map_err(|error| Newest {
        digest: Some(loaded.digest().to_string()),
        ..Newest::new(PluginState::Failed, error.reason(), chain(&error))
    })
}
