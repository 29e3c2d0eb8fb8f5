//! Tasks that work until the process is told to stop. One that ends before has failed, and the process must end with it: it
//! would go on holding the Lease and look healthy, and nobody would do the task's work.

use std::{future::pending, time::Duration};

use anyhow::{Error, anyhow};
use futures::{FutureExt as _, future::select_all};
use tokio::{task::JoinHandle, time::timeout};

use super::shutdown::Shutdown;

/// See the module.
pub(crate) struct Task {
    name: &'static str,
    handle: JoinHandle<()>,
    shutdown: Shutdown,
    has_ended: bool,
}

impl Task {
    /// Starts it. `shutdown` is what tells it to end. Must be called within a tokio runtime.
    pub(crate) fn spawn(
        name: &'static str,
        shutdown: &Shutdown,
        work: impl Future<Output = ()> + Send + 'static,
    ) -> Self {
        Self { name, handle: tokio::spawn(work), shutdown: shutdown.clone(), has_ended: false }
    }

    /// Waits until it ends without being told to; returns why it did.
    pub(crate) async fn failed(&mut self) -> Error {
        let result = (&mut self.handle).await;
        self.has_ended = true;
        match result {
            Ok(()) if self.shutdown.is_requested() => pending().await,
            Ok(()) => anyhow!("the {} ended before it was told to", self.name),
            Err(error) => Error::new(error).context(format!("the {} failed", self.name)),
        }
    }

    /// Waits for its end, which it was told of. Whether it came in time.
    pub(crate) async fn ends_within(self, limit: Duration) -> bool {
        self.has_ended || timeout(limit, self.handle).await.is_ok()
    }
}

/// Waits until one of at least one task ends, as none should; returns why it did.
pub(crate) async fn first_failure(tasks: impl Iterator<Item = &mut Task>) -> Error {
    select_all(tasks.map(|task| task.failed().boxed())).await.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_task_that_ends_is_named_with_the_cause() {
        let never = Shutdown::never();
        let mut panics = Task::spawn("controller", &never, async { panic!("index out of bounds") });
        let mut works = Task::spawn("plugin manager", &never, pending());
        let error = first_failure([&mut works, &mut panics].into_iter()).await;
        let text = format!("{error:#}");
        assert!(text.starts_with("the controller failed: ") && text.contains("index out of bounds"), "{text}");
        let mut ends = Task::spawn("plugin manager", &never, async {});
        assert_eq!(ends.failed().await.to_string(), "the plugin manager ended before it was told to");
    }

    #[tokio::test]
    async fn to_end_when_told_to_is_no_failure() {
        let mut ends = Task::spawn("controller", &Shutdown::requested_already(), async {});
        let failed = timeout(Duration::from_millis(50), ends.failed()).await;
        assert!(failed.is_err() && ends.has_ended, "{failed:?}");
        assert!(ends.ends_within(Duration::ZERO).await);
    }
}
