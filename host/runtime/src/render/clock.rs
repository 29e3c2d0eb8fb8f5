//! The time of a rendering: that of what was given, so that the same input gives the same output.

use dask_wasm_operator_core::{dask::noted_time, time::epoch_millis};
use serde_json::Value;

/// It is at least 2026-01-01T00:00:00Z.
const EARLIEST: u64 = 1_767_225_600_000;

/// A time from 2100-01-01T00:00:00Z on is a slip of somebody's pen.
const NOBODYS: u64 = 4_102_444_800_000;

/// The latest time of those that the API server or an operator has written into the objects: nothing that is in a dump of a
/// cluster is yet to come, and what was to come when it was made still is.
pub(super) fn now<'a>(objects: impl IntoIterator<Item = &'a Value>) -> u64 {
    let times = objects.into_iter().flat_map(times).filter(|time| *time < NOBODYS);
    times.max().unwrap_or(EARLIEST).max(EARLIEST)
}

fn times(object: &Value) -> Vec<u64> {
    let mut times = Vec::new();
    for pointer in ["/metadata/creationTimestamp", "/status"] {
        object.pointer(pointer).into_iter().for_each(|value| collect(value, &mut times));
    }
    let annotations = object.pointer("/metadata/annotations").and_then(Value::as_object);
    let noted = annotations.into_iter().flatten().filter_map(|(name, text)| noted_time(name, text.as_str()?));
    times.extend(noted);
    times
}

/// Those that a value is or has in it.
fn collect(value: &Value, times: &mut Vec<u64>) {
    match value {
        Value::String(text) => times.extend(epoch_millis(text)),
        Value::Array(items) => items.iter().for_each(|item| collect(item, times)),
        Value::Object(fields) => fields.values().for_each(|field| collect(field, times)),
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}

#[cfg(test)]
mod tests {
    use dask_wasm_operator_core::time::rfc3339;
    use serde_json::json;

    use super::*;

    #[test]
    fn it_is_the_latest_time_that_was_written_by_an_operator_or_the_server() {
        let at = |metadata: Value, status: Value| rfc3339(now([&json!({"metadata": metadata, "status": status})]));
        let none = json!({});
        assert_eq!(at(none.clone(), none.clone()), "2026-01-01T00:00:00Z");
        assert_eq!(at(json!({"creationTimestamp": "2025-05-05T00:00:00Z"}), none.clone()), "2026-01-01T00:00:00Z");
        let metadata = json!({
            "creationTimestamp": "2026-05-05T00:00:00Z",
            "annotations": {
                "operator.dask.org/taken-over-at": "2026-05-06T00:00:00Z", "example.org/expires": "2031-01-01T00:00:00Z",
                "operator.dask.org/active-since": "9999-01-01T00:00:00Z", "kubernetes.dask.org/cooldown-until": "1e300",
            },
        });
        assert_eq!(at(metadata.clone(), none.clone()), "2026-05-06T00:00:00Z");
        let status = json!({"conditions": [{"type": "Available", "lastTransitionTime": "2026-05-07T00:00:00Z"}]});
        assert_eq!(at(metadata, status), "2026-05-07T00:00:00Z");
        let waits = json!({"annotations": {"kubernetes.dask.org/cooldown-until": "1795372214.5"}});
        assert_eq!(at(waits, none), "2026-11-22T18:30:14Z");
    }
}
