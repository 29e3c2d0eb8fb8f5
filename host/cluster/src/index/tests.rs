//! The index, one piece of news after the other.

use std::collections::BTreeMap;

use dask_wasm_operator_core::{
    object::{Metadata, OwnerReference, TopFields},
    selector::Selector,
};

use super::*;

mod model;

fn kind() -> GroupVersionKind {
    GroupVersionKind::new("apps", "v1", "Deployment")
}

fn owner_kind() -> GroupVersionKind {
    GroupVersionKind::new("kubernetes.dask.org", "v1", "DaskCluster")
}

/// An object in namespace `n`; the owner of all is `owner`.
fn object(name: &str, uid: &str, version: u64, labelled: bool) -> Object {
    let labels = if labelled { BTreeMap::from([("dask".to_owned(), "yes".to_owned())]) } else { BTreeMap::new() };
    Object {
        kind: Arc::new(kind()),
        metadata: Metadata {
            name: name.to_owned(),
            namespace: Some("n".to_owned()),
            uid: uid.to_owned(),
            resource_version: version.to_string(),
            labels: labels.into(),
            owner_references: Arc::new([OwnerReference {
                api_version: "kubernetes.dask.org/v1".to_owned(),
                kind: "DaskCluster".to_owned(),
                name: "owner".to_owned(),
                uid: "owner".to_owned(),
                controller: true,
                block_owner_deletion: true,
            }]),
            ..Metadata::default()
        },
        fields: TopFields::default(),
        managed_fields: Vec::new(),
        unreadable: None,
    }
}

fn owner() -> Object {
    let mut owner = object("owner", "owner", 1, true);
    owner.kind = Arc::new(owner_kind());
    owner.metadata.owner_references = Arc::default();
    owner
}

fn scope(labels: &str) -> Scope {
    Scope { namespace: None, labels: Selector::parse(labels).unwrap() }
}

fn at(name: &str) -> NamespacedName {
    NamespacedName::new("n", name)
}

fn key(name: &str) -> ObjectKey {
    ObjectKey { kind: kind(), at: at(name) }
}

/// An index that knows the owner, with one watch of everything that has listed nothing so far.
fn index_with_owner() -> (Index, WatchId, WatchId) {
    let index = Index::new(|_| ());
    let owners = index.add_watch(&owner_kind(), scope(""));
    index.relisted(owners, 1, vec![owner()]);
    let watch = index.add_watch(&kind(), scope(""));
    index.relisted(watch, 1, vec![]);
    (index, owners, watch)
}

fn names(objects: &[Arc<Object>]) -> Vec<&str> {
    objects.iter().map(|object| object.metadata.name.as_str()).collect()
}

#[test]
fn an_own_write_is_known_at_once_and_told_once() {
    let changes = Arc::new(Mutex::new(Vec::new()));
    let told = Arc::clone(&changes);
    let index = Index::new(move |change: Change| lock(&told).push((change.new.is_some(), change.own_write)));
    let watch = index.add_watch(&kind(), scope(""));
    index.relisted(watch, 1, vec![]);
    index.wrote(&Arc::new(object("a", "u", 2, true)));
    assert!(index.get(&kind(), &at("a")).is_some());
    assert_eq!(names(&index.controlled_by(&kind(), "owner")), ["a"]);
    index.observed(watch, object("a", "u", 2, true));
    index.deleted(&key("a"), "u");
    index.vanished(watch, &object("a", "u", 3, true));
    assert_eq!(*lock(&changes), [(true, true), (false, true)]);
}

#[test]
fn an_own_write_that_the_watch_has_passed_is_old_news() {
    let (index, _, watch) = index_with_owner();
    index.observed(watch, object("a", "u", 2, true));
    index.vanished(watch, &object("a", "u", 5, true));
    index.wrote(&Arc::new(object("a", "u", 4, true)));
    assert!(index.get(&kind(), &at("a")).is_none());
}

#[test]
fn what_we_deleted_is_not_brought_back_by_a_late_watch_or_list() {
    let (index, _, watch) = index_with_owner();
    index.wrote(&Arc::new(object("a", "u", 2, true)));
    index.deleted(&key("a"), "u");
    index.observed(watch, object("a", "u", 2, true));
    index.relisted(watch, 3, vec![object("a", "u", 3, true)]);
    assert!(index.get(&kind(), &at("a")).is_none());
    index.wrote(&Arc::new(object("a", "v", 5, true)));
    index.vanished(watch, &object("a", "u", 4, true));
    assert_eq!(index.get(&kind(), &at("a")).unwrap().metadata.uid, "v");
}

#[test]
fn a_list_older_than_an_own_write_does_not_lose_it() {
    let (index, _, watch) = index_with_owner();
    index.wrote(&Arc::new(object("a", "u", 5, true)));
    index.relisted(watch, 4, vec![]);
    assert!(index.get(&kind(), &at("a")).is_some());
    index.relisted(watch, 6, vec![]);
    assert!(index.get(&kind(), &at("a")).is_none());
}

