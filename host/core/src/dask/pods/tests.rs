//! What is kept of pods, and what the status of a cluster and of a group makes of it.

use std::sync::Arc;

use serde_json::{Value, json};

use super::*;
use crate::{
    dask::reconciler::Reconciler,
    native::Native as _,
    scheduler::Replies,
    spec::{Condition, ConditionStatus},
    wanted::Findings,
};

/// A pod as the API server stores it: `number` of a Deployment of cluster `c`, on a node, with this of its status.
fn pod(deployment: &str, number: u32, status: Value) -> Value {
    let group = deployment.starts_with("g-worker-").then_some("g");
    let component = if group.is_some() { "worker" } else { "scheduler" };
    let mut labels = json!({
        "dask.org/cluster-name": "c", "dask.org/component": component, "sidecar.istio.io/inject": "false",
        "pod-template-hash": "5d4f9c7b68",
    });
    if let Some(group) = group {
        labels["dask.org/workergroup-name"] = json!(group);
    }
    let mut pod = json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {
            "name": format!("{deployment}-5d4f9c7b68-x{number}"), "generateName": format!("{deployment}-5d4f9c7b68-"),
            "namespace": "n", "uid": format!("u{number}"), "resourceVersion": "712", "labels": labels,
            "annotations": {"cni.projectcalico.org/podIP": "10.244.0.7/32"},
            "ownerReferences": [{"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": format!("{deployment}-5d4f9c7b68"),
                "uid": "r", "controller": true, "blockOwnerDeletion": true}],
            "managedFields": [{"manager": "kubelet", "operation": "Update", "subresource": "status", "fieldsV1": {}}],
        },
        "spec": {"nodeName": "node", "containers": [{"name": "dask", "image": "dask"}]},
        "status": {
            "phase": "Pending", "qosClass": "BestEffort", "startTime": "2026-11-22T18:30:00Z", "hostIP": "172.18.0.2",
            "podIP": "10.244.0.7", "podIPs": [{"ip": "10.244.0.7"}, {"ip": "fd00:10::7"}],
            "conditions": [{"type": "PodScheduled", "status": "True", "lastTransitionTime": "2026-11-22T18:30:00Z"}],
        },
    });
    pod["status"].as_object_mut().unwrap().extend(status.as_object().unwrap().clone());
    pod
}

/// The status of a container, as kubelet writes it.
fn container(state: Value, last_state: Value, restarts: u32) -> Value {
    let ready = state.get("running").is_some();
    json!({"containerStatuses": [{
        "name": "dask", "image": "dask", "imageID": "", "ready": ready, "started": ready, "restartCount": restarts,
        "state": state, "lastState": last_state,
    }]})
}

fn waiting(reason: &str, message: &str) -> Value {
    let message = if message.is_empty() { json!({}) } else { json!({"message": message}) };
    let mut waiting = json!({"reason": reason});
    waiting.as_object_mut().unwrap().extend(message.as_object().unwrap().clone());
    json!({"waiting": waiting})
}

fn terminated(exit_code: i32) -> Value {
    json!({"terminated": {"exitCode": exit_code, "reason": if exit_code == 0 { "Completed" } else { "Error" },
        "startedAt": "2026-11-22T18:30:02Z", "finishedAt": "2026-11-22T18:30:05Z", "containerID": "containerd://a"}})
}

fn running() -> Value {
    json!({"running": {"startedAt": "2026-11-22T18:30:09Z"}})
}

fn image_trouble() -> Value {
    container(waiting("ImagePullBackOff", "Back-off pulling image \"dask:nope\""), json!({}), 0)
}

fn crash_loop() -> Value {
    let message = "back-off 40s restarting failed container=dask pod=c-scheduler";
    container(waiting("CrashLoopBackOff", message), terminated(1), 3)
}

fn unschedulable() -> Value {
    json!({"podIP": "", "podIPs": [], "conditions": [{"type": "PodScheduled", "status": "False", "reason": "Unschedulable",
        "message": "0/3 nodes are available: 3 Insufficient memory."}]})
}

fn summarized(pod: &Value) -> Arc<Object> {
    Arc::new(summary(Arc::new(pod_summary_kind()), &Object::from_value(pod).unwrap()))
}

fn deployment(name: &str, ready: bool, failure: Option<&str>) -> Value {
    let component = if name.starts_with("g-worker-") { "worker" } else { "scheduler" };
    let failure = failure.map(
        |message| json!({"type": "ReplicaFailure", "status": "True", "reason": "FailedCreate", "message": message}),
    );
    let ready = u32::from(ready);
    json!({
        "apiVersion": "apps/v1", "kind": "Deployment",
        "metadata": {"name": name, "namespace": "n", "labels": {"dask.org/component": component}},
        "status": {"replicas": 1, "readyReplicas": ready, "availableReplicas": ready,
            "conditions": failure.into_iter().collect::<Vec<_>>()},
    })
}

