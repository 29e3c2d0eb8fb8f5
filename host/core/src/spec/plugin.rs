//! What an administrator says of a plugin.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::{DurationText, LabelSelector, LimitsSpec, PluginSource};

/// A plugin: its code, its configuration, and what it may do.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct DaskPluginSpec {
    /// Where the plugin's code is: exactly one of `configMap`, `script`, `oci` and `path`.
    pub source: PluginSource,
    /// Handed to the plugin with each call, as it stands here.
    #[serde(default, skip_serializing_if = "Map::is_empty")]
    #[cfg_attr(feature = "schema", schemars(extend("x-kubernetes-preserve-unknown-fields" = true)))]
    pub config: Map<String, Value>,
    /// What the plugin may do beyond the default, which is to create ConfigMaps, Services, Ingresses, NetworkPolicies and
    /// PodDisruptionBudgets in the subject's namespace.
    #[serde(default, skip_serializing_if = "Grants::is_empty")]
    pub grants: Grants,
    /// Where the plugin is called. Default: wherever the operator serves.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespaces: Option<PluginNamespaces>,
    /// A ServiceAccount of the operator's namespace. The operator impersonates it for what it writes on the plugin's behalf, so
    /// that the API server judges too: the account needs the RBAC permissions for the plugin's children and patches.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service_account_name: Option<String>,
    /// How much of WASI is there: `standard` has clocks, random numbers and the log, `strict` nothing but the log.
    #[serde(default)]
    pub profile: Profile,
    /// What the plugin may use.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limits: Option<LimitsSpec>,
    /// Order among `build` handlers: lower first, equal ones by name.
    #[serde(default = "default_priority")]
    pub priority: i32,
    /// When a `build` handler fails: `closed` applies nothing for that subject, `open` goes on without it.
    #[serde(default)]
    pub failure_policy: FailurePolicy,
    /// When somebody else holds a field that the plugin wants: `fail` reports it, `yield` leaves the field to them, `take` takes it.
    #[serde(default)]
    pub on_conflict: ConflictPolicy,
    /// What becomes of the plugin's children when this DaskPlugin is deleted.
    #[serde(default)]
    pub on_removal: RemovalPolicy,
    /// How long the deletion of a subject waits for a `deleting` handler that does not succeed.
    #[serde(default = "default_finalizer_deadline")]
    pub finalizer_deadline: DurationText,
    /// `live` does what the plugin wants, `shadow` only reports what it would do.
    #[serde(default)]
    pub mode: Mode,
    /// Whether calls are halted. Children stay as they are.
    #[serde(default)]
    pub suspend: bool,
    /// Former name of this plugin, whose children become this one's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub adopt_from: Option<String>,
}

impl DaskPluginSpec {
    /// The same, with no more allowed than a newer one allows, too, and in the name that the newer one gives. None: there is no
    /// place left where the plugin may be called.
    #[must_use]
    pub fn restricted_by(&self, newer: &Self) -> Option<Self> {
        let namespaces = match (&self.namespaces, &newer.namespaces) {
            (ours, None) => ours.clone(),
            (None, theirs) => theirs.clone(),
            (Some(ours), Some(theirs)) => Some(ours.common(theirs)?),
        };
        let on_conflict = match newer.on_conflict {
            ConflictPolicy::Take => self.on_conflict,
            newer => newer,
        };
        let service_account_name = newer.service_account_name.clone();
        let grants = self.grants.common(&newer.grants);
        Some(Self { namespaces, on_conflict, grants, service_account_name, ..self.clone() })
    }
}

impl PluginNamespaces {
    /// Those that both name; none if there are none.
    fn common(&self, other: &Self) -> Option<Self> {
        let selector = self.selector.clone().or_else(|| other.selector.clone());
        let names = match (self.names.as_slice(), other.names.as_slice()) {
            (_, []) => self.names.clone(),
            ([], _) => other.names.clone(),
            (ours, theirs) => {
                let common: Vec<_> = ours.iter().filter(|name| theirs.contains(name)).cloned().collect();
                (!common.is_empty()).then_some(common)?
            }
        };
        Some(Self { names, selector })
    }
}

/// The middle of the range that people use, so that there is room on both sides.
fn default_priority() -> i32 {
    100
}

fn default_finalizer_deadline() -> DurationText {
    DurationText("10m".to_owned())
}

/// Kinds, by group, of which every plugin may create children in its subject's namespace.
pub const DEFAULT_CHILDREN: [(&str, &str); 5] = [
    ("", "ConfigMap"),
    ("", "Service"),
    ("networking.k8s.io", "Ingress"),
    ("networking.k8s.io", "NetworkPolicy"),
    ("policy", "PodDisruptionBudget"),
];

