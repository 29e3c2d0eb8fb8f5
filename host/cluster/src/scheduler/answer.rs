//! What the answers of all schedulers may take together in memory and time, however many of them lie at once.

use std::{future::pending, panic::resume_unwind, sync::Arc};

use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    task::spawn_blocking,
};

/// The longest answer to a question that has a short one, in bytes. The longest of those is 10,000 addresses at 40 bytes.
pub(super) const SHORT: usize = 1 << 20;

/// The longest answer at all, in bytes. The longest that is expected is the description of 10,000 workers at 3 KB.
pub(super) const LONG: usize = 64 << 20;

/// So much of an answer is taken at any time: 32 MiB for 512 calls at once.
const AT_ANY_TIME: usize = 64 << 10;

/// What all longer answers may take together.
const TOGETHER: usize = 2 * LONG;

/// The room for long answers.
#[derive(Clone)]
pub(super) struct Memory(Arc<Semaphore>);

impl Memory {
    /// All of it.
    pub(super) fn new() -> Self {
        Self(Arc::new(Semaphore::new(TOGETHER)))
    }
}

/// An answer while it comes, and the room that it takes.
pub(super) struct Answer {
    pub(super) bytes: Vec<u8>,
    /// The longest that is taken, in bytes.
    pub(super) longest: usize,
    memory: Memory,
    room: Option<OwnedSemaphorePermit>,
}

impl Answer {
    /// Nothing has come.
    pub(super) fn new(longest: usize, memory: &Memory) -> Self {
        Self { bytes: Vec::new(), longest, memory: memory.clone(), room: None }
    }

    /// Waits until there is room for so many bytes more.
    pub(super) async fn reserve(&mut self, more: usize) {
        if self.room.is_some() || self.bytes.len() + more <= AT_ANY_TIME {
            return;
        }
        // For the longest, whatever was announced: one that holds some and waits for more could wait for itself.
        let longest = u32::try_from(self.longest.min(TOGETHER)).expect("all together is less than 4 GiB");
        let room = Arc::clone(&self.memory.0).acquire_many_owned(longest).await;
        self.room = Some(room.expect("it is never closed"));
    }

    /// Makes a value of it, a long one where it keeps no other scheduler's answer waiting.
    pub(super) async fn decode<T: Send + 'static>(self, decode: impl FnOnce(&[u8]) -> T + Send + 'static) -> T {
        if self.room.is_none() {
            return decode(&self.bytes);
        }
        match spawn_blocking(move || decode(&self.bytes)).await {
            Ok(value) => value,
            Err(error) => match error.try_into_panic() {
                Ok(panic) => resume_unwind(panic),
                // The process ends.
                Err(_) => pending().await,
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt as _;

    use super::*;

    #[tokio::test]
    async fn long_answers_wait_for_each_other_and_short_ones_for_nobody() {
        let memory = Memory::new();
        let mut long: Vec<_> = (0..3).map(|_| Answer::new(LONG, &memory)).collect();
        for answer in &mut long[..2] {
            assert!(answer.reserve(LONG).now_or_never().is_some());
        }
        assert!(long[2].reserve(AT_ANY_TIME + 1).now_or_never().is_none(), "there is no room for a third");
        let mut short = Answer::new(SHORT, &memory);
        assert!(short.reserve(AT_ANY_TIME).now_or_never().is_some());
        assert!(short.reserve(AT_ANY_TIME + 1).now_or_never().is_none());

        let first = long.swap_remove(0);
        assert_eq!(first.decode(|bytes| bytes.len()).await, 0);
        assert!(short.reserve(SHORT).now_or_never().is_some(), "what is decoded takes no room any more");
    }
}
