//! A cluster in memory whose pods become ready when a test says so, and in which a process can be killed at any write.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, MutexGuard},
};

use dask_wasm_operator_core::{
    action::{Action, WriteError, Written},
    dask::cluster_in_memory,
    memory::{MemoryCluster, built_in_resources},
    object::{GroupVersionKind, NamespacedName, Object, ObjectKey, Resource},
    ports::{Observed, Pending, Writes},
    schema::KnownFields,
    time::rfc3339,
};
use serde_json::json;

/// When the process that writes is killed.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Kill {
    /// At which write from now on, the first is 0.
    pub(crate) at: usize,
    /// Whether that write still reaches the API server; its answer does not come back.
    pub(crate) written: bool,
}

pub(crate) struct Kubernetes {
    pub(crate) cluster: Arc<MemoryCluster>,
    state: Mutex<State>,
}

type Verdict = Box<dyn Fn(&ObjectKey) -> WriteError + Send>;

#[derive(Default)]
struct State {
    now: u64,
    /// By uid, when each Deployment was made.
    created: BTreeMap<String, u64>,
    /// Uids of Deployments whose pod is ready, and since when, and of those whose pod was.
    ready: BTreeMap<String, u64>,
    started: BTreeSet<String>,
    /// New Deployments don't have a ready pod.
    starts_slowly: bool,
    kill: Option<Kill>,
    /// Uids of what was deleted.
    deleted: Vec<String>,
    /// What the API server says to applies of objects of a kind, or of this name.
    verdict: Option<(String, Verdict)>,
    /// A kind that is not served.
    unserved: Option<&'static str>,
    /// No pods can be made, for what these words say.
    without_pods: Option<String>,
    known_fields: Arc<KnownFields>,
}

impl Kubernetes {
    pub(crate) fn new(now: u64) -> Self {
        let state = State { now, ..State::default() };
        let cluster = cluster_in_memory(built_in_resources(), &rfc3339(now));
        Self { cluster: Arc::new(cluster), state: Mutex::new(state) }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    pub(crate) fn set_now(&self, now: u64) {
        self.state().now = now;
    }

    pub(crate) fn start_slowly(&self) {
        self.state().starts_slowly = true;
    }

    pub(crate) fn set_ready(&self, deployment: &Object, ready: bool) {
        let (mut state, uid) = (self.state(), deployment.metadata.uid.clone());
        if ready {
            state.started.insert(uid.clone());
            let now = state.now;
            state.ready.entry(uid).or_insert(now);
        } else {
            state.ready.remove(&uid);
        }
    }

    pub(crate) fn is_ready(&self, deployment: &Object) -> bool {
        self.state().ready.contains_key(&deployment.metadata.uid)
    }

    pub(crate) fn kill(&self, kill: Option<Kill>) {
        self.state().kill = kill;
    }

    /// Applies of objects of this kind or name are refused with these words.
    pub(crate) fn refuse(&self, what: &str, words: &str) {
        let (fields, words) = (fields_of(words), words.to_owned());
        self.fail(what, move |object| WriteError::Refused {
            object: object.clone(),
            code: 422,
            reason: "Invalid".to_owned(),
            message: words.clone(),
            fields: fields.clone(),
        });
    }

    /// Applies of objects of this kind or name fail in this way.
    pub(crate) fn fail(&self, what: &str, error: impl Fn(&ObjectKey) -> WriteError + Send + 'static) {
        self.state().verdict = Some((what.to_owned(), Box::new(error)));
    }

    /// Whether the kind of this name is served.
    pub(crate) fn unserved(&self, kind: Option<&'static str>) {
        self.state().unserved = kind;
    }

    /// The Deployments' controller can't make pods, for what these words say; none: it can.
    pub(crate) fn without_pods(&self, words: Option<&str>) {
        self.state().without_pods = words.map(str::to_owned);
    }

    /// The API server says that it knows these fields.
    pub(crate) fn know(&self, fields: KnownFields) {
        self.state().known_fields = Arc::new(fields);
    }

    pub(crate) fn accept(&self) {
        self.state().verdict = None;
    }

    /// Whether a pod was ready until its Deployment was deleted.
    pub(crate) fn was_ready_when_deleted(&self, uid: &str) -> bool {
        self.state().ready.contains_key(uid)
    }

    pub(crate) fn take_deleted(&self) -> Vec<String> {
        std::mem::take(&mut self.state().deleted)
    }

    /// As its controllers let it be seen.
    pub(crate) fn seen(&self, object: &Arc<Object>) -> Arc<Object> {
        if object.kind.kind != "Deployment" {
            return Arc::clone(object);
        }
        let state = self.state();
        let uid = &object.metadata.uid;
        let ready = u32::from(state.ready.contains_key(uid));
        let available = state
            .ready
            .get(uid)
            .map(|since| json!({"type": "Available", "status": "True", "lastTransitionTime": rfc3339(*since)}));
        let reason = if state.started.contains(uid) { "NewReplicaSetAvailable" } else { "ReplicaSetUpdated" };
        let progressing = json!({"type": "Progressing", "status": "True", "reason": reason});
        let mut status = json!({
            "observedGeneration": object.metadata.generation,
            "replicas": 1, "readyReplicas": ready, "availableReplicas": ready,
            "conditions": available.into_iter().chain([progressing]).collect::<Vec<_>>(),
        });
        if let Some(words) = state.without_pods.as_ref().filter(|_| ready == 0) {
            status["replicas"] = json!(0);
            let failure =
                json!({"type": "ReplicaFailure", "status": "True", "reason": "FailedCreate", "message": words});
            status["conditions"] = json!([status["conditions"][0], failure]);
        }
        let mut object = Object::clone(object);
        let status = ("status".to_owned(), serde_json::value::to_raw_value(&status).unwrap());
        let fields = object.fields.iter().map(|(name, raw)| (name.to_owned(), raw.to_owned()));
        object.fields = fields.chain([status]).collect();
        object.metadata.creation_timestamp = state.created.get(uid).map(|created| rfc3339(*created));
        Arc::new(object)
    }

    fn perform(&self, action: Action) -> Result<Written, WriteError> {
        let pending = self.cluster.write(action);
        let written = super::world::now(pending)?;
        if let Written::Applied(object) = &written
            && object.kind.kind == "Deployment"
        {
            let mut state = self.state();
            let (uid, now, slowly) = (object.metadata.uid.clone(), state.now, state.starts_slowly);
            let is_new = !state.created.contains_key(&uid);
            state.created.entry(uid.clone()).or_insert(now);
            if is_new && !slowly {
                state.started.insert(uid.clone());
                state.ready.insert(uid, now);
            }
        }
        Ok(written)
    }
}

impl Observed for Kubernetes {
    fn get(&self, kind: &GroupVersionKind, at: &NamespacedName) -> Option<Arc<Object>> {
        self.cluster.get(kind, at).map(|object| self.seen(&object))
    }

