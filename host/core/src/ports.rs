//! What the pipeline needs from the outside, in its own words. The engine and the cluster side implement these; only the
//! runtime sees both.

use std::{
    fmt,
    future::{Future, ready},
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use serde::{Deserialize, Serialize};

use crate::{
    action::{Action, WriteError, Written},
    contract::{Call, Failure, Outcome},
    identity::Identity,
    object::{GroupVersionKind, NamespacedName, Object, ObjectKey, Resource},
    quote::quote,
    scheduler::{Scheduler, SchedulerCall, SchedulerError, SchedulerReply},
    schema::KnownFields,
};

/// A boxed future, so that the ports can be used as trait objects.
pub type Pending<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// A plugin that is loaded, compiled and described: the engine's side of a wasm handler.
pub trait Guest: Send + Sync {
    /// Calls one handler in a fresh sandbox.
    fn call(&self, call: Call) -> Pending<'_, CallReport>;
}

/// What became of one call.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct CallReport {
    /// What the handler wants, or why there is no answer.
    pub result: Result<Outcome, CallError>,
    /// What the guest wrote to its log, within its limits.
    pub log: Vec<LogLine>,
    /// Log lines that were dropped because of the limits.
    pub log_dropped: u32,
    /// Wall time in the sandbox, instantiation included.
    pub duration: Duration,
}

/// One line of a guest's log.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogLine {
    /// Severity.
    pub level: LogLevel,
    /// Text, cut to the limit of the plugin.
    pub message: String,
}

/// Severities of a guest's log lines.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum LogLevel {
    /// For developers.
    Debug,
    /// For operators.
    Info,
    /// Something is odd.
    Warn,
    /// Something failed.
    Error,
}

/// Why a call has no outcome. Each is a failure of this plugin at this subject, never of the host.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum CallError {
    /// The handler said so itself.
    Handler(Failure),
    /// The guest trapped.
    Trap {
        /// The engine's word for the trap.
        reason: String,
        /// The end of what the guest wrote to stderr, or its last log line of level error (a panic, a traceback); may be empty.
        last_words: String,
    },
    /// The call took longer than its deadline.
    Deadline(Duration),
    /// The guest asked for more memory than its limit, in bytes.
    Memory(u64),
    /// The guest asked for more table elements than its limit.
    Table(u64),
    /// The guest's calls were nested deeper than its stack allows, in bytes.
    Stack(u64),
    /// The outcome is larger than its limit, in bytes.
    Output(u64),
    /// The answer does not follow the interface.
    BadAnswer(String),
    /// The host could not make the call (no thread, shutting down).
    Host(String),
}

impl CallError {
    /// A constant word for labels, reasons and log fields.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Handler(Failure::Temporary { .. }) => "TemporaryFailure",
            Self::Handler(Failure::Permanent { .. }) => "PermanentFailure",
            Self::Trap { .. } => "Trap",
            Self::Deadline(_) => "DeadlineExceeded",
            Self::Memory(_) => "MemoryExceeded",
            Self::Table(_) => "TableExceeded",
            Self::Stack(_) => "StackExceeded",
            Self::Output(_) => "OutputExceeded",
            Self::BadAnswer(_) => "BadAnswer",
            Self::Host(_) => "HostFailure",
        }
    }

    /// For people: the guest's words are quoted, see [`crate::quote`].
    pub fn told(&self) -> String {
        match self {
            Self::Handler(_) => quote(&self.to_string()),
            Self::Trap { reason, last_words } if !last_words.is_empty() => {
                format!("the guest trapped: {reason}; its last words: {}", quote(last_words))
            }
            Self::BadAnswer(reason) => format!("the answer can't be used: {}", quote(reason)),
            Self::Host(reason) => format!("the call could not be made: {}", quote(reason)),
            _ => self.to_string(),
        }
    }
}

