//! Values and pure decisions of the operator.
//!
//! Nothing here can do I/O: no client, no runtime, no clock. Time, randomness and limits arrive as arguments.

pub mod action;
pub mod claim;
pub mod conflict;
pub mod contract;
pub mod dask;
pub mod error;
pub mod fields;
pub mod glob;
pub mod identity;
pub mod inheritance;
pub mod memory;
pub mod names;
pub mod native;
pub mod object;
pub mod ownership;
pub mod pipeline;
pub mod plan;
pub mod plugin;
pub mod ports;
pub mod queue;
pub mod quote;
pub mod related;
pub mod retry;
pub mod scheduler;
pub mod schema;
pub mod selector;
pub mod spec;
pub mod template;
pub mod text;
pub mod time;
pub mod wanted;
