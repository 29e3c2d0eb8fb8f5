//! Which handler made an object: what the subject controls may be another handler's, and is no more to be touched than a
//! stranger's.

use std::collections::BTreeMap;

use serde::{Deserialize, de::IgnoredAny};

use crate::{
    action::Apply,
    fields::holds,
    names::{HANDLER_LABEL, KEY_ANNOTATION, PLUGIN_LABEL, SUBJECT_UID_LABEL},
    native::NATIVE,
    object::{GroupVersionKind, ManagedFields, Object},
    spec::DASK_PLUGIN_RECORD,
};

/// How the field managers of plugins' handlers begin.
const PLUGIN: &str = "dask-plugin/";

/// Whether the native reconciler of this name makes objects of this kind, see [`crate::native::Native::makes`].
pub type Makes = fn(&str, &GroupVersionKind) -> bool;

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
    /// What native reconcilers make.
    pub makes: Makes,
}

impl Author<'_> {
    /// Whether the author made the object for the subject of this uid: what it may delete. The object itself proves it: the
    /// subject controls it, and the author's manager holds that owner reference. Nothing else sets one that it does not make.
    pub fn made(&self, object: &Object, subject_uid: &str) -> bool {
        object.has_readable_metadata()
            && object.is_controlled_by(subject_uid)
            && object.applied_by(self.manager).is_some_and(|entry| holds_owner(entry, subject_uid))
            && self.other_maker(object).is_none()
    }

    /// Whether the object is the author's to change: one that it made, also if somebody took the owner reference from it, or
    /// one that it takes over.
    pub fn may_change(&self, object: &Object, subject_uid: &str) -> bool {
        let controller = object.metadata.controller();
        if controller.is_some_and(|owner| owner.uid != subject_uid) || self.other_maker(object).is_some() {
            return false;
        }
        match object.applied_by(self.manager) {
            Some(_) if self.native => true,
            Some(entry) => holds_owner(entry, subject_uid) || is_marked_for(object, entry, subject_uid),
            None => self.native && controller.is_some(),
        }
    }

    /// The handler that made an object, if it is another than the author.
    pub fn other_maker<'a>(&self, object: &'a Object) -> Option<&'a str> {
        let is_other = |entry: &&ManagedFields| {
            entry.manager != self.manager && entry.subresource.is_empty() && is_maker(entry, &object.kind, self.makes)
        };
        object.managed_fields.iter().find(is_other).map(|entry| entry.manager.as_str())
    }
}

/// The handler that made an object as a child of its subject.
pub fn maker(object: &Object, makes: Makes) -> Option<&str> {
    Author { manager: "", force: false, native: true, makes }.other_maker(object)
}

/// Whether what stands where an apply was to create an object is its author's all the same: an attempt without an answer has
/// made it, or our watches do not show it.
pub fn is_of_author(apply: &Apply, live: &Object, makes: Makes) -> bool {
    let manager = apply.manager.as_str();
    let Some(subject_uid) = apply.controller_uid() else { return false };
    if live.kind.same_kind(&DASK_PLUGIN_RECORD.group_version_kind()) {
        let mut parts = manager.strip_prefix(PLUGIN).into_iter().flat_map(|handler| handler.split('/'));
        return parts.next().is_some_and(|plugin| is_record_of(live, plugin, subject_uid));
    }
    Author { manager, force: apply.force, native: manager.starts_with(NATIVE), makes }.may_change(live, subject_uid)
}

/// Whether an object is a plugin's record of the subject of this uid. All handlers of a plugin keep it together.
pub fn is_record_of(object: &Object, plugin: &str, subject_uid: &str) -> bool {
    let is_of_plugin = |entry: &ManagedFields| {
        let handler = entry.manager.strip_prefix(PLUGIN).and_then(|handler| handler.strip_prefix(plugin));
        handler.is_some_and(|handler| handler.starts_with('/')) && entry.subresource.is_empty()
    };
    let mut entries = object.managed_fields.iter();
    object.is_controlled_by(subject_uid) && entries.any(|entry| is_of_plugin(entry) && holds_owner(entry, subject_uid))
}

/// Whether a handler has made objects of this kind that it left this entry in. Dask reconcilers set owners of their subjects,
/// too, which makes them no children of theirs.
fn is_maker(entry: &ManagedFields, kind: &GroupVersionKind, makes: Makes) -> bool {
    match entry.manager.strip_prefix(NATIVE) {
        Some(name) => owners(entry).is_some() && makes(name, kind),
        None => entry.manager.starts_with(PLUGIN) && has_marks_of_child(entry),
    }
}

/// Whether there are patches of a plugin's handler in an object. Its children have the same manager and may be of the same kind
/// as its subjects.
pub fn is_patched_by(object: &Object, manager: &str) -> bool {
    object.applied_by(manager).is_some_and(|entry| entry.fields.is_some() && !has_marks_of_child(entry))
}

/// Whether a child is known by what only a child is given, when its owner was taken from it; by its subject, too, because
/// another subject of the same handler may want a child of the same name.
fn is_marked_for(object: &Object, entry: &ManagedFields, subject_uid: &str) -> bool {
    let is_of_subject = object.metadata.labels.get(SUBJECT_UID_LABEL).is_some_and(|uid| uid == subject_uid);
    is_of_subject && has_marks_of_child(entry)
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
    owners(entry).is_some() || entry.decoded().is_some_and(is_marked)
}

