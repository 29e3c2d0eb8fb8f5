//! The one engine of the process: settings of wasmtime, its clock, the compiler and its cache.

use std::{
    hash::{DefaultHasher, Hash, Hasher},
    io,
    num::NonZeroUsize,
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
};

use dask_wasm_operator_core::spec::{CORE_INSTANCES, MEMORY_BYTES, Profile, STACK_BYTES, TABLE_ELEMENTS};
use wasmtime::{Config, Enabled, PoolingAllocationConfig, component::Component};

use crate::{
    artifact::Artifact,
    cache::{Cache, CacheError, Key},
    code::{Code, InUse},
    compile::{CompileError, Compiler},
    inspect::{MEMORIES, TABLES},
    plugin::LoadError,
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
        let wasmtime = runtime_engine().map_err(|error| EngineError::Wasmtime { message: format!("{error:#}") })?;
        let clock = wasmtime.clone();
        let ticker = Ticker::start(move || clock.increment_epoch()).map_err(|source| EngineError::Clock { source })?;
        Ok(Self {
            shared: Arc::new(Shared {
                wasmtime,
                ticker,
                cache,
                compiler: Mutex::new(compiler),
                in_use: InUse::default(),
            }),
        })
    }
}

impl Shared {
    /// The code of a component: another plugin's, or loaded now.
    pub(crate) fn load(&self, artifact: &Artifact, profile: Profile) -> Result<Arc<Code>, LoadError> {
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

/// The engine of the compiling process: the same settings, which decide the code that is made.
pub(crate) fn compiler_engine() -> wasmtime::Result<wasmtime::Engine> {
    wasmtime::Engine::new(&config())
}

/// The engine that calls plugins. Memory of instances stays mapped between calls where the kernel has the address space for it,
/// and more of it where the kernel (Linux 6.7) tells which pages a call has touched.
fn runtime_engine() -> wasmtime::Result<wasmtime::Engine> {
    let pooled = |scan, keep_resident| {
        let mut config = config();
        config.allocation_strategy(pool(scan, keep_resident));
        wasmtime::Engine::new(&config)
    };
    pooled(Enabled::Yes, KEEP_RESIDENT)
        .or_else(|_| pooled(Enabled::No, KEEP_RESIDENT_UNSEEN))
        .or_else(|_| wasmtime::Engine::new(&config()))
}

/// Calls of all plugins at once, each with as many memories and tables as a component may have, so that no plugin takes the
/// place of another's. One that finds no place is tried again later. A memory takes 4 GiB of address space, and memory only for
/// what is touched.
const CALLS: u32 = 256;

/// What wasmtime says of a component that is larger than a place in the pool.
const BEYOND_POOL: &str = "does not fit in pooling allocator requirements";

/// Memories that stay with their plugin between calls, and how much of each: a Rust guest touches 0.1 MiB.
const WARM_MEMORIES: u32 = 16;
const KEEP_RESIDENT: usize = 1 << 20;
/// The same where nobody tells which pages were touched, so that all of it is written anew.
const KEEP_RESIDENT_UNSEEN: usize = 128 << 10;

/// Room for instances, each as large as a plugin's limits may be. An instance begins as new: what the one before it touched is
/// written over or given back.
fn pool(pagemap_scan: Enabled, keep_resident: usize) -> PoolingAllocationConfig {
    let core_instances = CORE_INSTANCES.maximum;
    let mut pool = PoolingAllocationConfig::new();
    pool.total_component_instances(CALLS)
        .total_core_instances(CALLS * core_instances)
        .total_memories(CALLS * MEMORIES)
        .total_tables(CALLS * TABLES)
        .max_core_instances_per_component(core_instances)
        .max_memories_per_component(MEMORIES)
        .max_tables_per_component(TABLES)
        .max_tables_per_module(TABLES)
        .max_memory_size(usize::try_from(MEMORY_BYTES.maximum).unwrap_or(usize::MAX))
        .table_elements(usize::try_from(TABLE_ELEMENTS.maximum).unwrap_or(usize::MAX))
        .max_unused_warm_slots(WARM_MEMORIES)
        .linear_memory_keep_resident(keep_resident)
        .table_keep_resident(KEEP_RESIDENT_UNSEEN)
        .pagemap_scan(pagemap_scan);
    pool
}

/// Settings that decide what a guest may be made of. What is off here is what no toolchain for plugins needs and past escapes
/// came from; and tables for debuggers and profilers, a seventh of the code's size, which nobody reads.
fn config() -> Config {
    let mut config = Config::new();
    config
        .epoch_interruption(true)
        .max_wasm_stack(STACK_BYTES)
        .wasm_backtrace_max_frames(NonZeroUsize::new(16))
        .generate_address_map(false)
        .native_unwind_info(false)
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
