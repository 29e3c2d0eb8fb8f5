//! The definitions against the rules of structural schemas, against the Python operator's, and against size.

use std::collections::BTreeMap;

use dask_wasm_operator_api::crds;
use serde_json::{Value, json};

/// What `kubectl apply` can keep in its annotation (`TotalAnnotationSizeLimitB` of Kubernetes), with room for the rest of it.
const APPLICABLE_BYTES: usize = 262_144 - 4_096;

const PYTHON_OPERATOR: &str = include_str!("dask-kubernetes-2026.3.0.fields");

/// Schema of each kind, by kind.
fn schemas() -> BTreeMap<String, Value> {
    let schema = |crd: Value| crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"].clone();
    crds().iter().map(|crd| (crd.spec.names.kind.clone(), schema(json!(crd)))).collect()
}

/// Calls `visit` with the path and the schema of each value.
fn walk(path: &str, schema: &Value, visit: &mut dyn FnMut(&str, &Value)) {
    visit(path, schema);
    for (name, property) in schema["properties"].as_object().into_iter().flatten() {
        walk(&format!("{path}.{name}"), property, visit);
    }
    for (keyword, mark) in [("items", "[]"), ("additionalProperties", "{}")] {
        if let Some(subschema @ Value::Object(_)) = schema.get(keyword) {
            walk(&format!("{path}{mark}"), subschema, visit);
        }
    }
}

/// The schema at a path such as `.spec.containers[].env`.
fn at<'a>(schema: &'a Value, path: &str) -> Option<&'a Value> {
    path.split_inclusive(['.', '[', '{']).try_fold(schema, |schema, step| match step {
        "." => Some(schema),
        step => {
            let name = step.trim_start_matches([']', '}']).trim_end_matches(['.', '[', '{']);
            let property = if name.is_empty() { Some(schema) } else { schema["properties"].get(name) };
            match step.chars().last() {
                Some('[') => property?.get("items"),
                Some('{') => property?.get("additionalProperties"),
                _ => property,
            }
        }
    })
}

#[test]
fn schemas_are_structural() {
    const KEYWORDS: [&str; 16] = [
        "additionalProperties",
        "default",
        "description",
        "enum",
        "format",
        "items",
        "minimum",
        "pattern",
        "properties",
        "required",
        "type",
        "x-kubernetes-list-map-keys",
        "x-kubernetes-list-type",
        "x-kubernetes-map-type",
        "x-kubernetes-preserve-unknown-fields",
        "x-kubernetes-validations",
    ];
    for (kind, schema) in schemas() {
        walk("", &schema, &mut |path, schema| {
            let fields = schema.as_object().unwrap();
            if fields.get("x-kubernetes-int-or-string") == Some(&Value::Bool(true)) {
                assert!(fields.keys().all(|key| key == "description" || key.starts_with("x-")), "{kind}{path}");
                return;
            }
            let type_ = fields.get("type").and_then(Value::as_str).unwrap_or_default();
            assert!(
                ["array", "boolean", "integer", "number", "object", "string"].contains(&type_),
                "{kind}{path}: {type_}"
            );
            for keyword in fields.keys() {
                assert!(KEYWORDS.contains(&keyword.as_str()), "{kind}{path}: {keyword}");
            }
            assert!(
                !(fields.contains_key("properties") && fields.contains_key("additionalProperties")),
                "{kind}{path}"
            );
            assert_eq!(type_ == "array", fields.contains_key("items"), "{kind}{path}");
            for key in fields.get("x-kubernetes-list-map-keys").and_then(Value::as_array).into_iter().flatten() {
                let key = key.as_str().unwrap();
                let required =
                    schema["items"]["required"].as_array().is_some_and(|required| required.contains(&json!(key)));
                let default = schema["items"]["properties"][key].get("default").is_some();
                assert!(required || default, "{kind}{path}: the key {key} may be absent");
            }
        });
    }
}

#[test]
fn pod_and_service_specs_keep_fields_that_we_do_not_know() {
    let schemas = schemas();
    for (kind, path) in [
        ("DaskCluster", ".spec.scheduler.spec"),
        ("DaskCluster", ".spec.scheduler.service"),
        ("DaskCluster", ".spec.worker.spec"),
        ("DaskWorkerGroup", ".spec.worker.spec"),
        ("DaskJob", ".spec.job.spec"),
        ("DaskJob", ".spec.cluster.spec.worker.spec"),
    ] {
        let mut objects = 0;
        let place = path;
        walk(path, at(&schemas[kind], path).unwrap(), &mut |path, schema| {
            assert!(path == place || schema.get("description").is_none(), "{kind}{path}");
            if schema["type"] == "object" && schema.get("additionalProperties").is_none() {
                objects += 1;
                assert_eq!(schema["x-kubernetes-preserve-unknown-fields"], true, "{kind}{path}");
            }
        });
        assert!(objects > 3, "{kind}{path}: {objects} objects");
    }
    for path in [".spec.scheduler.metadata", ".spec.worker.metadata"] {
        assert_eq!(at(&schemas["DaskCluster"], path).unwrap()["x-kubernetes-preserve-unknown-fields"], true);
    }
    assert_eq!(at(&schemas["DaskJob"], ".spec.cluster.metadata.labels{}").unwrap()["type"], "string");
}

