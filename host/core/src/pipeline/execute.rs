//! Carries out a plan: one stage after the other, the actions of a stage at once.

use std::collections::BTreeSet;

use futures_util::future::join_all;
use serde_json::json;

use super::Pipeline;
use crate::{
    action::{Action, Apply, ApplyTarget, Precondition, WriteError, Written},
    fields::fingerprint,
    identity::Identity,
    native::Native,
    object::Object,
    ownership::Author,
    plan::{Memory, Plan, Planner, is_applied, next_apply},
    ports::Mandate,
    wanted::{Settled, Snapshot, SubjectPatch, WantedChild, WantedFields},
};

/// The number of the stage in which children are applied.
const CHILDREN: usize = 1;

/// What came of a plan.
#[derive(Debug, Default)]
pub(super) struct Done {
    pub(super) writes: usize,
    pub(super) errors: Vec<WriteError>,
    /// Whether what is recorded on the subject is as the plan has it.
    pub(super) is_recorded: bool,
}

impl<N: Native> Pipeline<'_, N> {
    pub(super) fn plan(
        &self,
        author: Author<'_>,
        memory: &Memory,
        seen: &Snapshot,
        subject: Option<&SubjectPatch>,
        children: Option<Vec<Settled>>,
    ) -> Plan {
        let planner = Planner {
            author,
            resource: &|kind| self.observed.resource(kind),
            live: &|kind, at| self.observed.get(kind, at),
            memory,
        };
        planner.plan(seen, subject, children)
    }

    /// Adds the applies of fields on objects that the subject does not own.
    pub(super) fn plan_fields(&self, manager: &str, memory: &Memory, fields: &[WantedFields], plan: &mut Plan) {
        for WantedFields { object, body } in fields {
            let Some(resource) = self.observed.resource(&object.kind) else { continue };
            let mut body = body.clone();
            body["apiVersion"] = json!(object.kind.api_version());
            body["kind"] = json!(object.kind.kind);
            body["metadata"]["name"] = json!(object.metadata.name);
            if is_applied(memory, manager, &body, object) {
                continue;
            }
            let body = next_apply(manager, body, object);
            plan.children.push(Action::Apply(Apply {
                resource,
                object: object.key(),
                target: ApplyTarget::Object,
                manager: manager.to_owned(),
                precondition: Precondition::unchanged(object),
                body,
                force: true,
            }));
        }
    }

    pub(super) fn deletion(&self, subject: &Object) -> Vec<Action> {
        let resource = self.observed.resource(&subject.kind);
        let uid = subject.metadata.uid.clone();
        let delete = |resource| Action::Delete { resource, object: subject.key(), uid, resource_version: None };
        resource.map(delete).into_iter().collect()
    }

    /// Writes in the name of `identity`.
    pub(super) async fn execute(&self, plan: Plan, identity: &Identity, memory: &mut Memory) -> Done {
        let mut done = Done::default();
        for (number, stage) in [plan.subject, plan.children, plan.prunes, plan.subject_end].into_iter().enumerate() {
            let results = join_all(stage.into_iter().map(|action| self.perform(action, identity))).await;
            let mut has_failed = false;
            for (applied, result) in results {
                match result {
                    Ok(Written::Applied(answer)) => {
                        if let Some((manager, wanted)) = applied {
                            memory.note(&manager, wanted, &answer);
                        }
                        done.writes += 1;
                    }
                    Ok(Written::Deleted) => done.writes += 1,
                    Err(error) => {
                        // A child's place that somebody else has keeps nothing from being done, known before or not.
                        has_failed |= number != CHILDREN || !matches!(error, WriteError::Foreign { .. });
                        done.errors.push(error);
                    }
                }
            }
            if has_failed {
                break;
            }
            done.is_recorded |= number == 0;
        }
        done
    }

    /// Performs an action; answers also the manager and the fingerprint of what it applies.
    async fn perform(
        &self,
        action: Action,
        identity: &Identity,
    ) -> (Option<(String, u64)>, Result<Written, WriteError>) {
        let applied = action.as_apply().map(|apply| (apply.manager.clone(), fingerprint(&apply.body)));
        let mandate = Mandate { identity: identity.clone(), ..Mandate::default() };
        (applied, self.writes.write_under(action, mandate).await)
    }
}

/// The uids of what is there: the subject and its children. What is remembered of others can be forgotten.
pub(super) fn there(seen: &Snapshot) -> BTreeSet<&str> {
    seen.children.iter().chain([&seen.subject]).map(|object| object.metadata.uid.as_str()).collect()
}

/// Makes children the subject's: its namespace, and a controller reference to it.
pub(super) fn adopt(children: &mut [WantedChild], subject: &Object) {
    for child in children {
        child.object["metadata"]["ownerReferences"] = json!([subject.as_owner()]);
        if let Some(namespace) = &subject.metadata.namespace {
            child.object["metadata"]["namespace"] = json!(namespace);
        }
    }
}
