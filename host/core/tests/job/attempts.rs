//! Runners that fail, are lost or do not start, and those that replace them.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use dask_wasm_operator_core::{
    action::{Action, WriteError, Written},
    dask::{Environment, Handler, Pipeline, Reconciler},
    memory::MemoryCluster,
    native::Native as _,
    object::Object,
    pipeline::SubjectState,
    ports::{Pending, Writes},
    scheduler::Replies,
    wanted::{Findings, Snapshot},
};
use serde_json::{Value, json};

use crate::world::{START, World, key, now, simple, with};

/// A cluster in memory whose quota of a kind is used up.
struct UsedUp<'a>(&'a MemoryCluster, &'static str);

impl Writes for UsedUp<'_> {
    fn write(&self, action: Action) -> Pending<'_, Result<Written, WriteError>> {
        if action.object().kind.kind != self.1 {
            return self.0.write(action);
        }
        let (object, reason) = (action.object().clone(), "Forbidden".to_owned());
        let message = "exceeded quota: pods, requested: pods=1, used: pods=4, limited: pods=4".to_owned();
        Box::pin(std::future::ready(Err(WriteError::Refused {
            object,
            code: 403,
            reason,
            message,
            fields: Vec::new(),
        })))
    }
}

#[test]
fn a_runner_that_is_lost_fails_the_job() {
    let mut world = World::new(simple());
    world.settle();
    world.runs();
    world.now += 60_000;
    world.lose_runner();
    let status = json!({"jobStatus": "Failed", "clusterName": "simple-job", "jobRunnerPodName": "simple-job-runner",
        "startTime": "2026-11-22T18:30:02Z", "endTime": "2026-11-22T18:31:00Z"});
    assert_eq!((world.status(), world.made()), (status, (false, false)));
    assert!(world.was_told("RunnerLost: DaskJob simple-job: Pod simple-job-runner was deleted before it ended"));
}

#[test]
fn a_runner_that_is_evicted_fails_the_job_and_names_the_reason() {
    let mut world = World::new(simple());
    world.settle();
    world.report(json!({"phase": "Failed", "reason": "Evicted", "message": "The node was low on resource: memory."}));
    assert_eq!((world.job_status().as_str(), world.made()), ("Failed", (false, true)));
    assert!(world.was_told("Evicted: “The node was low on resource: memory."));
}

#[test]
fn a_runner_that_vanished_from_our_watches_may_have_ended_or_only_lost_a_label() {
    let mut world = World::new(simple());
    world.settle();
    world.runs();
    let subject = Arc::new(Object::from_value(&world.get("DaskJob", "simple-job").unwrap()).unwrap());
    for (phase, status, wants_runner) in
        [("Succeeded", "Successful", false), ("Failed", "Failed", false), ("Running", "Running", true)]
    {
        let mut runner = world.runner().unwrap();
        runner["status"]["phase"] = json!(phase);
        let seen = Snapshot {
            subject: Arc::clone(&subject),
            children: Vec::new().into(),
            departed: vec![Arc::new(Object::from_value(&runner).unwrap())],
            related: BTreeMap::new(),
            outdated: None,
            replies: Replies::default(),
            known_fields: Arc::default(),
            facts: Value::Null,
            now: START,
        };
        let wanted = Reconciler::Job.reconcile(&seen, &Environment::default());
        let wants = wanted.children.unwrap().iter().any(|child| child.key == "runner");
        assert_eq!(wants, wants_runner, "{phase}");
        assert_eq!(Reconciler::Job.status(&seen, &Findings::default())["jobStatus"], status, "{phase}");
    }
}

#[test]
fn a_runner_that_a_quota_refuses_is_tried_again() {
    let mut world = World::new(simple());
    let mut state = SubjectState::default();
    let (job, at) = (Handler::Native(Reconciler::Job), World::at());
    let refusing = UsedUp(&world.cluster, "Pod");
    let pipeline = Pipeline::new(&world.cluster, &refusing, &world.environment);
    now(pipeline.reconcile(&job, &at, &mut state, START));
    let report = now(pipeline.reconcile(&job, &at, &mut state, START));
    now(pipeline.publish(Reconciler::Job, &at, state.found().as_ref(), START)).unwrap();
    let problem = &report.findings.problems[0];
    assert_eq!((&*problem.reason, problem.permanent), ("Forbidden", false));
    assert!(
        problem.message.contains("exceeded quota") && problem.message.contains("make room in ResourceQuota pods"),
        "{}",
        problem.message
    );
    assert!(report.retry.is_some());
    assert_eq!(world.status(), json!({"jobStatus": "JobCreated"}));
    world.settle();
    assert_eq!((world.job_status().as_str(), world.made()), ("ClusterCreated", (true, true)));
}