/// Rights beyond the default.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Grants {
    /// Kinds of which the plugin may create children.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub create: Vec<KindGrant>,
    /// Fields of subjects that the plugin may patch.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub patch: Vec<PatchGrant>,
    /// Fields of other objects that the plugin may read. Secrets can't be granted.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub read: Vec<ReadGrant>,
    /// Whether the plugin may have its subjects deleted.
    pub delete_subject: bool,
}

impl Grants {
    /// Whether nothing is granted.
    pub fn is_empty(&self) -> bool {
        self == &Self::default()
    }

    /// Whether more is granted than every plugin may do.
    pub fn exceed_default(&self) -> bool {
        let is_default = |kind: &KindGrant| DEFAULT_CHILDREN.contains(&(kind.group.as_str(), kind.kind.as_str()));
        !self.create.iter().all(is_default) || !self.patch.is_empty() || !self.read.is_empty() || self.delete_subject
    }

    /// What both grant.
    #[must_use]
    pub fn common(&self, other: &Self) -> Self {
        let patch = self.patch.iter().flat_map(|one| other.patch.iter().filter_map(move |other| one.common(other)));
        Self {
            create: self.create.iter().filter(|kind| other.create.contains(kind)).cloned().collect(),
            patch: patch.collect(),
            read: self.read.iter().filter(|read| other.read.contains(read)).cloned().collect(),
            delete_subject: self.delete_subject && other.delete_subject,
        }
    }
}

impl PatchGrant {
    /// The fields that both allow; none if there are none.
    fn common(&self, other: &Self) -> Option<Self> {
        if (&self.group, &self.kind) != (&other.group, &other.kind) {
            return None;
        }
        let within = |field: &String, others: &[String]| {
            others.iter().any(|other| {
                field.strip_prefix(other.as_str()).is_some_and(|rest| rest.is_empty() || rest.starts_with(['.', '[']))
            })
        };
        let ours = self.fields.iter().filter(|field| within(field, &other.fields));
        let theirs = other.fields.iter().filter(|field| !self.fields.contains(field) && within(field, &self.fields));
        let fields: Vec<_> = ours.chain(theirs).cloned().collect();
        (!fields.is_empty()).then(|| Self { fields, merge: self.merge && other.merge, ..self.clone() })
    }
}

/// A kind.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct KindGrant {
    /// API group; empty for the core group.
    #[serde(default)]
    pub group: String,
    /// Kind, such as VirtualService.
    pub kind: String,
}

/// Fields of a kind that may be patched.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct PatchGrant {
    /// API group; empty for the core group.
    #[serde(default)]
    pub group: String,
    /// Kind, such as DaskCluster.
    pub kind: String,
    /// Paths of the fields, such as metadata.annotations; each covers what is below it.
    pub fields: Vec<String>,
    /// Whether merge patches are allowed too. They are made once and not kept up, and they overwrite what others have set.
    #[serde(default)]
    pub merge: bool,
}

/// Fields of a kind that may be read.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct ReadGrant {
    /// API group; empty for the core group.
    #[serde(default)]
    pub group: String,
    /// Kind, such as Namespace.
    pub kind: String,
    /// Paths of the fields, such as metadata.labels; each covers what is below it. None: the whole object.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub fields: Vec<String>,
}

/// Namespaces that a plugin is called for. What is given must all match.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct PluginNamespaces {
    /// By name. None: any.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub names: Vec<String>,
    /// By the labels of the Namespace.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub selector: Option<LabelSelector>,
}

/// How much of WASI a plugin sees.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub enum Profile {
    /// WASI 0.2 without files, sockets and environment, as language runtimes need it.
    #[default]
    Standard,
    /// None of it.
    Strict,
}

/// What a failing `build` handler means for its subject.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub enum FailurePolicy {
    /// Nothing is applied.
    #[default]
    Closed,
    /// The handler is passed over.
    Open,
}

/// What to do about a field that somebody else holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub enum ConflictPolicy {
    /// Report it and write nothing.
    #[default]
    Fail,
    /// Leave the field to them and write the rest.
    Yield,
    /// Take the field.
    Take,
}

/// What becomes of the children of a removed plugin.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub enum RemovalPolicy {
    /// They are deleted.
    #[default]
    Prune,
    /// They stay.
    Leave,
}