    fn controlled_by(&self, kind: &GroupVersionKind, uid: &str) -> Vec<Arc<Object>> {
        self.cluster.controlled_by(kind, uid).iter().map(|object| self.seen(object)).collect()
    }

    fn departed(&self, kind: &GroupVersionKind, uid: &str) -> Vec<Arc<Object>> {
        self.cluster.departed(kind, uid)
    }

    fn resource(&self, kind: &GroupVersionKind) -> Option<Resource> {
        self.cluster.resource(kind).filter(|resource| self.state().unserved != Some(resource.kind.kind.as_str()))
    }

    fn has_status(&self, kind: &GroupVersionKind) -> bool {
        self.cluster.has_status(kind)
    }

    fn known_fields(&self) -> Arc<KnownFields> {
        Arc::clone(&self.state().known_fields)
    }
}

/// The fields that the API server lists beside its words.
fn fields_of(words: &str) -> Vec<String> {
    let (_, rest) = words.split_once(" is invalid: ").unwrap_or_default();
    rest.split_once(": ").map(|(field, _)| field.to_owned()).into_iter().collect()
}

impl Writes for Kubernetes {
    fn write(&self, action: Action) -> Pending<'_, Result<Written, WriteError>> {
        let mut state = self.state();
        let object = action.object().clone();
        let lost = WriteError::Unavailable { object: object.clone(), verb: "write", message: "killed".to_owned() };
        let is_apply = matches!(action, Action::Apply(_));
        let is_meant = |what: &str| is_apply && (what == object.kind.kind || what == object.at.name);
        let refused = state.verdict.as_ref().filter(|(what, _)| is_meant(what)).map(|(_, error)| error(&object));
        if let Some(refused) = refused {
            return Box::pin(std::future::ready(Err(refused)));
        }
        let is_killed = match &mut state.kill {
            None => None,
            Some(Kill { at: 0, written }) => Some(std::mem::take(written)),
            Some(kill) => {
                kill.at -= 1;
                None
            }
        };
        if let (Action::Delete { uid, .. }, true) = (&action, is_killed != Some(false)) {
            state.deleted.push(uid.clone());
        }
        drop(state);
        let result = match is_killed {
            None => self.perform(action),
            Some(true) => self.perform(action).and(Err(lost)),
            Some(false) => Err(lost),
        };
        Box::pin(std::future::ready(result))
    }
}
