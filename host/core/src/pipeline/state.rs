//! What is remembered of one subject between the reconciles of one handler. Losing it costs work, never correctness.

use std::time::Duration;

use serde_json::Value;

use crate::{
    conflict::Conflict,
    object::Object,
    plan::Memory,
    plugin::Cursors,
    retry::{Backoff, Retry},
    scheduler::{Replies, SchedulerCall, SchedulerError, SchedulerReply},
    template::TemplateAnswers,
    wanted::{Findings, Found, Problem},
};

/// Problems that are remembered as told.
const TOLD: usize = 32;

/// See the module: one of these, depending on who handles the subject.
#[derive(Default)]
pub struct SubjectState {
    native: Option<Box<NativeState>>,
    guest: Option<Box<GuestState>>,
    announced: Option<Box<Announced>>,
}

/// What is remembered whoever handles the subject.
#[derive(Default)]
pub(super) struct Common {
    pub(super) uid: String,
    /// What the API server has answered to applies.
    pub(super) memory: Memory,
    pub(super) backoff: Backoff,
    /// What the last reconcile left behind.
    pub(super) findings: Findings,
}

/// What is remembered for a native reconciler.
#[derive(Default)]
pub(super) struct NativeState {
    pub(super) common: Common,
    /// What the API server has said of templates.
    pub(super) templates: TemplateAnswers,
    /// Whether a reconcile has found out anything of this subject.
    found: bool,
    /// Whether there was a reconcile that looked at all of it.
    pub(super) looked: bool,
    /// Whether the subject was paused in the last reconcile.
    pub(super) paused: bool,
    /// What the subject's scheduler has said.
    pub(super) replies: Replies,
}

/// What is remembered for a plugin's handler.
#[derive(Default)]
pub(super) struct GuestState {
    pub(super) common: Common,
    /// How many children the last answer that had an opinion on them held.
    pub(super) children: usize,
    /// Fingerprint of what the handler held in the cluster when all was as it had answered.
    pub(super) held: Option<u64>,
    /// Whether there are patches of the handler in the subject.
    pub(super) patched: bool,
    /// How far the handler has come with each of its triggers.
    pub(super) cursors: Cursors,
    /// The input at which it was parked.
    pub(super) parked: Option<u64>,
    /// Fields of the last answer that others held.
    pub(super) conflicts: Vec<Conflict>,
    /// What was told when it was parked, since the handler last succeeded.
    pub(super) told: Vec<Problem>,
    /// The subject asked to be looked at again, and the time has come.
    pub(super) requeued: bool,
}

/// What a status has announced that is not stored whole.
#[derive(Default)]
pub(super) struct Announced {
    pub(super) uid: String,
    pub(super) status: Value,
}

/// What the state of one handler and subject adds to the figures of the handler.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Share {
    /// Whether the handler was called for the subject, or is given up on it.
    pub is_handled: bool,
    /// Whether the handler is not called for the subject until something changes.
    pub is_parked: bool,
    /// How many children the last answer held.
    pub children: u16,
}

impl Common {
    fn of(subject: &Object) -> Self {
        Self { uid: subject.metadata.uid.clone(), ..Self::default() }
    }

    /// What is still relied on when nothing else of it can be: which subject it is about, and how often a reconcile failed.
    fn start_over(&mut self) -> Self {
        let Self { uid, backoff, .. } = std::mem::take(self);
        Self { uid, backoff, ..Self::default() }
    }
}

/// What is remembered of one subject, whoever handles it.
pub(super) trait OfSubject: Default {
    fn common(&mut self) -> &mut Common;

    /// Forgets what is remembered of another object of the same name.
    fn is_about(&mut self, subject: &Object) {
        if self.common().uid != subject.metadata.uid {
            *self = Self::default();
            *self.common() = Common::of(subject);
        }
    }
}

impl OfSubject for NativeState {
    fn common(&mut self) -> &mut Common {
        &mut self.common
    }
}

impl OfSubject for GuestState {
    fn common(&mut self) -> &mut Common {
        &mut self.common
    }
}

impl NativeState {
    /// A reconcile has found this out.
    pub(super) fn find(&mut self, findings: &Findings) {
        self.common.findings = findings.clone();
        self.found = true;
    }

    /// Nothing is done before an object can be read. What was found out before is as true as it was.
    pub(super) fn await_reading(&mut self, problem: Problem) {
        let findings = Findings { problems: vec![problem], ..self.common.findings.clone() };
        self.find(&findings);
        self.looked = false;
    }
}

impl GuestState {
    /// Nothing is wanted for the subject any more.
    pub(super) fn let_go(&mut self) {
        let memory = std::mem::take(&mut self.common.memory);
        *self = Self { common: Common { memory, ..self.common.start_over() }, ..Self::default() };
    }

