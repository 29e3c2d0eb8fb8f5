//! The one engine of the process: its clock, its compiler, its cache, and a plugin's life from bytes to calls: read, checked,
//! compiled, linked, described, validated.

use std::{
    hash::{DefaultHasher, Hash, Hasher},
    io,
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
};

use dask_wasm_operator_core::{
    plugin::Program,
    ports::CallError,
    spec::{COMPONENT_BYTES, Profile},
};
use wasmtime::component::Component;

use crate::{
    artifact::{Artifact, ArtifactError},
    cache::{Cache, CacheError, Key},
    code::{Code, InUse},
    compile::{CompileError, Compiler},
    inspect::{InspectError, inspect},
    lane::Lane,
    manifest::{ManifestError, validate},
    plugin::{LoadedPlugin, PluginSettings},
    sandbox::Sandbox,
    ticker::Ticker,
    wasmtime_settings::{BEYOND_POOL, calling_engine},
};

/// What an engine needs to know.
pub struct EngineSettings {
    /// Where compiled components are kept; made if absent, refused if it is not the operator's alone.
    pub cache_directory: PathBuf,
    /// Bytes that they may take; the least recently used go first. A Rust guest takes 0.3 MB, CPython 35 MB.
    pub cache_capacity: u64,
    /// How to compile.
    pub compiler: Compiler,
}

/// Turns components into plugins that can be called. One for the process: it owns the clock that ends calls.
#[derive(Clone)]
pub struct Engine {
    shared: Arc<Shared>,
}

struct Shared {
    wasmtime: wasmtime::Engine,
    ticker: Arc<Ticker>,
    cache: Cache,
    /// Taken by one at a time: the limits of compiling are for one, and whoever waited finds what the other has made.
    compiler: Mutex<Compiler>,
    in_use: InUse,
}

impl Engine {
    /// Makes the engine and starts its clock.
    ///
    /// # Errors
    /// When the cache directory can't be used, or the machine is none that wasmtime runs on.
    pub fn new(settings: EngineSettings) -> Result<Self, EngineError> {
        let EngineSettings { cache_directory, cache_capacity, compiler } = settings;
        let cache = Cache::open(&cache_directory, cache_capacity)?;
        let wasmtime = calling_engine().map_err(|error| EngineError::Wasmtime { message: format!("{error:#}") })?;
        let clock = wasmtime.clone();
        let ticker = Ticker::start(move || clock.increment_epoch()).map_err(|source| EngineError::Clock { source })?;
        Ok(Self {
            shared: Arc::new(Shared {
                wasmtime,
                ticker: Arc::new(ticker),
                cache,
                compiler: Mutex::new(compiler),
                in_use: InUse::default(),
            }),
        })
    }

    /// Takes a plugin through all steps until it can be called. Blocks: milliseconds if its compiled form is cached, else as
    /// long as compiling takes (0.2 s for a Rust guest, 10 s for CPython).
    ///
    /// # Errors
    /// The step that failed, with what to do about it.
    pub fn prepare(&self, program: &Program, settings: &PluginSettings) -> Result<LoadedPlugin, LoadError> {
        let PluginSettings { expected, profile, limits, concurrency } = settings;
        let artifact = Artifact::read(&program.parts(), COMPONENT_BYTES, *expected)?;
        let inspection = inspect(&artifact.wasm, *profile, limits)?;
        let code = self.shared.load(&artifact, *profile)?;
        let sandbox = Sandbox::new(Arc::clone(&self.shared.ticker), Arc::clone(&code), artifact.digest, *limits);
        let lane = Lane::new(*concurrency, move || code.rest());
        let plugin = LoadedPlugin::new(artifact.digest, sandbox, lane);
        let plugin = plugin.map_err(|source| LoadError::Describe { source })?;
        validate(plugin.manifest(), &inspection.interface)?;
        Ok(plugin)
    }
}

impl Shared {
    /// The code of a component: another plugin's, or loaded now.
    fn load(&self, artifact: &Artifact, profile: Profile) -> Result<Arc<Code>, LoadError> {
        self.in_use.get(artifact.digest, profile, || {
            let component = self.compile(artifact)?;
            Code::link(&self.wasmtime, component, profile)
                .map_err(|error| LoadError::Link { message: format!("{error:#}") })
        })
    }

    /// The compiled form of a component: from the cache, or made now.
    fn compile(&self, artifact: &Artifact) -> Result<Component, CompileError> {
        let mut hasher = DefaultHasher::new();
        self.wasmtime.precompile_compatibility_hash().hash(&mut hasher);
        let key = Key { wasm: artifact.digest, engine: hasher.finish() };
        // What is there already waits for no compiler.
        let path = match self.cache.find(&key)? {
            Some(path) => path,
            None => {
                let compiler = self.compiler.lock().unwrap_or_else(PoisonError::into_inner);
                match self.cache.find(&key)? {
                    Some(path) => path,
                    None => self.cache.insert(&key, |file| compiler.compile(&artifact.wasm, file))?,
                }
            }
        };
        // SAFETY: the file was written by our own compiling process, into a directory that only we can write, and its content
        // is what it was then: its checksum was compared, or it was written just now.
        #[expect(unsafe_code, reason = "loading compiled code is running it; see the safety comment")]
        let component = unsafe { Component::deserialize_file(&self.wasmtime, path) };
        component.map_err(|error| {
            let message = format!("{error:#}");
            // Memories and tables were counted before; what is left is what the engine keeps of each function and global.
            if message.contains(BEYOND_POOL) { CompileError::Large { message } } else { CompileError::Load { message } }
        })
    }
}

/// Why there is no engine.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// The cache directory can't be used.
    #[error(transparent)]
    Cache(#[from] CacheError),
    /// Wasmtime does not run here.
    #[error("wasmtime can't be set up on this machine: {message}")]
    Wasmtime {
        /// Its words.
        message: String,
    },
    /// No thread for the clock.
    #[error("the thread that ends calls can't be started")]
    Clock {
        /// Why.
        source: io::Error,
    },
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
