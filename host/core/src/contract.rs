//! What crosses the boundary between the host and a handler, as plain values.
//!
//! These mirror the WIT package `dask:operator@0.1.0` one to one, but belong to no version of it: every module under the
//! engine's `abi/` converts between its bindings and these. All of them can be serialised, so that a call could be made in
//! another process. Objects travel as JSON text ([`Json`]); what surrounds them is typed.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// A JSON document as text. Kept as text on the way in, so that an object is not decoded for handlers that don't look at it.
pub type Json = String;

/// A path into an object: field names joined by dots, `metadata.labels`; a name that holds dots is written in brackets,
/// `metadata.labels["app.kubernetes.io/name"]`.
pub type FieldPath = String;

/// Adds a name to a path.
pub(crate) fn append_name(path: &mut FieldPath, name: &str) {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'$');
    let parts = match name.bytes().all(is_plain) && !name.is_empty() {
        true if path.is_empty() => ["", name, ""],
        true => [".", name, ""],
        false => ["[\"", name, "\"]"],
    };
    path.extend(parts);
}

/// Names a kind the way a person does: `name` is the kind, plural, singular or short name; discovery fills in the rest.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct KindReference {
    /// API group, `""` for the core group; none: whichever group has the name, if exactly one has.
    pub group: Option<String>,
    /// API version; none: the group's preferred one.
    pub version: Option<String>,
    /// Kind, plural, singular or short name, in any case.
    pub name: String,
}

/// What a plugin says of itself, once, right after it was loaded.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    /// For people and logs only: a plugin's identity is the name of its DaskPlugin.
    pub name: String,
    /// The plugin's own version, for people.
    pub version: String,
    /// Version of the WIT package that it was built for, `0.1.0`.
    pub interface_version: String,
    /// The handlers, each with a name that is unique in the plugin.
    pub handlers: Vec<HandlerDeclaration>,
    /// What the plugin wants to be allowed to do. It may do what it asks for *and* what was granted.
    pub permissions: Permissions,
}

/// One handler of a plugin.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HandlerDeclaration {
    /// DNS label, at most 40 characters: it is part of the field manager's name.
    pub name: String,
    /// Which objects the handler is about.
    pub subscription: Subscription,
    /// When it is called.
    pub triggers: Vec<TriggerRequest>,
    /// The fields it needs; none: the whole object without `metadata.managedFields`.
    pub projection: Option<Vec<FieldPath>>,
    /// Other objects that it wants to see with each call; a change of one wakes the handler.
    pub related: Vec<RelatedRequest>,
}

/// Which objects a handler is about. All conditions must hold. They are checked by the host.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Subscription {
    /// The kind of the subjects.
    pub kind: KindReference,
    /// Namespaces, exact names or globs; empty: every namespace that the plugin is mounted for.
    pub namespaces: Vec<String>,
    /// A label selector in Kubernetes' text form, `dask.org/component=scheduler,team in (a,b)`.
    pub labels: Option<String>,
    /// Conditions on annotations.
    pub annotations: Vec<AnnotationCondition>,
    /// Conditions on fields.
    pub fields: Vec<FieldCondition>,
    /// A CEL expression over `object` and `oldObject` that yields a boolean.
    pub expression: Option<String>,
}

/// A condition on one annotation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AnnotationCondition {
    /// The annotation's key.
    pub key: String,
    /// What must hold.
    pub test: ValueTest,
}

/// A condition on one field.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FieldCondition {
    /// The field.
    pub path: FieldPath,
    /// What must hold.
    pub test: ValueTest,
}

/// What must hold for a value.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ValueTest {
    /// It is there.
    Present,
    /// It is not there.
    Absent,
    /// It equals this JSON value (for annotations: this text).
    Equals(Json),
    /// It differs from what it was when the handler last saw it.
    Changed,
}

