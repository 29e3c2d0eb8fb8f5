//! Notes when everything is there, by watches: the same for whoever makes it.

use std::{collections::HashMap, time::Duration};

use anyhow::{Context as _, bail};
use futures::{
    Stream, StreamExt as _,
    future::ready,
    stream::{self, BoxStream, SelectAll},
};
use kube::{
    Client, ResourceExt,
    api::{Api, ApiResource, DynamicObject, WatchEvent, WatchParams},
    core::GroupVersionKind,
};
use serde_json::Value;
use tokio::time::{Instant, timeout_at};

use super::load::Load;

/// When it is given up: three times what the Python operator takes.
const PATIENCE: Duration = Duration::from_secs(300);

/// Kinds that are counted: group, version, kind.
const KINDS: [(&str, &str, &str); 4] = [
    ("apps", "v1", "Deployment"),
    ("", "v1", "Service"),
    ("kubernetes.dask.org", "v1", "DaskWorkerGroup"),
    ("kubernetes.dask.org", "v1", "DaskCluster"),
];

/// Whose statuses are waited for.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Statuses {
    /// Nobody writes any.
    None,
    /// Those of the Python operator: the phase.
    Phase,
    /// Ours: phase and counts.
    Whole,
}

/// Times since the start.
#[derive(Clone, Copy, Debug)]
pub(super) struct Times {
    /// Until every object existed.
    pub(super) objects: Duration,
    /// Until every status was final; none: not within the time allowed.
    pub(super) statuses: Option<Duration>,
    /// Statuses that were not final at the end.
    pub(super) unfinished: usize,
}

/// What is read of an event: kind, name, and the object if its status counts.
type Sighting = (&'static str, String, Option<Value>);

/// Watches that have begun.
pub(super) struct Watcher {
    sightings: SelectAll<BoxStream<'static, Sighting>>,
}

impl Watcher {
    /// Begins before anything is made.
    pub(super) fn begin(client: &Client, namespace: &str) -> Self {
        let streams = KINDS.map(|(group, version, kind)| {
            let resource = ApiResource::from_gvk(&GroupVersionKind::gvk(group, version, kind));
            let api: Api<DynamicObject> = Api::namespaced_with(client.clone(), namespace, &resource);
            if group == "kubernetes.dask.org" { whole(api, kind).boxed() } else { metadata(api, kind).boxed() }
        });
        Self { sightings: streams.into_iter().collect() }
    }

    /// Waits until everything is there.
    pub(super) async fn finish(mut self, load: Load, statuses: Statuses, begun: Instant) -> anyhow::Result<Times> {
        let wanted = load.objects() + load.clusters;
        let mut objects = HashMap::new();
        let mut is_final: HashMap<String, bool> = HashMap::new();
        let mut times = Times { objects: PATIENCE, statuses: None, unfinished: 0 };
        let mut deadline = begun + PATIENCE;
        loop {
            let Ok(sighting) = timeout_at(deadline, self.sightings.next()).await else {
                times.unfinished = is_final.values().filter(|done| !**done).count();
                if objects.len() < wanted {
                    bail!("{} of {wanted} objects exist after {PATIENCE:?}", objects.len());
                }
                return Ok(times);
            };
            let (kind, name, object) = sighting.context("the watches ended")?;
            let key = format!("{kind} {name}");
            if let Some(done) = object.and_then(|object| done(statuses, kind, &object, load)) {
                is_final.insert(key.clone(), done);
            }
            objects.insert(key, ());
            if objects.len() == wanted && times.objects == PATIENCE {
                times.objects = begun.elapsed();
                if statuses == Statuses::None {
                    return Ok(times);
                }
                // The Python operator leaves some statuses unfinished for ever.
                deadline = Instant::now() + Duration::from_secs(60);
            }
            if times.objects != PATIENCE && is_final.values().all(|done| *done) {
                times.statuses = Some(begun.elapsed());
                return Ok(times);
            }
        }
    }
}

/// A watch that begins again from the present state when the server ends it, as it does with one that reads too slowly.
fn whole(api: Api<DynamicObject>, kind: &'static str) -> impl Stream<Item = Sighting> {
    stream::repeat(api).then(async |api| api.watch(&parameters(), "0").await).flat_map(flatten).filter_map(
        move |event| {
            ready(match event {
                WatchEvent::Added(object) | WatchEvent::Modified(object) => {
                    Some((kind, object.name_any(), Some(object.data)))
                }
                _ => None,
            })
        },
    )
}

/// As [`whole`], where existence is all that counts.
fn metadata(api: Api<DynamicObject>, kind: &'static str) -> impl Stream<Item = Sighting> {
    stream::repeat(api).then(async |api| api.watch_metadata(&parameters(), "0").await).flat_map(flatten).filter_map(
        move |event| {
            ready(match event {
                WatchEvent::Added(object) | WatchEvent::Modified(object) => Some((kind, object.name_any(), None)),
                _ => None,
            })
        },
    )
}

fn parameters() -> WatchParams {
    WatchParams::default().timeout(290).disable_bookmarks()
}

/// The events of a watch until it ends; one that could not begin has none.
fn flatten<T: 'static + Send, S: Stream<Item = kube::Result<WatchEvent<T>>> + Send + 'static>(
    watch: kube::Result<S>,
) -> BoxStream<'static, WatchEvent<T>> {
    match watch {
        Ok(events) => events.filter_map(|event| ready(event.ok())).boxed(),
        Err(_) => stream::empty().boxed(),
    }
}

/// Whether an object's status is final; none: it has none that anybody waits for.
fn done(statuses: Statuses, kind: &str, object: &Value, load: Load) -> Option<bool> {
    let running = object.pointer("/status/phase").and_then(Value::as_str) == Some("Running");
    let counted = object.pointer("/status/replicas").and_then(Value::as_u64) == Some(load.workers as u64);
    match (statuses, kind) {
        (Statuses::Phase, "DaskCluster") => Some(running),
        (Statuses::Whole, "DaskCluster") => Some(running && counted),
        (Statuses::Whole, "DaskWorkerGroup") => Some(counted),
        _ => None,
    }
}
