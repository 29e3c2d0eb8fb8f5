//! How much a plugin may write in a minute.

use std::time::Duration;

/// Milliseconds of the window.
const WINDOW: u64 = 60_000;

/// Writes of one plugin in the present window.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ApplyBudget {
    window: u64,
    used: u64,
}

impl ApplyBudget {
    /// Counts writes that were made at `now`, in milliseconds.
    pub fn spend(&mut self, writes: usize, now: u64) {
        if now >= self.window + WINDOW {
            (self.window, self.used) = (now, 0);
        }
        self.used += writes as u64;
    }

    /// How long to wait until the plugin may write again; none: it may now. A reconcile may overrun the budget by its own
    /// writes, of which there are no more than children.
    pub fn wait(&self, limit: u32, now: u64) -> Option<Duration> {
        let end = self.window + WINDOW;
        (self.used >= u64::from(limit) && now < end).then(|| Duration::from_millis(end - now))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_spent_budget_is_full_again_after_a_minute() {
        let mut budget = ApplyBudget::default();
        budget.spend(6, 1_000_000);
        assert_eq!(budget.wait(10, 1_000_100), None);
        budget.spend(4, 1_020_000);
        assert_eq!(budget.wait(10, 1_020_000), Some(Duration::from_secs(40)));
        assert_eq!(budget.wait(10, 1_060_000), None);
        budget.spend(1, 1_060_000);
        assert_eq!(budget.wait(10, 1_060_000), None, "a new window");
    }
}
