//! What else is wanted of the children of a native reconciler, before they are applied: by builders, in turn.

use super::Pipeline;
use crate::{
    native::Native,
    ports::Pending,
    wanted::{Problem, Settled, Snapshot, Wanted, WantedChild},
};

/// Changes a child that a native reconciler wants. What it changes later follows the same rules as a change by the user.
pub trait Builder: Send + Sync {
    /// The child as it should be, from the child as the reconciler and the builders before want it.
    ///
    /// # Errors
    /// When it can't tell: the child is then held back. What there is of it stays as it is.
    fn build<'a>(&'a self, seen: &'a Snapshot, child: WantedChild) -> Pending<'a, Result<WantedChild, Problem>>;
}

impl<N: Native> Pipeline<'_, N> {
    /// The children as the builders want them, and those that are held back.
    pub(super) async fn build(&self, seen: &Snapshot, children: Vec<WantedChild>) -> (Vec<WantedChild>, Vec<Settled>) {
        let (mut built, mut held_back) = (Vec::with_capacity(children.len()), Vec::new());
        for child in children {
            match self.build_one(seen, child.clone()).await {
                Ok(child) => built.push(child),
                Err(problem) => held_back.push(Settled::HeldBack { child, problem }),
            }
        }
        (built, held_back)
    }

    async fn build_one(&self, seen: &Snapshot, mut child: WantedChild) -> Result<WantedChild, Problem> {
        for builder in self.builders {
            child = builder.build(seen, child).await?;
        }
        Ok(child)
    }
}

/// What a native reconciler has decided.
#[derive(Debug)]
#[cfg_attr(test, derive(serde::Serialize, serde::Deserialize))]
pub(super) struct Decision {
    pub(super) wanted: Wanted,
    /// Children that wait for a builder.
    pub(super) held_back: Vec<Settled>,
}
