//! Calls for a plugin's own tests, which need neither wasm nor a cluster.

use crate::{Call, Outcome, Subject, Trigger, Value};

/// A first call of a handler, with the trigger `observed`. Every other part can be filled in:
/// `Call { config: …, ..testing::call(…) }`.
pub fn call(handler: &str, subject: &Value) -> Call {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let metadata = &subject["metadata"];
    Call {
        handler: handler.into(),
        trigger: Trigger::Observed,
        redelivery: false,
        attempt: 1,
        now: 0,
        subject: Subject {
            api_version: text(&subject["apiVersion"]),
            kind: text(&subject["kind"]),
            namespace: metadata["namespace"].as_str().map(Into::into),
            name: text(&metadata["name"]),
            uid: text(&metadata["uid"]),
            object: subject.to_string(),
        },
        related: Vec::new(),
        children: Vec::new(),
        conflicts: Vec::new(),
        config: "null".into(),
    }
}

/// The object of the child with this key; null if there is none.
pub fn child(outcome: &Outcome, key: &str) -> Value {
    let child = outcome.children.iter().flatten().find(|child| child.key == key);
    child.and_then(|child| serde_json::from_str(&child.object).ok()).unwrap_or_default()
}
