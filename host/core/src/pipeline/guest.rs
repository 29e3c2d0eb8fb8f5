//! A reconcile of a plugin's handler.

mod conflicts;
mod end;
mod handler;
mod record;

use std::{
    hash::{DefaultHasher, Hash, Hasher},
    ops::ControlFlow,
    sync::Arc,
    time::Duration,
};

use super::{
    Pipeline, Report,
    execute::{Done, adopt, there},
    is_passing,
    state::{GuestState, OfSubject as _},
    steps::{Accepted, Steps},
    unreadable::unreadable,
};
use crate::{
    action::{WriteError, is_about_what_cannot_change},
    contract::{Call, EventNote, Failure, Json, OwnedChild, Subject, TriggerRequest},
    identity::Identity,
    native::Native,
    object::{GroupVersionKind, NamespacedName, Object},
    ownership::is_patched_by,
    plan::{Memory, Plan},
    plugin::{Delivery, Handled, HandlerName, KEY_ANNOTATION, Seen, There, accept, decide},
    ports::{CallError, CallReport},
    retry::{PLUGIN_ATTEMPTS, Retry},
    wanted::{Findings, Problem, Settled, Snapshot, Wanted},
};

pub use handler::MountedHandler;

/// Problems of one failure that are kept and shown, and how much of each: the rest is the answer's own repetition.
const PROBLEMS: usize = 10;

/// A reconcile by a plugin's handler.
pub(super) struct GuestSteps<'a, N: Native> {
    pub(super) pipeline: &'a Pipeline<'a, N>,
    pub(super) handler: &'a MountedHandler,
    pub(super) state: &'a mut GuestState,
    pub(super) now: u64,
    pub(super) called: Option<Called>,
}

/// A call of the handler.
pub(super) struct Called {
    delivery: Delivery,
    /// Fingerprint of what it was called with.
    input: u64,
    report: CallReport,
}

impl<N: Native> GuestSteps<'_, N> {
    /// The reconcile ends here, with what was found before.
    fn rest(&self) -> Report {
        Report { findings: self.state.common.findings.clone(), ..Report::default() }
    }

    fn plan_of(&self, seen: &Snapshot, Accepted { wanted, children }: &Accepted) -> Plan {
        let manager = self.handler.name.field_manager();
        let author = self.handler.author(&manager, N::makes);
        self.pipeline.plan(author, &self.state.common.memory, seen, wanted.subject.as_ref(), children.clone())
    }

    /// All is as the handler answered.
    async fn succeed(&mut self, seen: &Snapshot, accepted: &Accepted) {
        let (pipeline, handler) = (self.pipeline, self.handler);
        // What somebody changed meanwhile is no part of it, and is found at the next look.
        let after = pipeline.snapshot(&pipeline.latest(&seen.subject), &handler.children, seen.now);
        // What was answered to the applies is remembered only where the objects do not show that they are as wanted.
        let answers = std::mem::take(&mut self.state.common.memory);
        let mut left = self.plan_of(&after, accepted);
        let shows_all = after.children.iter().chain([&after.subject]).all(|object| !object.kind.describes_pods());
        if answers != Memory::default() && !(shows_all && left.is_empty()) {
            self.state.common.memory = answers;
            left = self.plan_of(&after, accepted);
        }
        self.state.held = left.is_empty().then(|| held(&handler.name.field_manager(), &after));
        self.state.common.backoff.succeed();
        self.state.common.findings = Findings::default();
        self.state.told.clear();
    }

    /// That the handler succeeded with its call.
    async fn note_success(&mut self, seen: &Snapshot, report: &mut Report) {
        let Some(Called { delivery: Delivery { request, mark, .. }, .. }) = &self.called else { return };
        let handler = self.handler;
        if *request == TriggerRequest::Created && self.state.cursors.handled(request).is_none() {
            self.pipeline.note_created(handler, &seen.subject, self.now, report, self.state).await;
        } else {
            self.state.cursors.set_handled(request, Some(Handled::Here(*mark)));
        }
        // Who hears of what has happened hears next of what there is since then.
        if *request != TriggerRequest::Observed && handler.wants(&TriggerRequest::Observed) {
            self.state.cursors.set_handled(&TriggerRequest::Observed, None);
            report.requeue_after = Some(Duration::ZERO);
        }
    }
}

