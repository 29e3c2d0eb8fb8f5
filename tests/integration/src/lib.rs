//! The operator, as a process of its own, against a real API server: what the tests share.

pub mod proxy;
