//! The operator: handlers, what they remember, and an index that the watches keep.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
};

use dask_wasm_operator_cluster::index::Index;
use dask_wasm_operator_core::{
    action::{Action, Apply, ApplyTarget, Precondition, WriteError, Written},
    dask::{Environment, Handler, Pipeline, Reconciler},
    native::Native as _,
    object::{GroupVersionKind, NamespacedName, Object, ObjectKey, Resource},
    ownership::is_of_author,
    pipeline::SubjectState,
    ports::{Observed, Pending, Writes},
};
use futures::FutureExt as _;

use crate::{
    at,
    handlers::{CLUSTERS, Plugin, cluster_key, native},
    key,
    server::{Server, Watch, watches},
};

const NOW: u64 = 1_795_372_200_000;

/// A field manager, and the uid of the subject that it works for.
pub(crate) type Maker = (String, String);

pub(crate) struct Operator {
    pub(crate) plugins: [Plugin; 2],
    index: Index,
    watches: Vec<Watch>,
    states: BTreeMap<(usize, usize), SubjectState>,
    /// Who made each object.
    makers: Arc<Mutex<BTreeMap<ObjectKey, Maker>>>,
}

/// The operator's view of the world during a reconcile.
struct View<'a> {
    server: &'a Server,
    index: &'a Index,
    makers: &'a Mutex<BTreeMap<ObjectKey, Maker>>,
    /// The number of writes that are done until the process is killed, and whether the next one is done without an answer.
    end: Mutex<Option<(usize, bool)>>,
}

impl Operator {
    pub(crate) fn start(server: &Server) -> Self {
        let index = Index::new(|_| ());
        let watches = watches(server, &index);
        let plugins = [Plugin::new(0), Plugin::new(1)];
        Self { plugins, index, watches, states: BTreeMap::new(), makers: Arc::default() }
    }

    pub(crate) fn restart(&mut self, server: &Server) {
        self.index = Index::new(|_| ());
        self.watches = watches(server, &self.index);
        self.states.clear();
    }

    /// Forgets what handlers remember of subjects.
    pub(crate) fn forget_states(&mut self) {
        self.states.clear();
    }

    pub(crate) fn deliver(&mut self, server: &Server, watch: usize) {
        self.watches[watch].deliver(server, &self.index);
    }

    pub(crate) fn deliver_all(&mut self, server: &Server) {
        for watch in &mut self.watches {
            while !watch.is_up_to_date(server) {
                watch.deliver(server, &self.index);
            }
        }
    }

    /// Has a handler look at a subject. Answers how many writes were done.
    pub(crate) fn reconcile(&mut self, server: &Server, handler: usize, cluster: usize) -> usize {
        self.look(server, handler, cluster, None)
    }

    /// The same, but the process is killed at a write.
    pub(crate) fn crash(&mut self, server: &Server, handler: usize, cluster: usize, write: usize, is_done: bool) {
        self.look(server, handler, cluster, Some((write, is_done)));
    }

    fn look(&mut self, server: &Server, number: usize, cluster: usize, end: Option<(usize, bool)>) -> usize {
        let handler = match self.plugins.get(number) {
            Some(plugin) => Handler::Plugin(Arc::clone(&plugin.handler)),
            None => native(number),
        };
        let mut subject = at(cluster);
        if number == 3 {
            subject.name.push_str("-default");
        }
        let view = View { server, index: &self.index, makers: &self.makers, end: Mutex::new(end) };
        let environment = Environment::default();
        let pipeline = Pipeline::new(&view, &view, &environment);
        let state = self.states.entry((number, cluster)).or_default();
        pipeline.reconcile(&handler, &subject, state, NOW).now_or_never().unwrap().writes
    }

    /// What is wanted, by which field manager, and the uid of the cluster for which it is.
    pub(crate) fn wanted(&self, server: &Server) -> Vec<(ObjectKey, Maker)> {
        let mut wanted = Vec::new();
        for (number, name) in CLUSTERS.into_iter().enumerate() {
            let Some(cluster) = server.get(&cluster_key(number)) else { continue };
            let native = [
                key("", "v1", "Service", &format!("{name}-scheduler")),
                key("apps", "v1", "Deployment", &format!("{name}-scheduler")),
            ];
            let native = native.map(|key| (key, Reconciler::Cluster.field_manager()));
            let of_plugin = |plugin: &Plugin| {
                let manager = plugin.handler.name.field_manager();
                plugin.wanted().into_iter().map(move |key| (key, manager.clone()))
            };
            let plugins = self.plugins.iter().flat_map(of_plugin);
            wanted.extend(plugins.chain(native).map(|(key, manager)| (key, (manager, cluster.metadata.uid.clone()))));
        }
        wanted
    }

