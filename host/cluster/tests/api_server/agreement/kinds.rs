//! The kinds that are compared: what an object of them has at least, what else may be in it, and what only the server adds.

use std::sync::LazyLock;

use serde_json::{Value, json};

pub(crate) struct Kind {
    pub(crate) name: &'static str,
    /// Without it the server takes no object. Part of whatever is created or applied.
    pub(crate) base: Value,
    /// What users set besides, because they would hold the default otherwise.
    pub(crate) given: Vec<(&'static str, Value)>,
    /// Fields, and the values that they may have.
    pub(crate) fields: Vec<(&'static str, Vec<Value>)>,
    /// The same, of its status.
    pub(crate) status: Vec<(&'static str, Vec<Value>)>,
    /// What the server sets where nobody does, as paths in which `*` stands for any item: not compared.
    pub(crate) defaults: &'static [&'static str],
    /// Fields with a default that somebody may set, too: not compared where they have this value.
    pub(crate) default_values: Vec<(&'static str, Value)>,
    /// Whether a controller of Kubernetes writes to its objects, whenever it likes: their versions are not compared.
    pub(crate) is_controlled: bool,
    /// Whether the API server's own rules allow what managers may make of an object together. In memory there are none.
    pub(crate) is_allowed: fn(&Value) -> bool,
}

/// Of several ports each has a name. One that was forced on a port of somebody else goes with the manager who forced it.
fn have_ports_names(service: &Value) -> bool {
    let ports = service["spec"]["ports"].as_array();
    ports.is_none_or(|ports| ports.len() < 2 || ports.iter().all(|port| port.get("name").is_some()))
}

/// What objects of all kinds may have. Owners are written as the numbers of objects, see [`crate::agreement::steps`].
fn metadata() -> Vec<(&'static str, Vec<Value>)> {
    let owner = |number: usize, controller: bool| json!({"object": number, "controller": controller});
    vec![
        ("/metadata/labels/l", vec![json!("1"), json!("2")]),
        ("/metadata/labels/m", vec![json!("1")]),
        ("/metadata/annotations/n", vec![json!("1"), json!("2")]),
        (
            "/metadata/finalizers",
            vec![json!(["example.com/a"]), json!(["example.com/b"]), json!(["example.com/a", "example.com/b"])],
        ),
        (
            "/metadata/ownerReferences",
            vec![
                json!([owner(1, true)]),
                json!([owner(2, true)]),
                json!([owner(2, false)]),
                json!([owner(1, true), owner(2, false)]),
            ],
        ),
    ]
}

fn with(fields: Vec<(&'static str, Vec<Value>)>) -> Vec<(&'static str, Vec<Value>)> {
    metadata().into_iter().chain(fields).collect()
}

pub(crate) static KINDS: LazyLock<[Kind; 5]> =
    LazyLock::new(|| [config_map(), service(), network_policy(), deployment(), worker_group()]);

pub(crate) fn kind(name: &str) -> &'static Kind {
    KINDS.iter().find(|kind| kind.name == name).expect("a test names a kind of the list")
}

fn config_map() -> Kind {
    Kind {
        name: "configmap",
        base: json!({}),
        given: vec![],
        fields: with(vec![
            ("/data/x", vec![json!("1"), json!("2")]),
            ("/data/y", vec![json!("1"), json!("2")]),
            ("/data/z", vec![json!("1")]),
        ]),
        status: vec![],
        defaults: &[],
        default_values: vec![],
        is_controlled: false,
        is_allowed: |_| true,
    }
}

/// Its ports are told apart by keys, its selector is one value.
fn service() -> Kind {
    let port = |port: u16, name: &str| json!({"port": port, "name": name});
    Kind {
        name: "service",
        base: json!({"spec": {"ports": [port(79, "base")]}}),
        given: vec![],
        fields: with(vec![
            (
                "/spec/ports",
                vec![
                    json!([port(79, "base"), port(80, "a")]),
                    json!([port(80, "b"), port(79, "base")]),
                    json!([port(81, "c"), port(79, "base"), port(80, "a")]),
                ],
            ),
            ("/spec/selector", vec![json!({"a": "1"}), json!({"a": "1", "b": "2"}), json!({"b": "2"})]),
            ("/spec/publishNotReadyAddresses", vec![json!(true)]),
        ]),
        status: vec![],
        defaults: &[
            "/spec/clusterIP",
            "/spec/clusterIPs",
            "/spec/internalTrafficPolicy",
            "/spec/ipFamilies",
            "/spec/ipFamilyPolicy",
            "/spec/sessionAffinity",
            "/spec/type",
            "/spec/ports/*/protocol",
            "/spec/ports/*/targetPort",
            "/status",
        ],
        default_values: vec![],
        is_controlled: false,
        is_allowed: have_ports_names,
    }
}

/// Its lists are one value each, whatever their items have.
fn network_policy() -> Kind {
    let port = |port: u16| json!({"port": port, "protocol": "TCP"});
    let from = |label: &str| {
        let selector = json!({"matchLabels": {"a": label}});
        json!([{"from": [{"podSelector": selector}], "ports": [port(80)]}])
    };
    Kind {
        name: "networkpolicy",
        base: json!({"spec": {"podSelector": {"matchLabels": {"a": "b"}}, "policyTypes": ["Ingress"]}}),
        given: vec![],
        fields: with(vec![
            ("/spec/ingress", vec![from("1"), from("2"), json!([{}])]),
            ("/spec/egress", vec![json!([{"ports": [port(80), port(81)]}]), json!([{"ports": [port(81)]}])]),
        ]),
        status: vec![],
        defaults: &["/status"],
        default_values: vec![],
        is_controlled: false,
        is_allowed: |_| true,
    }
}

/// Lists in lists that are told apart by keys.
fn deployment() -> Kind {
    let labels = json!({"a": "b"});
    let container = |rest: Value| {
        let mut container = json!({"name": "c", "image": "i"});
        for (name, value) in rest.as_object().into_iter().flatten() {
            container[name] = value.clone();
        }
        json!([container])
    };
    let env = |items: &[(&str, &str)]| -> Value {
        items.iter().map(|(name, value)| json!({"name": name, "value": value})).collect()
    };
    Kind {
        name: "deployment",
        // Without pods, and without the controller's making ReplicaSets.
        base: json!({"spec": {
            "replicas": 0, "paused": true, "selector": {"matchLabels": labels},
            "template": {"metadata": {"labels": labels}, "spec": {"containers": container(json!({}))}},
        }}),
        given: vec![],
        fields: with(vec![
            ("/spec/minReadySeconds", vec![json!(1), json!(2)]),
            ("/spec/template/metadata/labels/l", vec![json!("1"), json!("2")]),
            ("/spec/template/spec/nodeSelector", vec![json!({"a": "1"}), json!({"b": "2"})]),
            (
                "/spec/template/spec/tolerations",
                vec![json!([{"key": "a", "operator": "Exists"}]), json!([{"operator": "Exists"}])],
            ),
            (
                "/spec/template/spec/containers",
                vec![
                    container(json!({"env": env(&[("A", "1")])})),
                    container(json!({"env": env(&[("B", "1"), ("A", "2")])})),
                    container(json!({"env": env(&[("C", "1"), ("B", "1")]), "args": ["a", "b"]})),
                    container(
                        json!({"args": ["b"], "ports": [{"containerPort": 1}, {"containerPort": 2, "name": "two"}]}),
                    ),
                    container(json!({"ports": [{"containerPort": 2, "name": "other"}], "volumeMounts": []})),
                ],
            ),
        ]),
        status: vec![],
        defaults: &[
            "/spec/progressDeadlineSeconds",
            "/spec/revisionHistoryLimit",
            "/spec/strategy",
            "/spec/template/spec/dnsPolicy",
            "/spec/template/spec/restartPolicy",
            "/spec/template/spec/schedulerName",
            "/spec/template/spec/securityContext",
            "/spec/template/spec/terminationGracePeriodSeconds",
            "/spec/template/spec/containers/*/imagePullPolicy",
            "/spec/template/spec/containers/*/resources",
            "/spec/template/spec/containers/*/terminationMessagePath",
            "/spec/template/spec/containers/*/terminationMessagePolicy",
            "/spec/template/spec/containers/*/ports/*/protocol",
            "/metadata/annotations/deployment.kubernetes.io~1revision",
            "/status",
        ],
        default_values: vec![],
        is_controlled: true,
        is_allowed: |_| true,
    }
}

/// A kind of ours, whose lists are one value each, but for conditions.
fn worker_group() -> Kind {
    let pod = |image: &str| json!([{"name": "worker", "image": image}]);
    let condition = |name: &str, status: &str| {
        json!({
            "type": name, "status": status, "reason": "R", "message": "m", "lastTransitionTime": "2026-11-22T18:30:00Z",
        })
    };
    Kind {
        name: "daskworkergroup",
        base: json!({"spec": {"cluster": "c", "worker": {"spec": {"containers": pod("i")}}}}),
        given: vec![("/spec/worker/replicas", json!(2))],
        fields: with(vec![
            ("/spec/worker/replicas", vec![json!(2), json!(3)]),
            ("/spec/worker/metadata/labels/l", vec![json!("1"), json!("2")]),
            ("/spec/worker/spec/nodeSelector/a", vec![json!("1"), json!("2")]),
            ("/spec/worker/spec/nodeSelector/b", vec![json!("1")]),
            ("/spec/worker/spec/containers", vec![pod("j"), json!([{"name": "other", "image": "i", "args": ["a"]}])]),
            ("/spec/worker/spec/tolerations", vec![json!([{"key": "a"}]), json!([{"key": "b"}, {"key": "a"}])]),
            ("/spec/worker/spec/newerThanUs", vec![json!([{"a": 1}]), json!([{"a": 2}, {"b": 1}])]),
        ]),
        status: vec![
            ("/status/readyReplicas", vec![json!(1), json!(2)]),
            ("/status/labelSelector", vec![json!("a=b")]),
            (
                "/status/conditions",
                vec![
                    json!([condition("Available", "True")]),
                    json!([condition("Degraded", "True"), condition("Available", "False")]),
                    json!([condition("Degraded", "False")]),
                ],
            ),
        ],
        defaults: &[],
        default_values: vec![("/spec/worker/replicas", json!(1))],
        is_controlled: false,
        is_allowed: |_| true,
    }
}
