//! In which stage a job is: everything else follows from that.

use std::time::Duration;

use super::{record::Record, runner::trouble};
use crate::{
    dask::{
        kinds::{cluster_kind, decode_spec, pod_kind},
        naming,
        pods::PodStatus,
    },
    object::Object,
    spec::{ConditionStatus, DaskClusterStatus, DaskJobSpec, DaskJobStatus, JobStatus},
    time::{CLOCK_SKEW, epoch_millis, millis, rfc3339},
    wanted::{Problem, Snapshot},
};

pub(super) fn runner_name(job: &str) -> String {
    format!("{job}-runner")
}

/// As it was last written. A status that we don't know is none, and so is an end that is yet to come: the job would be kept
/// until then.
pub(super) fn previous_status(seen: &Snapshot) -> DaskJobStatus {
    let previous: DaskJobStatus = seen.subject.field("status").and_then(Result::ok).unwrap_or_default();
    if previous.job_status == Some(JobStatus::Unknown) {
        return DaskJobStatus::default();
    }
    let latest = seen.now.saturating_add(millis(CLOCK_SKEW));
    let end_time = previous.end_time.filter(|end| epoch_millis(end).is_none_or(|end| end <= latest));
    DaskJobStatus { end_time, ..previous }
}

/// A job as it is seen.
pub(super) struct Job<'a> {
    pub(super) seen: &'a Snapshot,
    pub(super) spec: DaskJobSpec,
    pub(super) previous: DaskJobStatus,
    pub(super) record: Record,
    pub(super) attempt: Attempt<'a>,
}

