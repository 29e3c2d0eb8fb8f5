//! What is wrong with a job's pod, and what can be done about it.

use std::time::Duration;

use serde_json::Value;

use crate::{
    dask::{
        pods::{PodStatus, TroubleKind},
        remedy::Place,
    },
    object::Object,
    time::epoch_millis,
    wanted::Problem,
};

/// The part of a DaskJob's spec that its pod is made from.
const SECTION: &str = "spec.job.spec";

/// How long the other containers of a pod may take to end after its first.
const PATIENCE: Duration = Duration::from_secs(10);

/// How soon to look again whether the other containers of a pod have ended after its first.
pub(super) fn patience(pod: &Object, now: u64) -> Option<Duration> {
    let (ended, _) = left_behind(pod)?;
    let waited = Duration::from_millis(now.saturating_sub(ended));
    PATIENCE.checked_sub(waited).filter(|left| !left.is_zero())
}

/// When the first container of a pod ended whose other containers run on, in milliseconds since the Unix epoch, and what to say
/// of it. The job's own container is the first, by convention.
fn left_behind(pod: &Object) -> Option<(u64, String)> {
    let spec: Value = pod.field("spec").and_then(Result::ok).unwrap_or_default();
    let main = spec.pointer("/containers/0/name").and_then(Value::as_str)?;
    let status = PodStatus::of(pod);
    let ended = epoch_millis(status.ended_at(main)?)?;
    let others = status.running().join(", ");
    let message = format!(
        "container {main} of Pod {} has terminated, and the job ends when all containers have: {others} still runs; \
         let it end too, or move it to initContainers with restartPolicy Always",
        pod.metadata.name
    );
    (!others.is_empty() && status.phase == "Running").then_some((ended, message))
}

/// What keeps a job's pod from running, or from ending, although it has not failed.
pub(super) fn trouble(job: &Object, pod: &Object, now: u64) -> Option<Problem> {
    let name = &pod.metadata.name;
    if pod.is_being_deleted() {
        let message = format!(
            "Pod {name} is being deleted, and not by the operator; the job continues when it is gone: if its node is \
             lost, delete it with --force"
        );
        return Some(Problem::passing("RunnerTerminating", message));
    }
    let Some(trouble) = PodStatus::of(pod).trouble() else {
        let (_, message) = left_behind(pod).filter(|_| patience(pod, now).is_none())?;
        return Some(Problem::passing("RunnerNotEnding", format!("{message} in {}", Place::of(job, SECTION, None))));
    };
    let (reason, more) = match trouble.kind {
        TroubleKind::Unschedulable => ("RunnerUnschedulable", ""),
        TroubleKind::Image => ("RunnerImage", ""),
        TroubleKind::NotStarting => ("RunnerNotStarting", ""),
        TroubleKind::CrashLoop => {
            ("RunnerCrashLoop", ", and set spec.backoffLimit to end the job after so many failures")
        }
    };
    Some(Problem::passing(reason, format!("{}{more}", trouble.describe(name, &Place::of(job, SECTION, None)))))
}