/// Whether a plugin has effects.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub enum Mode {
    /// It has.
    #[default]
    Live,
    /// It is called, and what it wants is only reported.
    Shadow,
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn only_a_source_is_needed() {
        let spec: DaskPluginSpec = serde_json::from_value(json!({ "source": { "path": "/a.wasm" } })).unwrap();
        assert_eq!(spec.profile, Profile::Standard);
        assert_eq!(spec.on_conflict, ConflictPolicy::Fail);
        assert_eq!(spec.on_removal, RemovalPolicy::Prune);
        assert_eq!(spec.failure_policy, FailurePolicy::Closed);
        assert_eq!((spec.mode, spec.suspend, spec.priority), (Mode::Live, false, 100));
        assert!(spec.grants.is_empty() && spec.config.is_empty());
        assert!(spec.finalizer_deadline.parse("spec.finalizerDeadline").is_ok());
    }

    #[test]
    fn what_a_newer_specification_withdraws_is_withdrawn_and_what_it_adds_is_not_given() {
        let spec = |fields: Value| {
            let mut spec = fields;
            spec["source"] = json!({"path": "/a.wasm"});
            serde_json::from_value::<DaskPluginSpec>(spec).unwrap()
        };
        let names = |names: &[&str]| spec(json!({"namespaces": {"names": names}}));
        let left = |older: &DaskPluginSpec, newer: &DaskPluginSpec| {
            Some(older.restricted_by(newer)?.namespaces.map(|namespaces| namespaces.names).unwrap_or_default())
        };
        let any = spec(json!({}));
        assert_eq!(left(&any, &names(&["a"])), Some(vec!["a".to_owned()]));
        assert_eq!(left(&names(&["a"]), &any), Some(vec!["a".to_owned()]));
        assert_eq!(left(&names(&["a", "b"]), &names(&["c", "b"])), Some(vec!["b".to_owned()]));
        assert_eq!(left(&names(&["a"]), &names(&["b"])), None);
        let taking = spec(json!({"onConflict": "take", "grants": {"create": [{"kind": "Pod"}]}}));
        assert_eq!(taking.restricted_by(&any).unwrap(), any);
        assert_eq!(any.restricted_by(&taking).unwrap(), any);
    }

    #[test]
    fn a_spec_survives_a_round_trip() {
        let manifest = json!({
            "source": { "configMap": { "name": "istio-plugin", "keys": ["istio.wasm.gz"] }, "sha256": "0".repeat(64) },
            "config": { "gateway": "dask/public" },
            "grants": {
                "create": [{ "group": "networking.istio.io", "kind": "VirtualService" }],
                "patch": [{ "group": "kubernetes.dask.org", "kind": "DaskCluster", "fields": ["metadata.annotations"], "merge": false }],
                "read": [{ "group": "", "kind": "Namespace", "fields": ["metadata.labels"] }],
                "deleteSubject": false,
            },
            "namespaces": { "names": ["team-a"], "selector": { "matchLabels": { "dask": "yes" } } },
            "serviceAccountName": "istio-plugin",
            "profile": "strict",
            "limits": { "memory": "64Mi", "deadline": "200ms" },
            "priority": 7,
            "failurePolicy": "open",
            "onConflict": "yield",
            "onRemoval": "leave",
            "finalizerDeadline": "5m",
            "mode": "shadow",
            "suspend": true,
            "adoptFrom": "old-name",
        });
        let spec: DaskPluginSpec = serde_json::from_value(manifest.clone()).unwrap();
        assert_eq!(serde_json::to_value(spec).unwrap(), manifest);
    }

    #[test]
    fn grants_exceed_the_default_when_they_name_anything_else() {
        let exceeds = |grants| serde_json::from_value::<Grants>(grants).unwrap().exceed_default();
        assert!(!exceeds(json!({})));
        assert!(!exceeds(
            json!({ "create": [{ "kind": "Service" }, { "group": "policy", "kind": "PodDisruptionBudget" }] })
        ));
        assert!(exceeds(json!({ "create": [{ "group": "networking.istio.io", "kind": "Service" }] })));
        assert!(exceeds(json!({ "patch": [{ "kind": "Service", "fields": ["metadata.labels"] }] })));
        assert!(exceeds(json!({ "read": [{ "kind": "Service" }] })));
        assert!(exceeds(json!({ "deleteSubject": true })));
    }
    #[test]
    fn what_is_revoked_is_not_in_common_and_what_is_new_neither() {
        let grants = |value| serde_json::from_value::<Grants>(value).unwrap();
        let patch = |fields: &[&str], merge: bool| json!({ "kind": "Service", "fields": fields, "merge": merge });
        let before = grants(json!({
            "create": [{ "group": "batch", "kind": "Job" }, { "group": "apps", "kind": "Deployment" }],
            "patch": [patch(&["metadata.labels", "metadata.annotations[\"a/b\"]"], true)],
            "deleteSubject": true,
        }));
        let after = grants(json!({
            "create": [{ "group": "batch", "kind": "Job" }, { "kind": "Pod" }],
            "patch": [patch(&["metadata.labels.team", "metadata.annotations", "metadata.labelsToo"], false)],
        }));
        let common = grants(json!({
            "create": [{ "group": "batch", "kind": "Job" }],
            "patch": [patch(&["metadata.annotations[\"a/b\"]", "metadata.labels.team"], false)],
        }));
        assert_eq!(before.common(&after), common);
        assert_eq!(before.common(&before), before);
        assert_eq!(before.common(&Grants::default()), Grants::default());
    }
}