    /// What it adds to the figures of its handler.
    pub(super) fn share(&self) -> Share {
        Share {
            is_handled: self.cursors.has_handled() || self.common.backoff.attempts() > 0,
            is_parked: self.parked.is_some(),
            children: u16::try_from(self.children).unwrap_or(u16::MAX),
        }
    }

    fn is_news(&mut self, problems: &[Problem]) -> bool {
        let new: Vec<_> = problems.iter().filter(|problem| !problem.is_among(&self.told)).cloned().collect();
        let is_news = !new.is_empty();
        self.told.extend(new);
        let excess = self.told.len().saturating_sub(TOLD);
        self.told.drain(..excess);
        is_news
    }
}

impl SubjectState {
    /// As a native reconciler needs it.
    pub(super) fn native(&mut self) -> &mut NativeState {
        self.native.get_or_insert_default()
    }

    /// As a plugin's handler needs it.
    pub(super) fn guest(&mut self) -> &mut GuestState {
        self.guest.get_or_insert_default()
    }

    /// As a status needs it that is not stored whole.
    pub(super) fn announced(&mut self) -> &mut Announced {
        self.announced.get_or_insert_default()
    }

    /// The state of a plugin's handler, if it is that.
    pub(super) fn into_guest(self) -> Result<Box<GuestState>, Self> {
        match self {
            Self { native: None, guest: Some(guest), announced: None } => Ok(guest),
            other => Err(other),
        }
    }

    fn common(&self) -> Option<&Common> {
        let native = self.native.as_ref().map(|state| &state.common);
        native.or_else(|| self.guest.as_ref().map(|state| &state.common))
    }

    /// What the last reconcile left behind.
    pub fn findings(&self) -> Findings {
        self.common().map(|common| common.findings.clone()).unwrap_or_default()
    }

    /// What a native reconciler has found out of its subject, for the status; none: nothing yet.
    pub fn found(&self) -> Option<Found> {
        let NativeState { common, .. } = self.native.as_ref().filter(|state| state.found).map(AsRef::as_ref)?;
        Some(Found { uid: common.uid.clone(), findings: common.findings.clone() })
    }

    /// Whether one of these was not told since the plugin's handler last succeeded. From now on they are told.
    pub fn is_news(&mut self, problems: &[Problem]) -> bool {
        self.guest().is_news(problems)
    }

    /// What it adds to the figures of its handler.
    pub fn share(&self) -> Share {
        match &self.guest {
            Some(guest) => guest.share(),
            None => Share { is_handled: self.attempts() > 0, ..Share::default() },
        }
    }

    /// How many reconciles have failed, one after the other.
    pub fn attempts(&self) -> u32 {
        self.common().map_or(0, |common| common.backoff.attempts())
    }

    /// The subject asked a plugin's handler to look at it again, and the time has come.
    pub fn requeue(&mut self) {
        self.guest().requeued = true;
    }

    /// What its last reconcile met with has changed.
    pub fn hope(&mut self) {
        let native = self.native.iter_mut().map(|state| &mut state.common);
        native.chain(self.guest.iter_mut().map(|state| &mut state.common)).for_each(|common| common.backoff.hope());
    }

    /// A scheduler was called, and this came of it at `now`, in milliseconds since the Unix epoch.
    pub fn heard(&mut self, call: &SchedulerCall, result: Result<SchedulerReply, SchedulerError>, now: u64) {
        self.native().replies.note(call, result, now);
    }

    /// Whether the scheduler had no answer to this call the last time.
    pub fn was_called_in_vain(&self, call: &SchedulerCall) -> bool {
        let heard = self.native.as_ref().and_then(|state| state.replies.fresh(call, Duration::MAX, u64::MAX));
        heard.is_some_and(|heard| heard.result.is_err())
    }

    /// A reconcile broke off in the middle: nothing that is remembered can be relied on, but how often that happened.
    pub fn broke_off(&mut self) -> Retry {
        let common = match &mut self.native {
            Some(native) => {
                **native = NativeState { common: native.common.start_over(), ..NativeState::default() };
                &mut native.common
            }
            None => {
                let guest = self.guest();
                *guest = GuestState { common: guest.common.start_over(), ..GuestState::default() };
                &mut guest.common
            }
        };
        common.backoff.fail(&common.uid, None, None)
    }

    /// Whether nothing is remembered: no reconcile has found the subject, or its end has been dealt with, and none broke off.
    pub fn is_spent(&self) -> bool {
        let is_empty = |common: &Common| common.uid.is_empty() && common.backoff.attempts() == 0;
        self.native.as_ref().is_none_or(|state| is_empty(&state.common))
            && self.guest.as_ref().is_none_or(|state| is_empty(&state.common) && !state.cursors.has_old())
            && self.announced.as_ref().is_none_or(|state| state.uid.is_empty())
    }
}

impl From<GuestState> for SubjectState {
    fn from(state: GuestState) -> Self {
        Self { guest: Some(Box::new(state)), ..Self::default() }
    }
}
