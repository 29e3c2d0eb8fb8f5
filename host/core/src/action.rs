//! What is to be written, as values, and what came of it.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{
    claim::FieldPath,
    conflict::{Conflict, in_words},
    names::check_dns_subdomain,
    object::{GroupVersionKind, NamespacedName, Object, ObjectKey, Resource},
    quote::quote,
};

/// One write. The applier has no choice left to make: it performs the action as it stands, or reports why it could not.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Action {
    /// Server-side apply of the whole set of fields of one manager.
    Apply(Apply),
    /// An apply that is not carried out: the answer says what would become of the object.
    DryRun(Apply),
    /// Deletion of one object, by uid. Children follow in the background.
    Delete {
        /// The object's kind.
        resource: Resource,
        /// The object.
        object: ObjectKey,
        /// Precondition.
        uid: String,
        /// Precondition, where the object goes for what was seen of it; none: in whatever state it is.
        resource_version: Option<String>,
    },
    /// Removal of a finalizer that nobody heeds any more, and a note of it.
    RemoveFinalizer {
        /// The object's kind.
        resource: Resource,
        /// The object.
        object: ObjectKey,
        /// Precondition.
        uid: String,
        /// Precondition.
        resource_version: String,
        /// The finalizer's place among the object's finalizers.
        position: usize,
        /// All annotations of the object from then on.
        annotations: BTreeMap<String, String>,
    },
    /// What somebody else has set on an object that was made for our subject becomes the manager's, see [`crate::inheritance`].
    Inherit {
        /// The object's kind.
        resource: Resource,
        /// The object.
        object: ObjectKey,
        /// Precondition.
        uid: String,
        /// Precondition: the uid of its controller, for which it was made.
        controller: String,
        /// Field manager.
        manager: String,
    },
    /// An apply to an object that is there, of which parts stand in its way: they become the manager's first, whoever has them,
    /// so that the apply takes them away. See [`crate::claim`].
    Displace {
        /// The apply.
        apply: Apply,
        /// The parts.
        parts: Vec<FieldPath>,
    },
}

/// Server-side apply of the whole set of fields of one manager.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Apply {
    /// The object's kind.
    pub resource: Resource,
    /// The object.
    pub object: ObjectKey,
    /// The object itself, or its status.
    pub target: ApplyTarget,
    /// Field manager.
    pub manager: String,
    /// What must hold of the object.
    pub precondition: Precondition,
    /// The fields, with `apiVersion`, `kind` and name.
    pub body: Value,
    /// Whether to take fields that other managers hold.
    pub force: bool,
}

impl Apply {
    /// The uid of the controller that it sets: the subject for which the object is.
    pub fn controller_uid(&self) -> Option<&str> {
        let owners = self.body.pointer("/metadata/ownerReferences")?.as_array()?;
        owners.iter().find(|owner| owner["controller"] == true)?["uid"].as_str()
    }
}

/// What must hold of an object for an apply to be carried out. The API server checks it, and changes nothing where it does not.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Precondition {
    /// It does not exist.
    Absent,
    /// It is the one of this uid.
    Uid(String),
    /// It is the one of this uid, and still has this resource version.
    Unchanged {
        /// Its uid.
        uid: String,
        /// Its resource version.
        resource_version: String,
    },
}

impl Precondition {
    /// That it is this very object.
    pub fn is(object: &Object) -> Self {
        Self::Uid(object.metadata.uid.clone())
    }

    /// The uid that it must have.
    pub fn uid(&self) -> Option<&str> {
        match self {
            Self::Absent => None,
            Self::Uid(uid) | Self::Unchanged { uid, .. } => Some(uid),
        }
    }

    /// That it is this very object, and nobody has changed it since.
    pub fn unchanged(object: &Object) -> Self {
        let metadata = &object.metadata;
        Self::Unchanged { uid: metadata.uid.clone(), resource_version: metadata.resource_version.clone() }
    }
}

/// What an apply is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ApplyTarget {
    /// Metadata and specification.
    Object,
    /// The status subresource.
    Status,
}