#[test]
fn quantities_are_numbers_or_texts() {
    let schemas = schemas();
    for path in [
        ".spec.worker.spec.containers[].resources.limits{}",
        ".spec.worker.spec.containers[].livenessProbe.httpGet.port",
        ".spec.worker.spec.volumes[].emptyDir.sizeLimit",
        ".spec.scheduler.service.ports[].targetPort",
    ] {
        assert_eq!(at(&schemas["DaskCluster"], path), Some(&json!({ "x-kubernetes-int-or-string": true })), "{path}");
    }
}

#[test]
fn definitions_can_be_applied_by_the_client() {
    for crd in crds() {
        let bytes = serde_json::to_string(&crd).unwrap().len();
        println!("{} {bytes}", crd.spec.names.kind);
        assert!(bytes < APPLICABLE_BYTES, "{}: {bytes} bytes", crd.spec.names.kind);
    }
}

#[test]
fn workers_can_be_scaled_and_states_reported() {
    let schemas = schemas();
    for crd in crds() {
        let subresources = crd.spec.versions[0].subresources.clone().unwrap_or_default();
        let kind = crd.spec.names.kind.as_str();
        assert_eq!(subresources.status.is_some(), kind != "DaskPluginRecord", "{kind}");
        let scale = subresources.scale.map(|scale| {
            [scale.spec_replicas_path, scale.status_replicas_path, scale.label_selector_path.unwrap_or_default()]
        });
        assert_eq!(scale.is_some(), ["DaskCluster", "DaskWorkerGroup"].contains(&kind), "{kind}");
        for path in scale.into_iter().flatten() {
            assert!(at(&schemas[kind], &path).is_some(), "{kind}{path}");
        }
    }
}

#[test]
fn columns_show_fields_that_exist() {
    let schemas = schemas();
    for crd in crds() {
        let kind = &crd.spec.names.kind;
        for column in crd.spec.versions[0].additional_printer_columns.clone().unwrap_or_default() {
            let path = column.json_path.split("[?").next().unwrap_or_default();
            assert!(
                path.starts_with(".metadata.") || at(&schemas[kind], path).is_some(),
                "{kind}: {}",
                column.json_path
            );
        }
    }
}

#[test]
fn names_are_the_python_operators() {
    let expected = [
        ("DaskCluster", "daskclusters.kubernetes.dask.org", vec!["daskcluster", "dsk"]),
        ("DaskWorkerGroup", "daskworkergroups.kubernetes.dask.org", vec!["daskworkers"]),
        ("DaskJob", "daskjobs.kubernetes.dask.org", vec!["djb"]),
        ("DaskAutoscaler", "daskautoscalers.kubernetes.dask.org", vec![]),
    ];
    let crds = crds();
    for (kind, name, short_names) in expected {
        let crd = crds.iter().find(|crd| crd.spec.names.kind == kind).unwrap();
        assert_eq!(crd.metadata.name.as_deref(), Some(name));
        assert_eq!(crd.spec.names.short_names.clone().unwrap_or_default(), short_names);
        assert_eq!((crd.spec.versions[0].name.as_str(), crd.spec.scope.as_str()), ("v1", "Namespaced"));
    }
}

#[test]
fn columns_of_the_python_operator_are_there_under_their_names() {
    let expected: [(&str, &[(&str, &str)]); 4] = [
        ("DaskCluster", &[("Workers", ".spec.worker.replicas"), ("Status", ".status.phase")]),
        ("DaskWorkerGroup", &[("Workers", ".spec.worker.replicas")]),
        ("DaskJob", &[("Status", ".status.jobStatus"), ("Number Of Workers", ".spec.cluster.spec.worker.replicas")]),
        ("DaskAutoscaler", &[("Cluster", ".spec.cluster"), ("Minimum", ".spec.minimum"), ("Maximum", ".spec.maximum")]),
    ];
    let crds = crds();
    for (kind, columns) in expected {
        let crd = crds.iter().find(|crd| crd.spec.names.kind == kind).unwrap();
        let ours = crd.spec.versions[0].additional_printer_columns.clone().unwrap_or_default();
        for (name, path) in columns.iter().chain(&[("Age", ".metadata.creationTimestamp")]) {
            assert!(ours.iter().any(|column| column.name == *name && column.json_path == *path), "{kind}: {name}");
        }
    }
}

