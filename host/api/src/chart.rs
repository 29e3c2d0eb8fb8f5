//! The chart's generated files.

use std::fmt::Write as _;

use crate::{
    definitions::crds,
    rbac::{Scope, TABLE},
};

const HEADER: &str = "# Generated from the Rust types by `cargo xtask gen`; do not edit.\n";

/// The scopes, by their keys in the file of rights.
const SCOPES: [(&str, Scope); 6] = [
    ("served", Scope::Served),
    ("operator", Scope::Operator),
    ("cluster", Scope::Cluster),
    ("matching", Scope::Matching),
    ("named", Scope::Named),
    ("accounts", Scope::Accounts),
];

/// All custom resource definitions as a stream of YAML documents, as `dask-wasm-operator crds` prints it.
pub fn crds_yaml() -> String {
    let documents: Vec<_> = crds().iter().map(to_yaml).collect();
    documents.join("---\n")
}

/// The files that are generated into the chart: paths relative to its directory, with their content.
pub fn chart_files() -> Vec<(String, String)> {
    let mut files: Vec<_> = crds()
        .iter()
        .map(|crd| (format!("crds/{}.yaml", crd.spec.names.plural), format!("{HEADER}{}", to_yaml(crd))))
        .collect();
    files.push(("files/rights.yaml".to_owned(), rights_yaml()));
    files
}

fn to_yaml(value: &impl serde::Serialize) -> String {
    serde_saphyr::to_string(value).expect("a Kubernetes object has nothing that YAML can't say")
}

/// The table of rights by scope, each rule with its reason. Its words are plain names, which YAML needs not quote.
fn rights_yaml() -> String {
    let mut yaml = HEADER.to_owned();
    for (key, scope) in SCOPES {
        let _ = writeln!(yaml, "{key}:");
        for rights in TABLE.iter().filter(|rights| rights.scope == scope) {
            let group = if rights.group.is_empty() { "\"\"" } else { rights.group };
            let _ = write!(
                yaml,
                "  # {}\n  - apiGroups: [{group}]\n    resources: [{}]\n    verbs: [{}]\n",
                rights.why,
                rights.resources.join(", "),
                rights.verbs.join(", "),
            );
        }
    }
    yaml
}

#[cfg(test)]
mod tests {
    use k8s_openapi::{
        api::rbac::v1::PolicyRule, apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition,
    };
    use std::collections::BTreeMap;

    use super::*;
    use crate::rules;

    #[test]
    fn the_chart_is_up_to_date() {
        let chart = std::path::PathBuf::from(std::env::var_os("CARGO_MANIFEST_DIR").expect("cargo runs the tests"))
            .join("../../charts/dask-wasm-operator");
        for (path, content) in chart_files() {
            let committed = std::fs::read_to_string(chart.join(&path)).unwrap_or_default();
            assert!(committed == content, "{path} differs; run `cargo xtask gen`");
        }
    }

    #[test]
    fn definitions_survive_yaml() {
        let parsed: Vec<CustomResourceDefinition> = serde_saphyr::from_multiple(&crds_yaml()).unwrap();
        assert_eq!(parsed, crds());
    }

    #[test]
    fn rights_survive_yaml() {
        let parsed: BTreeMap<String, Vec<PolicyRule>> = serde_saphyr::from_str(&rights_yaml()).unwrap();
        for (key, scope) in SCOPES {
            assert_eq!(parsed[key], rules(scope));
        }
    }
}
