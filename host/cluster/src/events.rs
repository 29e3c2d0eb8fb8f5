//! Events (events.k8s.io/v1) about objects: how users hear of what happened to theirs.
//!
//! Anybody may post, and hardly anybody waits for it. What is repeated, too frequent for one object, or more than the queue
//! holds is dropped and counted: an Event is a courtesy, state stands in conditions.
//!
//! What a process says for the first time may have been said by the one before it: a restart is no news. So such an Event has a
//! name by what it says, and one that is there already was told.

use std::{
    collections::HashMap,
    hash::{BuildHasher, DefaultHasher, Hash as _, Hasher as _, RandomState},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use dask_wasm_operator_core::{
    contract::{EventNote, EventSeverity},
    object::{GroupVersionKind, NamespacedName, Object, Resource},
    text::{MESSAGE_BYTES, line},
};
use http::Method;
use k8s_openapi::{apimachinery::pkg::apis::meta::v1::MicroTime, jiff::Timestamp};
use kube::Client;
use serde_json::json;
use tokio::{
    sync::{mpsc, oneshot},
    time::Instant,
};

use crate::{
    backoff::random,
    gate::Gate,
    path,
    request::{Call, TOTAL_DEADLINE},
};

/// Who reports.
const CONTROLLER: &str = "dask-wasm-operator";

/// Events that wait to be posted.
const QUEUE: usize = 1_000;

/// The same Event about the same object is not repeated within this time.
const QUIET_TIME: Duration = Duration::from_secs(600);

/// Events about one object at once, and how long it takes until there may be one more: as client-go's spam filter, which
/// allows 25 and one every 5 minutes, but for an object that is watched by people while they try things out.
const BURST: u32 = 25;
const REFILL: Duration = Duration::from_secs(60);

/// Entries of the filter's memory above which the old ones are dropped.
const MEMORY: usize = 10_000;

/// The longest reason that the API allows, in bytes.
const REASON_MAX: usize = 128;

/// Which Events are posted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum EventLevel {
    /// All.
    #[default]
    All,
    /// Those that something can't be done.
    Warnings,
    /// None.
    Nothing,
}

impl EventLevel {
    fn has(self, severity: EventSeverity) -> bool {
        match self {
            Self::All => true,
            Self::Warnings => severity == EventSeverity::Warning,
            Self::Nothing => false,
        }
    }
}

/// What an Event is about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Regarding {
    /// The object's kind.
    pub kind: GroupVersionKind,
    /// Namespace and name.
    pub at: NamespacedName,
    /// The object's uid: Events are shown with the very object only.
    pub uid: String,
}

impl From<&Object> for Regarding {
    fn from(object: &Object) -> Self {
        Self { kind: (*object.kind).clone(), at: object.at(), uid: object.metadata.uid.clone() }
    }
}

/// An Event that waits to be posted. Dropped when that is done, which ends its [`Posting`].
struct Queued {
    regarding: Regarding,
    note: EventNote,
    _end: oneshot::Sender<()>,
}

/// For who must not go on before an Event: most need not wait for it.
pub struct Posting(oneshot::Receiver<()>);

impl Posting {
    /// Waits until the Event has been posted or dropped.
    pub async fn ended(self) {
        // Nothing is ever sent: the other end is dropped.
        let _ = self.0.await;
    }
}

/// Posts Events in the background. Clones post through the same queue.
#[derive(Clone)]
pub struct Events {
    level: EventLevel,
    sender: mpsc::Sender<Queued>,
    dropped: Arc<AtomicU64>,
}

impl Events {
    /// Starts to post what `level` has, while `gate` is open. `instance` says which process it is. Must be called within a
    /// tokio runtime.
    pub fn start(client: Client, gate: Gate, instance: String, level: EventLevel) -> Self {
        let (sender, receiver) = mpsc::channel(QUEUE);
        let dropped = Arc::new(AtomicU64::new(0));
        let poster = Poster { client, gate, instance, dropped: Arc::clone(&dropped) };
        tokio::spawn(poster.run(receiver));
        Self { level, sender, dropped }
    }

    /// Posts an Event soon, or drops it; answers by what that can be waited for.
    pub fn post(&self, regarding: Regarding, note: EventNote) -> Posting {
        let (end, posting) = oneshot::channel();
        let is_wanted = self.level.has(note.severity);
        if is_wanted && self.sender.try_send(Queued { regarding, note, _end: end }).is_err() {
            self.dropped.fetch_add(1, Ordering::Relaxed);
        }
        Posting(posting)
    }

