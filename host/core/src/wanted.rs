//! What a handler wants, decoded: the common currency of native reconcilers and plugins.

use std::{
    borrow::Cow,
    collections::{BTreeMap, BTreeSet},
    ops::Deref,
    sync::Arc,
    time::Duration,
};

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{
    action::WriteError,
    conflict::Conflict,
    contract::{EventNote, EventSeverity},
    object::{GroupVersionKind, NamespacedName, Object, ObjectKey, Unreadable, recorded, shared, to_be_shared},
    quote::says_the_same,
    scheduler::{Replies, Scheduler, SchedulerCall},
    schema::KnownFields,
    spec::Condition,
    text::{MESSAGE_BYTES, into_line},
};

/// Reason of the problem that a name can't be used, or that none can be made from it.
pub const INVALID_NAME: &str = "InvalidName";

/// What a handler is shown: the subject, the children that it owns, and what it asked for besides.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Snapshot {
    /// The subject.
    #[serde(with = "recorded::one")]
    pub subject: Arc<Object>,
    /// Objects that the subject controls, of the kinds that the handler makes; those of other handlers included.
    #[serde(with = "recorded::many")]
    pub children: Children,
    /// Former children that vanished from our watches, see [`crate::ports::Observed::departed`].
    #[serde(with = "recorded::many")]
    pub departed: Vec<Arc<Object>>,
    /// What native reconcilers look up beyond their children, by the name of the question.
    #[serde(with = "recorded::named")]
    pub related: BTreeMap<Cow<'static, str>, Vec<Arc<Object>>>,
    /// Which children were made from another template than the drafts that the handler gave, by name; none: it gave none.
    pub outdated: Option<BTreeSet<String>>,
    /// What the subject's scheduler has said to this handler.
    pub replies: Replies,
    /// Which fields the API server knows.
    #[serde(serialize_with = "shared", deserialize_with = "to_be_shared")]
    pub known_fields: Arc<KnownFields>,
    /// What a native reconciler found out in its last reconcile of this process, see [`Findings::facts`]; null after a restart.
    pub facts: Value,
    /// Milliseconds since the Unix epoch.
    pub now: u64,
}

impl Snapshot {
    /// The child of this kind and name.
    pub fn child(&self, kind: &GroupVersionKind, name: &str) -> Option<&Arc<Object>> {
        self.children.find(kind, name)
    }

    /// The child of this kind and name that vanished from our watches, as it was then.
    pub fn former_child(&self, kind: &GroupVersionKind, name: &str) -> Option<&Arc<Object>> {
        self.departed.iter().find(|former| former.kind.same_kind(kind) && former.metadata.name == name)
    }

    /// The first object that was found under a name of [`Snapshot::related`].
    pub fn related_one(&self, name: &str) -> Option<&Arc<Object>> {
        self.related.get(name).and_then(|objects| objects.first())
    }

    /// Namespace and name of the subject.
    pub fn at(&self) -> NamespacedName {
        self.subject.at()
    }
}

/// Children, found by their names in a time that hardly depends on how many there are: a group may have ten thousand.
#[derive(Clone, Debug, Default)]
pub struct Children {
    list: Vec<Arc<Object>>,
    /// Places in the list, by name.
    by_name: Vec<usize>,
}

impl Children {
    fn find(&self, kind: &GroupVersionKind, name: &str) -> Option<&Arc<Object>> {
        let at = |place: &usize| self.list.get(*place);
        let name_at = |place: &usize| at(place).map_or("", |child| child.metadata.name.as_str());
        let first = self.by_name.partition_point(|place| name_at(place) < name);
        let mut same = self.by_name.iter().skip(first).take_while(|place| name_at(place) == name).filter_map(at);
        same.find(|child| child.kind.same_kind(kind))
    }
}

impl From<Vec<Arc<Object>>> for Children {
    fn from(list: Vec<Arc<Object>>) -> Self {
        let mut by_name: Vec<_> = (0..list.len()).collect();
        by_name.sort_by(|one, other| list[*one].metadata.name.cmp(&list[*other].metadata.name));
        Self { list, by_name }
    }
}

impl FromIterator<Arc<Object>> for Children {
    fn from_iter<I: IntoIterator<Item = Arc<Object>>>(children: I) -> Self {
        Vec::from_iter(children).into()
    }
}

impl Deref for Children {
    type Target = [Arc<Object>];

    fn deref(&self) -> &[Arc<Object>] {
        &self.list
    }
}

