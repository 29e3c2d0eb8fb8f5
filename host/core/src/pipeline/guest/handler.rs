//! A plugin's handler as it is mounted.

use std::{
    hash::{DefaultHasher, Hash, Hasher},
    sync::Arc,
};

use serde_json::json;

use crate::{
    contract::{HandlerDeclaration, Json, TriggerRequest},
    identity::Identity,
    object::{GroupVersionKind, Object, Part, Resource},
    ownership::{Author, Makes, is_patched_by},
    plugin::{Filtered, HandlerName, Mounted, Projection, RETRY_ANNOTATION, Rights},
    ports::{Guest, Observed},
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
    /// In whose name its children and patches are written. What the operator notes of its calls is not.
    pub identity: Identity,
    /// What answers.
    pub guest: Arc<dyn Guest>,
}

impl MountedHandler {
    pub(super) fn wants(&self, trigger: &TriggerRequest) -> bool {
        self.declaration.triggers.contains(trigger)
    }

    /// The one who writes what the handler wants. `manager` is its field manager.
    pub(super) fn author<'a>(&self, manager: &'a str, makes: Makes) -> Author<'a> {
        Author { manager, force: self.takes_conflicts, native: false, makes }
    }

    /// Whether there is something to do about an object of the kind of the handler's subjects: it is one, or holds something
    /// from when it was one.
    pub fn concerns(&self, object: &Object, observed: &dyn Observed, makes: Makes) -> bool {
        if self.mounted.matches(object) {
            return true;
        }
        let manager = self.name.field_manager();
        let (uid, author) = (&object.metadata.uid, self.author(&manager, makes));
        let is_ours = |child: &Arc<Object>| author.made(child, uid) && !child.is_being_deleted();
        is_patched_by(object, &manager)
            || self.children.iter().any(|kind| observed.controlled_by(kind, uid).iter().any(is_ours))
    }

    /// What has to be known of the subjects: what the handler sees, and what decides whether it is called. What it may patch is
    /// metadata.
    pub fn part(&self) -> Part {
        self.projection.as_ref().map_or(Part::Whole, Projection::part).and(&self.mounted.part())
    }

    /// What a change of an object of the kind of the handler's subjects is to it, by what it was and what it is: both as far as
    /// they are known, and before any projection.
    pub fn filter(&self, old: Option<&Object>, new: Option<&Object>) -> Filtered {
        match (self.mounted.filter(old, new), old, new) {
            (Filtered::Updated, Some(old), Some(new)) if !self.is_touched(old, new) => Filtered::Unchanged,
            (filtered, ..) => filtered,
        }
    }

    /// Whether something changed that the handler sees, or that it is to be called for without seeing it.
    fn is_touched(&self, old: &Object, new: &Object) -> bool {
        let Some(projection) = &self.projection else { return true };
        // The last state is kept for it: an older one would be kept beside that of the index.
        let keeps_state = self.wants(&TriggerRequest::Deleted);
        let manager = self.name.field_manager();
        let beside = |object: &Object| {
            let metadata = &object.metadata;
            let held = object.applied_by(&manager).map(|entry| entry.fields.clone());
            let retry = metadata.annotations.get(RETRY_ANNOTATION).cloned();
            (metadata.uid.clone(), metadata.deletion_timestamp.clone(), object.is_paused(), retry, held)
        };
        keeps_state || old.unreadable != new.unreadable || beside(old) != beside(new) || projection.differs(old, new)
    }

    pub(super) fn project(&self, object: &Object) -> Json {
        match &self.projection {
            Some(projection) => projection.of(&object.to_value()).to_string(),
            None => object.to_json(),
        }
    }

    /// Of everything that would be handed over. The resource version is left out: it also moves when nothing else does.
    pub(super) fn fingerprint(&self, subject: &Object, projected: &str) -> u64 {
        let mut hasher = DefaultHasher::new();
        self.code.hash(&mut hasher);
        if self.projection.is_some() {
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
}

impl std::fmt::Debug for MountedHandler {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("MountedHandler")
            .field("name", &self.name)
            .field("subject", &self.subject.kind)
            .finish_non_exhaustive()
    }
}
