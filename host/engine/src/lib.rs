//! Loads, compiles and calls plugins: wasm components in wasmtime.
//!
//! The runtime makes one [`Engine`] for the process and hands it the bytes of each plugin; [`Engine::prepare`] takes them
//! through every step of a plugin's life and answers a [`LoadedPlugin`], which is the pipeline's
//! [`Guest`](dask_wasm_operator_core::ports::Guest).
//!
//! A plugin is hostile until shown otherwise. Its bytes are bounded while they are unpacked, its imports are read before any
//! of it is compiled, it is compiled in a child process with limits, and it runs on a thread of its own in a sandbox that is
//! made for one call. Whatever it does is an error of that plugin with a name, a figure and a remedy, never a fault of the
//! host.
//!
//! This crate must never reach the cluster or an async runtime: its functions block, and what a plugin wants leaves it as
//! plain values.

mod abi;
mod artifact;
mod cache;
mod call_state;
mod code;
mod compile;
mod engine;
mod inspect;
mod lane;
mod log;
mod manifest;
mod memory;
mod plugin;
mod sandbox;
mod ticker;
mod wasi;
mod wasmtime_settings;

pub use artifact::{ArtifactError, Digest, digest};
pub use cache::CacheError;
pub use compile::{COMPILE_SUBCOMMAND, CompileError, Compiler, compile_child};
pub use engine::{Engine, EngineError, EngineSettings, LoadError};
pub use inspect::InspectError;
pub use manifest::ManifestError;
pub use plugin::{LoadedPlugin, PluginSettings};
