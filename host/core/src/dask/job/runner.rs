//! What is wrong with a job's pod, and what can be done about it.

use crate::{
    dask::pods::{PodStatus, TroubleKind},
    object::Object,
    wanted::Problem,
};

/// The part of a DaskJob's spec that its pod is made from.
const SECTION: &str = "spec.job.spec";

/// What keeps a job's pod from running, although it has not failed.
pub(super) fn trouble(pod: &Object) -> Option<Problem> {
    let name = &pod.metadata.name;
    if pod.is_being_deleted() {
        let message = format!(
            "Pod {name} is being deleted, and not by the operator; the job goes on when it is gone: if its node is lost, \
             delete it with --force"
        );
        return Some(Problem::passing("RunnerTerminating", message));
    }
    let trouble = PodStatus::of(pod).trouble()?;
    let again = ", then set spec.suspend to true and to false to begin anew";
    let (reason, more) = match trouble.kind {
        TroubleKind::Unschedulable => ("RunnerUnschedulable", ""),
        TroubleKind::Image => ("RunnerImage", again),
        TroubleKind::NotStarting => ("RunnerNotStarting", again),
        TroubleKind::CrashLoop => {
            ("RunnerCrashLoop", ", and set spec.backoffLimit to end the job after so many failures")
        }
    };
    Some(Problem::passing(reason, format!("{}{more}", trouble.describe(name, SECTION))))
}
