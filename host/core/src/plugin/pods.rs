//! Pod fields that no plugin may set: those that reach out of the pod, or take another identity.
//!
//! The list is that of the `baseline` level of the Pod Security Standards, and the ServiceAccount: the API server does not
//! check whether who makes a pod may use the account that it names.
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

/// The first forbidden field of an object that makes pods; none if there is no such field or object.
pub(super) fn forbidden_field(kind: &GroupVersionKind, object: &Value) -> Option<String> {
    let at = match (kind.group.as_str(), kind.kind.as_str()) {
        ("", "Pod") => "/spec",
        ("", "ReplicationController" | "PodTemplate")
        | ("apps" | "batch", "Deployment" | "StatefulSet" | "DaemonSet" | "ReplicaSet" | "Job") => {
            if kind.kind == "PodTemplate" { "/template/spec" } else { "/spec/template/spec" }
        }
        ("batch", "CronJob") => "/spec/jobTemplate/spec/template/spec",
        _ => return None,
    };
    let path = at[1..].replace('/', ".");
    forbidden_in_pod(object.pointer(at)?).map(|field| format!("{path}.{field}"))
}

fn forbidden_in_pod(pod: &Value) -> Option<String> {
    let truthy = |value: &Value, field: &str| value.pointer(field).and_then(Value::as_bool) == Some(true);
    for field in ["hostNetwork", "hostPID", "hostIPC"] {
        if truthy(pod, &format!("/{field}")) {
            return Some(field.to_owned());
        }
    }
    for field in ["serviceAccountName", "serviceAccount"] {
        if pod.get(field).is_some_and(|value| !value.is_null()) {
            return Some(field.to_owned());
        }
    }
    let items = |list: &str| pod.get(list).and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    if let Some(index) = items("volumes").iter().position(|volume| volume.get("hostPath").is_some()) {
        return Some(format!("volumes[{index}].hostPath"));
    }
    for list in ["initContainers", "containers", "ephemeralContainers"] {
        for (index, container) in items(list).iter().enumerate() {
            if truthy(container, "/securityContext/privileged") {
                return Some(format!("{list}[{index}].securityContext.privileged"));
            }
            let added = container.pointer("/securityContext/capabilities/add").and_then(Value::as_array);
            let allowed = |capability: &Value| capability.as_str().is_some_and(|name| CAPABILITIES.contains(&name));
            if added.is_some_and(|added| !added.iter().all(allowed)) {
                return Some(format!("{list}[{index}].securityContext.capabilities.add"));
            }
            let ports = container.get("ports").and_then(Value::as_array);
            if ports.is_some_and(|ports| ports.iter().any(|port| port.get("hostPort").is_some())) {
                return Some(format!("{list}[{index}].ports.hostPort"));
            }
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn each_way_out_of_a_pod_is_found() {
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
                json!({"containers": [{"securityContext": {"capabilities": {"add": ["SYS_ADMIN"]}}}]}),
                "containers[0].securityContext.capabilities.add",
            ),
            (json!({"containers": [{"ports": [{"hostPort": 80}]}]}), "containers[0].ports.hostPort"),
        ] {
            let object = json!({"spec": {"template": {"spec": pod}}});
            assert_eq!(forbidden_field(&deployment, &object), Some(format!("spec.template.spec.{field}")));
        }
    }

    #[test]
    fn an_ordinary_pod_passes() {
        let object = json!({"spec": {"containers": [{"name": "c", "securityContext": {"privileged": false, "capabilities": {"drop": ["ALL"]}}}]}});
        assert_eq!(forbidden_field(&GroupVersionKind::new("", "v1", "Pod"), &object), None);
    }
}
