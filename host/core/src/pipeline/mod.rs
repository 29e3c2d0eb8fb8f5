//! One pass over one subject: observe → handler → accept → plan → write. The same for native reconcilers and plugins, for a
//! real cluster and for one in memory.
//!
//! A pass is safe to be cut off between any two writes: the next one looks again and does what is left.

mod execute;
mod guest;
mod hold;
mod native;
mod remembered;
mod status;
mod templates;
mod unreadable;

pub use guest::MountedHandler;
pub use remembered::{Remembered, Share};

use std::{sync::Arc, time::Duration};

use crate::{
    action::WriteError,
    contract::EventNote,
    native::Native,
    object::{GroupVersionKind, NamespacedName, Object},
    plan::Memory,
    plugin::Handled,
    ports::{CallReport, Observed, Writes},
    retry::{Backoff, Retry},
    scheduler::{Replies, Scheduler, SchedulerCall, SchedulerError, SchedulerReply},
    template::TemplateAnswers,
    wanted::{Findings, Found, Problem, Snapshot},
};
use unreadable::leave_unreadable;

/// Problems that are remembered as told.
const TOLD: usize = 32;

/// Who handles a subject.
#[derive(Clone)]
pub enum Handler<N> {
    /// A reconciler of the operator.
    Native(N),
    /// A handler of a plugin.
    Plugin(Arc<MountedHandler>),
}

impl<N: Native> Handler<N> {
    /// Kind of the subjects.
    pub fn subject(&self) -> GroupVersionKind {
        match self {
            Self::Native(native) => native.subject(),
            Self::Plugin(handler) => handler.subject.kind.clone(),
        }
    }

    /// The manager under which everything is applied.
    pub fn field_manager(&self) -> String {
        match self {
            Self::Native(native) => native.field_manager(),
            Self::Plugin(handler) => handler.name.field_manager(),
        }
    }
}

/// The world as a pass needs it.
pub struct Pipeline<'a, N: Native> {
    /// Reads.
    pub observed: &'a dyn Observed,
    /// Writes.
    pub writes: &'a dyn Writes,
    /// What holds for every subject.
    pub environment: &'a N::Environment,
}

/// What is remembered of one subject between the passes of one handler. Losing it costs work, never correctness.
#[derive(Default)]
pub struct SubjectState {
    uid: String,
    memory: Memory,
    /// Of a native reconciler: what the API server has said of templates.
    templates: TemplateAnswers,
    backoff: Backoff,
    /// What the last pass left behind.
    findings: Findings,
    /// Of a native reconciler: whether a pass has found out anything of this subject.
    found: bool,
    /// Of a native reconciler: whether there was a pass that looked at all of it.
    looked: bool,
    /// Of a native reconciler: whether the subject was paused in the last pass.
    paused: bool,
    /// Of a native reconciler: what the subject's scheduler has said.
    replies: Replies,
    /// Of a status that is not stored whole: what it said last.
    said: serde_json::Value,
    /// Of a plugin: how many children the last answer that had an opinion on them held.
    children: usize,
    /// Of a plugin: fingerprint of what its handler held in the cluster when all was as it had answered.
    held: Option<u64>,
    /// Of a plugin: whether there are patches of its handler in the subject.
    patched: bool,
    handled: Handled,
    /// Of a plugin: the input at which it was parked.
    parked: Option<u64>,
    /// Of a plugin: what was told when it was parked, since its handler last succeeded.
    told: Vec<Problem>,
    requeued: bool,
    /// The subject as it was last seen, kept for handlers that want to hear of its end.
    last_seen: Option<Arc<Object>>,
}

impl SubjectState {
    /// What the last pass left behind.
    pub fn findings(&self) -> &Findings {
        &self.findings
    }

    /// What a native reconciler has found out of its subject, for the status; none: nothing yet.
    pub fn found(&self) -> Option<Found> {
        self.found.then(|| Found { uid: self.uid.clone(), findings: self.findings.clone() })
    }

    /// A pass of a native reconciler has found this out.
    fn find(&mut self, findings: &Findings) {
        self.findings = findings.clone();
        self.found = true;
    }