impl fmt::Display for CallError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Handler(Failure::Temporary { message, .. } | Failure::Permanent { message }) => f.write_str(message),
            Self::Trap { reason, last_words } if last_words.is_empty() => write!(f, "the guest trapped: {reason}"),
            Self::Trap { reason, last_words } => {
                write!(f, "the guest trapped: {reason}; its last words: {last_words}")
            }
            Self::Deadline(limit) => {
                write!(f, "the call took longer than its deadline of {limit:?} (spec.limits.deadline)")
            }
            Self::Memory(limit) => {
                write!(f, "the guest asked for more than its {limit} bytes of memory (spec.limits.memory)")
            }
            Self::Table(limit) => write!(f, "the guest asked for more than its {limit} table elements"),
            Self::Stack(limit) => write!(
                f,
                "the guest's calls are nested deeper than its {limit} bytes of stack allow; look for endless recursion"
            ),
            Self::Output(limit) => write!(f, "the outcome is larger than {limit} bytes (spec.limits.outcome)"),
            Self::BadAnswer(reason) => write!(f, "the answer can't be used: {reason}"),
            Self::Host(reason) => write!(f, "the call could not be made: {reason}"),
        }
    }
}

/// Reads of the observed world. They come from memory and never wait.
pub trait Observed: Send + Sync {
    /// One object.
    fn get(&self, kind: &GroupVersionKind, at: &NamespacedName) -> Option<Arc<Object>>;

    /// The objects of a kind that the subject of this uid controls, ordered by name.
    fn controlled_by(&self, kind: &GroupVersionKind, uid: &str) -> Vec<Arc<Object>>;

    /// Objects of a kind that the subject of this uid controlled when they vanished from our watches: they are gone, or
    /// lost the label by which we watch them. Ordered by name.
    fn departed(&self, kind: &GroupVersionKind, uid: &str) -> Vec<Arc<Object>>;

    /// How the API server serves a kind; none if it does not.
    fn resource(&self, kind: &GroupVersionKind) -> Option<Resource>;

    /// Whether the status of this kind is written through a subresource of its own, so that it is no change of the object.
    fn has_status(&self, kind: &GroupVersionKind) -> bool;

    /// Which fields the API server knows. Who can't tell says nothing.
    fn known_fields(&self) -> Arc<KnownFields> {
        Arc::default()
    }
}

/// Whether what somebody wants may still be written: asked right before each write, however long that waited for its turn.
#[derive(Clone, Debug, Default)]
pub struct Warrant(Option<Arc<AtomicBool>>);

impl Warrant {
    /// One that holds until it is [withdrawn](Self::withdraw). The default holds for ever.
    pub fn new() -> Self {
        Self(Some(Arc::new(AtomicBool::new(true))))
    }

    /// Whether it holds.
    pub fn holds(&self) -> bool {
        self.0.as_ref().is_none_or(|holds| holds.load(Ordering::Acquire))
    }

    /// From now on nothing is written under it.
    pub fn withdraw(&self) {
        if let Some(holds) = &self.0 {
            holds.store(false, Ordering::Release);
        }
    }
}

/// What a write is sent under. The default: for ever, in the operator's own name.
#[derive(Clone, Debug, Default)]
pub struct Mandate {
    /// In whose name.
    pub identity: Identity,
    /// For how long.
    pub warrant: Warrant,
}

/// Writes. What was written can be read by [`Observed`] once the call returns.
pub trait Writes: Send + Sync {
    /// Performs one action in the operator's own name.
    fn write(&self, action: Action) -> Pending<'_, Result<Written, WriteError>>;

    /// As [`Self::write`], in the name and as long as the mandate says. Where nobody has permissions, all names are alike.
    fn write_under(&self, action: Action, mandate: Mandate) -> Pending<'_, Result<Written, WriteError>> {
        match mandate.warrant.holds() {
            true => self.write(action),
            false => Box::pin(ready(Err(WriteError::Withdrawn))),
        }
    }

    /// Whether an object that vanished from our watches exists no longer, asked of the API server itself: a watch does not
    /// tell an object that is gone from one that lost its labels. Who can't tell says no.
    fn is_gone(&self, resource: Resource, object: ObjectKey, uid: String) -> Pending<'_, Result<bool, WriteError>> {
        let _ = (resource, object, uid);
        Box::pin(ready(Ok(false)))
    }
}

/// Talks to Dask schedulers. Every call ends in bounded time, whatever the scheduler does.
pub trait Schedulers: Send + Sync {
    /// Says one thing to one scheduler.
    fn call(&self, scheduler: Scheduler, call: SchedulerCall) -> Pending<'_, Result<SchedulerReply, SchedulerError>>;
}

impl std::error::Error for CallError {}
