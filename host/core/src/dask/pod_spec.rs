//! Pod specs as they go into Deployments and pods: as they stand in the custom resource, with what Kubernetes takes when an
//! object is created, and refuses when it is applied, put in order.

use std::collections::BTreeSet;

use serde_json::{Value, json};

/// A pod spec with these variables in each container that has none of their names.
pub(super) fn pod_spec(spec: &Value, variables: &[(&str, &str)]) -> Value {
    let mut pod = spec.clone();
    if !variables.is_empty() {
        containers(&mut pod, "containers").for_each(|container| add_environment(container, variables));
    }
    without_repetitions(pod)
}

/// Without what is named twice in lists whose items Kubernetes' server-side apply tells apart by name, where leaving one out
/// changes nothing. It refuses such lists, and anything else that is twice in one is refused at creation, too, but for ports and
/// addresses of hosts under several names: those can't be told apart.
pub(super) fn without_repetitions(mut pod: Value) -> Value {
    for list in ["initContainers", "containers"] {
        for container in containers(&mut pod, list) {
            if let Some(variables) = container.get_mut("env").and_then(Value::as_array_mut) {
                let shadowed: BTreeSet<_> = (0..variables.len()).filter(|at| is_shadowed(variables, *at)).collect();
                remove(variables, &shadowed);
            }
            drop_equals(container.get_mut("ports"));
        }
    }
    drop_equals(pod.get_mut("imagePullSecrets"));
    pod
}

fn containers<'a>(pod: &'a mut Value, list: &str) -> impl Iterator<Item = &'a mut Value> {
    pod.get_mut(list).and_then(Value::as_array_mut).into_iter().flatten()
}

/// Appends variables that the user has not set.
fn add_environment(container: &mut Value, variables: &[(&str, &str)]) {
    let Some(container) = container.as_object_mut() else { return };
    let entry = container.entry("env").or_insert_with(|| json!([]));
    if entry.is_null() {
        *entry = json!([]);
    }
    let Some(env) = entry.as_array_mut() else { return };
    for (name, value) in variables {
        if !env.iter().any(|variable| name_of(variable) == Some(name)) {
            env.push(json!({"name": name, "value": value}));
        }
    }
}

fn name_of(variable: &Value) -> Option<&str> {
    variable.get("name").and_then(Value::as_str)
}

/// Whether the variable has no effect: the last of a name counts, and nothing up to the next of its name refers to this one.
fn is_shadowed(variables: &[Value], at: usize) -> bool {
    let Some(name) = name_of(&variables[at]) else { return false };
    let later = &variables[at + 1..];
    let Some(next) = later.iter().position(|variable| name_of(variable) == Some(name)) else { return false };
    let reference = format!("$({name})");
    let refers = |variable: &Value| {
        variable.get("value").and_then(Value::as_str).is_some_and(|value| value.contains(&reference))
    };
    !later[..=next].iter().any(refers)
}

/// Leaves the first of items that are equal.
fn drop_equals(items: Option<&mut Value>) {
    let Some(items) = items.and_then(Value::as_array_mut) else { return };
    let repeated = (0..items.len()).filter(|at| items[..*at].contains(&items[*at])).collect();
    remove(items, &repeated);
}

fn remove(items: &mut Vec<Value>, positions: &BTreeSet<usize>) {
    let mut position = 0..;
    items.retain(|_| position.next().is_none_or(|position| !positions.contains(&position)));
}

#[cfg(test)]
mod tests {
    use super::*;

    fn env(variables: Value) -> Value {
        let pod = json!({"containers": [{"env": variables.clone()}], "initContainers": [{"env": variables}]});
        let pod = pod_spec(&pod, &[]);
        assert_eq!(pod["containers"][0]["env"], pod["initContainers"][0]["env"]);
        pod["containers"][0]["env"].clone()
    }

    fn variable(name: &str, value: &str) -> Value {
        json!({"name": name, "value": value})
    }

    #[test]
    fn the_last_of_a_name_counts_as_for_the_kubelet() {
        let [a, b, c] = [variable("A", "1"), variable("B", "2"), variable("A", "3")];
        assert_eq!(env(json!([a, b, c])), json!([b, c]));
        let from = json!({"name": "A", "valueFrom": {"fieldRef": {"fieldPath": "spec.nodeName"}}});
        assert_eq!(env(json!([a, from, b])), json!([from, b]));
        assert_eq!(env(json!([a, c, a])), json!([a]));
        assert_eq!(
            env(json!([{"value": "of no name"}, {}, b])),
            json!([{"value": "of no name"}, {}, b]),
            "as they are"
        );
    }

    #[test]
    fn a_variable_that_others_refer_to_stays() {
        let path = [variable("PATH", "/bin"), variable("PATH", "/opt:$(PATH)")];
        assert_eq!(env(json!(path)), json!(path), "to be refused, not to be changed");
        let between = [variable("A", "1"), variable("B", "$(A)"), variable("A", "2")];
        assert_eq!(env(json!(between)), json!(between));
        let [a, c, after] = [variable("A", "1"), variable("A", "2"), variable("B", "$(A)")];
        assert_eq!(env(json!([a, c, after])), json!([c, after]));
    }

    #[test]
    fn variables_are_added_where_the_user_has_set_none() {
        let pod = json!({"containers": [{"env": null}, {"env": [variable("A", "mine"), variable("A", "last")]}, "odd"],
            "initContainers": [{}]});
        let expected = json!({"containers": [{"env": [variable("A", "ours")]}, {"env": [variable("A", "last")]}, "odd"],
            "initContainers": [{}]});
        assert_eq!(pod_spec(&pod, &[("A", "ours")]), expected);
        assert_eq!(pod_spec(&json!({"containers": [{}]}), &[]), json!({"containers": [{}]}));
    }

    #[test]
    fn equal_ports_and_pull_secrets_are_one_and_others_are_left() {
        let [port, named] = [json!({"containerPort": 8786}), json!({"containerPort": 8786, "name": "tcp-comm"})];
        let pod =
            json!({"containers": [{"ports": [port, named, port]}], "imagePullSecrets": [{"name": "a"}, {"name": "a"}]});
        let expected = json!({"containers": [{"ports": [port, named]}], "imagePullSecrets": [{"name": "a"}]});
        assert_eq!(pod_spec(&pod, &[]), expected);
    }
}
