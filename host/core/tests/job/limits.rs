//! Suspension, deadlines and the end of jobs that have ended.

use std::time::Duration;

use dask_wasm_operator_core::pipeline::Report;
use serde_json::json;

use crate::world::{World, key, simple, with};

#[test]
fn fault_24_a_suspended_job_has_no_children_and_begins_anew_when_resumed() {
    let mut world = World::new(with(simple(), json!({"suspend": true, "backoffLimit": 4})));
    world.settle();
    assert_eq!((world.status(), world.made()), (json!({"jobStatus": "JobCreated"}), (false, false)));
    assert!(world.was_told("JobSuspended: Job suspended, nothing is made until spec.suspend is false."));
    world.edit(|job| job["spec"]["suspend"] = json!(false));
    world.settle();
    assert_eq!((world.job_status().as_str(), world.made()), ("ClusterCreated", (true, true)));
    world.ends("Failed", 1);
    world.wait(30);
    world.runs();
    let uid = world.runner_uid();

    world.edit(|job| job["spec"]["suspend"] = json!(true));
    world.reconcile();
    assert_eq!(world.made(), (true, true), "the status says so first");
    world.settle();
    assert_eq!((world.status(), world.made()), (json!({"jobStatus": "JobCreated"}), (false, false)));
    let annotations = world.get("DaskJob", "simple-job").unwrap()["metadata"]["annotations"].to_string();
    assert!(!annotations.contains("operator.dask.org/"), "failures are forgotten: {annotations}");

    world.edit(|job| job["spec"]["suspend"] = json!(false));
    world.settle();
    assert_eq!((world.job_status().as_str(), world.made()), ("ClusterCreated", (true, true)));
    assert_ne!(world.runner_uid(), uid);
    world.ends("Succeeded", 0);
    world.edit(|job| job["spec"]["suspend"] = json!(true));
    world.settle();
    assert_eq!((world.job_status().as_str(), world.made()), ("Successful", (false, true)), "it has ended");
}

#[test]
fn a_runner_that_failed_before_its_job_was_suspended_fails_the_job() {
    let mut world = World::new(simple());
    world.settle();
    world.edit(|job| job["spec"]["suspend"] = json!(true));
    world.ends("Failed", 1);
    assert_eq!((world.job_status().as_str(), world.made()), ("Failed", (false, true)));
}

#[test]
fn a_job_that_is_suspended_and_resumed_at_once_goes_on() {
    let mut world = World::new(simple());
    world.settle();
    world.runs();
    let uid = world.runner_uid();
    world.edit(|job| job["spec"]["suspend"] = json!(true));
    world.reconcile();
    world.edit(|job| job["spec"]["suspend"] = json!(false));
    world.settle();
    assert_eq!((world.job_status().as_str(), world.runner_uid()), ("Running", uid));
}

#[test]
fn the_end_of_a_pod_that_was_removed_for_a_suspension_is_not_that_of_the_job() {
    let mut world = World::new(with(simple(), json!({"suspend": true})));
    world.settle();
    world.edit(|job| job["spec"]["suspend"] = json!(false));
    world.reconcile();
    world.reconcile();
    // The pod of the time before is on its way out, and its process ended well enough.
    world.cluster.edit(&key("Pod", "simple-job-runner"), |pod| {
        pod["metadata"]["deletionTimestamp"] = json!("2026-11-22T18:31:00Z");
        pod["status"] = json!({"phase": "Succeeded"});
    });
    world.settle();
    assert_eq!(world.status(), json!({"jobStatus": "JobCreated"}));
    world.lose_runner();
    assert_eq!((world.job_status().as_str(), world.made()), ("ClusterCreated", (true, true)));
}

#[test]
fn a_job_is_deleted_some_time_after_its_end() {
    let mut world = World::new(with(simple(), json!({"ttlSecondsAfterFinished": 100})));
    world.settle();
    world.now += 5_000;
    let report = world.ends("Succeeded", 0);
    assert_eq!(report.requeue_after, Some(Duration::from_secs(100)), "counted from 18:30:05");
    world.wait(99);
    assert!(world.get("DaskJob", "simple-job").is_some());
    world.now += 1_000;
    world.reconcile();
    assert!(world.get("DaskJob", "simple-job").is_none() && world.made() == (false, false));
}

#[test]
fn a_job_without_any_time_after_its_end_goes_when_that_is_written() {
    let mut world = World::new(with(simple(), json!({"ttlSecondsAfterFinished": 0})));
    world.settle();
    world.runs();
    world.now += 5_000;
    world.cluster.edit(&key("Pod", "simple-job-runner"), |pod| {
        pod["status"]["phase"] = json!("Succeeded");
        pod["status"]["containerStatuses"][0]["state"] =
            json!({"terminated": {"exitCode": 0, "finishedAt": "2026-11-22T18:30:05Z"}});
    });
    world.reconcile();
    assert!(world.get("DaskJob", "simple-job").is_some(), "its end is not written yet");
    world.publish();
    assert_eq!(world.job_status(), "Successful");
    world.reconcile();
    assert!(world.get("DaskJob", "simple-job").is_none() && world.made() == (false, false));
}

