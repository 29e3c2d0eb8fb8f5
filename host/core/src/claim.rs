//! What stands in the way of our fields becomes ours, so that the next apply takes it away.
//!
//! Server-side apply tells ports apart by number and protocol. Whoever edits the number of one has put another port in its
//! place, which is theirs. An apply would add ours beside it, and the API server refuses two of one name. It is the same where
//! only one of several fields may be set, as the kind of a volume. So theirs becomes ours first, by its entries in the managed
//! fields (docs/adr/0058); nothing else of the object changes.

use std::collections::{HashMap, HashSet};

use serde_json::{Map, Value, json};

use crate::{
    fields::Fields,
    object::{GroupVersionKind, Object},
};

/// How many parts are taken by one write. Others follow.
const AT_ONCE: usize = 100;

/// A path into a set of fields, as `FieldsV1` writes it: `f:spec`, `f:ports`, `k:{"port":80,"protocol":"TCP"}`.
pub type FieldPath = Vec<String>;

/// A list of ports, whose items are told apart by a number and a protocol.
struct Ports<'a> {
    path: FieldPath,
    /// The field that has the number.
    number: &'static str,
    /// The field that has the number by which the node is reached.
    of_node: &'static str,
    /// Whether one item among others needs a name.
    needs_names: bool,
    wanted: &'a [Value],
    live: &'a [Value],
}

impl Ports<'_> {
    fn key(&self, item: &Value) -> String {
        format!("k:{}", json!({self.number: item[self.number], "protocol": protocol(item)}))
    }

    fn obstacles(&self) -> Vec<FieldPath> {
        let keys = |items: &[Value]| items.iter().map(|item| self.key(item)).collect::<HashSet<_>>();
        let (wanted, live) = (keys(self.wanted), keys(self.live));
        let names: HashSet<_> = self.wanted.iter().filter_map(name_of).collect();
        let places: HashSet<_> = self.wanted.iter().filter_map(|item| self.place(item)).collect();
        let missing = || self.wanted.iter().filter(|item| !live.contains(&self.key(item)));
        let (some_come, nameless_come) = (missing().next().is_some(), missing().any(|item| name_of(item).is_none()));
        let is_in_the_way = |item: &Value| {
            let name = name_of(item);
            name.is_some_and(|name| names.contains(name))
                || self.place(item).is_some_and(|place| places.contains(&place))
                || self.needs_names && (nameless_come || some_come && name.is_none())
        };
        let theirs = self.live.iter().map(|item| (item, self.key(item))).filter(|(_, key)| !wanted.contains(key));
        let in_the_way = theirs.filter(|(item, _)| is_in_the_way(item));
        in_the_way.map(|(_, key)| [&self.path[..], &[key]].concat()).collect()
    }

    /// Where it is reached on a node.
    fn place(&self, item: &Value) -> Option<(u64, String, Option<String>)> {
        let address = item.get("hostIP").and_then(Value::as_str).map(str::to_owned);
        Some((item.get(self.of_node)?.as_u64()?, protocol(item).to_owned(), address))
    }
}

fn protocol(item: &Value) -> &str {
    item.get("protocol").and_then(Value::as_str).unwrap_or("TCP")
}

fn name_of(item: &Value) -> Option<&str> {
    item.get("name").and_then(Value::as_str)
}

/// A map in which only one of some fields may be set.
struct Choice<'a> {
    path: FieldPath,
    members: Members,
    wanted: &'a Value,
    live: &'a Value,
}

#[derive(Clone, Copy)]
enum Members {
    Of(&'static [&'static str]),
    AllBut(&'static str),
}

impl Members {
    fn include(self, field: &str) -> bool {
        match self {
            Self::Of(fields) => fields.contains(&field),
            Self::AllBut(other) => field != other,
        }
    }
}

impl Choice<'_> {
    fn obstacles(&self) -> Vec<FieldPath> {
        let wanted = self.chosen(self.wanted);
        let theirs = self.chosen(self.live).into_iter().filter(|field| !wanted.is_empty() && !wanted.contains(field));
        theirs.map(|field| [&self.path[..], &[format!("f:{field}")]].concat()).collect()
    }

    fn chosen<'b>(&self, value: &'b Value) -> Vec<&'b str> {
        let fields = value.as_object().into_iter().flatten().filter(|(_, value)| !value.is_null());
        fields.map(|(field, _)| field.as_str()).filter(|field| self.members.include(field)).collect()
    }
}

fn items<'a>(value: &'a Value, pointer: &str) -> &'a [Value] {
    value.pointer(pointer).and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default()
}

