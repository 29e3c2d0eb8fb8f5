//! Growing waits between attempts, with jitter so that many clients don't come back at the same moment.

use std::{
    hash::{BuildHasher, RandomState},
    time::Duration,
};

/// Waits that double from a first one up to a limit.
#[derive(Clone, Debug)]
pub struct Backoff {
    first: Duration,
    limit: Duration,
    failures: u32,
}

impl Backoff {
    /// Waits from `first` up to `limit`.
    pub const fn new(first: Duration, limit: Duration) -> Self {
        Self { first, limit, failures: 0 }
    }

    /// The wait after one more failure: between half and all of the doubled wait.
    pub fn after_failure(&mut self) -> Duration {
        let doubled = self.first.saturating_mul(2_u32.saturating_pow(self.failures)).min(self.limit);
        self.failures = self.failures.saturating_add(1);
        doubled.mul_f64(0.5 + random_fraction() / 2.0)
    }

    /// Failures since it was started again.
    pub(crate) fn failures(&self) -> u32 {
        self.failures
    }

    /// Starts again from the first wait.
    pub fn reset(&mut self) {
        self.failures = 0;
    }
}

/// A random 64-bit number: good enough for jitter and for telling processes apart, not for secrets.
pub(crate) fn random() -> u64 {
    // Every `RandomState` has keys of its own, from the system's random source or derived from it.
    RandomState::new().hash_one(())
}

/// A random number from 0 to 1.
fn random_fraction() -> f64 {
    f64::from((random() >> 32) as u32) / f64::from(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_grow_to_the_limit_and_start_again() {
        let (first, limit) = (Duration::from_millis(100), Duration::from_secs(1));
        let mut backoff = Backoff::new(first, limit);
        for expected in [100, 200, 400, 800, 1000, 1000].map(Duration::from_millis) {
            let wait = backoff.after_failure();
            assert!(wait >= expected / 2 && wait <= expected, "{wait:?} for {expected:?}");
        }
        for _ in 0..100 {
            assert!(backoff.after_failure() <= limit);
        }
        backoff.reset();
        assert!(backoff.after_failure() <= first);
    }

    #[test]
    fn random_numbers_differ() {
        assert_ne!(random(), random());
    }
}
