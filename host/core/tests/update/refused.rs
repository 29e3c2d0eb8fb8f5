//! What the API server refuses, and what is said about it.

use dask_wasm_operator_core::{action::WriteError, conflict::Conflict, dask::Reconciler};
use serde_json::json;

use crate::world::{World, cluster, rolling};

/// A server words one refusal anew at each attempt, and says between two that it could not look.
#[test]
fn the_same_refusal_in_other_words_is_told_once_and_writes_nothing() {
    let mut world = World::new([cluster(1, json!(null))]);
    let quota = |used: u32| {
        format!("deployments.apps \"c-scheduler\" is forbidden: exceeded quota: q, requested: cpu=1, used: cpu={used}")
    };
    world.kubernetes.refuse("c-scheduler", &quota(0));
    world.reconcile(Reconciler::Cluster);
    world.reconcile(Reconciler::Cluster);
    assert_eq!(world.events, ["Refused"]);
    let told = world.condition("DaskCluster", "c", "Degraded").2;
    let mut known = world.reconcile(Reconciler::Cluster).findings.problems;
    world.kubernetes.cluster.take_written();
    for attempt in 1..40 {
        match attempt % 4 {
            0 => world.kubernetes.fail("c-scheduler", move |object| WriteError::Stale {
                object: object.clone(),
                message: format!("the object has been modified; version {attempt}"),
            }),
            1 => world.kubernetes.fail("c-scheduler", |_| WriteError::NotLeader),
            _ => world.kubernetes.refuse("c-scheduler", &quota(attempt)),
        }
        if attempt % 8 == 2 {
            world.restart();
            known = Vec::new();
        }
        let problems = world.reconcile(Reconciler::Cluster).findings.problems;
        assert!(
            known.iter().all(|known| known.is_among(&problems)),
            "what was not looked at is as it was: {problems:?}"
        );
        known = problems;
    }
    assert_eq!(world.kubernetes.cluster.take_written(), []);
    assert_eq!(world.condition("DaskCluster", "c", "Degraded").2, told, "in the words in which it was told first");

    world
        .kubernetes
        .refuse("c-scheduler", "Deployment \"c-scheduler\" is invalid: spec.template.spec.restartPolicy: Unsupported");
    world.reconcile(Reconciler::Cluster);
    world
        .kubernetes
        .refuse("c-scheduler", "Deployment \"c-scheduler\" is invalid: spec.template.spec.dnsPolicy: Unsupported");
    world.reconcile(Reconciler::Cluster);
    assert_eq!(world.events, ["Refused"; 3], "another field is another problem");
}

#[test]
fn a_changed_service_is_applied() {
    let mut world = World::settled(cluster(1, json!(null)));
    world.edit("DaskCluster", "c", |cluster| {
        cluster["spec"]["scheduler"]["service"] =
            json!({"type": "NodePort", "ports": [{"name": "tcp-comm", "port": 1}]});
    });
    world.settle();
    let spec = world.value("Service", "c-scheduler")["spec"].clone();
    assert_eq!(spec, json!({"type": "NodePort", "ports": [{"name": "tcp-comm", "port": 1}]}));
}

/// The words are those of Kubernetes 1.36.
#[test]
fn the_remedy_for_a_field_that_can_not_change_is_named() {
    for words in [
        r#"Service "c-scheduler" is invalid: spec.clusterIPs[0]: Invalid value: ["None"]: may not change once set"#,
        r#"Service "c-scheduler" is invalid: spec.healthCheckNodePort: Invalid value: 1: field is immutable"#,
    ] {
        let mut world = World::settled(cluster(1, json!(null)));
        world.kubernetes.refuse("Service", words);
        world.edit("DaskCluster", "c", |cluster| {
            cluster["spec"]["scheduler"]["service"]["clusterIP"] = json!("None");
        });
        world.reconcile(Reconciler::Cluster);
        let (_, reason, message) = world.condition("DaskCluster", "c", "Degraded");
        assert_eq!(reason, "Refused");
        for part in
            [words, "delete it to have it recreated", "or undo the change in spec.scheduler.service of DaskCluster c"]
        {
            assert!(message.contains(part), "{message}");
        }
        assert_eq!(world.value("DaskCluster", "c")["status"]["phase"], "Running");

        world.kubernetes.accept();
        world.kubernetes.cluster.delete(&world.key("Service", "c-scheduler"));
        world.settle();
        assert_eq!(world.value("Service", "c-scheduler")["spec"]["clusterIP"], "None");
        assert_eq!(world.condition("DaskCluster", "c", "Degraded").0, "False");
    }
}

