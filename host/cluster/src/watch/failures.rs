//! How often watches failed, for metrics.

use std::{
    collections::BTreeMap,
    sync::{Mutex, MutexGuard, PoisonError},
};

use dask_wasm_operator_core::object::GroupVersionKind;

/// How often watches did not get all news, by kind of the objects and of the problem. They outlive the watches.
#[derive(Default)]
pub(super) struct FailureCounts(Mutex<BTreeMap<(String, &'static str), u64>>);

impl FailureCounts {
    pub(super) fn count(&self, kind: &GroupVersionKind, problem: &'static str) {
        *self.lock().entry((kind.kind.clone(), problem)).or_default() += 1;
    }

    /// Kind of the objects, word of the problem, number.
    pub(super) fn all(&self) -> Vec<(String, &'static str, u64)> {
        self.lock().iter().map(|((kind, problem), count)| (kind.clone(), *problem, *count)).collect()
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<(String, &'static str), u64>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
