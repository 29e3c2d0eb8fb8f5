//! Reads the outside of a component, before anything of it is compiled or run: what it is, what it imports and exports.
//!
//! Nothing is believed here that the compiler does not check again; the point is an answer in a millisecond that says to the
//! plugin's author what to change.

mod needs;

use std::{collections::BTreeSet, ops::RangeInclusive};

use semver::Version;
use wasmparser::{
    BinaryReaderError, CanonicalFunction, CanonicalOption, ComponentAlias, ComponentExternalKind,
    ComponentOuterAliasKind, ComponentTypeRef, Encoding, Instance, Parser, Payload,
};

use dask_wasm_operator_core::spec::{Limits, Profile};

use crate::abi::SERVED;
use needs::Needs;
pub(crate) use needs::{MEMORIES, TABLES};

/// The packages of WASI 0.2 that [`crate::wasi`] answers.
const WASI_PACKAGES: [&str; 6] = ["cli", "clocks", "filesystem", "io", "random", "sockets"];

/// What the outside of a component says.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Inspection {
    /// The version of the handler interface that it exports.
    pub(crate) interface: Version,
}

/// Reads the component and refuses what could not be served.
pub(crate) fn inspect(wasm: &[u8], profile: Profile, limits: &Limits) -> Result<Inspection, InspectError> {
    let outside = Outside::read(wasm)?;
    outside.needs.within(limits)?;
    let names = || outside.imports.iter().chain(&outside.exports).map(String::as_str);
    if let Some(name) = names().find(|name| operator_version(name).is_some_and(|version| !is_served(&version))) {
        return Err(InspectError::InterfaceVersion { name: name.to_owned(), served: SERVED.clone() });
    }
    let refused: Vec<_> = outside.imports.iter().filter(|name| !may_import(name, profile)).cloned().collect();
    if !refused.is_empty() {
        let strict_only = refused.iter().all(|name| may_import(name, Profile::Standard));
        return Err(if strict_only { InspectError::NotStrict { refused } } else { InspectError::Imports { refused } });
    }
    let handler = outside.exports.iter().find(|name| name.starts_with("dask:operator/handler@"));
    match handler.and_then(|name| operator_version(name)) {
        Some(interface) => Ok(Inspection { interface }),
        None => Err(InspectError::World { exports: outside.exports.into_iter().collect() }),
    }
}

fn may_import(name: &str, profile: Profile) -> bool {
    if matches!(name.split_once('@'), Some(("dask:operator/host" | "dask:operator/types", _))) {
        return true;
    }
    profile == Profile::Standard
        && name.strip_prefix("wasi:").and_then(|name| name.split_once('/')).is_some_and(|(package, interface)| {
            let version = interface.split_once('@').and_then(|(_, version)| Version::parse(version).ok());
            WASI_PACKAGES.contains(&package) && version.is_some_and(|version| (version.major, version.minor) == (0, 2))
        })
}

fn operator_version(name: &str) -> Option<Version> {
    let (_, version) = name.strip_prefix("dask:operator/")?.split_once('@')?;
    Version::parse(version).ok()
}

/// Below 1.0 a minor version stands for itself, and the host serves the versions of its minor up to its own.
fn is_served(version: &Version) -> bool {
    let first = Version::new(SERVED.major, SERVED.minor, 0);
    let served: RangeInclusive<_> = first..=SERVED.clone();
    served.contains(version)
}

#[derive(Default)]
struct Outside {
    imports: BTreeSet<String>,
    exports: BTreeSet<String>,
    /// What each core module of the component needs, in the order of their indices.
    modules: Vec<Needs>,
    /// What all its core instances need together.
    needs: Needs,
}

impl Outside {
    fn read(wasm: &[u8]) -> Result<Self, InspectError> {
        let mut outside = Self::default();
        let mut depth = 0_u32;
        for payload in Parser::new(0).parse_all(wasm) {
            match payload.map_err(InspectError::malformed)? {
                Payload::Version { encoding: Encoding::Module, .. } if depth == 0 => {
                    return Err(InspectError::CoreModule);
                }
                Payload::Version { .. } => depth += 1,
                Payload::End(_) => depth = depth.saturating_sub(1),
                payload if depth == 1 => outside.read_root(payload)?,
                payload => {
                    refuse_inner_code(&payload)?;
                    if let Some(module) = outside.modules.last_mut() {
                        module.add_sections(payload)?;
                    }
                }
            }
        }
        Ok(outside)
    }

    fn read_root(&mut self, payload: Payload<'_>) -> Result<(), InspectError> {
        match payload {
            Payload::ComponentImportSection(section) => {
                for import in section {
                    let import = import.map_err(InspectError::malformed)?;
                    // A type that is imported is a name for a shape, not something to be provided.
                    if matches!(import.ty, ComponentTypeRef::Module(_)) {
                        self.modules.push(Needs::default());
                    }
                    if !matches!(import.ty, ComponentTypeRef::Type(_)) {
                        self.imports.insert(import.name.name.to_owned());
                    }
                }
            }
            Payload::ComponentExportSection(section) => {
                for export in section {
                    let export = export.map_err(InspectError::malformed)?;
                    if matches!(export.kind, ComponentExternalKind::Instance | ComponentExternalKind::Func) {
                        self.exports.insert(export.name.name.to_owned());
                    }
                }
            }
            Payload::InstanceSection(section) => {
                for instance in section {
                    if let Instance::Instantiate { module_index, .. } = instance.map_err(InspectError::malformed)? {
                        let module = usize::try_from(module_index).ok().and_then(|index| self.modules.get(index));
                        self.needs.add_instance(module.copied().unwrap_or_default());
                    }
                }
            }
            Payload::ModuleSection { .. } => self.modules.push(Needs::default()),
            Payload::ComponentAliasSection(section) => {
                for alias in section {
                    // Of a module that comes from elsewhere nothing is known here; the engine has the last word.
                    if matches!(
                        alias.map_err(InspectError::malformed)?,
                        ComponentAlias::InstanceExport { kind: ComponentExternalKind::Module, .. }
                            | ComponentAlias::Outer { kind: ComponentOuterAliasKind::CoreModule, .. }
                    ) {
                        self.modules.push(Needs::default());
                    }
                }
            }
            Payload::ComponentCanonicalSection(section) => {
                for function in section {
                    refuse_other_encodings(&function.map_err(InspectError::malformed)?)?;
                }
            }
            _ => {}
        }
        Ok(())
    }
}

/// Components within components are how exported interfaces are given their types; with code of their own they are a
/// composition, whose calls between its parts have been the source of several escapes.
fn refuse_inner_code(payload: &Payload<'_>) -> Result<(), InspectError> {
    match payload {
        // Sections of core modules are met here too, and are none of these.
        Payload::ModuleSection { .. } | Payload::InstanceSection(_) | Payload::ComponentCanonicalSection(_) => {
            Err(InspectError::Composed)
        }
        _ => Ok(()),
    }
}

fn refuse_other_encodings(function: &CanonicalFunction) -> Result<(), InspectError> {
    let (CanonicalFunction::Lift { options, .. } | CanonicalFunction::Lower { options, .. }) = function else {
        return Ok(());
    };
    let is_other = |option: &CanonicalOption| matches!(option, CanonicalOption::UTF16 | CanonicalOption::CompactUTF16);
    if options.iter().any(is_other) { Err(InspectError::Encoding) } else { Ok(()) }
}

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
        WASI_PACKAGES.join(",")
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
    fn malformed(source: BinaryReaderError) -> Self {
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
