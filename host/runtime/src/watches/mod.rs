//! What is followed of the cluster while the operator runs, and in which namespaces.

pub(crate) mod known_fields;
pub(crate) mod namespaces;
pub(crate) mod own;
pub(crate) mod served;
