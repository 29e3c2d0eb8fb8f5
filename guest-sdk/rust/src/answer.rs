//! Making answers: outcomes and failures.

use std::time::Duration;

use serde::Serialize;

use crate::{
    Child, EventNote, EventSeverity, Failure, Outcome, Patch, PatchStrategy, PatchTarget, TemporaryFailure,
    call::milliseconds,
};

/// No opinion on anything.
impl Default for Outcome {
    fn default() -> Self {
        Self { children: None, patches: None, events: Vec::new(), requeue_after: None, delete_subject: false }
    }
}

impl Outcome {
    /// These children and no others; none at all removes what earlier answers held.
    pub fn children(children: impl IntoIterator<Item = Child>) -> Self {
        Self { children: Some(children.into_iter().collect()), ..Self::default() }
    }

    /// And this patch, beside others that were added.
    #[must_use]
    pub fn patch(mut self, patch: Patch) -> Self {
        self.patches.get_or_insert_default().push(patch);
        self
    }

    /// And this Event on the subject.
    #[must_use]
    pub fn event(mut self, event: EventNote) -> Self {
        self.events.push(event);
        self
    }

    /// And another call after this time, even if nothing changes.
    #[must_use]
    pub fn requeue_after(mut self, time: Duration) -> Self {
        self.requeue_after = Some(milliseconds(time));
        self
    }
}

impl Child {
    /// A child: its key in the handler's set and the object, without namespace and owner.
    ///
    /// # Errors
    /// A permanent failure if the object can't be written as JSON.
    pub fn new(key: &str, object: &impl Serialize) -> Result<Self, Failure> {
        Ok(Self { key: key.into(), object: write(key, object)? })
    }
}

impl Patch {
    /// Keeps the subject's metadata and spec as given.
    ///
    /// # Errors
    /// A permanent failure if the body can't be written as JSON.
    pub fn subject(body: &impl Serialize) -> Result<Self, Failure> {
        Self::apply(PatchTarget::Subject, body)
    }

    /// Keeps the subject's status as given.
    ///
    /// # Errors
    /// A permanent failure if the body can't be written as JSON.
    pub fn status(body: &impl Serialize) -> Result<Self, Failure> {
        Self::apply(PatchTarget::SubjectStatus, body)
    }

    /// In `build`: keeps fields of the child of this key as given.
    ///
    /// # Errors
    /// A permanent failure if the body can't be written as JSON.
    pub fn child(key: &str, body: &impl Serialize) -> Result<Self, Failure> {
        Self::apply(PatchTarget::Child(key.into()), body)
    }

    fn apply(target: PatchTarget, body: &impl Serialize) -> Result<Self, Failure> {
        Ok(Self { target, strategy: PatchStrategy::Apply, body: write("the patch", body)? })
    }
}

impl EventNote {
    /// All is as expected. The reason is one word in CamelCase.
    pub fn normal(reason: &str, message: impl Into<String>) -> Self {
        Self { severity: EventSeverity::Normal, reason: reason.into(), message: message.into() }
    }

    /// Somebody should look. The reason is one word in CamelCase.
    pub fn warning(reason: &str, message: impl Into<String>) -> Self {
        Self { severity: EventSeverity::Warning, reason: reason.into(), message: message.into() }
    }
}

impl Failure {
    /// Not before something changes.
    pub fn permanent(message: impl Into<String>) -> Self {
        Self::Permanent(message.into())
    }

    /// Again, when the host thinks best.
    pub fn temporary(message: impl Into<String>) -> Self {
        Self::Temporary(TemporaryFailure { message: message.into(), retry_after: None })
    }

    /// Again, after this time.
    pub fn temporary_for(message: impl Into<String>, time: Duration) -> Self {
        Self::Temporary(TemporaryFailure { message: message.into(), retry_after: Some(milliseconds(time)) })
    }
}

fn write(what: &str, value: &impl Serialize) -> Result<String, Failure> {
    serde_json::to_string(value)
        .map_err(|error| Failure::permanent(format!("{what} can't be written as JSON: {error}")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::json;

    #[test]
    fn no_opinion_differs_from_nothing_wanted() {
        assert_eq!(Outcome::default().children, None);
        assert_eq!(Outcome::children([]).children, Some(Vec::new()));
    }

    #[test]
    fn parts_add_up() {
        let outcome = Outcome::children([Child::new("a", &json!({"kind": "ConfigMap"})).unwrap()])
            .patch(Patch::status(&json!({"url": "u"})).unwrap())
            .event(EventNote::warning("Odd", "look"))
            .requeue_after(Duration::from_secs(2));
        assert_eq!(outcome.children.unwrap()[0].object, r#"{"kind":"ConfigMap"}"#);
        assert_eq!(outcome.patches.unwrap()[0].target, PatchTarget::SubjectStatus);
        assert_eq!(outcome.events[0].reason, "Odd");
        assert_eq!(outcome.requeue_after, Some(2000));
    }

    #[test]
    fn what_is_no_json_is_a_permanent_failure() {
        let map = std::collections::BTreeMap::from([((1, 2), 3)]);
        assert!(
            matches!(Child::new("a", &map), Err(Failure::Permanent(message)) if message.starts_with("a can't be written"))
        );
    }
}
