//! Whether the operator works, for whoever would start it anew if it did not.

use std::{
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use dask_wasm_operator_cluster::watch::{WatchKey, Watches};

use super::server::Health;
use crate::{controller::Controller, metrics::Metrics, watches::served::ServedWatches};

/// A watch that tried nothing for so long is stuck: each list, connection and silence has a shorter limit of its own.
const WATCH_LIMIT: Duration = Duration::from_secs(90);

/// How the operator is doing.
pub(crate) struct OperatorHealth {
    pub(crate) served: ServedWatches,
    /// Watches beside those that are served.
    pub(crate) beside: Vec<WatchKey>,
    pub(crate) watches: Watches,
    pub(crate) controller: Arc<Controller>,
    /// Whether what is in the cluster has been read.
    pub(crate) in_sync: Arc<AtomicBool>,
    pub(crate) metrics: Arc<Metrics>,
}

impl Health for OperatorHealth {
    /// Attempts count, not successes: an outage of the API server is no reason for a restart.
    fn live(&self) -> Result<(), String> {
        let stuck = self.watches.stuck(WATCH_LIMIT);
        let stuck = stuck.into_iter().filter(|key| self.beside.contains(key) || self.served.is_own(key));
        let watches = stuck.map(|key| format!("the watch of {key} has tried nothing for {} s", WATCH_LIMIT.as_secs()));
        let reconciles =
            self.controller.stuck().into_iter().map(|reconcile| format!("{reconcile} does not come to an end"));
        let stuck: Vec<_> = watches.chain(reconciles).collect();
        if stuck.is_empty() { Ok(()) } else { Err(stuck.join("; ")) }
    }

    fn ready(&self) -> Result<(), String> {
        if self.in_sync.load(Ordering::Acquire) {
            Ok(())
        } else {
            Err("the first lists of objects are still being read".to_owned())
        }
    }

    fn metrics(&self) -> Option<Arc<Metrics>> {
        Some(Arc::clone(&self.metrics))
    }
}

/// Tells of an operator that may still have to begin: while it waits for what it needs, a new start would not help.
#[derive(Default)]
pub(crate) struct HealthFromStart(OnceLock<OperatorHealth>);

impl HealthFromStart {
    /// From now on it tells of this operator.
    pub(crate) fn begin(&self, operator: OperatorHealth) {
        // There is one in a process.
        let _ = self.0.set(operator);
    }
}

impl Health for HealthFromStart {
    fn live(&self) -> Result<(), String> {
        self.0.get().map_or(Ok(()), Health::live)
    }

    fn ready(&self) -> Result<(), String> {
        self.0.get().map_or_else(|| Err("what the operator needs is not there yet".to_owned()), Health::ready)
    }

    fn metrics(&self) -> Option<Arc<Metrics>> {
        self.0.get().and_then(Health::metrics)
    }
}
