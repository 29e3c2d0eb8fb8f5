//! Shows the state of plugins on their DaskPlugins.
//!
//! What a person acts on is shown soon. Counts change with every call of a busy plugin: they are in the metrics at once, and here
//! now and then. Nobody waits for these writes.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use dask_wasm_operator_core::{
    action::{Action, Apply, ApplyTarget, Precondition, WriteError},
    fields::contains,
    object::NamespacedName,
    spec::{DASK_PLUGIN, DaskPluginStatus, PluginState},
    text::{STATUS_BYTES, lines_in},
};
use serde_json::{Value, json};
use tokio::{task::JoinSet, time::Instant};

use super::{
    directory::Origin,
    entry::Entry,
    status::{Newest, Standing},
    surroundings::ManagerSurroundings,
};
use crate::process::clock::now;

/// Field manager of the status of DaskPlugins.
const MANAGER: &str = "dask-operator/plugins";
/// A status is written at most so often.
const WINDOW: Duration = Duration::from_millis(500);
/// A status of which only counts differ is written at most so often.
const COUNT_WINDOW: Duration = Duration::from_secs(10);
/// When a status that could not be written is written again.
const AGAIN: Duration = Duration::from_secs(2);

/// The statuses that are to be written, and those that are being.
#[derive(Default)]
pub(super) struct Statuses {
    due: Option<Instant>,
    counts_due: Option<Instant>,
    counted: Option<Instant>,
    writes: JoinSet<Written>,
    under_way: BTreeSet<String>,
    /// Whether one was being written when it was looked at.
    again: bool,
}

/// The plugin whose status was written, or why it was not.
pub(super) type Written = (String, Result<(), WriteError>);

impl Statuses {
    pub(super) fn due(&self) -> Option<Instant> {
        self.due.into_iter().chain(self.counts_due).min()
    }

    /// Whether counts are going to be shown, so that nobody need tell that they differ.
    pub(super) fn counts(&self) -> bool {
        self.counts_due.is_some()
    }

    /// Waits until one has been written, or could not be; none if none is being written.
    pub(super) async fn written(&mut self) -> Option<Written> {
        self.writes.join_next().await?.ok()
    }

    /// Shows what differs soon.
    pub(super) fn soon(&mut self) {
        self.due.get_or_insert_with(|| Instant::now() + WINDOW);
    }

    /// Counts of some plugin differ.
    pub(super) fn count_soon(&mut self, now: Instant) {
        let soon = now + WINDOW;
        let due = self.counted.map_or(soon, |counted| soon.max(counted + COUNT_WINDOW));
        self.counts_due.get_or_insert(due);
    }

    /// Takes note that time is up; answers whether counts are to be shown, too.
    fn begin(&mut self, now: Instant) -> bool {
        if self.due.is_some_and(|due| due <= now) {
            self.due = None;
        }
        let counts = self.counts_due.is_some_and(|due| due <= now);
        if counts {
            (self.counts_due, self.counted) = (None, Some(now));
        }
        counts
    }

    /// Begins to write each status that differs.
    pub(super) fn show(
        &mut self,
        begun: Instant,
        surroundings: &ManagerSurroundings,
        plugins: &mut BTreeMap<String, Entry>,
    ) {
        let with_counts = self.begin(begun);
        let kind = DASK_PLUGIN.group_version_kind();
        let Some(resource) = surroundings.observed.resource(&kind) else { return };
        for (name, entry) in plugins.iter_mut().filter(|(_, entry)| entry.origin == Origin::Object) {
            if let Some((watch, problem)) = entry.watch_problem() {
                tracing::debug!(plugin = name, %watch, %problem, "a watch of a plugin has no news");
                entry.progress.is_held_up();
            }
            let at = NamespacedName::new(&surroundings.operator_namespace, name);
            let Some(object) = surroundings.observed.get(&kind, &at) else { continue };
            let before = object.field::<Value>("status").and_then(Result::ok).unwrap_or_default();
            let former = serde_json::from_value::<DaskPluginStatus>(before.clone()).unwrap_or_default();
            // After a restart, what was written of the same specification stands until it is known anew.
            if !entry.progress.is_known()
                && former.observed_generation.is_some_and(|former| Some(former) == entry.generation)
            {
                continue;
            }
            let (standing, figures) = (standing(entry), surroundings.controller.figures_of(name));
            let mut status = json!(standing.status(figures, entry.generation, &former.conditions, now()));
            lines_in(&mut status, STATUS_BYTES);
            let is_shown = match with_counts {
                true => is_same(&before, &status),
                false => is_same(&without_counts(before), &without_counts(status.clone())),
            };
            if is_shown {
                continue;
            }
            if !self.under_way.insert(name.clone()) {
                self.again = true;
                continue;
            }
            let body = json!({
                "apiVersion": kind.api_version(), "kind": kind.kind,
                "metadata": {"name": name}, "status": status,
            });
            let apply = Apply {
                resource: resource.clone(),
                object: object.key(),
                target: ApplyTarget::Status,
                manager: MANAGER.to_owned(),
                precondition: Precondition::is(&object),
                body,
                force: true,
            };
            let (name, writes) = (name.clone(), surroundings.writes.clone());
            self.writes.spawn(async move {
                let written = writes.write(Action::Apply(apply)).await;
                (name, written.map(|_| ()))
            });
        }
    }

