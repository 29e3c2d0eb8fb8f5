//! Plugins from their DaskPlugin to handlers that can be called: where their code comes from, and what of them is served.

mod awaited;
mod directory;
mod entry;
mod files;
mod manager;
mod mount;
mod prepare;
mod progress;
mod refusal;
mod report;
mod source;
mod status;
mod statuses;
mod surroundings;
mod sweep;
mod watches;

pub(crate) use files::{documents, plugin};
pub(crate) use manager::PluginManager;
pub(crate) use mount::{Mountable, mount};
pub(crate) use prepare::{engine, prepare};
pub(crate) use refusal::refusal;
pub(crate) use source::read_file;
pub(crate) use surroundings::ManagerSurroundings;