#[test]
fn what_vanished_is_remembered_as_long_as_its_owner_is_there() {
    let (index, owners, watch) = index_with_owner();
    for name in ["b", "a"] {
        index.observed(watch, object(name, name, 2, true));
        index.vanished(watch, &object(name, name, 3, true));
    }
    assert_eq!(names(&index.departed(&kind(), "owner")), ["a", "b"]);
    index.observed(watch, object("a", "a2", 4, true));
    assert_eq!(names(&index.departed(&kind(), "owner")), ["b"]);
    index.forget_departed(&key("b"));
    assert!(index.departed(&kind(), "owner").is_empty());
    index.vanished(watch, &object("a", "a2", 5, true));
    assert_eq!(names(&index.departed(&kind(), "owner")), ["a"]);
    index.vanished(owners, &owner());
    assert!(index.departed(&kind(), "owner").is_empty());
    index.observed(watch, object("c", "c", 6, true));
    index.vanished(watch, &object("c", "c", 7, true));
    assert!(index.departed(&kind(), "owner").is_empty(), "the owner is gone: garbage collection");
}

#[test]
fn fault_01_a_deletion_that_is_told_twice_takes_nothing_newer() {
    let (index, _, watch) = index_with_owner();
    index.observed(watch, object("a", "a", 2, true));
    index.vanished(watch, &object("a", "a", 3, true));
    index.observed(watch, object("a", "a2", 4, true));
    index.vanished(watch, &object("a", "a", 3, true));
    index.observed(watch, object("a", "a", 2, true));
    assert_eq!(index.get(&kind(), &at("a")).unwrap().metadata.uid, "a2");
    index.vanished(watch, &object("a", "a2", 5, true));
    assert!(index.get(&kind(), &at("a")).is_none());
}

#[test]
fn fault_01_a_list_of_a_part_tells_what_is_there_and_not_what_is_gone() {
    let (index, _, watch) = index_with_owner();
    index.observed(watch, object("a", "a", 2, true));
    index.listed_in_part(watch, vec![object("b", "b", 3, true)]);
    assert_eq!(names(&index.list(&kind())), ["a", "b"]);
    index.relisted(watch, 4, vec![object("b", "b", 3, true)]);
    assert_eq!(names(&index.list(&kind())), ["b"]);
}

#[test]
fn our_own_deletions_are_not_departures() {
    let (index, _, watch) = index_with_owner();
    index.observed(watch, object("a", "a", 2, true));
    index.deleted(&key("a"), "a");
    index.vanished(watch, &object("a", "a", 3, true));
    assert!(index.departed(&kind(), "owner").is_empty());
}

#[test]
fn an_object_of_two_watches_stays_until_both_lost_it() {
    let index = Index::new(|_| ());
    let all = index.add_watch(&kind(), scope(""));
    let labelled = index.add_watch(&kind(), scope("dask=yes"));
    index.relisted(all, 1, vec![]);
    index.relisted(labelled, 1, vec![]);
    index.observed(all, object("a", "a", 2, true));
    index.observed(labelled, object("a", "a", 2, true));
    index.vanished(labelled, &object("a", "a", 3, true));
    index.observed(all, object("a", "a", 3, false));
    assert!(index.get(&kind(), &at("a")).is_some());
    index.remove_watch(all);
    assert!(index.get(&kind(), &at("a")).is_none());
    index.remove_watch(labelled);
}

#[test]
fn a_server_whose_history_went_back_is_believed() {
    let (index, _, watch) = index_with_owner();
    for name in ["kept", "later", "deleted"] {
        index.observed(watch, object(name, name, 100, true));
    }
    index.deleted(&key("deleted"), "deleted");
    index.vanished(watch, &object("deleted", "deleted", 101, true));
    // The backup was made before anything was deleted, and before `later`.
    let restored = || vec![object("deleted", "deleted", 30, true), object("kept", "kept", 40, true)];
    index.relisted(watch, 50, restored());
    assert_eq!(names(&index.list(&kind())), ["deleted", "kept"]);
    assert_eq!(index.get(&kind(), &at("kept")).unwrap().metadata.resource_version, "40");
    // From here on it is a history like any other.
    index.wrote(&Arc::new(object("ours", "ours", 51, true)));
    assert!(index.get(&kind(), &at("ours")).is_some(), "an own write is known at once");
    index.observed(watch, object("kept", "kept", 52, true));
    index.relisted(watch, 50, restored());
    assert_eq!(index.get(&kind(), &at("kept")).unwrap().metadata.resource_version, "40", "once more");
    index.relisted(watch, 60, vec![object("kept", "kept", 55, true)]);
    assert_eq!(names(&index.list(&kind())), ["kept"]);
}

#[test]
fn when_history_went_back_each_watch_keeps_what_only_it_tells() {
    let told = Arc::new(Mutex::new(0));
    let losses = Arc::clone(&told);
    let index = Index::new(move |change: Change| *lock(&losses) += usize::from(change.new.is_none()));
    let labelled = index.add_watch(&kind(), scope("dask=yes"));
    let others = index.add_watch(&kind(), scope("dask!=yes"));
    index.observed(labelled, object("a", "a", 100, true));
    index.observed(others, object("b", "b", 100, false));
    index.relisted(labelled, 50, vec![object("a", "a", 40, true)]);
    index.relisted(others, 50, vec![object("b", "b", 40, false)]);
    let known = index.list(&kind());
    assert_eq!(names(&known), ["a", "b"]);
    assert!(known.iter().all(|object| object.metadata.resource_version == "40"));
    assert_eq!(*lock(&told), 0, "nothing was lost in between");
}
