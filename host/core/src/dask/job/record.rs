//! What is recorded on a DaskJob of its attempts, because it can't be observed any more once a pod is gone. Nothing is
//! recorded of a job that sets neither `backoffLimit` nor `activeDeadlineSeconds`, but for a runner that is about to be replaced.

use std::time::Duration;

use serde_json::{Map, Value, json};

use crate::{
    object::Object,
    time::{CLOCK_SKEW, epoch_millis, millis, rfc3339},
    wanted::SubjectPatch,
};

/// How many runners failed or were lost.
pub(in crate::dask) const FAILED_ATTEMPTS: &str = "operator.dask.org/failed-attempts";
/// Uid of the runner that was seen last.
const RUNNER: &str = "operator.dask.org/runner-uid";
/// When that runner failed or was lost; not there while it is under way.
pub(in crate::dask) const FAILED_AT: &str = "operator.dask.org/runner-failed-at";
/// Uid of a runner that never ran and goes for a corrected template: the next one is of the same attempt.
const RENEWED: &str = "operator.dask.org/renewed-runner";
/// Since when the job has been active: its deadline counts from here.
pub(in crate::dask) const ACTIVE_SINCE: &str = "operator.dask.org/active-since";

/// The pause after the first failure and the longest one: those of Kubernetes' Job.
const FIRST_PAUSE: Duration = Duration::from_secs(10);
const LONGEST_PAUSE: Duration = Duration::from_secs(360);

/// See the module. Times are in milliseconds since the Unix epoch, and stored in seconds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Record {
    pub(super) failed: u32,
    pub(super) runner: Option<String>,
    pub(super) failed_at: Option<u64>,
    pub(super) active_since: Option<u64>,
    pub(super) renewed: Option<String>,
}

impl Record {
    /// Nothing is recorded of what is yet to come: such a time is that of a clock that was set back, and counts as `now`, which
    /// is recorded in its place. Nor of what was before the job.
    pub(super) fn of(job: &Object, now: u64) -> Self {
        let text = |name: &str| job.metadata.annotations.get(name);
        let time = |name: &str| text(name).and_then(|text| epoch_millis(text)).map(|time| time.min(now));
        let created = job.metadata.creation_timestamp.as_deref().and_then(epoch_millis).unwrap_or(0);
        Self {
            failed: text(FAILED_ATTEMPTS).and_then(|text| text.parse().ok()).unwrap_or(0),
            runner: text(RUNNER).cloned(),
            failed_at: time(FAILED_AT),
            active_since: time(ACTIVE_SINCE).filter(|since| since.saturating_add(millis(CLOCK_SKEW)) >= created),
            renewed: text(RENEWED).cloned(),
        }
    }

    /// Whether the runner of this uid has failed and that is recorded.
    pub(super) fn has_given_up(&self, uid: &str) -> bool {
        self.failed_at.is_some() && self.runner.as_deref() == Some(uid)
    }

    /// When the next runner is made, after one that failed.
    pub(super) fn next_attempt(&self) -> Option<u64> {
        let doublings = self.failed.saturating_sub(1);
        let pause = FIRST_PAUSE.saturating_mul(2_u32.saturating_pow(doublings)).min(LONGEST_PAUSE);
        self.failed_at.map(|failed_at| failed_at.saturating_add(millis(pause)))
    }

    /// What is to be written on the job; none: nothing is recorded, and nothing was.
    pub(super) fn patch(&self, job: &Object) -> Option<SubjectPatch> {
        let entries = [
            (FAILED_ATTEMPTS, (self.failed > 0).then(|| self.failed.to_string())),
            (RUNNER, self.runner.clone()),
            (FAILED_AT, self.failed_at.map(rfc3339)),
            (ACTIVE_SINCE, self.active_since.map(rfc3339)),
            (RENEWED, self.renewed.clone()),
        ];
        let was_recorded = entries.iter().any(|(name, _)| job.metadata.annotations.contains_key(*name));
        let annotations: Map<String, Value> =
            entries.into_iter().filter_map(|(name, value)| Some((name.to_owned(), json!(value?)))).collect();
        let body = json!({"metadata": {"annotations": annotations}});
        (was_recorded || !annotations.is_empty()).then_some(SubjectPatch { body, guarded: true })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_six_minutes() {
        let pause = |failed| Record { failed, failed_at: Some(0), ..Record::default() }.next_attempt();
        let expected = [(1, 10), (2, 20), (3, 40), (6, 320), (7, 360), (u32::MAX, 360)];
        for (failed, seconds) in expected {
            assert_eq!(pause(failed), Some(seconds * 1000), "after {failed} failures");
        }
        assert_eq!(Record::default().next_attempt(), None);
    }
}
