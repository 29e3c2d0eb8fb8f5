//! The status of a Dask object: looked at afresh, written when it differs.

use serde::Deserialize as _;
use serde_json::{Value, json};

use super::{Pipeline, SubjectState, state::Announced};
use crate::{
    action::{Action, Apply, ApplyTarget, Precondition, WriteError},
    contract::{EventNote, EventSeverity},
    fields::{contains, holds_more},
    native::Native,
    object::{ManagedFields, NamespacedName},
    quote::differs_in_quotes,
    spec::{Condition, ConditionStatus},
    text::{STATUS_BYTES, lines_in},
    wanted::Found,
};

impl<N: Native> Pipeline<'_, N> {
    /// Writes the status if it differs, and returns the Events that the change calls for. It says what reconciles have found
    /// out of this very object: before the first has looked, what is written stands.
    ///
    /// # Errors
    /// When the write failed; it is to be tried again.
    pub async fn publish(
        &self,
        native: N,
        at: &NamespacedName,
        found: Option<&Found>,
        now: u64,
    ) -> Result<Vec<EventNote>, WriteError> {
        let Some(Found { uid, findings }) = found else { return Ok(Vec::new()) };
        let kind = native.subject();
        let subject = self.observed.get(&kind, at).filter(|subject| !subject.is_being_deleted());
        let subject = subject.filter(|subject| subject.metadata.uid == *uid);
        let (Some(subject), Some(resource)) = (subject, self.observed.resource(&kind)) else { return Ok(Vec::new()) };
        // What tells no problems says nothing of what is somebody else's, or can't be read.
        let is_known = || native.is_undisputed(&subject, self.observed, self.environment, now);
        if !native.traits().has_conditions && (subject.unreadable.is_some() || !is_known()) {
            return Ok(Vec::new());
        }
        let seen = self.observe_native(native, &subject, now);
        let mut status = native.status(&seen, findings);
        lines_in(&mut status, STATUS_BYTES);
        let has_subresource = self.observed.has_status(&kind);
        if !has_subresource {
            status = phase_only(&status);
        }
        let before = subject.field::<Value>("status").and_then(Result::ok).unwrap_or_default();
        let mut manager = native.field_manager();
        if !has_subresource {
            // An apply is the whole set of its manager, and this one has fields of the object itself.
            manager.push_str("/status");
        }
        let mut body = json!({
            "apiVersion": kind.api_version(),
            "kind": kind.kind,
            "metadata": {"name": subject.metadata.name},
        });
        if !status.is_null() {
            body["status"] = status.clone();
        }
        let held = if has_subresource { subject.status_applied_by(&manager) } else { subject.applied_by(&manager) };
        let held = held.and_then(ManagedFields::decoded);
        if contains(&before, &in_the_words_of(&before, &status)) && !held.is_some_and(|held| holds_more(&held, &body)) {
            return Ok(Vec::new());
        }
        let apply = Apply {
            resource,
            object: subject.key(),
            target: if has_subresource { ApplyTarget::Status } else { ApplyTarget::Object },
            manager,
            precondition: Precondition::is(&subject),
            body,
            force: true,
        };
        self.writes.write(Action::Apply(apply)).await?;
        Ok(transitions(native, &before, &status))
    }

    /// The Events that a change calls for where a status has no place for conditions, with the Python operator's definitions:
    /// compared with what this process said last.
    pub fn announce(
        &self,
        native: N,
        at: &NamespacedName,
        found: Option<&Found>,
        state: &mut SubjectState,
        now: u64,
    ) -> Vec<EventNote> {
        let state = state.announced();
        let kind = native.subject();
        let subject = self.observed.get(&kind, at).filter(|subject| !subject.is_being_deleted());
        let Some(subject) = subject.filter(|_| !self.observed.has_status(&kind)) else {
            *state = Announced::default();
            return Vec::new();
        };
        let Some(Found { findings, .. }) = found.filter(|found| found.uid == subject.metadata.uid) else {
            return Vec::new();
        };
        if state.uid != subject.metadata.uid {
            *state = Announced { uid: subject.metadata.uid.clone(), ..Announced::default() };
        }
        let mut status = native.status(&self.observe_native(native, &subject, now), findings);
        lines_in(&mut status, STATUS_BYTES);
        let notes = transitions(native, &state.status, &status);
        state.status = status;
        notes
    }
}