/// The condition `Available` of a subject with these Deployments and pods.
fn available(reconciler: Reconciler, deployments: &[Value], pods: &[Value]) -> (ConditionStatus, String, String) {
    let subject = reconciler.subject();
    let subject = json!({
        "apiVersion": subject.api_version(), "kind": subject.kind,
        "metadata": {"name": if reconciler == Reconciler::Cluster { "c" } else { "g" }, "namespace": "n"},
        "spec": {"cluster": "c", "worker": {"replicas": deployments.len(), "spec": {}}},
    });
    let objects =
        |values: &[Value]| values.iter().map(|value| Arc::new(Object::from_value(value).unwrap())).collect::<Vec<_>>();
    let seen = Snapshot {
        subject: Arc::new(Object::from_value(&subject).unwrap()),
        children: objects(deployments).into(),
        departed: Vec::new(),
        related: [(PODS.into(), pods.iter().map(summarized).collect())].into(),
        outdated: None,
        replies: Replies::default(),
        known_fields: Arc::default(),
        facts: Value::Null,
        now: 0,
    };
    let status = reconciler.status(&seen, &Findings::default());
    let conditions: Vec<Condition> = serde_json::from_value(status["conditions"].clone()).unwrap();
    let available = conditions.into_iter().find(|condition| condition.type_ == "Available").unwrap();
    (available.status, available.reason, available.message)
}

#[test]
fn a_failing_scheduler_pod_is_told_with_its_remedy() {
    let cases = [
        (
            image_trouble(),
            "SchedulerImage",
            vec!["ImagePullBackOff: “Back-off", "imagePullSecrets in spec.scheduler.spec"],
        ),
        (crash_loop(), "SchedulerCrashLoop", vec!["exit code 1 (Error)", "kubectl logs --previous c-scheduler-"]),
        (container(terminated(137), json!({}), 0), "SchedulerCrashLoop", vec!["exit code 137"]),
        (unschedulable(), "SchedulerUnschedulable", vec!["Insufficient memory", "make room on the nodes"]),
        (
            container(waiting("CreateContainerConfigError", "secret \"x\" not found"), json!({}), 0),
            "SchedulerNotStarting",
            vec![
                "secret \"x\" not found”; create Secret x, or correct what names it in spec.scheduler.spec of DaskCluster c",
            ],
        ),
        (container(waiting("ContainerCreating", ""), json!({}), 0), "SchedulerNotReady", vec![]),
        (container(running(), json!({}), 0), "SchedulerNotReady", vec![]),
    ];
    for (status, expected, words) in cases {
        let pods = [pod("c-scheduler", 1, status), pod("g-worker-a", 2, image_trouble())];
        let (_, reason, message) = available(Reconciler::Cluster, &[deployment("c-scheduler", false, None)], &pods);
        assert_eq!(reason, expected, "{message}");
        words.iter().for_each(|words| assert!(message.contains(words), "{words} in {message}"));
    }
}

#[test]
fn what_distributed_has_no_more_is_told_with_what_to_write_instead() {
    let start_error = |name: &str| {
        let message = format!(
            "failed to create containerd task: failed to create shim task: OCI runtime create failed: runc create failed: \
             unable to start container process: error during container init: exec: \"{name}\": executable file not found in \
             $PATH: unknown"
        );
        json!({"terminated": {"exitCode": 128, "reason": "StartError", "message": message}})
    };
    let remedies = [
        ("dask-scheduler", "since 2026.6, write dask scheduler;"),
        ("dask-worker", "since 2026.6, write dask worker;"),
    ];
    for (name, remedy) in remedies {
        let message = start_error(name)["terminated"]["message"].clone();
        let run = waiting("RunContainerError", message.as_str().unwrap());
        let again = waiting("CrashLoopBackOff", "back-off 10s restarting failed container");
        for status in [container(run, json!({}), 0), container(again.clone(), start_error(name), 1)] {
            let pods = [pod("c-scheduler", 1, status)];
            let (_, _, message) = available(Reconciler::Cluster, &[deployment("c-scheduler", false, None)], &pods);
            assert!(message.contains(remedy), "{message}");
        }
        // The shell of an image's entry point is the one that finds nothing.
        let mut told = pod("c-scheduler", 1, container(again, terminated(127), 1));
        told["spec"]["containers"][0]["args"] = json!([name, "--host", "0.0.0.0"]);
        let (_, _, message) =
            available(Reconciler::Cluster, &[deployment("c-scheduler", false, None)], &[told.clone()]);
        assert!(message.contains(remedy), "{message}");
        told["spec"]["containers"][0]["args"] = json!(["another", "program"]);
        let (_, _, message) = available(Reconciler::Cluster, &[deployment("c-scheduler", false, None)], &[told]);
        assert!(message.contains("exit code 127") && !message.contains("distributed"), "{message}");
    }
}

