//! What the server's answer to a write means. Pure, so that each rule has a test without a server.

use std::collections::BTreeMap;

use dask_wasm_operator_core::{
    action::{Apply, ApplyTarget},
    object::{ManagedFields, WireObject},
};
use kube::core::{Status, response::StatusCause};
use serde_json::Value;

/// Fields of a refusal that are told on.
const FIELDS: usize = 16;

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
        409 => status.message.contains("uid mismatch") || status.message.contains("the UID in the precondition"),
        422 => causes(status).any(|cause| cause.field == "metadata.uid"),
        _ => false,
    }
}

/// Each conflict on a line: manager and path.
pub(super) fn conflicts(status: &Status) -> String {
    let lines: Vec<String> = causes(status).map(|cause| format!("{}: {}", cause.message, cause.field)).collect();
    if lines.is_empty() { status.message.clone() } else { lines.join("; ") }
}

/// The fields that a refusal is about.
pub(super) fn fields(status: &Status) -> Vec<String> {
    let mut fields: Vec<_> =
        causes(status).map(|cause| cause.field.clone()).filter(|field| !field.is_empty()).collect();
    fields.sort_unstable();
    fields.dedup();
    fields.truncate(FIELDS);
    fields
}

/// Who made an object that was to be created and turned out to be there; none if it is ours.
///
/// Labels and annotations don't make anybody its owner: controllers put notes on objects of others.
pub(super) fn stranger(answer: &WireObject, apply: &Apply) -> Option<String> {
    let is_stranger = match answer.metadata.controller() {
        Some(controller) => controller_uid(apply) != Some(controller.uid.as_str()),
        None => false,
    };
    (is_stranger || makers(answer, &apply.manager).next().is_some()).then(|| owner_of(answer, apply))
}

/// Whether the subject of the apply controls the object, and this manager has applied it: not another handler of the subject.
pub(super) fn is_ours(object: &WireObject, apply: &Apply) -> bool {
    let is_applied = |entry: &ManagedFields| entry.manager == apply.manager && entry.operation == "Apply";
    let controller = object.metadata.controller();
    controller.is_some_and(|controller| Some(controller.uid.as_str()) == controller_uid(apply))
        && object.managed_fields.iter().any(is_applied)
}

/// Names the owner of an object for a person: its controller, and the managers that made it.
pub(super) fn owner_of(object: &WireObject, apply: &Apply) -> String {
    let mut managers: Vec<&str> = makers(object, &apply.manager).map(|entry| entry.manager.as_str()).collect();
    managers.sort_unstable();
    managers.dedup();
    let managers = managers.join(", ");
    // Ours stands in the answer to an apply that has not been withdrawn yet.
    let controller = object.metadata.controller().filter(|_| !is_ours(object, apply));
    match controller.map(|controller| format!("{} {}", controller.kind, controller.name)) {
        Some(controller) if managers.is_empty() => controller,
        Some(controller) => format!("{controller} (field managers: {managers})"),
        None if managers.is_empty() => "nobody known".to_owned(),
        None => format!("others (field managers: {managers})"),
    }
}

/// The other managers that hold more of the object than labels and annotations.
fn makers<'a>(object: &'a WireObject, manager: &'a str) -> impl Iterator<Item = &'a ManagedFields> {
    object
        .managed_fields
        .iter()
        .filter(move |entry| entry.manager != manager && entry.subresource.is_empty() && holds_more_than_notes(entry))
}

fn holds_more_than_notes(entry: &ManagedFields) -> bool {
    let Some(fields) = &entry.fields else { return false };
    let Ok(fields) = serde_json::from_str::<BTreeMap<String, Value>>(fields) else { return true };
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
        cause.field == "metadata.ownerReferences"
            && cause.message.contains("Only one reference can have Controller set to true")
    })
}

/// Whether a "not found" is about the object itself, not about its namespace or kind.
fn is_about(status: &Status, apply: &Apply) -> bool {
    status
        .details
        .as_ref()
        .is_some_and(|details| details.name == apply.object.at.name && details.kind == apply.resource.plural)
}

fn causes(status: &Status) -> impl Iterator<Item = &StatusCause> {
    status.details.iter().flat_map(|details| &details.causes)
}

#[cfg(test)]
mod tests {
    use dask_wasm_operator_core::object::{GroupVersionKind, NamespacedName, ObjectKey, Resource};
    use serde_json::json;

    use super::*;

