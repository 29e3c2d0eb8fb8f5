//! The settings of wasmtime: what a guest may be made of, and the room that its calls have. The process that compiles and the
//! one that calls must agree on the first.

use std::num::NonZeroUsize;

use dask_wasm_operator_core::spec::{CORE_INSTANCES, MEMORY_BYTES, STACK_BYTES, TABLE_ELEMENTS};
use wasmtime::{Config, Enabled, Engine, PoolingAllocationConfig};

use crate::inspect::{MEMORIES, TABLES};

/// The engine of the compiling process: the same settings, which decide the code that is made.
pub(crate) fn compiling_engine() -> wasmtime::Result<Engine> {
    Engine::new(&config())
}

/// The engine that calls plugins. Memory of instances stays mapped between calls where the kernel has the address space for it,
/// and more of it where the kernel (Linux 6.7) tells which pages a call has touched.
pub(crate) fn calling_engine() -> wasmtime::Result<Engine> {
    let pooled = |scan, keep_resident| {
        let mut config = config();
        config.allocation_strategy(pool(scan, keep_resident));
        Engine::new(&config)
    };
    pooled(Enabled::Yes, KEEP_RESIDENT)
        .or_else(|_| pooled(Enabled::No, KEEP_RESIDENT_UNSEEN))
        .or_else(|_| Engine::new(&config()))
}

/// Calls of all plugins at once, each with as many memories and tables as a component may have, so that no plugin takes the
/// place of another's. One that finds no place is tried again later. A memory takes 4 GiB of address space, and memory only for
/// what is touched.
const CALLS: u32 = 256;

/// What wasmtime says of a component that is larger than a place in the pool.
pub(crate) const BEYOND_POOL: &str = "does not fit in pooling allocator requirements";

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
