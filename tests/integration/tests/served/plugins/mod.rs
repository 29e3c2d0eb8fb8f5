//! Plugins on a real API server.

mod accounts;
mod admission;
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

use std::time::Duration;

/// Sooner than what is parked is tried again by itself.
const SOON: Duration = Duration::from_secs(20);
