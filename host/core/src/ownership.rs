//! Which handler made an object: what the subject controls may be another handler's, and is no more to be touched than a
//! stranger's.

use serde::{Deserialize, de::IgnoredAny};

use crate::{
    fields::holds,
    object::{ManagedFields, Object},
    plugin::{HANDLER_LABEL, KEY_ANNOTATION, PLUGIN_LABEL, SUBJECT_UID_LABEL},
};

/// How the field managers of handlers begin.
const HANDLERS: [&str; 2] = ["dask-operator/", "dask-plugin/"];

/// Who writes, and how.
#[derive(Clone, Copy, Debug)]
pub struct Author<'a> {
    /// Field manager of the handler.
    pub manager: &'a str,
    /// Whether fields that others hold are taken: native reconcilers do, on their own objects.
    pub force: bool,
    /// Whether it is a Dask reconciler. What the subject controls and no handler has made is its own: it takes over from the
    /// Python operator, which made the same objects.
    pub native: bool,
}

impl Author<'_> {
    /// Whether the author made the object for the subject of this uid: what it may delete.
    pub fn made(&self, object: &Object, subject_uid: &str) -> bool {
        object.is_controlled_by(subject_uid)
            && object.applied_by(self.manager).is_some_and(holds_owner)
            && self.other_maker(object).is_none()
    }

    /// Whether the object is the author's to change: one that it made, also if somebody took the owner reference from it, or
    /// one that it takes over.
    pub fn may_change(&self, object: &Object, subject_uid: &str) -> bool {
        match object.metadata.controller() {
            None => self.lost(object, subject_uid),
            Some(_) if self.native => object.is_controlled_by(subject_uid) && self.other_maker(object).is_none(),
            Some(_) => self.made(object, subject_uid),
        }
    }

    /// The handler that made an object, if it is another than the author.
    pub fn other_maker<'a>(&self, object: &'a Object) -> Option<&'a str> {
        let is_other = |entry: &&ManagedFields| {
            entry.manager != self.manager
                && entry.subresource.is_empty()
                && HANDLERS.iter().any(|prefix| entry.manager.starts_with(prefix))
                && holds_owner(entry)
        };
        object.managed_fields.iter().find(is_other).map(|entry| entry.manager.as_str())
    }

    /// Without an owner, a child is known by what only a child is given.
    fn lost(&self, object: &Object, subject_uid: &str) -> bool {
        let is_child = match object.applied_by(self.manager) {
            Some(_) if self.native => true,
            Some(entry) => has_marks_of_child(entry),
            None => false,
        };
        let labelled = object.metadata.labels.get(SUBJECT_UID_LABEL);
        is_child && labelled.is_none_or(|uid| uid == subject_uid) && self.other_maker(object).is_none()
    }
}

/// Whether there are patches of a plugin's handler in an object. Its children have the same manager and may be of the same kind
/// as its subjects.
pub fn is_patched_by(object: &Object, manager: &str) -> bool {
    object.applied_by(manager).is_some_and(|entry| entry.fields.is_some() && !has_marks_of_child(entry))
}

/// Whether a plugin's handler holds what only a child is given, any of which may have been taken from it: its owner, and names
/// that no patch may use.
fn has_marks_of_child(entry: &ManagedFields) -> bool {
    let marks = [
        ["labels", PLUGIN_LABEL],
        ["labels", HANDLER_LABEL],
        ["labels", SUBJECT_UID_LABEL],
        ["annotations", KEY_ANNOTATION],
    ];
    let is_marked = |held| marks.iter().any(|[map, name]| holds(&held, &["metadata", map, name]));
    holds_owner(entry) || entry.decoded().is_some_and(is_marked)
}

