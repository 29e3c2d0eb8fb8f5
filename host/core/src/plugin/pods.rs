//! Pod fields that no plugin may set: those that reach out of the pod, or take another identity.
//!
//! The list is that of the `baseline` level of the Pod Security Standards (Kubernetes 1.36), and the ServiceAccount: the API
//! server does not check whether who makes a pod may use the account that it names.
//! <https://kubernetes.io/docs/concepts/security/pod-security-standards/#baseline>

use serde_json::Value;

use crate::object::GroupVersionKind;

/// Capabilities that the `baseline` level lets a container add.
const CAPABILITIES: [&str; 13] = [
    "AUDIT_WRITE",
    "CHOWN",
    "DAC_OVERRIDE",
    "FOWNER",
    "FSETID",
    "KILL",
    "MKNOD",
    "NET_BIND_SERVICE",
    "SETFCAP",
    "SETGID",
    "SETPCAP",
    "SETUID",
    "SYS_CHROOT",
];

/// SELinux types that the `baseline` level allows.
const SELINUX_TYPES: [&str; 5] = ["", "container_t", "container_init_t", "container_kvm_t", "container_engine_t"];

/// Kernel parameters that the `baseline` level allows: those of the pod's own namespaces.
const SYSCTLS: [&str; 10] = [
    "kernel.shm_rmid_forced",
    "net.ipv4.ip_local_port_range",
    "net.ipv4.ip_unprivileged_port_start",
    "net.ipv4.tcp_syncookies",
    "net.ipv4.ping_group_range",
    "net.ipv4.ip_local_reserved_ports",
    "net.ipv4.tcp_keepalive_time",
    "net.ipv4.tcp_fin_timeout",
    "net.ipv4.tcp_keepalive_intvl",
    "net.ipv4.tcp_keepalive_probes",
];

/// Annotations that choose a profile of AppArmor or seccomp, in the old way.
const PROFILE_ANNOTATIONS: [&str; 3] = [
    "container.apparmor.security.beta.kubernetes.io/",
    "container.seccomp.security.alpha.kubernetes.io/",
    "seccomp.security.alpha.kubernetes.io/pod",
];

/// Where objects of a kind hold what pods are made of: the parents of `spec` and `metadata`.
fn pods_of(kind: &GroupVersionKind) -> &'static [&'static str] {
    match (kind.group.as_str(), kind.kind.as_str()) {
        ("", "Pod") => &[""],
        ("", "PodTemplate") => &["/template"],
        ("", "ReplicationController")
        | ("apps" | "batch", "Deployment" | "StatefulSet" | "DaemonSet" | "ReplicaSet" | "Job") => &["/spec/template"],
        ("batch", "CronJob") => &["/spec/jobTemplate/spec/template"],
        ("kubernetes.dask.org", "DaskCluster") => &["/spec/scheduler", "/spec/worker"],
        ("kubernetes.dask.org", "DaskWorkerGroup") => &["/spec/worker"],
        ("kubernetes.dask.org", "DaskJob") => {
            &["/spec/job", "/spec/cluster/spec/scheduler", "/spec/cluster/spec/worker"]
        }
        _ => &[],
    }
}

/// The first forbidden field of an object that makes pods; none if there is no such field or object.
pub(super) fn forbidden_field(kind: &GroupVersionKind, object: &Value) -> Option<String> {
    pods_of(kind).iter().find_map(|at| {
        let template = object.pointer(at)?;
        let field = forbidden_in_template(template)?;
        Some(format!("{at}/{field}").trim_start_matches('/').replace('/', "."))
    })
}

/// The path of a forbidden field, its names joined by slashes.
fn forbidden_in_template(template: &Value) -> Option<String> {
    let annotations = template.pointer("/metadata/annotations").and_then(Value::as_object);
    let chosen = annotations.into_iter().flatten().find(|(name, profile)| {
        let allowed = |profile: &str| profile == "runtime/default" || profile.starts_with("localhost/");
        PROFILE_ANNOTATIONS.iter().any(|prefix| name.starts_with(prefix)) && !profile.as_str().is_some_and(allowed)
    });
    if chosen.is_some() {
        return Some("metadata/annotations".to_owned());
    }
    template.get("spec").and_then(forbidden_in_pod).map(|field| format!("spec/{field}"))
}

