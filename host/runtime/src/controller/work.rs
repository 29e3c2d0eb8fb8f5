//! What there is to do for a subject, and how much of it at once.

use std::sync::Arc;

use dask_wasm_operator_core::{dask::Reconciler, native::Native as _, plugin::HandlerName};

/// Reconciles of one native reconciler at once: enough to keep the applier's connections busy while others wait for answers.
const NATIVE_AT_ONCE: usize = 32;
/// Status writes at once: fewer, so that objects come first.
const STATUS_AT_ONCE: usize = 4;
/// Reconciles of one plugin's handler at once: a slow plugin delays only itself.
pub(super) const PLUGIN_AT_ONCE: usize = 4;

/// What is to be done for a subject.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Work {
    /// A reconcile of a native reconciler.
    Reconcile(Reconciler),
    /// Writing the status of a Dask object.
    Publish(Reconciler),
    /// A reconcile of a plugin's handler.
    Call(Arc<HandlerName>),
}

impl Work {
    /// How many of these may be under way at once.
    pub(super) fn at_once(&self) -> usize {
        match self {
            Self::Reconcile(_) => NATIVE_AT_ONCE,
            Self::Publish(_) => STATUS_AT_ONCE,
            Self::Call(_) => PLUGIN_AT_ONCE,
        }
    }

    /// How it is called in metrics.
    pub(super) fn label(&self) -> String {
        match self {
            Self::Reconcile(reconciler) => reconciler.name().to_owned(),
            Self::Publish(reconciler) => format!("{}-status", reconciler.name()),
            Self::Call(name) => name.to_string(),
        }
    }

    pub(super) fn is_of_plugin(&self, plugin: &str) -> bool {
        matches!(self, Self::Call(name) if name.plugin == plugin)
    }
}
