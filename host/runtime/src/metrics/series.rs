//! Metrics by labels, of which some can be dropped again.

use std::{
    collections::HashSet,
    fmt::Debug,
    hash::Hash,
    sync::{Mutex, PoisonError},
};

use prometheus_client::metrics::{family::Family, family::MetricConstructor};

/// See the module. `F` makes the metric of new labels.
#[derive(Debug)]
pub(super) struct Series<L, M, F = fn() -> M> {
    family: Family<L, M, F>,
    known: Mutex<HashSet<L>>,
}

impl<L: Clone + Eq + Hash, M: Clone, F: MetricConstructor<M>> Series<L, M, F> {
    pub(super) fn of(family: Family<L, M, F>) -> Self {
        Self { family, known: Mutex::default() }
    }

    /// The metric with these labels.
    pub(super) fn get(&self, labels: L) -> M {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let metric = self.family.get_or_create_owned(&labels);
        known.insert(labels);
        metric
    }

    /// Drops those whose labels are `gone`.
    pub(super) fn forget(&self, gone: impl Fn(&L) -> bool) {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.retain(|labels| {
            let is_gone = gone(labels);
            if is_gone {
                self.family.remove(labels);
            }
            !is_gone
        });
    }
}
