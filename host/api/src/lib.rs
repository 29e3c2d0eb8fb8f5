//! Custom resource definitions and access rules.
//!
//! Made from the shapes in `dask_wasm_operator_core::spec`, which are their one source. The program prints the definitions
//! (`crds`) and asks the API server for its rights at start; the chart's files are generated from both. Nothing here talks to
//! an API server.

mod chart;
mod definitions;
mod embedded;
mod openapi;
mod rbac;
mod structural;

pub use chart::{chart_files, crds_yaml};
pub use definitions::{crds, schemas};
pub use embedded::known_fields;
pub use rbac::{Access, Rights, Scope, Served, TABLE, inaccessible, required_access, rules};
