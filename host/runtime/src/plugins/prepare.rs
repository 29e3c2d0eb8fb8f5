//! From bytes and a DaskPlugin to a plugin that has described itself.

use std::{io, num::NonZeroUsize, path::PathBuf};

use dask_wasm_operator_core::{
    plugin::Program,
    spec::{DaskPluginSpec, LimitError, Limits, LimitsSpec},
};
use dask_wasm_operator_engine::{
    Compiler, Digest, Engine, EngineError, EngineSettings, LoadError, LoadedPlugin, PluginSettings,
};

/// Bytes of compiled plugins that are kept: room for ten language runtimes of 35 MB, or a thousand Rust guests.
const CACHE_CAPACITY: u64 = 400 << 20;

/// Calls of one plugin that run at once: enough to use two cores, too few to fill a node.
const CONCURRENCY: NonZeroUsize = NonZeroUsize::new(2).expect("two is not zero");

/// Why a plugin can't be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PrepareError {
    /// A limit that can't be had.
    #[error(transparent)]
    Limits(#[from] LimitError),
    /// The digest is not 64 hexadecimal digits.
    #[error(
        "spec.source.sha256 is no SHA-256; write the 64 hexadecimal digits that `sha256sum` prints for the plain component"
    )]
    Digest,
    /// Whoever can change the code would inherit the grants.
    #[error(
        "spec.grants exceed the default, so spec.source.sha256 must name the code that they are for; it is {actual}"
    )]
    DigestRequired {
        /// The digest of the code that was found.
        actual: String,
    },
    /// The engine's word.
    #[error(transparent)]
    Load(#[from] LoadError),
}

impl PrepareError {
    /// One word in CamelCase.
    pub(crate) fn reason(&self) -> &'static str {
        match self {
            Self::Limits(_) => "InvalidLimits",
            Self::Digest => "InvalidDigest",
            Self::DigestRequired { .. } => "DigestRequired",
            Self::Load(error) => error.kind(),
        }
    }
}

/// The engine that compiles by starting this program anew.
pub(crate) fn engine(cache_directory: PathBuf) -> Result<Engine, EngineStartError> {
    let compiler = Compiler::current_executable()?;
    Ok(Engine::new(EngineSettings { cache_directory, cache_capacity: CACHE_CAPACITY, compiler })?)
}

/// Why there is no engine.
#[derive(Debug, thiserror::Error)]
pub(crate) enum EngineStartError {
    /// The program's own path is not known.
    #[error("this program's own file can't be found, which it starts again to compile plugins")]
    Executable(#[from] io::Error),
    /// The engine's word.
    #[error(transparent)]
    Engine(#[from] EngineError),
}

/// Loads a plugin. Blocks while it is compiled.
pub(crate) fn prepare(engine: &Engine, program: &Program, spec: &DaskPluginSpec) -> Result<LoadedPlugin, PrepareError> {
    let limits = Limits::resolve(spec.limits.as_ref().unwrap_or(&LimitsSpec::default()))?;
    let expected = spec
        .source
        .sha256
        .as_deref()
        .map(|text| text.parse::<Digest>().map_err(|_| PrepareError::Digest))
        .transpose()?;
    let settings = PluginSettings { expected, profile: spec.profile, limits, concurrency: CONCURRENCY };
    Ok(engine.prepare(program, &settings)?)
}

/// Whoever can edit a ConfigMap could put other code under the plugin's grants, so its digest must be named with them.
pub(crate) fn require_digest(spec: &DaskPluginSpec, loaded: &LoadedPlugin) -> Result<(), PrepareError> {
    if spec.grants.exceed_default() && spec.source.sha256.is_none() {
        return Err(PrepareError::DigestRequired { actual: loaded.digest().to_string() });
    }
    Ok(())
}