/// What the Python operator's definitions know of a status: where it is no subresource they drop everything else, and each
/// change of it counts as one of the object.
fn phase_only(status: &Value) -> Value {
    status.get("phase").map_or(Value::Null, |phase| json!({ "phase": phase }))
}

fn conditions(status: &Value) -> Vec<Condition> {
    status.get("conditions").and_then(|conditions| Vec::deserialize(conditions).ok()).unwrap_or_default()
}

/// The status with the quotes of the one before, where it says the same: that others word it anew is no reason to write. Their
/// newest words go along when something else is.
fn in_the_words_of(before: &Value, status: &Value) -> Value {
    let (before, mut status) = (conditions(before), status.clone());
    for condition in status.get_mut("conditions").and_then(Value::as_array_mut).into_iter().flatten() {
        let Ok(now) = Condition::deserialize(&*condition) else { continue };
        let same = |before: &&Condition| before.is_same(&now) && differs_in_quotes(&before.message, &now.message);
        if let Some(before) = before.iter().find(same) {
            condition["message"] = json!(before.message);
        }
    }
    status
}

/// One Event when something goes wrong, or goes wrong in another way.
fn transitions<N: Native>(native: N, before: &Value, after: &Value) -> Vec<EventNote> {
    let before = conditions(before);
    let is_new = |after: &Condition| {
        match (after.type_.as_str(), after.status) {
            ("Degraded", ConditionStatus::True) => !before.iter().any(|before| before.is_same(after)),
            // Its message holds names of pods, which come and go.
            ("Available", ConditionStatus::False) => {
                let has_reason = |before: &Condition| before.type_ == after.type_ && before.reason == after.reason;
                native.has_failing_pods(&after.reason) && !before.iter().any(has_reason)
            }
            _ => false,
        }
    };
    let note = |condition: Condition| EventNote {
        severity: EventSeverity::Warning,
        reason: condition.reason,
        message: condition.message,
    };
    let mut notes: Vec<_> = conditions(after).into_iter().filter(is_new).map(note).collect();
    // Two conditions may have one cause.
    notes.dedup_by(|note, before| note.reason == before.reason);
    notes
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::{
        dask::{Environment, Reconciler, cluster_in_memory, cluster_kind},
        memory::{MemoryCluster, built_in_resources},
        object::{GroupVersionKind, Object, ObjectKey, Resource},
        ports::Observed,
        wanted::{Findings, Problem},
    };

    fn status(conditions: &[(&str, &str, &str, &str)]) -> Value {
        let condition = |(type_, status, reason, message): &(&str, &str, &str, &str)| {
            json!({"type": type_, "status": status, "reason": reason, "message": message,
                "lastTransitionTime": "2026-11-22T18:30:00Z"})
        };
        json!({"conditions": conditions.iter().map(condition).collect::<Vec<_>>()})
    }

    fn reasons(reconciler: Reconciler, before: &Value, after: &Value) -> Vec<String> {
        transitions(reconciler, before, after).into_iter().map(|note| note.reason).collect()
    }

    #[test]
    fn pods_that_begin_to_fail_are_told_once_and_those_that_start_are_not() {
        let available = |reason| status(&[("Available", "True", reason, "fine")]);
        let failing = |reason, message| status(&[("Available", "False", reason, message)]);
        let fine = available("SchedulerAvailable");
        for reason in [
            "SchedulerFailed",
            "SchedulerUnschedulable",
            "SchedulerImage",
            "SchedulerNotStarting",
            "SchedulerCrashLoop",
        ] {
            assert_eq!(reasons(Reconciler::Cluster, &fine, &failing(reason, "words")), [reason]);
            assert_eq!(reasons(Reconciler::Cluster, &Value::Null, &failing(reason, "words")), [reason]);
            let none: [&str; 0] = [];
            assert_eq!(reasons(Reconciler::Cluster, &failing(reason, "pod a"), &failing(reason, "pod b")), none);
            assert_eq!(reasons(Reconciler::Autoscaler, &fine, &failing(reason, "words")), none, "its cluster tells it");
            for ordinary in ["SchedulerMissing", "SchedulerNotReady", "WorkersNotReady"] {
                assert_eq!(reasons(Reconciler::Cluster, &fine, &failing(ordinary, "words")), none);
                assert_eq!(
                    reasons(Reconciler::Cluster, &failing(ordinary, "words"), &failing(reason, "words")),
                    [reason]
                );
            }
        }
        let [image, crash] = [failing("WorkersImage", "2 of 3"), failing("WorkersCrashLoop", "2 of 3")];
        assert_eq!(reasons(Reconciler::WorkerGroup, &image, &crash), ["WorkersCrashLoop"]);
    }

    #[test]
    fn a_problem_is_told_again_when_it_is_another_one_and_not_when_others_word_it_anew() {
        let degraded = |message| status(&[("Degraded", "True", "Refused", message)]);
        let fine = status(&[("Degraded", "False", "AsWanted", "nothing is wrong")]);
        assert_eq!(reasons(Reconciler::Cluster, &fine, &degraded("a")), ["Refused"]);
        assert_eq!(reasons(Reconciler::Cluster, &degraded("a"), &degraded("b")), ["Refused"]);
        assert_eq!(reasons(Reconciler::Cluster, &degraded("a"), &degraded("a")), [""; 0]);
        assert_eq!(reasons(Reconciler::Cluster, &degraded("a"), &fine), [""; 0]);
        let (first, again) = ("refused: “used: cpu=3”; correct spec.a", "refused: “used: cpu=4”; correct spec.a");
        assert_eq!(reasons(Reconciler::Cluster, &degraded(first), &degraded(again)), [""; 0]);
        assert_eq!(in_the_words_of(&degraded(first), &degraded(again)), degraded(first));
        let elsewhere = "refused: “used: cpu=3”; correct spec.b";
        assert_eq!(reasons(Reconciler::Cluster, &degraded(first), &degraded(elsewhere)), ["Refused"]);
        assert_eq!(in_the_words_of(&degraded(first), &degraded(elsewhere)), degraded(elsewhere));
    }

    /// A cluster with the definitions of the Python operator.
    struct WithoutStatus(MemoryCluster);

    impl Observed for WithoutStatus {
        fn get(&self, kind: &GroupVersionKind, at: &NamespacedName) -> Option<Arc<Object>> {
            self.0.get(kind, at)
        }

        fn controlled_by(&self, kind: &GroupVersionKind, uid: &str) -> Vec<Arc<Object>> {
            self.0.controlled_by(kind, uid)
        }

        fn departed(&self, kind: &GroupVersionKind, uid: &str) -> Vec<Arc<Object>> {
            self.0.departed(kind, uid)
        }

        fn resource(&self, kind: &GroupVersionKind) -> Option<Resource> {
            self.0.resource(kind)
        }

        fn has_status(&self, _kind: &GroupVersionKind) -> bool {
            false
        }
    }

    #[test]
    fn what_a_status_has_no_place_for_is_told_once_all_the_same() {
        let cluster = cluster_in_memory(built_in_resources(), "2026-11-22T18:30:00Z");
        let simple = json!({"apiVersion": "kubernetes.dask.org/v1", "kind": "DaskCluster",
            "metadata": {"name": "simple", "namespace": "n"}, "spec": {}});
        let ObjectKey { at, .. } = cluster.create(simple).unwrap();
        let (observed, environment) = (WithoutStatus(cluster), Environment::default());
        let pipeline = Pipeline::new(&observed, &observed.0, &environment);
        let mut state = SubjectState::default();
        let uid = observed.get(&cluster_kind(), &at).unwrap().metadata.uid.clone();
        let found = |findings: &Findings| Found { uid: uid.clone(), findings: findings.clone() };
        let mut tell = |findings: &Findings| {
            let notes = pipeline.announce(Reconciler::Cluster, &at, Some(&found(findings)), &mut state, 0);
            notes.into_iter().map(|note| note.reason).collect::<Vec<_>>()
        };
        let problem = Findings::from(Problem::passing("Refused", "words"));
        assert_eq!(tell(&Findings::default()), [""; 0]);
        assert_eq!(tell(&problem), ["Refused"]);
        assert_eq!(tell(&problem), [""; 0]);
        assert_eq!(tell(&Findings::default()), [""; 0]);
        assert_eq!(tell(&problem), ["Refused"]);
        observed.0.delete(&ObjectKey { kind: cluster_kind(), at: at.clone() });
        let told = pipeline.announce(Reconciler::Cluster, &at, Some(&found(&problem)), &mut state, 0);
        assert!(told.is_empty() && state.is_spent());
    }
}
