//! The API server of a script: what is sent to it is written down, in order.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, MutexGuard},
};

use dask_wasm_operator_core::{
    action::{Action, Apply, ApplyTarget, Precondition, WriteError, Written},
    contract::{EventNote, EventSeverity},
    object::{GroupVersionKind, NamespacedName, Object, ObjectKey, Resource, Unreadable},
    ports::{Observed, Pending, Writes},
    schema::KnownFields,
};

use crate::{
    kubernetes::Kubernetes,
    told::changes,
    world::{self, Api, BEGIN},
};

/// See the module.
pub(crate) struct Recorder {
    pub(crate) kubernetes: Kubernetes,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    now: u64,
    /// What happened, and when.
    lines: Vec<(u64, String)>,
    /// Objects that can't be read, and where.
    unreadable: BTreeMap<ObjectKey, String>,
    /// Deletions that were asked for.
    deleted: Vec<ObjectKey>,
    /// Names of workers, in the order in which the operator made them, by their group.
    workers: BTreeMap<String, Vec<String>>,
    /// Names that a script has given.
    given: BTreeSet<String>,
}

impl Recorder {
    pub(crate) fn new() -> Self {
        Self { kubernetes: Kubernetes::new(BEGIN), state: Mutex::new(State { now: BEGIN, ..State::default() }) }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    pub(crate) fn note(&self, line: String) {
        let mut state = self.state();
        let now = state.now;
        state.lines.push((now, line));
    }

    pub(crate) fn take_lines(&self) -> Vec<(u64, String)> {
        std::mem::take(&mut self.state().lines)
    }

    /// What the operator has deleted since this was last asked.
    pub(crate) fn take_deleted(&self) -> Vec<ObjectKey> {
        std::mem::take(&mut self.state().deleted)
    }

    pub(crate) fn set_unreadable(&self, key: ObjectKey, path: Option<&str>) {
        match path {
            Some(path) => self.state().unreadable.insert(key, path.to_owned()),
            None => self.state().unreadable.remove(&key),
        };
    }

    /// The names of workers as they really are, and as scripts have them: `simple-default-worker#0`.
    pub(crate) fn workers(&self) -> Vec<(String, String)> {
        let state = self.state();
        let named = state.workers.iter().flat_map(|(group, names)| {
            names.iter().enumerate().map(move |(number, name)| (name.clone(), format!("{group}-worker#{number}")))
        });
        named.collect()
    }

    /// An object of this name comes from the script.
    pub(crate) fn keep_name(&self, name: &str) {
        self.state().given.insert(name.to_owned());
    }

    /// A Deployment is to be made: if it is that of a worker, its name gets a number.
    fn number(&self, apply: &Apply) {
        let (kind, name) = (&apply.object.kind.kind, &apply.object.at.name);
        let group = apply.body["metadata"]["labels"]["dask.org/workergroup-name"].as_str();
        let mut state = self.state();
        if let Some(group) = group.filter(|_| kind == "Deployment" && !state.given.contains(name)) {
            let names = state.workers.entry(group.to_owned()).or_default();
            if !names.contains(name) {
                names.push(name.clone());
            }
        }
    }

    fn seen(&self, object: Arc<Object>) -> Arc<Object> {
        let Some(path) = self.state().unreadable.get(&object.key()).cloned() else { return object };
        let unreadable = Some(Box::new(Unreadable::new(&path, "the object nests deeper than 100 levels here")));
        let section = path.split('.').next().unwrap_or_default();
        let readable = object.fields.iter().filter(|(name, _)| *name != section);
        let fields = readable.map(|(name, raw)| (name.to_owned(), raw.to_owned())).collect();
        Arc::new(Object { unreadable, fields, ..(*object).clone() })
    }

    fn perform(&self, action: Action) -> Result<Written, WriteError> {
        let (key, what) = (action.object().clone(), described(&action));
        if let Some(apply) = action.as_apply() {
            self.number(apply);
        }
        // What is inherited has the same values as before.
        let manager = match &action {
            Action::RemoveFinalizer { .. } => Some(String::new()),
            action => action.as_apply().map(|apply| apply.manager.clone()),
        };
        let before = self.kubernetes.cluster.get(&key.kind, &key.at);
        let is_question = matches!(action, Action::DryRun(_));
        let is_deletion = matches!(action, Action::Delete { .. });
        let is_status = matches!(action, Action::Apply(Apply { target: ApplyTarget::Status, .. }));
        let result = world::now(self.kubernetes.write(action));
        if let (Err(error), false) = (&result, is_question) {
            self.note(format!("failed: {what}: {}", error.kind()));
        } else if !is_question && !is_status {
            self.note(what);
            let after = self.kubernetes.cluster.get(&key.kind, &key.at);
            if let (Some(before), Some(after), Some(manager)) = (&before, &after, &manager) {
                changes(manager, before, after).into_iter().for_each(|line| self.note(line));
            }
        } else if key.kind.kind == "DaskJob" {
            // Other statuses are told at the end of a step. For this one something waits.
            self.note(what);
        }
        if is_deletion && result.is_ok() {
            self.state().deleted.push(key);
        }
        result
    }
}

/// A write, in words.
fn described(action: &Action) -> String {
    let object = short_name(action.object());
    match action {
        Action::Apply(Apply { target: ApplyTarget::Status, .. }) => format!("write the status of {object}"),
        Action::Apply(Apply { precondition: Precondition::Absent, manager, .. }) => {
            format!("create {object} ({manager})")
        }
        Action::Apply(Apply { manager, .. }) => format!("apply {object} ({manager})"),
        Action::DryRun(_) => format!("ask what an apply would make of {object}"),
        Action::Delete { .. } => format!("delete {object}"),
        Action::RemoveFinalizer { .. } => format!("remove a finalizer of {object}"),
        Action::Inherit { manager, .. } => format!("inherit {object} ({manager})"),
        Action::Displace { apply: Apply { manager, .. }, parts } => {
            let parts: Vec<_> = parts.iter().map(|path| path.join(" ")).collect();
            format!("apply {object} ({manager}) in the place of {}", parts.join(", "))
        }
    }
}

/// `Deployment simple-scheduler`.
pub(crate) fn short_name(key: &ObjectKey) -> String {
    format!("{} {}", key.kind.kind, key.at.name)
}

impl Api for Recorder {
    fn set_now(&self, now: u64) {
        self.state().now = now;
        self.kubernetes.set_now(now);
    }

