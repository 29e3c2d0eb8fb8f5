//! What the answers of all schedulers may take together in memory and time, however many of them lie at once.
//!
//! Room is taken as bytes come, never as they are announced. One long answer at a time comes alone, into room of its own: so
//! there is always one that waits for nobody, and no two can wait for each other. Waiting for room is not the scheduler's
//! fault and counts for no deadline; an answer that has begun to come has a short one.

use std::{
    future::pending,
    panic::resume_unwind,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    task::spawn_blocking,
    time::{Instant, timeout_at},
};

/// The longest answer to a question that has a short one, in bytes. The longest of those is 10,000 addresses at 40 bytes.
pub(super) const SHORT: usize = 1 << 20;

/// The longest answer at all, in bytes. The longest that is expected is the description of 10,000 workers at 3 KB.
pub(super) const LONG: usize = 64 << 20;

/// So much of an answer is taken at any time, in bytes, and so much at once.
pub(super) const PIECE: usize = 64 << 10;

/// What the rest of all answers may take together, those that come alone aside, in bytes.
const TOGETHER: usize = 64 << 20;

/// The most of it for one answer, in bytes: the description of 1,300 workers. A longer one comes alone.
const SHARE: usize = 4 << 20;

/// The room for answers, as one call sees it.
#[derive(Clone)]
pub(super) struct Memory {
    together: Arc<Semaphore>,
    alone: Arc<Semaphore>,
    /// How long an answer may take from its beginning to its end.
    transfer: Duration,
    waited: Arc<Mutex<Waited>>,
}

/// How long a call has waited for room.
#[derive(Default)]
struct Waited {
    before: Duration,
    since: Option<Instant>,
}

impl Waited {
    fn total(&self) -> Duration {
        self.before + self.since.map_or(Duration::ZERO, |since| since.elapsed())
    }
}

impl Memory {
    /// All of it, for answers that take at most so long from their beginning to their end.
    pub(super) fn new(transfer: Duration) -> Self {
        let (together, alone) = (Arc::new(Semaphore::new(TOGETHER)), Arc::new(Semaphore::new(1)));
        Self { together, alone, transfer, waited: Arc::default() }
    }

    /// The same room, for another call.
    pub(super) fn for_call(&self) -> Self {
        Self { waited: Arc::default(), ..self.clone() }
    }

    /// None if this call's work takes longer, the time that it waits for room aside.
    /// The work is pinned by the caller: a future that is handed over takes its place twice, and these lie in each other.
    pub(super) async fn timeout<T>(&self, within: Duration, mut work: Pin<&mut impl Future<Output = T>>) -> Option<T> {
        let (begun, before) = (Instant::now(), self.lock().total());
        let until = || begun + within + (self.lock().total() - before);
        loop {
            match timeout_at(until(), &mut work).await {
                Ok(value) => return Some(value),
                Err(_) if until() <= Instant::now() => return None,
                // It waits for room, or did.
                Err(_) => {}
            }
        }
    }

    /// The rest of an answer that has begun to come.
    ///
    /// # Errors
    /// The time that it may take, when it takes longer.
    pub(super) async fn transfer<T>(&self, rest: Pin<&mut impl Future<Output = T>>) -> Result<T, Duration> {
        self.timeout(self.transfer, rest).await.ok_or(self.transfer)
    }

    fn lock(&self) -> MutexGuard<'_, Waited> {
        self.waited.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A call waits for room as long as this lives.
struct Waiting<'a>(&'a Memory);

impl<'a> Waiting<'a> {
    fn begin(memory: &'a Memory) -> Self {
        memory.lock().since = Some(Instant::now());
        Self(memory)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        let mut waited = self.0.lock();
        *waited = Waited { before: waited.total(), since: None };
    }
}

/// An answer while it comes, and the room that it takes.
pub(super) struct Answer {
    pub(super) bytes: Vec<u8>,
    memory: Memory,
    room: Option<Room>,
}

/// Given back when it is dropped.
enum Room {
    Together(OwnedSemaphorePermit),
    Alone(#[expect(dead_code, reason = "it is held")] OwnedSemaphorePermit),
}

impl Answer {
    /// Nothing has come.
    pub(super) fn new(memory: &Memory) -> Self {
        Self { bytes: Vec::new(), memory: memory.clone(), room: None }
    }