#[test]
fn a_job_whose_cluster_is_refused_is_not_begun_and_tried_again() {
    let mut world = World::new(simple());
    let mut state = SubjectState::default();
    let (job, at) = (Handler::Native(Reconciler::Job), World::at());
    let refusing = UsedUp(&world.cluster, "DaskCluster");
    let pipeline = Pipeline::new(&world.cluster, &refusing, &world.environment);
    for _ in 0..2 {
        let report = now(pipeline.reconcile(&job, &at, &mut state, START));
        now(pipeline.publish(Reconciler::Job, &at, state.found().as_ref(), START)).unwrap();
        let problem = &report.findings.problems[0];
        assert!(
            problem.message.contains("exceeded quota") && problem.message.contains("make room in ResourceQuota pods"),
            "{problem}"
        );
        assert_eq!((world.made(), world.status()), ((false, false), json!({"jobStatus": "JobCreated"})));
        assert!(report.retry.is_some());
    }
    world.settle();
    assert_eq!((world.job_status().as_str(), world.made()), ("ClusterCreated", (true, true)));
}

#[test]
fn without_attempts_the_first_failure_is_the_last() {
    for end in ["failed", "lost"] {
        let mut world = World::new(with(simple(), json!({"backoffLimit": 0})));
        world.settle();
        world.runs();
        if end == "failed" {
            world.ends("Failed", 1)
        } else {
            world.lose_runner()
        };
        assert_eq!((world.job_status().as_str(), world.made()), ("Failed", (false, end == "failed")), "{end}");
    }
}

#[test]
fn trouble_that_may_pass_is_told_with_its_remedy_and_ends_nothing() {
    let waiting = |reason: &str| {
        json!({"phase": "Pending", "containerStatuses": [
            {"name": "job", "state": {"waiting": {"reason": reason, "message": "words"}}}]})
    };
    let condition = |reason: &str| {
        json!({"phase": "Pending", "conditions": [
            {"type": "PodScheduled", "status": "False", "reason": reason, "message": "0/3 nodes are available"}]})
    };
    let troubles = [
        (condition("Unschedulable"), "RunnerUnschedulable", "0/3 nodes are available”; ask for less in spec.job.spec"),
        (waiting("ImagePullBackOff"), "RunnerImage", "imagePullSecrets in spec.job.spec"),
        (waiting("CreateContainerConfigError"), "RunnerNotStarting", "correct spec.job.spec"),
        (waiting("CrashLoopBackOff"), "RunnerCrashLoop", "spec.backoffLimit"),
    ];
    let mut world = World::new(simple());
    world.settle();
    for (status, reason, words) in troubles {
        let report = world.report(status);
        let problem = report.findings.problems.first().unwrap_or_else(|| panic!("{reason} is not told"));
        assert_eq!((&*problem.reason, problem.permanent), (reason, false));
        assert!(problem.message.contains(words), "{}", problem.message);
        assert_eq!((world.job_status().as_str(), world.made()), ("ClusterCreated", (true, true)), "{reason}");
    }
    for fine in [waiting("ContainerCreating"), condition("SchedulingGated"), json!({"phase": "Running"})] {
        assert!(world.report(fine.clone()).findings.problems.is_empty(), "{fine}");
    }
    world.cluster.edit(&key("Pod", "simple-job-runner"), |pod| {
        pod["metadata"]["deletionTimestamp"] = json!("2026-11-22T18:31:00Z");
    });
    assert_eq!(world.settle().findings.problems[0].reason, "RunnerTerminating");
    assert_eq!(world.job_status(), "Running");
}

