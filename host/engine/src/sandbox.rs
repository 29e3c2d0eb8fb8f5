//! One call: a fresh store, the limits that hold in it, and what became of it.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use dask_wasm_operator_core::{
    contract::{Call, Manifest, Outcome},
    ports::{CallError, CallReport},
    spec::{LOG_LINE_BYTES, Limits, STACK_BYTES},
};
use wasmtime::{Store, Trap};

use crate::{
    abi::NotStarted,
    artifact::Digest,
    call_state::CallState,
    code::Code,
    log::GuestLog,
    memory::{Exceeded, Memory},
    ticker::Ticker,
    wasi::{self, Random, Wasi},
};

/// A plugin's code with its limits: makes a store for each call.
pub(crate) struct Sandbox {
    ticker: Arc<Ticker>,
    code: Arc<Code>,
    limits: Limits,
    digest: Digest,
}

impl Sandbox {
    pub(crate) fn new(ticker: Arc<Ticker>, code: Arc<Code>, digest: Digest, limits: Limits) -> Self {
        Self { ticker, code, limits, digest }
    }

    pub(crate) fn describe(&self) -> Result<Manifest, CallError> {
        self.run("", Duration::ZERO, |store| self.code.run(|linked| linked.describe(store))).0
    }

    pub(crate) fn call(&self, call: Call) -> CallReport {
        let started = Instant::now();
        let (now, uid) = (Duration::from_millis(call.now), call.subject.uid.clone());
        let (answer, log) = self.run(&uid, now, |store| self.code.run(|linked| linked.handle(store, call)));
        let result: Result<Outcome, _> = answer.and_then(|answer| answer.map_err(CallError::Handler));
        let (lines, log_dropped) = log.into_parts();
        CallReport { result, log: lines, log_dropped, duration: started.elapsed() }
    }

    fn run<T>(
        &self,
        subject_uid: &str,
        now: Duration,
        call: impl FnOnce(&mut Store<CallState>) -> wasmtime::Result<T>,
    ) -> (Result<T, CallError>, GuestLog) {
        let random = Random::new(&[self.digest.as_bytes(), subject_uid.as_bytes()]);
        let state = CallState {
            log: GuestLog::new(self.limits.log_lines, LOG_LINE_BYTES),
            wasi: Wasi::new(now, random),
            memory: Memory::new(&self.limits),
        };
        let mut store = Store::new(self.code.engine(), state);
        store.limiter(|state| &mut state.memory);
        store.set_hostcall_fuel(usize::try_from(self.limits.outcome_bytes).unwrap_or(usize::MAX));
        store.set_epoch_deadline(Ticker::ticks(self.limits.deadline));

        let running = self.ticker.run();
        let answer = call(&mut store);
        drop(running);

        let CallState { mut log, mut wasi, memory } = store.into_data();
        let stderr = wasi.finish(&mut log);
        let last_words = || if stderr.is_empty() { log.last_error().to_owned() } else { stderr };
        (answer.map_err(|error| self.explain(&error, &memory, last_words)), log)
    }

    /// Finds the cause of a failed call. What the limiter has seen comes first: the trap after it says less.
    fn explain(&self, error: &wasmtime::Error, memory: &Memory, last_words: impl FnOnce() -> String) -> CallError {
        let trap = error.downcast_ref::<Trap>();
        match (&memory.exceeded, trap) {
            (Some(Exceeded::Memory), _) => CallError::Memory(self.limits.memory_bytes),
            (Some(Exceeded::Table), _) => CallError::Table(self.limits.table_elements.into()),
            (None, Some(Trap::Interrupt)) => CallError::Deadline(self.limits.deadline),
            (None, Some(Trap::StackOverflow)) => CallError::Stack(STACK_BYTES as u64),
            (None, Some(trap)) => CallError::Trap { reason: trap.to_string(), last_words: last_words() },
            (None, None) => match error.downcast_ref::<wasi::Refused>() {
                Some(refused) => CallError::Trap { reason: refused.to_string(), last_words: last_words() },
                None if error.is::<NotStarted>() => CallError::Host(format!("{error:#}")),
                None => self.explain_text(&error.root_cause().to_string()),
            },
        }
    }

    /// What is left has no type of its own in wasmtime: strings that are no UTF-8, pointers that lead nowhere.
    fn explain_text(&self, cause: &str) -> CallError {
        if cause.contains("fuel allocated for hostcalls") {
            CallError::Output(self.limits.outcome_bytes)
        } else {
            CallError::BadAnswer(cause.to_owned())
        }
    }
}