/// Whether a manager has set an owner. Everything else of the set is skipped: it is asked of every child in every pass.
fn holds_owner(entry: &ManagedFields) -> bool {
    #[derive(Deserialize)]
    struct Held {
        #[serde(rename = "f:metadata")]
        _metadata: HeldMetadata,
    }
    #[derive(Deserialize)]
    struct HeldMetadata {
        #[serde(rename = "f:ownerReferences")]
        _owner_references: IgnoredAny,
    }
    entry.fields.as_deref().is_some_and(|fields| serde_json::from_str::<Held>(fields).is_ok())
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    const PLUGIN: Author<'_> = Author { manager: "dask-plugin/p/h", force: false, native: false };
    const NATIVE: Author<'_> = Author { manager: "dask-operator/cluster", force: true, native: true };
    const SUBJECT: &str = "u";

    fn object(owner: Option<&str>, entries: &[(&str, Value)]) -> Object {
        let owners: Vec<_> = owner
            .into_iter()
            .map(|uid| json!({"apiVersion": "v1", "kind": "X", "name": "x", "uid": uid, "controller": true}))
            .collect();
        let entries: Vec<_> = entries
            .iter()
            .map(|(manager, fields)| json!({"manager": manager, "operation": "Apply", "fieldsV1": fields}))
            .collect();
        Object::from_value(&json!({
            "apiVersion": "v1", "kind": "ConfigMap",
            "metadata": {"name": "c", "uid": "c", "ownerReferences": owners, "managedFields": entries},
        }))
        .unwrap()
    }

    fn owning() -> Value {
        json!({"f:data": {"f:a": {}}, "f:metadata": {"f:ownerReferences": {"k:{\"uid\":\"u\"}": {}}}})
    }

    /// Whether it may change and delete it.
    fn rights(author: Author<'_>, object: &Object) -> (bool, bool) {
        (author.may_change(object, SUBJECT), author.made(object, SUBJECT))
    }

    #[test]
    fn a_handler_s_own_child_is_its_own_and_no_other_s() {
        for (author, other) in [(PLUGIN, NATIVE), (NATIVE, PLUGIN)] {
            let child = object(Some(SUBJECT), &[(author.manager, owning())]);
            assert_eq!(rights(author, &child), (true, true), "{author:?}");
            assert_eq!(rights(other, &child), (false, false), "{other:?}");
            assert_eq!(other.other_maker(&child), Some(author.manager));
        }
        let elsewhere = object(Some("other"), &[(PLUGIN.manager, owning())]);
        assert_eq!(rights(PLUGIN, &elsewhere), (false, false));
    }

    #[test]
    fn what_no_handler_has_made_is_taken_over_by_native_reconcilers_only() {
        let left_behind = object(Some(SUBJECT), &[]);
        assert_eq!(rights(NATIVE, &left_behind), (true, false));
        assert_eq!(rights(PLUGIN, &left_behind), (false, false));
    }

    #[test]
    fn fields_in_an_object_make_nobody_its_maker() {
        let scaled = object(
            Some(SUBJECT),
            &[
                (NATIVE.manager, owning()),
                ("dask-operator/autoscaler", json!({"f:spec": {"f:worker": {"f:replicas": {}}}})),
                (PLUGIN.manager, json!({"f:metadata": {"f:labels": {"f:team": {}}}})),
            ],
        );
        assert_eq!(rights(NATIVE, &scaled), (true, true));
        assert_eq!(rights(PLUGIN, &scaled), (false, false));
    }

    #[test]
    fn a_child_without_its_owner_is_known_by_its_marks_and_a_patched_object_is_no_child() {
        let key = json!({"f:metadata": {"f:annotations": {format!("f:{KEY_ANNOTATION}"): {}}}});
        let lost = object(None, &[(PLUGIN.manager, key)]);
        assert_eq!(rights(PLUGIN, &lost), (true, false));
        let patched = object(None, &[(PLUGIN.manager, json!({"f:metadata": {"f:labels": {"f:team": {}}}}))]);
        assert_eq!(rights(PLUGIN, &patched), (false, false));
        let mut of_another = lost;
        of_another.metadata.labels = std::sync::Arc::new([(SUBJECT_UID_LABEL.to_owned(), "v".to_owned())].into());
        assert_eq!(rights(PLUGIN, &of_another), (false, false));
    }

    #[test]
    fn a_child_of_the_kind_of_the_subjects_is_not_taken_for_a_patched_subject_whatever_was_taken_from_it() {
        let label = |name: &str| json!({"f:metadata": {"f:labels": {format!("f:{name}"): {}}}});
        for left in [
            json!({"f:data": {}, "f:metadata": {"f:ownerReferences": {}}}),
            label(PLUGIN_LABEL),
            label(HANDLER_LABEL),
            label(SUBJECT_UID_LABEL),
            json!({"f:metadata": {"f:annotations": {format!("f:{KEY_ANNOTATION}"): {}}}}),
        ] {
            assert!(!is_patched_by(&object(None, &[(PLUGIN.manager, left.clone())]), PLUGIN.manager), "{left}");
        }
        let patched = object(None, &[(PLUGIN.manager, label("team"))]);
        assert!(is_patched_by(&patched, PLUGIN.manager));
        assert!(!is_patched_by(&patched, "dask-plugin/p/other"));
    }
}
