//! Reads the outside of a component, before anything of it is compiled or run: what it is, what it imports and exports.
//!
//! Nothing is believed here that the compiler does not check again; the point is an answer in a millisecond that says to the
//! plugin's author what to change.

mod error;
mod needs;

use std::{collections::BTreeSet, ops::RangeInclusive};

use semver::Version;
use wasmparser::{
    CanonicalFunction, CanonicalOption, ComponentAlias, ComponentExternalKind, ComponentOuterAliasKind,
    ComponentTypeRef, Encoding, Instance, Parser, Payload,
};

use dask_wasm_operator_core::spec::{Limits, Profile};

use crate::{abi::SERVED, wasi};
pub use error::InspectError;
use needs::Needs;
pub(crate) use needs::{MEMORIES, TABLES};

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
            wasi::PACKAGES.contains(&package) && version.is_some_and(|version| (version.major, version.minor) == (0, 2))
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
