//! The tree of what came into being: each object, its author, its state.

use std::{
    fmt::Write as _,
    io::{self, IsTerminal as _, Write as _},
};

use anyhow::Context as _;
use dask_wasm_operator_core::object::{Object, WireObject};
use kube::{
    Client, ResourceExt,
    api::{Api, ApiResource, DynamicObject, ListParams},
};
use serde_json::Value;

/// What is shown: group, version, kind, plural, and whether it is the operator's namespace that it is in.
const KINDS: [(&str, &str, &str, &str, bool); 6] = [
    ("kubernetes.dask.org", "v1", "DaskCluster", "daskclusters", false),
    ("kubernetes.dask.org", "v1", "DaskWorkerGroup", "daskworkergroups", false),
    ("apps", "v1", "Deployment", "deployments", false),
    ("", "v1", "Service", "services", false),
    ("networking.istio.io", "v1", "VirtualService", "virtualservices", false),
    ("plugins.dask.org", "v1alpha1", "DaskPlugin", "daskplugins", true),
];

/// How many objects of each kind there are at the end.
const WANTED: [(&str, usize); 6] = [
    ("DaskCluster", 1),
    ("DaskWorkerGroup", 1),
    ("Deployment", 4),
    ("Service", 1),
    ("VirtualService", 1),
    ("DaskPlugin", 1),
];

/// Objects, as they are now.
pub(super) struct Forest(Vec<Object>);

/// Asks the API server.
pub(super) async fn observe(client: &Client, namespace: &str, operator_namespace: &str) -> anyhow::Result<Forest> {
    let mut objects = Vec::new();
    for (group, version, kind, plural, is_operators) in KINDS {
        let kind = kube::core::GroupVersionKind::gvk(group, version, kind);
        let resource = ApiResource::from_gvk_with_plural(&kind, plural);
        let at = if is_operators { operator_namespace } else { namespace };
        let api: Api<DynamicObject> = Api::namespaced_with(client.clone(), at, &resource);
        let list = api.list(&ListParams::default()).await.with_context(|| format!("listing {plural}"))?;
        for object in list.items.into_iter().filter(|object| object.name_any() != "kubernetes") {
            let wire = WireObject::read(&serde_json::to_string(&object)?).context("reading an object")?;
            let kind = dask_wasm_operator_core::object::GroupVersionKind::new(group, version, &kind.kind);
            objects.push(Object::new(kind.into(), wire));
        }
    }
    Ok(Forest(objects))
}

impl Forest {
    /// What is not yet as it should be.
    pub(super) fn missing(&self) -> Vec<String> {
        let mut missing = Vec::new();
        for (kind, wanted) in WANTED {
            let found = self.0.iter().filter(|object| object.kind.kind == kind).count();
            if found != wanted {
                missing.push(format!("{wanted} {kind} ({found} found)"));
            }
        }
        for (kind, state) in [("DaskCluster", "Running"), ("DaskPlugin", "Ready")] {
            let there = self.0.iter().any(|object| object.kind.kind == kind && self::state(object).starts_with(state));
            if !there {
                missing.push(format!("{kind} {state}"));
            }
        }
        missing
    }

    fn lines(&self) -> Vec<String> {
        let owned = |object: &Object| {
            object.metadata.controller().is_some_and(|owner| self.0.iter().any(|other| other.metadata.uid == owner.uid))
        };
        let mut lines = Vec::new();
        for root in self.0.iter().filter(|object| !owned(object)) {
            self.branch(root, "", "", &mut lines);
        }
        lines
    }

    fn branch(&self, object: &Object, lead: &str, below: &str, lines: &mut Vec<String>) {
        let name = format!("{lead}{} {}", object.kind.kind, object.metadata.name);
        lines.push(format!("{name:<58}{:<38}{}", author(object), state(object)));
        let children: Vec<_> = self.0.iter().filter(|child| child.is_controlled_by(&object.metadata.uid)).collect();
        for (index, child) in children.iter().enumerate() {
            let last = index + 1 == children.len();
            let (lead, deeper) = if last { ("└─ ", "   ") } else { ("├─ ", "│  ") };
            self.branch(child, &format!("{below}{lead}"), &format!("{below}{deeper}"), lines);
        }
    }
}

/// Who made it: the field manager of its first apply.
fn author(object: &Object) -> String {
    let applied = object.managed_fields.iter().find(|entry| entry.operation == "Apply" && entry.subresource.is_empty());
    match applied.map(|entry| entry.manager.split('/').collect::<Vec<_>>()).as_deref() {
        Some(["dask-operator", reconciler]) => format!("dask ({reconciler})"),
        Some(["dask-plugin", plugin, _]) => format!("plugin {plugin}"),
        _ => "you".to_owned(),
    }
}

/// What its status says, in a few words.
fn state(object: &Object) -> String {
    let status = object.field::<Value>("status").and_then(Result::ok).unwrap_or_default();
    let number = |field: &str| status.get(field).and_then(Value::as_u64).unwrap_or(0);
    let text = |field: &str| status.get(field).and_then(Value::as_str).unwrap_or("…").to_owned();
    match object.kind.kind.as_str() {
        "DaskCluster" => format!("{}, {} workers", text("phase"), number("replicas")),
        "DaskWorkerGroup" => format!("{} workers, {} ready", number("replicas"), number("readyReplicas")),
        "Deployment" => format!("{}/{} ready", number("readyReplicas"), number("replicas")),
        "DaskPlugin" => text("state"),
        _ => "created".to_owned(),
    }
}

/// Draws a forest over the one before if a person is watching; else each line once, when all is done.
#[derive(Default)]
pub(super) struct Drawing {
    height: usize,
    last: Vec<String>,
}

impl Drawing {
    pub(super) fn draw(&mut self, forest: &Forest, is_final: bool) -> anyhow::Result<()> {
        let lines = forest.lines();
        let live = io::stdout().is_terminal();
        let is_due = if live { lines != self.last } else { is_final };
        if !is_due {
            return Ok(());
        }
        let mut text = String::new();
        if live && self.height > 0 {
            // Cursor up by the height of the last drawing, then erase to the end of the screen.
            let _ = write!(text, "\x1b[{}A\x1b[J", self.height);
        }
        lines.iter().for_each(|line| text.push_str(&format!("{line}\n")));
        let mut stdout = io::stdout().lock();
        stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()).context("drawing")?;
        self.height = lines.len();
        self.last = lines;
        Ok(())
    }
}
