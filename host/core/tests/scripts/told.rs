//! What happened, as text.

use std::collections::{BTreeMap, BTreeSet};

use dask_wasm_operator_core::{
    dask::WORKER_ORDINALS,
    object::{ManagedFields, Object},
    template::TEMPLATE_HASH,
};
use serde_json::{Map, Value};

/// Longer values are not shown.
const SHOWN: usize = 160;

/// What of an object's metadata the API server writes.
const OF_SERVER: [&str; 5] = ["creationTimestamp", "generation", "managedFields", "resourceVersion", "uid"];

/// What of a status says nothing to a reader.
const SILENT: [&str; 2] = ["labelSelector", "observedGeneration"];

/// What an apply of this manager has changed, a line for each field.
pub(crate) fn changes(manager: &str, before: &Object, after: &Object) -> Vec<String> {
    let mut lines = Vec::new();
    differences("", &without_server(&before.to_value()), &without_server(&after.to_value()), &mut lines);
    if lines.is_empty() {
        let (old, new) = (held(manager, before), held(manager, after));
        let given_up = old.difference(&new).map(|path| format!("{path} is left to others"));
        lines.extend(given_up);
    }
    if lines.is_empty() {
        lines.push("no field changes".to_owned());
    }
    lines.into_iter().map(|line| format!("    {line}")).collect()
}

/// The paths of the fields that a manager holds.
fn held(manager: &str, object: &Object) -> BTreeSet<String> {
    fn collect(path: &str, fields: &Value, paths: &mut BTreeSet<String>) {
        for (name, value) in fields.as_object().into_iter().flatten() {
            let below = below(path, name.strip_prefix("f:").unwrap_or(name));
            if value.as_object().is_some_and(Map::is_empty) {
                paths.insert(below);
            } else {
                collect(&below, value, paths);
            }
        }
    }
    let mut paths = BTreeSet::new();
    let fields = object.applied_by(manager).and_then(ManagedFields::decoded).unwrap_or_default();
    collect("", &fields, &mut paths);
    paths
}

fn without_server(object: &Value) -> Value {
    let mut object = object.clone();
    if let Some(fields) = object.as_object_mut() {
        fields.remove("status");
    }
    if let Some(metadata) = object.get_mut("metadata").and_then(Value::as_object_mut) {
        metadata.retain(|name, _| !OF_SERVER.contains(&name.as_str()));
    }
    object
}

fn differences(path: &str, before: &Value, after: &Value, lines: &mut Vec<String>) {
    if before == after {
        return;
    }
    let empty = Map::new();
    let fields = |value: &'_ Value| match value {
        Value::Object(fields) => Some(fields.clone()),
        Value::Null => Some(empty.clone()),
        _ => None,
    };
    match (before, after) {
        _ if path == "metadata.ownerReferences" => lines.push(format!("owner: {}", owners(after))),
        (Value::Array(old), Value::Array(new)) if old.len() == new.len() => {
            for (number, (old, new)) in old.iter().zip(new).enumerate() {
                differences(&format!("{path}[{number}]"), old, new, lines);
            }
        }
        _ => match (fields(before), fields(after)) {
            (Some(old), Some(new)) => {
                let names: BTreeMap<&String, ()> = old.keys().chain(new.keys()).map(|name| (name, ())).collect();
                for name in names.into_keys() {
                    let value = |fields: &Map<String, Value>| fields.get(name).cloned().unwrap_or_default();
                    differences(&below(path, name), &value(&old), &value(&new), lines);
                }
            }
            _ => lines.push(difference(path, before, after)),
        },
    }
}

/// Path of a field, with the words that people have for it.
fn below(path: &str, name: &str) -> String {
    match path {
        "" => name.to_owned(),
        "metadata.annotations" => format!("annotation {name}"),
        "metadata.labels" => format!("label {name}"),
        _ if name.contains(['.', '/']) => format!("{path}[{name}]"),
        _ => format!("{path}.{name}"),
    }
}

fn difference(path: &str, before: &Value, after: &Value) -> String {
    if path == format!("annotation {TEMPLATE_HASH}") {
        return format!("{path}: {}", if before.is_null() { "added" } else { "another" });
    }
    match (before, after) {
        // What was recorded before stands above.
        (_, Value::String(after)) if path == format!("annotation {WORKER_ORDINALS}") => format!("{path}: {after}"),
        (Value::Null, after) => format!("{path}: {}", plain(after)),
        (before, Value::Null) => format!("{path}: {} is removed", plain(before)),
        (before, after) => format!("{path}: {} → {}", plain(before), plain(after)),
    }
}

