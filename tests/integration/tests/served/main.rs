//! What the operator does for those whom it serves: Dask objects, plugins, and whoever runs it.

mod chart;
mod dask;
mod endpoints;
mod isolation;
mod manifests;
mod objects;
mod pipeline;
mod plugins;
mod process;
mod scope;
mod stage;
mod takeover;
