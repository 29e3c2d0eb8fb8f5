//! What the server's answer to a write means. Pure, so that each rule has a test without a server.

use std::collections::BTreeMap;

use dask_wasm_operator_core::{
    action::{Apply, ApplyTarget, Precondition},
    conflict::{CONFLICTS, Conflict, bounded},
    object::{ManagedFields, WireObject},
};
use kube::core::{Status, response::StatusCause};
use serde_json::Value;

/// How the API server calls a field that another manager holds.
const FIELD_CONFLICT: &str = "FieldManagerConflict";

/// Fields of a refusal that are told on.
const FIELDS: usize = 16;

/// What a refusal of an apply means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// The object that was to be created is there already, or another controller has the one that was to be changed.
    Taken,
    /// Other managers hold fields that we want.
    Conflict,
    /// A precondition did not hold.
    Stale,
    /// The kind is not served.
    NotServed,
    /// The object is refused as it is.
    Refused,
}

pub(super) fn judge(status: &Status, apply: &Apply) -> Verdict {
    match status.code {
        // As a field that another holds, or as an object with another version.
        409 if apply.precondition == Precondition::Absent => Verdict::Taken,
        _ if names_uid(status) => Verdict::Stale,
        409 if is_field_conflict(status) => Verdict::Conflict,
        // Changed or made by another at the very same moment.
        409 => Verdict::Stale,
        422 if has_second_controller(status) => Verdict::Taken,
        404 if is_about(status, apply) && apply.target == ApplyTarget::Status => Verdict::Stale,
        404 if is_not_served(status) => Verdict::NotServed,
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

/// The fields of an apply that other managers hold. The server may name thousands, in any order: those that are not kept are
/// not searched for in the body.
pub(super) fn conflicts(status: &Status, apply: &Apply) -> Vec<Conflict> {
    let mut named: Vec<_> = causes(status).filter(|cause| cause.reason == FIELD_CONFLICT).collect();
    named.sort_unstable_by_key(|cause| (&cause.field, &cause.message));
    named.truncate(CONFLICTS);
    let conflict = |cause: &StatusCause| {
        let (manager, subresource) = manager_in(&cause.message);
        Conflict::new(&apply.object, &apply.body, &cause.field, &manager, &subresource)
    };
    bounded(named.into_iter().map(conflict).collect())
}

/// Manager and subresource in words like `conflict with "m" with subresource "status" using v1 at 2026-11-22T18:30:00Z`. The
/// whole text, where it is worded in another way.
fn manager_in(words: &str) -> (String, String) {
    let Some((manager, rest)) = quoted(words) else { return (words.to_owned(), String::new()) };
    let subresource = rest.strip_prefix(" with subresource ").and_then(quoted);
    (manager, subresource.map(|(subresource, _)| subresource).unwrap_or_default())
}

/// The first text in quotation marks, and what follows it.
fn quoted(words: &str) -> Option<(String, &str)> {
    let from = &words[words.find('"')?..];
    let mut texts = serde_json::Deserializer::from_str(from).into_iter::<String>();
    let text = texts.next()?.ok()?;
    Some((text, from.get(texts.byte_offset()..)?))
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

/// Names the owner of an object for a person: its controller, and the managers that made it.
pub(super) fn owner_of(object: &WireObject, manager: &str) -> String {
    let mut managers: Vec<&str> = makers(object, manager).map(|entry| entry.manager.as_str()).collect();
    managers.sort_unstable();
    managers.dedup();
    let managers = managers.join(", ");
    let controller = object.metadata.controller();
    match controller.map(|controller| format!("{} {}", controller.kind, controller.name)) {
        Some(controller) if managers.is_empty() => controller,
        Some(controller) => format!("{controller} (field managers: {managers})"),
        None if managers.is_empty() => "nobody known".to_owned(),
        None => format!("others (field managers: {managers})"),
    }
}

/// The other managers that hold more of the object than labels and annotations: these make nobody its owner, because
/// controllers put notes on objects of others.
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

fn is_field_conflict(status: &Status) -> bool {
    causes(status).any(|cause| cause.reason == FIELD_CONFLICT)
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

/// Whether a "not found" is about the kind: what the server says of a group or of a resource that it does not know. Admission may
/// answer the same code in words of its own.
pub(super) fn is_not_served(status: &Status) -> bool {
    status.code == 404
        && matches!(status.message.as_str(), "404 page not found" | "the server could not find the requested resource")
}

fn causes(status: &Status) -> impl Iterator<Item = &StatusCause> {
    status.details.iter().flat_map(|details| &details.causes)
}

#[cfg(test)]
mod tests {
    use dask_wasm_operator_core::{
        conflict::in_words,
        object::{GroupVersionKind, NamespacedName, ObjectKey, Resource},
    };
    use serde_json::json;

    use super::*;

    const MANAGER: &str = "dask-operator/group";

    fn apply(precondition: Precondition, target: ApplyTarget) -> Apply {
        let kind = GroupVersionKind::new("apps", "v1", "Deployment");
        Apply {
            resource: Resource { kind: kind.clone(), plural: "deployments".into(), namespaced: true },
            object: ObjectKey { kind, at: NamespacedName::new("n", "a") },
            target,
            manager: MANAGER.into(),
            precondition,
            body: json!({"metadata": {"ownerReferences": [{"controller": true, "uid": "ours"}]}}),
            force: false,
        }
    }

    fn status(code: u16, message: &str, details: Value) -> Status {
        let status = json!({"code": code, "message": message, "details": details, "status": "Failure"});
        serde_json::from_value(status).unwrap()
    }

    /// The answer to an apply; `fields` are what another manager holds.
    fn answer(controller: &str, subresource: &str, fields: Value) -> WireObject {
        let ours = json!({"manager": MANAGER, "operation": "Apply", "fieldsV1": {"f:spec": {}}});
        let other = json!({
            "manager": "other", "operation": "Update", "subresource": subresource, "fieldsV1": fields,
        });
        let controller =
            json!({"apiVersion": "v1", "kind": "Other", "name": "o", "uid": controller, "controller": true});
        let object = json!({"metadata": {"managedFields": [ours, other], "ownerReferences": [controller]}});
        WireObject::read(&object.to_string()).unwrap()
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
        let (absent, present) = (&Precondition::Absent, &Precondition::Uid("u".to_owned()));
        let modified = "the object has been modified";
        for (code, message, details, precondition, target, expected) in [
            (409, "", &conflict, present, object, Verdict::Conflict),
            (409, "", &conflict, absent, object, Verdict::Taken),
            (409, modified, &json!({}), absent, object, Verdict::Taken),
            (409, modified, &json!({}), present, object, Verdict::Stale),
            (
                409,
                "uid mismatch: the provided object specified uid 1, and no existing object was found",
                &json!({}),
                present,
                object,
                Verdict::Stale,
            ),
            (422, "", &second, present, object, Verdict::Taken),
            (422, "", &uid, present, object, Verdict::Stale),
            (422, "spec is invalid", &json!({}), absent, object, Verdict::Refused),
            (404, "", &gone, present, ApplyTarget::Status, Verdict::Stale),
            (404, "", &no_namespace, present, ApplyTarget::Status, Verdict::Refused),
            (404, "404 page not found", &json!({}), absent, object, Verdict::NotServed),
            (404, "the server could not find the requested resource", &json!({}), present, object, Verdict::NotServed),
            (
                404,
                "admission webhook \"w\" denied the request: 404 page not found",
                &json!({}),
                absent,
                object,
                Verdict::Refused,
            ),
            (403, "exceeded quota", &json!({}), absent, object, Verdict::Refused),
        ] {
            let verdict = judge(&status(code, message, details.clone()), &apply(precondition.clone(), target));
            assert_eq!(verdict, expected, "{code} {message} {details} {precondition:?}");
        }
    }

    #[test]
    fn a_conflict_is_told_by_manager_and_path() {
        let details = json!({"causes": [
            {"reason": "FieldManagerConflict", "message": "conflict with \"kubectl\"", "field": ".spec.replicas"},
            {"reason": "FieldManagerConflict", "message": "conflict with \"x\"", "field": ".data.k"},
        ]});
        let apply = apply(Precondition::Uid("u".to_owned()), ApplyTarget::Object);
        let text = in_words(&conflicts(&status(409, "2 conflicts", details), &apply));
        assert_eq!(text, ".data.k is held by “x”; .spec.replicas is held by “kubectl”");
    }

    #[test]
    fn of_thousands_of_conflicts_the_first_are_kept_in_whichever_order_the_server_names_them() {
        let mut causes: Vec<_> = (0..20_000)
            .map(|n| json!({"reason": "FieldManagerConflict", "message": "conflict with \"x\"", "field": format!(".data.k{n:05}")}))
            .collect();
        let mut apply = apply(Precondition::Uid("u".to_owned()), ApplyTarget::Object);
        apply.body =
            json!({"data": (0..20_000).map(|n| (format!("k{n:05}"), json!("v"))).collect::<serde_json::Map<_, _>>()});
        let told = conflicts(&status(409, "many", json!({ "causes": causes })), &apply);
        let paths: Vec<_> = (0..CONFLICTS).map(|n| format!("data.k{n:05}")).collect();
        assert_eq!(told.iter().map(|conflict| conflict.path.clone()).collect::<Vec<_>>(), paths);
        causes.reverse();
        assert_eq!(conflicts(&status(409, "many", json!({ "causes": causes })), &apply), told);
    }

    #[test]
    fn manager_and_subresource_are_read_from_the_words_of_the_server_whatever_the_manager_is_called() {
        let status_at = " using apps/v1 at 2026-11-22T18:30:00Z";
        for (words, manager, subresource) in [
            ("conflict with \"kubectl\"".to_owned(), "kubectl", ""),
            (format!("conflict with \"m\" with subresource \"status\"{status_at}"), "m", "status"),
            (
                format!(r#"conflict with "a\"b with subresource \"x\"" using v1{status_at}"#),
                "a\"b with subresource \"x\"",
                "",
            ),
            ("conflict with \"open".to_owned(), "conflict with \"open", ""),
            ("in other words".to_owned(), "in other words", ""),
        ] {
            assert_eq!(manager_in(&words), (manager.to_owned(), subresource.to_owned()), "{words}");
        }
    }

    #[test]
    fn an_owner_is_told_by_the_controller_and_by_who_holds_more_than_notes() {
        let told = |controlled: bool, subresource: &str, fields: Value| {
            let mut object = answer("theirs", subresource, fields);
            if !controlled {
                object.metadata.owner_references = std::sync::Arc::default();
            }
            owner_of(&object, MANAGER)
        };
        assert_eq!(told(false, "", json!({"f:spec": {"f:replicas": {}}})), "others (field managers: other)");
        assert_eq!(told(false, "", json!({"f:metadata": {"f:finalizers": {}}})), "others (field managers: other)");
        let notes = json!({"f:metadata": {"f:labels": {".": {}}, "f:annotations": {"f:a": {}}}});
        assert_eq!(told(false, "", notes), "nobody known");
        assert_eq!(told(false, "status", json!({"f:status": {}})), "nobody known");
        assert_eq!(told(true, "status", json!({"f:status": {}})), "Other o");
        assert_eq!(told(true, "", json!({"f:spec": {}})), "Other o (field managers: other)");
    }
}
