//! The objects of one kind, merged from its watches and our own writes.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    ops::Bound,
    sync::Arc,
};

use dask_wasm_operator_core::object::{GroupVersionKind, NamespacedName, Object, Part};

use super::{
    news::News,
    scope::{Scope, WatchId},
};

/// Departed objects that are remembered for one owner: as many as it may have children.
const DEPARTED_PER_OWNER: usize = 1_000;

/// Objects that are remembered as gone for a watch that lags behind. One that never gets anywhere must not fill the memory.
const GONE_REMEMBERED: usize = 4_096;

/// The objects of one kind.
pub(super) struct KindIndex {
    kind: Arc<GroupVersionKind>,
    objects: BTreeMap<Arc<NamespacedName>, Entry>,
    by_controller: HashMap<Box<str>, BTreeSet<Arc<NamespacedName>>>,
    departed: HashMap<Box<str>, BTreeMap<NamespacedName, Arc<Object>>>,
    /// Objects that are gone since a resource version that some watch has not reached yet.
    gone: HashMap<NamespacedName, u64>,
    watches: BTreeMap<WatchId, Watch>,
}

struct Entry {
    object: Arc<Object>,
    /// Its resource version; 0: it is older than whatever is told next.
    version: u64,
    /// The watches that told of it. An own write is told by none at first.
    told_by: Vec<WatchId>,
}

struct Watch {
    scope: Scope,
    part: Part,
    /// The resource version up to which it told everything; 0: it told nothing that counts.
    seen: u64,
}

impl Watch {
    /// Whether it has yet to tell of this state of an object.
    fn owes(&self, object: &Object, version: u64) -> bool {
        self.seen < version && self.scope.covers(object)
    }
}

impl KindIndex {
    pub(super) fn new(kind: Arc<GroupVersionKind>) -> Self {
        Self {
            kind,
            objects: BTreeMap::new(),
            by_controller: HashMap::new(),
            departed: HashMap::new(),
            gone: HashMap::new(),
            watches: BTreeMap::new(),
        }
    }

    pub(super) fn get(&self, at: &NamespacedName) -> Option<Arc<Object>> {
        self.objects.get(at).map(|entry| Arc::clone(&entry.object))
    }

    pub(super) fn all(&self) -> impl Iterator<Item = &Arc<Object>> {
        self.objects.values().map(|entry| &entry.object)
    }

    pub(super) fn next(&self, before: Option<&NamespacedName>) -> Option<Arc<Object>> {
        let behind = (before.map_or(Bound::Unbounded, Bound::Excluded), Bound::Unbounded);
        self.objects.range::<NamespacedName, _>(behind).next().map(|(_, entry)| Arc::clone(&entry.object))
    }

    pub(super) fn controlled_by(&self, uid: &str) -> Vec<Arc<Object>> {
        self.by_controller.get(uid).into_iter().flatten().filter_map(|at| self.get(at)).collect()
    }

    pub(super) fn departed(&self, uid: &str) -> Vec<Arc<Object>> {
        self.departed.get(uid).map(|objects| objects.values().cloned().collect()).unwrap_or_default()
    }

    pub(super) fn is_watched(&self) -> bool {
        !self.watches.is_empty()
    }

    pub(super) fn is_watched_whole(&self, namespace: Option<&str>) -> bool {
        let covers = |scope: &Scope| scope.selects_all() && scope.covers_namespace(namespace);
        self.watches.values().any(|watch| covers(&watch.scope))
    }

    pub(super) fn add_watch(&mut self, watch: WatchId, scope: Scope) {
        self.watches.insert(watch, Watch { scope, part: Part::Whole, seen: 0 });
    }

    pub(super) fn set_part(&mut self, watch: WatchId, part: Part) {
        if let Some(watch) = self.watches.get_mut(&watch) {
            watch.part = part;
        }
    }

    /// Whether there is a watch that does not ask for whole objects.
    pub(super) fn keeps_parts(&self) -> bool {
        self.watches.values().any(|watch| watch.part != Part::Whole)
    }

    /// What is needed of an object: what each watch that covers it asks for. Of others nothing is kept but an own write, whole.
    pub(super) fn part_of(&self, object: &Object) -> Part {
        let covering = self.watches.values().filter(|watch| watch.scope.covers(object));
        covering.map(|watch| watch.part.clone()).reduce(|all, part| all.and(&part)).unwrap_or(Part::Whole)
    }

