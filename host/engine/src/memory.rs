//! What one call may take of memory and tables.

use dask_wasm_operator_core::spec::Limits;
use wasmtime::ResourceLimiter;

/// Counts the memory and the tables of all instances of a store together.
pub(crate) struct Memory {
    bytes: u64,
    elements: u64,
    bytes_limit: u64,
    elements_limit: u64,
    /// What it had too much of, if anything.
    pub(crate) exceeded: Option<Exceeded>,
}

#[derive(Clone, Copy, Debug, thiserror::Error)]
pub(crate) enum Exceeded {
    #[error("the guest asked for more memory than it may have")]
    Memory,
    #[error("the guest asked for more table elements than it may have")]
    Table,
}

impl Memory {
    pub(crate) fn new(limits: &Limits) -> Self {
        Self {
            bytes: 0,
            elements: 0,
            bytes_limit: limits.memory_bytes,
            elements_limit: limits.table_elements.into(),
            exceeded: None,
        }
    }

    fn exceed(&mut self, what: Exceeded) -> wasmtime::Result<bool> {
        self.exceeded = Some(what);
        Err(what.into())
    }
}

impl ResourceLimiter for Memory {
    fn memory_growing(&mut self, current: usize, desired: usize, _: Option<usize>) -> wasmtime::Result<bool> {
        self.bytes = self.bytes.saturating_add(desired.saturating_sub(current) as u64);
        if self.bytes > self.bytes_limit { self.exceed(Exceeded::Memory) } else { Ok(true) }
    }

    fn table_growing(&mut self, current: usize, desired: usize, _: Option<usize>) -> wasmtime::Result<bool> {
        self.elements = self.elements.saturating_add(desired.saturating_sub(current) as u64);
        if self.elements > self.elements_limit { self.exceed(Exceeded::Table) } else { Ok(true) }
    }
}
