//! Whether this process may write: asked right before each write.

use std::time::Duration;

use dask_wasm_operator_core::ports::Warrant;
use tokio::{sync::watch, time::Instant};

/// Until when the process may write; none: it may not.
pub type WriteUntil = Option<Instant>;

/// The writer's side of the Lease: a copy of until when it is held.
#[derive(Clone, Debug)]
pub struct Gate {
    until: Option<watch::Receiver<WriteUntil>>,
    warrant: Warrant,
}

impl Gate {
    /// Always open: for a process that was told that it is the only one.
    pub fn open() -> Self {
        Self { until: None, warrant: Warrant::default() }
    }

    /// Open as long as a Lease is held.
    pub fn held_until(until: watch::Receiver<WriteUntil>) -> Self {
        Self { until: Some(until), warrant: Warrant::default() }
    }

    /// The same, as long as a warrant holds.
    pub(crate) fn under(&self, warrant: Warrant) -> Self {
        Self { until: self.until.clone(), warrant }
    }

    /// Whether a write that takes at most this long would end while the Lease is surely still ours.
    pub fn allows(&self, duration: Duration) -> bool {
        self.warrant.holds() && self.until.as_ref().is_none_or(|until| is_left(*until.borrow(), duration))
    }

    /// Waits until it [allows](Self::allows) writes that take at most this long.
    pub async fn opened(&self, duration: Duration) {
        let Some(until) = &self.until else { return };
        if until.clone().wait_for(|until| is_left(*until, duration)).await.is_err() {
            // Who held the Lease is gone: it stays as it is.
            std::future::pending().await
        }
    }
}

fn is_left(until: WriteUntil, duration: Duration) -> bool {
    until.is_some_and(|until| Instant::now() + duration < until)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn closes_before_the_lease_ends() {
        let hour = Duration::from_secs(3_600);
        assert!(Gate::open().allows(hour));
        let (sender, receiver) = watch::channel(None);
        let gate = Gate::held_until(receiver);
        assert!(!gate.allows(Duration::ZERO));
        sender.send_replace(Some(Instant::now() + hour));
        assert!(gate.allows(hour / 2));
        assert!(!gate.allows(hour * 2));
        sender.send_replace(Some(Instant::now()));
        assert!(!gate.allows(Duration::ZERO));
    }

    #[tokio::test]
    async fn whoever_waits_for_it_goes_on_when_it_opens_wide_enough() {
        let hour = Duration::from_secs(3_600);
        Gate::open().opened(hour).await;
        let (sender, receiver) = watch::channel(None);
        let gate = Gate::held_until(receiver);
        let mut opened = std::pin::pin!(gate.opened(hour));
        for until in [None, Some(Instant::now()), Some(Instant::now() + hour / 2)] {
            sender.send_replace(until);
            assert!(futures::poll!(opened.as_mut()).is_pending(), "{until:?}");
        }
        sender.send_replace(Some(Instant::now() + hour * 2));
        assert!(futures::poll!(opened.as_mut()).is_ready());
    }
}