    pub(super) fn remove_watch(&mut self, watch: WatchId) {
        self.watches.remove(&watch);
        for at in self.names_where(|entry| entry.told_by.contains(&watch)) {
            self.untell(&at, watch);
        }
        for at in self.names_where(|entry| !is_held(&self.watches, entry)) {
            self.take(&at);
        }
    }

    pub(super) fn relisted(&mut self, watch: WatchId, version: u64, objects: Vec<Object>, news: &mut News<'_>) {
        if self.watches.get(&watch).is_some_and(|watch| version < watch.seen) {
            self.doubt();
            news.deleted.clear();
        }
        let listed: HashSet<NamespacedName> = objects.iter().map(Object::at).collect();
        for object in objects {
            self.merge(watch, object, news);
        }
        self.set_seen(watch, version);
        let missing = self.names_where(|entry| {
            !listed.contains(&entry.object.at()) && (entry.told_by.contains(&watch) || !is_held(&self.watches, entry))
        });
        for at in missing {
            self.leave(watch, &at, version, news);
        }
        self.advanced(watch, version);
    }

    /// The server's history went back (etcd was restored from a backup): resource versions prove nothing any more. What is
    /// known stays until each watch has listed anew, but whatever is told from now on is news.
    fn doubt(&mut self) {
        self.gone.clear();
        self.watches.values_mut().for_each(|watch| watch.seen = 0);
        self.objects.values_mut().for_each(|entry| entry.version = 0);
    }

    pub(super) fn observed(&mut self, watch: WatchId, object: Object, news: &mut News<'_>) {
        let version = version_of(&object);
        self.merge(watch, object, news);
        self.set_seen(watch, version);
    }

    pub(super) fn vanished(&mut self, watch: WatchId, object: &Object, news: &mut News<'_>) {
        let (version, at) = (version_of(object), object.at());
        let seen = self.watches.get(&watch).map_or(0, |watch| watch.seen);
        // A history that is told twice says nothing of what came after: the watch has told of a later state.
        let is_old = |entry: &Entry| version != 0 && version < entry.version && entry.version <= seen;
        if !self.objects.get(&at).is_some_and(is_old) {
            self.set_seen(watch, version);
            self.leave(watch, &at, version, news);
        }
    }

    pub(super) fn advanced(&mut self, watch: WatchId, version: u64) {
        self.set_seen(watch, version);
        let slowest = self.watches.values().map(|watch| watch.seen).min().unwrap_or(u64::MAX);
        self.gone.retain(|_, since| slowest < *since);
    }

    pub(super) fn wrote(&mut self, object: &Arc<Object>, news: &mut News<'_>) {
        let version = version_of(object);
        let at = object.at();
        if news.deleted.contains(&object.metadata.uid) || self.is_gone_since(&at, version) {
            return;
        }
        let mut covering = self.watches.values().filter(|watch| watch.scope.covers(object)).peekable();
        let is_covered = covering.peek().is_some();
        // A watch that is further has told what became of it since.
        if covering.any(|watch| watch.seen >= version) {
            return;
        }
        match self.objects.get(&at) {
            Some(entry) if version <= entry.version => {}
            Some(_) => self.put(Arc::clone(object), version, news),
            None if is_covered => self.put(Arc::clone(object), version, news),
            None => {}
        }
    }

    pub(super) fn deleted(&mut self, at: &NamespacedName, uid: &str, news: &mut News<'_>) {
        self.forget_departed(at);
        if let Some(version) =
            self.objects.get(at).filter(|entry| entry.object.metadata.uid == uid).map(|entry| entry.version)
        {
            self.remove(at, news);
            self.keep_gone(at, version);
        }
    }

    /// A read showed an object of ours.
    pub(super) fn found(&mut self, object: &Arc<Object>, subject_uid: &str, news: &mut News<'_>) {
        if self.watches.values().any(|watch| watch.scope.covers(object)) {
            self.wrote(object, news);
        } else {
            self.depart(object, subject_uid);
        }
    }

    pub(super) fn depart(&mut self, object: &Arc<Object>, owner_uid: &str) {
        let departed = self.departed.entry(owner_uid.into()).or_default();
        if departed.len() < DEPARTED_PER_OWNER {
            departed.insert(object.at(), Arc::clone(object));
        }
    }

    pub(super) fn forget_departed(&mut self, at: &NamespacedName) {
        self.departed.retain(|_, objects| {
            objects.remove(at);
            !objects.is_empty()
        });
    }

    pub(super) fn owner_went(&mut self, uid: &str) {
        self.departed.remove(uid);
    }