#[test]
fn a_job_that_is_suspended_before_it_runs_begins_anew_when_resumed() {
    let mut world = World::new(simple());
    world.settle();
    assert_eq!(world.job_status(), "ClusterCreated");
    let uid = world.runner_uid();
    world.edit(|job| job["spec"]["suspend"] = json!(true));
    world.settle();
    assert_eq!((world.status(), world.made()), (json!({"jobStatus": "JobCreated"}), (false, false)));
    world.edit(|job| job["spec"]["suspend"] = json!(false));
    world.settle();
    assert_eq!((world.job_status().as_str(), world.made()), ("ClusterCreated", (true, true)));
    assert_ne!(world.runner_uid(), uid);
}

#[test]
fn a_suspension_with_a_restart_before_each_reconcile_is_the_same() {
    let mut world = World::new(with(simple(), json!({"backoffLimit": 2})));
    world.restarts = true;
    world.settle();
    world.runs();
    let uid = world.runner_uid();
    world.edit(|job| job["spec"]["suspend"] = json!(true));
    for _ in 0..2 {
        world.reconcile();
        assert_eq!(world.made(), (true, true), "the status could not be written yet");
    }
    world.settle();
    assert_eq!((world.status(), world.made()), (json!({"jobStatus": "JobCreated"}), (false, false)));
    world.edit(|job| job["spec"]["suspend"] = json!(false));
    world.settle();
    assert_ne!(world.runner_uid(), uid);
    world.runs();
    world.ends("Failed", 1);
    assert_eq!(world.job_status(), "Running", "an attempt before the suspension does not count");
    world.wait(15);
    world.ends("Succeeded", 0);
    assert_eq!((world.job_status().as_str(), world.made()), ("Successful", (false, true)));
}

#[test]
fn the_deadline_counts_while_the_runner_is_pending() {
    let mut world = World::new(with(simple(), json!({"activeDeadlineSeconds": 100})));
    world.settle();
    world.report(json!({"phase": "Pending", "conditions": [
        {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "0/3 nodes are available"}]}));
    world.wait(99);
    assert_eq!((world.job_status().as_str(), world.made()), ("ClusterCreated", (true, true)));
    world.wait(1);
    assert_eq!((world.job_status().as_str(), world.made()), ("Failed", (false, false)));
    assert!(world.was_told("DeadlineExceeded"));
}

#[test]
fn a_job_that_takes_too_long_fails_and_its_runner_is_removed() {
    let mut world = World::new(with(simple(), json!({"activeDeadlineSeconds": 100, "backoffLimit": 9})));
    let report = world.settle();
    assert_eq!(report.requeue_after, Some(Duration::from_secs(100)));
    world.runs();
    world.wait(90);
    let report = world.ends("Failed", 1);
    assert_eq!(report.requeue_after, Some(Duration::from_secs(10)), "the pause is over, a new runner was made");
    world.wait(10);
    let status = json!({"jobStatus": "Failed", "clusterName": "simple-job", "jobRunnerPodName": "simple-job-runner",
        "startTime": "2026-11-22T18:30:02Z", "endTime": "2026-11-22T18:31:40Z"});
    assert_eq!((world.status(), world.made()), (status, (false, false)));
    assert!(
        world
            .was_told("DeadlineExceeded: DaskJob simple-job: it did not end within 100 s (spec.activeDeadlineSeconds)")
    );
}

#[test]
fn the_deadline_may_come_before_the_next_attempt() {
    let mut world = World::new(with(simple(), json!({"activeDeadlineSeconds": 100, "backoffLimit": 9})));
    world.settle();
    world.wait(95);
    assert_eq!(world.lose_runner().requeue_after, Some(Duration::from_secs(5)));
    world.wait(5);
    assert_eq!((world.job_status().as_str(), world.made()), ("Failed", (false, false)));
}

#[test]
fn the_deadline_counts_from_the_last_resumption() {
    let mut world = World::new(with(simple(), json!({"activeDeadlineSeconds": 100, "suspend": true})));
    world.settle();
    world.wait(1_000);
    assert_eq!(world.job_status(), "JobCreated");
    world.edit(|job| job["spec"]["suspend"] = json!(false));
    world.wait(50);
    world.wait(99);
    assert_eq!(world.job_status(), "ClusterCreated");
    world.wait(1);
    assert_eq!((world.job_status().as_str(), world.made()), ("Failed", (false, false)), "also if it never ran");
}

#[test]
fn a_job_that_waits_suspended_says_so_once() {
    let mut world = World::new(with(simple(), json!({"suspend": true})));
    let count = |report: &Report| report.events.iter().filter(|event| event.reason == "JobSuspended").count();
    assert_eq!(count(&world.reconcile()), 1);
    world.publish();
    assert_eq!((0..5).map(|_| count(&world.settle())).sum::<usize>(), 0);
    world.restarts = true;
    assert_eq!(count(&world.settle()), 0, "nobody knows what was said before a restart, and the status is not new");
}
