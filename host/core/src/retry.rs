//! When to try again: exponential back-off with jitter per subject, and parking when it does not help.

use std::{
    hash::{DefaultHasher, Hash, Hasher},
    time::Duration,
};

use crate::action::WriteError;

/// First delay. Long enough for a watch to catch up, short enough not to be noticed.
const FIRST: Duration = Duration::from_millis(100);
/// Longest delay: with a minute between, a thousand failing objects cost 17 requests a second.
const LONGEST: Duration = Duration::from_secs(60);
/// Attempts of a plugin at one subject before it is parked (docs/plugins.md). With the delays above that is 13 seconds.
pub const PLUGIN_ATTEMPTS: u32 = 8;

/// The failures of one handler at one subject since its last success.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Backoff {
    attempts: u32,
}

/// What to do after a failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Retry {
    /// Try again after this time.
    After(Duration),
    /// Wait until something changes.
    Parked,
}

impl Backoff {
    /// How often it failed in a row.
    pub fn attempts(&self) -> u32 {
        self.attempts
    }

    /// All is well.
    pub fn succeed(&mut self) {
        self.attempts = 0;
    }

    /// Counts a failure. `seed` spreads subjects that fail together; `limit` is the number of attempts before parking;
    /// `asked` is a delay that the failing side asked for, honoured up to the longest delay.
    pub fn fail(&mut self, seed: &impl Hash, limit: Option<u32>, asked: Option<Duration>) -> Retry {
        self.attempts = self.attempts.saturating_add(1);
        if limit.is_some_and(|limit| self.attempts >= limit) {
            return Retry::Parked;
        }
        let exponential = FIRST.saturating_mul(2_u32.saturating_pow(self.attempts - 1)).min(LONGEST);
        let mut hasher = DefaultHasher::new();
        (seed, self.attempts).hash(&mut hasher);
        // Between half of the delay and the whole of it.
        let jittered = exponential.mul_f64(0.5 + 0.5 * (hasher.finish() % 1024) as f64 / 1024.0);
        Retry::After(asked.map_or(jittered, |asked| asked.clamp(FIRST, LONGEST.saturating_mul(10))))
    }

    /// Counts what came of writes, unless nothing more was in their way than that the Lease was not held: nobody begins
    /// before it is, and then at once.
    pub fn fail_to_write(&mut self, seed: &impl Hash, errors: &[WriteError]) -> Retry {
        if errors.iter().all(|error| *error == WriteError::NotLeader) {
            Retry::After(FIRST)
        } else {
            self.fail(seed, None, None)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::object::{GroupVersionKind, NamespacedName, ObjectKey};

    #[test]
    fn delays_grow_to_the_longest_and_start_over_after_a_success() {
        let mut backoff = Backoff::default();
        let mut last = Duration::ZERO;
        for _ in 0..40 {
            let Retry::After(delay) = backoff.fail(&"subject", None, None) else { panic!("parked without a limit") };
            assert!(delay <= LONGEST && delay >= last.min(LONGEST / 2) / 2);
            last = delay;
        }
        assert!(last >= LONGEST / 2);
        backoff.succeed();
        assert!(matches!(backoff.fail(&"subject", None, None), Retry::After(delay) if delay <= FIRST));
    }

    #[test]
    fn a_plugin_is_parked_after_its_attempts() {
        let mut backoff = Backoff::default();
        let parked = (1..=PLUGIN_ATTEMPTS).find(|_| backoff.fail(&1, Some(PLUGIN_ATTEMPTS), None) == Retry::Parked);
        assert_eq!(parked, Some(PLUGIN_ATTEMPTS));
    }

    #[test]
    fn to_be_without_the_lease_does_not_count() {
        let mut backoff = Backoff::default();
        for _ in 0..40 {
            assert_eq!(backoff.fail_to_write(&1, &[WriteError::NotLeader]), Retry::After(FIRST));
        }
        assert_eq!(backoff.attempts(), 0);
        let refused = WriteError::Refused {
            object: ObjectKey { kind: GroupVersionKind::new("", "v1", "Pod"), at: NamespacedName::new("n", "a") },
            code: 403,
            reason: String::new(),
            message: String::new(),
            fields: Vec::new(),
        };
        backoff.fail_to_write(&1, &[WriteError::NotLeader, refused]);
        assert_eq!(backoff.attempts(), 1);
    }

    #[test]
    fn a_delay_that_was_asked_for_is_honoured() {
        let asked = Duration::from_secs(30);
        assert_eq!(Backoff::default().fail(&1, None, Some(asked)), Retry::After(asked));
    }
}
