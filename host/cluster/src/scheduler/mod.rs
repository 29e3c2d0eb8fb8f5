//! Talks to Dask schedulers: the port [`Schedulers`] over the wire.
//!
//! The runtime makes one client for all clusters. A scheduler is not trusted: every call has a deadline, every answer a largest
//! size, and nothing is ever pickled or unpickled, nor is a scheduler asked to run code. It is the pod of the cluster's own
//! Deployment that is talked to, wherever the Service leads, and no word of what answers is told to anybody. What is asked for goes over the HTTP
//! API where it is on, over RPC, which every scheduler speaks, or over the plain HTTP endpoints, in the order that
//! [`conversation`] gives for each call.

mod address;
mod answer;
mod connect;
mod conversation;
mod deadlines;
mod forward;
mod frame;
mod http;
mod reply;
mod rpc;
mod session;
mod stream;
mod tls;

use std::pin::pin;

use dask_wasm_operator_core::{
    object::NamespacedName,
    ports::{Pending, Schedulers},
    scheduler::{Scheduler, SchedulerCall, SchedulerError, SchedulerReply},
};

pub use address::{Addresses, FindPod, Given, GivenAddress, NotAnAddress, Route};
pub use deadlines::Deadlines;

use answer::Memory;
use connect::Connector;
use conversation::Conversation;
use session::{Session, Sessions};

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
        Self { connector, deadlines, memory: Memory::new(deadlines.transfer), sessions: Sessions::start() }
    }

    /// The same client, which is told since when the scheduler of a cluster had been idle before this process began: those that
    /// can't tell themselves are only looked at.
    pub fn with_idle_since(
        mut self,
        idle_since: impl Fn(&NamespacedName) -> Option<u64> + Send + Sync + 'static,
    ) -> Self {
        self.sessions.idle_since = Box::new(idle_since);
        self
    }

    async fn answer(
        &self,
        scheduler: &Scheduler,
        call: &SchedulerCall,
        memory: &Memory,
    ) -> Result<SchedulerReply, SchedulerError> {
        let Self { connector, deadlines, .. } = self;
        let (mut own, mut shared);
        let session: &mut Session = if let SchedulerCall::Retire(_) = call {
            // Takes minutes, so it has a connection of its own for which nobody waits.
            own = Session::new();
            &mut own
        } else {
            shared = self.sessions.of(scheduler).await;
            &mut shared
        };
        let conversation =
            Conversation { connector, memory, deadlines: *deadlines, scheduler, session, is_stuck: false };
        match call {
            SchedulerCall::Workers => conversation.workers().await.map(SchedulerReply::Workers),
            SchedulerCall::AdaptiveTarget => conversation.adaptive_target().await.map(SchedulerReply::AdaptiveTarget),
            SchedulerCall::IdleSince => conversation.idle_since().await.map(SchedulerReply::IdleSince),
            SchedulerCall::Retire(addresses) => conversation.retire(addresses).await.map(SchedulerReply::Retired),
        }
    }
}

impl Schedulers for SchedulerClient {
    fn call(&self, scheduler: Scheduler, call: SchedulerCall) -> Pending<'_, Result<SchedulerReply, SchedulerError>> {
        Box::pin(async move {
            let Deadlines { whole, retire, .. } = self.deadlines;
            let within = if matches!(call, SchedulerCall::Retire(_)) { whole + retire } else { whole };
            let memory = self.memory.for_call();
            memory.timeout(within, pin!(self.answer(&scheduler, &call, &memory))).await.unwrap_or_else(|| {
                let (address, name) = (self.connector.comm_address(&scheduler), call.name());
                Err(SchedulerError::Unreachable(format!("{address}: {name} took longer than {within:?}")))
            })
        })
    }
}
