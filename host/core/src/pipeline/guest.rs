//! A pass of a plugin's handler.

use std::{
    hash::{DefaultHasher, Hash, Hasher},
    sync::Arc,
    time::Duration,
};

use futures_util::future::join_all;
use serde_json::json;
use sha2::{Digest, Sha256};

use super::{Answer, Pass, Pipeline, SubjectState, execute::adopt};
use crate::{
    action::{Action, Apply, ApplyTarget, WriteError},
    contract::{Call, Failure, HandlerDeclaration, Json, OwnedChild, Subject, Trigger, TriggerRequest},
    dask::Settled,
    fields::{hex, holds},
    object::{GroupVersionKind, ManagedFields, NamespacedName, Object, ObjectKey, Resource},
    plugin::{
        Delivery, HANDLER_LABEL, HandlerName, KEY_ANNOTATION, Mounted, PLUGIN_LABEL, Projection, RETRY_ANNOTATION,
        Rights, SUBJECT_UID_LABEL, accept, decide,
    },
    ports::{CallError, CallReport, Guest},
    retry::{PLUGIN_ATTEMPTS, Retry},
    spec::{DASK_PLUGIN_RECORD, DaskPluginRecordSpec, DaskPluginRecordStatus, HandledTrigger, SubjectReference},
    time::rfc3339,
    wanted::{Findings, Problem, Snapshot, SubjectPatch, Wanted},
};

/// A handler of a plugin that is ready, with everything that was decided about it.
pub struct MountedHandler {
    /// Plugin and handler.
    pub name: HandlerName,
    /// What the handler said of itself.
    pub declaration: HandlerDeclaration,
    /// Kind of the subjects.
    pub subject: Resource,
    /// Which subjects.
    pub mounted: Mounted,
    /// What it may do.
    pub rights: Rights,
    /// Kinds of which it may have children.
    pub children: Vec<GroupVersionKind>,
    /// The fields of the subject that it is shown; none: all.
    pub projection: Option<Projection>,
    /// Its configuration.
    pub config: Json,
    /// Fingerprint of its code, configuration and rights: another one is another handler.
    pub code: u64,
    /// Whether fields that others hold are taken.
    pub takes_conflicts: bool,
    /// What answers.
    pub guest: Arc<dyn Guest>,
}

impl MountedHandler {
    fn wants(&self, trigger: &TriggerRequest) -> bool {
        self.declaration.triggers.contains(trigger)
    }

    fn project(&self, object: &Object) -> Json {
        match &self.projection {
            Some(projection) => projection.of(&object.to_value()).to_string(),
            None => object.to_json(),
        }
    }
}

