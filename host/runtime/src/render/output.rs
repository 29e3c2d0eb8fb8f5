//! Prints the objects of a cluster in memory, each with its author.

use std::{collections::BTreeSet, sync::Arc};

use dask_wasm_operator_core::{memory::MemoryCluster, object::Object};
use serde_json::{Value, json};

use crate::settings::RenderOutput;

/// Who is named for what a person gave.
const GIVEN: &str = "given";

pub(super) fn write(cluster: &MemoryCluster, output: RenderOutput) -> anyhow::Result<String> {
    let objects = cluster.objects();
    match output {
        RenderOutput::Tree => Ok(tree(cluster, &objects)),
        RenderOutput::Json => {
            let items: Vec<_> = objects
                .iter()
                .map(|object| json!({"author": author(cluster, object), "object": plain(object)}))
                .collect();
            Ok(format!("{}\n", serde_json::to_string_pretty(&items)?))
        }
        RenderOutput::Yaml => {
            let mut text = String::new();
            for object in &objects {
                let manifest = serde_saphyr::to_string(&plain(object))?;
                text.push_str(&format!("---\n# {}\n{manifest}", author(cluster, object)));
            }
            Ok(text)
        }
    }
}

/// What would be in a manifest: without what the cluster in memory made up.
fn plain(object: &Object) -> Value {
    let mut value = object.to_value();
    if let Some(metadata) = value["metadata"].as_object_mut() {
        for field in ["resourceVersion", "generation", "creationTimestamp"] {
            metadata.remove(field);
        }
    }
    if object.kind.group != "kubernetes.dask.org" {
        value.as_object_mut().map(|fields| fields.remove("status"));
    }
    value
}

/// `dask (cluster)`, `plugin istio (dashboard)`, or that it was given.
pub(super) fn author(cluster: &MemoryCluster, object: &Object) -> String {
    let authors = cluster.authors(&object.key());
    let made = authors.first().filter(|_| !cluster.was_given(&object.key()));
    made.map_or_else(|| GIVEN.to_owned(), |manager| in_words(manager))
}

fn in_words(manager: &str) -> String {
    match manager.split('/').collect::<Vec<_>>().as_slice() {
        ["dask-operator", reconciler] => format!("dask ({reconciler})"),
        ["dask-plugin", plugin, handler] => format!("plugin {plugin} ({handler})"),
        _ => manager.to_owned(),
    }
}

fn tree(cluster: &MemoryCluster, objects: &[Arc<Object>]) -> String {
    let uids: BTreeSet<_> = objects.iter().map(|object| object.metadata.uid.as_str()).collect();
    let owned = |object: &Object| object.metadata.controller().is_some_and(|owner| uids.contains(owner.uid.as_str()));
    let mut text = String::new();
    for root in objects.iter().filter(|object| !owned(object)) {
        branch(cluster, objects, root, "", "", &mut text);
    }
    text
}

fn branch(
    cluster: &MemoryCluster,
    objects: &[Arc<Object>],
    object: &Object,
    lead: &str,
    below: &str,
    text: &mut String,
) {
    let phase = object.field::<Value>("status").and_then(Result::ok).and_then(|status| status.get("phase").cloned());
    let state = phase.as_ref().and_then(Value::as_str).map(|phase| format!("  {phase}")).unwrap_or_default();
    text.push_str(&format!("{lead}{} {}  [{}]{state}\n", object.kind, object.at(), author(cluster, object)));
    let children: Vec<_> = objects.iter().filter(|child| child.is_controlled_by(&object.metadata.uid)).collect();
    for (index, child) in children.iter().enumerate() {
        let last = index + 1 == children.len();
        let (branch_lead, deeper) = if last { ("└─ ", "   ") } else { ("├─ ", "│  ") };
        branch(cluster, objects, child, &format!("{below}{branch_lead}"), &format!("{below}{deeper}"), text);
    }
}
