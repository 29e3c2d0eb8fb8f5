//! The operator's rights, in one table.
//!
//! The chart's roles are rendered from it, and the program asks the API server at start for each right that it names. Rights
//! that a plugin's grants need are not here: the chart adds them from the same values that make the DaskPlugin.

use std::{collections::BTreeSet, fmt};

use k8s_openapi::api::rbac::v1::PolicyRule;

/// Where a right is needed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Scope {
    /// Wherever Dask objects are served: all namespaces, or those that the operator is confined to.
    Served,
    /// In the operator's own namespace.
    Operator,
    /// On objects without a namespace. An operator that is confined to a list of namespaces does without.
    Cluster,
    /// On objects without a namespace, where the namespaces that are served are those that match a pattern.
    Matching,
    /// Wherever Dask objects are served, on single objects that the administrator names. The operator does without until a
    /// Dask object asks for it.
    Named,
    /// In the operator's own namespace, on the accounts that plugins name. The operator does without until one does.
    Accounts,
}

/// One row of the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rights {
    /// Where.
    pub scope: Scope,
    /// API group, `""` for the core group.
    pub group: &'static str,
    /// Plural names, with `/subresource` where it is one.
    pub resources: &'static [&'static str],
    /// Verbs.
    pub verbs: &'static [&'static str],
    /// What the operator does with them.
    pub why: &'static str,
}

const WATCH: &[&str] = &["get", "list", "watch"];
const MANAGE: &[&str] = &["get", "list", "watch", "create", "patch", "delete"];

/// What the operator may do.
pub const TABLE: [Rights; 24] = [
    Rights {
        scope: Scope::Served,
        group: "kubernetes.dask.org",
        resources: &["daskclusters", "daskworkergroups"],
        verbs: MANAGE,
        why: "serves them; makes the default group of a cluster and the cluster of a job, deletes idle and finished clusters",
    },
    Rights {
        scope: Scope::Served,
        group: "kubernetes.dask.org",
        resources: &["daskjobs"],
        verbs: &["get", "list", "watch", "patch", "delete"],
        why: "serves them; deletes those whose ttlSecondsAfterFinished is over",
    },
    Rights {
        scope: Scope::Served,
        group: "kubernetes.dask.org",
        resources: &["daskautoscalers"],
        verbs: &["get", "list", "watch", "patch"],
        why: "serves them; releases those that the Python operator held",
    },
    Rights {
        scope: Scope::Served,
        group: "kubernetes.dask.org",
        resources: &["daskclusters/status", "daskworkergroups/status", "daskjobs/status", "daskautoscalers/status"],
        verbs: &["patch"],
        why: "reports their state",
    },
    Rights {
        scope: Scope::Served,
        group: "kubernetes.dask.org",
        resources: &[
            "daskclusters/finalizers",
            "daskworkergroups/finalizers",
            "daskjobs/finalizers",
            "daskautoscalers/finalizers",
        ],
        verbs: &["update"],
        why: "owner references that block deletion need it where OwnerReferencesPermissionEnforcement is on, as on OpenShift",
    },
    Rights {
        scope: Scope::Served,
        group: "apps",
        resources: &["deployments"],
        verbs: MANAGE,
        why: "schedulers and workers",
    },
    Rights {
        scope: Scope::Served,
        group: "",
        resources: &["pods"],
        verbs: MANAGE,
        why: "pods that run jobs; why those of schedulers and workers fail",
    },
    Rights {
        scope: Scope::Served,
        group: "",
        resources: &["services", "configmaps"],
        verbs: MANAGE,
        why: "services of schedulers; children that every plugin may have",
    },
    Rights {
        scope: Scope::Served,
        group: "networking.k8s.io",
        resources: &["ingresses", "networkpolicies"],
        verbs: MANAGE,
        why: "children that every plugin may have",
    },
    Rights {
        scope: Scope::Served,
        group: "policy",
        resources: &["poddisruptionbudgets"],
        verbs: MANAGE,
        why: "children that every plugin may have",
    },
    Rights {
        scope: Scope::Served,
        group: "",
        resources: &["services/finalizers"],
        verbs: &["update"],
        why: "as for Dask's kinds: a scheduler's Service owns what plugins make for it",
    },
    Rights {
        scope: Scope::Served,
        group: "apps",
        resources: &["deployments/finalizers"],
        verbs: &["update"],
        why: "as for Dask's kinds: a scheduler's or worker's Deployment owns what plugins make for it",
    },
    Rights {
        scope: Scope::Served,
        group: "plugins.dask.org",
        resources: &["daskpluginrecords"],
        verbs: MANAGE,
        why: "keeps what plugins have handled",
    },
    Rights {
        scope: Scope::Served,
        group: "events.k8s.io",
        resources: &["events"],
        verbs: &["create"],
        why: "tells users what happened to their objects",
    },
    Rights {
        scope: Scope::Served,
        group: "",
        resources: &["resourcequotas"],
        verbs: &["list", "watch"],
        why: "notices that a quota which refused something has room again",
    },
    Rights {
        scope: Scope::Operator,
        group: "plugins.dask.org",
        resources: &["daskplugins"],
        verbs: WATCH,
        why: "mounts plugins",
    },
    Rights {
        scope: Scope::Operator,
        group: "plugins.dask.org",
        resources: &["daskplugins/status"],
        verbs: &["patch"],
        why: "reports their state",
    },
    Rights {
        scope: Scope::Operator,
        group: "",
        resources: &["configmaps"],
        verbs: WATCH,
        why: "reads the code of plugins",
    },
    Rights {
        scope: Scope::Operator,
        group: "events.k8s.io",
        resources: &["events"],
        verbs: &["create"],
        why: "tells administrators what happened to a plugin",
    },
    Rights {
        scope: Scope::Operator,
        group: "coordination.k8s.io",
        resources: &["leases"],
        verbs: &["get", "create", "update"],
        why: "only the replica that holds the Lease writes",
    },
    Rights {
        scope: Scope::Cluster,
        group: "apiextensions.k8s.io",
        resources: &["customresourcedefinitions"],
        verbs: WATCH,
        why: "notices kinds that are installed after a plugin that needs them",
    },
    Rights {
        scope: Scope::Matching,
        group: "",
        resources: &["namespaces"],
        verbs: WATCH,
        why: "finds the namespaces that match",
    },
    Rights {
        scope: Scope::Named,
        group: "",
        resources: &["secrets"],
        verbs: &["get"],
        why: "speaks TLS with schedulers whose cluster names the Secret in tlsSecretName",
    },
    Rights {
        scope: Scope::Accounts,
        group: "",
        resources: &["serviceaccounts"],
        verbs: &["impersonate"],
        why: "writes in the name of the account that a plugin names in serviceAccountName",
    },
];

