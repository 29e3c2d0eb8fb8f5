//! What the operator does for those whom it serves: Dask objects, plugins, and whoever runs it.

mod chart;
mod dask;
mod isolation;
mod migrate;
mod pipeline;
mod plugins;
mod process;
mod restarts;
mod scope;
mod stage;
mod takeover;
mod traces;
mod unreadable;

use dask_wasm_operator_test_integration::{clusters, manifests, objects, settled};
use dask_wasm_operator_test_support::endpoints;
