//! Times as Kubernetes writes them. Nothing here reads a clock.

use std::time::Duration;

use jiff::Timestamp;

/// How far clocks of a cluster may differ.
pub const CLOCK_SKEW: Duration = Duration::from_secs(3_600);

/// Milliseconds since the Unix epoch as RFC 3339 in UTC with seconds, `2026-11-22T18:30:00Z`.
pub fn rfc3339(millis: u64) -> String {
    let seconds = i64::try_from(millis / 1000).ok().and_then(|seconds| Timestamp::from_second(seconds).ok());
    seconds.unwrap_or(Timestamp::UNIX_EPOCH).to_string()
}

/// Milliseconds since the Unix epoch of a time in RFC 3339; none if it is not one, or before 1970.
pub fn epoch_millis(text: &str) -> Option<u64> {
    text.parse::<Timestamp>().ok().and_then(|time| u64::try_from(time.as_millisecond()).ok())
}

/// What is left at `now` of a span that began at `since`, both in milliseconds since the Unix epoch; none: it is over. A
/// beginning that is yet to come is that of a clock that was set back, or nobody's: nothing waits for it.
pub fn left(since: u64, span: Duration, now: u64) -> Option<Duration> {
    let passed = Duration::from_millis(now.checked_sub(since)?);
    span.checked_sub(passed).filter(|left| !left.is_zero())
}

/// A duration in milliseconds, at most as many as there can be.
pub fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_times() {
        for (millis, text) in [(0, "1970-01-01T00:00:00Z"), (1_795_372_200_999, "2026-11-22T18:30:00Z")] {
            assert_eq!(rfc3339(millis), text);
            assert_eq!(epoch_millis(text), Some(millis / 1000 * 1000));
        }
        for bad in ["", "now", "2026-11-22", "1960-01-01T00:00:00Z"] {
            assert_eq!(epoch_millis(bad), None, "{bad}");
        }
    }

    #[test]
    fn no_wait_is_longer_than_its_span_whatever_the_clocks_say() {
        let second = Duration::from_secs(1);
        for (since, now, expected) in [
            (5_000, 5_000, Some(second)),
            (5_000, 5_999, Some(Duration::from_millis(1))),
            (5_000, 6_000, None),
            (5_001, 5_000, None),
            (u64::MAX, 5_000, None),
        ] {
            assert_eq!(left(since, second, now), expected, "since {since}, at {now}");
        }
        assert_eq!(left(0, Duration::MAX, u64::MAX), Some(Duration::MAX - Duration::from_millis(u64::MAX)));
    }
}
