//! Times as Kubernetes writes them. Nothing here reads a clock.

use jiff::Timestamp;

/// Milliseconds since the Unix epoch as RFC 3339 in UTC with seconds, `2026-11-22T18:30:00Z`.
pub fn rfc3339(millis: u64) -> String {
    let seconds = i64::try_from(millis / 1000).ok().and_then(|seconds| Timestamp::from_second(seconds).ok());
    seconds.unwrap_or(Timestamp::UNIX_EPOCH).to_string()
}

/// Milliseconds since the Unix epoch of a time in RFC 3339; none if it is not one, or before 1970.
pub fn epoch_millis(text: &str) -> Option<u64> {
    text.parse::<Timestamp>().ok().and_then(|time| u64::try_from(time.as_millisecond()).ok())
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
}
