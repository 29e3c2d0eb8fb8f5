//! Tasks that work until the process is told to stop. One that ends before has failed, and the process must end with it: it
//! would go on holding the Lease and look healthy, and nobody would do the task's work.

use std::time::Duration;

use anyhow::{Error, anyhow};
use futures::{FutureExt as _, future::select_all};
use tokio::{task::JoinHandle, time::timeout};

/// See the module.
pub(crate) struct Task {
    name: &'static str,
    handle: JoinHandle<()>,
}

impl Task {
    /// Starts it. Must be called within a tokio runtime.
    pub(crate) fn spawn(name: &'static str, work: impl Future<Output = ()> + Send + 'static) -> Self {
        Self { name, handle: tokio::spawn(work) }
    }

    /// Waits until it ends, as it should not; returns why it did.
    pub(crate) async fn failed(&mut self) -> Error {
        match (&mut self.handle).await {
            Ok(()) => anyhow!("the {} ended before it was told to", self.name),
            Err(error) => Error::new(error).context(format!("the {} failed", self.name)),
        }
    }

    /// Waits for its end, which it was told of. Whether it came in time.
    pub(crate) async fn ends_within(self, limit: Duration) -> bool {
        timeout(limit, self.handle).await.is_ok()
    }
}

/// Waits until one of at least one task ends, as none should; returns why it did.
pub(crate) async fn first_failure(tasks: impl Iterator<Item = &mut Task>) -> Error {
    select_all(tasks.map(|task| task.failed().boxed())).await.0
}

#[cfg(test)]
mod tests {
    use std::future::pending;

    use super::*;

    #[tokio::test]
    async fn a_task_that_ends_is_named_with_the_cause() {
        let mut panics = Task::spawn("controller", async { panic!("index out of bounds") });
        let mut works = Task::spawn("plugin manager", pending());
        let error = first_failure([&mut works, &mut panics].into_iter()).await;
        let text = format!("{error:#}");
        assert!(text.starts_with("the controller failed: ") && text.contains("index out of bounds"), "{text}");
        let mut ends = Task::spawn("plugin manager", async {});
        assert_eq!(ends.failed().await.to_string(), "the plugin manager ended before it was told to");
    }
}