impl Pipeline<'_> {
    pub(super) async fn reconcile_plugin(
        &self,
        handler: &MountedHandler,
        subject: &Arc<Object>,
        state: &mut SubjectState,
        now: u64,
    ) -> Pass {
        if subject.is_paused() {
            return Pass::default();
        }
        let seen = self.snapshot(subject, &handler.children, now);
        self.forget_lost_children(state, &seen);
        if !handler.mounted.matches(subject) {
            return self.let_go(handler, &seen, state).await;
        }
        if handler.wants(&TriggerRequest::Deleted) {
            state.last_seen = Some(Arc::clone(subject));
        }
        let record = self.record(handler, subject);
        state.handled.created |= record.is_some();

        let projected = handler.project(subject);
        let input = fingerprint(handler, subject, &projected);
        if state.parked.is_some_and(|parked| parked == input) {
            return Pass { findings: state.findings.clone(), ..Pass::default() };
        }
        if state.parked.take().is_some() {
            state.backoff.succeed();
        }
        let left = state.answer.as_ref().map(|answer| {
            self.plan(
                &handler.name.field_manager(),
                handler.takes_conflicts,
                state,
                &seen,
                answer.subject.as_ref(),
                answer.children.as_deref(),
            )
        });
        let drifted = left.is_some_and(|plan| !plan.is_empty());
        let delivery = Delivery { input, code: handler.code, drifted, requeued: state.requeued };
        let Some((trigger, redelivery)) = decide(&handler.declaration.triggers, &state.handled, delivery) else {
            return Pass { findings: state.findings.clone(), ..Pass::default() };
        };
        state.requeued = false;
        let call = self.call(handler, &seen, trigger.clone(), redelivery, projected, state.backoff.attempts() + 1);
        let report = handler.guest.call(call).await;
        let mut pass = self.carry_out(handler, &seen, state, &report).await;
        if pass.retry.is_none() {
            state.handled.input =
                (trigger != Trigger::Created || !handler.wants(&TriggerRequest::Observed)).then_some(input);
            state.handled.code = Some(handler.code);
            if trigger == Trigger::Created {
                if !state.handled.created {
                    self.note_created(handler, subject, now, &mut pass, state).await;
                }
                if handler.wants(&TriggerRequest::Observed) {
                    pass.requeue_after = Some(Duration::ZERO);
                }
            }
        } else if pass.retry == Some(Retry::Parked) {
            state.parked = Some(input);
        }
        pass.call = Some(report);
        pass
    }

    /// Accepts an answer and makes it so.
    async fn carry_out(
        &self,
        handler: &MountedHandler,
        seen: &Snapshot,
        state: &mut SubjectState,
        report: &CallReport,
    ) -> Pass {
        let outcome = match &report.result {
            Ok(outcome) => outcome,
            Err(error) => {
                let problem = Problem {
                    permanent: is_permanent(error),
                    ..Problem::passing(error.kind(), format!("{}: {error}", handler.name))
                };
                return failed(state, &seen.subject, vec![problem], asked_delay(error));
            }
        };
        let resource = |kind: &GroupVersionKind| self.observed.resource(kind);
        let wanted = match accept(outcome, &handler.name, &seen.subject, &handler.rights, &resource) {
            Ok(wanted) => wanted,
            Err(problems) => return failed(state, &seen.subject, problems, None),
        };
        let Wanted { subject, children, events, requeue_after, .. } = wanted;
        let children = children.map(|mut children| {
            adopt(&mut children, &seen.subject);
            children.into_iter().map(Settled::Apply).collect::<Vec<_>>()
        });
        // No opinion leaves what an earlier answer said.
        let earlier = state.answer.take();
        let answer = match earlier {
            Some(earlier) => Answer { children: children.or(earlier.children), subject: subject.or(earlier.subject) },
            None => Answer { children, subject },
        };
        let manager = handler.name.field_manager();
        let mut plan = self.plan(
            &manager,
            handler.takes_conflicts,
            state,
            seen,
            answer.subject.as_ref(),
            answer.children.as_deref(),
        );
        state.answer = Some(answer);
        let mut problems = std::mem::take(&mut plan.problems);
        let done = self.execute(plan, state).await;
        problems.extend(
            done.errors.iter().map(|error| Problem::passing(error.kind(), format!("{}: {error}", handler.name))),
        );
        if !done.errors.is_empty() && done.errors.iter().all(is_passing) {
            return disturbed(state, &seen.subject, done.writes);
        }
        if !problems.is_empty() {
            return Pass { writes: done.writes, ..failed(state, &seen.subject, problems, None) };
        }
        state.backoff.succeed();
        state.findings = Findings::default();
        Pass { writes: done.writes, requeue_after, events, ..Pass::default() }
    }

    /// A subject that the handler is not about (any more): nothing is wanted for it.
    async fn let_go(&self, handler: &MountedHandler, seen: &Snapshot, state: &mut SubjectState) -> Pass {
        state.answer = None;
        state.handled = Default::default();
        state.findings = Findings::default();
        self.withdraw(handler, seen, state).await
    }

    /// Removes the handler's children and fields of a subject.
    async fn withdraw(&self, handler: &MountedHandler, seen: &Snapshot, state: &mut SubjectState) -> Pass {
        let manager = handler.name.field_manager();
        let patched = is_patched_by(&seen.subject, &manager);
        let nothing = SubjectPatch { body: json!({"metadata": {}}), guarded: false };
        let plan = self.plan(&manager, handler.takes_conflicts, state, seen, patched.then_some(&nothing), Some(&[]));
        let done = self.execute(plan, state).await;
        let retry = (!done.errors.is_empty()).then(|| state.backoff.fail(&seen.subject.metadata.uid, None, None));
        Pass { writes: done.writes, retry, ..Pass::default() }
    }

    /// Removes what a handler made for a subject, because its plugin is being removed.
    pub async fn remove(
        &self,
        handler: &MountedHandler,
        at: &NamespacedName,
        state: &mut SubjectState,
        now: u64,
    ) -> Pass {
        match self.observed.get(&handler.subject.kind, at) {
            Some(subject) => {
                let seen = self.snapshot(&subject, &handler.children, now);
                self.let_go(handler, &seen, state).await
            }
            None => Pass::default(),
        }
    }

    /// The subject is gone: whoever wants to hear of it does, once, as best as can be.
    pub(super) async fn bury(
        &self,
        handler: &MountedHandler,
        at: &NamespacedName,
        state: &mut SubjectState,
        now: u64,
    ) -> Pass {
        if self.observed.get(&handler.subject.kind, at).is_some() {
            return Pass::default(); // On its way out: its end is another event.
        }
        let former = std::mem::take(state);
        let writes = self.remove_children_of(&former.uid, handler).await;
        let Some(subject) = former.last_seen else { return Pass { writes, ..Pass::default() } };
        let seen = self.snapshot(&subject, &handler.children, now);
        let call = self.call(handler, &seen, Trigger::Deleted, false, handler.project(&subject), 1);
        Pass { call: Some(handler.guest.call(call).await), writes, ..Pass::default() }
    }

    /// A subject that is not seen any more is gone, or lost the labels by which it is watched. Its children are not wanted
    /// in either case; the garbage collector looks after the first only.
    async fn remove_children_of(&self, uid: &str, handler: &MountedHandler) -> usize {
        let manager = handler.name.field_manager();
        let children = handler.children.iter().flat_map(|kind| self.observed.controlled_by(kind, uid));
        let ours = children.filter(|child| child.applied_by(&manager).is_some() && !child.is_being_deleted());
        let deletions = ours.filter_map(|child| {
            let resource = self.observed.resource(&child.kind)?;
            Some(Action::Delete { resource, object: child.key(), uid: child.metadata.uid.clone() })
        });
        let results = join_all(deletions.map(|action| self.writes.write(action))).await;
        results.iter().filter(|result| result.is_ok()).count()
    }

    fn call(
        &self,
        handler: &MountedHandler,
        seen: &Snapshot,
        trigger: Trigger,
        redelivery: bool,
        projected: Json,
        attempt: u32,
    ) -> Call {
        let manager = handler.name.field_manager();
        let ours =
            seen.children.iter().filter(|child| child.applied_by(&manager).is_some() && !child.is_being_deleted());
        let subject = &seen.subject;
        Call {
            handler: handler.name.handler.clone(),
            trigger,
            redelivery,
            attempt,
            now: seen.now,
            subject: Subject {
                api_version: subject.kind.api_version(),
                kind: subject.kind.kind.clone(),
                namespace: subject.metadata.namespace.clone(),
                name: subject.metadata.name.clone(),
                uid: subject.metadata.uid.clone(),
                object: projected,
            },
            related: Vec::new(),
            children: ours
                .map(|child| OwnedChild {
                    key: child.metadata.annotations.get(KEY_ANNOTATION).cloned().unwrap_or_default(),
                    object: child.to_json(),
                })
                .collect(),
            conflicts: Vec::new(),
            config: handler.config.clone(),
        }
    }

    /// That `created` was handled, if it is on record.
    fn record(&self, handler: &MountedHandler, subject: &Object) -> Option<HandledTrigger> {
        let kind = DASK_PLUGIN_RECORD.group_version_kind();
        let record = self.observed.get(&kind, &record_name(handler, subject)?)?;
        let status: DaskPluginRecordStatus = record.field("status")?.ok()?;
        status.handlers.get(&handler.name.handler).filter(|handled| handled.trigger == "created").cloned()
    }

    /// Puts on record that `created` was handled. If that fails, it is delivered again: at least once is what is promised.
    async fn note_created(
        &self,
        handler: &MountedHandler,
        subject: &Object,
        now: u64,
        pass: &mut Pass,
        state: &mut SubjectState,
    ) {
        let kind = DASK_PLUGIN_RECORD.group_version_kind();
        let (Some(at), Some(resource)) = (record_name(handler, subject), self.observed.resource(&kind)) else {
            // There is no place for a record, so it lasts as long as this process.
            state.handled.created = true;
            return;
        };
        let handled = HandledTrigger {
            trigger: "created".to_owned(),
            handled_at: rfc3339(now),
            digest: hex(&Sha256::digest(handler.project(subject))),
        };
        let spec = DaskPluginRecordSpec {
            plugin: handler.name.plugin.clone(),
            subject: SubjectReference {
                api_version: subject.kind.api_version(),
                kind: subject.kind.kind.clone(),
                name: subject.metadata.name.clone(),
                uid: subject.metadata.uid.clone(),
            },
        };
        let mut owner = subject.as_owner();
        // Several plugins keep a record of one subject, and a record holds nobody up.
        owner.block_owner_deletion = false;
        let body = json!({
            "apiVersion": kind.api_version(),
            "kind": kind.kind,
            "metadata": {"name": at.name, "namespace": at.namespace, "ownerReferences": [owner]},
            "spec": spec,
            "status": {"handlers": {handler.name.handler.clone(): handled}},
        });
        let apply = Apply {
            resource,
            object: ObjectKey { kind, at },
            target: ApplyTarget::Object,
            manager: handler.name.field_manager(),
            body,
            force: true,
            creates: false,
        };
        match self.writes.write(Action::Apply(apply)).await {
            Ok(_) => {
                state.handled.created = true;
                pass.writes += 1;
            }
            Err(error) => {
                let why = format!("{}: the record of what was handled: {error}", handler.name);
                state.findings = Problem::passing(error.kind(), why).into();
                *pass = Pass { findings: state.findings.clone(), ..disturbed(state, subject, pass.writes) };
            }
        }
    }
}

