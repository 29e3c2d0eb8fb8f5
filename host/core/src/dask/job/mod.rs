//! DaskJob → DaskCluster and the pod that runs the job.
//!
//! A reconcile looks at the pod and at what was written before, decides in which stage the job is, and everything else follows:
//! what is wanted, what is recorded, what the status says. That a job has ended is written to its status *before* anything is
//! removed, so nothing that is lost in between (a write, this process) can leave a job that never ends, and whoever sees that
//! the cluster is gone sees the end in the status. What ended stays ended, whatever becomes of its pod.

mod objects;
mod record;
mod runner;
mod stage;

use std::{sync::Arc, time::Duration};

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

pub(super) use self::record::{ACTIVE_SINCE, FAILED_AT, FAILED_ATTEMPTS};
use self::stage::{Attempt, Decision, Job, Stage, has_begun, previous_status, runner_name};
use crate::{
    contract::{EventNote, EventSeverity},
    dask::{
        children::pod_spec::pod_spec,
        environment::Environment,
        kinds::{cluster_kind, pod_kind},
        pods::PodStatus,
    },
    object::Object,
    spec::{DaskJobStatus, JobStatus},
    time::{epoch_millis, rfc3339},
    wanted::{Findings, OnNewTemplate, Snapshot, Wanted, WantedChild},
};

/// How soon to look again whether the status has been written: several times the time in which that is done.
const STATUS_WAIT: Duration = Duration::from_secs(1);

pub(super) fn reconcile(seen: &Snapshot, environment: &Environment) -> Wanted {
    let job = Job::of(seen);
    let mut wanted = match &job {
        Ok(job) => job.wanted(environment),
        Err(problem) => Wanted { findings: problem.clone().into(), ..Wanted::default() },
    };
    let before = Facts::deserialize(&seen.facts).ok();
    // After a restart nobody knows what was said of a job that has a status.
    let is_new = previous_status(seen).job_status.is_none();
    if is_new && before.is_none() {
        let (name, namespace) = (&seen.subject.metadata.name, seen.subject.metadata.namespace.as_deref());
        let message = format!("A DaskJob has been created called {name} in {}.", namespace.unwrap_or_default());
        wanted.events.insert(0, note(EventSeverity::Normal, "JobCreated", message));
    }
    let suspended = job.as_ref().ok().filter(|job| matches!(job.decide().stage, Stage::Suspended));
    let was_said = before.map_or(!is_new, |before| before.suspended);
    if suspended.is_some_and(|job| !has_begun(&job.previous)) && !was_said {
        let message = "Job suspended, nothing is made until spec.suspend is false.".to_owned();
        wanted.events.push(note(EventSeverity::Normal, "JobSuspended", message));
    }
    wanted.findings.facts = json!(Facts { suspended: suspended.is_some() });
    wanted
}

/// What is remembered of what was said: that the job was created, and this.
#[derive(Debug, Serialize, Deserialize)]
struct Facts {
    suspended: bool,
}

pub(super) fn status(seen: &Snapshot) -> Value {
    let status = match Job::of(seen) {
        Ok(job) => job.next_status(),
        // Nothing has run that could have failed, and clients read the runner's log of a job that failed: a job that can't be
        // made is not begun, and its problem is told as an Event.
        Err(_) => {
            let previous = previous_status(seen);
            DaskJobStatus { job_status: previous.job_status.or(Some(JobStatus::JobCreated)), ..previous }
        }
    };
    json!(status)
}

fn note(severity: EventSeverity, reason: &str, message: String) -> EventNote {
    EventNote { severity, reason: reason.to_owned(), message }
}

