//! The kinds that every cluster serves.

use crate::object::{GroupVersionKind, Resource};

/// Version, and the kinds with plural and short names.
type Group = (&'static str, &'static str, &'static [(&'static str, &'static str, &'static [&'static str])]);

const NAMESPACED: [Group; 13] = [
    (
        "",
        "v1",
        &[
            ("ConfigMap", "configmaps", &["cm"]),
            ("Endpoints", "endpoints", &["ep"]),
            ("Event", "events", &["ev"]),
            ("LimitRange", "limitranges", &["limits"]),
            ("PersistentVolumeClaim", "persistentvolumeclaims", &["pvc"]),
            ("Pod", "pods", &["po"]),
            ("PodTemplate", "podtemplates", &[]),
            ("ReplicationController", "replicationcontrollers", &["rc"]),
            ("ResourceQuota", "resourcequotas", &["quota"]),
            ("Secret", "secrets", &[]),
            ("Service", "services", &["svc"]),
            ("ServiceAccount", "serviceaccounts", &["sa"]),
        ],
    ),
    (
        "apps",
        "v1",
        &[
            ("ControllerRevision", "controllerrevisions", &[]),
            ("DaemonSet", "daemonsets", &["ds"]),
            ("Deployment", "deployments", &["deploy"]),
            ("ReplicaSet", "replicasets", &["rs"]),
            ("StatefulSet", "statefulsets", &["sts"]),
        ],
    ),
    ("autoscaling", "v2", &[("HorizontalPodAutoscaler", "horizontalpodautoscalers", &["hpa"])]),
    ("batch", "v1", &[("CronJob", "cronjobs", &["cj"]), ("Job", "jobs", &[])]),
    ("coordination.k8s.io", "v1", &[("Lease", "leases", &[])]),
    ("discovery.k8s.io", "v1", &[("EndpointSlice", "endpointslices", &[])]),
    ("events.k8s.io", "v1", &[("Event", "events", &["ev"])]),
    (
        "networking.k8s.io",
        "v1",
        &[("Ingress", "ingresses", &["ing"]), ("NetworkPolicy", "networkpolicies", &["netpol"])],
    ),
    ("policy", "v1", &[("PodDisruptionBudget", "poddisruptionbudgets", &["pdb"])]),
    ("rbac.authorization.k8s.io", "v1", &[("Role", "roles", &[]), ("RoleBinding", "rolebindings", &[])]),
    ("resource.k8s.io", "v1", &[("ResourceClaim", "resourceclaims", &[])]),
    (
        "kubernetes.dask.org",
        "v1",
        &[
            ("DaskCluster", "daskclusters", &["dsk"]),
            ("DaskWorkerGroup", "daskworkergroups", &["daskworkers"]),
            ("DaskJob", "daskjobs", &["djb"]),
            ("DaskAutoscaler", "daskautoscalers", &[]),
        ],
    ),
    ("plugins.dask.org", "v1alpha1", &[("DaskPluginRecord", "daskpluginrecords", &[])]),
];

const CLUSTER_WIDE: [Group; 7] = [
    (
        "",
        "v1",
        &[
            ("Namespace", "namespaces", &["ns"]),
            ("Node", "nodes", &["no"]),
            ("PersistentVolume", "persistentvolumes", &["pv"]),
        ],
    ),
    (
        "admissionregistration.k8s.io",
        "v1",
        &[
            ("MutatingWebhookConfiguration", "mutatingwebhookconfigurations", &[]),
            ("ValidatingAdmissionPolicy", "validatingadmissionpolicies", &[]),
            ("ValidatingAdmissionPolicyBinding", "validatingadmissionpolicybindings", &[]),
            ("ValidatingWebhookConfiguration", "validatingwebhookconfigurations", &[]),
        ],
    ),
    ("apiregistration.k8s.io", "v1", &[("APIService", "apiservices", &[])]),
    ("networking.k8s.io", "v1", &[("IngressClass", "ingressclasses", &[])]),
    (
        "rbac.authorization.k8s.io",
        "v1",
        &[("ClusterRole", "clusterroles", &[]), ("ClusterRoleBinding", "clusterrolebindings", &[])],
    ),
    ("scheduling.k8s.io", "v1", &[("PriorityClass", "priorityclasses", &["pc"])]),
    ("storage.k8s.io", "v1", &[("StorageClass", "storageclasses", &["sc"])]),
];

/// The kinds that every cluster serves, with their short names.
pub fn built_in_kinds() -> Vec<(Resource, &'static [&'static str])> {
    let scopes = [(true, NAMESPACED.as_slice()), (false, CLUSTER_WIDE.as_slice())];
    let kinds = scopes.into_iter().flat_map(|(namespaced, groups)| {
        groups.iter().flat_map(move |(group, version, kinds)| {
            kinds.iter().map(move |(kind, plural, short_names)| {
                let kind = GroupVersionKind::new(group, version, kind);
                (Resource { kind, plural: (*plural).to_owned(), namespaced }, *short_names)
            })
        })
    });
    kinds.collect()
}

/// As [`built_in_kinds`], without short names.
pub fn built_in_resources() -> Vec<Resource> {
    built_in_kinds().into_iter().map(|(resource, _)| resource).collect()
}