impl<N: Native> Steps for GuestSteps<'_, N> {
    /// What the handler has answered is kept in `called`, whatever becomes of it.
    type Decision = ();

    async fn observe(&mut self, at: &NamespacedName) -> ControlFlow<Report, Snapshot> {
        let (pipeline, handler) = (self.pipeline, self.handler);
        let subject = pipeline.observed.get(&handler.subject.kind, at);
        let Some(subject) = subject.filter(|subject| !subject.is_being_deleted()) else {
            return ControlFlow::Break(pipeline.bury(handler, at, self.state, self.now).await);
        };
        self.state.is_about(&subject);
        if let Some(problem) = unreadable(&subject) {
            let events = unreadable_event::<N>(handler, &subject, &problem).into_iter().collect();
            return ControlFlow::Break(Report { alive: true, events, ..self.rest() });
        }
        if subject.is_paused() {
            return ControlFlow::Break(Report { alive: true, ..self.rest() });
        }
        let seen = pipeline.snapshot(&subject, &handler.children, self.now);
        self.state.common.memory.keep_only(&there(&seen));
        if !handler.mounted.matches(&subject) {
            return ControlFlow::Break(Report { alive: true, ..pipeline.let_go(handler, &seen, self.state).await });
        }
        if handler.wants(&TriggerRequest::Deleted) {
            self.state.cursors.set_old(&TriggerRequest::Deleted, Some(Arc::clone(&subject)));
        }
        self.state.patched = is_patched_by(&subject, &handler.name.field_manager());
        let created = &TriggerRequest::Created;
        if self.state.cursors.handled(created).is_none() && pipeline.record(handler, &subject).is_some() {
            self.state.cursors.set_handled(created, Some(Handled::OnRecord));
        }
        ControlFlow::Continue(seen)
    }

    async fn decide(&mut self, seen: &mut Snapshot) -> ControlFlow<Report, ()> {
        let (handler, subject) = (self.handler, &seen.subject);
        let projected = handler.project(subject);
        let input = handler.fingerprint(subject, &projected);
        if let Some(parked) = self.state.parked {
            let is_other = parked != input;
            if !is_other && !self.state.requeued {
                return ControlFlow::Break(self.rest());
            }
            self.state.parked = None;
            if is_other {
                self.state.common.backoff.succeed();
            }
        }
        let state = &mut *self.state;
        let held = held(&handler.name.field_manager(), seen);
        let drifted = state.cursors.has_handled_here() && state.held != Some(held);
        let there = There { input, code: handler.code, drifted, requeued: state.requeued };
        let Some(delivery) = decide(&handler.declaration.triggers, &state.cursors, Seen::There(there)) else {
            return ControlFlow::Break(self.rest());
        };
        state.requeued = false;
        let call = self.pipeline.call(handler, seen, &delivery, projected, state);
        let report = handler.guest.call(call).await;
        self.called = Some(Called { delivery, input, report });
        ControlFlow::Continue(())
    }

    async fn accept(&mut self, seen: &Snapshot, (): ()) -> ControlFlow<Report, Accepted> {
        let (handler, subject) = (self.handler, &seen.subject);
        let Some(Called { delivery, report, .. }) = &self.called else { return ControlFlow::Break(self.rest()) };
        let outcome = match &report.result {
            Ok(outcome) => outcome,
            Err(error) => return ControlFlow::Break(failed_call(self.state, handler, subject, error)),
        };
        let resource = |kind: &GroupVersionKind| self.pipeline.observed.resource(kind);
        let mut wanted = match accept(outcome, &handler.name, subject, &handler.rights, &resource) {
            Ok(wanted) => wanted,
            Err(problems) => return ControlFlow::Break(failed(self.state, subject, problems, None)),
        };
        let children = wanted.children.take().map(|mut children| {
            adopt(&mut children, subject);
            children.into_iter().map(Settled::Apply).collect::<Vec<_>>()
        });
        if let Some(children) = &children {
            self.state.children = children.len();
            self.state.cursors.children = Some(delivery.request.clone());
        }
        if wanted.subject.is_some() {
            self.state.cursors.patches = Some(delivery.request.clone());
        }
        self.state.held = None;
        ControlFlow::Continue(Accepted { wanted, children })
    }

    fn plan(&mut self, seen: &Snapshot, accepted: &mut Accepted) -> ControlFlow<Report, Plan> {
        let mut plan = self.plan_of(seen, accepted);
        accepted.wanted.findings.problems.append(&mut plan.problems);
        ControlFlow::Continue(plan)
    }

    async fn write(&mut self, plan: Plan) -> Done {
        self.pipeline.execute(plan, &self.handler.identity, &mut self.state.common.memory).await
    }

    async fn remember(&mut self, seen: &Snapshot, mut accepted: Accepted, done: Done) -> Report {
        let mut problems = std::mem::take(&mut accepted.wanted.findings.problems);
        problems.extend(done.errors.iter().map(|error| problem(&self.handler.name, &self.handler.identity, error)));
        if !done.errors.is_empty() && done.errors.iter().all(is_passing) {
            // What goes away by itself is no problem to be shown, and the plugin is not given up for it. What was is as it was.
            let retry = self.state.common.backoff.fail_to_write(&seen.subject.metadata.uid, &done.errors);
            return Report { writes: done.writes, retry: Some(retry), ..self.rest() };
        }
        self.state.conflicts = conflicts::of(&done.errors);
        if !problems.is_empty() {
            return Report { writes: done.writes, ..failed(self.state, &seen.subject, problems, None) };
        }
        self.succeed(seen, &accepted).await;
        let Wanted { events, requeue_after, .. } = accepted.wanted;
        let mut report = Report { writes: done.writes, requeue_after, events, ..Report::default() };
        self.note_success(seen, &mut report).await;
        report
    }

    fn conclude(&mut self, report: Report) -> Report {
        let Some(Called { input, report: call, .. }) = self.called.take() else { return report };
        if let Some(Retry::Parked(_)) = report.retry {
            self.state.parked = Some(input);
        }
        Report { call: Some(call), ..report }
    }
}