impl Action {
    /// The object that is written.
    pub fn object(&self) -> &ObjectKey {
        match self {
            Self::Apply(apply) | Self::DryRun(apply) | Self::Displace { apply, .. } => &apply.object,
            Self::Delete { object, .. } | Self::RemoveFinalizer { object, .. } | Self::Inherit { object, .. } => object,
        }
    }

    /// A constant word for labels and log fields.
    pub fn verb(&self) -> &'static str {
        match self {
            Self::Apply(Apply { target: ApplyTarget::Status, .. }) => "apply-status",
            Self::Apply(Apply { precondition: Precondition::Absent, .. }) => "create",
            Self::Apply(_) => "apply",
            Self::DryRun(_) => "dry-run",
            Self::Delete { .. } => "delete",
            Self::RemoveFinalizer { .. } => "remove-finalizer",
            Self::Inherit { .. } => "inherit",
            Self::Displace { .. } => "displace",
        }
    }

    /// What it applies, if it does.
    pub fn as_apply(&self) -> Option<&Apply> {
        match self {
            Self::Apply(apply) | Self::Displace { apply, .. } => Some(apply),
            Self::DryRun(_) | Self::Delete { .. } | Self::RemoveFinalizer { .. } | Self::Inherit { .. } => None,
        }
    }
}

/// How Kubernetes' validation says that a field can't change: of any kind that has such a field, of Services, of bindings of
/// roles, and of kinds whose spec can change in part only.
const UNCHANGEABLE: [&str; 5] =
    ["immutable", "may not change", "can not be unset", "cannot change roleRef", "for fields other than"];

/// Whether the API server refuses a change because the field can't change: the object must be made anew for it.
pub fn is_about_what_cannot_change(words: &str) -> bool {
    UNCHANGEABLE.iter().any(|part| words.contains(part))
}

/// What became of an action that was performed.
#[derive(Clone, Debug)]
pub enum Written {
    /// The object as the server answered it; of a dry run, as it would be.
    Applied(std::sync::Arc<Object>),
    /// The object is gone, or on its way out.
    Deleted,
}

/// Why an action was not performed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WriteError {
    /// The object exists and is not ours; nothing of it was changed.
    #[error("{object} exists already and belongs to {owner}; rename or delete it, or choose another name")]
    Foreign {
        /// The object.
        object: ObjectKey,
        /// Its controller or the field managers that made it.
        owner: String,
    },
    /// Other managers hold fields that we want.
    #[error("other field managers hold fields of {object}: {}", in_words(conflicts))]
    Conflict {
        /// The object.
        object: ObjectKey,
        /// Which, of whom; at most [`crate::conflict::CONFLICTS`].
        conflicts: Vec<Conflict>,
    },
    /// A precondition did not hold: the object changed or was made anew. Looking again is all that is needed.
    #[error("{object} changed in between: {}", quote(message))]
    Stale {
        /// The object.
        object: ObjectKey,
        /// The server's words.
        message: String,
    },
    /// The server refuses the object as it is: invalid, or forbidden by admission or quota.
    #[error("the API server refuses {object}: {}", quote(message))]
    Refused {
        /// The object.
        object: ObjectKey,
        /// HTTP status code.
        code: u16,
        /// The server's reason word, `Invalid`.
        reason: String,
        /// The server's words, which name the field.
        message: String,
        /// The fields that it names, as paths in the object.
        fields: Vec<String>,
    },
    /// The server does not know the kind, any more.
    #[error("the API server does not serve the kind of {object}; install its CustomResourceDefinition")]
    NotServed {
        /// The object.
        object: ObjectKey,
    },
    /// No answer, or one that says to try again.
    #[error("the API server could not be asked to {verb} {object}: {}", quote(message))]
    Unavailable {
        /// The object.
        object: ObjectKey,
        /// What was tried.
        verb: &'static str,
        /// The transport's or server's words.
        message: String,
    },
    /// This process may not write (any more): the Lease is somebody else's.
    #[error("not written: this process does not hold the Lease")]
    NotLeader,
    /// What allowed it was withdrawn meanwhile: its plugin was suspended, removed, replaced, or is granted less.
    #[error("not written: the plugin may not any more, or was remounted")]
    Withdrawn,
}

