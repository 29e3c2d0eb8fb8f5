//! What a job makes, how it ends, what is repaired and what is left alone.

use dask_wasm_operator_core::{
    dask::{Handler, Reconciler},
    object::NamespacedName,
    pipeline::SubjectState,
    ports::Observed,
    schema::{KnownFields, Schema},
};
use serde_json::json;

use crate::world::{START, World, golden, key, now, simple, with};

#[test]
fn the_objects_are_those_of_the_python_operator() {
    let mut world = World::new(simple());
    world.settle();
    let pairs = [("jobpod", world.runner().unwrap()), ("jobcluster", world.get("DaskCluster", "simple-job").unwrap())];
    for (name, mut ours) in pairs {
        let theirs = &golden()[name];
        for field in ["uid", "resourceVersion", "generation", "creationTimestamp"] {
            ours["metadata"].as_object_mut().unwrap().remove(field);
        }
        ours["metadata"]["ownerReferences"][0]["uid"] = theirs["metadata"]["ownerReferences"][0]["uid"].clone();
        let annotations = ours["metadata"]["annotations"].as_object_mut().unwrap();
        annotations.retain(|key, _| !key.starts_with("operator.dask.org/"));
        assert_eq!(ours, *theirs, "{name}");
    }
}

#[test]
fn metadata_idle_timeout_environment_and_newer_fields_arrive() {
    let mut job = simple();
    job["metadata"]["labels"] = json!({"team": "a"});
    job["spec"]["cluster"]["metadata"] = json!({"labels": {"on": "cluster"}, "annotations": {"note": "cluster"}});
    job["spec"]["cluster"]["spec"]["idleTimeout"] = json!(300);
    job["spec"]["cluster"]["spec"]["fieldOfTheFuture"] = json!([1]);
    job["spec"]["job"]["metadata"] = json!({"labels": {"on": "runner", "sidecar.istio.io/inject": "true"}});
    job["spec"]["job"]["spec"]["fieldOfTheFuture"] = json!([1]);
    job["spec"]["job"]["spec"]["containers"][0]["env"] = json!([{"name": "DASK_SCHEDULER_ADDRESS", "value": "mine"}]);
    let mut world = World::new(job);
    world.environment.cluster_domain = "example.org".to_owned();
    world.settle();
    let cluster = world.get("DaskCluster", "simple-job").unwrap();
    let labels = &cluster["metadata"]["labels"];
    assert_eq!(labels, &json!({"team": "a", "on": "cluster", "dask.org/cluster-name": "simple-job"}));
    assert_eq!(cluster["metadata"]["annotations"]["note"], "cluster");
    assert_eq!((&cluster["spec"]["idleTimeout"], &cluster["spec"]["fieldOfTheFuture"]), (&json!(300), &json!([1])));
    let runner = world.runner().unwrap();
    let label = |name: &str| runner["metadata"]["labels"][name].clone();
    assert_eq!((label("team"), label("on")), (json!("a"), json!("runner")));
    assert_eq!(label("sidecar.istio.io/inject"), "true", "the sidecar is off unless somebody asks for it");
    assert_eq!(runner["spec"]["fieldOfTheFuture"], json!([1]));
    let env = json!([{"name": "DASK_SCHEDULER_ADDRESS", "value": "mine"}]);
    assert_eq!(runner["spec"]["containers"][0]["env"], env);
}

#[test]
fn a_job_that_succeeds() {
    let mut world = World::new(simple());
    let first = world.reconcile();
    assert_eq!(world.made(), (true, false), "the runner is made when its cluster is there");
    world.reconcile();
    assert_eq!(world.made(), (true, true));
    assert!(first.events[0].message.starts_with("A DaskJob has been created called simple-job in ns1."));
    world.publish();
    let mut expected =
        json!({"jobStatus": "ClusterCreated", "clusterName": "simple-job", "jobRunnerPodName": "simple-job-runner"});
    assert_eq!(world.status(), expected);

    world.runs();
    expected["jobStatus"] = json!("Running");
    expected["startTime"] = json!("2026-11-22T18:30:02Z");
    assert_eq!(world.status(), expected);

    world.ends("Succeeded", 0);
    expected["jobStatus"] = json!("Successful");
    expected["endTime"] = json!("2026-11-22T18:30:05Z");
    assert_eq!(world.status(), expected);
    assert_eq!(world.made(), (false, true), "the pod stays for its log");
    assert_eq!(world.times_told("Job succeeded, deleting Dask cluster."), 1);

    world.lose_runner();
    assert_eq!((world.status(), world.made()), (expected, (false, false)), "what ended stays ended");
    assert_eq!(world.times_told("A DaskJob has been created"), 1);
}