fn fields(path: &[&str]) -> FieldPath {
    path.iter().map(|name| format!("f:{name}")).collect()
}

fn ports_of_service<'a>(wanted: &'a Value, live: &'a Value) -> Ports<'a> {
    Ports {
        path: fields(&["spec", "ports"]),
        number: "port",
        of_node: "nodePort",
        needs_names: true,
        wanted: items(wanted, "/spec/ports"),
        live: items(live, "/spec/ports"),
    }
}

/// The containers of a Deployment: path, what is wanted, and what there is.
fn containers<'a>(wanted: &'a Value, live: &'a Value) -> Vec<(FieldPath, &'a Value, &'a Value)> {
    let lists = ["containers", "initContainers"].into_iter();
    lists.flat_map(|list| of_same_name(wanted, live, &["spec", "template", "spec", list])).collect()
}

/// Items of a list that have the same name in both.
fn of_same_name<'a>(wanted: &'a Value, live: &'a Value, list: &[&str]) -> Vec<(FieldPath, &'a Value, &'a Value)> {
    let pointer = format!("/{}", list.join("/"));
    let live: HashMap<_, _> = items(live, &pointer).iter().filter_map(|item| Some((name_of(item)?, item))).collect();
    let same = |item: &'a Value| {
        let name = name_of(item)?;
        let path = [&fields(list)[..], &[format!("k:{}", json!({"name": name}))]].concat();
        Some((path, item, *live.get(name)?))
    };
    items(wanted, &pointer).iter().filter_map(same).collect()
}

fn ports_of_container<'a>((path, wanted, live): &(FieldPath, &'a Value, &'a Value)) -> Ports<'a> {
    Ports {
        path: [&path[..], &["f:ports".to_owned()]].concat(),
        number: "containerPort",
        of_node: "hostPort",
        needs_names: false,
        wanted: items(wanted, "/ports"),
        live: items(live, "/ports"),
    }
}

/// What handles a probe, or a moment in the life of a container.
const HANDLERS: Members = Members::Of(&["exec", "grpc", "httpGet", "sleep", "tcpSocket"]);

fn choices_of_container<'a>((path, wanted, live): &(FieldPath, &'a Value, &'a Value)) -> Vec<Choice<'a>> {
    let below = |inner: &[&str], (wanted, live)| {
        let path = [&path[..], &fields(inner)].concat();
        Choice { path, members: HANDLERS, wanted, live }
    };
    let handlers: [&[&str]; 5] = [
        &["livenessProbe"],
        &["readinessProbe"],
        &["startupProbe"],
        &["lifecycle", "postStart"],
        &["lifecycle", "preStop"],
    ];
    let handlers = handlers.into_iter().filter_map(|inner| {
        let pointer = format!("/{}", inner.join("/"));
        Some(below(inner, (wanted.pointer(&pointer)?, live.pointer(&pointer)?)))
    });
    let variables = of_same_name(wanted, live, &["env"]).into_iter().map(|(inner, wanted, live)| {
        let path = [&path[..], &inner].concat();
        Choice { path, members: Members::Of(&["value", "valueFrom"]), wanted, live }
    });
    handlers.chain(variables).collect()
}

fn choices_of_volumes<'a>(wanted: &'a Value, live: &'a Value) -> impl Iterator<Item = Choice<'a>> {
    let volumes = of_same_name(wanted, live, &["spec", "template", "spec", "volumes"]).into_iter();
    volumes.map(|(path, wanted, live)| Choice { path, members: Members::AllBut("name"), wanted, live })
}

/// The parts of `live` that have to go for `wanted` to be applied.
pub fn obstacles(wanted: &Value, live: &Object) -> Vec<FieldPath> {
    let is = |group, kind| live.kind.same_kind(&GroupVersionKind::new(group, "v1", kind));
    let (is_service, is_deployment) = (is("", "Service"), is("apps", "Deployment"));
    if !is_service && !is_deployment {
        return Vec::new();
    }
    let value = live.to_value();
    let containers = if is_deployment { containers(wanted, &value) } else { Vec::new() };
    let service = is_service.then(|| ports_of_service(wanted, &value));
    let ports: Vec<_> = service.into_iter().chain(containers.iter().map(ports_of_container)).collect();
    let volumes = choices_of_volumes(wanted, &value).filter(|_| is_deployment);
    let choices: Vec<_> = containers.iter().flat_map(choices_of_container).chain(volumes).collect();
    let parts = ports.iter().flat_map(Ports::obstacles).chain(choices.iter().flat_map(Choice::obstacles));
    parts.take(AT_ONCE).collect()
}