fn forbidden_in_pod(pod: &Value) -> Option<String> {
    for field in ["hostNetwork", "hostPID", "hostIPC"] {
        if is_true(pod, &format!("/{field}")) {
            return Some(field.to_owned());
        }
    }
    for field in ["serviceAccountName", "serviceAccount"] {
        if pod.get(field).is_some_and(|value| !value.is_null()) {
            return Some(field.to_owned());
        }
    }
    if let Some(field) = forbidden_in_security_context(pod) {
        return Some(field);
    }
    let is_refused = |sysctl: &Value| !sysctl["name"].as_str().is_some_and(|name| SYSCTLS.contains(&name));
    if items(pod, "/securityContext/sysctls").iter().any(is_refused) {
        return Some("securityContext/sysctls".to_owned());
    }
    let is_of_host = |volume: &Value| volume.get("hostPath").is_some_and(|value| !value.is_null());
    if let Some(index) = items(pod, "/volumes").iter().position(is_of_host) {
        return Some(format!("volumes[{index}]/hostPath"));
    }
    ["initContainers", "containers", "ephemeralContainers"].iter().find_map(|list| {
        let containers = items(pod, &format!("/{list}"));
        let mut found = containers.iter().map(forbidden_in_container).enumerate();
        found.find_map(|(index, field)| field.map(|field| format!("{list}[{index}]/{field}")))
    })
}

fn forbidden_in_container(container: &Value) -> Option<String> {
    if is_true(container, "/securityContext/privileged") {
        return Some("securityContext/privileged".to_owned());
    }
    let allowed = |capability: &Value| capability.as_str().is_some_and(|name| CAPABILITIES.contains(&name));
    if !items(container, "/securityContext/capabilities/add").iter().all(allowed) {
        return Some("securityContext/capabilities/add".to_owned());
    }
    if !is_one_of(container, "/securityContext/procMount", &["Default"]) {
        return Some("securityContext/procMount".to_owned());
    }
    if let Some(field) = forbidden_in_security_context(container) {
        return Some(field);
    }
    if items(container, "/ports").iter().any(|port| port.get("hostPort").is_some_and(|value| !value.is_null())) {
        return Some("ports/hostPort".to_owned());
    }
    let asks = ["livenessProbe", "readinessProbe", "startupProbe", "lifecycle/postStart", "lifecycle/preStop"];
    asks.iter().flat_map(|ask| [format!("{ask}/httpGet/host"), format!("{ask}/tcpSocket/host")]).find(|field| {
        // The kubelet would ask it, from the node's network.
        !is_one_of(container, &format!("/{field}"), &[""])
    })
}

/// What pods and containers have in common.
fn forbidden_in_security_context(of: &Value) -> Option<String> {
    const PROFILES: [&str; 2] = ["RuntimeDefault", "Localhost"];
    let at = |field: &str| format!("/securityContext/{field}");
    let refused = if is_true(of, &at("windowsOptions/hostProcess")) {
        "windowsOptions/hostProcess"
    } else if !is_one_of(of, &at("seccompProfile/type"), &PROFILES) {
        "seccompProfile/type"
    } else if !is_one_of(of, &at("appArmorProfile/type"), &PROFILES) {
        "appArmorProfile/type"
    } else if !is_one_of(of, &at("seLinuxOptions/type"), &SELINUX_TYPES) {
        "seLinuxOptions/type"
    } else if !is_one_of(of, &at("seLinuxOptions/user"), &[""]) {
        "seLinuxOptions/user"
    } else if !is_one_of(of, &at("seLinuxOptions/role"), &[""]) {
        "seLinuxOptions/role"
    } else {
        return None;
    };
    Some(format!("securityContext/{refused}"))
}

fn is_true(value: &Value, at: &str) -> bool {
    value.pointer(at).and_then(Value::as_bool) == Some(true)
}

/// Whether a text is absent, or one of those that are allowed.
fn is_one_of(value: &Value, at: &str, allowed: &[&str]) -> bool {
    match value.pointer(at) {
        None | Some(Value::Null) => true,
        Some(found) => found.as_str().is_some_and(|text| allowed.contains(&text)),
    }
}

