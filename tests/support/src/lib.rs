//! A local control plane and helpers for the tests.
//!
//! [`control_plane`] runs a real Kubernetes API (etcd, kube-apiserver, kube-controller-manager) from pinned Go
//! modules, without Docker. `cargo xtask` starts one for all tests, for the demo and for `cargo xtask cluster`;
//! a test that runs alone gets one of its own through [`TestCluster::obtain`]. The other modules are small helpers
//! that work on any cluster. Nothing here is ever part of the operator.

mod audit;
mod client;
mod cluster;
pub mod control_plane;
mod dask;
pub mod endpoints;
mod go;
mod installation;
mod kubeconfig;
mod namespace;
mod node;
mod operator;
mod python;
mod python_operator;
mod skipped;
mod third_party;
mod wait;
mod workspace;

pub use audit::{AuditLog, AuditedRequest};
pub use client::{apply_crds, service_account_token};
pub use cluster::{KUBECONFIG_VARIABLE, TestCluster};
pub use dask::{Dask, DaskCertificates, DaskOptions, DaskProcesses};
pub use installation::{Installation, RELEASE, apply_objects, chart, install_chart, render_chart, sha256};
pub use kubeconfig::Kubeconfig;
pub use namespace::{namespace_report, with_namespace};
pub use node::{Node, NodeBinaries, NodeCluster, NodeConnection, NodeUnavailable, dask_image, node_unavailable};
pub use operator::{Operator, PROGRAM_VARIABLE, program};
pub use python_operator::{PythonOperator, RunningPythonOperator};
pub use skipped::say_skipped;
pub use third_party::{ThirdParty, third_party_crds};
pub use wait::wait_for;
pub use workspace::workspace;