#[test]
fn failing_workers_are_counted_by_what_is_wrong() {
    let deployments = [
        deployment("g-worker-a", true, None),
        deployment("g-worker-b", false, None),
        deployment("g-worker-c", false, None),
        deployment("g-worker-d", false, Some("exceeded quota: few")),
        deployment("g-worker-e", false, None),
    ];
    let pods = [
        // It was trouble, and its successor is ready.
        pod("g-worker-a", 0, image_trouble()),
        pod("g-worker-b", 1, image_trouble()),
        pod("g-worker-c", 2, image_trouble()),
        pod("g-worker-e", 3, unschedulable()),
    ];
    let (status, reason, message) = available(Reconciler::WorkerGroup, &deployments, &pods);
    assert_eq!((status, reason.as_str()), (ConditionStatus::False, "WorkersImage"));
    for words in [
        "2 of 5 workers: the image of container dask of Pod g-worker-b-5d4f9c7b68-x1 can't be pulled: ImagePullBackOff",
        "1 of 5 workers: pods can't be made: “exceeded quota: few”; make room in ResourceQuota few",
        "1 of 5 workers: Pod g-worker-e-5d4f9c7b68-x3 can't be scheduled",
    ] {
        assert!(message.contains(words), "{words} in {message}");
    }
    let (_, reason, message) = available(Reconciler::WorkerGroup, &deployments[..2], &pods[..1]);
    assert_eq!((reason.as_str(), message.as_str()), ("WorkersNotReady", "1 of 2 workers are ready"));
}

#[test]
fn what_ended_or_is_going_is_no_trouble_and_has_no_address() {
    let evicted = json!({"phase": "Failed", "reason": "Evicted", "message": "The node was low on resource: memory."});
    let mut going = pod("g-worker-a", 1, crash_loop());
    going["metadata"]["deletionTimestamp"] = json!("2026-11-22T18:31:00Z");
    let deployments = [deployment("g-worker-a", false, None)];
    for pod in [pod("g-worker-a", 1, evicted.clone()), going] {
        let (_, reason, message) = available(Reconciler::WorkerGroup, &deployments, &[pod]);
        assert_eq!(reason, "WorkersNotReady", "{message}");
    }
    let ended: PodSummary = summarized(&pod("g-worker-a", 1, evicted)).field(SUMMARY).unwrap().unwrap();
    assert_eq!((ended.ips, ended.running_since), (vec![], None));
}

#[test]
fn a_summary_has_what_is_asked_for_and_changes_with_nothing_else() {
    let whole = pod("g-worker-a", 1, container(running(), terminated(1), 1));
    let object = summarized(&whole);
    let summary: PodSummary = object.field(SUMMARY).unwrap().unwrap();
    let expected = PodSummary {
        deployment: Some("g-worker-a".to_owned()),
        ips: vec!["10.244.0.7".to_owned(), "fd00:10::7".to_owned()],
        running_since: epoch_millis("2026-11-22T18:30:09Z"),
        trouble: None,
        server: None,
        has_never_run: false,
    };
    assert_eq!(summary, expected);
    assert!(object.is_controlled_by(&owner_of(&NamespacedName::new("n", "c"))));
    let mut reported = whole;
    reported["metadata"]["resourceVersion"] = json!("713");
    reported["status"]["conditions"][0]["lastProbeTime"] = json!("2026-11-22T18:31:00Z");
    reported["status"]["containerStatuses"][0]["restartCount"] = json!(7);
    let later = summarized(&reported);
    assert_eq!(later.fields.get(SUMMARY).unwrap().get(), object.fields.get(SUMMARY).unwrap().get());
    assert_eq!(later.metadata.resource_version, "713");
}

#[test]
fn a_pod_that_is_not_of_a_deployment_is_of_none() {
    for (path, value) in [
        ("/metadata/ownerReferences", json!([])),
        ("/metadata/ownerReferences/0/kind", json!("StatefulSet")),
        ("/metadata/ownerReferences/0/name", json!("5d4f9c7b68")),
        ("/metadata/labels/pod-template-hash", json!("else")),
    ] {
        let mut pod = pod("g-worker-a", 1, json!({}));
        *pod.pointer_mut(path).unwrap() = value;
        let summary: PodSummary = summarized(&pod).field(SUMMARY).unwrap().unwrap();
        assert_eq!(summary.deployment, None, "{path}");
    }
}
