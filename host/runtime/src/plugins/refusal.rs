//! What of a DaskPlugin can't be served, whatever its code: a plugin must not get more than its DaskPlugin says.

use dask_wasm_operator_core::{
    names::{check_dns_label, check_dns_subdomain},
    spec::{ConflictPolicy, DaskPluginSpec, Mode, PluginState},
};

use super::status::Newest;

/// Why a plugin is not called at all.
pub(crate) fn refusal(name: &str, spec: &DaskPluginSpec) -> Option<Newest> {
    if let Err(error) = check_dns_label(name) {
        let message = format!("metadata.name {error}; give the DaskPlugin (or the file) another name");
        return Some(Newest::new(PluginState::NotServed, "InvalidName", message));
    }
    if let Some(Err(error)) = spec.service_account_name.as_deref().map(check_dns_subdomain) {
        let message = format!("spec.serviceAccountName {error}; name a ServiceAccount of the operator's namespace");
        return Some(Newest::new(PluginState::NotServed, "InvalidServiceAccountName", message));
    }
    if spec.suspend {
        return Some(Newest::new(
            PluginState::Suspended,
            "Suspended",
            "spec.suspend is true; its handlers are not called, its children stay",
        ));
    }
    let unserved = [
        ("mode: shadow", spec.mode == Mode::Shadow),
        ("adoptFrom", spec.adopt_from.is_some()),
        ("onConflict: yield", spec.on_conflict == ConflictPolicy::Yield),
        ("grants.deleteSubject", spec.grants.delete_subject),
        ("grants.read", !spec.grants.read.is_empty()),
        ("grants.patch[].merge", spec.grants.patch.iter().any(|grant| grant.merge)),
    ];
    let named: Vec<_> = unserved.iter().filter(|(_, asked)| *asked).map(|(name, _)| format!("spec.{name}")).collect();
    (!named.is_empty()).then(|| {
        let message = format!(
            "this version of the operator does not serve: {}; remove it to have the rest served",
            named.join(", ")
        );
        Newest::new(PluginState::NotServed, "NotServedYet", message)
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_is_not_served_has_a_reason() {
        let reason = |name: &str, mut spec: serde_json::Value| {
            spec["source"] = json!({"path": "/a"});
            refusal(name, &serde_json::from_value(spec).unwrap()).map(|newest| newest.reason)
        };
        let long = "x".repeat(64);
        for (name, spec, expected) in [
            ("x", json!({}), None),
            ("a.b", json!({}), Some("InvalidName")),
            ("a_b", json!({}), Some("InvalidName")),
            ("", json!({}), Some("InvalidName")),
            (&long, json!({}), Some("InvalidName")),
            (&long[1..], json!({"suspend": true}), Some("Suspended")),
            ("x", json!({"serviceAccountName": "a.robot"}), None),
            ("x", json!({"serviceAccountName": ""}), Some("InvalidServiceAccountName")),
            ("x", json!({"serviceAccountName": "a:b"}), Some("InvalidServiceAccountName")),
            ("x", json!({"serviceAccountName": "a\r\nX: b"}), Some("InvalidServiceAccountName")),
            ("x", json!({"mode": "shadow"}), Some("NotServedYet")),
            ("x", json!({"onConflict": "yield"}), Some("NotServedYet")),
        ] {
            assert_eq!(reason(name, spec.clone()).as_deref(), expected, "{name} {spec}");
        }
    }
}
