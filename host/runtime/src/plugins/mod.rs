//! Plugins from their DaskPlugin to handlers that can be called: where their code comes from, and what of them is served.

mod files;
mod manager;
mod mount;
mod prepare;
mod source;
mod status;
mod watches;

pub(crate) use files::{documents, plugin};
pub(crate) use manager::{ManagerSurroundings, PluginManager};
pub(crate) use mount::{Mountable, mount};
pub(crate) use prepare::{engine, prepare};

use dask_wasm_operator_core::error::chain;
