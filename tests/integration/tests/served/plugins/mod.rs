//! Plugins on a real API server.

mod children;
mod code;
mod dask_kinds;
mod directory;
mod ends;
mod failures;
mod istio;
pub(crate) mod mounting;
mod removal;
mod revocation;
mod sources;
mod strangers;
mod subjects;
mod words;
