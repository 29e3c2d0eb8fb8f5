//! The end of plugins.

use std::sync::PoisonError;

use dask_wasm_operator_core::plugin::HandlerName;
use tokio::time::Instant;

use super::{Controller, Inner, Work};

impl Work {
    fn is_of_plugin(&self, plugin: &str) -> bool {
        matches!(self, Self::Call(name) if name.plugin == plugin)
    }
}

impl Controller {
    /// Waits until no pass of a plugin that was begun before an instant is under way.
    pub(crate) async fn passes_ended(&self, plugin: &str, begun_before: Instant) {
        let under_way = |inner: &Inner| {
            inner.running.iter().any(|((work, _), pass)| work.is_of_plugin(plugin) && pass.begun <= begun_before)
        };
        loop {
            let ended = self.pass_ended.notified();
            if !under_way(&self.lock()) {
                return;
            }
            ended.await;
        }
    }

    /// Drops what is remembered of a handler that is mounted no more. What its passes that are under way still come to is not
    /// kept.
    pub(super) fn forget_handler(&self, name: HandlerName) {
        self.surroundings.metrics.forget_handler(&name);
        self.figures.forget_handler(&name);
        self.surroundings.metrics.set_parked(&name.plugin, self.figures.parked(&name.plugin));
        let work = Work::Call(name);
        let mut inner = self.lock();
        inner.queue.forget(&work);
        inner.states.retain(|(of, _), _| *of != work);
        inner.requeues.retain(|(of, _), _| *of != work);
    }

    /// Drops what is remembered of a plugin, unless it is mounted again.
    pub(crate) fn forget(&self, plugin: &str) {
        let handlers = self.handlers.read().unwrap_or_else(PoisonError::into_inner);
        if handlers.keys().any(|name| name.plugin == plugin) {
            return;
        }
        let mut inner = self.lock();
        inner.states.retain(|(work, _), _| !work.is_of_plugin(plugin));
        inner.requeues.retain(|(work, _), _| !work.is_of_plugin(plugin));
        inner.budgets.remove(plugin);
        drop(inner);
        self.figures.forget(plugin);
        self.surroundings.metrics.forget_plugin(plugin);
    }
}