impl Rights {
    /// As a rule of a Role or ClusterRole.
    pub fn to_rule(&self) -> PolicyRule {
        let owned = |texts: &[&str]| texts.iter().map(|&text| text.to_owned()).collect();
        PolicyRule {
            api_groups: Some(owned(&[self.group])),
            resources: Some(owned(self.resources)),
            verbs: owned(self.verbs),
            ..PolicyRule::default()
        }
    }
}

/// The rules for one scope, as a Role or ClusterRole has them.
pub fn rules(scope: Scope) -> Vec<PolicyRule> {
    TABLE.iter().filter(|rights| rights.scope == scope).map(Rights::to_rule).collect()
}

/// Which Dask objects the operator serves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Served<'a> {
    /// Those of all namespaces.
    AllNamespaces,
    /// Those of these namespaces.
    Namespaces(&'a BTreeSet<String>),
    /// Those of the namespaces that match a pattern.
    Matching,
}

/// One right, as a SelfSubjectAccessReview asks for it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Access {
    /// API group, `""` for the core group.
    pub group: &'static str,
    /// Plural name.
    pub resource: &'static str,
    /// The subresource, if it is one.
    pub subresource: Option<&'static str>,
    /// The verb.
    pub verb: &'static str,
    /// The namespace; none: all of them, or objects without a namespace.
    pub namespace: Option<String>,
}

impl Access {
    /// `resource` as rules name it: a subresource stands behind a slash, `deployments/status`.
    pub fn new(group: &'static str, resource: &'static str, verb: &'static str, namespace: Option<&str>) -> Self {
        let (resource, subresource) = match resource.split_once('/') {
            Some((resource, subresource)) => (resource, Some(subresource)),
            None => (resource, None),
        };
        Self { group, resource, subresource, verb, namespace: namespace.map(str::to_owned) }
    }
}

impl fmt::Display for Access {
    /// As an administrator would say it: `patch daskclusters/status.kubernetes.dask.org in all namespaces`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.verb, self.resource)?;
        if let Some(subresource) = self.subresource {
            write!(f, "/{subresource}")?;
        }
        if !self.group.is_empty() {
            write!(f, ".{}", self.group)?;
        }
        match &self.namespace {
            Some(namespace) => write!(f, " in namespace {namespace}"),
            None => f.write_str(" in all namespaces"),
        }
    }
}

/// Every right that the operator needs, each once and in a stable order.
pub fn required_access(served: Served<'_>, operator_namespace: &str) -> BTreeSet<Access> {
    let mut access = BTreeSet::new();
    for rights in &TABLE {
        let namespaces: Vec<Option<&str>> = match (rights.scope, served) {
            (Scope::Operator, _) => vec![Some(operator_namespace)],
            (Scope::Served, Served::Namespaces(names)) => names.iter().map(|name| Some(name.as_str())).collect(),
            (Scope::Served | Scope::Cluster, Served::AllNamespaces | Served::Matching)
            | (Scope::Matching, Served::Matching) => vec![None],
            (Scope::Cluster | Scope::Matching | Scope::Named | Scope::Accounts, _) => vec![],
        };
        for (namespace, &name) in
            namespaces.iter().flat_map(|namespace| rights.resources.iter().map(move |name| (namespace, name)))
        {
            access.extend(rights.verbs.iter().map(|&verb| Access::new(rights.group, name, verb, *namespace)));
        }
    }
    access
}

