//! Whom the client talks to, wherever a user's Service leads, and what it tells of who answers.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
    time::Duration,
};

use anyhow::{Context as _, bail};
use dask_wasm_operator_cluster::scheduler::{Addresses, Deadlines, FindPod, Route, SchedulerClient};
use dask_wasm_operator_core::{
    dask::{pod_summary_kind, scheduler_pod, summary},
    object::{GroupVersionKind, NamespacedName, Object, Resource},
    ports::Observed,
    scheduler::{Scheduler, SchedulerCall, SchedulerError, SchedulerReply},
};
use serde_json::{Value, json};

use super::{
    IMPATIENT,
    double::{Double, HANDSHAKE, Reaction, message, response},
    faults::sane,
    say_to,
};

/// Name of the pod of the good scheduler.
pub(super) const POD: &str = "c-scheduler-5d4f9c7b68-abcde";

/// What an operator has seen.
pub(super) struct Seen(pub(super) Vec<Arc<Object>>);

impl Seen {
    /// Cluster `c` of namespace `n` with its scheduler, whose comm port this is. Its address is that of this machine.
    pub(super) fn good(port: u16) -> Self {
        Self::of(&[cluster(), deployment("cluster-uid"), pod(port)])
    }

    fn of(objects: &[Value]) -> Self {
        let objects = objects.iter().map(|object| {
            let object = Object::from_value(object).expect("tests write objects");
            let is_pod = object.kind.kind == "Pod";
            Arc::new(if is_pod { summary(Arc::new(pod_summary_kind()), &object) } else { object })
        });
        Self(objects.collect())
    }
}

impl Observed for Seen {
    fn get(&self, kind: &GroupVersionKind, at: &NamespacedName) -> Option<Arc<Object>> {
        self.0.iter().find(|object| object.kind.same_kind(kind) && object.at() == *at).cloned()
    }

    fn controlled_by(&self, kind: &GroupVersionKind, uid: &str) -> Vec<Arc<Object>> {
        self.0.iter().filter(|object| object.kind.same_kind(kind) && object.is_controlled_by(uid)).cloned().collect()
    }

    fn departed(&self, _: &GroupVersionKind, _: &str) -> Vec<Arc<Object>> {
        Vec::new()
    }

    fn resource(&self, _: &GroupVersionKind) -> Option<Resource> {
        None
    }

    fn has_status(&self, _: &GroupVersionKind) -> bool {
        true
    }
}

fn cluster() -> Value {
    json!({"apiVersion": "kubernetes.dask.org/v1", "kind": "DaskCluster",
        "metadata": {"name": "c", "namespace": "n", "uid": "cluster-uid"}, "spec": {}})
}

/// A Deployment that the object of this uid controls.
fn deployment(owner: &str) -> Value {
    json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {
        "name": "c-scheduler", "namespace": "n", "uid": "deployment-uid",
        "ownerReferences": [{"apiVersion": "kubernetes.dask.org/v1", "kind": "DaskCluster", "name": "c", "uid": owner,
            "controller": true}],
    }})
}

fn pod(port: u16) -> Value {
    json!({"apiVersion": "v1", "kind": "Pod",
        "metadata": {
            "name": POD, "namespace": "n", "uid": "pod-uid",
            "labels": {"dask.org/cluster-name": "c", "dask.org/component": "scheduler",
                "pod-template-hash": "5d4f9c7b68"},
            "ownerReferences": [{"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "c-scheduler-5d4f9c7b68",
                "uid": "r", "controller": true}],
        },
        "spec": {"containers": [{"name": "s", "ports": [{"name": "tcp-comm", "containerPort": port}]}]},
        "status": {"phase": "Running", "podIP": "127.0.0.1", "conditions": [{"type": "Ready", "status": "True"}]},
    })
}

/// A client that knows of schedulers what was seen.
fn client(seen: Seen, deadlines: Deadlines) -> anyhow::Result<SchedulerClient> {
    let kubernetes = kube::Client::try_from(kube::Config::new("http://127.0.0.1:1".parse()?))?;
    let pods: FindPod = Arc::new(move |cluster| scheduler_pod(&seen, cluster));
    Ok(SchedulerClient::new(
        kubernetes,
        Addresses { given: BTreeMap::new(), pods, route: Route::PodNetwork },
        deadlines,
    ))
}

/// The scheduler behind a Service with this spec.
fn behind(spec: &Value) -> Scheduler {
    let service = json!({"apiVersion": "v1", "kind": "Service",
        "metadata": {"name": "c-scheduler", "namespace": "n"}, "spec": spec});
    Scheduler::behind(&Object::from_value(&service).expect("a Service"), NamespacedName::new("n", "c"), None)
}

fn port_of(double: &Double) -> anyhow::Result<u16> {
    Ok(double.address.rsplit_once(':').context("no port")?.1.parse()?)
}

fn answered(operation: &str) -> Reaction {
    Reaction::Answer(message(&sane(operation)))
}

