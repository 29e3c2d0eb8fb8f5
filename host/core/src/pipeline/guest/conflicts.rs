//! What a handler is told of the fields of its last answer that others hold.

use std::sync::Arc;

use crate::{
    action::WriteError, conflict::Conflict, contract, object::Object, plugin::KEY_ANNOTATION, wanted::Snapshot,
};

/// The most conflicts that are handed over: a guest that can do something about them looks at objects, and has as many children.
const CONFLICTS: usize = 100;

/// What came of an answer's writes; as much as is handed over.
pub(super) fn of(errors: &[WriteError]) -> Vec<Conflict> {
    errors.iter().flat_map(WriteError::conflicts).take(CONFLICTS).cloned().collect()
}

/// By the keys of the children. Of a child that is not there any more nobody holds anything.
pub(super) fn handed_over(conflicts: &[Conflict], seen: &Snapshot) -> Vec<contract::Conflict> {
    let told = |conflict: &Conflict| {
        let is_it = |object: &Arc<Object>| object.key() == conflict.object;
        let child = if is_it(&seen.subject) {
            None
        } else {
            let child = seen.children.iter().find(|child| is_it(child))?;
            Some(child.metadata.annotations.get(KEY_ANNOTATION).cloned().unwrap_or_default())
        };
        Some(contract::Conflict { child, path: conflict.path.clone(), manager: conflict.manager.clone() })
    };
    conflicts.iter().filter_map(told).collect()
}
