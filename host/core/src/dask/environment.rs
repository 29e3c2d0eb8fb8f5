//! What holds for every subject of a process.

use std::{num::NonZeroU32, time::Duration};

use crate::{dask::naming::scheduler_name, scheduler::COMM_PORT};

/// How labels and annotations begin that are not propagated unless something else is set: those of tools that speak of the
/// very object they stand on. The Python operator leaves out the first and the third, of annotations.
pub const EXCLUDED_PREFIXES: [&str; 6] =
    ["kopf.zalando.org", "kopf.dev/", "kubectl.kubernetes.io", "argocd.argoproj.io/", "helm.sh/", "meta.helm.sh/"];

/// Kubernetes' usual DNS domain.
pub const DEFAULT_CLUSTER_DOMAIN: &str = "cluster.local";

/// What holds for every subject of a process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Environment {
    /// The cluster's DNS domain, `cluster.local`.
    pub cluster_domain: String,
    /// How long a scheduler may be silent until surplus workers are removed without asking it.
    pub scale_down_deadline: Duration,
    /// Whether to write to objects that the Python operator looks after, too.
    pub force_takeover: bool,
    /// How many workers of a group are made at a time; none: all at once.
    pub worker_allocation: Option<WorkerAllocation>,
    /// Labels and annotations that begin so are not propagated to children.
    pub excluded_prefixes: Vec<String>,
}

impl Default for Environment {
    fn default() -> Self {
        Self {
            cluster_domain: DEFAULT_CLUSTER_DOMAIN.to_owned(),
            scale_down_deadline: Duration::from_secs(120),
            force_takeover: false,
            worker_allocation: None,
            excluded_prefixes: EXCLUDED_PREFIXES.map(str::to_owned).to_vec(),
        }
    }
}

impl Environment {
    /// Where pods find the scheduler of a cluster.
    pub(super) fn scheduler_address(&self, cluster: &str, namespace: Option<&str>) -> String {
        let (service, domain) = (scheduler_name(cluster), &self.cluster_domain);
        format!("tcp://{service}.{}.svc.{domain}:{COMM_PORT}", namespace.unwrap_or_default())
    }
}

/// Workers are made in batches: the Python operator's `worker-allocation`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WorkerAllocation {
    /// So many workers of a group at a time.
    pub batch_size: NonZeroU32,
    /// No more than a batch within this time. Zero: the next batch follows at once.
    pub delay: Duration,
}

impl WorkerAllocation {
    /// For how long a worker that was made then belongs to the present batch. Times of creation are in whole seconds: up to
    /// the next one later. A clock that differs from the API server's by more than the delay means that there is none.
    pub(super) fn wait_after(&self, created: u64, now: u64) -> Option<Duration> {
        let delay = u64::try_from(self.delay.as_millis()).unwrap_or(u64::MAX);
        let end = created.saturating_add(999).saturating_add(delay);
        let left = end.checked_sub(now).filter(|left| (1..=delay.saturating_add(999)).contains(left))?;
        (delay > 0).then(|| Duration::from_millis(left))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_worker_belongs_to_the_batch_for_the_delay() {
        let seconds = |seconds| WorkerAllocation { batch_size: NonZeroU32::MIN, delay: Duration::from_secs(seconds) };
        for (delay, created, now, left) in [
            (10, 5_000, 5_000, Some(10_999)),
            (10, 5_000, 15_000, Some(999)),
            (10, 5_000, 15_999, None),
            (10, 5_000, 90_000, None),
            (10, 90_000, 5_000, None),
            (0, 5_000, 5_000, None),
        ] {
            let wait = seconds(delay).wait_after(created, now);
            assert_eq!(wait, left.map(Duration::from_millis), "{delay} s, made at {created}, now {now}");
        }
    }
}
