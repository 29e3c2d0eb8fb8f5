//! Why a component is refused before anything of it is compiled, and what its author can do.

use semver::Version;
use wasmparser::BinaryReaderError;

use crate::{abi::SERVED, wasi};

/// Why a component can't be served.
#[derive(Debug, thiserror::Error)]
pub enum InspectError {
    /// The output of a compiler that was not made a component.
    #[error("this is a core WebAssembly module, not a component; turn it into one with `wasm-tools component new`")]
    CoreModule,
    /// The binary does not parse.
    #[error("the component's binary is damaged: build and upload it again")]
    Malformed {
        /// Where and why.
        source: BinaryReaderError,
    },
    /// A component for something else.
    #[error("the component does not export dask:operator/handler@{version}, but {exports:?}; build it for the world dask:operator/plugin", version = SERVED)]
    World {
        /// What it exports.
        exports: Vec<String>,
    },
    /// A plugin for another version of the interface.
    #[error(
        "the component uses {name}, and this operator serves dask:operator {}.{}.0 to {served}; build the plugin for one of these, or upgrade the operator", served.major, served.minor
    )]
    InterfaceVersion {
        /// The import or export.
        name: String,
        /// The newest version that is served.
        served: Version,
    },
    /// Imports that nothing answers.
    #[error(
        "the component imports what plugins can't have: {}; a plugin may import dask:operator/host and wasi:{{{}}} in version 0.2",
        refused.join(", "),
        wasi::PACKAGES.join(",")
    )]
    Imports {
        /// Their names.
        refused: Vec<String>,
    },
    /// Imports that only the standard profile answers.
    #[error(
        "the component imports {}, which profile: strict does not allow; set spec.profile to standard, or build it without WASI",
        refused.join(", ")
    )]
    NotStrict {
        /// Their names.
        refused: Vec<String>,
    },
    /// Several components in one.
    #[error(
        "the component is composed of several with code of their own; mount each as a plugin, or link them into one module"
    )]
    Composed,
    /// Strings in UTF-16.
    #[error("the component passes its strings as UTF-16; choose UTF-8, the default of most tools, as string encoding")]
    Encoding,
    /// More core instances than the limit.
    #[error("the component has {found} core instances, more than the {limit} allowed")]
    CoreInstances {
        /// How many.
        found: u32,
        /// How many may be.
        limit: u32,
    },
    /// More memories than any component may have.
    #[error(
        "the component has {found} memories, more than the {limit} allowed; link its modules so that they share one"
    )]
    Memories {
        /// How many.
        found: u32,
        /// How many may be.
        limit: u32,
    },
    /// More tables than any component may have.
    #[error("the component has {found} tables, more than the {limit} allowed; link its modules so that they share one")]
    Tables {
        /// How many.
        found: u32,
        /// How many may be.
        limit: u32,
    },
    /// Memory from the start on above the limit.
    #[error("the component begins with {found} bytes of memory, more than the {limit} allowed (spec.limits.memory)")]
    Memory {
        /// Bytes.
        found: u64,
        /// Bytes that may be.
        limit: u64,
    },
    /// Tables from the start on above the limit.
    #[error(
        "the component begins with {found} table elements, more than the {limit} allowed (spec.limits.tableElements)"
    )]
    TableElements {
        /// How many.
        found: u64,
        /// How many may be.
        limit: u64,
    },
}

impl InspectError {
    pub(super) fn malformed(source: BinaryReaderError) -> Self {
        Self::Malformed { source }
    }

    pub(crate) fn kind(&self) -> &'static str {
        match self {
            Self::CoreModule => "CoreModule",
            Self::Malformed { .. } => "Malformed",
            Self::World { .. } => "WrongWorld",
            Self::InterfaceVersion { .. } => "InterfaceVersion",
            Self::Imports { .. } => "ImportsRefused",
            Self::NotStrict { .. } => "NotStrict",
            Self::Composed => "Composed",
            Self::Encoding => "StringEncoding",
            Self::CoreInstances { .. } => "CoreInstancesExceeded",
            Self::Memories { .. } => "MemoriesExceeded",
            Self::Tables { .. } => "TablesExceeded",
            Self::Memory { .. } => "MemoryExceeded",
            Self::TableElements { .. } => "TableExceeded",
        }
    }
}
