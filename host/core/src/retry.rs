//! When to try again: exponential back-off with jitter per subject, and parking when it does not help.

use std::{
    hash::{DefaultHasher, Hash, Hasher},
    time::Duration,
};

use serde::{Deserialize, Serialize};

use crate::action::WriteError;

/// First delay. Long enough for a watch to catch up, short enough not to be noticed.
const FIRST: Duration = Duration::from_millis(100);
/// Longest delay: with a minute between, a thousand failing objects cost 17 requests a second.
const LONGEST: Duration = Duration::from_secs(60);
/// Attempts of a plugin at one subject before it is parked (docs/plugins.md). With the delays above that is 13 seconds.
pub const PLUGIN_ATTEMPTS: u32 = 8;
/// The first and the longest delay of what is parked: nothing needs a person to come back, and a thousand parked subjects cost
/// two calls a second.
const PARKED_FIRST: Duration = Duration::from_secs(60);
pub const PARKED_LONGEST: Duration = Duration::from_secs(600);

/// The failures of one handler at one subject since its last success.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Backoff {
    attempts: u32,
    /// Failures since something changed that gives reason to hope.
    since_hope: Option<u32>,
}

/// What to do after a failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Retry {
    /// Try again after this time.
    After(Duration),
    /// Wait until something changes, and for no longer than this time.
    Parked(Duration),
}

impl Backoff {
    /// How often it failed in a row.
    pub fn attempts(&self) -> u32 {
        self.attempts
    }

    /// All is well.
    pub fn succeed(&mut self) {
        *self = Self::default();
    }

    /// What was in the way has changed. Whoever enforces it may not know that yet (the quota of an API server lags behind its
    /// object), so that the next attempt may be too early and the delays begin anew. What was given up stays so until it
    /// succeeds.
    pub fn hope(&mut self) {
        self.since_hope = Some(0);
    }

    /// Counts a failure. `seed` spreads subjects that fail together; `limit` is the number of attempts before parking;
    /// `asked` is a delay that the failing side asked for, honoured up to the longest delay.
    pub fn fail(&mut self, seed: &impl Hash, limit: Option<u32>, asked: Option<Duration>) -> Retry {
        self.attempts = self.attempts.saturating_add(1);
        let limit = limit.map(|limit| limit.max(1)).filter(|limit| self.attempts >= *limit);
        let (first, longest) = limit.map_or((FIRST, LONGEST), |_| (PARKED_FIRST, PARKED_LONGEST));
        let own = match &mut self.since_hope {
            Some(failures) => {
                *failures = failures.saturating_add(1);
                exponential(FIRST, *failures - 1, longest)
            }
            None => exponential(first, self.attempts - limit.unwrap_or(1), longest),
        };
        let own = self.jittered(seed, own);
        match limit {
            Some(_) => Retry::Parked(own),
            None => Retry::After(asked.map_or(own, |asked| asked.clamp(FIRST, LONGEST.saturating_mul(10)))),
        }
    }

    /// Between half of the delay and the whole of it.
    fn jittered(&self, seed: &impl Hash, delay: Duration) -> Duration {
        let mut hasher = DefaultHasher::new();
        (seed, self.attempts).hash(&mut hasher);
        delay.mul_f64(0.5 + 0.5 * (hasher.finish() % 1024) as f64 / 1024.0)
    }

    /// Counts what came of writes, unless nothing more was in their way than that the Lease was not held, or that the plugin was
    /// mounted anew: nobody begins before that is over, and then at once.
    pub fn fail_to_write(&mut self, seed: &impl Hash, errors: &[WriteError]) -> Retry {
        if errors.iter().all(|error| matches!(error, WriteError::NotLeader | WriteError::Withdrawn)) {
            Retry::After(FIRST)
        } else {
            self.fail(seed, None, None)
        }
    }
}

fn exponential(first: Duration, times: u32, longest: Duration) -> Duration {
    first.saturating_mul(2_u32.saturating_pow(times)).min(longest)
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
        let mut is_parked = |_: &u32| matches!(backoff.fail(&1, Some(PLUGIN_ATTEMPTS), None), Retry::Parked(_));
        assert_eq!((1..=PLUGIN_ATTEMPTS).find(&mut is_parked), Some(PLUGIN_ATTEMPTS));
    }

    #[test]
    fn what_is_parked_is_tried_again_ever_less_often_and_at_least_every_ten_minutes() {
        for limit in [0, PLUGIN_ATTEMPTS] {
            let mut backoff = Backoff::default();
            let delays = (0..20).filter_map(|_| match backoff.fail(&1, Some(limit), None) {
                Retry::Parked(delay) => Some(delay),
                Retry::After(_) => None,
            });
            let delays: Vec<_> = delays.collect();
            assert!(delays[0] >= PARKED_FIRST / 2 && delays[0] <= PARKED_FIRST, "{delays:?}");
            assert!(delays.iter().all(|delay| *delay <= PARKED_LONGEST), "{delays:?}");
            assert!(delays.last().is_some_and(|delay| *delay >= PARKED_LONGEST / 2), "{delays:?}");
        }
    }

    /// The belief that is attacked: that what was in the way of a write is out of it as soon as it is seen to be.
    #[test]
    fn when_there_is_hope_the_delays_begin_anew_and_what_was_given_up_stays_so() {
        for limit in [None, Some(0), Some(PLUGIN_ATTEMPTS)] {
            let mut backoff = Backoff::default();
            let fail = |backoff: &mut Backoff| match backoff.fail(&1, limit, None) {
                Retry::Parked(delay) => (true, delay),
                Retry::After(delay) => (false, delay),
            };
            (0..20).for_each(|_| _ = fail(&mut backoff));
            backoff.hope();
            let delays: Vec<_> = (0..20).map(|_| fail(&mut backoff)).collect();
            assert!(delays.iter().all(|(is_parked, _)| *is_parked == limit.is_some()), "{delays:?}");
            let quick: Duration = delays[..6].iter().map(|(_, delay)| *delay).sum();
            assert!(delays[0].1 <= FIRST && quick <= Duration::from_secs(7), "{delays:?}");
            let longest = if limit.is_some() { PARKED_LONGEST } else { LONGEST };
            assert!(delays[19].1 >= longest / 2 && delays[19].1 <= longest, "{delays:?}");
            backoff.succeed();
            assert_eq!(backoff, Backoff::default());
        }
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
