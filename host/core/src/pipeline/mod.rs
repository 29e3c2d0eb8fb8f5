//! One pass over one subject: observe → handler → accept → plan → write. The same for native reconcilers and plugins, for a
//! real cluster and for one in memory.
//!
//! A pass is safe to be cut off between any two writes: the next one looks again and does what is left.

mod execute;
mod guest;
mod native;
mod status;
mod takeover;

pub use guest::MountedHandler;
pub use takeover::KOPF_FINALIZER;

use std::{sync::Arc, time::Duration};

use crate::{
    contract::EventNote,
    dask::{Environment, Reconciler, Settled},
    object::{GroupVersionKind, NamespacedName, Object},
    plan::Memory,
    plugin::Handled,
    ports::{CallReport, Observed, Writes},
    retry::{Backoff, Retry},
    scheduler::{Replies, Scheduler, SchedulerCall, SchedulerError, SchedulerReply},
    wanted::{Findings, Snapshot, SubjectPatch},
};

/// Who handles a subject.
#[derive(Clone)]
pub enum Handler {
    /// One of the Dask reconcilers.
    Native(Reconciler),
    /// A handler of a plugin.
    Plugin(Arc<MountedHandler>),
}

impl Handler {
    /// Kind of the subjects.
    pub fn subject(&self) -> GroupVersionKind {
        match self {
            Self::Native(reconciler) => reconciler.subject(),
            Self::Plugin(handler) => handler.subject.kind.clone(),
        }
    }

    /// The manager under which everything is applied.
    pub fn field_manager(&self) -> String {
        match self {
            Self::Native(reconciler) => crate::dask::field_manager(*reconciler),
            Self::Plugin(handler) => handler.name.field_manager(),
        }
    }
}

/// The world as a pass needs it.
pub struct Pipeline<'a> {
    /// Reads.
    pub observed: &'a dyn Observed,
    /// Writes.
    pub writes: &'a dyn Writes,
    /// What holds for every subject.
    pub environment: &'a Environment,
}

/// What is remembered of one subject between the passes of one handler. Losing it costs work, never correctness.
#[derive(Default)]
pub struct SubjectState {
    uid: String,
    memory: Memory,
    backoff: Backoff,
    /// What the last pass left behind.
    findings: Findings,
    /// Of a native reconciler: what the subject's scheduler has said.
    replies: Replies,
    /// Of a plugin: what the last answer said.
    answer: Option<Answer>,
    handled: Handled,
    /// Of a plugin: the input at which it was parked.
    parked: Option<u64>,
    requeued: bool,
    /// The subject as it was last seen, kept for handlers that want to hear of its end.
    last_seen: Option<Arc<Object>>,
}

/// The last accepted answer of a plugin.
struct Answer {
    children: Option<Vec<Settled>>,
    subject: Option<SubjectPatch>,
}

impl SubjectState {
    /// What the last pass left behind.
    pub fn findings(&self) -> &Findings {
        &self.findings
    }

    /// Whether the handler was called for this subject, or is given up on it.
    pub fn is_handled(&self) -> bool {
        self.handled.input.is_some() || self.handled.created || self.backoff.attempts() > 0
    }

    /// Whether the handler is not called for this subject until something changes.
    pub fn is_parked(&self) -> bool {
        self.parked.is_some()
    }

    /// How many children the last answer held.
    pub fn children(&self) -> usize {
        self.answer.as_ref().and_then(|answer| answer.children.as_ref()).map_or(0, Vec::len)
    }

    /// The subject asked to be looked at again, and the time has come.
    pub fn requeue(&mut self) {
        self.requeued = true;
    }

    /// A scheduler was called, and this came of it at `now`, in milliseconds since the Unix epoch.
    pub fn heard(&mut self, call: &SchedulerCall, result: Result<SchedulerReply, SchedulerError>, now: u64) {
        self.replies.note(call, result, now);
    }

    /// Whether nothing is remembered: no pass has found the subject, or its end has been dealt with.
    pub fn is_spent(&self) -> bool {
        self.last_seen.is_none() && self.uid.is_empty()
    }
}

/// What became of a pass.
#[derive(Debug, Default)]
pub struct Pass {
    /// Whether the subject exists and is not on its way out.
    pub alive: bool,
    /// Writes that succeeded.
    pub writes: usize,
    /// When to try again after a failure.
    pub retry: Option<Retry>,
    /// When to look again although all is well.
    pub requeue_after: Option<Duration>,
    /// What is to be said to a scheduler.
    pub calls: Vec<(Scheduler, SchedulerCall)>,
    /// Events to be posted on the subject.
    pub events: Vec<EventNote>,
    /// The call of the plugin, if there was one.
    pub call: Option<CallReport>,
    /// What can't be done, and what was found out.
    pub findings: Findings,
}

impl Pipeline<'_> {
    /// Looks at one subject and does what is left to do. `now` is in milliseconds since the Unix epoch.
    pub async fn reconcile(&self, handler: &Handler, at: &NamespacedName, state: &mut SubjectState, now: u64) -> Pass {
        let subject = self.observed.get(&handler.subject(), at);
        if let (Some(subject), Handler::Native(reconciler)) = (&subject, handler)
            && let Some(pass) = self.take_over(*reconciler, subject, state, now).await
        {
            return pass;
        }
        let Some(subject) = subject.filter(|subject| !subject.is_being_deleted()) else {
            return match handler {
                Handler::Plugin(handler) => self.bury(handler, at, state, now).await,
                Handler::Native(_) => {
                    *state = SubjectState::default();
                    Pass::default()
                }
            };
        };
        if state.uid != subject.metadata.uid {
            *state = SubjectState { uid: subject.metadata.uid.clone(), ..SubjectState::default() };
        }
        let mut pass = match handler {
            Handler::Native(reconciler) => self.reconcile_native(*reconciler, &subject, state, now).await,
            Handler::Plugin(handler) => self.reconcile_plugin(handler, &subject, state, now).await,
        };
        pass.alive = true;
        pass
    }

    /// The children and former children of a subject, of the given kinds.
    fn snapshot(&self, subject: &Arc<Object>, kinds: &[GroupVersionKind], now: u64) -> Snapshot {
        let uid = subject.metadata.uid.as_str();
        Snapshot {
            subject: Arc::clone(subject),
            children: kinds.iter().flat_map(|kind| self.observed.controlled_by(kind, uid)).collect(),
            departed: kinds.iter().flat_map(|kind| self.observed.departed(kind, uid)).collect(),
            related: std::collections::BTreeMap::new(),
            outdated: None,
            replies: Replies::default(),
            facts: serde_json::Value::Null,
            now,
        }
    }
}
