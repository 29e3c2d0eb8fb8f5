//! The status of a Dask object: looked at afresh, written when it differs.

use serde_json::{Value, json};

use super::Pipeline;
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
        let seen = self.observe_native(reconciler, &subject, now);
        let status = reconciler.status(&seen, findings);
        let before = subject.field::<Value>("status").and_then(Result::ok).unwrap_or_default();
        let manager = field_manager(reconciler);
        let mut body = json!({
            "apiVersion": kind.api_version(),
            "kind": kind.kind,
            "metadata": {"name": subject.metadata.name, "uid": subject.metadata.uid},
        });
        if !status.is_null() {
            body["status"] = status.clone();
        }
        let held = subject.status_applied_by(&manager).and_then(ManagedFields::decoded);
        if contains(&before, &status) && !held.is_some_and(|held| holds_more(&held, &body)) {
            return Ok(Vec::new());
        }
        let apply = Apply {
            resource,
            object: subject.key(),
            target: ApplyTarget::Status,
            manager,
            body,
            force: true,
            creates: false,
        };
        self.writes.write(Action::Apply(apply)).await?;
        Ok(transitions(&before, &status))
    }
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
