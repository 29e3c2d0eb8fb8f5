//! What a plugin may do: what it asks for, and was granted, and the policy allows.

use super::{FieldPathError, Projection};
use crate::{
    contract::{KindReference, PatchStrategy, Permissions},
    object::{GroupVersionKind, Resource},
    spec::{DEFAULT_CHILDREN, Grants, Limits},
};

/// Kinds that no grant allows: with them a plugin could give itself rights, or run code elsewhere.
const NEVER: [(&str, &[&str]); 8] = [
    ("", &["Secret", "Namespace", "Node", "ServiceAccount", "PersistentVolume"]),
    ("rbac.authorization.k8s.io", &[]),
    ("admissionregistration.k8s.io", &[]),
    ("apiextensions.k8s.io", &[]),
    ("apiregistration.k8s.io", &[]),
    ("certificates.k8s.io", &[]),
    ("authentication.k8s.io", &[]),
    ("plugins.dask.org", &[]),
];

/// Fields of subjects of which patches are served.
const PATCHED: [&str; 2] = ["metadata.labels", "metadata.annotations"];

/// See the module.
#[derive(Clone, Debug)]
pub struct Rights {
    /// Kinds of which the plugin asks to create children, those that are served.
    create: Vec<GroupVersionKind>,
    /// What it asks to patch, of kinds that are served.
    patch: Vec<AskedPatch>,
    /// What it asks for that is not served in this version, whatever the subject.
    unserved: Vec<&'static str>,
    granted: Grants,
    /// How much it may answer.
    pub limits: Limits,
}

#[derive(Clone, Debug)]
struct AskedPatch {
    kind: GroupVersionKind,
    fields: Vec<String>,
    strategy: PatchStrategy,
}

impl Rights {
    /// From what a plugin asks for and was granted. `resolve` finds what the cluster serves by the name that a person gave.
    pub fn new(
        asked: &Permissions,
        granted: &Grants,
        limits: Limits,
        resolve: &dyn Fn(&KindReference) -> Result<Resource, String>,
    ) -> Self {
        let kind = |reference: &KindReference| resolve(reference).ok().map(|resource| resource.kind);
        let mut create: Vec<_> = asked.create.iter().filter_map(kind).collect();
        create.sort();
        create.dedup();
        let patch = asked.patch.iter().filter_map(|patch| {
            let fields = patch.fields.clone();
            Some(AskedPatch { kind: kind(&patch.kind)?, fields, strategy: patch.strategy })
        });
        let unserved =
            [(!asked.read.is_empty(), "permissions.read"), (asked.delete_subject, "permissions.delete-subject")];
        Self {
            create,
            patch: patch.collect(),
            unserved: unserved.into_iter().filter(|(is_asked, _)| *is_asked).map(|(_, what)| what).collect(),
            granted: granted.clone(),
            limits,
        }
    }

    /// Kinds of which the plugin may have children: asked for, granted, and served.
    pub fn children(&self) -> Vec<GroupVersionKind> {
        self.create.iter().filter(|kind| self.is_granted(kind)).cloned().collect()
    }

    /// What the plugin asks for, for subjects of a kind, that this version does not serve.
    pub fn unserved(&self, subject: &GroupVersionKind) -> Vec<String> {
        let served = Projection::parse(PATCHED.map(str::to_owned).iter()).ok();
        let is_served = |field: &str| served.as_ref().is_some_and(|served| served.covers(field));
        let mut found: Vec<_> = self.unserved.iter().map(|what| (*what).to_owned()).collect();
        for patch in self.patch.iter().filter(|patch| patch.kind.same_kind(subject)) {
            match patch.strategy {
                PatchStrategy::Merge => found.push("merge patches".to_owned()),
                PatchStrategy::Apply => {
                    let fields = patch.fields.iter().filter(|field| !is_served(field));
                    found.extend(fields.map(|field| format!("patches of {field}")));
                }
            }
        }
        found
    }

    /// What the plugin asks for and was not granted, for people.
    pub fn ungranted(&self) -> Vec<String> {
        let kinds = self.create.iter().filter(|kind| !self.is_granted(kind)).map(|kind| format!("create {kind}"));
        let fields = self.patch.iter().flat_map(|patch| {
            let granted = self.granted_fields(&patch.kind).ok();
            let is_granted = move |field: &str| granted.as_ref().is_some_and(|granted| granted.covers(field));
            let fields = patch.fields.iter().filter(move |field| !is_granted(field));
            fields.map(|field| format!("patch {field} of {}", patch.kind))
        });
        kinds.chain(fields).collect()
    }

    fn is_granted(&self, kind: &GroupVersionKind) -> bool {
        DEFAULT_CHILDREN.contains(&(kind.group.as_str(), kind.kind.as_str()))
            || self.granted.create.iter().any(|grant| grant.group == kind.group && grant.kind == kind.kind)
    }

    /// Whether the policy and the administrator allow children of a kind.
    pub(super) fn check_granted(&self, kind: &GroupVersionKind) -> Result<(), String> {
        let never = NEVER
            .iter()
            .any(|(group, kinds)| kind.group == *group && (kinds.is_empty() || kinds.contains(&kind.kind.as_str())));
        if never {
            return Err(format!("{kind} is never created for a plugin, whatever is granted"));
        }
        if !self.is_granted(kind) {
            return Err(format!(
                "{kind} is not granted; an administrator adds {{group: {:?}, kind: {}}} to spec.grants.create of the DaskPlugin",
                kind.group, kind.kind
            ));
        }
        Ok(())
    }

