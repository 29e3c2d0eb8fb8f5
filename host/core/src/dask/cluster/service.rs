//! Whether the Service of a scheduler leads to it: the API server takes any selector and any name of a port, and workers and
//! clients of one that leads elsewhere wait for ever.

use serde_json::{Map, Value};

use crate::{
    dask::{
        kinds::deployment_kind,
        naming::{CLUSTER_NAME_LABEL, COMPONENT_LABEL, scheduler_name},
        remedy::Place,
    },
    wanted::{Problem, Snapshot},
};

/// The Service leads to no pod of the scheduler, or to pods of others, too.
const MISDIRECTED: &str = "ServiceMisdirected";

/// What is wrong with the Service of a cluster's scheduler: `scheduler` is the Deployment that is wanted.
///
/// One without selector leads where somebody else says, and one of type ExternalName out of the cluster: that can't be seen.
pub(in crate::dask) fn misdirected(seen: &Snapshot, service: &Value, scheduler: &Value) -> Option<Problem> {
    let selector = service.get("selector").and_then(Value::as_object).filter(|selector| !selector.is_empty())?;
    if service.get("type").and_then(Value::as_str) == Some("ExternalName") {
        return None;
    }
    // Labels of pods that there are stay as they are.
    let name = scheduler_name(&seen.subject.metadata.name);
    let live = seen.child(&deployment_kind(), &name).map(|live| live.to_value());
    let template = live.as_ref().unwrap_or(scheduler).pointer("/spec/template")?;
    let (field, why) = wrong_selector(selector, template).or_else(|| wrong_port(service, template))?;
    let place = Place::of(&seen.subject, &format!("spec.scheduler.service.{field}"), None);
    let message = format!(
        "DaskCluster {}: Service {name} does not lead to its scheduler: {why}; correct {place}",
        seen.subject.metadata.name
    );
    Some(Problem::permanent(MISDIRECTED, message))
}

fn wrong_selector(selector: &Map<String, Value>, template: &Value) -> Option<(&'static str, String)> {
    let labels = template.pointer("/metadata/labels").and_then(Value::as_object);
    let label = |key: &str| labels.and_then(|labels| labels.get(key));
    let text = |value: Option<&Value>| value.and_then(Value::as_str).unwrap_or_default().to_owned();
    if let Some((key, asked)) = selector.iter().find(|(key, value)| label(key) != Some(value)) {
        let has = label(key).map_or("not that label".to_owned(), |has| format!("{key}={}", text(Some(has))));
        return Some((
            "selector",
            format!("it selects pods with {key}={}, and the scheduler's has {has}", text(Some(asked))),
        ));
    }
    let is_common = selector.keys().all(|key| key == COMPONENT_LABEL);
    let own = text(label(CLUSTER_NAME_LABEL));
    let why =
        format!("it selects the schedulers of all clusters of the namespace, for want of {CLUSTER_NAME_LABEL}: {own}");
    is_common.then_some(("selector", why))
}

fn wrong_port(service: &Value, template: &Value) -> Option<(&'static str, String)> {
    let list = |value: &'_ Value, name: &str| value.get(name).and_then(Value::as_array).cloned().unwrap_or_default();
    let spec = template.get("spec")?;
    let containers = ["containers", "initContainers"].into_iter().flat_map(|name| list(spec, name));
    let ports: Vec<_> = containers.flat_map(|container| list(&container, "ports")).collect();
    let is_named = |name: &str| ports.iter().any(|port| port.get("name").and_then(Value::as_str) == Some(name));
    let mut targets = list(service, "ports").into_iter();
    let missing = targets.find_map(|port| {
        let target = port.get("targetPort").and_then(Value::as_str)?;
        // A number may be written as text.
        (target.parse::<u16>().is_err() && !is_named(target)).then(|| target.to_owned())
    })?;
    Some(("ports", format!("targetPort {missing} is the name of no port of the scheduler's containers")))
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeMap, sync::Arc};

    use serde_json::json;

    use super::*;
    use crate::{object::Object, scheduler::Replies};

    fn told(service: &Value) -> Option<String> {
        let subject = json!({"apiVersion": "kubernetes.dask.org/v1", "kind": "DaskCluster", "metadata": {"name": "c"}});
        let seen = Snapshot {
            subject: Arc::new(Object::from_value(&subject).unwrap()),
            children: Vec::new().into(),
            departed: Vec::new(),
            related: BTreeMap::new(),
            outdated: None,
            known_fields: Arc::default(),
            replies: Replies::default(),
            facts: Value::Null,
            now: 0,
        };
        let labels = json!({"dask.org/cluster-name": "c", "dask.org/component": "scheduler", "team": "a"});
        let containers = json!([{"name": "scheduler", "ports": [{"name": "tcp-comm", "containerPort": 8786}]}]);
        let scheduler =
            json!({"spec": {"template": {"metadata": {"labels": labels}, "spec": {"containers": containers}}}});
        misdirected(&seen, service, &scheduler).map(|problem| problem.message)
    }

    #[test]
    fn a_service_that_leads_to_its_scheduler_is_right() {
        let own = json!({"dask.org/cluster-name": "c", "dask.org/component": "scheduler"});
        for service in [
            json!({"selector": own, "ports": [{"port": 8786, "targetPort": "tcp-comm"}, {"port": 8787, "targetPort": 8787}]}),
            json!({"selector": {"team": "a"}, "ports": [{"port": 8786}, {"port": 1, "targetPort": "8786"}]}),
            json!({"ports": [{"port": 8786}]}),
            json!({"selector": {}}),
            json!({"type": "ExternalName", "externalName": "a.example.org", "selector": {"a": "b"}}),
        ] {
            assert_eq!(told(&service), None, "{service}");
        }
    }

    #[test]
    fn one_that_leads_elsewhere_is_told_with_the_field_to_correct() {
        let of_another = json!({"dask.org/cluster-name": "simple-job", "dask.org/component": "scheduler"});
        for (service, why, field) in [
            (json!({"selector": of_another}), "the scheduler's has dask.org/cluster-name=c", "selector"),
            (json!({"selector": {"app": "dask"}}), "the scheduler's has not that label", "selector"),
            (json!({"selector": {"dask.org/component": "scheduler"}}), "the schedulers of all clusters", "selector"),
            (
                json!({"selector": {"team": "a"}, "ports": [{"port": 8786, "targetPort": "comm"}]}),
                "targetPort comm is the name of no port",
                "ports",
            ),
        ] {
            let message = told(&service).unwrap();
            assert!(message.contains(why), "{message}");
            assert!(
                message.ends_with(&format!("correct spec.scheduler.service.{field} of DaskCluster c")),
                "{message}"
            );
        }
    }
}
