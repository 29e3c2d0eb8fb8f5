//! The specs of pods and Services as they go into what is applied: as they stand in the custom resource, but for what
//! Kubernetes takes when an object is created and refuses when it is applied. That is left out where it means nothing, and
//! written otherwise where that means the same.

mod aliases;
mod environment;

use std::collections::HashSet;

use serde_json::{Value, json};

use crate::{
    dask::{naming::CLUSTER, remedy::Place},
    schema::{KnownFields, Pruned, Schema},
    wanted::{Problem, Snapshot},
};

/// Fields that the API server does not know; everything else is made.
pub(in crate::dask) const UNKNOWN_FIELD: &str = "UnknownField";

/// A pod's spec as it can be applied. `section`: where it stands in the subject.
pub(in crate::dask) fn pod_spec(seen: &Snapshot, section: &str, given: &Value) -> (Value, Option<Problem>) {
    let (mut pod, problem) = known_part(seen, section, seen.known_fields.pod.as_ref(), given);
    write_once(&mut pod);
    (pod, problem)
}

/// A Service's spec as it can be applied. `section`: where it stands in the subject.
pub(in crate::dask) fn service_spec(seen: &Snapshot, section: &str, given: &Value) -> (Value, Option<Problem>) {
    known_part(seen, section, seen.known_fields.service.as_ref(), given)
}

/// A pod's spec with these variables in each container that has none of their names.
pub(in crate::dask) fn with_variables(pod: &Value, variables: &[(&str, &str)]) -> Value {
    let mut pod = pod.clone();
    containers(&mut pod, "containers").for_each(|container| add_environment(container, variables));
    pod
}

/// What of a section the API server knows, and a problem that names the rest.
fn known_part(seen: &Snapshot, section: &str, schema: Option<&Schema>, given: &Value) -> (Value, Option<Problem>) {
    let mut known = given.clone();
    let pruned = schema.map(|schema| schema.prune(&mut known)).unwrap_or_default();
    (known, (!pruned.is_empty()).then(|| unknown_field(seen, section, &pruned)))
}

fn unknown_field(seen: &Snapshot, section: &str, pruned: &Pruned) -> Problem {
    let subject = &seen.subject;
    let place = Place::of(subject, section, seen.related_one(CLUSTER).map(AsRef::as_ref));
    let (fields, them) = if pruned.count() == 1 { ("field", "it") } else { ("fields", "them") };
    let message = format!(
        "{} {}: the API server knows no {fields} {}; everything else is made without {them}: correct the name or the place of \
         {them}, or remove {them}",
        subject.kind.kind,
        subject.metadata.name,
        place.naming(|section| pruned.within(section))
    );
    Problem::permanent(UNKNOWN_FIELD, message)
}

/// Names the fields of a Dask object's specs that the API server does not know; none if there are no such.
pub fn unknown_fields(kind: &str, object: &Value, known: &KnownFields) -> Option<String> {
    let sections = ["spec.scheduler.spec", "spec.scheduler.service", "spec.worker.spec"];
    let sections = match kind {
        "DaskCluster" => sections.map(str::to_owned).to_vec(),
        "DaskWorkerGroup" => vec!["spec.worker.spec".to_owned()],
        "DaskJob" => {
            let of_cluster = sections.iter().map(|section| format!("spec.cluster.{section}"));
            [String::from("spec.job.spec")].into_iter().chain(of_cluster).collect()
        }
        _ => Vec::new(),
    };
    let unknown = |section: String| {
        let schema = if section.ends_with(".service") { &known.service } else { &known.pod };
        let mut spec = object.pointer(&format!("/{}", section.replace('.', "/")))?.clone();
        let pruned = schema.as_ref()?.prune(&mut spec);
        (!pruned.is_empty()).then(|| pruned.within(&section))
    };
    let unknown: Vec<_> = sections.into_iter().filter_map(unknown).collect();
    (!unknown.is_empty()).then(|| unknown.join(", "))
}