/// Whether a manager has set the owner of this uid.
fn holds_owner(entry: &ManagedFields, uid: &str) -> bool {
    let is_it = |key: &String| {
        key.strip_prefix("k:{\"uid\":\"").and_then(|key| key.strip_suffix("\"}")).is_some_and(|held| held == uid)
    };
    owners(entry).is_some_and(|owners| owners.keys().any(is_it))
}

/// The owners that a manager has set, by their keys. Everything else of the set is skipped: it is asked of every child in
/// every reconcile.
fn owners(entry: &ManagedFields) -> Option<BTreeMap<String, IgnoredAny>> {
    #[derive(Deserialize)]
    struct Held {
        #[serde(rename = "f:metadata")]
        metadata: HeldMetadata,
    }
    #[derive(Deserialize)]
    struct HeldMetadata {
        #[serde(rename = "f:ownerReferences")]
        owner_references: BTreeMap<String, IgnoredAny>,
    }
    let held: Held = serde_json::from_str(entry.fields.as_deref()?).ok()?;
    Some(held.metadata.owner_references)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::{dask::Reconciler, native::Native as _};

    const PLUGIN: Author<'_> =
        Author { manager: "dask-plugin/p/h", force: false, native: false, makes: Reconciler::makes };
    const NATIVE: Author<'_> =
        Author { manager: "dask-operator/cluster", force: true, native: true, makes: Reconciler::makes };
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
            "apiVersion": "v1", "kind": "Service",
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
        let labelled = |uid: &str, held: Value| {
            let mut object = object(None, &[(PLUGIN.manager, held)]);
            object.metadata.labels = std::sync::Arc::new([(SUBJECT_UID_LABEL.to_owned(), uid.to_owned())].into());
            object
        };
        assert_eq!(rights(PLUGIN, &labelled(SUBJECT, key.clone())), (true, false));
        let patched = json!({"f:metadata": {"f:labels": {"f:team": {}}}});
        assert_eq!(rights(PLUGIN, &labelled(SUBJECT, patched)), (false, false));
        // Another subject of the same handler may have a child of this name, and what has no label may be its.
        assert_eq!(rights(PLUGIN, &labelled("v", key.clone())), (false, false));
        assert_eq!(rights(PLUGIN, &object(None, &[(PLUGIN.manager, key)])), (false, false));
    }

    #[test]
    fn who_set_another_owner_than_the_controller_has_not_made_the_object() {
        let other_owner = json!({"f:data": {}, "f:metadata": {"f:ownerReferences": {"k:{\"uid\":\"v\"}": {}}}});
        for author in [PLUGIN, NATIVE] {
            assert!(!author.made(&object(Some(SUBJECT), &[(author.manager, other_owner.clone())]), SUBJECT));
        }
    }

    #[test]
    fn who_sets_an_owner_of_its_subject_has_not_made_it() {
        let mut group = object(
            Some(SUBJECT),
            &[
                (PLUGIN.manager, owning()),
                ("dask-operator/workergroup", owning()),
                ("dask-operator/autoscaler", owning()),
            ],
        );
        group.kind = std::sync::Arc::new(crate::dask::worker_group_kind());
        assert_eq!(rights(PLUGIN, &group), (true, true));
        assert_eq!(NATIVE.other_maker(&group), Some(PLUGIN.manager));
        let mut by_cluster = object(Some(SUBJECT), &[(PLUGIN.manager, owning()), (NATIVE.manager, owning())]);
        by_cluster.kind = std::sync::Arc::clone(&group.kind);
        assert_eq!(rights(PLUGIN, &by_cluster), (false, false), "the cluster's reconciler makes groups");
    }

    #[test]
    fn a_child_whose_owner_another_handler_has_put_back_is_still_its_own() {
        let mark = json!({"f:metadata": {"f:labels": {format!("f:{PLUGIN_LABEL}"): {}}}});
        let mut group = object(Some(SUBJECT), &[(PLUGIN.manager, mark), ("dask-operator/workergroup", owning())]);
        group.kind = std::sync::Arc::new(crate::dask::worker_group_kind());
        group.metadata.labels = std::sync::Arc::new([(SUBJECT_UID_LABEL.to_owned(), SUBJECT.to_owned())].into());
        assert_eq!(rights(PLUGIN, &group), (true, false), "it holds its owner again before it may delete it");
    }

    #[test]
    fn a_plugin_s_child_is_known_when_somebody_has_set_its_owner_anew() {
        let mark = json!({"f:metadata": {"f:labels": {format!("f:{PLUGIN_LABEL}"): {}}}});
        let child = object(Some(SUBJECT), &[(PLUGIN.manager, mark)]);
        assert_eq!(rights(NATIVE, &child), (false, false));
    }

    #[test]
    fn a_record_is_its_plugin_s_whichever_handler_made_it() {
        let record = |manager| {
            let mut record = object(Some(SUBJECT), &[(manager, owning())]);
            record.kind = std::sync::Arc::new(DASK_PLUGIN_RECORD.group_version_kind());
            record
        };
        assert!(is_record_of(&record("dask-plugin/p/other"), "p", SUBJECT));
        assert!(!is_record_of(&record("dask-plugin/p2/h"), "p", SUBJECT));
        assert!(!is_record_of(&record("dask-plugin/p/h"), "p", "v"));
        assert!(!is_record_of(&record("kubectl"), "p", SUBJECT));
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