#[test]
fn a_name_that_the_api_server_refuses_is_an_error_of_the_cluster() {
    let mut world = World::new([cluster(1, json!(null))]);
    let words = r#"Service "0-scheduler" is invalid: metadata.name: Invalid value: "0-scheduler": a DNS-1035 label must start with an alphabetic character"#;
    world.kubernetes.refuse("Service", words);
    world.reconcile(Reconciler::Cluster);
    let (_, reason, message) = world.condition("DaskCluster", "c", "Degraded");
    assert_eq!(reason, "InvalidName");
    assert!(message.contains("recreate it under another name"), "{message}");
    assert_eq!(world.value("DaskCluster", "c")["status"]["phase"], "Error");
}

#[test]
fn a_worker_whose_change_is_refused_keeps_no_others_from_going() {
    for at in 0..4 {
        let mut world = World::settled(cluster(4, json!(null)));
        let refused = world.workers()[at].metadata.name.clone();
        world.kubernetes.refuse(&refused, "admission webhook \"labels\" denied the request");
        world.edit("DaskWorkerGroup", "c-default", |group| {
            group["metadata"]["labels"]["team"] = json!("a");
            group["spec"]["worker"]["replicas"] = json!(2);
        });
        for _ in 0..10 {
            world.reconcile(Reconciler::WorkerGroup);
        }
        assert_eq!((world.workers().len(), world.retired.len()), (2, 2));
    }
}

#[test]
fn what_a_quota_refuses_keeps_no_outdated_worker_from_going() {
    let mut world = World::settled(cluster(3, rolling(json!(1), json!(1))));
    world.set_image("worker", "new");
    world.reconcile(Reconciler::Cluster);
    world.kubernetes.refuse("Deployment", "exceeded quota: few");
    for _ in 0..10 {
        world.reconcile(Reconciler::WorkerGroup);
    }
    assert_eq!((world.workers().len(), world.retired.len()), (2, 1));
}

#[test]
fn nothing_is_told_to_a_scheduler_that_could_not_be_recorded() {
    let mut world = World::settled(cluster(3, json!(null)));
    world.edit("DaskWorkerGroup", "c-default", |group| group["spec"]["worker"]["replicas"] = json!(2));
    world.kubernetes.refuse("DaskWorkerGroup", "admission webhook \"groups\" denied the request");
    for _ in 0..10 {
        world.reconcile(Reconciler::WorkerGroup);
    }
    assert_eq!((world.workers().len(), world.retired.len()), (3, 0));
}

/// Its pods may have run under an earlier template.
#[test]
fn a_scheduler_that_does_not_start_after_a_change_is_none_that_never_ran() {
    for (revision, left) in [("1", 1), ("2", 2)] {
        let mut world = World::new([cluster(2, json!(null))]);
        world.kubernetes.start_slowly();
        world.reachable = false;
        world.settle();
        world.workers().iter().for_each(|worker| world.kubernetes.set_ready(worker, true));
        world.edit("Deployment", "c-scheduler", |scheduler| {
            scheduler["metadata"]["annotations"]["deployment.kubernetes.io/revision"] = json!(revision);
        });
        world.edit("DaskWorkerGroup", "c-default", |group| group["spec"]["worker"]["replicas"] = json!(1));
        world.settle();
        assert_eq!(world.workers().len(), left, "revision {revision}");
    }
}

