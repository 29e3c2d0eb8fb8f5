//! A plugin that returns what its configuration says, for DaskClusters and for ConfigMaps with the label `odd`.

use std::time::Duration;

use dask_operator_sdk::{
    Call, Child, EventNote, Failure, Handler, KindReference, Outcome, Patch, PatchPermission, Plugin, TriggerRequest,
    Value,
};
use serde::Deserialize;

/// The kinds of children that it asks for, by group and kind. The default grant allows only some of them.
const CHILDREN: [(&str, &str); 16] = [
    ("", "ConfigMap"),
    ("", "Service"),
    ("", "Secret"),
    ("", "Pod"),
    ("", "PersistentVolumeClaim"),
    ("networking.k8s.io", "Ingress"),
    ("networking.k8s.io", "NetworkPolicy"),
    ("policy", "PodDisruptionBudget"),
    ("apps", "Deployment"),
    ("apps", "StatefulSet"),
    ("batch", "Job"),
    ("batch", "CronJob"),
    ("kubernetes.dask.org", "DaskCluster"),
    ("kubernetes.dask.org", "DaskWorkerGroup"),
    ("kubernetes.dask.org", "DaskJob"),
    ("kubernetes.dask.org", "DaskAutoscaler"),
];

/// Annotation of a subject with a [`Script`] as JSON text, for this subject in the place of the configuration.
pub const SCRIPT: &str = "odd/script";

/// `spec.config` of the DaskPlugin. In each text `{name}` stands for the name of the subject.
#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
struct Script {
    /// None: no opinion.
    children: Option<Vec<ScriptedChild>>,
    /// An apply patch of the subject's labels and annotations.
    patch: Option<Value>,
    events: Vec<ScriptedEvent>,
    /// Lines for the log.
    log: Vec<String>,
    requeue_seconds: Option<u64>,
    /// Leaves the fields of children to those who hold them, and says so in an Event.
    yields: bool,
    /// The message of a temporary failure.
    fail: Option<String>,
    /// The message of a permanent failure.
    refuse: Option<String>,
}

#[derive(Deserialize)]
struct ScriptedChild {
    key: String,
    object: Value,
}

#[derive(Deserialize)]
struct ScriptedEvent {
    reason: String,
    message: String,
}

pub(crate) fn plugin() -> Plugin {
    let kind = |(group, kind): (&str, &str)| KindReference::new(group, kind);
    let cluster = || kind(("kubernetes.dask.org", "DaskCluster"));
    let plugin = Plugin::new("puppet", "1.0")
        .handler(Handler::new("cluster", cluster()).on(TriggerRequest::Observed), follow)
        .handler(
            Handler::new("configmap", KindReference::core("ConfigMap")).labels("odd").on(TriggerRequest::Observed),
            follow,
        );
    let plugin = CHILDREN.into_iter().fold(plugin, |plugin, child| plugin.creates(kind(child)));
    [cluster(), KindReference::core("ConfigMap")].into_iter().fold(plugin, |plugin, subject| {
        plugin.patches(PatchPermission::apply(subject, ["metadata.annotations", "metadata.labels"]))
    })
}

fn follow(call: &Call) -> Result<Outcome, Failure> {
    let script = script(call)?;
    script.log.iter().for_each(dask_operator_sdk::log::info);
    if let Some(message) = script.fail {
        return Err(Failure::temporary(message));
    }
    if let Some(message) = script.refuse {
        return Err(Failure::permanent(message));
    }
    let held = |key: &str| {
        let key = script.yields.then(|| key.to_owned());
        call.conflicts.iter().filter(move |conflict| key.is_some() && conflict.child == key)
    };
    let child = |child: &ScriptedChild| {
        let mut object = child.object.clone();
        held(&child.key).for_each(|conflict| remove(&mut object, &conflict.path));
        Child::new(&child.key, &object)
    };
    let children = script.children.as_ref().map(|children| children.iter().map(child).collect()).transpose()?;
    let mut outcome = Outcome { children, ..Outcome::default() };
    if let Some(patch) = &script.patch {
        outcome = outcome.patch(Patch::subject(patch)?);
    }
    for (child, conflict) in
        script.children.iter().flatten().flat_map(|child| held(&child.key).map(move |it| (child, it)))
    {
        let message = format!("{}: {} holds {}", child.key, conflict.manager, conflict.path);
        outcome = outcome.event(EventNote::normal("Yielded", message));
    }
    for event in &script.events {
        outcome = outcome.event(EventNote::normal(&event.reason, &event.message));
    }
    if let Some(seconds) = script.requeue_seconds {
        outcome = outcome.requeue_after(Duration::from_secs(seconds));
    }
    Ok(outcome)
}

fn script(call: &Call) -> Result<Script, Failure> {
    let subject: Value = call.subject()?;
    let mut script: Value = match subject["metadata"]["annotations"][SCRIPT].as_str() {
        Some(text) => text.parse().map_err(|_| Failure::permanent(format!("{SCRIPT} is not JSON")))?,
        None => call.config()?,
    };
    if script.is_null() {
        return Ok(Script::default());
    }
    fill_in(&mut script, &call.subject.name);
    Script::deserialize(script).map_err(|error| Failure::permanent(error.to_string()))
}

fn remove(object: &mut Value, path: &str) {
    let (parents, name) = path.rsplit_once('.').unwrap_or(("", path));
    let parent = parents.split('.').filter(|name| !name.is_empty()).try_fold(object, |at, name| at.get_mut(name));
    if let Some(fields) = parent.and_then(Value::as_object_mut) {
        fields.remove(name);
    }
}

fn fill_in(value: &mut Value, name: &str) {
    match value {
        Value::String(text) => *text = text.replace("{name}", name),
        Value::Array(items) => items.iter_mut().for_each(|item| fill_in(item, name)),
        Value::Object(fields) => fields.values_mut().for_each(|field| fill_in(field, name)),
        _ => {}
    }
}
