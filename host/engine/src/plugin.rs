//! A plugin that can be called: each call in a fresh sandbox, on a thread of the plugin's own.

use std::{num::NonZeroUsize, sync::Arc};

use dask_wasm_operator_core::{
    contract::{Call, Manifest},
    ports::{CallError, CallReport, Guest, Pending},
    spec::{Limits, Profile},
};
use futures::channel::oneshot;

use crate::{artifact::Digest, lane::Lane, sandbox::Sandbox};

/// How a plugin is to be loaded and called.
#[derive(Clone, Debug)]
pub struct PluginSettings {
    /// The digest of its program that its DaskPlugin promises.
    pub expected: Option<Digest>,
    /// What it may import.
    pub profile: Profile,
    /// What it may use.
    pub limits: Limits,
    /// Calls that may run at once. More wait.
    pub concurrency: NonZeroUsize,
}

impl Default for PluginSettings {
    fn default() -> Self {
        Self { expected: None, profile: Profile::default(), limits: Limits::default(), concurrency: NonZeroUsize::MIN }
    }
}

/// A plugin that is ready to be called.
pub struct LoadedPlugin {
    digest: Digest,
    manifest: Manifest,
    sandbox: Arc<Sandbox>,
    lane: Lane,
}

impl LoadedPlugin {
    /// Asks what it is; like any call, on the plugin's own thread.
    pub(crate) fn new(digest: Digest, sandbox: Sandbox, lane: Lane) -> Result<Self, CallError> {
        let sandbox = Arc::new(sandbox);
        let (answer_tx, answer_rx) = std::sync::mpsc::sync_channel(1);
        let asked = Arc::clone(&sandbox);
        lane.run(move || answer_tx.send(asked.describe()).unwrap_or_default()).map_err(|error| no_thread(&error))?;
        let manifest = answer_rx.recv().unwrap_or_else(|_| Err(lost()))?;
        Ok(Self { digest, manifest, sandbox, lane })
    }

    /// The digest of its program: that of the unpacked component.
    pub fn digest(&self) -> Digest {
        self.digest
    }

    /// What it says of itself: well-formed, but not yet compared with grants or with what the cluster serves.
    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// Calls a handler on the calling thread, which must have a stack of at least 8 MiB: for replays and measurements.
    pub fn call_blocking(&self, call: Call) -> CallReport {
        self.sandbox.call(call)
    }
}

impl Guest for LoadedPlugin {
    /// The call runs to its end even if nobody waits for the answer any more; one that has not begun is left out.
    fn call(&self, call: Call) -> Pending<'_, CallReport> {
        let (report_tx, report_rx) = oneshot::channel();
        let sandbox = Arc::clone(&self.sandbox);
        let queued = self.lane.run(move || {
            if !report_tx.is_canceled() {
                // The receiver may be gone by now.
                let _ = report_tx.send(sandbox.call(call));
            }
        });
        Box::pin(async move {
            match queued {
                Ok(()) => report_rx.await.unwrap_or_else(|_| not_made(lost())),
                Err(error) => not_made(no_thread(&error)),
            }
        })
    }
}

fn not_made(error: CallError) -> CallReport {
    CallReport { result: Err(error), log: Vec::new(), log_dropped: 0, duration: std::time::Duration::ZERO }
}

fn no_thread(error: &std::io::Error) -> CallError {
    CallError::Host(format!("no thread can be started for it: {error}"))
}

fn lost() -> CallError {
    CallError::Host("its thread ended before it had answered; this is a bug in the operator".into())
}
