//! What the Python operator has set on an object becomes ours, once for each object.
//!
//! It makes its objects by plain requests, so the API server notes their fields as its client's, under `Update`. Server-side
//! apply takes a field only from managers that have applied it: what a Dask object stops asking for would stay for ever, and
//! of a list both items, where a changed field is what tells them apart. So that entry becomes one of the reconciler's, as
//! client-go's `csaupgrade` does with kubectl's. Nothing else of the object changes. What we don't apply, or what would
//! change a pod template if we left it out, is left out of the entry and is nobody's from then on.

use serde_json::{Map, Value, json};

use crate::{
    fields::Fields,
    object::{ManagedFields, Object},
    spec::DASK_GROUP,
};

/// Prefixes of kopf's annotations. Its own entry has them, too.
const KOPF_PREFIXES: [&str; 2] = ["f:kopf.zalando.org/", "f:kopf.dev/"];

/// What is not inherited of any kind.
const NOT_OURS: &[&[&str]] = &[&["f:metadata", "f:finalizers"], &["f:status"]];

/// What is not inherited of a kind.
fn not_ours(kind: &str) -> &'static [&'static [&'static str]] {
    match kind {
        // Whoever scales it has it.
        "DaskCluster" | "DaskWorkerGroup" => &[&["f:spec", "f:worker", "f:replicas"]],
        // Never applied by us, and never to be removed: that would change the template, and restart the pod.
        "Deployment" => &[
            &["f:spec", "f:selector"],
            &["f:spec", "f:template", "f:metadata", "f:name"],
            &["f:spec", "f:template", "f:metadata", "f:namespace"],
            &["f:spec", "f:template", "f:metadata", "f:ownerReferences"],
        ],
        // Hardly anything of it can be changed.
        "Pod" => &[&["f:spec"]],
        _ => &[],
    }
}

/// The key by which an owner reference is held.
fn owner_key(uid: &str) -> String {
    format!("k:{}", json!({ "uid": uid }))
}

/// Whether an entry is that of whoever made the object for its controller by a plain request. The name says little: it comes
/// from the client's `User-Agent`.
fn is_predecessor(entry: &ManagedFields, controller: &str) -> bool {
    let key = Value::from(owner_key(controller)).to_string();
    let holds_key = || entry.fields.as_deref().is_some_and(|fields| fields.contains(&key));
    entry.operation == "Update" && entry.subresource.is_empty() && holds_key()
}

/// Whether somebody else made the object for the Dask object that controls it, and `manager` never applied it.
pub fn is_to_be_inherited(object: &Object, manager: &str) -> bool {
    dask_controller(object).is_some_and(|controller| {
        object.applied_by(manager).is_none()
            && object.managed_fields.iter().any(|entry| is_predecessor(entry, controller))
    })
}

/// The uid of the Dask object that controls an object.
fn dask_controller(object: &Object) -> Option<&str> {
    let controller = object.metadata.controller()?;
    let (group, _) = controller.api_version.split_once('/')?;
    (group == DASK_GROUP).then_some(controller.uid.as_str())
}

/// Drops the entries of others, but for that of the predecessor, of which it keeps no more than makes it known.
pub fn abridge(object: &mut Object, is_own: impl Fn(&ManagedFields) -> bool) {
    let controller = dask_controller(object).map(str::to_owned);
    object.managed_fields.retain_mut(|entry| {
        if is_own(entry) {
            return true;
        }
        let Some(controller) = controller.as_deref().filter(|controller| is_predecessor(entry, controller)) else {
            return false;
        };
        let owner = Map::from_iter([(owner_key(controller), json!({}))]);
        let mark = json!({"f:metadata": {"f:ownerReferences": owner}});
        entry.fields = Some(mark.to_string().into());
        true
    });
    object.managed_fields.shrink_to_fit();
}

