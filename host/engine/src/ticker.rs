//! The clock that ends calls: a thread that advances the engine's epoch while any call runs.
//!
//! A thread of its own, not a task, so that a blocked async runtime cannot stop it. It sleeps when nothing has run for a while,
//! so that an idle operator causes no wake-ups.

use std::{
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    thread,
    time::Duration,
};

/// The length of a tick, and so how late a call may be stopped.
const TICK: Duration = Duration::from_millis(5);

/// Ticks without any call after which the thread sleeps: long enough that calls which follow each other never wait for it to
/// wake up.
const IDLE_TICKS: u32 = 200;

pub(crate) struct Ticker {
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    calls: usize,
    asleep: bool,
    ended: bool,
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Ticker {
    /// Starts the thread; `advance` is called at every tick.
    pub(crate) fn start(advance: impl Fn() + Send + 'static) -> std::io::Result<Self> {
        let shared = Arc::new(Shared::default());
        let thread_shared = Arc::clone(&shared);
        thread::Builder::new().name("guest-clock".into()).spawn(move || tick(&thread_shared, advance))?;
        Ok(Self { shared })
    }

    /// The number of ticks after which at least `duration` has passed: the first may come at once.
    pub(crate) fn ticks(duration: Duration) -> u64 {
        u64::try_from(duration.as_nanos().div_ceil(TICK.as_nanos())).map_or(u64::MAX, |ticks| ticks.saturating_add(1))
    }

    /// Keeps the clock going for as long as the answer lives.
    pub(crate) fn run(&self) -> Running<'_> {
        let mut state = self.shared.state();
        state.calls += 1;
        if state.asleep {
            state.asleep = false;
            self.shared.changed.notify_one();
        }
        Running { ticker: self }
    }
}

impl Drop for Ticker {
    fn drop(&mut self) {
        self.shared.state().ended = true;
        self.shared.changed.notify_one();
    }
}

pub(crate) struct Running<'a> {
    ticker: &'a Ticker,
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        self.ticker.shared.state().calls -= 1;
    }
}

fn tick(shared: &Shared, advance: impl Fn()) {
    let mut idle = 0;
    let mut state = shared.state();
    while !state.ended {
        if idle > IDLE_TICKS {
            idle = 0;
            state.asleep = true;
            state = shared
                .changed
                .wait_while(state, |state| state.asleep && !state.ended)
                .unwrap_or_else(PoisonError::into_inner);
        }
        (state, _) = shared
            .changed
            .wait_timeout_while(state, TICK, |state| !state.ended)
            .unwrap_or_else(PoisonError::into_inner);
        idle = if state.calls == 0 { idle + 1 } else { 0 };
        drop(state);
        advance();
        state = shared.state();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    #[test]
    fn it_ticks_while_a_call_runs_sleeps_when_none_does_and_wakes_for_the_next() {
        let (tick_tx, tick_rx) = mpsc::channel();
        let ticker = Ticker::start(move || tick_tx.send(()).unwrap_or_default()).unwrap();
        let asleep = || ticker.shared.state().asleep;

        let running = ticker.run();
        for _ in 0..(2 * IDLE_TICKS) {
            tick_rx.recv().unwrap();
        }
        assert!(!asleep());
        drop(running);
        while !asleep() {
            thread::yield_now();
        }
        tick_rx.try_iter().for_each(drop);

        let _running = ticker.run();
        tick_rx.recv().unwrap();
        assert!(!asleep());
    }

    #[test]
    fn it_ends_with_its_owner() {
        let (tick_tx, tick_rx) = mpsc::channel();
        drop(Ticker::start(move || tick_tx.send(()).unwrap_or_default()).unwrap());
        while tick_rx.recv().is_ok() {}
    }

    #[test]
    fn a_deadline_is_never_shorter_than_asked_for() {
        assert_eq!(Ticker::ticks(Duration::from_millis(1)), 2);
        assert_eq!(Ticker::ticks(TICK), 2);
        assert_eq!(Ticker::ticks(TICK + Duration::from_nanos(1)), 3);
    }
}