    fn post(&self, subject: &ObjectKey, event: &EventNote) {
        let severity = match event.severity {
            EventSeverity::Normal => "Normal",
            EventSeverity::Warning => "Warning",
        };
        self.note(format!("event {severity} {} on {}:", event.reason, short_name(subject)));
        self.note(format!("    {}", event.message));
    }
}

impl Observed for Recorder {
    fn get(&self, kind: &GroupVersionKind, at: &NamespacedName) -> Option<Arc<Object>> {
        self.kubernetes.get(kind, at).map(|object| self.seen(object))
    }

    fn controlled_by(&self, kind: &GroupVersionKind, uid: &str) -> Vec<Arc<Object>> {
        self.kubernetes.controlled_by(kind, uid).into_iter().map(|object| self.seen(object)).collect()
    }

    fn departed(&self, kind: &GroupVersionKind, uid: &str) -> Vec<Arc<Object>> {
        self.kubernetes.departed(kind, uid)
    }

    fn resource(&self, kind: &GroupVersionKind) -> Option<Resource> {
        self.kubernetes.resource(kind)
    }

    fn has_status(&self, kind: &GroupVersionKind) -> bool {
        self.kubernetes.has_status(kind)
    }

    fn known_fields(&self) -> Arc<KnownFields> {
        self.kubernetes.known_fields()
    }
}

impl Writes for Recorder {
    fn write(&self, action: Action) -> Pending<'_, Result<Written, WriteError>> {
        Box::pin(std::future::ready(self.perform(action)))
    }
}