    /// Events that were not posted because the queue was full, the server refused, or there were too many about one object.
    /// Repetitions don't count.
    pub fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }
}

struct Poster {
    client: Client,
    gate: Gate,
    instance: String,
    dropped: Arc<AtomicU64>,
}

impl Poster {
    async fn run(self, mut queue: mpsc::Receiver<Queued>) {
        let mut filter = Filter::default();
        while let Some(Queued { regarding, note, _end }) = queue.recv().await {
            let posted = match filter.judge(Instant::now(), &regarding.uid, &note) {
                Verdict::Repeated => true,
                Verdict::TooMany => false,
                // The pipeline speaks only where it may write; this is for what was queued before.
                Verdict::New => {
                    self.gate.allows(Duration::ZERO) && self.post(&regarding, &note, identity(&regarding, &note)).await
                }
                Verdict::Again => self.gate.allows(Duration::ZERO) && self.post(&regarding, &note, random()).await,
            };
            if !posted {
                self.dropped.fetch_add(1, Ordering::Relaxed);
            }
        }
    }

    async fn post(&self, regarding: &Regarding, note: &EventNote, number: u64) -> bool {
        let resource = Resource {
            kind: GroupVersionKind::new("events.k8s.io", "v1", "Event"),
            plural: "events".to_owned(),
            namespaced: true,
        };
        // Where Kubernetes wants Events about objects without a namespace.
        let namespace = regarding.at.namespace.as_deref().unwrap_or("default");
        let Ok(path) = path::collection(&resource, Some(namespace)) else { return false };
        let event = event(regarding, note, number, namespace, &self.instance, Timestamp::now());
        match Call::json(Method::POST, &path, &event).send(&self.client, TOTAL_DEADLINE).await {
            Ok(_) => true,
            Err(error) if error.code() == 409 => true,
            Err(error) => {
                tracing::debug!(%error, object = %regarding.at, reason = note.reason, "an Event could not be posted");
                false
            }
        }
    }
}

/// The same for the same Event, whoever posts it.
fn identity(regarding: &Regarding, note: &EventNote) -> u64 {
    let mut hasher = DefaultHasher::new();
    (&regarding.uid, &note.reason, &note.message).hash(&mut hasher);
    hasher.finish()
}

fn event(
    regarding: &Regarding,
    note: &EventNote,
    number: u64,
    namespace: &str,
    instance: &str,
    now: Timestamp,
) -> serde_json::Value {
    // An object's name can be as long as an Event's: the end must fit.
    let name = &regarding.at.name;
    let name = name[..name.floor_char_boundary(200)].trim_end_matches(['-', '.']);
    json!({
        "apiVersion": "events.k8s.io/v1",
        "kind": "Event",
        "metadata": {"name": format!("{name}.{number:016x}"), "namespace": namespace},
        "eventTime": MicroTime(now),
        "reportingController": CONTROLLER,
        "reportingInstance": line(instance, 128),
        "action": "Reconcile",
        "reason": line(&note.reason, REASON_MAX),
        "note": line(&note.message, MESSAGE_BYTES),
        "type": match note.severity {
            EventSeverity::Normal => "Normal",
            EventSeverity::Warning => "Warning",
        },
        "regarding": {
            "apiVersion": regarding.kind.api_version(),
            "kind": regarding.kind.kind,
            "namespace": regarding.at.namespace,
            "name": regarding.at.name,
            "uid": regarding.uid,
        },
    })
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    /// This process has not said it yet, as far as it remembers.
    New,
    /// It has, some time ago.
    Again,
    Repeated,
    TooMany,
}

/// Decides which Events are worth posting.
#[derive(Default)]
struct Filter {
    hasher: RandomState,
    /// When an Event was last posted, by a hash of all that makes it the same.
    posted: HashMap<u64, Instant>,
    /// By uid: when the last of its allowance would be used up if every Event took [`REFILL`].
    used_until: HashMap<String, Instant>,
}