    /// Whether an object was made by another handler or for another subject.
    pub(crate) fn has_other_maker(&self, key: &ObjectKey, maker: &Maker) -> bool {
        self.makers.lock().unwrap().get(key).is_some_and(|of| of != maker)
    }
}

impl Observed for View<'_> {
    fn get(&self, kind: &GroupVersionKind, at: &NamespacedName) -> Option<Arc<Object>> {
        self.index.get(kind, at)
    }

    fn controlled_by(&self, kind: &GroupVersionKind, uid: &str) -> Vec<Arc<Object>> {
        self.index.controlled_by(kind, uid)
    }

    fn departed(&self, kind: &GroupVersionKind, uid: &str) -> Vec<Arc<Object>> {
        self.index.departed(kind, uid)
    }

    fn resource(&self, kind: &GroupVersionKind) -> Option<Resource> {
        self.server.cluster.resource(kind)
    }

    fn has_status(&self, _kind: &GroupVersionKind) -> bool {
        true
    }
}

impl Writes for View<'_> {
    fn write(&self, action: Action) -> Pending<'_, Result<Written, WriteError>> {
        Box::pin(std::future::ready(self.perform(action)))
    }
}

impl View<'_> {
    /// As the applier does, with what it tells the index.
    fn perform(&self, action: Action) -> Result<Written, WriteError> {
        let is_last = match &mut *self.end.lock().unwrap() {
            Some((0, false)) => return Err(WriteError::NotLeader),
            Some((0, is_done)) => {
                *is_done = false;
                true
            }
            Some((left, _)) => {
                *left -= 1;
                false
            }
            None => false,
        };
        let key = action.object().clone();
        if let Action::Apply(apply) = &action {
            self.check_maker(apply);
        }
        let result = self.server.write(action.clone());
        if let (Action::Apply(apply), Ok(Written::Applied(_))) = (&action, &result)
            && apply.precondition == Precondition::Absent
        {
            let subject = apply.controller_uid().unwrap_or_default().to_owned();
            self.makers.lock().unwrap().insert(key.clone(), (apply.manager.clone(), subject));
        }
        if is_last {
            return Err(WriteError::NotLeader);
        }
        match (&action, &result) {
            (_, Ok(Written::Applied(object))) => self.index.wrote(object),
            (Action::Delete { uid, .. }, Ok(Written::Deleted)) => self.index.deleted(&key, uid),
            (Action::Apply(apply), Err(_)) => self.look_who_has(apply),
            _ => {}
        }
        result
    }

    fn look_who_has(&self, apply: &Apply) {
        let live = self.server.get(&apply.object);
        match (&apply.precondition, live) {
            (Precondition::Absent, Some(live)) if is_of_author(apply, &live, Reconciler::makes) => {
                self.index.found(&live, apply.controller_uid().unwrap_or_default());
            }
            (Precondition::Absent, Some(live)) => self.index.is_foreign(&apply.object, &live.metadata.uid),
            (Precondition::Absent, None) => {}
            _ => self.index.forget_departed(&apply.object),
        }
    }

    /// A child is applied to by the handler, and for the subject, that made it. A Dask reconciler takes up what a former
    /// cluster of the same name has left without owner.
    fn check_maker(&self, apply: &Apply) {
        let is_child = apply.target == ApplyTarget::Object && apply.controller_uid().is_some();
        let Precondition::Uid(uid) = &apply.precondition else { return };
        let is_there = self.server.get(&apply.object).is_some_and(|live| live.metadata.uid == *uid);
        if !is_child || !is_there {
            return;
        }
        let mut makers = self.makers.lock().unwrap();
        let subject = apply.controller_uid().unwrap_or_default();
        let is_maker = makers.get(&apply.object).is_some_and(|(manager, of)| {
            *manager == apply.manager && (of == subject || manager.starts_with("dask-operator/"))
        });
        assert!(is_maker, "{} is changed by another than its maker: {:?}", apply.object, makers.get(&apply.object));
        makers.insert(apply.object.clone(), (apply.manager.clone(), subject.to_owned()));
    }
}