fn owners(references: &Value) -> String {
    let owners = references.as_array().into_iter().flatten().map(|owner| {
        let text = |field: &str| owner[field].as_str().unwrap_or_default().to_owned();
        format!("{} {}", text("kind"), text("name"))
    });
    owners.collect::<Vec<_>>().join(", ")
}

fn plain(value: &Value) -> String {
    match value {
        Value::String(text) => short(text),
        other => short(&other.to_string()),
    }
}

/// Cut where it is too long to be read.
pub(crate) fn short(text: &str) -> String {
    match text.char_indices().nth(SHOWN) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}

/// A status as short texts, by what they are about.
pub(crate) fn status(object: &Value) -> BTreeMap<String, String> {
    let mut told = BTreeMap::new();
    for (name, value) in object["status"].as_object().into_iter().flatten() {
        if name == "conditions" {
            for condition in value.as_array().into_iter().flatten() {
                let text = |field: &str| condition[field].as_str().unwrap_or_default();
                told.insert(text("type").to_owned(), format!("{} {}", text("status"), text("reason")));
            }
        } else if !SILENT.contains(&name.as_str()) {
            told.insert(name.clone(), plain(value));
        }
    }
    told
}

/// What of a status has changed, on one line; none: nothing has.
pub(crate) fn status_changes(before: &BTreeMap<String, String>, after: &BTreeMap<String, String>) -> Option<String> {
    let is_condition = |name: &&String| name.starts_with(|first: char| first.is_ascii_uppercase());
    // That nothing is outdated of what is new goes without saying.
    let is_news = |name: &str, value: &str| {
        before.get(name).map(String::as_str) != Some(value) && !is_first_zero(before, name, value)
    };
    let changed = after.iter().filter(|(name, value)| is_news(name, value));
    let gone = before.keys().filter(|name| !after.contains_key(*name)).map(|name| (name, None));
    let mut changed: Vec<_> = changed.map(|(name, value)| (name, Some(value))).chain(gone).collect();
    // The phase first, then numbers, then conditions.
    changed.sort_by_key(|(name, _)| (is_condition(name), *name != "phase" && *name != "jobStatus", (*name).clone()));
    let told = changed.into_iter().map(|(name, value)| match value {
        Some(value) => format!("{name}={value}"),
        None => format!("no {name}"),
    });
    Some(told.collect::<Vec<_>>().join(", ")).filter(|told| !told.is_empty())
}

fn is_first_zero(before: &BTreeMap<String, String>, name: &str, value: &str) -> bool {
    name == "outdatedReplicas" && value == "0" && !before.contains_key(name)
}

/// Lines of a step: the time of what happened later than its beginning, and once only what is repeated.
pub(crate) fn lines(begin: u64, happened: Vec<(u64, String)>) -> Vec<String> {
    // What happened, with its details; when, and how often again later.
    let mut told: Vec<(u64, String, usize)> = Vec::new();
    for (at, line) in happened {
        if line.starts_with(' ')
            && let Some((_, block, _)) = told.last_mut()
        {
            block.extend(["\n", &line]);
            continue;
        }
        let (is_question, is_failure) = (is_said_to_scheduler(&line), line.starts_with("failed: "));
        let is_again = |first: u64| is_failure || is_question && first < at;
        match told.iter_mut().find(|(first, block, _)| *block == line && is_again(*first)) {
            Some((first, _, again)) => *again += usize::from(*first < at),
            None => told.push((at, line, 0)),
        }
    }
    let mut lines = Vec::new();
    let mut last = begin;
    for (at, block, again) in told {
        let seconds = |at: u64| (at - begin) / 1_000;
        if seconds(at) != seconds(last) {
            lines.push(format!("after {}:", span(seconds(at))));
            last = at;
        }
        lines.extend(block.lines().map(str::to_owned));
        if let (1.., Some(line)) = (again, lines.last_mut()) {
            *line += if block.starts_with("failed: ") { " (again and again)" } else { "" };
            if is_said_to_scheduler(&block) {
                *line += &format!(" ({} times)", again + 1);
            }
        }
    }
    lines
}

fn is_said_to_scheduler(line: &str) -> bool {
    ["query ", "retire "].iter().any(|begin| line.starts_with(begin))
}

/// `90 s` as people say it.
fn span(seconds: u64) -> String {
    match seconds {
        hours if hours >= 3_600 && hours % 3_600 == 0 => format!("{} h", hours / 3_600),
        minutes if minutes >= 120 && minutes % 60 == 0 => format!("{} min", minutes / 60),
        seconds => format!("{seconds} s"),
    }
}
