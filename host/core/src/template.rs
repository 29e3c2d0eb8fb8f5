//! Pod templates are changed on purpose only: a Deployment remembers the template that it was made from.
//!
//! While the custom resource still gives that template, manual edits are reverted. When it gives another, the Deployment's spec
//! is left alone, because a change would restart its pod and lose what a worker holds; deleting the Deployment gives the new
//! one. Only a Deployment whose pods have surely never run gets it at once. Under a rolling update the scheduler's gets the new template, and workers' are replaced by new ones. Labels and
//! annotations are propagated to object metadata only, never to pod templates or selectors: also to those of a Deployment
//! that another operator made from another template, which so becomes ours without a restart.
//!
//! A pod that we make ourselves, the runner of a job, is its own template: Kubernetes refuses most changes of it, and one that
//! it allows (another image) would restart the job.

use std::collections::{BTreeSet, HashMap};

use serde_json::{Value, json};

use crate::{
    fields::{fingerprint, held_entries, held_part, stable_digest},
    object::{GroupVersionKind, ManagedFields, Object},
    quote::quote,
    wanted::{OnNewTemplate, Problem, Settled, WantedChild, target},
};

/// Annotation on Deployments and runners of jobs: `v1:` and the digest of the pod spec that they were made from, after `build`
/// mutators.
pub const TEMPLATE_HASH: &str = "operator.dask.org/template-hash";

/// Reason of the problem that an object was made from an older template, and is left as it is.
const OUTDATED: &str = "TemplateOutdated";

/// Which digest it is.
const VERSION: &str = "v1:";

/// Hexadecimal digits of the digest that are kept: 80 bits.
const DIGITS: usize = 20;

/// The stamp of a Deployment or pod. One that is none of ours is none.
fn stamp(live: &Object) -> Option<&String> {
    let is_digest = |digits: &str| digits.len() == DIGITS && digits.bytes().all(|byte| byte.is_ascii_hexdigit());
    let stamp = live.metadata.annotations.get(TEMPLATE_HASH)?;
    stamp.strip_prefix(VERSION).is_some_and(is_digest).then_some(stamp)
}

/// Whether a live object without a stamp was made from the present template. Only the API server knows: it leaves out zeros,
/// writes quantities in its own way and fills in defaults. So it is asked what would become of the object.
#[derive(Clone, Debug)]
pub struct TemplateQuestion {
    /// What would be applied.
    pub body: Value,
    /// The uid of the live object.
    pub uid: String,
    path: &'static str,
    template: Value,
}

impl TemplateQuestion {
    /// None: there is nothing to ask.
    pub fn about(child: &WantedChild, live: &Object, manager: &str) -> Option<Self> {
        let (_, path) = pod_spec_of(&target(&child.object).0)?;
        if child.on_new_template == OnNewTemplate::Apply || stamp(live).is_some() {
            return None;
        }
        let template = live.to_value().pointer(path).cloned().unwrap_or_default();
        let mut body = settle(child.clone(), Some(live), manager, Some(true)).child().object.clone();
        if path == "/spec" {
            // A pod's own values would be sent back, whatever is wanted.
            body["spec"] = child.object["spec"].clone();
        }
        Some(Self { body, path, uid: live.metadata.uid.clone(), template })
    }

    /// The answer, from how the object would look.
    pub fn is_same(&self, object: &Object) -> bool {
        object.to_value().pointer(self.path) == Some(&self.template)
    }

    fn digest(&self) -> u64 {
        fingerprint(&json!([self.body["spec"], self.template]))
    }
}

/// Answers to [`TemplateQuestion`]s. They are lost in a restart, and asked for again.
#[derive(Debug, Default, PartialEq)]
pub struct TemplateAnswers(HashMap<String, (u64, bool)>);

impl TemplateAnswers {
    /// The answer, if it was given to the very question.
    pub fn get(&self, question: &TemplateQuestion) -> Option<bool> {
        let (digest, is_same) = self.0.get(&question.uid)?;
        (*digest == question.digest()).then_some(*is_same)
    }

    /// Remembers an answer.
    pub fn note(&mut self, question: &TemplateQuestion, is_same: bool) {
        self.0.insert(question.uid.clone(), (question.digest(), is_same));
    }

    /// Forgets everything about objects that are no longer there.
    pub fn keep_only(&mut self, uids: &BTreeSet<&str>) {
        self.0.retain(|uid, _| uids.contains(uid.as_str()));
    }
}

fn is_pod(kind: &GroupVersionKind) -> bool {
    kind.same_kind(&GroupVersionKind::new("", "v1", "Pod"))
}

/// Where a kind holds a pod spec that is changed on purpose only, and what makes new pods when it changes.
fn pod_spec_of(kind: &GroupVersionKind) -> Option<(&'static str, &'static str)> {
    if kind.same_kind(&GroupVersionKind::new("apps", "v1", "Deployment")) {
        Some(("/spec/template/spec", "/spec/template"))
    } else if is_pod(kind) {
        Some(("/spec", "/spec"))
    } else {
        None
    }
}