    /// A watch told of a state of an object.
    pub(super) fn merge(&mut self, watch: WatchId, object: Object, news: &mut News<'_>) {
        let (version, at) = (version_of(&object), object.at());
        if news.deleted.contains(&object.metadata.uid) || self.is_gone_since(&at, version) {
            return;
        }
        // More may be asked for of the same state than before.
        let is_news = self.objects.get(&at).is_none_or(|known| {
            let has_more = known.object.fields.len() < object.fields.len();
            known.version < version || version == 0 || known.version == version && has_more
        });
        if is_news {
            self.put(Arc::new(object), version, news);
        }
        if let Some(entry) = self.objects.get_mut(&at)
            && !entry.told_by.contains(&watch)
        {
            entry.told_by.push(watch);
        }
    }

    /// A watch told that an object was not among those that it covers at a version.
    fn leave(&mut self, watch: WatchId, at: &NamespacedName, version: u64, news: &mut News<'_>) {
        self.untell(at, watch);
        let known = match self.objects.get(at) {
            Some(entry) if is_held(&self.watches, entry) => return,
            Some(entry) => entry.version,
            None => 0,
        };
        self.remove(at, news);
        // Only one that selects nothing knows that the object is gone, and not just without its label.
        let knows_all = self.watches.get(&watch).is_some_and(|watch| watch.scope.selects_all());
        self.keep_gone(at, if knows_all { version.max(known) } else { known });
    }

    /// Watches that are behind must not bring back what an object was before this version.
    fn keep_gone(&mut self, at: &NamespacedName, version: u64) {
        let is_behind = |watch: &Watch| watch.seen < version && watch.scope.covers_namespace(at.namespace.as_deref());
        if self.watches.values().any(is_behind) {
            let since = self.gone.entry(at.clone()).or_default();
            *since = version.max(*since);
        }
        if self.gone.len() > GONE_REMEMBERED
            && let Some(oldest) = self.gone.iter().min_by_key(|(_, since)| **since).map(|(at, _)| at.clone())
        {
            self.gone.remove(&oldest);
        }
    }

    fn is_gone_since(&self, at: &NamespacedName, version: u64) -> bool {
        self.gone.get(at).is_some_and(|since| version < *since)
    }

    fn set_seen(&mut self, watch: WatchId, version: u64) {
        if let Some(watch) = self.watches.get_mut(&watch) {
            watch.seen = version.max(watch.seen);
        }
    }

    fn untell(&mut self, at: &NamespacedName, watch: WatchId) {
        if let Some(entry) = self.objects.get_mut(at) {
            entry.told_by.retain(|other| *other != watch);
        }
    }

    fn put(&mut self, object: Arc<Object>, version: u64, news: &mut News<'_>) {
        let at = Arc::new(object.at());
        if !self.departed.is_empty() {
            self.forget_departed(&at);
        }
        let old = self.take(&at);
        let told_by = old.as_ref().map(|entry| entry.told_by.clone()).unwrap_or_default();
        if let Some(owner) = object.metadata.controller() {
            self.by_controller.entry(owner.uid.as_str().into()).or_default().insert(Arc::clone(&at));
        }
        self.objects.insert(at, Entry { object: Arc::clone(&object), version, told_by });
        news.tell(&self.kind, old.map(|entry| entry.object), Some(object));
    }

    fn remove(&mut self, at: &NamespacedName, news: &mut News<'_>) {
        if let Some(entry) = self.take(at) {
            news.tell(&self.kind, Some(entry.object), None);
        }
    }

    fn take(&mut self, at: &NamespacedName) -> Option<Entry> {
        let entry = self.objects.remove(at)?;
        if let Some(owner) = entry.object.metadata.controller()
            && let Some(children) = self.by_controller.get_mut(owner.uid.as_str())
        {
            children.remove(at);
            if children.is_empty() {
                self.by_controller.remove(owner.uid.as_str());
            }
        }
        Some(entry)
    }

    fn names_where(&self, condition: impl Fn(&Entry) -> bool) -> Vec<Arc<NamespacedName>> {
        let chosen = self.objects.iter().filter(|(_, entry)| condition(entry));
        chosen.map(|(at, _)| Arc::clone(at)).collect()
    }
}

/// Whether a watch has the object, or has yet to tell of it.
fn is_held(watches: &BTreeMap<WatchId, Watch>, entry: &Entry) -> bool {
    !entry.told_by.is_empty() || watches.values().any(|watch| watch.owes(&entry.object, entry.version))
}

/// The resource version as a number. Kubernetes' own are; 0 stands for what an odd API server may send, and is always news.
pub(crate) fn version_of(object: &Object) -> u64 {
    object.metadata.resource_version.parse().unwrap_or(0)
}
