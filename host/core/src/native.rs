//! What the operator handles itself, without a plugin: all that the pipeline knows of it.

use std::{fmt::Debug, hash::Hash, sync::Arc, time::Duration};

use serde_json::Value;

use crate::{
    action::Action,
    object::{GroupVersionKind, Object},
    ports::Observed,
    related::Lookup,
    wanted::{Findings, Problem, Snapshot, Wanted},
};

/// How the field managers of native reconcilers begin.
pub const NATIVE: &str = "dask-operator/";

/// A reconciler that is part of the operator: it decides from a snapshot what is wanted of a subject, and what its status says.
pub trait Native: Copy + Debug + Eq + Hash + Ord + Send + Sync + 'static {
    /// What holds for every subject of a process.
    type Environment: Sync;

    /// All of them.
    fn all() -> Vec<Self>;

    /// Short name, the end of the field manager.
    fn name(self) -> &'static str;

    /// Kind of the subjects.
    fn subject(self) -> GroupVersionKind;

    /// Kinds that are kept as summaries only, whoever reads them.
    fn summaries() -> Vec<Summary>;

    /// Kinds of the children.
    fn children(self) -> Vec<GroupVersionKind>;

    /// How it is served.
    fn traits(self) -> Traits;

    /// What else it wants to see of a subject.
    fn lookups(self, subject: &Object, observed: &dyn Observed) -> Vec<Lookup>;

    /// Whether a subject may be written to at `now`, in milliseconds since the Unix epoch.
    fn hold(self, subject: &Object, observed: &dyn Observed, environment: &Self::Environment, now: u64) -> Hold;

    /// Whether nobody else decides about a subject, as far as that is not told by the subject itself.
    fn is_undisputed(
        self,
        subject: &Object,
        observed: &dyn Observed,
        environment: &Self::Environment,
        now: u64,
    ) -> bool;

    /// What is wanted.
    fn reconcile(self, seen: &Snapshot, environment: &Self::Environment) -> Wanted;

    /// What its owner should know of a subject, whatever is wanted for it.
    fn remarks(self, subject: &Object, now: u64) -> Vec<Problem>;

    /// What to do about a child that is refused in these words, for these fields of it; none if nothing is known to help.
    fn remedy(self, seen: &Snapshot, child: &GroupVersionKind, words: &str, fields: &[String]) -> Option<String>;

    /// The subject's status, given what was observed and what the last reconcile left behind.
    fn status(self, seen: &Snapshot, findings: &Findings) -> Value;

    /// Whether the subject's status says already what it should, as far as that is cheap to tell for a reconciler whose
    /// reconciles are many and change little.
    fn is_told(self, seen: &Snapshot, findings: &Findings) -> bool;

    /// Whether `Available` is false with this reason because pods of the subject's own fail, and not because they are about to
    /// start.
    fn has_failing_pods(self, reason: &str) -> bool;

    /// The field manager.
    fn field_manager(self) -> String {
        format!("{NATIVE}{}", self.name())
    }

    /// Whether the reconciler of this name makes objects of this kind.
    fn makes(name: &str, kind: &GroupVersionKind) -> bool {
        let reconciler = Self::all().into_iter().find(|reconciler| reconciler.name() == name);
        reconciler.is_some_and(|reconciler| reconciler.children().iter().any(|child| child.same_kind(kind)))
    }
}

/// How a native reconciler is served.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Traits {
    /// Whether it is the one of several of its subjects' kind that tells what concerns the subject as a whole.
    pub speaks_for_subject: bool,
    /// Whether the status that it writes tells problems.
    pub has_conditions: bool,
    /// Whether what it does depends on the status of its subject and children, too.
    pub heeds_status: bool,
    /// Whether its Events tell of what it does next, after which there may be nothing left to tell it on.
    pub announces: bool,
    /// Whether each child stands for itself, so that one goes whatever becomes of the others.
    pub has_independent_children: bool,
}

/// What is kept of the objects of a kind that are many and large, in their place.
#[derive(Clone, Debug)]
pub struct Summary {
    /// The kind under which summaries are kept. No API server knows it.
    pub kind: GroupVersionKind,
    /// What they are summaries of.
    pub of: GroupVersionKind,
    /// Makes one. The first parameter is `kind`, to be shared.
    pub make: fn(Arc<GroupVersionKind>, &Object) -> Object,
}

/// Whether a subject may be written to.
#[derive(Clone, Debug, PartialEq)]
pub enum Hold {
    /// It may.
    Ours,
    /// Not yet; it is looked at again after so long.
    Wait(Duration),
    /// Not yet, as somebody else is at work on it; it is looked at again after so long.
    Contested(Duration, Problem),
    /// Not before this is done.
    Free(Action),
}