    /// Whether one of these was not told since the handler last succeeded. From now on they are told.
    pub fn is_news(&mut self, problems: &[Problem]) -> bool {
        let new: Vec<_> = problems.iter().filter(|problem| !problem.is_among(&self.told)).cloned().collect();
        let is_news = !new.is_empty();
        self.told.extend(new);
        let excess = self.told.len().saturating_sub(TOLD);
        self.told.drain(..excess);
        is_news
    }

    /// What it adds to the figures of its handler.
    pub fn share(&self) -> Share {
        Share {
            is_handled: self.handled.input.is_some() || self.handled.created || self.backoff.attempts() > 0,
            is_parked: self.parked.is_some(),
            children: u16::try_from(self.children).unwrap_or(u16::MAX),
        }
    }

    /// The subject asked to be looked at again, and the time has come.
    pub fn requeue(&mut self) {
        self.requeued = true;
    }

    /// What its last pass met with has changed.
    pub fn hope(&mut self) {
        self.backoff.hope();
    }

    /// A scheduler was called, and this came of it at `now`, in milliseconds since the Unix epoch.
    pub fn heard(&mut self, call: &SchedulerCall, result: Result<SchedulerReply, SchedulerError>, now: u64) {
        self.replies.note(call, result, now);
    }

    /// Whether the scheduler had no answer to this call the last time.
    pub fn was_called_in_vain(&self, call: &SchedulerCall) -> bool {
        self.replies.fresh(call, Duration::MAX, u64::MAX).is_some_and(|heard| heard.result.is_err())
    }

    /// Forgets what is remembered of another object of the same name.
    fn is_about(&mut self, subject: &Object) {
        if self.uid != subject.metadata.uid {
            *self = Self { uid: subject.metadata.uid.clone(), ..Self::default() };
        }
    }

    /// A pass broke off in the middle: nothing that is remembered can be relied on, but how often that happened.
    pub fn broke_off(&mut self) -> Retry {
        let Self { uid, backoff, .. } = std::mem::take(self);
        *self = Self { uid, backoff, ..Self::default() };
        self.backoff.fail(&self.uid, None, None)
    }

    /// Nothing is wanted for the subject any more.
    fn let_go(&mut self) {
        let Self { uid, memory, backoff, .. } = std::mem::take(self);
        *self = Self { uid, memory, backoff, ..Self::default() };
    }

    /// Whether nothing is remembered: no pass has found the subject, or its end has been dealt with, and none broke off.
    pub fn is_spent(&self) -> bool {
        self.last_seen.is_none() && self.uid.is_empty() && self.backoff.attempts() == 0
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
    /// When to look again, whatever failed.
    pub requeue_after: Option<Duration>,
    /// What is to be said to a scheduler; what it depends on is written.
    pub calls: Vec<(Scheduler, SchedulerCall)>,
    /// Events to be posted on the subject.
    pub events: Vec<EventNote>,
    /// The call of the plugin, if there was one.
    pub call: Option<CallReport>,
    /// What can't be done, and what was found out.
    pub findings: Findings,
    /// Of a native reconciler: whether the status says so already. False where only [`Pipeline::publish`] can tell.
    pub is_told: bool,
}

impl<N: Native> Pipeline<'_, N> {
    /// Looks at one subject and does what is left to do. `now` is in milliseconds since the Unix epoch.
    pub async fn reconcile(
        &self,
        handler: &Handler<N>,
        at: &NamespacedName,
        state: &mut SubjectState,
        now: u64,
    ) -> Pass {
        let subject = self.observed.get(&handler.subject(), at);
        if let Some(subject) = &subject
            && let Some(pass) = leave_unreadable(handler, subject, state)
        {
            return pass;
        }
        if let (Some(subject), Handler::Native(native)) = (&subject, handler) {
            state.is_about(subject);
            if let Some(pass) = self.free(*native, subject, state, now).await {
                return pass;
            }
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
        state.is_about(&subject);
        let mut pass = match handler {
            Handler::Native(native) => self.reconcile_native(*native, &subject, state, now).await,
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
            known_fields: self.observed.known_fields(),
            facts: serde_json::Value::Null,
            now,
        }
    }
}

/// Whether a write failed for nothing that was found out about its object.
fn is_passing(error: &WriteError) -> bool {
    matches!(
        error,
        WriteError::Stale { .. } | WriteError::NotLeader | WriteError::Withdrawn | WriteError::Unavailable { .. }
    )
}