/// `metadata.managedFields` of an object, as the API server answers it, once `manager` has inherited what was made for the
/// controller of this uid; none: there is nothing to inherit.
pub fn inherited(object: &Value, manager: &str, controller: &str) -> Option<Value> {
    let owners = object.pointer("/metadata/ownerReferences")?.as_array()?;
    owners.iter().find(|owner| owner["controller"] == true && owner["uid"] == controller)?;
    let mut entries = object.pointer("/metadata/managedFields")?.as_array()?.clone();
    let is = |entry: &Value, operation: &str| {
        entry["operation"] == operation && entry["subresource"].as_str().is_none_or(str::is_empty)
    };
    if entries.iter().any(|entry| is(entry, "Apply") && entry["manager"] == manager) {
        return None;
    }
    let key = owner_key(controller);
    let made = |entry: &&mut Value| {
        is(entry, "Update") && entry["fieldsV1"]["f:metadata"]["f:ownerReferences"].get(&key).is_some()
    };
    let entry = entries.iter_mut().find(made)?;
    let annotations = annotations_of_kopf(&entry["fieldsV1"]);
    let mut fields = Fields::from_json(&entry["fieldsV1"]);
    for path in NOT_OURS.iter().chain(not_ours(object["kind"].as_str()?)) {
        fields.take(path);
    }
    for name in &annotations {
        fields.take(&["f:metadata", "f:annotations", name]);
    }
    entry["fieldsV1"] = fields.to_json();
    entry["manager"] = json!(manager);
    entry["operation"] = json!("Apply");
    Some(entries.into())
}