impl<N: Native> Pipeline<'_, N> {
    /// The subject as it is after our own writes.
    fn latest(&self, subject: &Arc<Object>) -> Arc<Object> {
        let is_same = |latest: &Arc<Object>| latest.metadata.uid == subject.metadata.uid;
        let latest = self.observed.get(&subject.kind, &subject.at()).filter(is_same);
        latest.unwrap_or_else(|| Arc::clone(subject))
    }

    fn call(
        &self,
        handler: &MountedHandler,
        seen: &Snapshot,
        delivery: &Delivery,
        projected: Json,
        state: &GuestState,
    ) -> Call {
        let manager = handler.name.field_manager();
        let (subject, author) = (&seen.subject, handler.author(&manager, N::makes));
        let is_ours = |child: &&Arc<Object>| author.made(child, &subject.metadata.uid) && !child.is_being_deleted();
        let ours = seen.children.iter().filter(is_ours);
        Call {
            handler: handler.name.handler.clone(),
            trigger: delivery.trigger.clone(),
            redelivery: delivery.redelivery,
            attempt: state.common.backoff.attempts() + 1,
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
            conflicts: conflicts::handed_over(&state.conflicts, seen),
            config: handler.config.clone(),
        }
    }
}

/// Subjects of the operator's own reconcilers say it in their status.
fn unreadable_event<N: Native>(handler: &MountedHandler, subject: &Object, problem: &Problem) -> Option<EventNote> {
    let is_native = N::all().into_iter().any(|native| native.subject().same_kind(&subject.kind));
    (!is_native && handler.mounted.matches(subject)).then(|| problem.as_event())
}