    /// Waits until there is room for so many bytes more.
    pub(super) async fn reserve(&mut self, more: usize) {
        let needed = (self.bytes.len() + more).saturating_sub(PIECE);
        let held = match &self.room {
            Some(Room::Alone(_)) => return,
            Some(Room::Together(room)) => room.num_permits(),
            None => 0,
        };
        if needed <= held {
            return;
        }
        let missing = u32::try_from(needed - held).unwrap_or(u32::MAX);
        let Memory { together, alone, .. } = &self.memory;
        let _waiting = Waiting::begin(&self.memory);
        let room = tokio::select! {
            biased;
            room = Arc::clone(together).acquire_many_owned(missing), if needed <= SHARE => room.map(Room::Together),
            room = Arc::clone(alone).acquire_owned() => room.map(Room::Alone),
        };
        match (&mut self.room, room.expect("they are never closed")) {
            (Some(Room::Together(held)), Room::Together(more)) => held.merge(more),
            (held, room) => *held = Some(room),
        }
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
    use std::pin::pin;

    use futures::FutureExt as _;
    use tokio::time::sleep;

    use super::*;

    const TRANSFER: Duration = Duration::from_secs(10);

    /// An answer of which so many bytes have come.
    fn come(memory: &Memory, bytes: usize) -> Option<Answer> {
        let mut answer = Answer::new(&memory.for_call());
        answer.reserve(bytes).now_or_never()?;
        answer.bytes.resize(bytes, 0);
        Some(answer)
    }

    #[tokio::test]
    async fn long_answers_wait_for_each_other_and_short_ones_for_nobody() {
        let memory = Memory::new(TRANSFER);
        let alone = come(&memory, LONG).unwrap();
        assert!(come(&memory, PIECE + SHARE + 1).is_none(), "there is no room for a second");
        let shares: Vec<_> = (0..TOGETHER / SHARE).map(|_| come(&memory, PIECE + SHARE).unwrap()).collect();
        assert!(come(&memory, PIECE + 1).is_none());
        assert!(come(&memory, PIECE).is_some(), "so much is taken at any time");

        assert_eq!(alone.decode(|bytes| bytes.len()).await, LONG);
        let next = come(&memory, PIECE + 1).expect("what is decoded takes no room any more");
        drop(shares);
        assert!(come(&memory, PIECE + SHARE).is_some() && come(&memory, LONG).is_none());
        drop(next);
        assert!(come(&memory, LONG).is_some());
    }

    #[tokio::test]
    async fn answers_that_have_taken_all_room_end_one_after_the_other() {
        let memory = Memory::new(TRANSFER);
        let half: Vec<_> = (0..2 * TOGETHER / SHARE).map(|_| come(&memory, PIECE + SHARE / 2).unwrap()).collect();
        let ends = half.into_iter().map(|mut answer| async move { answer.reserve(LONG - answer.bytes.len()).await });
        assert!(futures::future::join_all(ends).now_or_never().is_some());
    }

    #[tokio::test(start_paused = true)]
    async fn waiting_for_room_counts_for_no_deadline() {
        let memory = Memory::new(TRANSFER);
        let held = come(&memory, LONG).unwrap();
        let call = memory.for_call();
        let mut answer = Answer::new(&call);
        let work = async {
            sleep(Duration::from_secs(4)).await;
            answer.reserve(LONG).await;
            sleep(Duration::from_secs(4)).await;
        };
        let release = async {
            sleep(Duration::from_secs(100)).await;
            drop(held);
        };
        let begun = Instant::now();
        let mut work = pin!(work);
        let transfer = pin!(call.transfer(work.as_mut()));
        let (worked, ()) = tokio::join!(call.timeout(TRANSFER, transfer), release);
        assert_eq!((worked, begun.elapsed().as_secs()), (Some(Ok(())), 104));
        let late = call.timeout(TRANSFER, pin!(sleep(2 * TRANSFER))).await;
        assert_eq!((late, begun.elapsed().as_secs()), (None, 114), "what another has waited for is over");
    }
}
