//! Which children may be applied as they are wanted: those whose pods would not be restarted by it.

use std::sync::Arc;

use futures_util::future::join_all;

use super::{Pipeline, execute::adopt, state::NativeState};
use crate::{
    action::{Action, Apply, ApplyTarget, Precondition, WriteError, Written},
    inheritance::is_to_be_inherited,
    native::Native,
    object::{NamespacedName, Object, ObjectKey},
    ownership::Author,
    template::{TemplateQuestion, settle},
    wanted::{Settled, Snapshot, WantedChild, target},
};

impl<N: Native> Pipeline<'_, N> {
    /// Makes children the subject's, and compares their templates with the live ones.
    ///
    /// # Errors
    /// When the API server could not be asked about one.
    pub(super) async fn settle_children(
        &self,
        mut children: Vec<WantedChild>,
        seen: &Snapshot,
        author: Author<'_>,
        state: &mut NativeState,
    ) -> Result<Vec<Settled>, WriteError> {
        adopt(&mut children, &seen.subject);
        let mut settled = Vec::with_capacity(children.len());
        let mut compared = Vec::with_capacity(children.len());
        for child in children {
            let (kind, name) = target(&child.object);
            // Of what can't be read nothing is compared: the plan leaves it as it is.
            if seen.child(&kind, name).is_some_and(|live| live.unreadable.is_some()) {
                settled.push(Settled::Apply(child));
                continue;
            }
            let is_heir = |live: &Arc<Object>| {
                is_to_be_inherited(live, author.manager) && author.may_change(live, &seen.subject.metadata.uid)
            };
            if seen.child(&kind, name).is_some_and(is_heir) {
                settled.push(Settled::Inherit(child));
                continue;
            }
            let live = self.live_child(&child, seen, author);
            let question = live.as_ref().and_then(|live| TemplateQuestion::about(&child, live, author.manager));
            compared.push((child, live, question));
        }
        let questions = compared.iter().filter_map(|(_, _, question)| question.as_ref());
        let unanswered: Vec<_> = questions.filter(|question| state.templates.get(question).is_none()).collect();
        let answers = join_all(unanswered.iter().map(|question| self.ask(question, author.manager))).await;
        for (question, answer) in unanswered.into_iter().zip(answers) {
            state.templates.note(question, answer?);
        }
        settled.extend(compared.into_iter().map(|(child, live, question)| {
            let is_same = question.and_then(|question| state.templates.get(&question));
            settle(child, live.as_deref(), author.manager, is_same)
        }));
        Ok(settled)
    }

    /// The child as it is, also if somebody took its owner reference, or the label by which it is watched: that is put back and
    /// no pod restarts. If it is gone, the precondition on its uid says so.
    fn live_child(&self, child: &WantedChild, seen: &Snapshot, author: Author<'_>) -> Option<Arc<Object>> {
        let ObjectKey { kind, at } = child.object_key(&seen.subject);
        let ours = |live: &Arc<Object>| author.may_change(live, &seen.subject.metadata.uid);
        let live = seen.child(&kind, &at.name).cloned().or_else(|| self.observed.get(&kind, &at)).filter(ours);
        live.or_else(|| seen.former_child(&kind, &at.name).cloned().filter(ours))
    }

    async fn ask(&self, question: &TemplateQuestion, manager: &str) -> Result<bool, WriteError> {
        let (kind, name) = target(&question.body);
        let namespace = question.body.pointer("/metadata/namespace").and_then(|namespace| namespace.as_str());
        let at = NamespacedName { namespace: namespace.map(str::to_owned), name: name.to_owned() };
        // What is not served can't be written either, and the plan says so.
        let Some(resource) = self.observed.resource(&kind) else { return Ok(false) };
        let apply = Apply {
            resource,
            object: ObjectKey { kind, at },
            target: ApplyTarget::Object,
            manager: manager.to_owned(),
            precondition: Precondition::Uid(question.uid.clone()),
            body: question.body.clone(),
            force: true,
        };
        match self.writes.write(Action::DryRun(apply)).await {
            Ok(Written::Applied(object)) => Ok(question.is_same(&object)),
            // Refused: it would not be what it is.
            Ok(Written::Deleted)
            | Err(WriteError::Refused { .. } | WriteError::Conflict { .. } | WriteError::Foreign { .. }) => Ok(false),
            Err(
                error @ (WriteError::Stale { .. }
                | WriteError::NotServed { .. }
                | WriteError::Unavailable { .. }
                | WriteError::NotLeader
                | WriteError::Withdrawn),
            ) => Err(error),
        }
    }
}
