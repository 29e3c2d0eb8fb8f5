//! The end of plugins.

use std::sync::{Arc, PoisonError};

use dask_wasm_operator_core::plugin::HandlerName;
use tokio::time::Instant;

use super::{Controller, Inner, Work};

impl Controller {
    /// Waits until no reconcile of a plugin that was begun before an instant is under way.
    pub(crate) async fn reconciles_ended(&self, plugin: &str, begun_before: Instant) {
        let under_way = |inner: &Inner| {
            inner.running.iter().any(|((work, _), running)| work.is_of_plugin(plugin) && running.begun <= begun_before)
        };
        loop {
            let ended = self.reconcile_ended.notified();
            if !under_way(&self.lock()) {
                return;
            }
            ended.await;
        }
    }

    /// Drops what is remembered of a handler that is mounted no more. What its reconciles that are under way still come to
    /// is not kept.
    pub(super) fn forget_handler(&self, inner: &mut Inner, name: &Arc<HandlerName>) {
        self.surroundings.metrics.forget_handler(name);
        self.figures.forget_handler(name);
        inner.forget(&Work::Call(Arc::clone(name)));
        self.note_sums(inner, &name.plugin);
    }

    /// Drops what is remembered of a plugin, unless it is mounted again.
    pub(crate) fn forget(&self, plugin: &str) {
        let handlers = self.handlers.read().unwrap_or_else(PoisonError::into_inner);
        if handlers.keys().any(|name| name.plugin == plugin) {
            return;
        }
        self.lock().budgets.remove(plugin);
        self.figures.forget(plugin);
        self.surroundings.events.forget(plugin);
        self.surroundings.metrics.forget_plugin(plugin);
    }
}