/// When a handler asks to be called.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum TriggerRequest {
    /// The subject exists, here is its present state: at start, at every change, on drift of a child, on requeue.
    Observed,
    /// No earlier success of this handler for this subject is on record.
    Created,
    /// The part that the handler watches differs from what it last handled.
    Updated,
    /// As `Updated`, for one path.
    FieldChanged(FieldPath),
    /// The subject is being deleted and waits for this handler.
    Deleting,
    /// The subject is gone.
    Deleted,
    /// The host started again and the subject is as it was last handled.
    Resumed,
    /// At this interval, for each subject.
    Timer(Duration),
    /// The pipeline is about to apply the children of the subject.
    Build,
}

impl TriggerRequest {
    /// The trigger's name in the interface, `field-changed`.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Observed => "observed",
            Self::Created => "created",
            Self::Updated => "updated",
            Self::FieldChanged(_) => "field-changed",
            Self::Deleting => "deleting",
            Self::Deleted => "deleted",
            Self::Resumed => "resumed",
            Self::Timer(_) => "timer",
            Self::Build => "build",
        }
    }
}

/// Other objects that a handler wants to see.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RelatedRequest {
    /// The name under which they arrive in the call.
    pub name: String,
    /// Their kind.
    pub kind: KindReference,
    /// Which of them.
    pub selection: RelatedSelection,
    /// The fields that are needed; none: the whole object.
    pub projection: Option<Vec<FieldPath>>,
}

/// Which objects of a kind are related to a subject. All are looked for in the subject's namespace.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum RelatedSelection {
    /// Those whose labels match a selector; `{name}`, `{namespace}` and `{labels.KEY}` of the subject are filled in.
    Labels(String),
    /// Those that the subject owns.
    OwnedBySubject,
    /// Those that own the subject.
    OwnersOfSubject,
    /// The one of this name; placeholders as for labels.
    Named(String),
}

/// What a plugin asks to be allowed to do.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Permissions {
    /// Kinds that it reads as related objects.
    pub read: Vec<KindReference>,
    /// Kinds of which it creates children.
    pub create: Vec<KindReference>,
    /// Fields of subjects that it patches.
    pub patch: Vec<PatchPermission>,
    /// Whether it asks for subjects to be deleted.
    pub delete_subject: bool,
}

/// Fields of one kind that a plugin wants to patch.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PatchPermission {
    /// The kind.
    pub kind: KindReference,
    /// The fields; each covers what is below it.
    pub fields: Vec<FieldPath>,
    /// How they are patched; both ways need two entries.
    pub strategy: PatchStrategy,
}

/// One call of a handler.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Call {
    /// The handler that is called.
    pub handler: String,
    /// Why.
    pub trigger: Trigger,
    /// Whether an earlier call with this trigger succeeded: edge triggers are delivered at least once, and again when
    /// children drifted or the host lost its state.
    pub redelivery: bool,
    /// Number of this attempt, from 1.
    pub attempt: u32,
    /// The time of the call in milliseconds since the Unix epoch: the only clock that a handler has.
    pub now: u64,
    /// What the call is about.
    pub subject: Subject,
    /// Related objects, by the name of the request.
    pub related: Vec<RelatedObjects>,
    /// The children that this handler owns for this subject, as they are in the cluster.
    pub children: Vec<OwnedChild>,
    /// Fields that another field manager holds, from the last apply.
    pub conflicts: Vec<Conflict>,
    /// The plugin's configuration, `spec.config` of its DaskPlugin; `null` without.
    pub config: Json,
}

/// The object that a call is about: who it is, and its state.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Subject {
    /// `v1`, `kubernetes.dask.org/v1`.
    pub api_version: String,
    /// `Service`, `DaskCluster`.
    pub kind: String,
    /// None for kinds without namespaces.
    pub namespace: Option<String>,
    /// The object's name.
    pub name: String,
    /// Tells it from an earlier object of the same name.
    pub uid: String,
    /// The object, projected.
    pub object: Json,
}

