//! One reconcile over one subject: observe → handler → accept → plan → write. The same for native reconcilers and plugins,
//! for a real cluster and for one in memory.
//!
//! A reconcile is safe to be cut off between any two writes: the next one looks again and does what is left.

mod build;
mod execute;
mod guest;
mod hold;
mod native;
mod remembered;
mod state;
mod status;
mod steps;
mod templates;
mod trace;
mod unreadable;

pub use build::Builder;
pub use guest::MountedHandler;
pub use remembered::Remembered;
pub use state::{Share, SubjectState};
pub use trace::{Step, Trace, Untraced};

use std::{sync::Arc, time::Duration};

use serde::{Deserialize, Serialize};

use crate::{
    action::WriteError,
    contract::EventNote,
    native::Native,
    object::{GroupVersionKind, NamespacedName, Object},
    ports::{CallReport, Observed, Writes},
    retry::Retry,
    scheduler::{Replies, Scheduler, SchedulerCall},
    wanted::{Findings, Snapshot},
};

use guest::GuestSteps;
use native::NativeSteps;

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

/// The world as a reconcile needs it.
pub struct Pipeline<'a, N: Native> {
    /// Reads.
    pub observed: &'a dyn Observed,
    /// Writes.
    pub writes: &'a dyn Writes,
    /// What holds for every subject.
    pub environment: &'a N::Environment,
    /// What changes the children of native reconcilers before they are applied, in this order.
    pub builders: &'a [Box<dyn Builder>],
}

/// What became of a reconcile.
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct Report {
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

impl<'a, N: Native> Pipeline<'a, N> {
    /// Without builders.
    pub fn new(observed: &'a dyn Observed, writes: &'a dyn Writes, environment: &'a N::Environment) -> Self {
        Self { observed, writes, environment, builders: &[] }
    }
}

impl<N: Native> Pipeline<'_, N> {
    /// Looks at one subject and does what is left to do. `now` is in milliseconds since the Unix epoch.
    pub async fn reconcile(
        &self,
        handler: &Handler<N>,
        at: &NamespacedName,
        state: &mut SubjectState,
        now: u64,
    ) -> Report {
        self.reconcile_traced(handler, at, state, now, &Untraced).await
    }

    /// As [`Self::reconcile`], while somebody looks on.
    pub async fn reconcile_traced(
        &self,
        handler: &Handler<N>,
        at: &NamespacedName,
        state: &mut SubjectState,
        now: u64,
        trace: &impl Trace,
    ) -> Report {
        match handler {
            Handler::Native(native) => {
                let steps = NativeSteps { pipeline: self, native: *native, state: state.native(), now };
                steps::reconcile(steps, at, trace).await
            }
            Handler::Plugin(handler) => {
                let steps = GuestSteps { pipeline: self, handler, state: state.guest(), now, called: None };
                steps::reconcile(steps, at, trace).await
            }
        }
    }

    /// As [`Self::reconcile`], by values that are written down and read again between the steps.
    #[cfg(test)]
    pub(crate) async fn reconcile_as_json(
        &self,
        native: N,
        at: &NamespacedName,
        state: &mut SubjectState,
        now: u64,
    ) -> Report {
        let steps = NativeSteps { pipeline: self, native, state: state.native(), now };
        steps::reconcile(steps::as_json::AsJson(steps), at, &Untraced).await
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