#[test]
fn a_job_whose_running_was_never_seen_has_both_times() {
    for (phase, exit_code, expected) in [("Succeeded", 0, "Successful"), ("Failed", 3, "Failed")] {
        let mut world = World::new(simple());
        world.settle();
        world.ends(phase, exit_code);
        let status = json!({"jobStatus": expected, "clusterName": "simple-job", "jobRunnerPodName": "simple-job-runner",
            "startTime": "2026-11-22T18:30:02Z", "endTime": "2026-11-22T18:30:05Z"});
        assert_eq!(world.status(), status);
        assert_eq!(world.made(), (false, true));
    }
}

#[test]
fn a_job_that_fails_says_why() {
    let mut world = World::new(simple());
    world.settle();
    world.runs();
    let report = world.ends("Failed", 3);
    assert_eq!((world.job_status().as_str(), world.made()), ("Failed", (false, true)));
    assert!(world.was_told(
        "RunnerFailed: DaskJob simple-job: Pod simple-job-runner failed: container job ended with exit code 3"
    ));
    assert_eq!(world.times_told("Job failed, deleting Dask cluster."), 1);
    assert!(report.findings.problems.is_empty() && report.requeue_after.is_none(), "told once, then it is left alone");
    let annotations = world.get("DaskJob", "simple-job").unwrap()["metadata"]["annotations"].to_string();
    assert!(!annotations.contains("operator.dask.org/"), "nothing is recorded without need: {annotations}");
}

#[test]
fn fault_11_the_end_is_written_before_anything_is_deleted() {
    let mut world = World::new(simple());
    world.settle();
    world.runs();
    world.cluster.edit(&key("Pod", "simple-job-runner"), |pod| pod["status"]["phase"] = json!("Succeeded"));
    for _ in 0..3 {
        let report = world.reconcile();
        assert_eq!(world.made(), (true, true), "the status could not be written yet");
        assert!(report.requeue_after.is_some(), "it is looked at again");
    }
    world.publish();
    assert_eq!((world.job_status().as_str(), world.made()), ("Successful", (true, true)));
    world.reconcile();
    assert_eq!(world.made(), (false, true));
}

#[test]
fn a_life_with_a_restart_before_each_reconcile_is_the_same() {
    let mut world = World::new(with(simple(), json!({"backoffLimit": 1, "activeDeadlineSeconds": 3600})));
    world.restarts = true;
    world.settle();
    world.runs();
    let first = world.runner_uid();
    world.ends("Failed", 1);
    assert_eq!((world.job_status().as_str(), world.runner_uid()), ("Running", first.clone()));
    world.wait(5 + 10);
    assert_ne!(world.runner_uid(), first);
    world.runs();
    world.ends("Succeeded", 0);
    assert_eq!((world.job_status().as_str(), world.made()), ("Successful", (false, true)));
}

#[test]
fn the_runner_keeps_its_spec_and_gets_its_labels_back() {
    let mut world = World::new(simple());
    world.settle();
    world.runs();
    // A webhook changed the image when the pod was made; that is its field from then on.
    let pod = key("Pod", "simple-job-runner");
    world.cluster.edit(&pod, |pod| pod["spec"]["containers"][0]["image"] = json!("mirror/dask"));
    world.cluster.edit(&pod, |pod| pod["metadata"]["labels"]["dask.org/component"] = json!("edited"));
    world.restarts = true;
    world.settle();
    let runner = world.runner().unwrap();
    assert_eq!(runner["metadata"]["labels"]["dask.org/component"], "job-runner");
    assert_eq!(runner["spec"]["containers"][0]["image"], "mirror/dask");

    world.edit(|job| job["spec"]["job"]["spec"]["containers"][0]["image"] = json!("new"));
    let report = world.settle();
    let problem = &report.findings.problems[0];
    assert_eq!((&*problem.reason, problem.permanent), ("TemplateOutdated", false));
    assert!(problem.message.contains("spec.suspend"), "{}", problem.message);
    assert_eq!(world.runner().unwrap()["spec"], runner["spec"]);

    world.edit(|job| job["metadata"]["labels"] = json!({"team": "a"}));
    world.edit(|job| job["spec"]["job"]["spec"]["containers"][0]["image"] = json!("dask-kubernetes:dev"));
    world.settle();
    assert_eq!(world.runner().unwrap()["metadata"]["labels"]["team"], "a", "labels are propagated");
}