/// Why a handler is called.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Trigger {
    /// See [`TriggerRequest::Observed`].
    Observed,
    /// See [`TriggerRequest::Created`].
    Created,
    /// With the projected subject as it was when last handled, if that is still known.
    Updated(Option<Json>),
    /// With the path and its old and new values.
    FieldChanged(FieldChange),
    /// With the time, in milliseconds since the Unix epoch, at which the host lets go.
    Deleting(u64),
    /// See [`TriggerRequest::Deleted`]; the subject is the last state that was seen.
    Deleted,
    /// See [`TriggerRequest::Resumed`].
    Resumed,
    /// See [`TriggerRequest::Timer`].
    Timer,
    /// With the children that are about to be applied.
    Build(Vec<Child>),
}

impl Trigger {
    /// The trigger's name in the interface.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Observed => "observed",
            Self::Created => "created",
            Self::Updated(_) => "updated",
            Self::FieldChanged(_) => "field-changed",
            Self::Deleting(_) => "deleting",
            Self::Deleted => "deleted",
            Self::Resumed => "resumed",
            Self::Timer => "timer",
            Self::Build(_) => "build",
        }
    }
}

/// The change of one field.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct FieldChange {
    /// The field.
    pub path: FieldPath,
    /// Its value when last handled; none: it was absent, or is not known any more.
    pub old: Option<Json>,
    /// Its value now; none: it is absent.
    pub new: Option<Json>,
}

/// Related objects that arrive with a call.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RelatedObjects {
    /// The name of the request.
    pub name: String,
    /// The objects, ordered by name.
    pub objects: Vec<Json>,
}

/// A child as it is in the cluster.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct OwnedChild {
    /// The key under which the handler returned it.
    pub key: String,
    /// The object.
    pub object: Json,
}

/// A field that somebody else holds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Conflict {
    /// Key of the child; none: the subject.
    pub child: Option<String>,
    /// The field.
    pub path: FieldPath,
    /// The field manager that holds it.
    pub manager: String,
}

/// What a handler wants. The host validates the whole of it before the first write.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Outcome {
    /// The complete set of children for this subject. None: no opinion, leave what is there; empty: remove all.
    pub children: Option<Vec<Child>>,
    /// The complete set of patches to the subject. None: no opinion; empty: withdraw what was applied.
    pub patches: Option<Vec<Patch>>,
    /// Events on the subject.
    pub events: Vec<EventNote>,
    /// Call again after this time even if nothing changes.
    pub requeue_after: Option<Duration>,
    /// Delete the subject.
    pub delete_subject: bool,
}

/// A wanted child.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Child {
    /// Identity within the handler's set for the subject, stable from call to call.
    pub key: String,
    /// The object: only the fields that the handler has an opinion on. Namespace and owner reference are the host's to fill in.
    pub object: Json,
}

/// A wanted change of the subject (of a child, in `build`).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Patch {
    /// What is patched.
    pub target: PatchTarget,
    /// How.
    pub strategy: PatchStrategy,
    /// The fields, as a partial object.
    pub body: Json,
}

/// What a patch changes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum PatchTarget {
    /// The subject's metadata and spec.
    Subject,
    /// The subject's status.
    SubjectStatus,
    /// In `build`: the child of this key.
    Child(String),
}

/// How a patch is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum PatchStrategy {
    /// Level: the host keeps the fields as they are given here, and withdraws them when no longer returned.
    Apply,
    /// One-shot, needs a grant of its own.
    Merge,
}

/// An Event to be posted on the subject.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EventNote {
    /// `Normal` or `Warning`.
    pub severity: EventSeverity,
    /// One word in CamelCase.
    pub reason: String,
    /// For people, at most 1,024 characters.
    pub message: String,
}

/// Kubernetes' two types of Event.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum EventSeverity {
    /// All is as expected.
    Normal,
    /// Somebody should look.
    Warning,
}

/// A handler's own refusal.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Failure {
    /// Try again: after the given time, or after the host's back-off.
    Temporary {
        /// For people.
        message: String,
        /// When to try again.
        retry_after: Option<Duration>,
    },
    /// Don't try again until something changes.
    Permanent {
        /// For people.
        message: String,
    },
}