/// What has become of the present attempt to run the job.
pub(super) enum Attempt<'a> {
    /// Its pod is not there yet; that of an attempt before may be on its way out.
    ToBegin,
    /// Its pod runs, or is about to.
    Active(&'a Object),
    Succeeded(&'a Object),
    Failed(&'a Object),
    /// Its pod went before it ended.
    Lost,
    /// It failed, that is recorded, and its pod is to make room for that of the next attempt.
    GivenUp,
}

/// How far a job is, and what that asks for.
pub(super) enum Stage {
    /// It ended, and its status says so.
    Over,
    /// It ends now.
    Ends(Result<(), Problem>),
    Suspended,
    /// The next attempt begins after this time.
    Waits(Duration),
    Runs,
}

/// What a reconcile comes to.
pub(super) struct Decision {
    pub(super) stage: Stage,
    pub(super) record: Record,
    pub(super) problem: Option<Problem>,
}

impl<'a> Job<'a> {
    pub(super) fn of(seen: &'a Snapshot) -> Result<Self, Problem> {
        let name = &seen.subject.metadata.name;
        naming::check_name(name).map_err(|problem| {
            let message = format!("DaskJob {name}: its cluster can't have the same name: {}", problem.message);
            Problem { message, ..problem }
        })?;
        let spec = decode_spec(&seen.subject)?;
        let (previous, record) = (previous_status(seen), Record::of(&seen.subject, seen.now));
        let attempt = attempt(seen, &previous, &record);
        Ok(Self { seen, spec, previous, record, attempt })
    }

    pub(super) fn name(&self) -> &'a str {
        &self.seen.subject.metadata.name
    }

    /// The pod of the present attempt, as it was last seen.
    pub(super) fn runner(&self) -> Option<&'a Object> {
        match self.attempt {
            Attempt::Active(pod) | Attempt::Succeeded(pod) | Attempt::Failed(pod) => Some(pod),
            Attempt::ToBegin | Attempt::Lost | Attempt::GivenUp => None,
        }
    }

    /// How long it is until `time`, in milliseconds since the Unix epoch; none if it has come.
    pub(super) fn until(&self, time: u64) -> Option<Duration> {
        time.checked_sub(self.seen.now).filter(|left| *left > 0).map(Duration::from_millis)
    }

    pub(super) fn decide(&self) -> Decision {
        let decision = |stage, record: &Record| Decision { stage, record: record.clone(), problem: None };
        if is_over(&self.previous) {
            return decision(Stage::Over, &self.record);
        }
        if matches!(self.attempt, Attempt::Succeeded(_)) {
            return decision(Stage::Ends(Ok(())), &self.record);
        }
        let has_failed = self.failures() > self.spec.backoff_limit.unwrap_or(0);
        if self.spec.suspend && !(has_failed && matches!(self.attempt, Attempt::Failed(_))) {
            return decision(Stage::Suspended, &Record::default());
        }
        if has_failed {
            return decision(Stage::Ends(Err(self.failure())), &self.record);
        }
        let record = self.next_record();
        if let Some(problem) = self.missed_deadline(&record) {
            return decision(Stage::Ends(Err(problem)), &record);
        }
        let next_attempt = record.next_attempt().filter(|_| !matches!(self.attempt, Attempt::Active(_)));
        Decision {
            stage: next_attempt.and_then(|time| self.until(time)).map_or(Stage::Runs, Stage::Waits),
            problem: self.trouble(next_attempt),
            record,
        }
    }

    /// What does not end the job.
    fn trouble(&self, next_attempt: Option<u64>) -> Option<Problem> {
        match self.attempt {
            Attempt::Active(pod) => trouble(&self.seen.subject, pod, self.seen.now)
                .map(|trouble| self.named(trouble))
                .or_else(|| self.trouble_of_cluster()),
            Attempt::Failed(_) | Attempt::Lost => {
                let Problem { reason, message, .. } = self.failure();
                let next = next_attempt.map(rfc3339).unwrap_or_default();
                Some(Problem::passing(reason, format!("{message}; the next attempt begins at {next}")))
            }
            Attempt::ToBegin => self.trouble_of_cluster(),
            Attempt::Succeeded(_) | Attempt::GivenUp => None,
        }
    }

    /// What is wrong with the job's cluster is wrong with the job.
    fn trouble_of_cluster(&self) -> Option<Problem> {
        let cluster = self.seen.child(&cluster_kind(), self.name())?;
        let status: DaskClusterStatus = cluster.field("status")?.ok()?;
        let degraded = status.conditions.into_iter().find(|condition| condition.type_ == "Degraded");
        let degraded = degraded.filter(|condition| condition.status == ConditionStatus::True)?;
        Some(Problem::passing("ClusterDegraded", degraded.message))
    }

    /// How often the job has failed: attempts, and containers within the present one where they are asked to count.
    fn failures(&self) -> u32 {
        let now = match self.attempt {
            Attempt::Failed(_) | Attempt::Lost => 1,
            Attempt::Active(pod) if self.spec.backoff_limit.is_some() => PodStatus::of(pod).failed_runs(pod),
            _ => 0,
        };
        self.record.failed.saturating_add(now)
    }

    /// Why the job fails, or would without the attempts that are left.
    fn failure(&self) -> Problem {
        let pod = runner_name(self.name());
        let (reason, what) = match self.attempt {
            Attempt::Failed(runner) => (
                "RunnerFailed",
                format!("Pod {pod} failed: {}; see kubectl logs {pod}", PodStatus::of(runner).failure()),
            ),
            Attempt::Active(runner) => {
                let why = PodStatus::of(runner).failure();
                ("BackoffLimitExceeded", format!("containers of Pod {pod} kept failing: {why}"))
            }
            Attempt::Lost => (
                "RunnerLost",
                format!("Pod {pod} was deleted before it ended; spec.backoffLimit sets how often it is replaced"),
            ),
            _ => ("BackoffLimitExceeded", "its pods failed again and again".to_owned()),
        };
        let limit =
            self.spec.backoff_limit.map(|limit| format!(" (failure {}, spec.backoffLimit {limit})", self.failures()));
        self.named(Problem::permanent(reason, what + &limit.unwrap_or_default()))
    }

    fn missed_deadline(&self, record: &Record) -> Option<Problem> {
        let deadline = self.deadline(record)?;
        let seconds = self.spec.active_deadline_seconds?;
        let message = format!("it did not end within {seconds} s (spec.activeDeadlineSeconds)");
        let problem = Problem::permanent("DeadlineExceeded", message);
        self.until(deadline).is_none().then(|| self.named(problem))
    }

    pub(super) fn deadline(&self, record: &Record) -> Option<u64> {
        let seconds = self.spec.active_deadline_seconds?;
        Some(record.active_since?.saturating_add(u64::from(seconds) * 1000))
    }

    fn named(&self, problem: Problem) -> Problem {
        Problem { message: format!("DaskJob {}: {}", self.name(), problem.message), ..problem }
    }

    /// The runner of this attempt, if it has surely never run: it may be replaced.
    pub(super) fn idle_runner(&self) -> Option<&'a Object> {
        let runner = self.runner().filter(|pod| !pod.is_being_deleted())?;
        PodStatus::of(runner).has_never_run(runner).then_some(runner)
    }

    /// Whether the runner goes for a corrected template.
    pub(super) fn renews_runner(&self) -> bool {
        let is_outdated = |runner: &Object| self.seen.outdated.as_ref()?.contains(&runner.metadata.name).then_some(());
        self.idle_runner().and_then(is_outdated).is_some()
    }

    /// What is to be known of this attempt when its pod is gone.
    fn next_record(&self) -> Record {
        let mut record = self.record.clone();
        if let Some(runner) = self.runner() {
            record.renewed = self.renews_runner().then(|| runner.metadata.uid.clone());
        }
        record.active_since = self.spec.active_deadline_seconds.map(|_| {
            // The pod is made when the job begins: it tells when, if the deadline is set only later.
            let runner = self.runner().and_then(|pod| epoch_millis(pod.metadata.creation_timestamp.as_deref()?));
            record.active_since.or(runner).unwrap_or(self.seen.now).min(self.seen.now)
        });
        if self.spec.backoff_limit.is_none() {
            return record;
        }
        if let Some(runner) = self.runner() {
            record.runner = Some(runner.metadata.uid.clone());
            record.failed_at = None;
        }
        if matches!(self.attempt, Attempt::Failed(_) | Attempt::Lost) {
            let finished = self.runner().and_then(|pod| epoch_millis(PodStatus::of(pod).finished_at()?));
            record.failed = record.failed.saturating_add(1);
            record.failed_at = Some(finished.unwrap_or(self.seen.now).min(self.seen.now));
        }
        record
    }
}