#[test]
fn a_changed_cluster_of_a_job_is_changed_and_a_deleted_one_is_made_anew() {
    let mut world = World::new(simple());
    world.settle();
    world.runs();
    world.edit(|job| job["spec"]["cluster"]["spec"]["worker"]["replicas"] = json!(7));
    world.settle();
    assert_eq!(world.get("DaskCluster", "simple-job").unwrap()["spec"]["worker"]["replicas"], 7);
    world.cluster.delete(&key("DaskCluster", "simple-job"));
    world.settle();
    assert_eq!(world.made(), (true, true));
}

/// `kubectl scale daskcluster` and all that writes the same field.
#[test]
fn a_scaled_cluster_of_a_job_stays_so_until_the_job_asks_for_another_number() {
    let mut world = World::new(simple());
    world.settle();
    world.runs();
    let replicas =
        |world: &World| world.get("DaskCluster", "simple-job").unwrap()["spec"]["worker"]["replicas"].clone();
    world.cluster.edit(&key("DaskCluster", "simple-job"), |cluster| cluster["spec"]["worker"]["replicas"] = json!(5));
    for restarts in [false, true] {
        world.restarts = restarts;
        world.settle();
        assert_eq!(replicas(&world), 5);
    }
    world.edit(|job| job["metadata"]["labels"] = json!({"team": "a"}));
    world.settle();
    assert_eq!(replicas(&world), 5);
    world.edit(|job| job["spec"]["cluster"]["spec"]["worker"]["replicas"] = json!(4));
    world.settle();
    assert_eq!(replicas(&world), 4);
}

#[test]
fn a_cluster_that_was_scaled_before_a_takeover_stays_so() {
    let mut job = simple();
    job["metadata"]["annotations"]["kopf.zalando.org/last-handled-configuration"] =
        json!(json!({"spec": job["spec"]}).to_string());
    let mut world = World::new(job);
    world.settle();
    world.runs();
    let cluster = key("DaskCluster", "simple-job");
    let mut live = world.get("DaskCluster", "simple-job").unwrap();
    live["spec"]["worker"]["replicas"] = json!(5);
    live["metadata"]["annotations"] = json!({});
    world.cluster.forget_apply(&cluster, "dask-operator/job");
    world.cluster.edit(&cluster, |object| *object = live);
    world.restarts = true;
    world.settle();
    let cluster = world.get("DaskCluster", "simple-job").unwrap();
    assert_eq!(cluster["spec"]["worker"]["replicas"], 5);
    assert_eq!(cluster["metadata"]["annotations"]["test-annotation"], "annotation-value", "it is ours by now");
}

#[test]
fn a_job_does_not_begin_on_a_cluster_that_is_not_its_own() {
    let mut world = World::new(simple());
    let foreign = key("DaskCluster", "simple-job");
    let stranger = json!({"apiVersion": "kubernetes.dask.org/v1", "kind": "DaskCluster",
        "metadata": {"name": "simple-job", "namespace": "ns1"}, "spec": {"whose": "another's"}});
    world.cluster.create(stranger).unwrap();
    let report = world.settle();
    let problem = &report.findings.problems[0];
    assert_eq!((&*problem.reason, problem.waits_for.as_ref()), ("ForeignObject", Some(&foreign)));
    assert_eq!((world.made(), world.status()), ((true, false), json!({"jobStatus": "JobCreated"})));
    assert_eq!(world.get("DaskCluster", "simple-job").unwrap()["spec"], json!({"whose": "another's"}));
    world.cluster.delete(&foreign);
    world.settle();
    assert_eq!((world.job_status().as_str(), world.made()), ("ClusterCreated", (true, true)));
}

#[test]
fn a_job_does_not_begin_before_its_former_cluster_is_gone() {
    let mut world = World::new(simple());
    world.reconcile();
    let cluster = key("DaskCluster", "simple-job");
    world.cluster.edit(&cluster, |object| object["metadata"]["deletionTimestamp"] = json!("2026-11-22T18:31:00Z"));
    world.settle();
    assert_eq!((world.made(), world.job_status().as_str()), ((true, false), "JobCreated"));
    world.cluster.delete(&cluster);
    world.settle();
    assert_eq!(world.made(), (true, true));
}

