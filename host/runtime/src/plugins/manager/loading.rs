//! Loads plugins: each by a task of its own, whose end the manager hears of.

use std::sync::Arc;

use dask_wasm_operator_core::{
    error::chain,
    spec::{DaskPluginSpec, PluginState},
};
use dask_wasm_operator_engine::LoadedPlugin;
use tokio::{task::spawn_blocking, time::Instant};

use super::{PluginManager, fingerprint};
use crate::plugins::{
    entry::Prepared,
    prepare::{prepare, require_digest},
    progress::{Refusal, Stage},
    report::{Report, Step},
    source::Code,
    status::Newest,
    surroundings::ManagerSurroundings,
};

impl PluginManager {
    /// `version` stands for the code.
    pub(super) fn load(&mut self, name: &str, version: u64, code: Code, spec: DaskPluginSpec) {
        let Some(entry) = self.plugins.get_mut(name) else { return };
        let Some(edition) = entry.progress.edition() else { return };
        let loaded_by = serde_json::to_string(&(&spec.source, &spec.limits, spec.profile)).unwrap_or_default();
        let loaded_of = fingerprint(&(version, loaded_by));
        if let Some(prepared) = entry.prepared.as_ref().filter(|prepared| prepared.loaded_of == loaded_of) {
            // The very code is loaded: what changed is what it may do.
            let loaded = Arc::clone(&prepared.loaded);
            let prepared = allowed(&code, &spec, &loaded).map(|()| Prepared { loaded, loaded_of, spec });
            return self.loaded(name, prepared);
        }
        entry.progress.reach(Stage::Awaited);
        let (surroundings, reports_tx, plugin) =
            (Arc::clone(&self.surroundings), self.reports_tx.clone(), name.to_owned());
        let report = move |step| {
            // The manager may be gone by now.
            let _ = reports_tx.send(Report { plugin: plugin.clone(), edition, step });
        };
        entry.loading = Some(self.loads.spawn(async move {
            let loaded = load(&surroundings, code, spec, loaded_of, &report).await;
            report(Step::Loaded(Box::new(loaded)));
        }));
    }

    /// A load came to its end.
    pub(super) fn loaded(&mut self, name: &str, loaded: Result<Prepared, Newest>) {
        let Some(entry) = self.plugins.get_mut(name) else { return };
        match loaded {
            Ok(prepared) => {
                entry.prepared = Some(prepared);
                self.prepare_mount(name);
            }
            Err(newest) => {
                let is_the_hosts =
                    matches!(newest.reason.as_str(), "HostFailure" | "FileNotReadable" | "ConfigMapNotReadable");
                if is_the_hosts {
                    entry.progress.try_later(&name, Instant::now());
                }
                self.fail(name, newest);
            }
        }
    }

    /// The newest is no good. What serves goes on.
    pub(super) fn fail(&mut self, name: &str, newest: Newest) {
        let Some(entry) = self.plugins.get_mut(name) else { return };
        let (reason, message) = (newest.reason.clone(), newest.message.clone());
        match entry.progress.refuse(newest) {
            Refusal::Known => tracing::debug!(plugin = name, reason, message, "plugin still not ready"),
            Refusal::New => {
                tracing::warn!(plugin = name, reason, message, "plugin not ready");
                self.statuses.soon();
            }
        }
    }
}

/// Reads, checks and compiles. Takes its time.
async fn load(
    surroundings: &ManagerSurroundings,
    code: Code,
    spec: DaskPluginSpec,
    loaded_of: u64,
    report: impl Fn(Step),
) -> Result<Prepared, Newest> {
    let program = code.clone().read(&surroundings.config_maps).await;
    let program = program.map_err(|error| Newest::new(PluginState::Failed, error.reason(), chain(&error)))?;
    report(Step::Read);
    let engine = surroundings.engine.clone();
    let loading = spawn_blocking(move || {
        let loaded = prepare(&engine, &program, &spec).map_err(|error| {
            // By the digest of a file that is no code one could guess at what is in it.
            let tells_digest = matches!(code, Code::ConfigMaps(_)) || error.reason() != "NotWasm";
            let digest = tells_digest.then(|| dask_wasm_operator_engine::digest(&program).ok()).flatten();
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
