//! Events that were not posted, by source. Counted where they are dropped, told when asked for.

use std::fmt;

use dask_wasm_operator_cluster::events::{Events, Source};
use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeMetric},
    metrics::{MetricType, counter::ConstCounter},
};

/// Collector of the metric.
pub(super) struct DroppedEvents(pub(super) Events);

impl fmt::Debug for DroppedEvents {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DroppedEvents").finish_non_exhaustive()
    }
}

impl Collector for DroppedEvents {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let help = "Events that were dropped or refused, by who wanted them posted: the operator, or a plugin";
        let mut family = encoder.encode_descriptor("events_dropped", help, None, MetricType::Counter)?;
        for (source, dropped) in self.0.dropped() {
            let labels = match source {
                Source::Operator => vec![("source", "operator".to_owned())],
                Source::Plugin(plugin) => vec![("source", "plugin".to_owned()), ("plugin", plugin)],
            };
            ConstCounter::new(dropped).encode(family.encode_family(&labels)?)?;
        }
        Ok(())
    }
}
