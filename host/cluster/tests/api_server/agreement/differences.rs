//! What the cluster in memory and the API server are known to differ in.

use serde_json::json;

use super::{
    kinds::{Kind, kind},
    run,
    steps::{By, Expected, Fields, Step},
};
use crate::in_world;

/// A difference that stands.
struct Known {
    /// What the cluster in memory does not do, and why.
    reason: &'static str,
    kind: &'static str,
    /// What shows it.
    steps: Vec<Step>,
    /// Part of how it shows.
    shows: &'static str,
}

fn apply(manager: usize, expected: Expected, fields: &[(&'static str, serde_json::Value)]) -> Step {
    Step::Apply { object: 0, manager, fields: Fields(fields.to_vec()), force: false, expected }
}

/// The table of docs/dev/testing.md.
fn known() -> [Known; 6] {
    const NEWER: &str = "/spec/worker/spec/newerThanUs";
    let without_protocol = json!([{"ports": [{"port": 80}]}]);
    let status = ("/status/readyReplicas", json!(1));
    let nothing = || Fields(Vec::new());
    let change =
        |set: Fields, remove: &[&'static str]| Step::Change { object: 0, by: By::Update, set, remove: remove.to_vec() };
    [
        Known {
            reason: "It sets no defaults: it knows no schemas.",
            kind: "daskworkergroup",
            steps: vec![Step::Create { object: 0, fields: nothing() }, change(nothing(), &["/spec/worker/replicas"])],
            shows: "f:replicas",
        },
        Known {
            reason: "So a list that is one value stays as it was applied. At the API server it conflicts with its own default \
                     as soon as two managers apply it.",
            kind: "networkpolicy",
            steps: vec![apply(0, Expected::Absent, &[("/spec/ingress", without_protocol)])],
            shows: "protocol",
        },
        Known {
            reason: "It validates nothing: it knows no schemas.",
            kind: "service",
            steps: vec![apply(0, Expected::Absent, &[]), Step::Withdraw { object: 0, manager: 0 }],
            shows: "the API server Refused",
        },
        Known {
            reason: "A status is no subresource: tests set it by an edit.",
            kind: "daskworkergroup",
            steps: vec![Step::Create { object: 0, fields: nothing() }, change(Fields(vec![status]), &[])],
            shows: "readyReplicas",
        },
        Known {
            reason: "Of a map that the definition does not know, what users have put into it stays when its manager takes it back.",
            kind: "daskworkergroup",
            steps: vec![
                apply(0, Expected::Absent, &[(NEWER, json!({"a": {"b": 1}}))]),
                change(Fields(vec![(NEWER, json!({"c": 1}))]), &[]),
                apply(0, Expected::This, &[]),
            ],
            shows: "newerThanUs",
        },
        Known {
            reason: "A map that loses its last field is refused in all custom kinds, also where the definition does not know it.",
            kind: "daskworkergroup",
            steps: vec![
                apply(0, Expected::Absent, &[(NEWER, json!({"a": 1}))]),
                apply(0, Expected::This, &[(NEWER, json!({}))]),
            ],
            shows: "in memory answers Refused",
        },
    ]
}

/// One that is gone is to be taken from the list.
#[tokio::test]
async fn what_is_known_to_differ_differs() -> anyhow::Result<()> {
    in_world(async |world| {
        for Known { reason, kind: name, steps, shows } in known() {
            let difference = run(&world, kind(name), &steps).await?.map(|difference| difference.to_string());
            let is_shown = difference.as_ref().is_some_and(|difference| difference.contains(shows));
            anyhow::ensure!(is_shown, "{reason} {difference:?}");
        }
        Ok(())
    })
    .await
}

/// Whether the two may differ after a step for a reason that is known.
pub(crate) fn is_known(kind: &Kind, step: &Step) -> bool {
    match step {
        // What every object of the kind has may not be taken out of it.
        Step::Withdraw { .. } => kind.base.as_object().is_some_and(|base| !base.is_empty()),
        Step::Change { remove, .. } => remove.iter().any(|path| is_in_base(kind, path) || has_default(kind, path)),
        Step::ApplyStatus { .. } => kind.status.is_empty(),
        // A controller may write at any moment.
        Step::Apply { expected, .. } | Step::Delete { expected, .. } => {
            kind.is_controlled && matches!(expected, Expected::Unchanged | Expected::Outdated)
        }
        Step::RemoveFinalizer { .. } => kind.is_controlled,
        Step::Create { .. } => false,
    }
}

fn is_in_base(kind: &Kind, path: &str) -> bool {
    kind.base.pointer(path).is_some()
}

fn has_default(kind: &Kind, path: &str) -> bool {
    kind.default_values.iter().any(|(other, _)| *other == path)
}
