//! Removes what a plugin has made and nobody wants any more: all of it when the plugin goes, else what newer code does not
//! declare. It rests on what is in the objects, not on what was mounted.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use dask_wasm_operator_core::{
    action::{Action, WriteError},
    contract::{KindReference, Manifest},
    dask::Reconciler,
    error::chain,
    identity::Identity,
    native::Native as _,
    object::{GroupVersionKind, ObjectKey, Part, Resource},
    plugin::{PLUGIN_LABEL, removal},
    ports::Mandate,
    retry::{Backoff, Retry},
    spec::{DEFAULT_CHILDREN, Grants},
    wanted::Problem,
};
use futures::future::join_all;
use tokio::{
    task::{AbortHandle, JoinSet},
    time::{Instant, sleep},
};

use super::surroundings::ManagerSurroundings;
use crate::watches::served::{Interest, Party, ServedWatch};

/// A kind by group and name.
type Kind = (String, String);

/// The kinds of objects in which a plugin may have left something.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Reach {
    children: BTreeSet<Kind>,
    patched: BTreeSet<Kind>,
}

impl Reach {
    /// Adds what these grants allow.
    pub(super) fn grow(&mut self, grants: &Grants) {
        let default = DEFAULT_CHILDREN.into_iter().map(|(group, kind)| (group.to_owned(), kind.to_owned()));
        self.children.extend(default);
        self.children.extend(grants.create.iter().map(|grant| (grant.group.clone(), grant.kind.clone())));
        self.patched.extend(grants.patch.iter().map(|grant| (grant.group.clone(), grant.kind.clone())));
    }

    /// Adds what another reaches.
    pub(super) fn join(&mut self, other: Self) {
        self.children.extend(other.children);
        self.patched.extend(other.patched);
    }
}

/// The handlers and kinds of children that a plugin declares. What else it has made is left over.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Declared {
    handlers: BTreeSet<String>,
    /// None: not all of them are known, so that none can be told to be left over.
    kinds: Option<BTreeSet<Kind>>,
}

impl Declared {
    /// By a plugin that is removed.
    pub(super) fn nothing() -> Self {
        Self { handlers: BTreeSet::new(), kinds: Some(BTreeSet::new()) }
    }

    pub(super) fn by(manifest: &Manifest, resolve: &dyn Fn(&KindReference) -> Option<GroupVersionKind>) -> Self {
        let kind = |reference: &KindReference| resolve(reference).map(|kind| (kind.group, kind.kind));
        Self {
            handlers: manifest.handlers.iter().map(|handler| handler.name.clone()).collect(),
            kinds: manifest.permissions.create.iter().map(kind).collect(),
        }
    }

    /// Whether newer code declares less.
    pub(super) fn exceeds(&self, newer: &Self) -> bool {
        let kinds = match (&self.kinds, &newer.kinds) {
            (Some(kinds), Some(newer)) => !kinds.is_subset(newer),
            _ => false,
        };
        kinds || !self.handlers.is_subset(&newer.handlers)
    }

    fn keeps(&self, handler: &str, child: Option<&GroupVersionKind>) -> bool {
        let of_kind = |child: &GroupVersionKind| {
            let kind = (child.group.clone(), child.kind.clone());
            self.kinds.as_ref().is_none_or(|kinds| kinds.contains(&kind))
        };
        self.handlers.contains(handler) && child.is_none_or(of_kind)
    }
}

/// What is to be swept.
pub(super) struct Sweep {
    pub(super) plugin: String,
    pub(super) reach: Reach,
    pub(super) declared: Declared,
    /// In whose name: the plugin's, as it was last.
    pub(super) identity: Identity,
    /// Whether the plugin is gone, and what is remembered of it goes too.
    pub(super) is_removal: bool,
}

/// The sweeps under way, at most one of a plugin. They end when this is dropped.
#[derive(Default)]
pub(super) struct Sweeps {
    tasks: JoinSet<()>,
    running: BTreeMap<String, (AbortHandle, Reach)>,
}

impl Sweeps {
    /// Begins one, in the place of the one that is under way for the same plugin. `watches` are those that its handlers
    /// needed: what the sweep needs too goes on.
    pub(super) fn start(
        &mut self,
        surroundings: &Arc<ManagerSurroundings>,
        mut sweep: Sweep,
        watches: Vec<ServedWatch>,
    ) {
        if let Some(reach) = self.stop(&sweep.plugin) {
            sweep.reach.join(reach);
        }
        let (plugin, reach) = (sweep.plugin.clone(), sweep.reach.clone());
        let work = run(Arc::clone(surroundings), sweep, Instant::now());
        let task = self.tasks.spawn(async move {
            work.await;
            drop(watches);
        });
        self.running.insert(plugin, (task, reach));
    }

    /// Ends the one of a plugin. Answers what it was to reach, if it was not done.
    pub(super) fn stop(&mut self, plugin: &str) -> Option<Reach> {
        let (task, reach) = self.running.remove(plugin)?;
        task.abort();
        (!task.is_finished()).then_some(reach)
    }

    /// Waits until one has ended; none if there is none.
    pub(super) async fn ended(&mut self) -> Option<()> {
        self.tasks.join_next().await?.ok();
        self.running.retain(|_, (task, _)| !task.is_finished());
        Some(())
    }
}

