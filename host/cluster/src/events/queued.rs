//! An Event on its way: what it says, about what, and for whom.

use dask_wasm_operator_core::{
    contract::EventNote,
    object::{GroupVersionKind, NamespacedName, Object},
};
use tokio::sync::oneshot;

/// What an Event is about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Regarding {
    /// The object's kind.
    pub kind: GroupVersionKind,
    /// Namespace and name.
    pub at: NamespacedName,
    /// The object's uid: Events are shown with the very object only.
    pub uid: String,
}

impl From<&Object> for Regarding {
    fn from(object: &Object) -> Self {
        Self { kind: (*object.kind).clone(), at: object.at(), uid: object.metadata.uid.clone() }
    }
}

/// Who wants an Event posted.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Source {
    /// The operator itself.
    Operator,
    /// A plugin, by the name of its DaskPlugin.
    Plugin(String),
}

/// An Event that waits to be posted. Dropped when that is done, which ends its `Posting`.
pub(super) struct Queued {
    pub(super) source: Source,
    pub(super) regarding: Regarding,
    pub(super) note: EventNote,
    /// Whether this process has said it before, some time ago.
    pub(super) is_again: bool,
    pub(super) _end: oneshot::Sender<()>,
}