#[tokio::test]
async fn wherever_a_service_leads_the_clusters_own_pod_is_talked_to() -> anyhow::Result<()> {
    let (good, foreign) = (Double::comm(answered).await?, Double::comm_at("127.0.0.2:0", answered).await?);
    let (port, elsewhere) = (port_of(&good)?, port_of(&foreign)?);
    let target = |target: Value| json!([{"name": "tcp-comm", "port": elsewhere, "targetPort": target}]);
    for spec in [
        json!({"type": "ExternalName", "externalName": "127.0.0.2", "ports": target(json!("tcp-comm"))}),
        json!({"clusterIP": "127.0.0.2", "ports": target(json!(port))}),
        json!({"externalIPs": ["127.0.0.2"], "selector": {"other": "pods"}, "ports": target(json!("tcp-comm"))}),
    ] {
        let before = good.connections();
        let client = client(Seen::good(port), Deadlines::default())?;
        let reply = say_to(&client, behind(&spec), SchedulerCall::AdaptiveTarget).await?;
        assert_eq!(reply, SchedulerReply::AdaptiveTarget(7), "{spec}");
        assert_eq!((good.connections() - before, foreign.connections()), (1, 0), "{spec}");
    }
    Ok(())
}

#[tokio::test]
async fn what_is_not_surely_the_scheduler_is_not_connected_to() -> anyhow::Result<()> {
    type Change = fn(&mut Value);
    let stranger = Double::comm(answered).await?;
    let port = port_of(&stranger)?;
    let pods: [(&str, Change); 7] = [
        ("of no ReplicaSet", |pod| pod["metadata"]["ownerReferences"] = json!([])),
        ("of another Deployment", |pod| pod["metadata"]["ownerReferences"][0]["name"] = json!("x-5d4f9c7b68")),
        ("without its template's hash", |pod| pod["metadata"]["labels"]["pod-template-hash"] = json!("5d4f")),
        ("a worker", |pod| pod["metadata"]["labels"]["dask.org/component"] = json!("worker")),
        ("of another cluster", |pod| pod["metadata"]["labels"]["dask.org/cluster-name"] = json!("d")),
        ("of another namespace", |pod| pod["metadata"]["namespace"] = json!("m")),
        ("ended", |pod| pod["status"]["phase"] = json!("Failed")),
    ];
    let mut cases: Vec<_> = pods
        .into_iter()
        .map(|(what, change)| {
            let mut pod = pod(port);
            change(&mut pod);
            (what, vec![cluster(), deployment("cluster-uid"), pod])
        })
        .collect();
    cases.push(("of a Deployment of somebody else", vec![cluster(), deployment("other"), pod(port)]));
    cases.push(("of a cluster that is gone", vec![deployment("cluster-uid"), pod(port)]));
    let mut going = pod(port);
    going["metadata"]["deletionTimestamp"] = json!("2026-11-22T18:30:00Z");
    cases.push(("about to go", vec![cluster(), deployment("cluster-uid"), going]));
    for (what, objects) in cases {
        let client = client(Seen::of(&objects), IMPATIENT)?;
        let spec = json!({"ports": [{"name": "tcp-comm", "port": 8786, "targetPort": port}]});
        let result = say_to(&client, behind(&spec), SchedulerCall::AdaptiveTarget).await;
        let Err(SchedulerError::Unreachable(text)) = &result else { bail!("{what}: {result:?}") };
        assert!(text.contains("no pod of Deployment c-scheduler has an address"), "{what}: {text}");
    }
    assert_eq!(stranger.connections(), 0);
    Ok(())
}

#[tokio::test]
async fn of_a_node_only_those_ports_are_reached_that_the_pod_declares() -> anyhow::Result<()> {
    let (good, kubelet) = (Double::comm(answered).await?, Double::comm(answered).await?);
    let mut on_node = pod(port_of(&good)?);
    on_node["spec"]["hostNetwork"] = json!(true);
    for (target, is_reached) in
        [(json!("tcp-comm"), true), (json!(port_of(&good)?), true), (json!(port_of(&kubelet)?), false)]
    {
        let client = client(Seen::of(&[cluster(), deployment("cluster-uid"), on_node.clone()]), IMPATIENT)?;
        let spec = json!({"ports": [{"name": "tcp-comm", "port": 8786, "targetPort": target}]});
        let result = say_to(&client, behind(&spec), SchedulerCall::AdaptiveTarget).await;
        match result {
            Ok(_) => assert!(is_reached, "{target}"),
            Err(error) => {
                assert!(!is_reached, "{target}: {error}");
                assert!(error.to_string().contains("correct targetPort in spec.scheduler.service"), "{error}");
            }
        }
    }
    assert_eq!(kubelet.connections(), 0);
    Ok(())
}