impl WriteError {
    /// The kinds that a person should know of: what can be found out only by writing.
    pub const TOLD: [&str; 6] =
        ["ForeignObject", "FieldConflict", "Forbidden", "Refused", "ApiUnavailable", "KindNotServed"];

    /// The object that was not written; none: nothing was tried.
    pub fn object(&self) -> Option<&ObjectKey> {
        match self {
            Self::Foreign { object, .. }
            | Self::Conflict { object, .. }
            | Self::Stale { object, .. }
            | Self::Refused { object, .. }
            | Self::NotServed { object }
            | Self::Unavailable { object, .. } => Some(object),
            Self::NotLeader | Self::Withdrawn => None,
        }
    }

    /// The fields that others hold.
    pub fn conflicts(&self) -> &[Conflict] {
        if let Self::Conflict { conflicts, .. } = self { conflicts } else { &[] }
    }

    /// An object that stands in the way: when it changes or goes, or its kind comes, the same may be done.
    pub fn in_the_way(&self) -> Option<ObjectKey> {
        match self {
            Self::Foreign { object, .. } | Self::Conflict { object, .. } | Self::NotServed { object } => {
                Some(object.clone())
            }
            Self::Refused { object, code: 403, message, .. } => quota(object, message),
            Self::Refused { .. } | Self::Stale { .. } | Self::Unavailable { .. } => None,
            Self::NotLeader | Self::Withdrawn => None,
        }
    }

    /// A constant word for condition reasons, labels and log fields.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Foreign { .. } => "ForeignObject",
            Self::Conflict { .. } => "FieldConflict",
            Self::Stale { .. } => "Stale",
            Self::Refused { code: 403, .. } => "Forbidden",
            Self::Refused { .. } => "Refused",
            Self::NotServed { .. } => "KindNotServed",
            Self::Unavailable { .. } => "ApiUnavailable",
            Self::NotLeader => "NotLeader",
            Self::Withdrawn => "Withdrawn",
        }
    }
}

/// The ResourceQuota that refused an object, in the words of Kubernetes' admission plugin.
fn quota(object: &ObjectKey, message: &str) -> Option<ObjectKey> {
    let named = ["exceeded quota: ", "failed quota: "].iter().find_map(|words| message.split_once(words));
    let name = named?.1.split([',', ':']).next()?;
    check_dns_subdomain(name).ok()?;
    let at = NamespacedName { namespace: object.at.namespace.clone(), name: name.to_owned() };
    Some(ObjectKey { kind: GroupVersionKind::new("", "v1", "ResourceQuota"), at })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_quota_that_refused_an_object_is_in_the_way() {
        let object =
            ObjectKey { kind: GroupVersionKind::new("", "v1", "ConfigMap"), at: NamespacedName::new("n", "a") };
        let in_the_way = |code, message: &str| {
            let (object, reason, message) = (object.clone(), String::new(), message.to_owned());
            WriteError::Refused { object, code, reason, message, fields: Vec::new() }
                .in_the_way()
                .map(|object| object.to_string())
        };
        let exceeded = r#"configmaps "a" is forbidden: exceeded quota: few.maps, requested: count/configmaps=1, used: count/configmaps=2, limited: count/configmaps=2"#;
        assert_eq!(in_the_way(403, exceeded).as_deref(), Some("ResourceQuota n/few.maps"));
        let failed = r#"pods "a" is forbidden: failed quota: compute: must specify limits.cpu for: c"#;
        assert_eq!(in_the_way(403, failed).as_deref(), Some("ResourceQuota n/compute"));
        for (code, message) in
            [(403, "no access"), (422, exceeded), (403, "exceeded quota: "), (403, "exceeded quota: A b, c")]
        {
            assert_eq!(in_the_way(code, message), None, "{message}");
        }
    }
}