/// Stamps a Deployment or a pod with its template's hash and decides whether it may be applied. Other kinds pass. `is_same`
/// is the answer to the [`TemplateQuestion`], if there was one.
pub fn settle(mut child: WantedChild, live: Option<&Object>, manager: &str, is_same: Option<bool>) -> Settled {
    let kind = target(&child.object).0;
    let Some((path, _)) = pod_spec_of(&kind) else { return Settled::Apply(child) };
    let pod = child.object.pointer(path).cloned().unwrap_or_default();
    let hash = format!("{VERSION}{}", &stable_digest(&pod)[..DIGITS]);
    let Some(live) = live else {
        child.object["metadata"]["annotations"][TEMPLATE_HASH] = json!(hash);
        return Settled::Apply(child);
    };
    let live_value = live.to_value();
    let same = match stamp(live) {
        Some(stamped) => *stamped == hash,
        // Somebody removed the stamp, or made the object without: nothing of its template may change by it.
        None => is_same == Some(true),
    };
    if !same && child.on_new_template == OnNewTemplate::Renew {
        return Settled::Renew(child);
    }
    if !same && child.on_new_template != OnNewTemplate::Apply {
        leave_alone(&mut child.object, live, &live_value, manager);
        let problem = outdated(&child);
        return Settled::Outdated { child, problem, counts: !is_pod(&kind) };
    }
    child.object["metadata"]["annotations"][TEMPLATE_HASH] = json!(hash);
    if is_pod(&kind) {
        keep_pod(&mut child.object, live, &live_value, manager);
    } else {
        keep_template_metadata(&mut child.object, live, &live_value, manager);
    }
    Settled::Apply(child)
}

/// None if the handler sees to it.
fn outdated(child: &WantedChild) -> Option<Problem> {
    if child.on_new_template == OnNewTemplate::Replace {
        return None;
    }
    let (kind, name) = target(&child.object);
    let remedy = if is_pod(&kind) {
        "set spec.suspend to true and then to false to start over"
    } else {
        "delete it to have it recreated"
    };
    // One of several stands for all: when it has gone, the problem of the others is not a new one.
    let name = quote(name);
    let message = format!("{} {name} was made from an older template and is left as it is; {remedy}", kind.kind);
    Some(Problem { permanent: !is_pod(&kind), ..Problem::permanent(OUTDATED, message) })
}

/// The live spec as far as we hold it: applying that changes nothing. None: we hold nothing of it.
fn held_spec(wanted: &Value, live: &Object, live_value: &Value, manager: &str) -> Option<Value> {
    let held = live.applied_by(manager).and_then(ManagedFields::decoded)?;
    let held = held.get("f:spec")?;
    let mut spec = held_part(held, live_value.get("spec")?);
    keep_empty(&mut spec, wanted.get("spec")?, held);
    Some(spec)
}

/// What is applied empty is held, but not stored. Without it the apply would be one that gives it up.
fn keep_empty(part: &mut Value, wanted: &Value, held: &Value) {
    let (Some(part), Some(wanted)) = (part.as_object_mut(), wanted.as_object()) else { return };
    for (name, value) in wanted {
        let Some(held) = held.get(format!("f:{name}")) else { continue };
        match part.get_mut(name) {
            Some(part) => keep_empty(part, value, held),
            None if *value == json!({}) || *value == json!([]) => drop(part.insert(name.clone(), value.clone())),
            None => {}
        }
    }
}

/// Sends a running pod's own values back for what we hold of it: what a webhook changed when it was made (the image's registry,
/// say) stays changed.
fn keep_pod(wanted: &mut Value, live: &Object, live_value: &Value, manager: &str) {
    if let Some(spec) = held_spec(wanted, live, live_value, manager) {
        wanted["spec"] = spec;
    }
}

/// Only metadata is applied, and what was applied or inherited before stays ours. Where we hold nothing, nothing is taken.
fn leave_alone(wanted: &mut Value, live: &Object, live_value: &Value, manager: &str) {
    match held_spec(wanted, live, live_value, manager) {
        Some(spec) => wanted["spec"] = spec,
        None => drop(wanted.as_object_mut().and_then(|wanted| wanted.remove("spec"))),
    }
    if let Some(hash) = stamp(live) {
        wanted["metadata"]["annotations"][TEMPLATE_HASH] = json!(hash);
    }
}

/// The selector can't change, and new metadata of the template would restart the pod.
fn keep_template_metadata(wanted: &mut Value, live: &Object, live_value: &Value, manager: &str) {
    if let Some(selector) = live_value.pointer("/spec/selector") {
        wanted["spec"]["selector"] = selector.clone();
    }
    let held = live.applied_by(manager).and_then(ManagedFields::decoded);
    for map in ["labels", "annotations"] {
        let path = ["spec", "template", "metadata", map];
        let entries = match &held {
            Some(held) => Value::Object(held_entries(held, live_value, &path)),
            None => live_value.pointer(&format!("/{}", path.join("/"))).cloned().unwrap_or_else(|| json!({})),
        };
        wanted["spec"]["template"]["metadata"][map] = entries;
    }
}