/// What an object says at a path.
fn at_path<'a>(object: &'a Value, path: &[String]) -> Option<&'a Value> {
    path.iter().try_fold(object, |value, name| match name.split_once(':')? {
        ("f", field) => value.get(field),
        ("k", keys) => {
            let keys: Map<String, Value> = serde_json::from_str(keys).ok()?;
            value.as_array()?.iter().find(|item| keys.iter().all(|(key, value)| item.get(key) == Some(value)))
        }
        _ => None,
    })
}

/// `metadata.managedFields` of an object, as the API server answers it, once `manager` alone holds all of these parts; none: it
/// does already.
pub fn claimed(object: &Value, manager: &str, parts: &[FieldPath]) -> Option<Value> {
    let before = object.pointer("/metadata/managedFields").and_then(Value::as_array).cloned().unwrap_or_default();
    let is_of_object = |entry: &Value| entry["subresource"].as_str().is_none_or(str::is_empty);
    let is_own = |entry: &Value| is_of_object(entry) && entry["operation"] == "Apply" && entry["manager"] == manager;
    let mut own = Fields::default();
    for path in parts {
        at_path(object, path).into_iter().for_each(|part| own.add_at(path, &Fields::all_of(part)));
    }
    let mut entries = before.clone();
    entries.retain_mut(|entry| {
        if !is_of_object(entry) {
            return true;
        }
        let mut held = Fields::from_json(&entry["fieldsV1"]);
        for path in parts {
            held.take(path).iter().for_each(|part| own.add_at(path, part));
        }
        if is_own(entry) {
            own.add(&held);
            return true;
        }
        entry["fieldsV1"] = held.to_json();
        !held.is_empty()
    });
    match entries.iter_mut().find(|entry| is_own(entry)) {
        Some(entry) => entry["fieldsV1"] = own.to_json(),
        None => entries.push(json!({
            "manager": manager, "operation": "Apply", "apiVersion": object["apiVersion"], "fieldsType": "FieldsV1",
            "fieldsV1": own.to_json(),
        })),
    }
    (entries != before).then(|| entries.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    const OURS: &str = "dask-operator/cluster";

    fn service(ports: &Value) -> Value {
        json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "a"}, "spec": {"ports": ports}})
    }

    fn deployment(ports: &Value) -> Value {
        let containers = json!([{"name": "sidecar"}, {"name": "scheduler", "ports": ports}]);
        json!({
            "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "a"},
            "spec": {"template": {"spec": {"containers": containers}}},
        })
    }

    /// The last element of each path.
    fn keys(wanted: &Value, live: &Value) -> Vec<String> {
        let found = obstacles(wanted, &Object::from_value(live).unwrap());
        found.into_iter().filter_map(|mut path| path.pop()).collect()
    }

    #[test]
    fn a_port_with_another_number_or_protocol_under_the_same_name_is_in_the_way() {
        let wanted = service(&json!([{"name": "comm", "port": 8786}, {"name": "http", "port": 8787}]));
        let other = json!({"name": "http", "port": 8787, "protocol": "TCP"});
        for (edited, key) in [
            (json!({"name": "comm", "port": 1, "protocol": "TCP"}), r#"k:{"port":1,"protocol":"TCP"}"#),
            (json!({"name": "comm", "port": 8786, "protocol": "UDP"}), r#"k:{"port":8786,"protocol":"UDP"}"#),
        ] {
            assert_eq!(keys(&wanted, &service(&json!([edited, other]))), [key]);
        }
    }

    #[test]
    fn so_is_one_that_has_got_our_name() {
        let wanted = service(&json!([{"name": "comm", "port": 8786}]));
        let live = service(&json!([{"name": "x", "port": 8786}, {"name": "comm", "port": 1}]));
        assert_eq!(keys(&wanted, &live), [r#"k:{"port":1,"protocol":"TCP"}"#]);
    }

    #[test]
    fn what_somebody_has_added_is_not_in_the_way() {
        let wanted = service(&json!([{"name": "comm", "port": 8786}]));
        let (ours, added) = (json!({"name": "comm", "port": 8786, "protocol": "TCP"}), json!({"name": "x", "port": 1}));
        for live in [json!([ours, added]), json!([ours]), json!([added]), json!([])] {
            assert!(keys(&wanted, &service(&live)).is_empty(), "{live}");
        }
        // The number stands under another name: it is ours, and the name is put back by the apply.
        let renamed = json!([{"name": "renamed", "port": 8786, "protocol": "TCP"}]);
        assert!(keys(&wanted, &service(&renamed)).is_empty());
    }

    #[test]
    fn ports_of_a_service_without_names_exclude_each_other() {
        let (nameless, named) = (json!([{"port": 8786}]), json!([{"name": "x", "port": 1}]));
        assert_eq!(keys(&service(&nameless), &service(&named)), [r#"k:{"port":1,"protocol":"TCP"}"#]);
        assert_eq!(keys(&service(&named), &service(&nameless)), [r#"k:{"port":8786,"protocol":"TCP"}"#]);
        let with_names = json!([{"name": "comm", "port": 8786}, {"name": "x", "port": 1}]);
        assert!(keys(&service(&nameless), &service(&with_names)).is_empty(), "named to add another");
        let of_container = json!([{"containerPort": 1}]);
        assert!(keys(&deployment(&json!([{"containerPort": 2}])), &deployment(&of_container)).is_empty());
    }

    #[test]
    fn so_do_two_that_are_reached_by_the_same_port_of_a_node() {
        let port = |name: &str, port: u16, protocol: &str| {
            service(&json!([{"name": name, "port": port, "nodePort": 30_086, "protocol": protocol}]))
        };
        assert_eq!(keys(&port("a", 1, "TCP"), &port("b", 2, "TCP")), [r#"k:{"port":2,"protocol":"TCP"}"#]);
        assert!(keys(&port("a", 1, "TCP"), &port("b", 1, "UDP")).is_empty());
        let port = |port: u16, address: &str| {
            deployment(&json!([{"containerPort": port, "hostPort": 9000, "hostIP": address}]))
        };
        let key = r#"k:{"containerPort":2,"protocol":"TCP"}"#;
        assert_eq!(keys(&port(1, "10.0.0.1"), &port(2, "10.0.0.1")), [key]);
        assert!(keys(&port(1, "10.0.0.1"), &port(2, "10.0.0.2")).is_empty());
    }

    #[test]
    fn the_path_of_a_containers_port_leads_to_it() {
        let port = |number: u16| json!([{"name": "comm", "containerPort": number, "protocol": "TCP"}]);
        let live = Object::from_value(&deployment(&port(1))).unwrap();
        let path = ["f:spec", "f:template", "f:spec", "f:containers", r#"k:{"name":"scheduler"}"#, "f:ports"];
        let path = [&path[..], &[r#"k:{"containerPort":1,"protocol":"TCP"}"#]].concat();
        assert_eq!(obstacles(&deployment(&port(8786)), &live), [path]);
    }

    fn with_container(container: Value) -> Value {
        let mut deployment = deployment(&json!([]));
        let name = json!("scheduler");
        deployment["spec"]["template"]["spec"]["containers"][1] = container;
        deployment["spec"]["template"]["spec"]["containers"][1]["name"] = name;
        deployment
    }

    #[test]
    fn of_fields_of_which_only_one_may_be_set_the_other_is_in_the_way() {
        for (wanted, edited, key) in [
            (json!({"livenessProbe": {"httpGet": {"port": 1}}}), json!({"livenessProbe": {"exec": {}}}), "f:exec"),
            (
                json!({"lifecycle": {"preStop": {"exec": {}}}}),
                json!({"lifecycle": {"preStop": {"sleep": {"seconds": 1}}}}),
                "f:sleep",
            ),
            (
                json!({"env": [{"name": "A", "value": "x"}]}),
                json!({"env": [{"name": "A", "valueFrom": {"fieldRef": {}}}]}),
                "f:valueFrom",
            ),
        ] {
            assert_eq!(keys(&with_container(wanted.clone()), &with_container(edited.clone())), [key]);
            assert_eq!(keys(&with_container(wanted.clone()), &with_container(wanted.clone())), [""; 0]);
            assert_eq!(keys(&with_container(json!({})), &with_container(edited)), [""; 0], "an addition");
        }
        let volumes = |volume: &Value| {
            let mut deployment = deployment(&json!([]));
            deployment["spec"]["template"]["spec"]["volumes"] = json!([volume]);
            deployment
        };
        let (wanted, edited) = (json!({"name": "a", "emptyDir": {}}), json!({"name": "a", "configMap": {"name": "b"}}));
        assert_eq!(keys(&volumes(&wanted), &volumes(&edited)), ["f:configMap"]);
        assert_eq!(keys(&volumes(&wanted), &volumes(&wanted)), [""; 0]);
    }

    #[test]
    fn thousands_are_compared_in_no_time_and_taken_by_and_by() {
        let variables = |value: Value| {
            let variables = (0..20_000).map(|number| {
                let mut variable = value.clone();
                variable["name"] = json!(format!("V{number}"));
                variable
            });
            with_container(json!({"env": variables.collect::<Vec<_>>()}))
        };
        let found = keys(&variables(json!({"value": "x"})), &variables(json!({"valueFrom": {}})));
        assert_eq!(found.len(), AT_ONCE);
        let ports = |offset: u32| {
            let ports = (0..20_000).map(|number| json!({"name": format!("p{number}"), "port": number + offset}));
            service(&json!(ports.collect::<Vec<_>>()))
        };
        assert_eq!(keys(&ports(0), &ports(30_000)).len(), AT_ONCE);
        assert!(keys(&ports(0), &ports(0)).is_empty());
    }

    /// As Kubernetes 1.36 has it after `kubectl edit` of the number of a port.
    fn edited() -> Value {
        let port = json!({".": {}, "f:name": {}, "f:port": {}, "f:protocol": {}});
        let mut live = service(&json!([{"name": "comm", "port": 1, "protocol": "TCP"}]));
        live["metadata"]["managedFields"] = json!([
            {
                "manager": OURS, "operation": "Apply", "apiVersion": "v1", "fieldsType": "FieldsV1",
                "fieldsV1": {"f:spec": {"f:selector": {}}},
            },
            {
                "manager": "kubectl-edit", "operation": "Update", "apiVersion": "v1", "fieldsType": "FieldsV1",
                "fieldsV1": {"f:spec": {"f:ports": {"k:{\"port\":1,\"protocol\":\"TCP\"}": port}}},
            },
        ]);
        live
    }

    #[test]
    fn what_is_claimed_is_the_managers_alone_and_no_obstacle_any_more() {
        let (mut live, wanted) = (edited(), service(&json!([{"name": "comm", "port": 8786}])));
        let items = obstacles(&wanted, &Object::from_value(&live).unwrap());
        let mut expected = live["metadata"]["managedFields"][0].clone();
        expected["fieldsV1"]["f:spec"]["f:ports"] =
            live["metadata"]["managedFields"][1]["fieldsV1"]["f:spec"]["f:ports"].clone();
        live["metadata"]["managedFields"] = claimed(&live, OURS, &items).unwrap();
        assert_eq!(live["metadata"]["managedFields"], json!([expected]));
        assert_eq!(claimed(&live, OURS, &items), None);
    }

    /// The belief that is attacked: that what we hold is ours alone.
    #[test]
    fn what_others_hold_too_becomes_ours_alone() {
        let key = r#"k:{"port":8786,"protocol":"TCP"}"#;
        let port = json!({"name": "comm", "port": 8786, "protocol": "TCP", "nodePort": 30_086});
        let ours = json!({".": {}, "f:name": {}, "f:port": {}, "f:protocol": {}});
        let wanted = service(&json!([{"name": "comm", "port": 9000}]));
        for theirs in [json!({"f:nodePort": {}}), ours.clone()] {
            let mut live = service(&json!([port]));
            let entry = |manager: &str, operation: &str, port: &Value| {
                json!({"manager": manager, "operation": operation, "apiVersion": "v1", "fieldsType": "FieldsV1",
                    "fieldsV1": {"f:spec": {"f:ports": {key: port}}}})
            };
            live["metadata"]["managedFields"] = json!([entry(OURS, "Apply", &ours), entry("x", "Update", &theirs)]);
            let parts = obstacles(&wanted, &Object::from_value(&live).unwrap());
            live["metadata"]["managedFields"] = claimed(&live, OURS, &parts).unwrap();
            let all = json!({".": {}, "f:name": {}, "f:port": {}, "f:protocol": {}, "f:nodePort": {}});
            assert_eq!(live["metadata"]["managedFields"], json!([entry(OURS, "Apply", &all)]));
            assert_eq!(claimed(&live, OURS, &parts), None);
        }
    }

    #[test]
    fn what_nobody_holds_is_claimed_too_and_other_entries_stay_as_they_are() {
        let mut live = edited();
        let status = json!({"manager": "kubectl-edit", "operation": "Update", "subresource": "status", "fieldsV1": {}});
        live["metadata"]["managedFields"] = json!([status]);
        let items = [["f:spec", "f:ports", r#"k:{"port":1,"protocol":"TCP"}"#].map(str::to_owned).to_vec()];
        let entries = claimed(&live, OURS, &items).unwrap();
        let port = json!({".": {}, "f:name": {}, "f:port": {}, "f:protocol": {}});
        let held = json!({"f:spec": {"f:ports": {r#"k:{"port":1,"protocol":"TCP"}"#: port}}});
        let own = json!({
            "manager": OURS, "operation": "Apply", "apiVersion": "v1", "fieldsType": "FieldsV1", "fieldsV1": held,
        });
        assert_eq!(entries, json!([status, own]));
    }
}
