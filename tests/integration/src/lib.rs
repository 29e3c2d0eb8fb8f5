//! The operator, as a process of its own, against a real API server: what the tests share.

pub mod clusters;
pub mod example;
pub mod manifests;
pub mod objects;
pub mod proxy;
pub mod settled;
