//! What a plugin's handlers have left in objects, told by field ownership. Labels can be taken away by anybody.

use serde_json::json;

use crate::{
    action::{Action, Apply, ApplyTarget, Precondition},
    object::{GroupVersionKind, Object, Resource},
    ownership::{Author, Makes, is_patched_by},
};

/// The writes that take from an object what a plugin made of it: the deletion of a child, or the withdrawal of patches.
/// `keeps` tells which handlers' children of a kind (none: patches) are wanted still.
pub fn removal(
    plugin: &str,
    object: &Object,
    resource: &Resource,
    keeps: &dyn Fn(&str, Option<&GroupVersionKind>) -> bool,
    makes: Makes,
) -> Vec<Action> {
    if object.is_being_deleted() {
        return Vec::new();
    }
    let prefix = format!("dask-plugin/{plugin}/");
    let entries = object.managed_fields.iter().filter(|entry| entry.subresource.is_empty());
    let managers = entries.filter_map(|entry| Some((entry.manager.as_str(), entry.manager.strip_prefix(&prefix)?)));
    let mut withdrawals = Vec::new();
    for (manager, handler) in managers {
        if is_child_of(object, manager, makes) {
            if !keeps(handler, Some(&object.kind)) {
                let uid = object.metadata.uid.clone();
                return vec![Action::Delete {
                    resource: resource.clone(),
                    object: object.key(),
                    uid,
                    resource_version: None,
                }];
            }
        } else if is_patched_by(object, manager) && !keeps(handler, None) {
            withdrawals.push(withdrawal(object, resource, manager));
        }
    }
    withdrawals
}

/// Whether a handler made an object for a subject that controls it still.
fn is_child_of(object: &Object, manager: &str, makes: Makes) -> bool {
    let Some(owner) = object.metadata.controller() else { return false };
    Author { manager, force: false, native: false, makes }.made(object, &owner.uid)
}

fn withdrawal(object: &Object, resource: &Resource, manager: &str) -> Action {
    let body = json!({
        "apiVersion": object.kind.api_version(), "kind": object.kind.kind,
        "metadata": {"name": object.metadata.name},
    });
    Action::Apply(Apply {
        resource: resource.clone(),
        object: object.key(),
        target: ApplyTarget::Object,
        manager: manager.to_owned(),
        precondition: Precondition::is(object),
        body,
        force: false,
    })
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;
    use crate::plugin::PLUGIN_LABEL;

    const MANAGER: &str = "dask-plugin/p/h";

    fn object(entries: &[(&str, Value)], owner: Option<&str>) -> Object {
        let entries: Vec<_> = entries
            .iter()
            .map(|(manager, fields)| {
                json!({
                    "manager": manager, "operation": "Apply", "apiVersion": "v1", "fieldsType": "FieldsV1",
                    "fieldsV1": fields,
                })
            })
            .collect();
        let mut object = json!({
            "apiVersion": "v1", "kind": "ConfigMap",
            "metadata": {"name": "c", "namespace": "n", "uid": "u", "managedFields": entries},
        });
        if let Some(uid) = owner {
            object["metadata"]["ownerReferences"] =
                json!([{"apiVersion": "v1", "kind": "ConfigMap", "name": "s", "uid": uid, "controller": true}]);
        }
        Object::from_value(&object).unwrap()
    }

    fn child(owner: &str) -> Value {
        json!({"f:data": {}, "f:metadata": {"f:ownerReferences": {format!("k:{{\"uid\":\"{owner}\"}}"): {}}}})
    }

    fn label(name: &str) -> Value {
        json!({"f:metadata": {"f:labels": {format!("f:{name}"): {}}}})
    }

    fn removed(object: &Object, keeps: &dyn Fn(&str, Option<&GroupVersionKind>) -> bool) -> Vec<String> {
        let kind = GroupVersionKind::new("", "v1", "ConfigMap");
        let resource = Resource { kind, plural: "configmaps".to_owned(), namespaced: true };
        let actions = removal("p", object, &resource, keeps, |_, _| false);
        actions.iter().map(|action| format!("{} {}", action.verb(), action.object())).collect()
    }

    #[test]
    fn only_what_the_plugin_owns_by_its_fields_is_removed() {
        let nothing = |_: &str, _: Option<&GroupVersionKind>| false;
        let none = Vec::<String>::new();
        assert_eq!(removed(&object(&[(MANAGER, child("s"))], Some("s")), &nothing), ["delete ConfigMap n/c"]);
        // Of another plugin, of another subject, without a subject, of somebody who wrote our labels onto it.
        assert_eq!(removed(&object(&[("dask-plugin/p2/h", child("s"))], Some("s")), &nothing), none);
        assert_eq!(removed(&object(&[(MANAGER, child("s"))], Some("another")), &nothing), none);
        assert_eq!(removed(&object(&[(MANAGER, child("s"))], None), &nothing), none);
        assert_eq!(removed(&object(&[("kubectl", label(PLUGIN_LABEL))], Some("s")), &nothing), none);
        // A subject, which may be somebody's child, is not deleted for a patch.
        let patched = object(&[("dask-plugin/q/h", child("s")), (MANAGER, label("team"))], Some("s"));
        assert_eq!(removed(&patched, &nothing), ["apply ConfigMap n/c"]);
    }

    #[test]
    fn what_newer_code_declares_stays() {
        let keeps = |handler: &str, kind: Option<&GroupVersionKind>| {
            handler == "h" && kind.is_none_or(|kind| kind.kind == "ConfigMap")
        };
        assert!(removed(&object(&[(MANAGER, child("s"))], Some("s")), &keeps).is_empty());
        assert!(removed(&object(&[(MANAGER, label("team"))], None), &keeps).is_empty());
        let dropped = object(&[("dask-plugin/p/dropped", child("s"))], Some("s"));
        assert_eq!(removed(&dropped, &keeps), ["delete ConfigMap n/c"]);
    }
}