#[test]
fn bad_input_is_named_and_nothing_is_made() {
    let mut long = simple();
    long["metadata"]["name"] = json!("x".repeat(54));
    let negative = with(simple(), json!({"backoffLimit": -1}));
    let text = with(simple(), json!({"ttlSecondsAfterFinished": "1h"}));
    let mut no_worker = simple();
    no_worker["spec"]["cluster"]["spec"].as_object_mut().unwrap().remove("worker");
    for (job, reason, words) in [
        (long, "InvalidName", "at most 53 characters"),
        (negative, "InvalidSpec", "spec.backoffLimit"),
        (text, "InvalidSpec", "spec.ttlSecondsAfterFinished"),
        (no_worker, "InvalidSpec", "spec.cluster.spec"),
    ] {
        let at = NamespacedName::new("ns1", job["metadata"]["name"].as_str().unwrap());
        let world = World::new(job);
        let mut state = SubjectState::default();
        let report = now(world.pipeline().reconcile(&Handler::Native(Reconciler::Job), &at, &mut state, START));
        now(world.pipeline().publish(Reconciler::Job, &at, state.found().as_ref(), START)).unwrap();
        let problem = &report.findings.problems[0];
        assert_eq!((&*problem.reason, problem.permanent), (reason, true));
        assert!(problem.message.contains(words), "{}", problem.message);
        let status = world.get("DaskJob", &at.name).unwrap()["status"].clone();
        assert_eq!(status, json!({"jobStatus": "JobCreated"}));
        assert_eq!(world.made(), (false, false));
    }
}

#[test]
fn a_pod_of_a_stranger_is_left_alone() {
    let mut world = World::new(simple());
    let stranger = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "simple-job-runner", "namespace": "ns1"},
        "spec": {"x": 1}, "status": {"phase": "Succeeded"}});
    world.cluster.create(stranger).unwrap();
    let report = world.settle();
    assert!(report.findings.problems.iter().any(|problem| problem.reason == "ForeignObject"));
    assert_eq!((world.runner().unwrap()["spec"].clone(), world.job_status().as_str()), (json!({"x": 1}), "JobCreated"));
}

#[test]
fn what_the_python_operator_left_unfinished_is_finished() {
    // It deleted nothing yet, or failed to: its objects have no field manager that we know.
    let mut world = World::new(simple());
    world.settle();
    world.runs();
    let (pod, cluster) = (key("Pod", "simple-job-runner"), key("DaskCluster", "simple-job"));
    for object in [&pod, &cluster] {
        let live = world.cluster.get(&object.kind, &object.at).unwrap().to_value();
        world.cluster.forget_apply(object, "dask-operator/job");
        world.cluster.edit(object, |object| {
            *object = live;
            object["metadata"]["annotations"] = json!({});
        });
    }
    world.restarts = true;
    world.ends("Succeeded", 0);
    assert_eq!((world.job_status().as_str(), world.made()), ("Successful", (false, true)));
}

#[test]
fn that_it_is_paused_is_told_once() {
    let mut world = World::new(simple());
    world.edit(|job| job["metadata"]["annotations"]["operator.dask.org/paused"] = json!("true"));
    assert_eq!(world.reconcile().events.len(), 1);
    assert!(
        world.was_told("Paused: the annotation operator.dask.org/paused pauses reconciliation; remove it to resume")
    );
    assert_eq!((world.reconcile().events.len(), world.made()), (0, (false, false)));
    world.edit(|job| job["metadata"]["annotations"]["operator.dask.org/paused"] = json!("false"));
    world.settle();
    assert_eq!(world.made(), (true, true));
    world.edit(|job| job["metadata"]["annotations"]["operator.dask.org/paused"] = json!("true"));
    assert_eq!(world.reconcile().events.len(), 1, "another pause is told anew");
}