impl<'a> Job<'a> {
    fn live_cluster(&self) -> Option<&'a Arc<Object>> {
        self.seen.child(&cluster_kind(), self.name())
    }

    fn live_runner(&self) -> Option<&'a Arc<Object>> {
        self.seen.child(&pod_kind(), &runner_name(self.name()))
    }

    fn wanted(&self, environment: &Environment) -> Wanted {
        let Decision { stage, record, problem } = self.decide();
        let (pod, unknown_fields) = pod_spec(self.seen, "spec.job.spec", &self.spec.job.spec);
        if matches!(stage, Stage::Runs) && self.idle_runner().is_some() && self.seen.outdated.is_none() {
            let drafts = vec![objects::runner(&self.seen.subject, &self.spec, &pod, environment)];
            return Wanted { drafts, ..Wanted::default() };
        }
        let is_made = matches!(stage, Stage::Runs | Stage::Waits(_));
        let problems = problem.into_iter().chain(unknown_fields.filter(|_| is_made)).collect();
        let mut wanted = Wanted {
            subject: record.patch(&self.seen.subject),
            children: self.children(&stage, &pod, environment),
            requeue_after: self.deadline(&record).and_then(|deadline| self.until(deadline)),
            findings: Findings { problems, ..Findings::default() },
            ..Wanted::default()
        };
        match stage {
            Stage::Over => {
                let end = self.end_of_life();
                wanted.subject = None;
                wanted.requeue_after = end.and_then(|end| self.until(end));
                wanted.delete_subject = end.is_some_and(|end| self.until(end).is_none());
            }
            Stage::Ends(result) => {
                let (severity, reason, how) = match result {
                    Ok(()) => (EventSeverity::Normal, "JobSucceeded", "succeeded"),
                    Err(_) => (EventSeverity::Warning, "JobFailed", "failed"),
                };
                wanted.findings = result.err().map(Findings::from).unwrap_or_default();
                wanted.events.push(note(severity, reason, format!("Job {how}, deleting Dask cluster.")));
                wanted.requeue_after = Some(STATUS_WAIT);
            }
            Stage::Suspended if has_begun(&self.previous) => {
                let message = "Job suspended, deleting Dask cluster and runner.".to_owned();
                wanted.events.push(note(EventSeverity::Normal, "JobSuspended", message));
                wanted.requeue_after = Some(STATUS_WAIT);
            }
            Stage::Waits(pause) => {
                wanted.requeue_after = Some(wanted.requeue_after.map_or(pause, |deadline| deadline.min(pause)));
            }
            Stage::Runs => {
                let patience = self.runner().and_then(|pod| runner::patience(pod, self.seen.now));
                wanted.requeue_after = [wanted.requeue_after, patience].into_iter().flatten().min();
            }
            Stage::Suspended => {}
        }
        wanted
    }

    /// When the job itself is to be deleted.
    fn end_of_life(&self) -> Option<u64> {
        let ended = epoch_millis(self.previous.end_time.as_deref()?)?;
        Some(ended.saturating_add(u64::from(self.spec.ttl_seconds_after_finished?) * 1000))
    }

    fn children(&self, stage: &Stage, pod: &Value, environment: &Environment) -> Option<Vec<WantedChild>> {
        let job = &self.seen.subject;
        let (live_cluster, live_runner) = (self.live_cluster(), self.live_runner());
        let cluster = || objects::cluster(job, &self.spec, live_cluster.map(Arc::as_ref), environment);
        let runner = || {
            let runner = objects::runner(job, &self.spec, pod, environment);
            if self.renews_runner() { WantedChild { on_new_template: OnNewTemplate::Renew, ..runner } } else { runner }
        };
        let of = |with_cluster: bool, with_runner: bool| {
            let cluster = with_cluster.then(cluster);
            Some(cluster.into_iter().chain(with_runner.then(runner)).collect())
        };
        match stage {
            Stage::Over => {
                let keeps_runner = live_runner.is_some_and(|pod| PodStatus::of(pod).has_ended());
                // An ended job with nothing left to remove is let alone.
                let is_left = live_cluster.is_some() || live_runner.is_some() && !keeps_runner;
                if is_left { of(false, keeps_runner) } else { None }
            }
            Stage::Suspended if !has_begun(&self.previous) => of(false, false),
            // Nothing is removed before the status says why, and nothing is made that would be removed then.
            Stage::Ends(_) | Stage::Suspended | Stage::Waits(_) => of(live_cluster.is_some(), live_runner.is_some()),
            Stage::Runs => {
                let was_shut_down = self.spec.cluster.spec.idle_timeout > 0
                    && live_cluster.is_none()
                    && has_begun(&self.previous)
                    && matches!(self.attempt, Attempt::Active(_));
                let wants_runner = match self.attempt {
                    Attempt::Active(_) => true,
                    // A cluster of the same name that is somebody else's, or none, is nothing to run on.
                    Attempt::ToBegin => live_cluster.is_some_and(|cluster| !cluster.is_being_deleted()),
                    Attempt::Succeeded(_) | Attempt::Failed(_) | Attempt::Lost | Attempt::GivenUp => false,
                };
                of(!was_shut_down, wants_runner)
            }
        }
    }

    fn next_status(&self) -> DaskJobStatus {
        let named = |job_status| DaskJobStatus {
            cluster_name: Some(self.name().to_owned()),
            job_runner_pod_name: Some(runner_name(self.name())),
            job_status: Some(job_status),
            ..DaskJobStatus::default()
        };
        let created = DaskJobStatus { job_status: Some(JobStatus::JobCreated), ..DaskJobStatus::default() };
        match self.decide().stage {
            Stage::Over => {
                let end_time = self.previous.end_time.clone().or_else(|| Some(rfc3339(self.seen.now)));
                DaskJobStatus { end_time, ..self.previous.clone() }
            }
            Stage::Ends(result) => {
                let finished = self.runner().and_then(|pod| PodStatus::of(pod).finished_at().map(str::to_owned));
                DaskJobStatus {
                    start_time: self.start_time(),
                    end_time: Some(finished.unwrap_or_else(|| rfc3339(self.seen.now))),
                    ..named(if result.is_ok() { JobStatus::Successful } else { JobStatus::Failed })
                }
            }
            Stage::Suspended => created,
            Stage::Waits(_) | Stage::Runs if self.is_running() => {
                let start_time = self.start_time().or_else(|| Some(rfc3339(self.seen.now)));
                DaskJobStatus { start_time, ..named(JobStatus::Running) }
            }
            Stage::Waits(_) | Stage::Runs if self.is_made() => named(JobStatus::ClusterCreated),
            Stage::Waits(_) | Stage::Runs => created,
        }
    }

    /// Whether the job runs, or did before its present attempt.
    fn is_running(&self) -> bool {
        self.previous.job_status == Some(JobStatus::Running)
            || matches!(self.attempt, Attempt::Active(pod) if PodStatus::of(pod).phase == "Running")
    }

    /// Whether cluster and pod are there, or were.
    fn is_made(&self) -> bool {
        let is_there = matches!(self.attempt, Attempt::Active(_)) && self.live_cluster().is_some();
        has_begun(&self.previous) || is_there
    }

    /// When the first attempt began to run.
    fn start_time(&self) -> Option<String> {
        let before = self.previous.start_time.clone().filter(|_| self.previous.job_status == Some(JobStatus::Running));
        before.or_else(|| PodStatus::of(self.runner()?).started_at().map(str::to_owned))
    }
}
