//! Figures of plugins over their subjects, for the status of the DaskPlugins.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Mutex, MutexGuard, PoisonError},
};

use dask_wasm_operator_core::{
    object::{NamespacedName, ObjectKey},
    pipeline::{Pass, SubjectState},
    plugin::HandlerName,
    spec::{LastError, PluginCounts},
    text::STATUS_BYTES,
    time::rfc3339,
    wanted::all_of,
};
use tokio::sync::Notify;

/// See the module.
#[derive(Default)]
pub(crate) struct PluginFigures {
    plugins: Mutex<BTreeMap<String, Figures>>,
    changed: Notify,
}

#[derive(Default)]
struct Figures {
    calls: u64,
    failures: u64,
    last_error: Option<LastError>,
    subjects: HashMap<(String, NamespacedName), Subject>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
struct Subject {
    children: usize,
    parked: bool,
}

impl PluginFigures {
    /// Counts a pass.
    pub(super) fn note(&self, name: &HandlerName, subject: &ObjectKey, pass: &Pass, state: &SubjectState, now: u64) {
        let mut plugins = self.lock();
        let figures = plugins.entry(name.plugin.clone()).or_default();
        let key = (name.handler.clone(), subject.at.clone());
        let before = figures.subjects.get(&key).copied();
        let after = Subject { children: state.children(), parked: state.is_parked() };
        let mut changed = false;
        if pass.alive && state.is_handled() {
            changed |= figures.subjects.insert(key, after) != Some(after);
        } else {
            changed |= figures.subjects.remove(&key).is_some();
        }
        changed |= before.is_some_and(|before| before.parked != after.parked);
        if pass.call.is_some() {
            figures.calls += 1;
            changed = true;
            if let Some(first) = pass.findings.problems.first() {
                figures.failures += 1;
                let error = LastError {
                    time: rfc3339(now),
                    handler: name.handler.clone(),
                    subject: subject.to_string(),
                    reason: first.reason.to_owned(),
                    message: all_of(&pass.findings.problems, STATUS_BYTES),
                };
                if !figures.last_error.as_ref().is_some_and(|last| last.is_same(&error)) {
                    figures.last_error = Some(error);
                }
            }
        }
        if changed {
            self.changed.notify_one();
        }
    }

    /// Waits until figures of any plugin differ from what they were.
    pub(crate) async fn changed(&self) {
        self.changed.notified().await;
    }

    /// The figures of a plugin, and the last call that failed.
    pub(crate) fn of(&self, plugin: &str) -> (PluginCounts, Option<LastError>) {
        let plugins = self.lock();
        let Some(figures) = plugins.get(plugin) else { return Default::default() };
        let sum = |count: fn(&Subject) -> usize| figures.subjects.values().map(count).sum::<usize>() as u64;
        let counts = PluginCounts {
            subjects: sum(|_| 1),
            children: sum(|subject| subject.children),
            calls: figures.calls,
            failures: figures.failures,
            parked: sum(|subject| usize::from(subject.parked)),
        };
        (counts, figures.last_error.clone())
    }

    pub(super) fn parked(&self, plugin: &str) -> usize {
        let plugins = self.lock();
        plugins.get(plugin).map_or(0, |figures| figures.subjects.values().filter(|subject| subject.parked).count())
    }

    /// Drops what is known of one of its handlers.
    pub(super) fn forget_handler(&self, name: &HandlerName) {
        let mut plugins = self.lock();
        let Some(figures) = plugins.get_mut(&name.plugin) else { return };
        figures.subjects.retain(|(handler, _), _| *handler != name.handler);
        figures.last_error.take_if(|error| error.handler == name.handler);
        self.changed.notify_one();
    }

    pub(super) fn forget(&self, plugin: &str) {
        self.lock().remove(plugin);
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, Figures>> {
        self.plugins.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