#[test]
fn a_container_that_outlives_the_jobs_own_is_told_after_a_while() {
    let mut job = simple();
    job["spec"]["job"]["spec"]["containers"].as_array_mut().unwrap().push(json!({"name": "proxy", "image": "i"}));
    let mut world = World::new(job);
    world.settle();
    let own = world.runner().unwrap()["spec"]["containers"][0]["name"].clone();
    let ended = json!({"terminated": {"exitCode": 0, "finishedAt": "2026-11-22T18:30:05Z"}});
    let proxy = json!({"name": "proxy", "state": {"running": {"startedAt": "2026-11-22T18:30:02Z"}}});
    world.now += 5_000;
    let status = json!({"phase": "Running", "containerStatuses": [{"name": own, "state": ended}, proxy]});
    let report = world.report(status);
    assert!(!world.was_told("RunnerNotEnding"), "it may be about to end");
    assert_eq!(report.requeue_after, Some(std::time::Duration::from_secs(10)));
    world.wait(10);
    assert!(world.was_told("proxy still runs; let it end too, or move it to initContainers with restartPolicy Always"));
    assert!(world.was_told("spec.job.spec of DaskJob simple-job"));
    assert_eq!(world.job_status(), "Running", "clients compare it");
    world.ends("Succeeded", 0);
    assert_eq!(world.job_status(), "Successful");
}

#[test]
fn what_is_wrong_with_the_cluster_is_told_on_the_job() {
    let mut world = World::new(simple());
    world.settle();
    let degraded = json!({"conditions": [{"type": "Degraded", "status": "True", "reason": "ServiceMisdirected",
        "message": "DaskCluster simple-job: words", "lastTransitionTime": "2026-11-22T18:30:05Z"}]});
    world.cluster.edit(&key("DaskCluster", "simple-job"), |cluster| cluster["status"] = degraded);
    world.settle();
    assert!(world.was_told("ClusterDegraded: DaskCluster simple-job: words"));
    assert_eq!(world.job_status(), "ClusterCreated");
}

#[test]
fn a_runner_that_never_ran_is_made_anew_from_the_corrected_job_and_the_job_goes_on() {
    let waiting = |reason: &str| json!({"phase": "Pending", "containerStatuses": [{"name": "job", "restartCount": 0, "state": {"waiting": {"reason": reason}}}]});
    for restarts in [false, true] {
        let mut world = World::new(simple());
        world.restarts = restarts;
        world.settle();
        for (node, status, is_renewed) in [
            (Some("a"), waiting("ImagePullBackOff"), true),
            (None, json!({"phase": "Pending"}), true),
            (Some("a"), waiting("ContainerCreating"), false),
            (Some("a"), json!({"phase": "Running"}), false),
        ] {
            world.cluster.edit(&key("Pod", "simple-job-runner"), |pod| pod["spec"]["nodeName"] = json!(node));
            world.report(status.clone());
            let before = world.runner_uid();
            world.edit(|job| job["spec"]["job"]["spec"]["containers"][0]["image"] = json!(status.to_string()));
            world.settle();
            assert_eq!(world.runner_uid() != before, is_renewed, "{status}");
            let image = &world.runner().unwrap()["spec"]["containers"][0]["image"];
            assert_eq!(image.as_str() == Some(&*status.to_string()), is_renewed);
            assert!(!world.was_told("RunnerLost"));
        }
        let annotations = world.get("DaskJob", "simple-job").unwrap()["metadata"]["annotations"].to_string();
        assert!(!annotations.contains("operator.dask.org/"), "nothing is left of it: {annotations}");
        world.ends("Succeeded", 0);
        assert_eq!(world.job_status(), "Successful");
    }
}

#[test]
fn a_field_that_the_api_server_does_not_know_is_told_and_the_job_runs_without_it() {
    let mut job = simple();
    job["spec"]["job"]["spec"]["containers"][0]["imagePullSecrets"] = json!([{"name": "pull"}]);
    let container = json!({"properties": {"name": {}, "image": {}, "args": {}, "command": {}, "env": {}}});
    let pod = json!({"properties": {"containers": {"items": container}, "restartPolicy": {}}});
    let pod = Schema::new(serde_json::from_value(pod).unwrap(), |_| None);
    let mut world = World::new(job);
    world.cluster = world.cluster.that_knows(KnownFields { pod: Some(pod), service: None });
    world.settle();
    let runner = world.runner().unwrap();
    assert!(runner["spec"]["containers"][0].get("imagePullSecrets").is_none(), "{runner}");
    assert_eq!(world.job_status(), "ClusterCreated");
    assert!(world.was_told("UnknownField: DaskJob simple-job: "));
    assert!(world.was_told("spec.job.spec.containers[0].imagePullSecrets"));
    world.runs();
    world.ends("Succeeded", 0);
    assert!(world.settle().findings.problems.is_empty(), "it is over");
    assert_eq!(world.job_status(), "Successful");
}
