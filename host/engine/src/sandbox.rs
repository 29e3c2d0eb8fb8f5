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
use wasmtime::{ResourceLimiter, Store, Trap};

use crate::{
    artifact::Digest,
    code::Code,
    engine::Shared,
    log::GuestLog,
    ticker::Ticker,
    wasi::{self, Random, Wasi},
};

/// What a store holds for its one call.
pub(crate) struct CallState {
    pub(crate) log: GuestLog,
    pub(crate) wasi: Wasi,
    memory: Memory,
}

/// A plugin's code with its limits: makes a store for each call.
pub(crate) struct Sandbox {
    engine: Arc<Shared>,
    code: Arc<Code>,
    limits: Limits,
    digest: Digest,
}

impl Sandbox {
    pub(crate) fn new(engine: Arc<Shared>, code: Arc<Code>, digest: Digest, limits: Limits) -> Self {
        Self { engine, code, limits, digest }
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
        let mut store = Store::new(&self.engine.wasmtime, state);
        store.limiter(|state| &mut state.memory);
        store.set_hostcall_fuel(usize::try_from(self.limits.outcome_bytes).unwrap_or(usize::MAX));
        store.set_epoch_deadline(Ticker::ticks(self.limits.deadline));

        let running = self.engine.ticker.run();
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

/// Marks an error on the way to an instance: if it is none of the guest's own, the host had no room for it.
#[derive(Debug, thiserror::Error)]
#[error("the sandbox can't be made")]
pub(crate) struct NotStarted;

/// Counts the memory and the tables of all instances of a store together.
struct Memory {
    bytes: u64,
    elements: u64,
    bytes_limit: u64,
    elements_limit: u64,
    exceeded: Option<Exceeded>,
}

#[derive(Clone, Copy, Debug, thiserror::Error)]
enum Exceeded {
    #[error("the guest asked for more memory than it may have")]
    Memory,
    #[error("the guest asked for more table elements than it may have")]
    Table,
}

impl Memory {
    fn new(limits: &Limits) -> Self {
        Self {
            bytes: 0,
            elements: 0,
            bytes_limit: limits.memory_bytes,
            elements_limit: limits.table_elements.into(),
            exceeded: None,
        }
    }

    fn exceed(&mut self, what: Exceeded) -> wasmtime::Result<bool> {
        self.exceeded = Some(what);
        Err(what.into())
    }
}

impl ResourceLimiter for Memory {
    fn memory_growing(&mut self, current: usize, desired: usize, _: Option<usize>) -> wasmtime::Result<bool> {
        self.bytes = self.bytes.saturating_add(desired.saturating_sub(current) as u64);
        if self.bytes > self.bytes_limit { self.exceed(Exceeded::Memory) } else { Ok(true) }
    }

    fn table_growing(&mut self, current: usize, desired: usize, _: Option<usize>) -> wasmtime::Result<bool> {
        self.elements = self.elements.saturating_add(desired.saturating_sub(current) as u64);
        if self.elements > self.elements_limit { self.exceed(Exceeded::Table) } else { Ok(true) }
    }
}
