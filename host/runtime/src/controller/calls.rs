//! Calls of schedulers that reconciles asked for: made beside the reconciles, so that a scheduler that hangs holds up nobody
//! else.

use std::{
    collections::{HashMap, HashSet},
    panic::AssertUnwindSafe,
    pin::pin,
    sync::Arc,
    time::Duration,
};

use dask_wasm_operator_core::{
    object::NamespacedName,
    pipeline::SubjectState,
    scheduler::{Scheduler, SchedulerCall, SchedulerError, SchedulerReply},
};
use futures::FutureExt as _;
use tokio::{sync::Semaphore, task::JoinSet, time::sleep};

use super::{Controller, Inner, Work};
use crate::process::clock::now;

/// Calls on their way at once, of each pace. A call that hangs takes little but its place.
const AT_ONCE: usize = 512;

/// A call that takes longer goes on among the slow ones: schedulers answer within milliseconds.
const PROMPTLY: Duration = Duration::from_secs(1);

/// How fast a call is expected to end.
#[derive(Clone, Copy, Debug)]
enum Pace {
    /// The scheduler has answered the last time, or was never asked.
    Prompt,
    /// It has not answered the last time.
    Slow,
    /// Takes minutes.
    Retiring,
}

/// The places of calls that are on their way. Those of each pace wait for their like only, so that schedulers that hang hold
/// up no others.
struct Places {
    prompt: Semaphore,
    slow: Semaphore,
    retiring: Semaphore,
    /// How long a prompt one takes at most.
    promptly: Duration,
}

impl Places {
    fn new(promptly: Duration) -> Self {
        let places = || Semaphore::new(AT_ONCE);
        Self { prompt: places(), slow: places(), retiring: places(), promptly }
    }

    /// Makes a call when there is a place for it.
    async fn make<T>(&self, pace: Pace, call: impl Future<Output = T>) -> T {
        let places = match pace {
            Pace::Prompt => &self.prompt,
            Pace::Slow => &self.slow,
            Pace::Retiring => &self.retiring,
        };
        let place = places.acquire().await;
        let Pace::Prompt = pace else { return call.await };
        let mut call = pin!(call);
        let slow_place = async {
            sleep(self.promptly).await;
            self.slow.acquire().await
        };
        tokio::select! {
            biased;
            result = &mut call => result,
            _slow_place = slow_place => {
                drop(place);
                call.await
            }
        }
    }
}

/// What was said and what came of it, until the next reconcile takes note.
type Ended = (SchedulerCall, Result<SchedulerReply, SchedulerError>, u64);

/// The calls of all subjects.
pub(super) struct Calls {
    places: Arc<Places>,
    under_way: HashSet<(Work, NamespacedName, SchedulerCall)>,
    ended: HashMap<(Work, NamespacedName), Vec<Ended>>,
}

impl Default for Calls {
    fn default() -> Self {
        let places = Arc::new(Places::new(PROMPTLY));
        Self { places, under_way: HashSet::new(), ended: HashMap::new() }
    }
}

impl Calls {
    /// Lets a subject's state know what schedulers have said since its last reconcile.
    pub(super) fn take_note(&mut self, subject: &(Work, NamespacedName), state: &mut SubjectState) {
        for (call, result, when) in self.ended.remove(subject).into_iter().flatten() {
            state.heard(&call, result, when);
        }
    }
}

impl Controller {
    /// Makes the calls of a reconcile, those that are not under way already.
    pub(super) fn call_schedulers(
        self: &Arc<Self>,
        inner: &mut Inner,
        work: &Work,
        at: &NamespacedName,
        state: &SubjectState,
        calls: Vec<(Scheduler, SchedulerCall)>,
    ) {
        for (scheduler, call) in calls {
            if !inner.calls.under_way.insert((work.clone(), at.clone(), call.clone())) {
                continue;
            }
            let pace = match call {
                SchedulerCall::Retire(_) => Pace::Retiring,
                _ if state.was_called_in_vain(&call) => Pace::Slow,
                _ => Pace::Prompt,
            };
            let (places, controller) = (Arc::clone(&inner.calls.places), Arc::clone(self));
            let (work, at) = (work.clone(), at.clone());
            inner.tasks.spawn(async move {
                let answer = places.make(pace, controller.surroundings.schedulers.call(scheduler, call.clone()));
                // Reconciles rely on it that each call ends.
                let result = AssertUnwindSafe(answer).catch_unwind().await.unwrap_or_else(|_| {
                    tracing::error!(subject = %at, call = call.name(), reason = "Panic", "a call to a scheduler panicked; this is a bug in the operator");
                    Err(SchedulerError::Unusable("the call panicked, a bug in the operator".to_owned()))
                });
                controller.surroundings.metrics.called_scheduler(call.name(), &result);
                if let Err(error) = &result {
                    tracing::debug!(subject = %at, call = call.name(), kind = error.kind(), %error, "the scheduler was called in vain");
                }
                let mut inner = controller.lock();
                inner.calls.under_way.remove(&(work.clone(), at.clone(), call.clone()));
                let ended = inner.calls.ended.entry((work.clone(), at.clone())).or_default();
                ended.push((call, result, now()));
                inner.queue.wake(work, at, controller.millis());
                drop(inner);
                controller.woken.notify_one();
            });
            while inner.tasks.try_join_next().is_some() {}
        }
    }
}

/// Tasks that end with the controller.
pub(super) type Tasks = JoinSet<()>;

#[cfg(test)]
mod tests {
    use std::future::{pending, ready};

    use super::*;

    #[tokio::test]
    async fn schedulers_that_hang_hold_up_no_other_neither_after_a_start_nor_later() {
        for (pace, count) in [(Pace::Prompt, 1_000), (Pace::Slow, 5_000), (Pace::Retiring, 5_000)] {
            let places = Arc::new(Places::new(Duration::from_millis(10)));
            let mut silent = JoinSet::new();
            for _ in 0..count {
                let places = Arc::clone(&places);
                silent.spawn(async move { places.make(pace, pending::<()>()).await });
            }
            tokio::task::yield_now().await;
            let answer = places.make(Pace::Prompt, ready(7));
            let answer = tokio::time::timeout(Duration::from_secs(60), answer).await;
            assert_eq!(answer, Ok(7), "behind {count} that are {pace:?}");
        }
    }

    #[tokio::test]
    async fn a_call_goes_on_when_it_changes_its_place() {
        let places = Places::new(Duration::ZERO);
        let call = async {
            while places.slow.available_permits() == AT_ONCE {
                sleep(Duration::from_millis(1)).await;
            }
            places.slow.available_permits()
        };
        assert_eq!(places.make(Pace::Prompt, call).await, AT_ONCE - 1);
        assert_eq!((places.prompt.available_permits(), places.slow.available_permits()), (AT_ONCE, AT_ONCE));
    }
}