/// What is wrong, how it is told, and what happens when the remedy is carried out.
#[test]
fn each_problem_of_a_write_is_told_and_clears_when_its_cause_is_gone() {
    type Fail = fn(&World);
    let cases: [(&str, Fail, &str); 4] = [
        (
            "Forbidden",
            |world| {
                world.kubernetes.fail("c-scheduler", |object| WriteError::Refused {
                    object: object.clone(),
                    code: 403,
                    reason: "Forbidden".to_owned(),
                    message: "exceeded quota: few, requested: count/services=1, used: count/services=1".to_owned(),
                    fields: Vec::new(),
                });
            },
            "make room in ResourceQuota few, or raise it",
        ),
        (
            "FieldConflict",
            |world| {
                world.kubernetes.fail("c-scheduler", |object| WriteError::Conflict {
                    object: object.clone(),
                    conflicts: vec![Conflict::new(
                        object,
                        &json!({"spec": {"type": "x"}}),
                        ".spec.type",
                        "kubectl",
                        "",
                    )],
                });
            },
            "kubectl",
        ),
        (
            "ApiUnavailable",
            |world| {
                world.kubernetes.fail("c-scheduler", |object| WriteError::Unavailable {
                    object: object.clone(),
                    verb: "apply",
                    message: "no endpoints available for the webhook".to_owned(),
                });
            },
            "could not be asked",
        ),
        ("KindNotServed", |world| world.kubernetes.unserved(Some("Service")), "install its CustomResourceDefinition"),
    ];
    for (expected, fail, words) in cases {
        let mut world = World::new([cluster(1, json!(null))]);
        fail(&world);
        (0..3).for_each(|_| drop(world.reconcile(Reconciler::Cluster)));
        let (status, reason, message) = world.condition("DaskCluster", "c", "Degraded");
        assert_eq!((status.as_str(), reason.as_str()), ("True", expected), "{message}");
        assert!(message.contains(words), "{message}");
        assert_eq!(world.events, [expected]);
        world.kubernetes.accept();
        world.kubernetes.unserved(None);
        world.settle();
        assert_eq!(world.condition("DaskCluster", "c", "Degraded").0, "False");
    }
}

/// Of a group that its cluster has made, the cluster says what the group does.
#[test]
fn a_problem_of_the_default_group_is_one_of_its_cluster_until_it_is_gone() {
    let mut world = World::settled(cluster(1, json!(null)));
    let words = "Deployment \"w\" is invalid: spec.template.spec.restartPolicy: Unsupported value: \"Never\"";
    world.kubernetes.refuse("Deployment", words);
    world.edit("DaskWorkerGroup", "c-default", |group| group["spec"]["worker"]["replicas"] = json!(2));
    world.reconcile(Reconciler::WorkerGroup);
    world.reconcile(Reconciler::Cluster);
    let (_, reason, message) = world.condition("DaskCluster", "c", "Degraded");
    assert_eq!(reason, "WorkerGroupDegraded");
    assert_eq!(message, world.condition("DaskWorkerGroup", "c-default", "Degraded").2);
    assert!(message.ends_with("correct spec.worker.spec.restartPolicy of DaskCluster c"), "{message}");
    world.kubernetes.accept();
    world.settle();
    world.reconcile(Reconciler::Cluster);
    assert_eq!(world.condition("DaskCluster", "c", "Degraded").0, "False");
}

#[test]
fn a_service_that_leads_elsewhere_is_told_until_it_is_corrected() {
    let mut misdirected = cluster(1, json!(null));
    misdirected["spec"]["scheduler"]["service"]["selector"] =
        json!({"dask.org/cluster-name": "simple-job", "dask.org/component": "scheduler"});
    let mut world = World::new([misdirected]);
    world.settle();
    let (_, reason, message) = world.condition("DaskCluster", "c", "Degraded");
    assert_eq!(reason, "ServiceMisdirected");
    assert!(message.ends_with("correct spec.scheduler.service.selector of DaskCluster c"), "{message}");
    assert_eq!(world.value("DaskCluster", "c")["status"]["phase"], "Running", "clients wait for it");
    world.edit("DaskCluster", "c", |cluster| {
        cluster["spec"]["scheduler"]["service"]["selector"]["dask.org/cluster-name"] = json!("c");
    });
    world.settle();
    assert_eq!(world.condition("DaskCluster", "c", "Degraded").0, "False");
    assert_eq!(world.events, ["ServiceMisdirected"]);
}