#[tokio::test]
async fn a_ready_pod_is_preferred_and_a_new_address_is_followed() -> anyhow::Result<()> {
    let (old, new) = (Double::comm(answered).await?, Double::comm(answered).await?);
    let mut starting = pod(port_of(&new)?);
    starting["metadata"]["name"] = json!("c-scheduler-5d4f9c7b68-zzzzz");
    starting["status"]["conditions"] = json!([{"type": "Ready", "status": "False"}]);
    let objects = vec![cluster(), deployment("cluster-uid"), pod(port_of(&old)?), starting];
    let seen = Arc::new(Mutex::new(Seen::of(&objects)));
    let known = Arc::clone(&seen);
    let pods: FindPod = Arc::new(move |cluster| scheduler_pod(&*known.lock().expect("nobody panics with it"), cluster));
    let kubernetes = kube::Client::try_from(kube::Config::new("http://127.0.0.1:1".parse()?))?;
    let addresses = Addresses { given: BTreeMap::new(), pods, route: Route::PodNetwork };
    // Each call on a connection of its own.
    let deadlines = Deadlines { reuse: Duration::ZERO, ..Deadlines::default() };
    let client = SchedulerClient::new(kubernetes, addresses, deadlines);
    let scheduler = behind(&json!({"ports": [{"name": "tcp-comm", "port": 8786, "targetPort": "tcp-comm"}]}));
    say_to(&client, scheduler.clone(), SchedulerCall::AdaptiveTarget).await?;
    assert_eq!((old.connections(), new.connections()), (1, 0));
    *seen.lock().expect("nobody panics with it") =
        Seen::of(&[cluster(), deployment("cluster-uid"), objects[3].clone()]);
    say_to(&client, scheduler, SchedulerCall::AdaptiveTarget).await?;
    assert_eq!((old.connections(), new.connections()), (1, 1));
    Ok(())
}

/// What nobody but the one who said it may know.
const SECRET: &str = "s3cr3t";

#[tokio::test]
async fn no_word_of_what_answers_is_told() -> anyhow::Result<()> {
    let exception = json!({"status": "uncaught-error", "exception_text": SECRET, "exception": {}});
    let page = format!("<html>{SECRET}</html>");
    let lies: [Vec<u8>; 6] = [
        message(&json!(SECRET)),
        message(&json!({"workers": SECRET, "id": SECRET})),
        message(&exception),
        format!("HTTP/1.1 200 {SECRET}\r\nServer: {SECRET}\r\n\r\n{page}").into_bytes(),
        SECRET.as_bytes().to_vec(),
        format!("-ERR {SECRET}\r\n").into_bytes(),
    ];
    let calls = [
        SchedulerCall::Workers,
        SchedulerCall::AdaptiveTarget,
        SchedulerCall::IdleSince,
        SchedulerCall::Retire(vec!["tcp://a:1".to_owned()]),
    ];
    for lie in lies {
        for greets in [true, false] {
            let answer = lie.clone();
            let comm = Double::comm(move |operation| {
                let honest = greets && operation == HANDSHAKE;
                if honest { answered(operation) } else { Reaction::Close(answer.clone()) }
            })
            .await?;
            for call in &calls {
                let client = client(Seen::good(port_of(&comm)?), IMPATIENT)?;
                let spec = json!({"ports": [{"name": "tcp-comm", "port": 8786, "targetPort": "tcp-comm"}]});
                let Err(error) = say_to(&client, behind(&spec), call.clone()).await else { continue };
                assert!(!error.to_string().contains(SECRET), "{call:?}: {error}");
            }
        }
    }
    Ok(())
}

#[tokio::test]
async fn an_answer_that_sends_elsewhere_is_not_followed() -> anyhow::Result<()> {
    let elsewhere = Double::http(|_| Reaction::Close(response("200 OK", "{\"workers\": 7}"))).await?;
    for status in
        ["301 Moved Permanently", "302 Found", "303 See Other", "307 Temporary Redirect", "308 Permanent Redirect"]
    {
        let location = format!("http://{}/api/v1/adaptive_target", elsewhere.address);
        let answer = format!("HTTP/1.1 {status}\r\nLocation: {location}\r\nContent-Length: 0\r\n\r\n").into_bytes();
        let dashboard = Double::http(move |_| Reaction::Close(answer.clone())).await?;
        let comm = Double::comm(answered).await?;
        let mut both = pod(port_of(&comm)?);
        let declared = json!({"name": "http-dashboard", "containerPort": port_of(&dashboard)?});
        both["spec"]["containers"][0]["ports"].as_array_mut().context("ports")?.push(declared);
        let client = client(Seen::of(&[cluster(), deployment("cluster-uid"), both]), IMPATIENT)?;
        let spec = json!({"ports": [{"name": "tcp-comm", "port": 8786, "targetPort": "tcp-comm"},
            {"name": "http-dashboard", "port": 8787, "targetPort": "http-dashboard"}]});
        let reply = say_to(&client, behind(&spec), SchedulerCall::AdaptiveTarget).await?;
        assert_eq!(reply, SchedulerReply::AdaptiveTarget(7), "by RPC, where HTTP has no answer");
        assert!(dashboard.connections() > 0, "{status}");
        assert_eq!(elsewhere.connections(), 0, "{status}");
    }
    Ok(())
}
