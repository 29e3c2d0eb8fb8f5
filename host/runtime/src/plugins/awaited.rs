//! When the API server is asked again which kinds it serves, while plugins wait for some that it does not serve.

use std::time::Duration;

use tokio::time::Instant;

/// First delay: a definition takes a moment until its kind is served.
const FIRST: Duration = Duration::from_secs(1);
/// Longest delay: kinds of whose coming nothing tells are found by asking only.
const LONGEST: Duration = Duration::from_secs(300);

/// See the module.
#[derive(Default)]
pub(super) struct Awaited(Option<(Instant, Duration)>);

impl Awaited {
    /// Somebody waits from now on, or something changed: it may be there in a moment.
    pub(super) fn soon(&mut self, now: Instant) {
        let due = now + FIRST;
        self.0 = Some((self.0.map_or(due, |(former, _)| former.min(due)), FIRST));
    }

    /// The server was asked in vain: after each time, the next comes later.
    pub(super) fn asked(&mut self, now: Instant) {
        if let Some((due, delay)) = &mut self.0 {
            *delay = delay.saturating_mul(2).min(LONGEST);
            *due = now + *delay;
        }
    }

    /// Nobody waits any more.
    pub(super) fn stop(&mut self) {
        self.0 = None;
    }

    pub(super) fn due(&self) -> Option<Instant> {
        self.0.map(|(due, _)| due)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_server_is_asked_ever_less_often_until_something_changes() {
        let (mut awaited, begin) = (Awaited::default(), Instant::now());
        awaited.asked(begin);
        assert_eq!(awaited.due(), None);
        awaited.soon(begin);
        let mut asked = Vec::new();
        while asked.len() < 12 {
            let due = awaited.due().unwrap();
            asked.push((due - begin).as_secs());
            awaited.asked(due);
        }
        assert_eq!(asked, [1, 3, 7, 15, 31, 63, 127, 255, 511, 811, 1111, 1411]);
        let now = begin + Duration::from_secs(1500);
        awaited.soon(now);
        // What changes all the time does not put it off.
        awaited.soon(now + FIRST / 2);
        assert_eq!(awaited.due(), Some(now + FIRST));
        awaited.stop();
        assert_eq!(awaited.due(), None);
    }
}
