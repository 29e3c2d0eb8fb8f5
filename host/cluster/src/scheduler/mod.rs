//! Talks to Dask schedulers: the port [`Schedulers`] over the wire.
//!
//! The runtime makes one client for all clusters. A scheduler is not trusted: every call has a deadline, every answer a largest
//! size, and nothing is ever pickled or unpickled, nor is a scheduler asked to run code. What is asked for goes over the HTTP
//! API where it is on, over RPC, which every scheduler speaks, or over the plain HTTP endpoints, in the order that
//! [`conversation`] gives for each call.

mod address;
mod answer;
mod connect;
mod conversation;
mod forward;
mod frame;
mod http;
mod reply;
mod rpc;
mod session;
mod tls;

use std::time::Duration;

use dask_wasm_operator_core::{
    ports::{Pending, Schedulers},
    scheduler::{Scheduler, SchedulerCall, SchedulerError, SchedulerReply},
};
use tokio::time::timeout;

pub use address::{Addresses, Given, GivenAddress, NotAnAddress, Route};

use answer::Memory;
use connect::Connector;
use conversation::Conversation;
use session::{Session, Sessions};

/// How long a call and its steps may take.
#[derive(Clone, Copy, Debug)]
pub struct Deadlines {
    /// For a call as a whole, however many steps it takes and calls it waits for: those to one scheduler wait for each other.
    /// Moving data in [`SchedulerCall::Retire`] comes on top.
    pub whole: Duration,
    /// For a connection, and for the Secret with its certificates.
    pub connect: Duration,
    /// For the handshakes of TLS and RPC, each.
    pub handshake: Duration,
    /// For one question and its answer.
    pub call: Duration,
    /// For moving what workers hold to others.
    pub retire: Duration,
    /// For telling whether a worker that is retired is empty, which it tells at once if it is.
    pub confirm: Duration,
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
            retire: Duration::from_secs(600),
            confirm: Duration::from_secs(2),
        }
    }
}

/// Talks to all schedulers.
pub struct SchedulerClient {
    connector: Connector,
    deadlines: Deadlines,
    memory: Memory,
    sessions: Sessions,
}

impl SchedulerClient {
    /// A client that finds schedulers by `addresses` and reads the Secrets with their certificates by `client`.
    ///
    /// # Panics
    /// Outside of a tokio runtime.
    pub fn new(client: kube::Client, addresses: Addresses, deadlines: Deadlines) -> Self {
        let Deadlines { connect, handshake, .. } = deadlines;
        let connector = Connector { client, addresses, connect, handshake };
        Self { connector, deadlines, memory: Memory::new(), sessions: Sessions::start() }
    }

    async fn answer(&self, scheduler: &Scheduler, call: &SchedulerCall) -> Result<SchedulerReply, SchedulerError> {
        match call {
            SchedulerCall::Workers => {
                let workers = self.conversation(scheduler, &mut *self.sessions.of(scheduler).await).workers().await;
                workers.map(SchedulerReply::Workers)
            }
            SchedulerCall::AdaptiveTarget => {
                let target =
                    self.conversation(scheduler, &mut *self.sessions.of(scheduler).await).adaptive_target().await;
                target.map(SchedulerReply::AdaptiveTarget)
            }
            SchedulerCall::IdleSince => {
                let since = self.conversation(scheduler, &mut *self.sessions.of(scheduler).await).idle_since().await;
                since.map(SchedulerReply::IdleSince)
            }
            // Takes minutes, so it has a connection of its own for which nobody waits.
            SchedulerCall::Retire(addresses) => {
                let retired = self.conversation(scheduler, &mut Session::new()).retire(addresses).await;
                retired.map(SchedulerReply::Retired)
            }
        }
    }

    fn conversation<'a>(&'a self, scheduler: &'a Scheduler, session: &'a mut Session) -> Conversation<'a> {
        let Self { connector, deadlines, memory, .. } = self;
        Conversation { connector, memory, deadlines: *deadlines, scheduler, session }
    }
}

impl Schedulers for SchedulerClient {
    fn call(&self, scheduler: Scheduler, call: SchedulerCall) -> Pending<'_, Result<SchedulerReply, SchedulerError>> {
        Box::pin(async move {
            let Deadlines { whole, retire, .. } = self.deadlines;
            let within = if matches!(call, SchedulerCall::Retire(_)) { whole + retire } else { whole };
            timeout(within, self.answer(&scheduler, &call)).await.unwrap_or_else(|_| {
                let (address, name) = (self.connector.comm_address(&scheduler), call.name());
                Err(SchedulerError::Unreachable(format!("{address}: {name} took longer than {within:?}")))
            })
        })
    }
}
