//! Shows the state of plugins on their DaskPlugins.

use std::time::Duration;

use dask_wasm_operator_core::{
    action::{Action, Apply, ApplyTarget, Precondition},
    fields::contains,
    object::NamespacedName,
    spec::{DASK_PLUGIN, DaskPluginStatus, PluginState},
    text::{STATUS_BYTES, lines_in},
};
use serde_json::{Value, json};
use tokio::time::Instant;

use super::{
    directory::Origin,
    manager::{Entry, PluginManager},
    status::{Newest, Standing},
};
use crate::controller::now;

/// Field manager of the status of DaskPlugins.
const MANAGER: &str = "dask-operator/plugins";
/// A status is written at most so often.
const WINDOW: Duration = Duration::from_millis(500);
/// When a status that could not be written is written again.
const AGAIN: Duration = Duration::from_secs(2);

impl PluginManager {
    pub(super) fn show_soon(&mut self) {
        self.statuses_due.get_or_insert_with(|| Instant::now() + WINDOW);
    }

    /// Writes each status that differs.
    pub(super) async fn show(&mut self) {
        let kind = DASK_PLUGIN.group_version_kind();
        let Some(resource) = self.surroundings.observed.resource(&kind) else { return };
        for (name, entry) in self.plugins.iter_mut().filter(|(_, entry)| entry.origin == Origin::Object) {
            if let Some((watch, problem)) = entry.watch_problem() {
                tracing::debug!(plugin = name, %watch, %problem, "a watch of a plugin has no news");
            }
            let at = NamespacedName::new(&self.surroundings.operator_namespace, name);
            let Some(object) = self.surroundings.observed.get(&kind, &at) else { continue };
            let before = object.field::<Value>("status").and_then(Result::ok).unwrap_or_default();
            let former = serde_json::from_value::<DaskPluginStatus>(before.clone()).unwrap_or_default();
            let standing = with_watch_problems(entry);
            entry.is_known |= !is_on_its_way(standing.newest.state);
            // After a restart, what was written of the same specification stands until it is known anew.
            if !entry.is_known && former.observed_generation.is_some_and(|former| Some(former) == entry.generation) {
                continue;
            }
            let figures = self.surroundings.controller.figures().of(name);
            let mut status = json!(standing.status(figures, entry.generation, &former.conditions, now()));
            lines_in(&mut status, STATUS_BYTES);
            if before == status || (contains(&before, &status) && contains(&status, &before)) {
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
            if let Err(error) = self.surroundings.writes.write(Action::Apply(apply)).await {
                tracing::debug!(plugin = name, %error, "status not written");
                self.statuses_due = Some(Instant::now() + AGAIN);
            }
        }
    }
}

fn is_on_its_way(state: PluginState) -> bool {
    matches!(state, PluginState::Found | PluginState::Compiling | PluginState::Describing)
}

/// A plugin whose watches have no news says so in the place of what it would say.
fn with_watch_problems(entry: &Entry) -> Standing {
    let mut standing = entry.standing.clone();
    if standing.newest.state == PluginState::Describing
        && let Some((key, problem)) = entry.watch_problem()
    {
        standing.newest = Newest::new(PluginState::Failed, problem.kind(), format!("{key}: {problem}"));
    }
    standing
}
