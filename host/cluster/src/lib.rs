//! The Kubernetes side of the operator: what is observed comes in through watches into the index, what is wanted goes out
//! through the applier while the Lease is held.
//!
//! The runtime wires these together; the pipeline knows them only through the ports of `core`. Nothing here decides what is
//! wanted, nothing here knows plugins, and only [`scheduler`], which talks to Dask's schedulers, knows Dask.

pub mod access;
pub mod applier;
pub mod backoff;
pub mod client;
pub mod config_maps;
pub mod crds;
pub mod discovery;
pub mod events;
pub mod gate;
pub mod index;
pub mod lease;
pub mod namespaces;
pub mod observed;
pub mod once;
pub mod outdated;
mod path;
pub mod published;
mod request;
pub mod scheduler;
pub mod watch;

pub use path::PathError;
pub use request::RequestError;
