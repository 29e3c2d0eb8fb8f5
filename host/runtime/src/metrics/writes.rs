//! The applier, counted.

use std::sync::Arc;

use dask_wasm_operator_cluster::applier::Applier;
use dask_wasm_operator_core::{
    action::{Action, WriteError, Written},
    object::{ObjectKey, Resource},
    ports::{Mandate, Pending, Writes},
};

use super::Metrics;

/// Performs writes and counts them by verb and result.
pub(crate) struct MeteredWrites {
    applier: Applier,
    metrics: Arc<Metrics>,
}

impl MeteredWrites {
    pub(crate) fn new(applier: Applier, metrics: Arc<Metrics>) -> Self {
        Self { applier, metrics }
    }
}

impl Writes for MeteredWrites {
    fn write(&self, action: Action) -> Pending<'_, Result<Written, WriteError>> {
        self.write_under(action, Mandate::default())
    }

    fn write_under(&self, action: Action, mandate: Mandate) -> Pending<'_, Result<Written, WriteError>> {
        let verb = action.verb();
        Box::pin(async move {
            let result = self.applier.write_under(action, mandate).await;
            self.metrics.wrote(verb, &result);
            result
        })
    }

    fn is_gone(&self, resource: Resource, object: ObjectKey, uid: String) -> Pending<'_, Result<bool, WriteError>> {
        self.applier.is_gone(resource, object, uid)
    }
}