fn annotations_of_kopf(fields: &Value) -> Vec<String> {
    let annotations = fields.pointer("/f:metadata/f:annotations").and_then(Value::as_object).into_iter().flatten();
    let of_kopf = annotations.filter(|(name, _)| KOPF_PREFIXES.iter().any(|prefix| name.starts_with(prefix)));
    of_kopf.map(|(name, _)| name.clone()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const OURS: &str = "dask-operator/cluster";

    /// As Kubernetes 1.36 has it of an object that kr8s made, and of kopf's notes on it.
    fn made(kind: &str, spec: &Value) -> Value {
        json!({
            "apiVersion": "v1", "kind": kind,
            "metadata": {
                "name": "simple", "uid": "u",
                "ownerReferences": [{
                    "apiVersion": "kubernetes.dask.org/v1", "kind": "DaskCluster", "name": "simple", "uid": "owner",
                    "controller": true,
                }],
                "managedFields": [
                    {
                        "manager": "kopf", "operation": "Update", "apiVersion": "v1", "fieldsType": "FieldsV1",
                        "time": "2026-11-22T18:30:01Z", "fieldsV1": {"f:metadata": {"f:finalizers": {".": {}}}},
                    },
                    {
                        "manager": "kr8s", "operation": "Update", "apiVersion": "v1", "fieldsType": "FieldsV1",
                        "time": "2026-11-22T18:30:00Z",
                        "fieldsV1": {
                            "f:metadata": {
                                "f:labels": {".": {}, "f:a": {}},
                                "f:annotations": {"f:kopf.zalando.org/last-handled-configuration": {}},
                                "f:finalizers": {".": {}, "v:\"kopf.zalando.org/KopfFinalizerMarker\"": {}},
                                "f:ownerReferences": {".": {}, "k:{\"uid\":\"owner\"}": {}},
                            },
                            "f:spec": spec, "f:status": {"f:phase": {}},
                        },
                    },
                ],
            },
        })
    }

    fn inherited_spec(kind: &str, spec: &Value) -> Value {
        inherited(&made(kind, spec), OURS, "owner").unwrap()[1]["fieldsV1"]["f:spec"].take()
    }

    #[test]
    fn the_entry_of_the_maker_becomes_ours_and_others_stay_as_they_are() {
        let spec = json!({"f:ports": {".": {}, r#"k:{"port":8786,"protocol":"TCP"}"#: {".": {}, "f:port": {}}}});
        let service = made("Service", &spec);
        let entries = inherited(&service, OURS, "owner").unwrap();
        assert_eq!(entries[0], service["metadata"]["managedFields"][0]);
        let expected = json!({
            "manager": OURS, "operation": "Apply", "apiVersion": "v1", "fieldsType": "FieldsV1",
            "time": "2026-11-22T18:30:00Z",
            "fieldsV1": {
                "f:metadata": {
                    "f:labels": {".": {}, "f:a": {}},
                    "f:ownerReferences": {".": {}, "k:{\"uid\":\"owner\"}": {}},
                },
                "f:spec": spec,
            },
        });
        assert_eq!(entries[1], expected);
        assert_eq!(entries.as_array().unwrap().len(), 2);
    }

    #[test]
    fn what_must_not_be_removed_is_not_inherited() {
        let template = json!({"f:metadata": {"f:name": {}, "f:labels": {"f:a": {}}, "f:ownerReferences": {".": {}}}});
        let deployment = json!({"f:replicas": {}, "f:selector": {}, "f:template": template});
        let left = json!({"f:replicas": {}, "f:template": {"f:metadata": {"f:labels": {"f:a": {}}}}});
        assert_eq!(inherited_spec("Deployment", &deployment), left);
        let nothing_else = json!({"f:replicas": {}, "f:template": {"f:metadata": {"f:name": {}}}});
        assert_eq!(
            inherited_spec("Deployment", &nothing_else),
            json!({"f:replicas": {}}),
            "no field is held as a whole"
        );
        let group = json!({"f:cluster": {}, "f:worker": {"f:replicas": {}, "f:spec": {"f:nodeSelector": {"f:a": {}}}}});
        let left = json!({"f:cluster": {}, "f:worker": {"f:spec": {"f:nodeSelector": {"f:a": {}}}}});
        assert_eq!(inherited_spec("DaskWorkerGroup", &group), left);
        assert_eq!(inherited_spec("Pod", &json!({"f:containers": {}})), Value::Null);
        let cluster = json!({"f:worker": {"f:replicas": {}, "f:spec": {"f:nodeSelector": {"f:a": {}}}}});
        let left = json!({"f:worker": {"f:spec": {"f:nodeSelector": {"f:a": {}}}}});
        assert_eq!(inherited_spec("DaskCluster", &cluster), left, "that of a job");
    }

    #[test]
    fn it_is_inherited_once_and_from_its_maker_only() {
        let mut object = made("Service", &json!({"f:type": {}}));
        object["metadata"]["managedFields"] = inherited(&object, OURS, "owner").unwrap();
        assert_eq!(inherited(&object, OURS, "owner"), None);
        // As kr8s changes the object later.
        let later = json!({"manager": "kr8s", "operation": "Update", "fieldsV1": {"f:spec": {"f:type": {}}}});
        let mut other = made("Service", &json!({"f:type": {}}));
        other["metadata"]["managedFields"][1] = later;
        assert_eq!(inherited(&other, OURS, "owner"), None);
        let mut owned_by_another = made("Service", &json!({"f:type": {}}));
        owned_by_another["metadata"]["ownerReferences"][0]["uid"] = json!("another");
        for controller in ["owner", "another"] {
            assert_eq!(inherited(&owned_by_another, OURS, controller), None);
        }
    }

    #[test]
    fn an_abridged_object_still_tells_that_there_is_something_to_inherit() {
        let whole = made("Service", &json!({"f:type": {}}));
        let mut object = Object::from_value(&whole).unwrap();
        assert!(is_to_be_inherited(&object, OURS));
        abridge(&mut object, |_| false);
        assert!(is_to_be_inherited(&object, OURS));
        let [entry] = &object.managed_fields[..] else { unreachable!("{object:?}") };
        let mark = json!({"f:metadata": {"f:ownerReferences": {"k:{\"uid\":\"owner\"}": {}}}});
        assert_eq!((entry.manager.as_str(), entry.decoded()), ("kr8s", Some(mark)));
        let mut taken = whole.clone();
        taken["metadata"]["managedFields"] = inherited(&whole, OURS, "owner").unwrap();
        assert!(!is_to_be_inherited(&Object::from_value(&taken).unwrap(), OURS));
        // As Kubernetes makes pods for ReplicaSets.
        let mut foreign = whole;
        foreign["metadata"]["ownerReferences"][0]["apiVersion"] = json!("apps/v1");
        let mut foreign = Object::from_value(&foreign).unwrap();
        assert!(!is_to_be_inherited(&foreign, OURS));
        abridge(&mut foreign, |_| false);
        assert!(foreign.managed_fields.is_empty());
    }
}
