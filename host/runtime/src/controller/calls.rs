//! Calls of schedulers that passes asked for: made beside the passes, so that a scheduler that hangs holds up nobody else.

use std::{collections::HashSet, sync::Arc};

use dask_wasm_operator_core::{
    object::NamespacedName,
    pipeline::SubjectState,
    scheduler::{Scheduler, SchedulerCall, SchedulerError, SchedulerReply},
};
use tokio::{sync::Semaphore, task::JoinSet};

use super::{Controller, Inner, Work, now};

/// Calls on their way at once, those that retire workers apart. A call that hangs takes little but its place.
const AT_ONCE: usize = 512;

/// What was said and what came of it, until the next pass takes note.
type Ended = (SchedulerCall, Result<SchedulerReply, SchedulerError>, u64);

/// The calls of all subjects.
pub(super) struct Calls {
    places: Arc<Semaphore>,
    /// Retiring takes minutes, and must not keep the others waiting.
    retiring: Arc<Semaphore>,
    under_way: HashSet<(Work, NamespacedName, SchedulerCall)>,
    ended: Vec<(Work, NamespacedName, Ended)>,
}

impl Default for Calls {
    fn default() -> Self {
        let places = || Arc::new(Semaphore::new(AT_ONCE));
        Self { places: places(), retiring: places(), under_way: HashSet::new(), ended: Vec::new() }
    }
}

impl Calls {
    /// Lets a subject's state know what schedulers have said since its last pass.
    pub(super) fn take_note(&mut self, work: &Work, at: &NamespacedName, state: &mut SubjectState) {
        for (_, _, (call, result, when)) in self.ended.extract_if(.., |(of, whose, _)| of == work && whose == at) {
            state.heard(&call, result, when);
        }
    }
}

impl Controller {
    /// Makes the calls of a pass, those that are not under way already.
    pub(super) fn call_schedulers(
        self: &Arc<Self>,
        inner: &mut Inner,
        work: &Work,
        at: &NamespacedName,
        calls: Vec<(Scheduler, SchedulerCall)>,
    ) {
        for (scheduler, call) in calls {
            if !inner.calls.under_way.insert((work.clone(), at.clone(), call.clone())) {
                continue;
            }
            let places = match call {
                SchedulerCall::Retire(_) => &inner.calls.retiring,
                _ => &inner.calls.places,
            };
            let (places, controller) = (Arc::clone(places), Arc::clone(self));
            let (work, at) = (work.clone(), at.clone());
            inner.tasks.spawn(async move {
                let _place = places.acquire_owned().await;
                let result = controller.surroundings.schedulers.call(scheduler, call.clone()).await;
                controller.surroundings.metrics.called_scheduler(call.name(), &result);
                if let Err(error) = &result {
                    tracing::debug!(subject = %at, call = call.name(), kind = error.kind(), %error, "the scheduler was called in vain");
                }
                let mut inner = controller.lock();
                inner.calls.under_way.remove(&(work.clone(), at.clone(), call.clone()));
                inner.calls.ended.push((work.clone(), at.clone(), (call, result, now())));
                inner.queue.wake(work, at);
                drop(inner);
                controller.woken.notify_one();
            });
            while inner.tasks.try_join_next().is_some() {}
        }
    }
}

/// Tasks that end with the controller.
pub(super) type Tasks = JoinSet<()>;