/// Tries until it is done.
async fn run(surroundings: Arc<ManagerSurroundings>, sweep: Sweep, begun: Instant) {
    let plugin = sweep.plugin.as_str();
    // A reconcile under way may make more.
    surroundings.controller.reconciles_ended(plugin, begun).await;
    if sweep.is_removal {
        surroundings.controller.forget(plugin);
    }
    let (resources, watches) = watch(&surroundings, &sweep.reach);
    join_all(watches.iter().map(ServedWatch::when_settled)).await;
    for (watch, problem) in watches.iter().filter_map(ServedWatch::problem) {
        tracing::warn!(plugin, %watch, %problem, "what the plugin has made of this kind stays; delete it by its label {PLUGIN_LABEL}");
    }
    let (mut backoff, mut told) = (Backoff::default(), Vec::new());
    loop {
        let actions = left(&surroundings, &sweep, &resources);
        if actions.is_empty() {
            return tracing::info!(plugin, "nothing is left of what the plugin is not to have");
        }
        let results = join_all(actions.into_iter().map(async |action| {
            let object = action.object().clone();
            let mandate = Mandate { identity: sweep.identity.clone(), ..Mandate::default() };
            (object, surroundings.writes.write_under(action, mandate).await)
        }));
        let failed = results.await.into_iter().filter_map(|(object, result)| Some((object, result.err()?)));
        let problems: Vec<_> = failed.filter_map(|(object, error)| remains(&sweep, object, &error)).collect();
        surroundings.controller.tell_of_remains(plugin, &problems, &told);
        told = problems;
        if let Retry::After(delay) = backoff.fail(&plugin, None, None) {
            sleep(delay).await;
        }
    }
}

/// What stays for now, on the object that stays. That the Lease is another's, or the object gone, is no problem.
fn remains(sweep: &Sweep, object: ObjectKey, error: &WriteError) -> Option<(ObjectKey, Problem)> {
    if matches!(error, WriteError::NotLeader | WriteError::Stale { .. }) {
        return None;
    }
    let (plugin, remedy) = (&sweep.plugin, sweep.identity.remedy(error));
    let message = format!(
        "{object} was made by the plugin {plugin}, which is not to have it any more; it can't be removed: {error}{remedy}"
    );
    Some((object, Problem::passing(error.kind(), message)))
}

/// Watches all that a plugin may have left something in. Kinds that are not served have no objects.
fn watch(surroundings: &ManagerSurroundings, reach: &Reach) -> (Vec<Resource>, Vec<ServedWatch>) {
    let table = surroundings.discovery.table();
    let children = reach.children.iter().map(|kind| (kind, Some(PLUGIN_LABEL.to_owned())));
    let interests = children.chain(reach.patched.iter().map(|kind| (kind, None)));
    let interests = interests.filter_map(|((group, kind), labels)| {
        let resource = table.versions(group, kind).next()?.resource.clone();
        Some(Interest { resource, labels, part: Part::Whole })
    });
    let started = interests.filter_map(|interest| {
        let resource = interest.resource.clone();
        let started = surroundings.served.start(interest, Party::Plugin);
        let failed = |error| tracing::warn!(error = chain(&error), "what plugins have made can't be looked for");
        Some((resource, started.map_err(failed).ok()?))
    });
    let (mut resources, watches): (Vec<_>, Vec<_>) = started.unzip();
    resources.sort();
    resources.dedup();
    (resources, watches)
}

fn left(surroundings: &ManagerSurroundings, sweep: &Sweep, resources: &[Resource]) -> Vec<Action> {
    let keeps = |handler: &str, child: Option<&GroupVersionKind>| sweep.declared.keeps(handler, child);
    let objects = resources
        .iter()
        .flat_map(|resource| surroundings.index.list(&resource.kind).into_iter().map(move |o| (resource, o)));
    objects
        .flat_map(|(resource, object)| removal(&sweep.plugin, &object, resource, &keeps, Reconciler::makes))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn declared(handlers: &[&str], kinds: Option<&[&str]>) -> Declared {
        let kind = |kind: &&str| (String::new(), (*kind).to_owned());
        Declared {
            handlers: handlers.iter().map(|name| (*name).to_owned()).collect(),
            kinds: kinds.map(|kinds| kinds.iter().map(kind).collect()),
        }
    }

    #[test]
    fn only_code_that_declares_less_leaves_something_over() {
        let before = declared(&["a", "b"], Some(&["ConfigMap", "Service"]));
        for (newer, exceeds) in [
            (declared(&["a", "b", "c"], Some(&["ConfigMap", "Service", "Pod"])), false),
            (declared(&["a"], Some(&["ConfigMap", "Service"])), true),
            (declared(&["a", "b"], Some(&["ConfigMap"])), true),
            // A kind that is not known now may be one of those.
            (declared(&["a", "b"], None), false),
        ] {
            assert_eq!(before.exceeds(&newer), exceeds, "{newer:?}");
        }
    }

    #[test]
    fn a_removed_plugin_keeps_nothing_and_newer_code_what_it_declares() {
        let child = |kind| Some(GroupVersionKind::new("", "v1", kind));
        let newer = declared(&["a"], Some(&["ConfigMap"]));
        for (handler, kind, kept) in [
            ("a", child("ConfigMap"), true),
            ("a", None, true),
            ("a", child("Service"), false),
            ("b", child("ConfigMap"), false),
            ("b", None, false),
        ] {
            assert_eq!(newer.keeps(handler, kind.as_ref()), kept, "{handler} {kind:?}");
            assert!(!Declared::nothing().keeps(handler, kind.as_ref()));
        }
        assert!(declared(&["a"], None).keeps("a", child("Pod").as_ref()));
    }
}
