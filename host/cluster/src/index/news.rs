//! What becomes known, and the uids by which news that are too late are told.

use std::{
    collections::{HashSet, VecDeque},
    sync::Arc,
};

use dask_wasm_operator_core::object::{GroupVersionKind, Object};

/// Deleted objects that are remembered lest a late watch brings them back. A uid is never used again, so remembering one for
/// too long does no harm, unless the server goes back to before the deletion; this many are never on their way at once. As
/// many are remembered as foreign.
const REMEMBERED: usize = 4_096;

/// Something became known.
#[derive(Clone, Debug)]
pub struct Change {
    /// The object's kind.
    pub kind: Arc<GroupVersionKind>,
    /// As it was known before; none: it was not.
    pub old: Option<Arc<Object>>,
    /// As it is known now; none: it is gone from all watches.
    pub new: Option<Arc<Object>>,
    /// Whether it is known from the answer to a write of ours.
    pub own_write: bool,
}

/// Uids, the oldest first.
#[derive(Default)]
pub(super) struct Uids {
    uids: HashSet<Arc<str>>,
    order: VecDeque<Arc<str>>,
}

impl Uids {
    pub(super) fn insert(&mut self, uid: &str) {
        let uid: Arc<str> = uid.into();
        if self.uids.insert(Arc::clone(&uid)) {
            self.order.push_back(uid);
        }
        if self.order.len() > REMEMBERED
            && let Some(oldest) = self.order.pop_front()
        {
            self.uids.remove(&oldest);
        }
    }

    pub(super) fn contains(&self, uid: &str) -> bool {
        self.uids.contains(uid)
    }

    pub(super) fn clear(&mut self) {
        *self = Self::default();
    }
}

/// What an update may look at and what it made known.
pub(super) struct News<'a> {
    pub(super) deleted: &'a mut Uids,
    pub(super) changes: &'a mut Vec<Change>,
    pub(super) own_write: bool,
}

impl News<'_> {
    pub(super) fn tell(&mut self, kind: &Arc<GroupVersionKind>, old: Option<Arc<Object>>, new: Option<Arc<Object>>) {
        self.changes.push(Change { kind: Arc::clone(kind), old, new, own_write: self.own_write });
    }
}