    /// A status was written, or could not be.
    pub(super) fn shown(&mut self, (name, written): Written) {
        self.under_way.remove(&name);
        if let Err(error) = written {
            tracing::debug!(plugin = name, %error, "status not written");
            self.due.get_or_insert_with(|| Instant::now() + AGAIN);
        } else if std::mem::take(&mut self.again) {
            self.soon();
        }
    }
}

fn is_same(before: &Value, after: &Value) -> bool {
    before == after || (contains(before, after) && contains(after, before))
}

/// What a person acts on: not how often something happened, but that it does.
fn without_counts(mut status: Value) -> Value {
    if let Some(fields) = status.as_object_mut() {
        fields.remove("counts");
        fields.remove("lastError");
    }
    let conditions = status.get_mut("conditions").and_then(Value::as_array_mut).into_iter().flatten();
    for condition in conditions.filter(|condition| condition["type"] == "Degraded").filter_map(Value::as_object_mut) {
        condition.remove("message");
    }
    status
}

/// Where a plugin stands. One whose watches have no news says so in the place of what it would say.
fn standing(entry: &Entry) -> Standing {
    let held_up = entry.watch_problem().filter(|_| entry.progress.is_described());
    let newest = match held_up {
        Some((key, problem)) => Newest::new(PluginState::Failed, problem.kind(), format!("{key}: {problem}")),
        None => entry.progress.newest(),
    };
    Standing { serving: entry.served.as_ref().map(|served| served.serving.clone()), newest }
}

#[cfg(test)]
mod tests {
    use dask_wasm_operator_core::spec::{LastError, PluginCounts};

    use super::*;

    fn status(calls: u64, parked: u64) -> Value {
        let error = LastError {
            time: String::new(),
            handler: "h".to_owned(),
            subject: format!("Service n/{calls}"),
            reason: "Trap".to_owned(),
            message: "unreachable".to_owned(),
        };
        let figures = (PluginCounts { calls, parked, ..PluginCounts::default() }, Some(error));
        json!(Standing::default().status(figures, Some(1), &[], 0))
    }

    #[test]
    fn a_status_of_which_only_counts_differ_is_not_urgent_and_a_subject_that_was_given_up_is() {
        let rest = |calls, parked| without_counts(status(calls, parked));
        assert_ne!(status(1, 0), status(2, 0));
        assert!(is_same(&rest(1, 0), &rest(2, 0)));
        assert!(is_same(&rest(1, 1), &rest(2, 2)));
        assert!(!is_same(&rest(1, 0), &rest(1, 1)));
    }

    #[test]
    fn counts_are_shown_soon_and_then_not_before_ten_seconds_have_passed() {
        let (mut statuses, begin) = (Statuses::default(), Instant::now());
        statuses.count_soon(begin);
        assert_eq!(statuses.due(), Some(begin + WINDOW));
        assert!(!statuses.begin(begin));
        assert!(statuses.begin(begin + WINDOW) && !statuses.counts());
        statuses.count_soon(begin + WINDOW);
        statuses.count_soon(begin + 2 * WINDOW);
        assert_eq!(statuses.due(), Some(begin + WINDOW + COUNT_WINDOW));
    }
}