/// What a handler wants for one subject.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Wanted {
    /// A question: which of these live children were made from another template? If there are any, nothing else here counts:
    /// the handler is called again, with the answer in [`Snapshot::outdated`].
    pub drafts: Vec<WantedChild>,
    /// Applied to the subject before anything else is written. If it fails, nothing else is.
    pub subject: Option<SubjectPatch>,
    /// The complete set of children; none: leave what is there.
    pub children: Option<Vec<WantedChild>>,
    /// Fields that the handler keeps on objects that exist already and that it does not own.
    pub fields: Vec<WantedFields>,
    /// What is to be said to a scheduler; the replies are in a later snapshot.
    pub calls: Vec<(Scheduler, SchedulerCall)>,
    /// Whether the subject has had its time and is to be deleted, after everything else.
    pub delete_subject: bool,
    /// Events on the subject.
    pub events: Vec<EventNote>,
    /// Look again after this time, even if nothing changes.
    pub requeue_after: Option<Duration>,
    /// What can't be done and why, and what was found out.
    pub findings: Findings,
}

/// What was found out of a subject by reconciles that looked at it. Nobody else makes one: without a look there is no status.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Found {
    /// The subject's uid: what was found out of another object of the same name says nothing of this one.
    pub uid: String,
    /// What was found.
    pub findings: Findings,
}

/// What a reconcile leaves behind for the status.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Findings {
    /// What can't be done and why.
    pub problems: Vec<Problem>,
    /// Reasons of problems of which this reconcile could not tell whether they are still there: what was said of them stands.
    pub unknown: Vec<Cow<'static, str>>,
    /// How many Deployments run another template than they would be made from now; none: that could not be asked, and what was
    /// said of it stands.
    pub outdated: Option<u32>,
    /// What a native reconciler has found out and can't be observed, in its own form.
    pub facts: Value,
}

impl Findings {
    /// A condition as it stands, if its reason is a problem that may still be there and was not found anew.
    pub(crate) fn standing<'a>(&self, type_: &str, before: &'a [Condition]) -> Option<&'a Condition> {
        let condition = before.iter().find(|condition| condition.type_ == type_)?;
        let is_found = self.problems.iter().any(|problem| problem.reason == condition.reason);
        (!is_found && self.unknown.iter().any(|reason| *reason == condition.reason)).then_some(condition)
    }

    /// Keeps the problems that were `known`, where nothing was found out about them: those first, in their present words.
    pub fn keep(&mut self, known: &[Problem]) {
        let found = std::mem::take(&mut self.problems);
        let present = |known: &Problem| found.iter().find(|found| found.is_same(known)).unwrap_or(known).clone();
        self.problems = known.iter().map(present).collect();
        self.problems.extend(found.into_iter().filter(|found| !found.is_among(known)));
    }

    /// Whether something is waited for.
    pub fn waits(&self) -> bool {
        self.problems.iter().any(|problem| problem.waits_for.is_some())
    }
}

/// All of these in one message of at most `most` bytes: none is left out because another is long.
pub fn all_of(problems: &[Problem], most: usize) -> String {
    let share = most / problems.len().max(1);
    let shown = problems.iter().map(|problem| {
        let message = problem.message.as_str();
        let end = message.floor_char_boundary(share.saturating_sub("…; ".len()));
        if message.len() + "; ".len() <= share { message.to_owned() } else { format!("{}…", &message[..end]) }
    });
    shown.collect::<Vec<_>>().join("; ")
}

impl From<Problem> for Findings {
    fn from(problem: Problem) -> Self {
        Self { problems: vec![problem], ..Self::default() }
    }
}

/// The whole set of fields that a handler keeps on its subject.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SubjectPatch {
    /// A partial object; identity is filled in.
    pub body: Value,
    /// Whether it was computed from the subject's present state and must not be applied to a later one (compare and swap).
    pub guarded: bool,
}

/// A wanted child.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct WantedChild {
    /// Identity within the handler's set.
    pub key: String,
    /// The object: only the fields that the handler has an opinion on.
    pub object: Value,
    /// As [`SubjectPatch::guarded`], for values that were read from the live child.
    pub guarded: bool,
    /// What becomes of a live child that was made from another pod template.
    pub on_new_template: OnNewTemplate,
}

impl WantedChild {
    /// The object's identity: it stands in the namespace of its subject, whatever it says of that itself.
    pub fn object_key(&self, subject: &Object) -> ObjectKey {
        let (kind, name) = target(&self.object);
        ObjectKey { kind, at: NamespacedName { namespace: subject.metadata.namespace.clone(), name: name.to_owned() } }
    }