/// Those of `namespaces` in which every right is missing: they do not exist, or nobody has bound a Role there.
pub fn inaccessible<'a>(
    namespaces: &'a BTreeSet<String>,
    required: &BTreeSet<Access>,
    missing: &BTreeSet<Access>,
) -> BTreeSet<&'a str> {
    let has_one = |name: &str| {
        let mut there = required.iter().filter(|access| access.namespace.as_deref() == Some(name));
        there.any(|access| !missing.contains(access))
    };
    namespaces.iter().map(String::as_str).filter(|name| !has_one(name)).collect()
}

#[cfg(test)]
mod tests {
    use dask_wasm_operator_core::spec::{
        DASK_AUTOSCALER, DASK_CLUSTER, DASK_JOB, DASK_PLUGIN, DASK_PLUGIN_RECORD, DASK_WORKER_GROUP,
    };

    use super::*;

    #[test]
    fn every_kind_of_ours_is_watched() {
        for kind in [DASK_CLUSTER, DASK_WORKER_GROUP, DASK_JOB, DASK_AUTOSCALER, DASK_PLUGIN, DASK_PLUGIN_RECORD] {
            for verb in WATCH {
                let granted = TABLE.iter().any(|rights| {
                    rights.group == kind.group && rights.resources.contains(&kind.plural) && rights.verbs.contains(verb)
                });
                assert!(granted, "{verb} {}", kind.plural);
            }
        }
    }

    #[test]
    fn nothing_is_granted_wholesale_and_secrets_and_accounts_only_by_name() {
        for rights in &TABLE {
            let words = [rights.resources, rights.verbs, &[rights.group]].concat();
            assert!(!words.contains(&"*"), "{rights:?}");
            assert_eq!(rights.resources.contains(&"secrets"), rights.scope == Scope::Named, "{rights:?}");
            assert_eq!(rights.verbs.contains(&"impersonate"), rights.scope == Scope::Accounts, "{rights:?}");
        }
        let all = required_access(Served::Matching, "dask-operator");
        let does_without = |access: &Access| access.resource != "secrets" && access.verb != "impersonate";
        assert!(all.iter().all(does_without));
    }

    #[test]
    fn confined_to_namespaces_it_needs_nothing_outside_of_them() {
        let names = BTreeSet::from(["team-a".to_owned(), "team-b".to_owned()]);
        let access = required_access(Served::Namespaces(&names), "dask-operator");
        let namespaces: BTreeSet<_> = access.iter().map(|access| access.namespace.as_deref()).collect();
        assert_eq!(namespaces, BTreeSet::from([Some("dask-operator"), Some("team-a"), Some("team-b")]));
    }

    #[test]
    fn only_patterns_need_to_know_the_namespaces() {
        let namespaces = |served| {
            let access = required_access(served, "dask-operator");
            access.iter().filter(|access| access.resource == "namespaces").count()
        };
        assert_eq!((namespaces(Served::Matching), namespaces(Served::AllNamespaces)), (3, 0));
    }

    #[test]
    fn where_every_right_is_missing_there_may_be_no_namespace() {
        let names = BTreeSet::from(["dask-operator".to_owned(), "team-a".to_owned(), "team-b".to_owned()]);
        let required = required_access(Served::Namespaces(&names), "dask-operator");
        let lacking = |lacks: &dyn Fn(&Access) -> bool| {
            let missing: BTreeSet<Access> = required.iter().filter(|access| lacks(access)).cloned().collect();
            let inaccessible = inaccessible(&names, &required, &missing);
            inaccessible.into_iter().map(str::to_owned).collect::<Vec<_>>()
        };
        let is_in = |access: &Access, namespace: &str| access.namespace.as_deref() == Some(namespace);
        assert_eq!(lacking(&|access| is_in(access, "team-b")), ["team-b"]);
        assert_eq!(lacking(&|access| is_in(access, "team-b") && access.verb != "patch"), Vec::<String>::new());
        assert_eq!(lacking(&|access| !is_in(access, "dask-operator")), ["team-a", "team-b"]);
    }

    #[test]
    fn access_is_named_as_administrators_say_it() {
        let texts: Vec<_> =
            required_access(Served::AllNamespaces, "dask-operator").iter().map(ToString::to_string).collect();
        for text in [
            "patch daskclusters/status.kubernetes.dask.org in all namespaces",
            "watch services in all namespaces",
            "create leases.coordination.k8s.io in namespace dask-operator",
        ] {
            assert!(texts.iter().any(|candidate| candidate == text), "{text}");
        }
    }
}