/// One record per plugin and subject, beside the subject. Those of cluster-scoped subjects are not served yet.
fn record_name(handler: &MountedHandler, subject: &Object) -> Option<NamespacedName> {
    let namespace = subject.metadata.namespace.as_deref()?;
    Some(NamespacedName::new(namespace, &format!("{}.{}", handler.name.plugin, subject.metadata.uid)))
}

/// Of everything that would be handed over. The resource version is left out: it also moves when nothing else does.
fn fingerprint(handler: &MountedHandler, subject: &Object, projected: &str) -> u64 {
    let mut hasher = DefaultHasher::new();
    handler.code.hash(&mut hasher);
    if handler.projection.is_some() {
        projected.hash(&mut hasher);
    } else {
        let metadata = json!({
            "labels": *subject.metadata.labels,
            "annotations": subject.metadata.annotations,
            "finalizers": subject.metadata.finalizers,
            "ownerReferences": *subject.metadata.owner_references,
            "generation": subject.metadata.generation,
        });
        metadata.to_string().hash(&mut hasher);
        subject.fields.iter().for_each(|(name, value)| (name, value.get()).hash(&mut hasher));
    }
    let retry: Option<&String> = subject.metadata.annotations.get(RETRY_ANNOTATION);
    retry.hash(&mut hasher);
    hasher.finish()
}