/// What the handler holds in the cluster for a subject, in its children and in the subject: it changes with whatever somebody
/// deletes, or takes from it. Kept in the place of the answer, which may have megabytes.
fn held(manager: &str, seen: &Snapshot) -> u64 {
    let mut hasher = DefaultHasher::new();
    for object in seen.children.iter().chain([&seen.subject]) {
        if let Some(entry) = object.applied_by(manager) {
            (&object.metadata.uid, &entry.fields).hash(&mut hasher);
        }
    }
    hasher.finish()
}

/// A call without an answer.
fn failed_call(state: &mut GuestState, handler: &MountedHandler, subject: &Object, error: &CallError) -> Report {
    let problem = Problem {
        permanent: is_permanent(error),
        ..Problem::passing(error.kind(), format!("{}: {}", handler.name, error.told()))
    };
    if let CallError::Host(_) = error {
        // Nothing that the plugin could be blamed for, so it is not given up on the subject.
        let retry = state.common.backoff.fail(&subject.metadata.uid, None, None);
        return tell(state, vec![problem], retry);
    }
    failed(state, subject, vec![problem], asked_delay(error))
}

fn failed(state: &mut GuestState, subject: &Object, problems: Vec<Problem>, asked: Option<Duration>) -> Report {
    // What only a change can help is not tried again before one.
    let permanent = !problems.is_empty() && problems.iter().all(|problem| problem.permanent);
    let limit = if permanent { Some(0) } else { Some(PLUGIN_ATTEMPTS) };
    let retry = state.common.backoff.fail(&subject.metadata.uid, limit, asked);
    tell(state, problems, retry)
}

fn tell(state: &mut GuestState, mut problems: Vec<Problem>, retry: Retry) -> Report {
    let more = problems.len().saturating_sub(PROBLEMS);
    problems.truncate(PROBLEMS);
    if let Some(last) = problems.last_mut().filter(|_| more > 0) {
        last.message = format!("{}; and {more} more problems", last.message);
    }
    state.common.findings = Findings { problems, ..Findings::default() };
    Report { retry: Some(retry), findings: state.common.findings.clone(), ..Report::default() }
}

/// What a person should know of a failed write.
fn problem(name: &HandlerName, identity: &Identity, error: &WriteError) -> Problem {
    match error {
        WriteError::Refused { object, message, .. } if is_about_what_cannot_change(message) => {
            let remedy = "delete it to have it recreated with the new value, or have the plugin return the former one";
            Problem::passing(error.kind(), format!("{name}: {error}; {remedy}")).until(object.clone())
        }
        _ => {
            let message = format!("{name}: {error}{}{}", remedy(error), identity.remedy(error));
            Problem { message, ..Problem::of_write(name, error) }
        }
    }
}

/// What the author of a handler can do where server-side apply itself refuses a child.
fn remedy(error: &WriteError) -> &'static str {
    match error {
        WriteError::Refused { message, .. } if message.contains("field not declared in schema") => {
            "; this kind has no such field: correct its name or its place in the handler's answer"
        }
        WriteError::Refused { message, .. } if message.contains("duplicate entries for key") => {
            "; give it once in the handler's answer"
        }
        _ => "",
    }
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::object::ObjectKey;

    /// In the words of Kubernetes 1.36.
    #[test]
    fn an_author_hears_what_apply_itself_refuses_by_path_and_with_the_remedy() {
        for (words, says) in [
            (".data2: field not declared in schema", "correct its name or its place in the handler's answer"),
            (".spec.ports: duplicate entries for key [port=1]", "give it once in the handler's answer"),
            ("spec.type: Unsupported value", ""),
        ] {
            let kind = GroupVersionKind::new("", "v1", "Service");
            let object = ObjectKey { kind, at: NamespacedName::new("n", "a") };
            let message = format!("failed to create typed patch object (n/a; /v1, Kind=Service): {words}");
            let error = WriteError::Refused { object, code: 500, reason: String::new(), message, fields: Vec::new() };
            let handler = HandlerName { plugin: "p".to_owned(), handler: "h".to_owned() };
            let told = problem(&handler, &Identity::Operator, &error).message;
            assert!(told.contains(words) && told.ends_with(says), "{told}");
        }
    }
}
