//! A plugin's answer is untrusted input: parsed strictly, then checked against its rights. Nothing is written unless all of it holds.

use std::{collections::BTreeSet, time::Duration};

use serde_json::{Map, Value, json};

use super::{HandlerName, KEY_ANNOTATION, Projection, Rights, pods};
use crate::{
    contract::{Outcome, Patch, PatchStrategy, PatchTarget},
    names::{OWN_PREFIXES, check_dns_label, check_dns_subdomain},
    object::{DEEPEST, GroupVersionKind, Object, Resource, nests_deeper},
    text::line,
    wanted::{Problem, SubjectPatch, Wanted, WantedChild, target},
};

/// The soonest that a handler is called again because it asked for it: with less it would be called all the time.
const SOONEST: Duration = Duration::from_secs(1);

/// How much is shown of a name that a plugin gives, in bytes: more than those may have that are taken.
const SHOWN: usize = 100;

/// Metadata that is the host's or the API server's.
const RESERVED_METADATA: [&str; 10] = [
    "ownerReferences",
    "finalizers",
    "managedFields",
    "uid",
    "resourceVersion",
    "generateName",
    "generation",
    "creationTimestamp",
    "deletionTimestamp",
    "selfLink",
];

/// Checks an answer and turns it into what is wanted, labelled as this handler's.
///
/// # Errors
/// Everything that is wrong with it, each with the place and the remedy.
pub fn accept(
    outcome: &Outcome,
    handler: &HandlerName,
    subject: &Object,
    rights: &Rights,
    resource: &dyn Fn(&GroupVersionKind) -> Option<Resource>,
) -> Result<Wanted, Vec<Problem>> {
    let mut problems = Vec::new();
    let children = outcome.children.as_ref().map(|children| {
        let most = rights.limits.children_per_subject as usize;
        if children.len() > most {
            let message = format!(
                "{handler}: {} children for one subject, at most {most} are allowed (spec.limits.childrenPerSubject)",
                children.len()
            );
            problems.push(Problem::permanent("TooManyChildren", message));
            return Vec::new();
        }
        let mut keys = BTreeSet::new();
        let mut places = BTreeSet::new();
        let mut accepted = Vec::new();
        for child in children {
            let unique = keys.insert(child.key.as_str());
            let checked = check_key(&child.key, unique)
                .and_then(|()| check_child(&child.object, &child.key, handler, subject, rights, resource))
                .and_then(|object| {
                    let (kind, name) = target(&object);
                    let place = (kind.group.clone(), kind.kind.clone(), name.to_owned());
                    if places.insert(place) { Ok(object) } else { Err(format!("{kind} {name} is returned twice")) }
                });
            match checked {
                Ok(object) => accepted.push(WantedChild::new(&child.key, object)),
                Err(why) => problems.push(refused(handler, &format!("child {}", line(&child.key, SHOWN)), &why)),
            }
        }
        accepted
    });
    let patch = outcome.patches.as_ref().and_then(|patches| match check_patches(patches, subject, rights) {
        Ok(body) => Some(SubjectPatch { body, guarded: false }),
        Err(why) => {
            problems.push(refused(handler, "patch", &why));
            None
        }
    });
    if outcome.delete_subject {
        let why = "deleting the subject is not served by this version of the operator";
        problems.push(Problem::permanent("NotServed", format!("{handler}: {why}")));
    }
    if !problems.is_empty() {
        return Err(problems);
    }
    Ok(Wanted {
        subject: patch,
        children,
        events: outcome.events.clone(),
        requeue_after: outcome.requeue_after.map(|after| after.max(SOONEST)),
        ..Wanted::default()
    })
}

fn refused(handler: &HandlerName, what: &str, why: &str) -> Problem {
    Problem::permanent("AnswerRefused", format!("{handler}: {what}: {why}"))
}

fn check_key(key: &str, unique: bool) -> Result<(), String> {
    check_dns_label(key).map_err(|error| format!("the key {error}"))?;
    if unique { Ok(()) } else { Err("the key is used twice".to_owned()) }
}

fn decode(json: &str) -> Result<Value, String> {
    if nests_deeper(json, DEEPEST) {
        return Err(format!("nests deeper than {DEEPEST} levels"));
    }
    serde_json::from_str(json).map_err(|error| format!("is no JSON: {error}"))
}

fn check_child(
    json: &str,
    key: &str,
    handler: &HandlerName,
    subject: &Object,
    rights: &Rights,
    resource: &dyn Fn(&GroupVersionKind) -> Option<Resource>,
) -> Result<Value, String> {
    let mut object = decode(json)?;
    let text = |value: Option<&Value>, field: &str| {
        value.and_then(Value::as_str).map(str::to_owned).ok_or_else(|| format!("{field} is missing or no string"))
    };
    let api_version = text(object.get("apiVersion"), "apiVersion")?;
    let kind = GroupVersionKind::from_api_version(&api_version, &text(object.get("kind"), "kind")?);
    let name = text(object.pointer("/metadata/name"), "metadata.name")?;

    rights.check_granted(&kind)?;
    let served = resource(&kind).ok_or_else(|| {
        format!(
            "the API server does not serve {kind} in version {}; install its CustomResourceDefinition",
            kind.version
        )
    })?;
    rights.check_asked(&kind)?;
    if !served.namespaced {
        return Err(format!("{kind} lives outside of namespaces and can't be owned by the subject"));
    }
    let Some(namespace) = subject.metadata.namespace.as_deref() else {
        return Err(format!("the subject lives outside of namespaces and can't own {kind} {name}"));
    };
    let checked = if kind.kind == "Service" && kind.group.is_empty() {
        check_dns_label(&name)
    } else {
        check_dns_subdomain(&name)
    };
    checked.map_err(|error| format!("metadata.name {error}"))?;
    check_metadata(&object, namespace)?;
    if object.get("status").is_some() {
        return Err("status is not for the maker of an object to write".to_owned());
    }
    if let Some(field) = pods::forbidden_field(&kind, &object) {
        return Err(format!("{field} is never set for a plugin"));
    }

    let metadata = object.get_mut("metadata").and_then(Value::as_object_mut).ok_or("metadata is no object")?;
    metadata.insert("namespace".to_owned(), json!(namespace));
    let labels = handler.labels(&subject.metadata.uid).into_iter().map(|(name, value)| (name, json!(value)));
    entries(metadata, "labels").extend(labels);
    entries(metadata, "annotations").insert(KEY_ANNOTATION.to_owned(), json!(key));
    Ok(object)
}