fn is_over(status: &DaskJobStatus) -> bool {
    matches!(status.job_status, Some(JobStatus::Successful | JobStatus::Failed))
}

/// Whether the status says that the pod was made.
pub(super) fn has_begun(status: &DaskJobStatus) -> bool {
    matches!(status.job_status, Some(JobStatus::ClusterCreated | JobStatus::Running))
}

fn attempt<'a>(seen: &'a Snapshot, previous: &DaskJobStatus, record: &Record) -> Attempt<'a> {
    let name = runner_name(&seen.subject.metadata.name);
    let was_made = has_begun(previous);
    let live = seen.child(&pod_kind(), &name);
    // One that vanished from our watches may have ended before that, or has only lost the label by which we watch it.
    let former = seen.former_child(&pod_kind(), &name).filter(|_| was_made);
    let Some(pod) = live.or(former) else {
        let is_lost = was_made && record.failed_at.is_none() && record.renewed.is_none();
        return if is_lost { Attempt::Lost } else { Attempt::ToBegin };
    };
    if record.renewed.as_ref() == Some(&pod.metadata.uid) && (live.is_none() || pod.is_being_deleted()) {
        return Attempt::ToBegin;
    }
    if record.has_given_up(&pod.metadata.uid) {
        return if live.is_some() { Attempt::GivenUp } else { Attempt::ToBegin };
    }
    // What was removed for a suspension is not the attempt that follows.
    if pod.is_being_deleted() && !was_made {
        return Attempt::ToBegin;
    }
    match PodStatus::of(pod).phase.as_str() {
        "Succeeded" => Attempt::Succeeded(pod),
        "Failed" => Attempt::Failed(pod),
        _ => Attempt::Active(pod),
    }
}