#[test]
fn failed_runners_are_replaced_up_to_the_limit_with_growing_pauses() {
    let mut world = World::new(with(simple(), json!({"backoffLimit": 2})));
    world.settle();
    let mut uid = world.runner_uid();
    for (failure, pause) in [(1, 10), (2, 20)] {
        world.runs();
        world.now = START + 5_000;
        let report = world.ends("Failed", 1);
        assert_eq!(report.requeue_after, Some(Duration::from_secs(pause)));
        assert_eq!((world.job_status().as_str(), world.made()), ("Running", (true, true)), "its log can be read");
        assert!(world.was_told(&format!("(failure {failure}, spec.backoffLimit 2); the next attempt begins at")));
        world.wait(pause - 1);
        assert_eq!(world.runner_uid(), uid);
        world.wait(1);
        let next = world.runner_uid();
        assert_ne!(next, uid, "another pod of the same name");
        uid = next;
        let annotations = world.get("DaskJob", "simple-job").unwrap()["metadata"]["annotations"].clone();
        assert_eq!(annotations["operator.dask.org/failed-attempts"], failure.to_string());
    }
    world.ends("Failed", 1);
    assert_eq!((world.job_status().as_str(), world.made()), ("Failed", (false, true)));
    assert_eq!(world.status()["startTime"], "2026-11-22T18:30:02Z");
}

#[test]
fn lost_runners_count_like_failed_ones() {
    let mut world = World::new(with(simple(), json!({"backoffLimit": 1})));
    world.settle();
    world.lose_runner();
    assert_eq!((world.job_status().as_str(), world.made()), ("ClusterCreated", (true, false)));
    world.wait(10);
    assert_eq!(world.made(), (true, true));
    world.lose_runner();
    assert_eq!((world.job_status().as_str(), world.made()), ("Failed", (false, false)));
}

#[test]
fn the_failure_is_recorded_before_the_pod_is_replaced() {
    let mut world = World::new(with(simple(), json!({"backoffLimit": 3})));
    world.settle();
    world.ends("Failed", 1);
    // A crash after the failed pod was deleted, however often: it is one failure.
    world.restarts = true;
    world.lose_runner();
    world.settle();
    let annotations = world.get("DaskJob", "simple-job").unwrap()["metadata"]["annotations"].clone();
    assert_eq!(annotations["operator.dask.org/failed-attempts"], "1");
    assert_eq!(world.made(), (true, false));
    world.wait(60);
    assert_eq!(world.made(), (true, true));
}

#[test]
fn restarts_of_containers_count_only_with_a_limit_and_on_failure() {
    let restarted = |count: u32| {
        json!({"phase": "Running", "containerStatuses": [{"name": "job", "restartCount": count,
            "state": {"waiting": {"reason": "CrashLoopBackOff"}},
            "lastState": {"terminated": {"exitCode": 9, "reason": "Error"}}}]})
    };
    for (limit, policy, restarts, expected) in [
        (None, "OnFailure", 50, "Running"),
        (Some(0), "OnFailure", 0, "Running"),
        (Some(0), "OnFailure", 1, "Failed"),
        (Some(3), "OnFailure", 3, "Running"),
        (Some(3), "OnFailure", 4, "Failed"),
        (Some(3), "Always", 4, "Running"),
    ] {
        let mut job = simple();
        job["spec"]["job"]["spec"]["restartPolicy"] = json!(policy);
        if let Some(limit) = limit {
            job["spec"]["backoffLimit"] = json!(limit);
        }
        let mut world = World::new(job);
        world.settle();
        world.report(restarted(restarts));
        let is_over = expected == "Failed";
        assert_eq!(world.job_status(), expected, "limit {limit:?}, {policy}, {restarts} restarts");
        assert_eq!(world.made(), (!is_over, !is_over), "a runner that has not ended is removed");
        assert_eq!(world.was_told("BackoffLimitExceeded"), is_over);
    }
}

#[test]
fn a_cluster_that_was_shut_down_for_idleness_stays_away_until_the_next_attempt() {
    let mut job = with(simple(), json!({"backoffLimit": 1}));
    job["spec"]["cluster"]["spec"]["idleTimeout"] = json!(60);
    let mut world = World::new(job);
    world.settle();
    world.runs();
    world.cluster.delete(&key("DaskCluster", "simple-job"));
    world.settle();
    assert_eq!((world.made(), world.job_status().as_str()), ((false, true), "Running"));
    world.ends("Failed", 1);
    world.wait(60);
    assert_eq!(world.made(), (true, true), "a new runner needs a cluster");
    world.cluster.delete(&key("DaskCluster", "simple-job"));
    world.settle();
    assert_eq!(world.made(), (false, true));
    world.ends("Succeeded", 0);
    assert_eq!(world.job_status(), "Successful");
}
