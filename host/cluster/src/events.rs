//! Events (events.k8s.io/v1) about objects: how users hear of what happened to theirs.
//!
//! Anybody may post, and hardly anybody waits for it. What is repeated or too frequent is dropped and counted: an Event is a
//! courtesy, state stands in conditions. Each source has an account of its own ([`accounts`]): whatever a plugin posts, no Event
//! of the operator or of another plugin is dropped for it, nor does it wait for it.
//!
//! What a process says for the first time may have been said by the one before it: a restart is no news. So such an Event has a
//! name by what it says, and one that is there already was told.

mod accounts;
mod queued;

use std::{
    collections::BTreeMap,
    hash::{DefaultHasher, Hash as _, Hasher as _},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use dask_wasm_operator_core::{
    contract::{EventNote, EventSeverity},
    object::{GroupVersionKind, Resource},
    text::{MESSAGE_BYTES, into_line, line},
};
use http::Method;
use k8s_openapi::{apimachinery::pkg::apis::meta::v1::MicroTime, jiff::Timestamp};
use kube::Client;
use serde_json::json;
use tokio::{
    sync::{Notify, oneshot},
    time::Instant,
};

pub use self::queued::{Regarding, Source};
use self::{accounts::Accounts, queued::Queued};
use crate::{
    backoff::random,
    gate::Gate,
    path,
    request::{Call, TOTAL_DEADLINE},
};

/// Who reports.
const CONTROLLER: &str = "dask-wasm-operator";

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

/// For who must not go on before an Event: most need not wait for it.
pub struct Posting(oneshot::Receiver<()>);

impl Posting {
    /// Waits until the Event has been posted or dropped.
    pub async fn ended(self) {
        // Nothing is ever sent: the other end is dropped.
        let _ = self.0.await;
    }
}

/// Posts Events in the background. Clones post through the same queues.
#[derive(Clone)]
pub struct Events {
    level: EventLevel,
    shared: Arc<Shared>,
}

struct Shared {
    accounts: Mutex<Accounts>,
    /// Told when something is in a queue: of the operator, of plugins.
    queued: [Notify; 2],
}

impl Shared {
    fn accounts(&self) -> MutexGuard<'_, Accounts> {
        self.accounts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn queued(&self, of_plugins: bool) -> &Notify {
        &self.queued[usize::from(of_plugins)]
    }
}

impl Events {
    /// Starts to post what `level` has, while `gate` is open. `instance` says which process it is. Must be called within a
    /// tokio runtime.
    pub fn start(client: Client, gate: Gate, instance: String, level: EventLevel) -> Self {
        let shared = Arc::new(Shared { accounts: Mutex::default(), queued: Default::default() });
        for of_plugins in [false, true] {
            let (client, gate, instance) = (client.clone(), gate.clone(), instance.clone());
            tokio::spawn(Poster { client, gate, instance, of_plugins }.run(Arc::clone(&shared)));
        }
        Self { level, shared }
    }

    /// Posts an Event soon, or drops it; answers by what that can be waited for.
    pub fn post(&self, source: &Source, regarding: Regarding, note: EventNote) -> Posting {
        let (end, posting) = oneshot::channel();
        if self.level.has(note.severity) {
            let note = within_limits(note);
            let queued = Queued { source: source.clone(), regarding, note, is_again: false, _end: end };
            self.shared.accounts().admit(Instant::now(), queued);
            self.shared.queued(*source != Source::Operator).notify_one();
        }
        Posting(posting)
    }

    /// Events that were not posted because there were too many of their source or about one object, or because the server
    /// refused. Repetitions don't count.
    pub fn dropped(&self) -> BTreeMap<Source, u64> {
        self.shared.accounts().dropped()
    }

    /// Drops the account of a plugin that is gone.
    pub fn forget(&self, plugin: &str) {
        self.shared.accounts().forget(&Source::Plugin(plugin.to_owned()));
    }
}

/// Posts for the operator, or for plugins in turn.
struct Poster {
    client: Client,
    gate: Gate,
    instance: String,
    of_plugins: bool,
}

impl Poster {
    async fn run(self, shared: Arc<Shared>) {
        loop {
            let queued = shared.accounts().next(self.of_plugins);
            let Some(Queued { source, regarding, note, is_again, _end }) = queued else {
                shared.queued(self.of_plugins).notified().await;
                continue;
            };
            // The pipeline speaks only where it may write; this is for what was queued before.
            let name = if is_again { random() } else { identity(&regarding, &note) };
            let is_posted = self.gate.allows(Duration::ZERO) && self.post(&regarding, &note, name).await;
            if !is_posted {
                shared.accounts().count_dropped(&source);
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

/// What is longer is not kept.
fn within_limits(note: EventNote) -> EventNote {
    EventNote {
        reason: into_line(note.reason, REASON_MAX),
        message: into_line(note.message, MESSAGE_BYTES),
        severity: note.severity,
    }
}

#[cfg(test)]
mod tests {
    use dask_wasm_operator_core::object::NamespacedName;

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
