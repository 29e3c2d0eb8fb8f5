//! Where the calls of one plugin run: a queue and threads of its own.
//!
//! Threads are not shared between plugins, so a plugin that loops delays only itself: between plugins the operating system's
//! scheduler is fair. They are started when there is something to do and end when there was nothing for a while, so a plugin at
//! rest costs no memory. A call that has begun is always ended by the guest or its deadline, never by dropping it.

use std::{
    collections::VecDeque,
    io,
    num::NonZeroUsize,
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    thread,
    time::Duration,
};

use dask_wasm_operator_core::spec::STACK_BYTES;

/// Stack of a guest's thread: address space, of which only what is touched takes memory. Far more than its code may use,
/// so that the host's own functions never overflow.
const THREAD_STACK: usize = 16 * STACK_BYTES;

/// How long a thread waits for the next call. Starting one takes about 50 µs.
const LINGER: Duration = Duration::from_secs(10);

/// How long there is no call until the lane is at rest: the handlers of a plugin follow each other at once.
pub(crate) const REST: Duration = Duration::from_millis(25);

type Job = Box<dyn FnOnce() + Send>;

pub(crate) struct Lane {
    shared: Arc<Shared>,
}

struct Shared {
    concurrency: NonZeroUsize,
    queue: Mutex<Queue>,
    changed: Condvar,
    at_rest: Box<dyn Fn() + Send + Sync>,
}

#[derive(Default)]
struct Queue {
    jobs: VecDeque<Job>,
    threads: usize,
    waiting: usize,
    closed: bool,
}

impl Queue {
    /// Whether there is nothing to do now, but may be later.
    fn is_idle(&self) -> bool {
        self.jobs.is_empty() && !self.closed
    }
}

impl Shared {
    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits while there is nothing to do, for so long at most.
    fn wait<'a>(&self, queue: MutexGuard<'a, Queue>, most: Duration) -> MutexGuard<'a, Queue> {
        let waited = self.changed.wait_timeout_while(queue, most, |queue| queue.is_idle());
        waited.unwrap_or_else(PoisonError::into_inner).0
    }
}

impl Lane {
    /// A lane on which at most `concurrency` calls run at once. `at_rest` is called when there was none for a moment.
    pub(crate) fn new(concurrency: NonZeroUsize, at_rest: impl Fn() + Send + Sync + 'static) -> Self {
        let at_rest = Box::new(at_rest);
        Self { shared: Arc::new(Shared { concurrency, queue: Mutex::default(), changed: Condvar::new(), at_rest }) }
    }

    /// Runs the job on one of the lane's threads when its turn comes.
    ///
    /// # Errors
    /// When no thread runs and none can be started; the job is dropped.
    pub(crate) fn run(&self, job: impl FnOnce() + Send + 'static) -> io::Result<()> {
        let mut queue = self.shared.queue();
        queue.jobs.push_back(Box::new(job));
        if queue.waiting >= queue.jobs.len() {
            self.shared.changed.notify_one();
        } else if queue.threads < self.shared.concurrency.get() {
            let shared = Arc::clone(&self.shared);
            let spawned =
                thread::Builder::new().name("guest".into()).stack_size(THREAD_STACK).spawn(move || work(&shared));
            match spawned {
                Ok(_) => queue.threads += 1,
                Err(_) if queue.threads > 0 => {}
                Err(error) => {
                    queue.jobs.pop_back();
                    return Err(error);
                }
            }
        }
        Ok(())
    }
}

impl Drop for Lane {
    fn drop(&mut self) {
        self.shared.queue().closed = true;
        self.shared.changed.notify_all();
    }
}

fn work(shared: &Shared) {
    let mut queue = shared.queue();
    loop {
        if let Some(job) = queue.jobs.pop_front() {
            drop(queue);
            // A panic in the host's part of a call must not take the thread's count with it.
            let _ = std::panic::catch_unwind(std::panic::AssertUnwindSafe(job));
            queue = shared.queue();
            continue;
        }
        if queue.closed {
            break;
        }
        queue.waiting += 1;
        queue = shared.wait(queue, REST);
        if queue.is_idle() && queue.waiting == queue.threads {
            drop(queue);
            (shared.at_rest)();
            queue = shared.queue();
        }
        queue = shared.wait(queue, LINGER);
        queue.waiting -= 1;
        if queue.is_idle() {
            break;
        }
    }
    queue.threads -= 1;
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    fn lane(concurrency: usize) -> Lane {
        Lane::new(NonZeroUsize::new(concurrency).unwrap(), || {})
    }

    #[test]
    fn jobs_run_in_order_and_no_more_at_once_than_allowed() {
        let lane = lane(1);
        let (done_tx, done_rx) = mpsc::channel();
        for number in 0..100 {
            let done_tx = done_tx.clone();
            lane.run(move || done_tx.send(number).unwrap()).unwrap();
        }
        drop(done_tx);
        assert_eq!(done_rx.iter().collect::<Vec<_>>(), (0..100).collect::<Vec<_>>());
        assert_eq!(lane.shared.queue().threads, 1);
    }

    #[test]
    fn a_blocked_job_does_not_block_a_lane_of_two() {
        let lane = lane(2);
        let (blocked_tx, blocked_rx) = mpsc::channel::<()>();
        let (done_tx, done_rx) = mpsc::channel();
        lane.run(move || blocked_rx.recv().unwrap_or_default()).unwrap();
        lane.run(move || done_tx.send(()).unwrap()).unwrap();
        done_rx.recv().unwrap();
        drop(blocked_tx);
    }

    #[test]
    fn a_panic_ends_its_job_only() {
        let lane = lane(1);
        let (done_tx, done_rx) = mpsc::channel();
        lane.run(|| panic!("the host's own fault")).unwrap();
        lane.run(move || done_tx.send(()).unwrap()).unwrap();
        done_rx.recv().unwrap();
    }

    #[test]
    fn it_is_at_rest_after_the_last_job_and_works_on() {
        let (rest_tx, rest_rx) = mpsc::channel();
        let rest_tx = Mutex::new(rest_tx);
        let lane = Lane::new(NonZeroUsize::MIN, move || rest_tx.lock().unwrap().send(()).unwrap());
        for _ in 0..2 {
            lane.run(|| {}).unwrap();
            rest_rx.recv_timeout(Duration::from_secs(30)).unwrap();
            assert!(rest_rx.try_recv().is_err(), "once for each time that there is nothing to do");
        }
        assert_eq!(lane.shared.queue().threads, 1);
    }

    #[test]
    fn what_was_queued_is_still_done_after_the_lane_is_dropped() {
        let lane = lane(1);
        let (done_tx, done_rx) = mpsc::channel();
        for number in 0..10 {
            let done_tx = done_tx.clone();
            lane.run(move || done_tx.send(number).unwrap()).unwrap();
        }
        drop((lane, done_tx));
        assert_eq!(done_rx.iter().count(), 10);
    }
}
