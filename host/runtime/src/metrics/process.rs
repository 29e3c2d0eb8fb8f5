//! The process itself: start, CPU time, memory, open files. Read from /proc when asked for; where there is none, only the
//! start is told.

use std::{
    fmt, fs,
    time::{SystemTime, UNIX_EPOCH},
};

use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeMetric},
    metrics::{counter::ConstCounter, gauge::ConstGauge},
    registry::Unit,
};

/// Collector of the standard `process_` metrics.
#[derive(Debug)]
pub(super) struct Process {
    started: SystemTime,
}

impl Process {
    pub(super) fn started(started: SystemTime) -> Self {
        Self { started }
    }
}

impl Collector for Process {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let mut put = |name, help, unit: Option<Unit>, metric: &dyn Encode| metric.put(&mut encoder, name, help, unit);
        let since_epoch = self.started.duration_since(UNIX_EPOCH).unwrap_or_default();
        let help = "When the process started, in seconds since 1970";
        put("process_start_time", help, Some(Unit::Seconds), &ConstGauge::new(since_epoch.as_secs_f64()))?;
        if let Some(usage) = fs::read_to_string("/proc/self/stat").ok().as_deref().and_then(Usage::parse) {
            let help = "CPU time that the process took, user and system";
            put("process_cpu", help, Some(Unit::Seconds), &ConstCounter::new(usage.cpu_seconds))?;
            let help = "Memory of the process that is resident";
            put("process_resident_memory", help, Some(Unit::Bytes), &ConstGauge::new(usage.resident_bytes))?;
        }
        if let Ok(files) = fs::read_dir("/proc/self/fd") {
            let files = i64::try_from(files.count()).unwrap_or(i64::MAX);
            put("process_open_fds", "Open file descriptors", None, &ConstGauge::new(files))?;
        }
        Ok(())
    }
}

/// A metric whose type need not be known to be written.
trait Encode {
    fn put(&self, encoder: &mut DescriptorEncoder<'_>, name: &str, help: &str, unit: Option<Unit>) -> fmt::Result;
}

impl<M: EncodeMetric> Encode for M {
    fn put(&self, encoder: &mut DescriptorEncoder<'_>, name: &str, help: &str, unit: Option<Unit>) -> fmt::Result {
        self.encode(encoder.encode_descriptor(name, help, unit.as_ref(), self.metric_type())?)
    }
}

/// What /proc/self/stat says.
#[derive(Debug, PartialEq)]
struct Usage {
    cpu_seconds: f64,
    resident_bytes: i64,
}

impl Usage {
    /// See proc_pid_stat(5): the program's name stands in brackets and may hold anything; behind it, field 3 and on.
    fn parse(stat: &str) -> Option<Self> {
        let (_, fields) = stat.rsplit_once(") ")?;
        let fields: Vec<&str> = fields.split(' ').collect();
        let field = |number: usize| fields.get(number - 3)?.parse::<u64>().ok();
        let (user, system, resident_pages) = (field(14)?, field(15)?, field(24)?);
        let page = u64::try_from(rustix::param::page_size()).ok()?;
        Some(Self {
            cpu_seconds: (user + system) as f64 / rustix::param::clock_ticks_per_second() as f64,
            resident_bytes: i64::try_from(resident_pages * page).ok()?,
        })
    }
}

#[cfg(test)]
mod tests {
    use prometheus_client::{encoding::text, registry::Registry};

    use super::*;

    #[test]
    fn a_name_with_brackets_and_spaces_is_no_trouble() {
        let stat = "7 (a) R) S 1 1 1 0 -1 0 0 0 0 0 150 50 0 0 20 0 9 0 100 4096 3 18446744073709551615 0 0";
        let usage = Usage::parse(stat).unwrap();
        assert_eq!(usage.cpu_seconds, 200.0 / rustix::param::clock_ticks_per_second() as f64);
        assert_eq!(usage.resident_bytes, 3 * rustix::param::page_size() as i64);
        assert_eq!(Usage::parse("7 (a) S 1"), None);
    }

    #[test]
    fn names_are_the_standard_ones() {
        let mut registry = Registry::default();
        registry.register_collector(Box::new(Process::started(SystemTime::now())));
        let mut encoded = String::new();
        text::encode(&mut encoded, &registry).unwrap();
        for name in [
            "process_start_time_seconds",
            "process_cpu_seconds_total",
            "process_resident_memory_bytes",
            "process_open_fds",
        ] {
            let line = encoded.lines().find(|line| line.starts_with(&format!("{name} ")));
            let value: f64 =
                line.unwrap_or_else(|| panic!("{name}\n{encoded}")).rsplit(' ').next().unwrap().parse().unwrap();
            assert!(value >= 0.0);
        }
    }
}
