//! What a component takes as soon as it is instantiated: known before it is compiled, and refused by its name there.

use dask_wasm_operator_core::spec::Limits;
use wasmparser::Payload;

use super::error::InspectError;

/// Memories of one component. Toolchains give one; each costs a call 4 GiB of address space.
pub(crate) const MEMORIES: u32 = 4;

/// Tables of one component. Toolchains give two or three.
pub(crate) const TABLES: u32 = 16;

/// The page of a memory that names no other, as an exponent of two.
const PAGE: u32 = 16;

/// Instances, memories and tables, of a core module or of all core instances of a component together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Needs {
    instances: u32,
    memories: u32,
    memory_bytes: u64,
    tables: u32,
    table_elements: u64,
}

impl Needs {
    /// Adds what a section of a core module says.
    pub(super) fn add_sections(&mut self, payload: Payload<'_>) -> Result<(), InspectError> {
        match payload {
            Payload::MemorySection(section) => {
                for memory in section {
                    let memory = memory.map_err(InspectError::malformed)?;
                    let page = 1_u64.checked_shl(memory.page_size_log2.unwrap_or(PAGE)).unwrap_or(u64::MAX);
                    self.memories = self.memories.saturating_add(1);
                    self.memory_bytes = self.memory_bytes.saturating_add(memory.initial.saturating_mul(page));
                }
            }
            Payload::TableSection(section) => {
                for table in section {
                    let table = table.map_err(InspectError::malformed)?;
                    self.tables = self.tables.saturating_add(1);
                    self.table_elements = self.table_elements.saturating_add(table.ty.initial);
                }
            }
            _ => {}
        }
        Ok(())
    }

    /// Adds an instance of a module.
    pub(super) fn add_instance(&mut self, module: Self) {
        self.instances = self.instances.saturating_add(1);
        self.memories = self.memories.saturating_add(module.memories);
        self.memory_bytes = self.memory_bytes.saturating_add(module.memory_bytes);
        self.tables = self.tables.saturating_add(module.tables);
        self.table_elements = self.table_elements.saturating_add(module.table_elements);
    }

    /// Whether a plugin with these limits may have it.
    pub(super) fn within(&self, limits: &Limits) -> Result<(), InspectError> {
        let elements = u64::from(limits.table_elements);
        if self.instances > limits.core_instances {
            Err(InspectError::CoreInstances { found: self.instances, limit: limits.core_instances })
        } else if self.memories > MEMORIES {
            Err(InspectError::Memories { found: self.memories, limit: MEMORIES })
        } else if self.tables > TABLES {
            Err(InspectError::Tables { found: self.tables, limit: TABLES })
        } else if self.memory_bytes > limits.memory_bytes {
            Err(InspectError::Memory { found: self.memory_bytes, limit: limits.memory_bytes })
        } else if self.table_elements > elements {
            Err(InspectError::TableElements { found: self.table_elements, limit: elements })
        } else {
            Ok(())
        }
    }
}