fn items<'a>(value: &'a Value, at: &str) -> &'a [Value] {
    value.pointer(at).and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn each_way_out_of_a_pod_is_found() {
        let container = |fields: Value| json!({"containers": [fields]});
        let context = |fields: Value| json!({"securityContext": fields});
        let deployment = GroupVersionKind::new("apps", "v1", "Deployment");
        for (pod, field) in [
            (json!({"hostNetwork": true}), "hostNetwork"),
            (json!({"serviceAccountName": "admin"}), "serviceAccountName"),
            (json!({"volumes": [{"name": "x"}, {"hostPath": {"path": "/"}}]}), "volumes[1].hostPath"),
            (
                json!({"initContainers": [{"securityContext": {"privileged": true}}]}),
                "initContainers[0].securityContext.privileged",
            ),
            (
                container(context(json!({"capabilities": {"add": ["SYS_ADMIN"]}}))),
                "containers[0].securityContext.capabilities.add",
            ),
            (container(json!({"ports": [{"hostPort": 80}]})), "containers[0].ports.hostPort"),
            (container(context(json!({"procMount": "Unmasked"}))), "containers[0].securityContext.procMount"),
            (
                container(json!({"livenessProbe": {"httpGet": {"host": "10.0.0.1", "port": 80}}})),
                "containers[0].livenessProbe.httpGet.host",
            ),
            (
                container(json!({"lifecycle": {"preStop": {"tcpSocket": {"host": "10.0.0.1"}}}})),
                "containers[0].lifecycle.preStop.tcpSocket.host",
            ),
            (context(json!({"windowsOptions": {"hostProcess": true}})), "securityContext.windowsOptions.hostProcess"),
            (
                container(context(json!({"windowsOptions": {"hostProcess": true}}))),
                "containers[0].securityContext.windowsOptions.hostProcess",
            ),
            (context(json!({"seccompProfile": {"type": "Unconfined"}})), "securityContext.seccompProfile.type"),
            (
                container(context(json!({"appArmorProfile": {"type": "Unconfined"}}))),
                "containers[0].securityContext.appArmorProfile.type",
            ),
            (context(json!({"seLinuxOptions": {"type": "spc_t"}})), "securityContext.seLinuxOptions.type"),
            (context(json!({"seLinuxOptions": {"user": "system_u"}})), "securityContext.seLinuxOptions.user"),
            (context(json!({"seLinuxOptions": {"role": "system_r"}})), "securityContext.seLinuxOptions.role"),
            (context(json!({"sysctls": [{"name": "kernel.msgmax", "value": "1"}]})), "securityContext.sysctls"),
        ] {
            let object = json!({"spec": {"template": {"spec": pod}}});
            assert_eq!(forbidden_field(&deployment, &object), Some(format!("spec.template.spec.{field}")));
        }
    }

    #[test]
    fn each_kind_that_makes_pods_is_looked_into() {
        let forbidden = json!({"spec": {"hostPID": true}});
        for (group, kind, object, field) in [
            ("", "Pod", forbidden.clone(), "spec.hostPID"),
            ("", "PodTemplate", json!({"template": forbidden}), "template.spec.hostPID"),
            (
                "batch",
                "CronJob",
                json!({"spec": {"jobTemplate": {"spec": {"template": forbidden}}}}),
                "spec.jobTemplate.spec.template.spec.hostPID",
            ),
            ("kubernetes.dask.org", "DaskCluster", json!({"spec": {"worker": forbidden}}), "spec.worker.spec.hostPID"),
            (
                "kubernetes.dask.org",
                "DaskWorkerGroup",
                json!({"spec": {"worker": forbidden}}),
                "spec.worker.spec.hostPID",
            ),
            ("kubernetes.dask.org", "DaskJob", json!({"spec": {"job": forbidden}}), "spec.job.spec.hostPID"),
            (
                "kubernetes.dask.org",
                "DaskJob",
                json!({"spec": {"cluster": {"spec": {"scheduler": forbidden}}}}),
                "spec.cluster.spec.scheduler.spec.hostPID",
            ),
        ] {
            let kind = GroupVersionKind::new(group, "v1", kind);
            assert_eq!(forbidden_field(&kind, &object).as_deref(), Some(field), "{kind}");
        }
    }

    #[test]
    fn an_annotation_chooses_no_other_profile_either() {
        let pod = |profile: &str| {
            let annotation = "container.apparmor.security.beta.kubernetes.io/c";
            json!({"metadata": {"annotations": {annotation: profile, "example.org/a": "b"}}, "spec": {}})
        };
        let kind = GroupVersionKind::new("", "v1", "Pod");
        assert_eq!(forbidden_field(&kind, &pod("unconfined")), Some("metadata.annotations".to_owned()));
        assert_eq!(forbidden_field(&kind, &pod("runtime/default")), None);
    }

    #[test]
    fn an_ordinary_pod_passes() {
        let container = json!({
            "name": "c", "ports": [{"containerPort": 80}], "readinessProbe": {"httpGet": {"port": 80}},
            "securityContext": {"privileged": false, "procMount": "Default", "capabilities": {"drop": ["ALL"], "add": ["CHOWN"]},
                "seccompProfile": {"type": "RuntimeDefault"}, "seLinuxOptions": {"type": "container_t", "level": "s0"}},
        });
        let object = json!({"spec": {
            "containers": [container], "volumes": [{"name": "v", "emptyDir": {}}],
            "securityContext": {"sysctls": [{"name": "net.ipv4.tcp_syncookies", "value": "1"}], "appArmorProfile": {"type": "Localhost"}},
        }});
        assert_eq!(forbidden_field(&GroupVersionKind::new("", "v1", "Pod"), &object), None);
    }
}