/// Has each item once in those lists whose items server-side apply tells apart by a key, and that may hold several of one key
/// when an object is created.
fn write_once(pod: &mut Value) {
    for list in ["initContainers", "containers"] {
        for container in containers(pod, list) {
            if let Some(variables) = list_of(container, "env") {
                *variables = environment::distinct(variables);
            }
            keep_first(list_of(container, "ports"), |port| port);
            for rule in list_of(container, "restartPolicyRules").into_iter().flatten() {
                keep_first(rule.get_mut("exitCodes").and_then(|codes| list_of(codes, "values")), |code| code);
            }
        }
    }
    if let Some(host_aliases) = list_of(pod, "hostAliases") {
        *host_aliases = aliases::distinct(host_aliases);
    }
    // None is an empty one.
    keep_first(list_of(pod, "imagePullSecrets"), |secret| secret.get("name").unwrap_or(&EMPTY));
}

fn list_of<'a>(object: &'a mut Value, name: &str) -> Option<&'a mut Vec<Value>> {
    object.get_mut(name).and_then(Value::as_array_mut)
}

fn containers<'a>(pod: &'a mut Value, list: &str) -> impl Iterator<Item = &'a mut Value> {
    list_of(pod, list).into_iter().flatten()
}

/// Appends variables that the user has not set.
fn add_environment(container: &mut Value, variables: &[(&str, &str)]) {
    let Some(container) = container.as_object_mut().filter(|_| !variables.is_empty()) else { return };
    let entry = container.entry("env").or_insert_with(|| json!([]));
    if entry.is_null() {
        *entry = json!([]);
    }
    let Some(env) = entry.as_array_mut() else { return };
    for (name, value) in variables {
        if !env.iter().any(|variable| variable.get("name").and_then(Value::as_str) == Some(name)) {
            env.push(json!({"name": name, "value": value}));
        }
    }
}

static EMPTY: Value = Value::String(String::new());

/// Leaves the first of items that are equal in this.
fn keep_first(items: Option<&mut Vec<Value>>, what: impl Fn(&Value) -> &Value) {
    let Some(items) = items else { return };
    let mut seen = HashSet::new();
    let is_first: Vec<_> = items.iter().map(|item| seen.insert(what(item))).collect();
    let mut is_first = is_first.into_iter();
    items.retain(|_| is_first.next().unwrap_or(true));
}

#[cfg(test)]
mod tests {
    use super::*;

    fn once(mut pod: Value) -> Value {
        write_once(&mut pod);
        pod
    }

    fn variable(name: &str, value: &str) -> Value {
        json!({"name": name, "value": value})
    }

    #[test]
    fn variables_are_added_where_the_user_has_set_none() {
        let pod =
            json!({"containers": [{"env": null}, {"env": [variable("A", "mine")]}, "odd"], "initContainers": [{}]});
        let expected = json!({"containers": [{"env": [variable("A", "ours")]}, {"env": [variable("A", "mine")]}, "odd"],
            "initContainers": [{}]});
        assert_eq!(with_variables(&pod, &[("A", "ours")]), expected);
        assert_eq!(with_variables(&json!({"containers": [{}]}), &[]), json!({"containers": [{}]}));
    }

    #[test]
    fn the_variables_of_all_containers_are_looked_at() {
        let [twice, last] = [json!([variable("A", "1"), variable("A", "2")]), json!([variable("A", "2")])];
        let pod = |env: &Value| json!({"containers": [{"env": env}, {"env": env}], "initContainers": [{"env": env}]});
        assert_eq!(once(pod(&twice)), pod(&last));
    }

    #[test]
    fn equal_ports_and_pull_secrets_are_one_and_others_are_left() {
        let [port, named] = [json!({"containerPort": 8786}), json!({"containerPort": 8786, "name": "tcp-comm"})];
        let pod =
            json!({"containers": [{"ports": [port, named, port]}], "imagePullSecrets": [{"name": "a"}, {"name": "a"}]});
        let expected = json!({"containers": [{"ports": [port, named]}], "imagePullSecrets": [{"name": "a"}]});
        assert_eq!(once(pod), expected);
        let rules =
            |codes: Value| json!({"initContainers": [{"restartPolicyRules": [{"exitCodes": {"values": codes}}]}]});
        assert_eq!(once(rules(json!([1, 2, 1]))), rules(json!([1, 2])));
    }

    #[test]
    fn what_is_no_list_is_left_to_the_server() {
        for odd in
            [json!({"containers": {"env": 1}}), json!({"hostAliases": "x", "containers": [{"env": {}}]}), json!(1)]
        {
            assert_eq!(once(odd.clone()), odd);
        }
    }
}