    /// A child that leaves what runs alone when its template changes.
    pub fn new(key: impl Into<String>, object: Value) -> Self {
        Self { key: key.into(), object, guarded: false, on_new_template: OnNewTemplate::Leave }
    }
}

/// What becomes of a live child that was made from another pod template.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum OnNewTemplate {
    /// Its pods stay as they are, and a person is told.
    Leave,
    /// Its pods stay as they are until the handler has replaced it.
    Replace,
    /// It gets the new template.
    Apply,
    /// It is deleted, if nothing of it changes meanwhile, and made anew.
    Renew,
}

/// A wanted child after it was compared with the live one.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Settled {
    /// To be applied.
    Apply(WantedChild),
    /// Made from another template: its metadata is to be applied, the rest says what there is already.
    Outdated {
        /// What is to be applied.
        child: WantedChild,
        /// What a person should know of it; none if the handler sees to it.
        problem: Option<Problem>,
        /// Whether it is one of those that the status counts.
        counts: bool,
    },
    /// Made from another template, and to go for it: it can't be changed.
    Renew(WantedChild),
    /// Made by the Python operator: what that set is to become ours first.
    Inherit(WantedChild),
    /// Nobody can tell at the moment how it should be: what there is of it stays as it is.
    HeldBack {
        /// As it is wanted so far.
        child: WantedChild,
        /// Why.
        problem: Problem,
    },
}

impl Settled {
    /// What is to be applied.
    pub fn child(&self) -> &WantedChild {
        match self {
            Self::Apply(child) | Self::Renew(child) | Self::Inherit(child) => child,
            Self::Outdated { child, .. } | Self::HeldBack { child, .. } => child,
        }
    }
}

/// The whole set of fields that a handler keeps on an object that it does not own. They were computed from its present state
/// and are not applied to a later one.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct WantedFields {
    /// The object, as it was observed.
    #[serde(with = "recorded::one")]
    pub object: Arc<Object>,
    /// A partial object; identity is filled in.
    pub body: Value,
}

/// Something that a person should know: becomes a condition, and an Event when it is new. It is new unless one with the same
/// reason, about the same object and field, was told before: see [`Problem::is_same`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{message}")]
pub struct Problem {
    /// One word in CamelCase.
    pub reason: Cow<'static, str>,
    /// Names the object, the field and the remedy, on one line. What others say of it is quoted, see [`crate::quote`].
    pub message: String,
    /// Whether only a change of the object can help; otherwise it is tried again.
    pub permanent: bool,
    /// Another object that stands in the way, or is not there: when it comes, changes or goes, the subject is looked at again.
    pub waits_for: Option<ObjectKey>,
    /// The fields that others hold, if it is about such: then it is the same problem as another about the same fields.
    pub conflicts: Box<[Conflict]>,
}

impl Problem {
    /// Only a change of the object can help.
    pub fn permanent(reason: impl Into<Cow<'static, str>>, message: impl Into<String>) -> Self {
        Self { permanent: true, ..Self::passing(reason, message) }
    }

    /// Whether this is the same problem, in whatever words others put it.
    pub fn is_same(&self, other: &Self) -> bool {
        self.reason == other.reason
            && match (&*self.conflicts, &*other.conflicts) {
                ([], []) => says_the_same(&self.message, &other.message),
                (some, others) => {
                    some.iter().all(|conflict| conflict.is_among(others))
                        && others.iter().all(|conflict| conflict.is_among(some))
                }
            }
    }

    /// Whether it is one of these, in whatever words. Of several fields, each may be in another of them.
    pub fn is_among(&self, problems: &[Self]) -> bool {
        let is_known = |conflict: &Conflict| problems.iter().any(|problem| conflict.is_among(&problem.conflicts));
        problems.iter().any(|problem| self.is_same(problem))
            || !self.conflicts.is_empty() && self.conflicts.iter().all(is_known)
    }

    /// As a Warning, for subjects whose status has no place for it.
    pub fn as_event(&self) -> EventNote {
        EventNote {
            severity: EventSeverity::Warning,
            reason: self.reason.clone().into_owned(),
            message: self.message.clone(),
        }
    }

    /// It is tried again, or goes away when something else changes.
    pub fn passing(reason: impl Into<Cow<'static, str>>, message: impl Into<String>) -> Self {
        Self {
            reason: reason.into(),
            message: into_line(message.into(), MESSAGE_BYTES),
            permanent: false,
            waits_for: None,
            conflicts: Box::default(),
        }
    }

