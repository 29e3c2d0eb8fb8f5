//! Who looks on while a reconcile goes from step to step.

/// A step of a reconcile, in their order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Step {
    /// What there is of the subject is read.
    Observe,
    /// Who decides is asked: a reconciler, or a plugin.
    Decide,
    /// Others change what was decided.
    Build,
    /// The decision is checked.
    Accept,
    /// It is compared with what there is.
    Plan,
    /// What differs is written.
    Write,
    /// What the next reconcile has to know is kept.
    Remember,
}

impl Step {
    /// All of them, in their order.
    pub const ALL: [Self; 7] =
        [Self::Observe, Self::Decide, Self::Build, Self::Accept, Self::Plan, Self::Write, Self::Remember];

    /// The word for it in traces, logs and metrics.
    pub fn name(self) -> &'static str {
        match self {
            Self::Observe => "observe",
            Self::Decide => "decide",
            Self::Build => "build",
            Self::Accept => "accept",
            Self::Plan => "plan",
            Self::Write => "write",
            Self::Remember => "remember",
        }
    }
}

/// Looks on while a reconcile goes from step to step, to trace it or to measure it. It can change nothing.
pub trait Trace: Sync {
    /// Does the work of a step, all of it and once.
    fn step<F: Future<Output: Send> + Send>(&self, step: Step, work: F) -> impl Future<Output = F::Output> + Send;
}

/// Nobody looks on.
pub struct Untraced;

impl Trace for Untraced {
    fn step<F: Future<Output: Send> + Send>(&self, _: Step, work: F) -> impl Future<Output = F::Output> + Send {
        work
    }
}
