//! Odd and hostile guests, and the tests that run them.
//!
//! `odd/` and `wasi/` are plugins in Rust that do what they are told by their configuration; `wat/` are components, and what is
//! none, written by hand. Every one is claimed by a test in `tests/`: the tests match on all behaviours and list all files.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::OnceLock,
};

use dask_wasm_operator_core::contract::{Call, Subject, Trigger};
use dask_wasm_operator_engine::{Compiler, Engine, EngineSettings};

/// An engine whose cache is below `directory`, and whose compiling process is `compiler`.
pub fn engine(directory: &Path, compiler: &str) -> Engine {
    let settings = EngineSettings {
        cache_directory: directory.join("compiled"),
        cache_capacity: 1 << 30,
        compiler: Compiler::new(compiler, []),
    };
    Engine::new(settings).expect("the directory of tests can be written")
}

/// The component of a package of the workspace, built once for all tests of a process.
pub fn component(package: &'static str) -> &'static [u8] {
    static BUILT: [(&str, OnceLock<Vec<u8>>); 3] =
        [("istio-virtual-service", OnceLock::new()), ("odd-guest", OnceLock::new()), ("wasi-guest", OnceLock::new())];
    let (_, built) = BUILT.iter().find(|(name, _)| *name == package).expect("the tests name only these");
    built.get_or_init(|| {
        let path: PathBuf = dask_operator_componentize::build(package).expect("guests compile");
        fs::read(path).expect("what was just written can be read")
    })
}

/// A call about a ConfigMap, with a configuration in JSON.
pub fn call(handler: &str, config: &str) -> Call {
    Call {
        handler: handler.into(),
        trigger: Trigger::Observed,
        redelivery: false,
        attempt: 1,
        now: 1_700_000_000_250,
        subject: Subject {
            api_version: "v1".into(),
            kind: "ConfigMap".into(),
            namespace: Some("default".into()),
            name: "simple".into(),
            uid: "8c2f".into(),
            object: r#"{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"simple","namespace":"default","uid":"8c2f"}}"#.into(),
        },
        related: Vec::new(),
        children: Vec::new(),
        conflicts: Vec::new(),
        config: config.into(),
    }
}