    /// Whether the plugin has asked for children of a kind that is served.
    pub(super) fn check_asked(&self, kind: &GroupVersionKind) -> Result<(), String> {
        if !self.create.iter().any(|asked| asked.same_kind(kind)) {
            return Err(format!(
                "the plugin's manifest does not ask for {kind}; add it to permissions.create in the plugin's description"
            ));
        }
        Ok(())
    }

    /// Fields of subjects of a kind that may be patched.
    pub(super) fn granted_fields(&self, subject: &GroupVersionKind) -> Result<Projection, FieldPathError> {
        let grants =
            self.granted.patch.iter().filter(|grant| grant.group == subject.group && grant.kind == subject.kind);
        Projection::parse(grants.flat_map(|grant| &grant.fields))
    }

    /// Fields of subjects of a kind that the plugin asks to patch.
    pub(super) fn asked_fields(&self, subject: &GroupVersionKind) -> Result<Projection, FieldPathError> {
        let is_asked = |patch: &&AskedPatch| patch.strategy == PatchStrategy::Apply && patch.kind.same_kind(subject);
        Projection::parse(self.patch.iter().filter(is_asked).flat_map(|patch| &patch.fields))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        contract::PatchPermission,
        spec::{KindGrant, PatchGrant},
    };

    fn reference(name: &str) -> KindReference {
        KindReference { group: None, version: None, name: name.to_owned() }
    }

    /// As discovery does: by kind, plural and short name.
    fn resolve(reference: &KindReference) -> Result<Resource, String> {
        let served = [("", "Service", "services", "svc"), ("batch", "Job", "jobs", "job"), ("", "Pod", "pods", "po")];
        let names = |kind: &str, others: [&str; 2]| {
            [kind, others[0], others[1]].iter().any(|name| name.eq_ignore_ascii_case(&reference.name))
        };
        let found = served.into_iter().find(|(_, kind, plural, short)| names(kind, [plural, short]));
        let (group, kind, plural, _) = found.ok_or("it is not served")?;
        Ok(Resource { kind: GroupVersionKind::new(group, "v1", kind), plural: plural.to_owned(), namespaced: true })
    }

    fn patch(name: &str, fields: &[&str], strategy: PatchStrategy) -> PatchPermission {
        let fields = fields.iter().map(|field| (*field).to_owned()).collect();
        PatchPermission { kind: reference(name), fields, strategy }
    }

    fn rights(asked: &Permissions) -> Rights {
        let granted = Grants {
            create: vec![KindGrant { group: "batch".to_owned(), kind: "Job".to_owned() }],
            patch: vec![PatchGrant {
                group: String::new(),
                kind: "Service".to_owned(),
                fields: vec!["metadata.annotations".to_owned()],
                merge: false,
            }],
            ..Grants::default()
        };
        Rights::new(asked, &granted, Limits::default(), &resolve)
    }

    #[test]
    fn kinds_are_asked_for_by_any_of_their_names() {
        for name in ["Job", "job", "jobs"] {
            let rights = rights(&Permissions { create: vec![reference(name)], ..Permissions::default() });
            let job = GroupVersionKind::new("batch", "v1", "Job");
            assert_eq!((rights.check_asked(&job), rights.children()), (Ok(()), vec![job]), "{name}");
        }
        let asked =
            Permissions { patch: vec![patch("svc", &["metadata"], PatchStrategy::Apply)], ..Permissions::default() };
        let fields = rights(&asked).asked_fields(&GroupVersionKind::new("", "v1", "Service")).unwrap();
        assert!(fields.covers("metadata.labels"));
    }

    #[test]
    fn what_is_not_served_yet_is_named_for_the_subjects_that_it_concerns() {
        let (service, pod) = (GroupVersionKind::new("", "v1", "Service"), GroupVersionKind::new("", "v1", "Pod"));
        let asked = Permissions {
            patch: vec![
                patch("svc", &["metadata.annotations[\"a.b/c\"]", "status.phase"], PatchStrategy::Apply),
                patch("svc", &["metadata.labels"], PatchStrategy::Merge),
            ],
            ..Permissions::default()
        };
        assert_eq!(rights(&asked).unserved(&service), ["patches of status.phase", "merge patches"]);
        assert!(rights(&asked).unserved(&pod).is_empty());
        let asked = Permissions { read: vec![reference("po")], delete_subject: true, ..Permissions::default() };
        assert_eq!(rights(&asked).unserved(&pod), ["permissions.read", "permissions.delete-subject"]);
    }

    #[test]
    fn what_is_asked_for_and_not_granted_is_told() {
        let asked = Permissions {
            create: ["svc", "job", "po", "unserved"].map(reference).to_vec(),
            patch: vec![patch("svc", &["metadata.annotations[\"a\"]", "metadata.labels"], PatchStrategy::Apply)],
            ..Permissions::default()
        };
        assert_eq!(rights(&asked).ungranted(), ["create Pod", "patch metadata.labels of Service"]);
    }
}
