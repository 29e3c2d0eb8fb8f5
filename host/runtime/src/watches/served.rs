//! Watches that are the same in every namespace that is served.
//!
//! The operator and its plugins say which kinds they need ([`ServedWatches::start`]); the follower of namespaces says where
//! ([`ServedWatches::serve`]). Where all namespaces are served, each kind has one watch; else one in each of them, and no
//! request is made that spans namespaces.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use dask_wasm_operator_cluster::watch::{WatchHandle, WatchKey, WatchKeyError, WatchProblem, WatchStatus, Watches};
use dask_wasm_operator_core::object::{Part, Resource};

/// What is to be watched wherever Dask objects are served.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Interest {
    /// The kind.
    pub(crate) resource: Resource,
    /// A label selector in text form; none: all.
    pub(crate) labels: Option<String>,
    /// What is needed of the objects.
    pub(crate) part: Part,
}

/// On whose behalf something is watched.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Party {
    /// The operator. Nothing is done in a namespace before it knows these objects.
    Operator,
    /// A plugin. What its watches can't have must not keep a namespace from being served.
    Plugin,
}

/// See the module.
#[derive(Clone)]
pub(crate) struct ServedWatches {
    shared: Arc<Shared>,
}

struct Shared {
    watches: Watches,
    state: Mutex<State>,
}

struct State {
    /// None: all, by one watch of each kind.
    namespaces: Option<BTreeSet<String>>,
    groups: BTreeMap<u64, Group>,
    next: u64,
}

/// The watches of one interest.
struct Group {
    interest: Interest,
    party: Party,
    watches: BTreeMap<Option<String>, WatchHandle>,
}

/// Keeps the watches of one interest going until it is dropped.
pub(crate) struct ServedWatch {
    id: u64,
    shared: Arc<Shared>,
}

impl ServedWatches {
    /// With these namespaces at first; none: all.
    pub(crate) fn new(watches: Watches, namespaces: Option<BTreeSet<String>>) -> Self {
        let state = Mutex::new(State { namespaces, groups: BTreeMap::new(), next: 0 });
        Self { shared: Arc::new(Shared { watches, state }) }
    }

    /// Watches a kind wherever Dask objects are served, now and later. One without namespaces is watched as a whole.
    ///
    /// # Errors
    /// When a name or the selector in it can't be used.
    pub(crate) fn start(&self, interest: Interest, party: Party) -> Result<ServedWatch, WatchKeyError> {
        let mut state = self.shared.state();
        let mut group = Group { interest, party, watches: BTreeMap::new() };
        group.watch(&self.shared.watches, state.namespaces.as_ref())?;
        state.next += 1;
        let id = state.next;
        state.groups.insert(id, group);
        Ok(ServedWatch { id, shared: Arc::clone(&self.shared) })
    }

    /// Watches in exactly these namespaces from now on.
    ///
    /// # Errors
    /// When a name can't be used.
    pub(crate) fn serve(&self, namespaces: &BTreeSet<String>) -> Result<(), WatchKeyError> {
        let mut state = self.shared.state();
        if state.namespaces.as_ref() == Some(namespaces) {
            return Ok(());
        }
        for group in state.groups.values_mut() {
            group.watch(&self.shared.watches, Some(namespaces))?;
        }
        state.namespaces = Some(namespaces.clone());
        Ok(())
    }

    /// The namespaces whose objects are known: those that the operator needs, and those of plugins that can be.
    pub(crate) fn known(&self) -> BTreeSet<String> {
        let state = self.shared.state();
        let is_known = |namespace: &String| {
            state.groups.values().all(|group| {
                let status = group.watches.get(&Some(namespace.clone())).map(WatchHandle::status);
                status.is_none_or(|status| match group.party {
                    Party::Operator => status.is_synced,
                    Party::Plugin => status.is_settled(),
                })
            })
        };
        state.namespaces.iter().flatten().filter(|namespace| is_known(namespace)).cloned().collect()
    }

    /// Whether a watch is one of the operator's own.
    pub(crate) fn is_own(&self, key: &WatchKey) -> bool {
        let state = self.shared.state();
        let mut own = state.groups.values().filter(|group| group.party == Party::Operator);
        own.any(|group| group.watches.get(&key.namespace).is_some_and(|watch| watch.key() == key))
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// Whether the operator could list all that it needs in a namespace.
    fn is_accessible(&self, namespace: Option<&String>) -> bool {
        let mut own = self.groups.values().filter(|group| group.party == Party::Operator);
        own.all(|group| group.watches.get(&namespace.cloned()).is_none_or(|watch| watch.status().is_synced))
    }

    /// The watches of a group in namespaces that can be served.
    fn accessible(&self, id: u64) -> impl Iterator<Item = (&WatchKey, WatchStatus)> {
        let watches = self.groups.get(&id).into_iter().flat_map(|group| &group.watches);
        let accessible = watches.filter(|(namespace, _)| namespace.is_none() || self.is_accessible(namespace.as_ref()));
        accessible.map(|(_, watch)| (watch.key(), watch.status()))
    }
}

impl Group {
    /// Starts what is missing before it ends what is not wanted any more.
    fn watch(&mut self, watches: &Watches, namespaces: Option<&BTreeSet<String>>) -> Result<(), WatchKeyError> {
        let Interest { resource, labels, part } = &self.interest;
        let wanted: BTreeSet<Option<String>> = match namespaces.filter(|_| resource.namespaced) {
            None => BTreeSet::from([None]),
            Some(namespaces) => namespaces.iter().cloned().map(Some).collect(),
        };
        for namespace in &wanted {
            if !self.watches.contains_key(namespace) {
                let key = WatchKey { resource: resource.clone(), namespace: namespace.clone(), labels: labels.clone() };
                self.watches.insert(namespace.clone(), watches.start_for(&key, part)?);
            }
        }
        self.watches.retain(|namespace, _| wanted.contains(namespace));
        Ok(())
    }
}

impl ServedWatch {
    /// Waits until everything that it covers has been listed once, in the namespaces that can be served.
    pub(crate) fn when_synced(&self) -> impl Future<Output = ()> + Send + use<> {
        self.when(|status| status.is_synced)
    }

    /// As [`Self::when_synced`], but for what can't be listed for a reason that is its own.
    pub(crate) fn when_settled(&self) -> impl Future<Output = ()> + Send + use<> {
        self.when(WatchStatus::is_settled)
    }

    fn when(&self, is_so: fn(&WatchStatus) -> bool) -> impl Future<Output = ()> + Send + use<> {
        let (id, shared) = (self.id, Arc::clone(&self.shared));
        let mut changes = shared.watches.changes();
        async move {
            while !shared.state().accessible(id).all(|(_, status)| is_so(&status)) {
                if changes.changed().await.is_err() {
                    return;
                }
            }
        }
    }

    /// A watch that gets no news at the moment, and why.
    pub(crate) fn problem(&self) -> Option<(WatchKey, WatchProblem)> {
        let state = self.shared.state();
        state.accessible(self.id).find_map(|(key, status)| Some((key.clone(), status.problem?)))
    }
}

impl Drop for ServedWatch {
    fn drop(&mut self) {
        let group = self.shared.state().groups.remove(&self.id);
        drop(group);
    }
}