    fn apply(creates: bool, target: ApplyTarget) -> Apply {
        let kind = GroupVersionKind::new("apps", "v1", "Deployment");
        Apply {
            resource: Resource { kind: kind.clone(), plural: "deployments".into(), namespaced: true },
            object: ObjectKey { kind, at: NamespacedName::new("n", "a") },
            target,
            manager: "dask-operator/group".into(),
            body: json!({"metadata": {"ownerReferences": [{"controller": true, "uid": "ours"}]}}),
            force: false,
            creates,
        }
    }

    fn status(code: u16, message: &str, details: Value) -> Status {
        let status = json!({"code": code, "message": message, "details": details, "status": "Failure"});
        serde_json::from_value(status).unwrap()
    }

    /// The answer to an apply; `fields` are what another manager holds.
    fn answer(controller: &str, subresource: &str, fields: Value) -> WireObject {
        let ours = json!({"manager": "dask-operator/group", "operation": "Apply", "fieldsV1": {"f:spec": {}}});
        let other = json!({
            "manager": "other", "operation": "Update", "subresource": subresource, "fieldsV1": fields,
        });
        let controller =
            json!({"apiVersion": "v1", "kind": "Other", "name": "o", "uid": controller, "controller": true});
        let object = json!({"metadata": {"managedFields": [ours, other], "ownerReferences": [controller]}});
        serde_json::from_str(&object.to_string()).unwrap()
    }

    #[test]
    fn refusals_are_told_apart_by_what_they_are_about() {
        let conflict =
            json!({"causes": [{"reason": "FieldManagerConflict", "message": "conflict with \"x\"", "field": ".spec"}]});
        let second = json!({"causes": [{
            "reason": "FieldValueInvalid", "field": "metadata.ownerReferences",
            "message": "Invalid value: []: Only one reference can have Controller set to true. Found \"true\" in references for A/a and B/b",
        }]});
        let uid = json!({"causes": [{"reason": "FieldValueInvalid", "field": "metadata.uid", "message": "field is immutable"}]});
        let gone = json!({"name": "a", "kind": "deployments"});
        let no_namespace = json!({"name": "n", "kind": "namespaces"});
        let object = ApplyTarget::Object;
        for (code, message, details, creates, target, expected) in [
            (409, "", &conflict, false, object, Verdict::Conflict),
            (409, "", &conflict, true, object, Verdict::Taken),
            (409, "the object has been modified", &json!({}), false, object, Verdict::Stale),
            (
                409,
                "uid mismatch: the provided object specified uid 1, and no existing object was found",
                &json!({}),
                false,
                object,
                Verdict::Stale,
            ),
            (422, "", &second, false, object, Verdict::Taken),
            (422, "", &uid, false, object, Verdict::Stale),
            (422, "spec is invalid", &json!({}), false, object, Verdict::Refused),
            (404, "", &gone, false, ApplyTarget::Status, Verdict::Stale),
            (404, "", &no_namespace, false, ApplyTarget::Status, Verdict::Refused),
            (403, "exceeded quota", &json!({}), false, object, Verdict::Refused),
        ] {
            let verdict = judge(&status(code, message, details.clone()), &apply(creates, target));
            assert_eq!(verdict, expected, "{code} {message} {details}");
        }
    }

    #[test]
    fn a_conflict_is_told_by_manager_and_path() {
        let details = json!({"causes": [
            {"reason": "FieldManagerConflict", "message": "conflict with \"kubectl\"", "field": ".spec.replicas"},
            {"reason": "FieldManagerConflict", "message": "conflict with \"x\"", "field": ".data.k"},
        ]});
        let text = conflicts(&status(409, "2 conflicts", details));
        assert_eq!(text, "conflict with \"kubectl\": .spec.replicas; conflict with \"x\": .data.k");
    }

    #[test]
    fn who_holds_more_than_notes_has_made_the_object() {
        let apply = apply(true, ApplyTarget::Object);
        let strange = |subresource: &str, fields: Value| stranger(&answer("ours", subresource, fields), &apply);
        assert_eq!(
            strange("", json!({"f:spec": {"f:replicas": {}}})).as_deref(),
            Some("others (field managers: other)")
        );
        assert!(strange("", json!({"f:metadata": {"f:finalizers": {}}})).is_some());
        assert_eq!(strange("", json!({"f:metadata": {"f:labels": {".": {}}, "f:annotations": {"f:a": {}}}})), None);
        assert_eq!(strange("status", json!({"f:status": {}})), None);
        let mut of_another_handler = answer("ours", "", json!({"f:spec": {}}));
        assert!(is_ours(&of_another_handler, &apply));
        of_another_handler.managed_fields.remove(0);
        assert!(!is_ours(&of_another_handler, &apply));
        let other_controller = answer("theirs", "", json!({}));
        assert_eq!(stranger(&other_controller, &apply).as_deref(), Some("Other o"));
    }
}
