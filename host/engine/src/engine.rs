//! The one engine of the process: settings of wasmtime, its clock, the compiler and its cache.

use std::{
    hash::{DefaultHasher, Hash, Hasher},
    io,
    num::NonZeroUsize,
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
};

use dask_wasm_operator_core::spec::STACK_BYTES;
use wasmtime::{Config, component::Component};

use crate::{
    artifact::Artifact,
    cache::{Cache, CacheError, Key},
    compile::{CompileError, Compiler},
    ticker::Ticker,
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
    pub(crate) shared: Arc<Shared>,
}

pub(crate) struct Shared {
    pub(crate) wasmtime: wasmtime::Engine,
    pub(crate) ticker: Ticker,
    cache: Cache,
    /// Taken by one at a time: the limits of compiling are for one, and whoever waited finds what the other has made.
    compiler: Mutex<Compiler>,
}

impl Engine {
    /// Makes the engine and starts its clock.
    ///
    /// # Errors
    /// When the cache directory can't be used, or the machine is none that wasmtime runs on.
    pub fn new(settings: EngineSettings) -> Result<Self, EngineError> {
        let EngineSettings { cache_directory, cache_capacity, compiler } = settings;
        let cache = Cache::open(&cache_directory, cache_capacity)?;
        let wasmtime = wasmtime::Engine::new(&config())
            .map_err(|error| EngineError::Wasmtime { message: format!("{error:#}") })?;
        let clock = wasmtime.clone();
        let ticker = Ticker::start(move || clock.increment_epoch()).map_err(|source| EngineError::Clock { source })?;
        Ok(Self { shared: Arc::new(Shared { wasmtime, ticker, cache, compiler: Mutex::new(compiler) }) })
    }
}

impl Shared {
    /// The compiled form of a component: from the cache, or made now.
    pub(crate) fn compile(&self, artifact: &Artifact) -> Result<Component, CompileError> {
        let mut hasher = DefaultHasher::new();
        self.wasmtime.precompile_compatibility_hash().hash(&mut hasher);
        let key = Key { wasm: artifact.digest, engine: hasher.finish() };
        let compiler = self.compiler.lock().unwrap_or_else(PoisonError::into_inner);
        let path = match self.cache.find(&key)? {
            Some(path) => path,
            None => self.cache.insert(&key, |file| compiler.compile(&artifact.wasm, file))?,
        };
        // SAFETY: the file was written by our own compiling process, into a directory that only we can write, and its content
        // is what it was then: its checksum was compared, or it was written just now.
        #[expect(unsafe_code, reason = "loading compiled code is running it; see the safety comment")]
        let component = unsafe { Component::deserialize_file(&self.wasmtime, path) };
        component.map_err(|error| CompileError::Load { message: format!("{error:#}") })
    }
}

/// The engine of the compiling process: the same settings, which decide the code that is made.
pub(crate) fn compiler_engine() -> wasmtime::Result<wasmtime::Engine> {
    wasmtime::Engine::new(&config())
}

/// Settings that decide what a guest may be made of. What is off here is what no toolchain for plugins needs and past escapes
/// came from.
fn config() -> Config {
    let mut config = Config::new();
    config
        .epoch_interruption(true)
        .max_wasm_stack(STACK_BYTES)
        .wasm_backtrace_max_frames(NonZeroUsize::new(16))
        .wasm_simd(false)
        .wasm_relaxed_simd(false)
        .wasm_memory64(false)
        .wasm_multi_memory(false);
    config
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