    /// What its owner should know of a subject that can't be read.
    pub fn with_subject(subject: &Object) -> Option<Self> {
        let Unreadable { path, why } = subject.unreadable.as_deref()?;
        let (kind, name) = (&subject.kind.kind, &subject.metadata.name);
        Some(Self::permanent("InvalidSpec", format!("{kind} {name}: {path}: {why}; correct this field")))
    }

    /// What the owner of a subject should know of another object that can't be read, and that the subject has made or needs.
    pub fn with_other(object: &Object) -> Option<Self> {
        let Unreadable { path, why } = object.unreadable.as_deref()?;
        let key = object.key();
        let message =
            format!("{key} can't be read and is left as it is: {path}: {why}; correct this field, or delete it");
        Some(Self::passing("Unreadable", message).until(key))
    }

    /// The same, until this object changes.
    #[must_use]
    pub fn until(self, object: ObjectKey) -> Self {
        Self { waits_for: Some(object), ..self }
    }

    /// What came of a write that somebody wanted. It is tried again, and goes away with what stands in its way.
    pub fn of_write(by: impl std::fmt::Display, error: &WriteError) -> Self {
        Self {
            waits_for: error.in_the_way(),
            conflicts: error.conflicts().into(),
            ..Self::passing(error.kind(), format!("{by}: {error}"))
        }
    }
}

/// Where an object stands that is made from a wanted one.
pub(crate) fn target(object: &Value) -> (GroupVersionKind, &str) {
    let text = |value: Option<&Value>| value.and_then(Value::as_str).map(str::to_owned).unwrap_or_default();
    let kind = GroupVersionKind::from_api_version(&text(object.get("apiVersion")), &text(object.get("kind")));
    let name = object.pointer("/metadata/name").and_then(Value::as_str).unwrap_or_default();
    (kind, name)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problem(message: &str) -> Problem {
        Problem::passing("Refused", message)
    }

    #[test]
    fn a_problem_is_the_same_whatever_others_say_of_it_and_however_many_it_counts() {
        let first = problem("n/a: 2 workers are refused: “version 7 has been modified”; correct spec.a");
        assert!(first.is_same(&problem("n/a: 3 workers are refused: “version 8 has been modified”; correct spec.a")));
        assert!(!first.is_same(&problem("n/b: 2 workers are refused: “version 7 has been modified”; correct spec.a")));
        assert!(!first.is_same(&Problem { reason: "Forbidden".into(), ..first.clone() }));
    }

    #[test]
    fn a_conflict_is_the_same_problem_by_object_and_field_not_by_text() {
        let object = |name: &str| ObjectKey {
            kind: GroupVersionKind::new("", "v1", "ConfigMap"),
            at: NamespacedName::new("n", name),
        };
        let problem = |name: &str, held: &[(&str, &str)]| {
            let of = |(field, manager): &(&str, &str)| Conflict::new(&object(name), &Value::Null, field, manager, "");
            let conflicts = held.iter().map(of).collect();
            Problem::of_write("p/h", &WriteError::Conflict { object: object(name), conflicts })
        };
        let first = problem("a", &[(".data.x", "kubectl"), (".data.y", "kubectl")]);
        assert!(first.is_same(&problem("a", &[(".data.y", "kubectl"), (".data.x", "another")])));
        assert!(first.is_same(&Problem { message: "in other words".to_owned(), ..first.clone() }));
        for other in
            [problem("a", &[(".data.x", "kubectl")]), problem("b", &[(".data.x", "kubectl"), (".data.y", "k")])]
        {
            assert!(!first.is_same(&other), "{other}");
        }
        let known = [first];
        assert!(problem("a", &[(".data.x", "kubectl")]).is_among(&known), "fewer fields are no news");
        assert!(!problem("a", &[(".data.x", "kubectl"), (".data.z", "kubectl")]).is_among(&known));
    }

    #[test]
    fn what_is_known_stays_in_its_place_and_in_its_present_words() {
        let mut findings = Findings { problems: vec![problem("b: “2”"), problem("c")], ..Findings::default() };
        findings.keep(&[problem("a"), problem("b: “1”")]);
        assert_eq!(findings.problems, [problem("a"), problem("b: “2”"), problem("c")]);
    }

    #[test]
    fn all_problems_are_told_however_long_one_is() {
        let problems: Vec<_> = ["a", &"ä".repeat(2_000), "c", "d"].map(problem).into();
        let told = all_of(&problems, 950);
        assert!(told.len() <= 950, "{}", told.len());
        assert!(told.starts_with("a; ä") && told.ends_with("…; c; d"), "{told}");
        assert_eq!(all_of(&problems[..1], 950), "a");
        assert_eq!(all_of(&[], 950), "");
    }
}
