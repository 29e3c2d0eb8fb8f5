//! Figures of plugins over their subjects, for the status of the DaskPlugins.

use std::{
    collections::BTreeMap,
    sync::{Mutex, MutexGuard, PoisonError},
};

use dask_wasm_operator_core::{
    object::ObjectKey,
    pipeline::Report,
    plugin::HandlerName,
    spec::{LastError, PluginCounts},
    text::STATUS_BYTES,
    time::rfc3339,
    wanted::all_of,
};
use tokio::sync::Notify;

use super::{Controller, Inner, states::Sums};

/// See the module.
#[derive(Default)]
pub(crate) struct PluginFigures {
    plugins: Mutex<BTreeMap<String, Figures>>,
    changed: Notify,
    parked: Notify,
}

#[derive(Clone, Default)]
struct Figures {
    calls: u64,
    failures: u64,
    last_error: Option<LastError>,
    /// Whether it is given up on any subject.
    has_parked: bool,
}

impl PluginFigures {
    /// Counts a reconcile.
    pub(super) fn note(&self, name: &HandlerName, subject: &ObjectKey, report: &Report, now: u64) {
        if report.call.is_none() {
            return;
        }
        let mut plugins = self.lock();
        let figures = plugins.entry(name.plugin.clone()).or_default();
        figures.calls += 1;
        if let Some(first) = report.findings.problems.first() {
            figures.failures += 1;
            let error = LastError {
                time: rfc3339(now),
                handler: name.handler.clone(),
                subject: subject.to_string(),
                reason: first.reason.to_string(),
                message: all_of(&report.findings.problems, STATUS_BYTES),
            };
            if !figures.last_error.as_ref().is_some_and(|last| last.is_same(&error)) {
                figures.last_error = Some(error);
            }
        }
        self.note_change();
    }

    /// Figures of some plugin differ from what they were.
    pub(super) fn note_change(&self) {
        self.changed.notify_one();
    }

    /// Waits until figures of any plugin differ from what they were.
    pub(crate) async fn changed(&self) {
        self.changed.notified().await;
    }

    /// So many subjects of a plugin are parked.
    pub(super) fn note_parked(&self, plugin: &str, subjects: usize) {
        let mut plugins = self.lock();
        let figures = plugins.entry(plugin.to_owned()).or_default();
        if std::mem::replace(&mut figures.has_parked, subjects > 0) != (subjects > 0) {
            self.parked.notify_one();
        }
    }

    /// Waits until some plugin is given up on a subject, or on none any more.
    pub(crate) async fn parked(&self) {
        self.parked.notified().await;
    }

    /// Drops what is known of one of its handlers.
    pub(super) fn forget_handler(&self, name: &HandlerName) {
        if let Some(figures) = self.lock().get_mut(&name.plugin) {
            figures.last_error.take_if(|error| error.handler == name.handler);
        }
        self.note_change();
    }

    pub(super) fn forget(&self, plugin: &str) {
        self.lock().remove(plugin);
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, Figures>> {
        self.plugins.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Controller {
    /// The sums of a plugin have changed.
    pub(super) fn note_sums(&self, inner: &Inner, plugin: &str) {
        let parked = inner.sums(plugin).parked;
        self.figures.note_change();
        self.figures.note_parked(plugin, parked);
        self.surroundings.metrics.set_parked(plugin, parked);
    }

    /// The figures of a plugin, and the last call that failed.
    pub(crate) fn figures_of(&self, plugin: &str) -> (PluginCounts, Option<LastError>) {
        let Sums { subjects, children, parked } = self.lock().sums(plugin);
        let figures = self.figures.lock().get(plugin).cloned().unwrap_or_default();
        let counts = PluginCounts {
            subjects: subjects as u64,
            children: children as u64,
            calls: figures.calls,
            failures: figures.failures,
            parked: parked as u64,
        };
        (counts, figures.last_error)
    }
}

impl Inner {
    /// What the subjects of a plugin add up to.
    pub(super) fn sums(&self, plugin: &str) -> Sums {
        self.states.sums(|work| work.is_of_plugin(plugin))
    }
}
