//! A plugin's life from bytes to calls: read, checked, compiled, linked, described, validated.

use std::{num::NonZeroUsize, sync::Arc};

use dask_wasm_operator_core::{
    contract::{Call, Manifest},
    ports::{CallError, CallReport, Guest, Pending},
    spec::{COMPONENT_BYTES, Limits, Profile},
};
use futures::channel::oneshot;

use crate::{
    artifact::{Artifact, ArtifactError, Digest},
    compile::CompileError,
    engine::Engine,
    inspect::{InspectError, inspect},
    lane::Lane,
    manifest::{ManifestError, validate},
    sandbox::Sandbox,
};

/// How a plugin is to be loaded and called.
#[derive(Clone, Debug)]
pub struct PluginSettings {
    /// The digest that its DaskPlugin promises, of the unpacked component.
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

impl Engine {
    /// Takes a plugin through all steps until it can be called. Blocks: milliseconds if its compiled form is cached, else as
    /// long as compiling takes (0.2 s for a Rust guest, 10 s for CPython).
    ///
    /// `parts` are the bytes that the source holds, in their order: joined they are a component, plain or packed by gzip or
    /// zstd.
    ///
    /// # Errors
    /// The step that failed, with what to do about it.
    pub fn prepare(&self, parts: &[&[u8]], settings: &PluginSettings) -> Result<LoadedPlugin, LoadError> {
        let PluginSettings { expected, profile, limits, concurrency } = settings;
        let artifact = Artifact::read(parts, COMPONENT_BYTES, *expected)?;
        let inspection = inspect(&artifact.wasm, *profile, limits)?;
        let code = self.shared.load(&artifact, *profile)?;
        let sandbox = Sandbox::new(Arc::clone(&self.shared), Arc::clone(&code), artifact.digest, *limits);
        let sandbox = Arc::new(sandbox);
        let lane = Lane::new(*concurrency, move || code.rest());
        let manifest = describe(&lane, &sandbox).map_err(|source| LoadError::Describe { source })?;
        validate(&manifest, &inspection.interface)?;
        Ok(LoadedPlugin { digest: artifact.digest, manifest, sandbox, lane })
    }
}

/// Like any call, on the plugin's own thread.
fn describe(lane: &Lane, sandbox: &Arc<Sandbox>) -> Result<Manifest, CallError> {
    let (answer_tx, answer_rx) = std::sync::mpsc::sync_channel(1);
    let sandbox = Arc::clone(sandbox);
    lane.run(move || answer_tx.send(sandbox.describe()).unwrap_or_default()).map_err(|error| no_thread(&error))?;
    answer_rx.recv().unwrap_or_else(|_| Err(lost()))
}

/// A plugin that is ready to be called.
pub struct LoadedPlugin {
    digest: Digest,
    manifest: Manifest,
    sandbox: Arc<Sandbox>,
    lane: Lane,
}

impl LoadedPlugin {
    /// The digest of its unpacked component.
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

/// Why a plugin is not ready.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// The bytes can't be taken.
    #[error(transparent)]
    Artifact(#[from] ArtifactError),
    /// The component can't be served.
    #[error(transparent)]
    Inspect(#[from] InspectError),
    /// The component can't be compiled.
    #[error(transparent)]
    Compile(#[from] CompileError),
    /// An import or export has another type than the interface gives it.
    #[error(
        "the component's imports or exports differ from the interface that they name; build it against the wit files of that version: {message}"
    )]
    Link {
        /// The linker's words.
        message: String,
    },
    /// `describe` failed.
    #[error("the plugin could not say what it is: its function `describe` failed")]
    Describe {
        /// How.
        source: CallError,
    },
    /// What `describe` answered can't be used.
    #[error(transparent)]
    Manifest(#[from] ManifestError),
}

impl LoadError {
    /// A constant word for labels, reasons and log fields. `HostFailure` is the only one that is not the plugin's fault.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Artifact(error) => error.kind(),
            Self::Inspect(error) => error.kind(),
            Self::Compile(error) => error.kind(),
            Self::Link { .. } => "InterfaceMismatch",
            Self::Describe { source } => source.kind(),
            Self::Manifest(_) => "ManifestInvalid",
        }
    }
}