fn failed(state: &mut SubjectState, subject: &Object, problems: Vec<Problem>, asked: Option<Duration>) -> Pass {
    // What only a change can help is not tried again before one.
    let permanent = !problems.is_empty() && problems.iter().all(|problem| problem.permanent);
    let limit = if permanent { Some(0) } else { Some(PLUGIN_ATTEMPTS) };
    let retry = state.backoff.fail(&subject.metadata.uid, limit, asked);
    state.findings = Findings { problems, ..Findings::default() };
    Pass { retry: Some(retry), findings: state.findings.clone(), ..Pass::default() }
}

/// Our view was old, or the API server was away: nothing that the plugin or its grants could be blamed for, so it is not
/// given up on the subject, and no problem is shown that goes away by itself.
fn disturbed(state: &mut SubjectState, subject: &Object, writes: usize) -> Pass {
    let retry = state.backoff.fail(&subject.metadata.uid, None, None);
    Pass { retry: Some(retry), writes, ..Pass::default() }
}

fn is_passing(error: &WriteError) -> bool {
    matches!(error, WriteError::Stale { .. } | WriteError::NotLeader | WriteError::Unavailable { .. })
}

/// Whether there are patches of a handler in an object. Its children have the same manager and may be of the same kind as its
/// subjects. They are told apart by what only a child is given, any of which may have been taken from it: its owner, and
/// names that no patch may use.
fn is_patched_by(object: &Object, manager: &str) -> bool {
    let held = object.applied_by(manager).and_then(ManagedFields::decoded);
    let marks = [
        ["labels", PLUGIN_LABEL],
        ["labels", HANDLER_LABEL],
        ["labels", SUBJECT_UID_LABEL],
        ["annotations", KEY_ANNOTATION],
    ];
    held.is_some_and(|held| {
        !holds(&held, &["metadata", "ownerReferences"])
            && !marks.iter().any(|[map, name]| holds(&held, &["metadata", map, name]))
    })
}

