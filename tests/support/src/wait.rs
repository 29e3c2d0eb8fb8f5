//! Waiting for a condition, the only kind of waiting that tests do.

use std::time::Duration;

use anyhow::{Context, anyhow};
use tokio::time::{Instant, MissedTickBehavior};

/// How often a condition is looked at: short enough not to be noticed, long enough not to load the API server.
const INTERVAL: Duration = Duration::from_millis(50);

/// Asks `condition` until it answers with a value. An error counts as "not yet": servers start, objects appear late.
///
/// # Errors
/// When `timeout` has passed; the message has `description`, as in "waiting for {description}", and the last error.
pub async fn wait_for<T>(
    description: &str,
    timeout: Duration,
    mut condition: impl AsyncFnMut() -> anyhow::Result<Option<T>>,
) -> anyhow::Result<T> {
    let deadline = Instant::now() + timeout;
    let mut interval = tokio::time::interval(INTERVAL);
    interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut last_error = None;
    let answered = tokio::time::timeout_at(deadline, async {
        loop {
            interval.tick().await;
            match condition().await {
                Ok(Some(value)) => return value,
                Ok(None) => last_error = None,
                Err(error) => last_error = Some(error),
            }
        }
    })
    .await;
    answered
        .map_err(|_| last_error.unwrap_or_else(|| anyhow!("it did not happen within {timeout:?}")))
        .with_context(|| format!("waiting for {description}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn errors_are_not_the_end() {
        let mut calls = 0;
        let answer = wait_for("the third call", Duration::from_secs(60), async || {
            calls += 1;
            match calls {
                1 => Err(anyhow!("not up")),
                2 => Ok(None),
                _ => Ok(Some(calls)),
            }
        });
        assert_eq!(answer.await.unwrap(), 3);
    }

    #[tokio::test]
    async fn the_last_error_is_reported() {
        let answer = wait_for::<()>("a wonder", Duration::ZERO, async || Err(anyhow!("not up")));
        let message = format!("{:#}", answer.await.unwrap_err());
        assert!(message.starts_with("waiting for a wonder: "), "{message}");
    }
}
