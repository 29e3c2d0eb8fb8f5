//! How much of everything a plugin may use. The numbers are part of the operator's documentation and the chart's values.

use std::time::Duration;

/// Bytes of stack that the code of a guest may use. The same for all plugins, because it is compiled into the engine's
/// settings; threads of guests have sixteen times that, so that the host's own functions never overflow.
pub(crate) const STACK: usize = 512 << 10;

/// What one plugin may use: at each call, if not said otherwise.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Wall time of one call, instantiation included.
    pub deadline: Duration,
    /// Bytes of all linear memories together.
    pub memory: u64,
    /// Elements of all tables together.
    pub table_elements: u64,
    /// Bytes that may cross from the guest to the host at once: the outcome.
    pub outcome: u64,
    /// Lines of log.
    pub log_lines: u32,
    /// Bytes of one line of log; longer ones are cut.
    pub log_line: u32,
    /// Bytes of the plain component, once.
    pub component: u64,
    /// Core instances in the component, once. A Rust guest has 3, CPython 38.
    pub core_instances: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            deadline: Duration::from_secs(1),
            memory: 128 << 20,
            table_elements: 100_000,
            outcome: 4 << 20,
            log_lines: 100,
            log_line: 2 << 10,
            component: 32 << 20,
            core_instances: 64,
        }
    }
}

impl Limits {
    /// The most that may be set. What has no setting of its own stands at its default.
    pub fn maximum() -> Self {
        Self { deadline: Duration::from_secs(10), memory: 512 << 20, ..Self::default() }
    }

    /// Checks that no limit is zero or above the maximum.
    ///
    /// # Errors
    /// The first limit that is out of its range.
    pub fn check(&self) -> Result<(), LimitError> {
        let maximum = Self::maximum();
        let milliseconds = |duration: Duration| u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
        [
            ("deadline (ms)", milliseconds(self.deadline), milliseconds(maximum.deadline)),
            ("memory (bytes)", self.memory, maximum.memory),
            ("tableElements", self.table_elements, maximum.table_elements),
            ("outcome (bytes)", self.outcome, maximum.outcome),
            ("logLines", self.log_lines.into(), maximum.log_lines.into()),
            ("logLine (bytes)", self.log_line.into(), maximum.log_line.into()),
            ("component (bytes)", self.component, maximum.component),
            ("coreInstances", self.core_instances.into(), maximum.core_instances.into()),
        ]
        .into_iter()
        .find(|(_, value, maximum)| *value == 0 || value > maximum)
        .map_or(Ok(()), |(limit, value, maximum)| Err(LimitError { limit, value, maximum }))
    }
}

/// A limit that can't be set so.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("spec.limits: {limit} is {value}; set it between 1 and {maximum}")]
pub struct LimitError {
    limit: &'static str,
    value: u64,
    maximum: u64,
}

/// What a plugin may import.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Profile {
    /// The log, and a WASI 0.2 that denies everything, because most languages' runtimes insist on one.
    #[default]
    Standard,
    /// The log only.
    Strict,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_and_the_maximum_can_be_set() {
        assert_eq!(Limits::default().check(), Ok(()));
        assert_eq!(Limits::maximum().check(), Ok(()));
    }

    #[test]
    fn a_limit_out_of_range_is_named() {
        let above = Limits { memory: (512 << 20) + 1, ..Limits::default() };
        let error = above.check().unwrap_err().to_string();
        assert_eq!(error, "spec.limits: memory (bytes) is 536870913; set it between 1 and 536870912");

        let zero = Limits { deadline: Duration::ZERO, ..Limits::default() };
        assert!(zero.check().unwrap_err().to_string().starts_with("spec.limits: deadline (ms) is 0;"));
    }
}
