//! The watches: how often they did not get all news, and which do not at the moment.

use std::{collections::BTreeMap, fmt};

use dask_wasm_operator_cluster::watch::Watches;
use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeMetric},
    metrics::{MetricType, counter::ConstCounter, gauge::ConstGauge},
};

/// Collector of the metrics of watches.
pub(super) struct WatchFailures {
    watches: Watches,
}

impl WatchFailures {
    pub(super) fn of(watches: Watches) -> Self {
        Self { watches }
    }
}

impl fmt::Debug for WatchFailures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WatchFailures").finish_non_exhaustive()
    }
}

fn labels(kind: &str, problem: &'static str) -> [(&'static str, String); 2] {
    [("kind", kind.to_owned()), ("reason", problem.to_owned())]
}

impl Collector for WatchFailures {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let help = "Attempts of watches that missed events, by kind of the objects and reason";
        let mut family = encoder.encode_descriptor("watch_failures", help, None, MetricType::Counter)?;
        let failures = self.watches.failures();
        for (kind, problem, count) in &failures {
            ConstCounter::new(*count).encode(family.encode_family(&labels(kind, problem))?)?;
        }
        // Those that are well again are told, too: their alerts are to end.
        let mut failing: BTreeMap<_, i64> =
            failures.into_iter().map(|(kind, problem, _)| ((kind, problem), 0)).collect();
        for (key, status) in self.watches.statuses() {
            if let Some(problem) = status.problem {
                *failing.entry((key.resource.kind.kind, problem.kind())).or_default() += 1;
            }
        }
        let help = "Watches that miss events at the moment, by kind of the objects and reason";
        let mut family = encoder.encode_descriptor("watches_failing", help, None, MetricType::Gauge)?;
        for ((kind, problem), count) in failing {
            ConstGauge::new(count).encode(family.encode_family(&labels(&kind, problem))?)?;
        }
        Ok(())
    }
}
