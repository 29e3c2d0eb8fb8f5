//! Work that does not yield. It keeps a thread of the runtime from everything else; with as many as there are threads, nothing
//! goes on. So it is watched from a thread beside the runtime, and named before the liveness probe fails.

use std::{
    collections::HashMap,
    future::poll_fn,
    io,
    pin::pin,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
        mpsc::{RecvTimeoutError, Sender, channel},
    },
    thread,
    time::Duration,
};

use tokio::time::Instant;

use crate::metrics::Metrics;

/// What runs for so long without a break has stalled: a reconcile takes milliseconds.
const LIMIT: Duration = Duration::from_secs(3);

/// How often that is looked for.
const INTERVAL: Duration = Duration::from_secs(1);

/// See the module.
pub(crate) struct Stalls {
    metrics: Arc<Metrics>,
    limit: Duration,
    started: Instant,
    works: Mutex<Works>,
}

#[derive(Default)]
struct Works {
    last: u64,
    running: HashMap<u64, Arc<Work>>,
}

struct Work {
    handler: String,
    subject: String,
    /// Since when it has been running, in milliseconds of [`Stalls::millis`]; 0: it waits for something.
    since: AtomicU64,
    /// For how long it had been running when that was said last.
    told: AtomicU64,
}

impl Work {
    /// It runs until the answer is dropped.
    fn run(&self, now: u64) -> Running<'_> {
        self.told.store(0, Ordering::Relaxed);
        self.since.store(now, Ordering::Relaxed);
        Running(self)
    }
}

struct Running<'a>(&'a Work);

impl Drop for Running<'_> {
    fn drop(&mut self) {
        self.0.since.store(0, Ordering::Relaxed);
    }
}

/// Takes a work off the list at its end, whatever that is.
struct Listed {
    stalls: Arc<Stalls>,
    number: u64,
    work: Arc<Work>,
}

impl Drop for Listed {
    fn drop(&mut self) {
        self.stalls.lock().running.remove(&self.number);
    }
}

/// Looks for stalls until it is dropped.
pub(crate) struct Watcher(#[expect(dead_code, reason = "its end is the signal")] Sender<()>);

impl Stalls {
    pub(crate) fn new(metrics: Arc<Metrics>) -> Self {
        Self { metrics, limit: LIMIT, started: Instant::now(), works: Mutex::default() }
    }

    /// Does the work, and knows by these names when it does not yield.
    pub(crate) fn watch<F: Future>(
        self: &Arc<Self>,
        handler: String,
        subject: String,
        work: F,
    ) -> impl Future<Output = F::Output> + use<F> {
        let listed = self.list(handler, subject);
        async move {
            let mut work = pin!(work);
            poll_fn(|context| {
                let _running = listed.work.run(listed.stalls.millis());
                work.as_mut().poll(context)
            })
            .await
        }
    }

    fn list(self: &Arc<Self>, handler: String, subject: String) -> Listed {
        let work = Arc::new(Work { handler, subject, since: AtomicU64::new(0), told: AtomicU64::new(0) });
        let mut works = self.lock();
        works.last += 1;
        let number = works.last;
        works.running.insert(number, Arc::clone(&work));
        drop(works);
        Listed { stalls: Arc::clone(self), number, work }
    }

    /// Starts the thread that looks.
    ///
    /// # Errors
    /// When there can be no more threads.
    pub(crate) fn start(self: &Arc<Self>) -> io::Result<Watcher> {
        let (end, ended) = channel();
        let (stalls, interval) = (Arc::clone(self), INTERVAL.min(self.limit));
        thread::Builder::new().name("stalls".to_owned()).spawn(move || {
            while ended.recv_timeout(interval) == Err(RecvTimeoutError::Timeout) {
                stalls.look();
            }
        })?;
        Ok(Watcher(end))
    }

    /// Says what has stalled, and again when it has run twice as long.
    fn look(&self) {
        let now = self.millis();
        let works: Vec<_> = self.lock().running.values().map(Arc::clone).collect();
        for work in works {
            let since = work.since.load(Ordering::Relaxed);
            let ran = if since == 0 { 0 } else { now.saturating_sub(since) };
            let told = work.told.load(Ordering::Relaxed);
            if Duration::from_millis(ran) < self.limit || ran / 2 < told {
                continue;
            }
            work.told.store(ran.max(1), Ordering::Relaxed);
            if told == 0 {
                self.metrics.stalled(&work.handler);
            }
            let Work { handler, subject, .. } = &*work;
            tracing::warn!(
                handler,
                subject,
                seconds = ran / 1_000,
                reason = "Stalled",
                "this runs without a break, and other work waits for it; please report it with the object"
            );
        }
    }

    /// Never 0.
    fn millis(&self) -> u64 {
        u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX).saturating_add(1)
    }

    fn lock(&self) -> MutexGuard<'_, Works> {
        self.works.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::{
        hint::spin_loop,
        sync::atomic::AtomicBool,
        task::{Context, Waker},
        thread::yield_now,
    };

    use super::*;

    fn stalls(limit: Duration) -> Arc<Stalls> {
        Arc::new(Stalls { limit, ..Stalls::new(Arc::new(Metrics::new())) })
    }

    fn is_counted(stalls: &Stalls, handler: &str, times: u32) -> bool {
        let line = format!("dask_operator_stalls_total{{handler=\"{handler}\"}} {times}");
        stalls.metrics.encode().lines().any(|counted| counted == line)
    }

    /// The belief that is attacked: that somebody is left to say so.
    #[test]
    fn work_that_does_not_yield_is_named_although_every_thread_of_the_runtime_is_held_up() {
        let stalls = stalls(Duration::from_millis(1));
        let watcher = stalls.start().unwrap();
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).build().unwrap();
        let is_over = Arc::new(AtomicBool::new(false));
        for subject in ["n/a", "n/b"] {
            let is_over = Arc::clone(&is_over);
            let spinning = async move {
                while !is_over.load(Ordering::Relaxed) {
                    spin_loop();
                }
            };
            runtime.spawn(stalls.watch("workergroup".to_owned(), subject.to_owned(), spinning));
        }
        while !is_counted(&stalls, "workergroup", 2) {
            yield_now();
        }
        is_over.store(true, Ordering::Relaxed);
        while !stalls.lock().running.is_empty() {
            yield_now();
        }
        drop((watcher, runtime));
    }

    #[test]
    fn what_waits_has_not_stalled_however_long_it_takes_and_what_has_is_counted_once() {
        let stalls = stalls(Duration::ZERO);
        let mut waiting = pin!(stalls.watch("cluster".to_owned(), "n/a".to_owned(), std::future::pending::<()>()));
        assert!(waiting.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
        let work = Arc::clone(stalls.lock().running.values().next().unwrap());
        assert_eq!(work.since.load(Ordering::Relaxed), 0);

        let running = work.run(1);
        stalls.look();
        stalls.look();
        assert!(is_counted(&stalls, "cluster", 1), "{}", stalls.metrics.encode());
        drop(running);
    }
}