/// An object without a spec says nothing.
const INTENDED_DIFFERENCES: [&str; 3] =
    [r#"DaskWorkerGroup. requires ["spec"]"#, r#"DaskJob. requires ["spec"]"#, r#"DaskAutoscaler. requires ["spec"]"#];

/// Ends of paths that are not declared, but kept: Kubernetes has removed the field, or nobody sends it.
const KEPT_UNDECLARED: [&str; 5] = [
    ".scheduler.service.topologyKeys",
    ".scheduler.service.topologyKeys[]",
    ".volumeClaimTemplate.metadata.clusterName",
    ".spec.cluster.status",
    ".spec.cluster.status.phase",
];

/// Whether a field that is not declared is kept nevertheless.
fn is_kept(schema: &Value, path: &str) -> bool {
    let nearest = path.rmatch_indices('.').find_map(|(end, _)| at(schema, &path[..end]));
    nearest.is_some_and(|object| object["x-kubernetes-preserve-unknown-fields"] == true)
}

#[test]
fn whatever_the_python_operator_takes_is_taken() {
    let schemas = schemas();
    let mut sections: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    let mut section = "";
    for line in PYTHON_OPERATOR.lines().filter(|line| !line.is_empty() && !line.starts_with('#')) {
        match line.strip_prefix("== ") {
            Some(name) => section = name,
            None => sections.entry(section).or_default().push(line),
        }
    }
    let mut compared = 0;
    let mut differences = Vec::new();
    let mut compare = |kind: &str, path: &str, facts: &str| {
        compared += 1;
        let schema = &schemas[kind];
        match at(schema, path) {
            Some(ours) => {
                differences.extend(difference(ours, facts).map(|difference| format!("{kind}{path} {difference}")))
            }
            None if is_kept(schema, path) && KEPT_UNDECLARED.iter().any(|end| path.ends_with(end)) => {}
            None => differences.push(format!("{kind}{path} is missing")),
        }
    };
    for kind in ["DaskCluster", "DaskWorkerGroup", "DaskJob", "DaskAutoscaler"] {
        for line in &sections[kind] {
            let (path, facts) = line.split_once(' ').unwrap();
            let section = match facts {
                "PodSpec" | "RunnerPodSpec" => "PodSpec",
                "ServiceSpec" => "ServiceSpec",
                facts => {
                    compare(kind, path, facts);
                    continue;
                }
            };
            for line in &sections[section] {
                let (inner, facts) = line.split_once(' ').unwrap();
                compare(kind, &format!("{path}{}", inner.trim_end_matches('.')), facts);
            }
        }
    }
    assert_eq!(differences, INTENDED_DIFFERENCES);
    assert!(compared > 5_000, "only {compared} fields were compared");
}

#[test]
fn only_a_runner_pod_has_a_default_restart_policy() {
    let schemas = schemas();
    for (kind, path, default) in [
        ("DaskJob", ".spec.job.spec.restartPolicy", json!("OnFailure")),
        ("DaskJob", ".spec.cluster.spec.worker.spec.restartPolicy", Value::Null),
        ("DaskCluster", ".spec.scheduler.spec.restartPolicy", Value::Null),
    ] {
        assert_eq!(at(&schemas[kind], path).unwrap()["default"], default, "{kind}{path}");
    }
}

/// In what our schema is narrower than the facts, or merges otherwise.
fn difference(ours: &Value, facts: &str) -> Option<String> {
    let mut facts = facts.split(' ');
    let type_ = facts.next().expect("a type stands after each path");
    let facts: BTreeMap<_, _> = facts.map(|fact| fact.split_once('=').expect("a fact is KEY=VALUE")).collect();
    let names = |key: &str| -> Vec<_> { facts.get(key).into_iter().flat_map(|names| names.split(',')).collect() };
    let list = |keyword: &str| -> Vec<_> {
        ours[keyword].as_array().into_iter().flatten().filter_map(Value::as_str).collect()
    };

    let is_int_or_string = ours["x-kubernetes-int-or-string"] == true;
    if ours["type"] != type_ && !(is_int_or_string && ["string", "integer", "int-or-string"].contains(&type_)) {
        return Some(format!("is {}, was {type_}", ours["type"]));
    }
    let mut required = list("required");
    required.retain(|name| !names("required").contains(name));
    if !required.is_empty() {
        return Some(format!("requires {required:?}"));
    }
    const BOUNDS: [&str; 5] = ["enum", "maximum", "minimum", "pattern", "x-kubernetes-validations"];
    if let Some(bound) = BOUNDS.iter().find(|bound| ours.get(**bound).is_some()) {
        return Some(format!("has {bound} {}", ours[*bound]));
    }
    let default: Value =
        facts.get("default").map_or(Value::Null, |text| serde_json::from_str(text).unwrap_or_default());
    if !default.is_null() && ours["default"] != default {
        return Some(format!("has the default {}, was {default}", ours["default"]));
    }
    let merging = [ours["x-kubernetes-list-type"].as_str(), ours["x-kubernetes-map-type"].as_str()];
    let was_merging = [facts.get("list").copied(), facts.get("map").copied()];
    if merging != was_merging || list("x-kubernetes-list-map-keys") != names("keys") {
        return Some(format!("merges as {merging:?}, was {was_merging:?}"));
    }
    None
}