/// A map of metadata, which has been checked to be one or to be absent.
fn entries<'a>(metadata: &'a mut Map<String, Value>, name: &str) -> &'a mut Map<String, Value> {
    let entry = metadata.entry(name).or_insert_with(|| json!({}));
    if !entry.is_object() {
        *entry = json!({});
    }
    entry.as_object_mut().expect("it was made an object above")
}

fn check_metadata(object: &Value, namespace: &str) -> Result<(), String> {
    let metadata = object.get("metadata").and_then(Value::as_object).ok_or("metadata is no object")?;
    for field in RESERVED_METADATA {
        if metadata.get(field).is_some_and(|value| !value.is_null()) {
            return Err(format!("metadata.{field} can't be set by a plugin; leave it out"));
        }
    }
    match metadata.get("namespace").map(Value::as_str) {
        None => {}
        Some(Some(given)) if given == namespace => {}
        Some(_) => return Err(format!("metadata.namespace must be left out or be the subject's, {namespace}")),
    }
    check_entries(metadata)
}

fn check_entries(metadata: &Map<String, Value>) -> Result<(), String> {
    for map in ["labels", "annotations"] {
        let Some(entries) = metadata.get(map).filter(|value| !value.is_null()) else { continue };
        let entries = entries.as_object().ok_or_else(|| format!("metadata.{map} is no object"))?;
        for (key, value) in entries {
            if OWN_PREFIXES.iter().any(|prefix| key.starts_with(prefix)) {
                return Err(format!("metadata.{map}[{key:?}] is reserved for the operator"));
            }
            if !value.is_string() {
                return Err(format!("metadata.{map}[{key:?}] is no string"));
            }
        }
    }
    Ok(())
}

/// All patches as one partial object: a manager has one set of fields.
fn check_patches(patches: &[Patch], subject: &Object, rights: &Rights) -> Result<Value, String> {
    let granted = rights.granted_fields(&subject.kind).map_err(|error| error.to_string())?;
    let asked = rights.asked_fields(&subject.kind).map_err(|error| error.to_string())?;
    let mut merged = json!({"metadata": {}});
    for patch in patches {
        if patch.target != PatchTarget::Subject || patch.strategy != PatchStrategy::Apply {
            return Err(
                "only apply patches of the subject's labels and annotations are served by this version of the operator"
                    .to_owned(),
            );
        }
        let body = decode(&patch.body)?;
        let fields = body.as_object().ok_or("is no object")?;
        for (name, value) in fields {
            let metadata = match (name.as_str(), value.as_object()) {
                ("apiVersion" | "kind", _) => continue,
                ("metadata", Some(metadata)) => metadata,
                _ => {
                    return Err(format!(
                        "{name}: only labels and annotations of the subject can be patched in this version of the operator"
                    ));
                }
            };
            let identity = ["name", "namespace"];
            let body = json!({"metadata": metadata.iter().filter(|(name, _)| !identity.contains(&name.as_str()))
                .map(|(name, value)| (name.clone(), value.clone())).collect::<Map<_, _>>()});
            check_subject_patch(&body, subject, &granted, &asked)?;
            merge(&mut merged, &body);
        }
    }
    Ok(merged)
}

fn check_subject_patch(body: &Value, subject: &Object, granted: &Projection, asked: &Projection) -> Result<(), String> {
    let metadata = body["metadata"].as_object().ok_or("metadata is no object")?;
    if let Some(other) = metadata.keys().find(|name| !matches!(name.as_str(), "labels" | "annotations")) {
        return Err(format!(
            "metadata.{other}: only labels and annotations of the subject can be patched in this version of the operator"
        ));
    }
    check_entries(metadata)?;
    if metadata.is_empty() {
        return Ok(());
    }
    if let Some(field) = granted.uncovered(body) {
        let (group, kind, quoted) = (&subject.kind.group, &subject.kind.kind, field.replace('\'', "''"));
        return Err(format!(
            "{field} of {kind} is not granted; an administrator adds {{group: {group:?}, kind: {kind}, fields: ['{quoted}']}} to spec.grants.patch of the DaskPlugin"
        ));
    }
    match asked.uncovered(body) {
        Some(field) => Err(format!(
            "the plugin's manifest does not ask for {field}; add it to permissions.patch in the plugin's description"
        )),
        None => Ok(()),
    }
}

fn merge(into: &mut Value, from: &Value) {
    match (into, from) {
        (Value::Object(into), Value::Object(from)) => {
            for (name, value) in from {
                merge(into.entry(name).or_insert(Value::Null), value);
            }
        }
        (into, from) => *into = from.clone(),
    }
}

#[cfg(test)]
#[path = "answer_tests.rs"]
mod tests;
