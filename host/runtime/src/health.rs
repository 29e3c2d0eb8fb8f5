//! Whether the operator works, for whoever would start it anew if it did not.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use dask_wasm_operator_cluster::watch::{WatchKey, Watches};

use crate::{Health, controller::Controller, served::ServedWatches};

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
}

impl Health for OperatorHealth {
    /// Attempts count, not successes: an outage of the API server is no reason for a restart.
    fn live(&self) -> Result<(), String> {
        let stuck = self.watches.stuck(WATCH_LIMIT);
        let stuck = stuck.into_iter().filter(|key| self.beside.contains(key) || self.served.is_own(key));
        let watches = stuck.map(|key| format!("the watch of {key} has tried nothing for {} s", WATCH_LIMIT.as_secs()));
        let passes = self.controller.stuck().into_iter().map(|pass| format!("{pass} does not come to an end"));
        let stuck: Vec<_> = watches.chain(passes).collect();
        if stuck.is_empty() { Ok(()) } else { Err(stuck.join("; ")) }
    }

    fn ready(&self) -> Result<(), String> {
        if self.in_sync.load(Ordering::Acquire) {
            Ok(())
        } else {
            Err("what is in the cluster is still being read".to_owned())
        }
    }
}
