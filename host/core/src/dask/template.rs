//! Pod templates are changed on purpose only: a Deployment remembers the template that it was made from.
//!
//! While the custom resource still gives that template, manual edits are reverted. When it gives another, the Deployment's spec
//! is left alone, because a change would restart its pod and lose what a worker holds; deleting the Deployment gives the new
//! one. Under a rolling update the scheduler's gets the new template, and workers' are replaced by new ones. Labels and
//! annotations are propagated to object metadata only, never to pod templates or selectors: also to those of a Deployment
//! that another operator made from another template, which so becomes ours without a restart.
//!
//! A pod that we make ourselves, the runner of a job, is its own template: Kubernetes refuses most changes of it, and one that
//! it allows (another image) would restart the job.

use serde_json::{Value, json};

use super::{deployment_kind, pod_kind, pod_spec::without_repetitions};
use crate::{
    fields::{contains, held_entries, held_part, stable_digest},
    object::{GroupVersionKind, ManagedFields, Object},
    wanted::{OnNewTemplate, WantedChild, target},
};

/// Annotation on Deployments and runners of jobs: `v1:` and the digest of the pod spec that they were made from, after `build`
/// mutators.
pub const TEMPLATE_HASH: &str = "operator.dask.org/template-hash";

/// Hexadecimal digits of the digest that are kept: 80 bits.
const DIGITS: usize = 20;

/// A child of a native reconciler after its template was compared with the live one.
#[derive(Clone, Debug, PartialEq)]
pub enum Settled {
    /// To be applied.
    Apply(WantedChild),
    /// Made from another template: its metadata is to be applied, the rest says what there is already.
    Outdated(WantedChild),
}

impl Settled {
    /// What is to be applied.
    pub fn child(&self) -> &WantedChild {
        let (Self::Apply(child) | Self::Outdated(child)) = self;
        child
    }
}

/// Where a kind holds a pod spec that is changed on purpose only.
fn pod_spec_of(kind: &GroupVersionKind) -> Option<&'static str> {
    if kind.same_kind(&deployment_kind()) {
        Some("/spec/template/spec")
    } else if kind.same_kind(&pod_kind()) {
        Some("/spec")
    } else {
        None
    }
}

/// Stamps a Deployment or a pod with its template's hash and decides whether it may be applied. Other kinds pass.
pub fn settle(mut child: WantedChild, live: Option<&Object>, manager: &str) -> Settled {
    let kind = target(&child.object).0;
    let Some(path) = pod_spec_of(&kind) else { return Settled::Apply(child) };
    let pod = child.object.pointer(path).cloned().unwrap_or_default();
    let hash = format!("v1:{}", &stable_digest(&pod)[..DIGITS]);
    let Some(live) = live else {
        child.object["metadata"]["annotations"][TEMPLATE_HASH] = json!(hash);
        return Settled::Apply(child);
    };
    let live_value = live.to_value();
    let same = match live.metadata.annotations.get(TEMPLATE_HASH) {
        Some(stamped) => *stamped == hash,
        // Somebody removed the stamp, or it is another operator's: it can be put on if nothing would change by it.
        None => {
            let live = live_value.pointer(path).unwrap_or(&Value::Null);
            contains(live, &pod) && without_repetitions(live.clone()) == *live
        }
    };
    if !same && child.on_new_template != OnNewTemplate::Apply {
        leave_alone(&mut child.object, live, &live_value, manager);
        return Settled::Outdated(child);
    }
    child.object["metadata"]["annotations"][TEMPLATE_HASH] = json!(hash);
    if kind.same_kind(&pod_kind()) {
        keep_pod(&mut child.object, live, &live_value, manager);
    } else {
        keep_template_metadata(&mut child.object, live, &live_value, manager);
    }
    Settled::Apply(child)
}

/// The live spec as far as we hold it: applying that changes nothing. None: we hold nothing of it.
fn held_spec(live: &Object, live_value: &Value, manager: &str) -> Option<Value> {
    let held = live.applied_by(manager).and_then(ManagedFields::decoded)?;
    Some(held_part(held.get("f:spec")?, live_value.get("spec")?))
}

/// Sends a running pod's own values back for what we hold of it: what a webhook changed when it was made (the image's registry,
/// say) stays changed.
fn keep_pod(wanted: &mut Value, live: &Object, live_value: &Value, manager: &str) {
    if let Some(spec) = held_spec(live, live_value, manager) {
        wanted["spec"] = spec;
    }
}

/// Only metadata is applied, and what was applied before stays ours. What somebody else made keeps its fields: we hold none,
/// so none is taken from its maker.
fn leave_alone(wanted: &mut Value, live: &Object, live_value: &Value, manager: &str) {
    match held_spec(live, live_value, manager) {
        Some(spec) => wanted["spec"] = spec,
        None => drop(wanted.as_object_mut().and_then(|wanted| wanted.remove("spec"))),
    }
    if let Some(hash) = live.metadata.annotations.get(TEMPLATE_HASH) {
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
