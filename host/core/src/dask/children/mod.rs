//! What children are made from: parts of the spec of their subject.

pub(in crate::dask) mod metadata;
pub(in crate::dask) mod pod_spec;
pub(in crate::dask) mod replicas;
