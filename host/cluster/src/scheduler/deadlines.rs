//! How long a scheduler may take.

use std::time::Duration;

/// How long a call and its steps may take.
#[derive(Clone, Copy, Debug)]
pub struct Deadlines {
    /// For a call as a whole, however many steps it takes and calls it waits for: those to one scheduler wait for each other.
    /// Moving data in [`SchedulerCall::Retire`](dask_wasm_operator_core::scheduler::SchedulerCall::Retire) comes on top, and so
    /// does waiting for room for its answers.
    pub whole: Duration,
    /// For a connection, and for the Secret with its certificates.
    pub connect: Duration,
    /// For the handshakes of TLS and RPC, each.
    pub handshake: Duration,
    /// For one question and its answer.
    pub call: Duration,
    /// For an answer from its beginning to its end, however long it was waited for.
    pub transfer: Duration,
    /// For moving what workers hold to others.
    pub retire: Duration,
    /// For using a connection again: so soon renewed certificates and withdrawn rights count.
    pub reuse: Duration,
}

impl Default for Deadlines {
    /// A scheduler answers within milliseconds, or seconds when its event loop is busy. Retiring moves data: 10 minutes are
    /// 60 GB at 1 Gbit/s.
    fn default() -> Self {
        Self {
            whole: Duration::from_secs(60),
            connect: Duration::from_secs(5),
            handshake: Duration::from_secs(5),
            call: Duration::from_secs(10),
            transfer: Duration::from_secs(10),
            retire: Duration::from_secs(600),
            reuse: Duration::from_secs(300),
        }
    }
}