impl Filter {
    fn judge(&mut self, now: Instant, uid: &str, note: &EventNote) -> Verdict {
        let same = self.hasher.hash_one((uid, &note.reason, &note.message));
        let posted = self.posted.get(&same).copied();
        if posted.is_some_and(|posted| now < posted + QUIET_TIME) {
            return Verdict::Repeated;
        }
        self.forget(now);
        let used_until = self.used_until.get(uid).copied().unwrap_or(now).max(now);
        if used_until + REFILL > now + REFILL * BURST || self.posted.len() >= MEMORY {
            return Verdict::TooMany;
        }
        self.used_until.insert(uid.to_owned(), used_until + REFILL);
        self.posted.insert(same, now);
        if posted.is_some() { Verdict::Again } else { Verdict::New }
    }

    fn forget(&mut self, now: Instant) {
        if self.posted.len() >= MEMORY {
            self.posted.retain(|_, posted| now < *posted + QUIET_TIME);
        }
        if self.used_until.len() >= MEMORY {
            self.used_until.retain(|_, until| now < *until);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn note(message: &str) -> EventNote {
        EventNote { severity: EventSeverity::Warning, reason: "Parked".into(), message: message.into() }
    }

    #[test]
    fn levels_have_what_is_as_severe() {
        let has =
            |level: EventLevel| [EventSeverity::Normal, EventSeverity::Warning].map(|severity| level.has(severity));
        assert_eq!(has(EventLevel::All), [true, true]);
        assert_eq!(has(EventLevel::Warnings), [false, true]);
        assert_eq!(has(EventLevel::Nothing), [false, false]);
    }

    #[test]
    fn fault_17_the_same_is_said_once_in_ten_minutes() {
        let mut filter = Filter::default();
        let start = Instant::now();
        assert_eq!(filter.judge(start, "a", &note("x")), Verdict::New);
        assert_eq!(filter.judge(start, "b", &note("x")), Verdict::New);
        assert_eq!(filter.judge(start, "a", &note("y")), Verdict::New);
        assert_eq!(filter.judge(start + QUIET_TIME - Duration::from_secs(1), "a", &note("x")), Verdict::Repeated);
        assert_eq!(filter.judge(start + QUIET_TIME, "a", &note("x")), Verdict::Again);
    }

    #[test]
    fn one_object_cannot_fill_the_cluster() {
        let mut filter = Filter::default();
        let start = Instant::now();
        let new = |filter: &mut Filter, now, count: u32, from: u32| {
            (from..from + count).filter(|n| filter.judge(now, "a", &note(&n.to_string())) == Verdict::New).count()
        };
        assert_eq!(new(&mut filter, start, 100, 0), 25);
        assert_eq!(filter.judge(start, "b", &note("x")), Verdict::New);
        assert_eq!(new(&mut filter, start + REFILL, 100, 100), 1);
    }

    /// The belief that is attacked: that what a process says for the first time is news.
    #[test]
    fn what_the_process_before_has_said_has_the_same_name() {
        let regarding = |uid: &str| Regarding {
            kind: GroupVersionKind::new("", "v1", "Node"),
            at: NamespacedName { namespace: None, name: "n".to_owned() },
            uid: uid.to_owned(),
        };
        let name = |uid: &str, message: &str| identity(&regarding(uid), &note(message));
        assert_eq!(name("u", "x"), name("u", "x"));
        assert_ne!(name("u", "x"), name("u", "y"));
        assert_ne!(name("u", "x"), name("v", "x"));
    }

    #[test]
    fn limits_of_the_api_are_kept() {
        let regarding = Regarding {
            kind: GroupVersionKind::new("", "v1", "Node"),
            at: NamespacedName { namespace: None, name: "n".repeat(253) },
            uid: "u".into(),
        };
        let note = EventNote {
            severity: EventSeverity::Normal,
            reason: "Ready\r\n".repeat(100),
            message: "ä\u{202e}\0".repeat(1_000),
        };
        let event = event(&regarding, &note, u64::MAX, "default", "i", Timestamp::UNIX_EPOCH);
        for (field, most) in [("note", 1_024), ("reason", 128)] {
            let text = event[field].as_str().unwrap();
            assert!(text.len() <= most && text.ends_with(" bytes more]"), "{text}");
            assert!(!text.contains(['\r', '\n', '\0', '\u{202e}']), "{text}");
        }
        assert!(event["metadata"]["name"].as_str().unwrap().len() <= 253);
        assert_eq!(event["eventTime"], "1970-01-01T00:00:00.000000Z");
    }
}
