//! Executables that distributed has no more, named in specs that older clients made.

use serde_json::Value;

use crate::object::Object;

/// What distributed took out in its release 2026.6, and what to write in its place.
const REMOVED: [(&str, &str); 2] = [("dask-scheduler", "dask scheduler"), ("dask-worker", "dask worker")];

/// How a shell ends that does not find a command, with no words of its own in the pod's status.
const NOT_FOUND: &str = "exit code 127 ";

/// What to write in the place of an executable, if a container fails because it is not there any more. `why` are the words of
/// kubelet, or how the container ended.
pub(super) fn remedy(why: &str, pod: &Object, container: &str) -> Option<String> {
    let is_missing = |name: &str| {
        let is_named = why.contains(name) && why.contains("not found");
        is_named || why.starts_with(NOT_FOUND) && command(pod, container).iter().any(|word| word.contains(name))
    };
    let (name, instead) = REMOVED.into_iter().find(|(name, _)| is_missing(name))?;
    Some(format!("distributed has no {name} since 2026.6, write {instead}"))
}

/// What a container is told to run.
fn command(pod: &Object, container: &str) -> Vec<String> {
    let spec: Value = pod.field("spec").and_then(Result::ok).unwrap_or_default();
    let containers = ["initContainers", "containers"].map(|list| spec.get(list).and_then(Value::as_array));
    let is_it = |value: &&Value| value.get("name").and_then(Value::as_str) == Some(container);
    let Some(container) = containers.into_iter().flatten().flatten().find(is_it) else { return Vec::new() };
    let words = ["command", "args"].map(|part| container.get(part).and_then(Value::as_array));
    words.into_iter().flatten().flatten().filter_map(Value::as_str).map(str::to_owned).collect()
}
