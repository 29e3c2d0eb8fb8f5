//! The status of a Dask object: looked at afresh, written when it differs.

use serde_json::{Value, json};

use super::{Pipeline, takeover::Hold};
use crate::{
    action::{Action, Apply, ApplyTarget, WriteError},
    contract::{EventNote, EventSeverity},
    dask::{Reconciler, field_manager},
    fields::{contains, holds_more},
    object::{ManagedFields, NamespacedName},
    spec::{Condition, ConditionStatus},
    wanted::Findings,
};

impl Pipeline<'_> {
    /// Writes the status if it differs, and returns the Events that the change calls for.
    ///
    /// # Errors
    /// When the write failed; it is to be tried again.
    pub async fn publish(
        &self,
        reconciler: Reconciler,
        at: &NamespacedName,
        findings: &Findings,
        now: u64,
    ) -> Result<Vec<EventNote>, WriteError> {
        let kind = reconciler.subject();
        let subject = self.observed.get(&kind, at).filter(|subject| !subject.is_being_deleted());
        let (Some(subject), Some(resource)) = (subject, self.observed.resource(&kind)) else { return Ok(Vec::new()) };
        // What tells no problems says nothing of what is somebody else's.
        if !reconciler.has_conditions() && !matches!(self.hold_by_cluster(reconciler, &subject, now), Hold::Ours) {
            return Ok(Vec::new());
        }
        let seen = self.observe_native(reconciler, &subject, now);
        let mut status = reconciler.status(&seen, findings);
        let has_subresource = self.observed.has_status(&kind);
        if !has_subresource {
            status = phase_only(&status);
        }
        let before = subject.field::<Value>("status").and_then(Result::ok).unwrap_or_default();
        let mut manager = field_manager(reconciler);
        if !has_subresource {
            // An apply is the whole set of its manager, and this one has fields of the object itself.
            manager.push_str("/status");
        }
        let mut body = json!({
            "apiVersion": kind.api_version(),
            "kind": kind.kind,
            "metadata": {"name": subject.metadata.name, "uid": subject.metadata.uid},
        });
        if !status.is_null() {
            body["status"] = status.clone();
        }
        let held = if has_subresource { subject.status_applied_by(&manager) } else { subject.applied_by(&manager) };
        let held = held.and_then(ManagedFields::decoded);
        if contains(&before, &status) && !held.is_some_and(|held| holds_more(&held, &body)) {
            return Ok(Vec::new());
        }
        let apply = Apply {
            resource,
            object: subject.key(),
            target: if has_subresource { ApplyTarget::Status } else { ApplyTarget::Object },
            manager,
            body,
            force: true,
            creates: false,
        };
        self.writes.write(Action::Apply(apply)).await?;
        Ok(transitions(&before, &status))
    }
}

/// What the Python operator's definitions know of a status: where it is no subresource they drop everything else, and each
/// change of it counts as one of the object.
fn phase_only(status: &Value) -> Value {
    status.get("phase").map_or(Value::Null, |phase| json!({ "phase": phase }))
}

/// One Event when something goes wrong, or goes wrong in another way.
fn transitions(before: &Value, after: &Value) -> Vec<EventNote> {
    let degraded = |status: &Value| -> Option<Condition> {
        let conditions: Vec<Condition> = serde_json::from_value(status.get("conditions")?.clone()).ok()?;
        conditions
            .into_iter()
            .find(|condition| condition.type_ == "Degraded" && condition.status == ConditionStatus::True)
    };
    let (before, after) = (degraded(before), degraded(after));
    let new = |after: &Condition| {
        before.as_ref().is_none_or(|before| (&before.reason, &before.message) != (&after.reason, &after.message))
    };
    after
        .filter(new)
        .map(|condition| EventNote {
            severity: EventSeverity::Warning,
            reason: condition.reason,
            message: condition.message,
        })
        .into_iter()
        .collect()
}