fn is_permanent(error: &CallError) -> bool {
    matches!(error, CallError::Handler(Failure::Permanent { .. }))
}

fn asked_delay(error: &CallError) -> Option<Duration> {
    match error {
        CallError::Handler(Failure::Temporary { retry_after, .. }) => *retry_after,
        _ => None,
    }
}

impl std::fmt::Debug for MountedHandler {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("MountedHandler")
            .field("name", &self.name)
            .field("subject", &self.subject.kind)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn applied(fields: serde_json::Value) -> Object {
        let entry = json!({
            "manager": "dask-plugin/p/h", "operation": "Apply", "apiVersion": "v1", "fieldsType": "FieldsV1",
            "fieldsV1": fields,
        });
        let object = json!({
            "apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "c", "uid": "u", "managedFields": [entry]},
        });
        Object::from_value(&object).unwrap()
    }

    #[test]
    fn a_child_of_the_kind_of_the_subjects_is_not_taken_for_a_patched_subject_whatever_was_taken_from_it() {
        let label = |name: &str| json!({"f:metadata": {"f:labels": {format!("f:{name}"): {}}}});
        for left in [
            json!({"f:data": {}, "f:metadata": {"f:ownerReferences": {}}}),
            label(PLUGIN_LABEL),
            label(HANDLER_LABEL),
            label(SUBJECT_UID_LABEL),
            json!({"f:metadata": {"f:annotations": {format!("f:{KEY_ANNOTATION}"): {}}}}),
        ] {
            assert!(!is_patched_by(&applied(left.clone()), "dask-plugin/p/h"), "{left}");
        }
        let patched = applied(label("team"));
        assert!(is_patched_by(&patched, "dask-plugin/p/h"));
        assert!(!is_patched_by(&patched, "dask-plugin/p/other"));
    }
}
