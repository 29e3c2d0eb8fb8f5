//! What the server's answer to a write means. Pure, so that each rule has a test without a server.

use std::collections::BTreeMap;

use dask_wasm_operator_core::{
    action::{Apply, ApplyTarget},
    object::{ManagedFields, WireObject},
};
use kube::core::{Status, response::StatusCause};
use serde_json::Value;

/// What a refusal of an apply means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// The object that was to be created is there already.
    Taken,
    /// Other managers hold fields that we want.
    Conflict,
    /// A precondition did not hold.
    Stale,
    /// The object is refused as it is.
    Refused,
}

pub(super) fn judge(status: &Status, apply: &Apply) -> Verdict {
    match status.code {
        _ if names_uid(status) => Verdict::Stale,
        409 if is_field_conflict(status) && apply.creates => Verdict::Taken,
        409 if is_field_conflict(status) => Verdict::Conflict,
        // Changed or made by another at the very same moment.
        409 => Verdict::Stale,
        422 if has_second_controller(status) => Verdict::Taken,
        404 if is_about(status, apply) && apply.target == ApplyTarget::Status => Verdict::Stale,
        _ => Verdict::Refused,
    }
}

/// Whether a refusal is about the uid given: the object is gone (409), or another by now (409 on delete, 422 on apply).
pub(super) fn names_uid(status: &Status) -> bool {
    match status.code {
        409 => status.message.contains("uid mismatch") || status.message.contains("Precondition failed: UID"),
        422 => causes(status).any(|cause| cause.field == "metadata.uid"),
        _ => false,
    }
}

/// Each conflict on a line: manager and path.
pub(super) fn conflicts(status: &Status) -> String {
    let lines: Vec<String> = causes(status).map(|cause| format!("{}: {}", cause.message, cause.field)).collect();
    if lines.is_empty() { status.message.clone() } else { lines.join("; ") }
}

/// Who made an object that was to be created and turned out to be there; none if it is ours.
///
/// Labels and annotations don't make anybody its owner: controllers put notes on objects of others.
pub(super) fn stranger(answer: &WireObject, apply: &Apply) -> Option<String> {
    let is_stranger = match answer.metadata.controller() {
        Some(controller) => controller_uid(apply) != Some(controller.uid.as_str()),
        None => false,
    };
    (is_stranger || makers(answer, &apply.manager).next().is_some()).then(|| owner_of(answer, &apply.manager))
}

/// Whether the subject of the apply controls the object.
pub(super) fn is_ours(object: &WireObject, apply: &Apply) -> bool {
    let controller = object.metadata.controller();
    controller.is_some_and(|controller| Some(controller.uid.as_str()) == controller_uid(apply))
}

/// Names the owner of an object for a person: the managers that made it, and its controller.
pub(super) fn owner_of(object: &WireObject, manager: &str) -> String {
    let mut managers: Vec<&str> = makers(object, manager).map(|entry| entry.manager.as_str()).collect();
    managers.sort_unstable();
    managers.dedup();
    let by_managers = format!("the field managers {}", managers.join(", "));
    match object.metadata.controller() {
        Some(controller) if managers.is_empty() => format!("{} {}", controller.kind, controller.name),
        Some(controller) => format!("{} {} ({by_managers})", controller.kind, controller.name),
        None if managers.is_empty() => "nobody known".to_owned(),
        None => by_managers,
    }
}

/// The other managers that hold more of the object than labels and annotations.
fn makers<'a>(object: &'a WireObject, manager: &'a str) -> impl Iterator<Item = &'a ManagedFields> {
    object.managed_fields.iter().filter(move |entry| {
        entry.manager != manager && entry.subresource.is_empty() && holds_more_than_notes(entry)
    })
}

fn holds_more_than_notes(entry: &ManagedFields) -> bool {
    let Some(fields) = &entry.fields else { return false };
    let Ok(fields) = serde_json::from_str::<BTreeMap<String, Value>>(fields.get()) else { return true };
    fields.iter().any(|(name, below)| match (name.as_str(), below) {
        ("f:metadata", Value::Object(metadata)) => {
            metadata.keys().any(|name| !matches!(name.as_str(), "." | "f:labels" | "f:annotations"))
        }
        _ => true,
    })
}

/// The uid of the controller that an apply sets.
fn controller_uid(apply: &Apply) -> Option<&str> {
    let owners = apply.body.pointer("/metadata/ownerReferences")?.as_array()?;
    owners.iter().find(|owner| owner["controller"] == true)?["uid"].as_str()
}

fn is_field_conflict(status: &Status) -> bool {
    causes(status).any(|cause| cause.reason == "FieldManagerConflict")
}

fn has_second_controller(status: &Status) -> bool {
    causes(status).any(|cause| {
        cause.field == "metadata.ownerReferences" && cause.message.contains("Only one reference can have Controller set to true")
    })
}

/// Whether a "not found" is about the object itself, not about its namespace or kind.
fn is_about(status: &Status, apply: &Apply) -> bool {
    status.details.as_ref().is_some_and(|details| {
        details.name == apply.object.at.name && details.kind == apply.resource.plural
    })
}

fn causes(status: &Status) -> impl Iterator<Item = &StatusCause> {
    status.details.iter().flat_map(|details| &details.causes)
}
