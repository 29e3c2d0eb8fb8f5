//! What can be watched.

use std::fmt;

use dask_wasm_operator_core::{object::Resource, selector::SelectorError};
use thiserror::Error;

use crate::path::PathError;

/// What is watched.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct WatchKey {
    /// The kind.
    pub resource: Resource,
    /// One namespace; none: all.
    pub namespace: Option<String>,
    /// A label selector in text form; none: all.
    pub labels: Option<String>,
}

impl fmt::Display for WatchKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} in ", self.resource.kind)?;
        match &self.namespace {
            Some(namespace) => write!(f, "namespace {namespace}")?,
            None => f.write_str("all namespaces")?,
        }
        if let Some(labels) = &self.labels {
            write!(f, " with {labels}")?;
        }
        Ok(())
    }
}

/// Why a watch can't be started.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum WatchKeyError {
    /// A name can't be part of a URL.
    #[error("{key} can't be watched")]
    Path {
        /// What was to be watched.
        key: Box<WatchKey>,
        /// The name.
        #[source]
        source: PathError,
    },
    /// The label selector can't be understood.
    #[error("{key} can't be watched")]
    Labels {
        /// What was to be watched.
        key: Box<WatchKey>,
        /// The requirement.
        #[source]
        source: SelectorError,
    },
}
