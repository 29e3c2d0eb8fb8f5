//! How each question is put to a scheduler, and in which other way if it does not understand.
//!
//! | call | first | then | at last |
//! |---|---|---|---|
//! | workers | RPC `identity`, `workers_to_close`, `processing` | `/api/v1/get_workers` | |
//! | adaptive target | `/api/v1/adaptive_target` | RPC `adaptive_target` | `/json/counts.json` |
//! | idle since | `/api/v1/check_idle` | RPC `check_idle` | `/json/counts.json`, and a clock of ours |
//! | retire | RPC `retire_workers` | `/api/v1/retire_workers` | |
//!
//! `/api/v1` is off unless a user turned it on, and answers by HTTP are about as cheap as by RPC; where it is on, the comm port
//! may be closed to us. The order and the state of workers are told by RPC only. Who says nothing on a new connection for
//! RPC is not asked for the last resort.

use std::time::SystemTime;

use dask_wasm_operator_core::{
    error::chain,
    scheduler::{Scheduler, SchedulerError, SchedulerWorker},
};
use serde::de::DeserializeOwned;
use serde_json::json;
use thiserror::Error;

use super::{
    answer::Memory,
    connect::{ConnectError, Connector},
    deadlines::Deadlines,
    http::{self as api, HttpError, Question},
    reply::{
        AdaptiveTarget, Bounded, CheckIdle, Counts, GetWorkers, Identity, IdleSince, Processing, RetireWorkers,
        Version, Versions,
    },
    rpc::{Connection, Request, RpcError},
    session::{Kept, Session},
    tls,
};

const GET_WORKERS: &str = "/api/v1/get_workers";
const ADAPTIVE_TARGET: &str = "/api/v1/adaptive_target";
const CHECK_IDLE: &str = "/api/v1/check_idle";
const RETIRE_WORKERS: &str = "/api/v1/retire_workers";
const COUNTS: &str = "/json/counts.json";

/// One call to one scheduler.
pub(super) struct Conversation<'a> {
    pub(super) connector: &'a Connector,
    pub(super) memory: &'a Memory,
    pub(super) deadlines: Deadlines,
    pub(super) scheduler: &'a Scheduler,
    pub(super) session: &'a mut Session,
    /// Whether it was silent on a new connection for RPC: one event loop serves that and HTTP. One that was kept may just be
    /// broken.
    pub(super) is_stuck: bool,
}

impl Conversation<'_> {
    pub(super) async fn workers(mut self) -> Result<Vec<SchedulerWorker>, SchedulerError> {
        match self.workers_in_order().await {
            Ok(workers) => Ok(workers),
            Err(error) => {
                let answer: Option<GetWorkers> = self.api(Question::get(GET_WORKERS).about_workers()).await;
                answer.map(GetWorkers::into_workers).ok_or(error)
            }
        }
    }

    async fn workers_in_order(&mut self) -> Result<Vec<SchedulerWorker>, SchedulerError> {
        let identity: Identity = self.rpc(&Request::plain("identity")).await?;
        let order: Option<Bounded<String>> = self.rpc(&Request::workers_to_close()).await?;
        let Bounded(order) = order.ok_or_else(|| unsupported("workers_to_close"))?;
        let closing = identity.closing();
        let unfinished: Option<Processing> = if closing.is_empty() {
            Some(Processing::default())
        } else {
            // It fails as a whole if one of them is gone by now.
            self.rpc(&Request::processing(&closing)).await.ok().flatten()
        };
        Ok(identity.into_workers(&order, unfinished.map(Processing::into_busy).as_ref()))
    }

    pub(super) async fn adaptive_target(mut self) -> Result<u64, SchedulerError> {
        if let Some(AdaptiveTarget { workers }) = self.api(Question::get(ADAPTIVE_TARGET)).await {
            return Ok(workers);
        }
        let error = match self.rpc(&Request::plain("adaptive_target")).await {
            Ok(Some(target)) => return Ok(target),
            Ok(None) => unsupported("adaptive_target"),
            Err(error) => error,
        };
        let counts: Option<Counts> = self.http(Question::get(COUNTS)).await;
        counts.map(|counts| counts.desired_workers).ok_or(error)
    }

    /// Since when the scheduler has had nothing to do, in milliseconds since the Unix epoch. One that can't tell is looked at:
    /// then it is the time since which it was found idle at every call.
    pub(super) async fn idle_since(mut self) -> Result<Option<u64>, SchedulerError> {
        let clock = self.session.idle_clock.take();
        let answer: Option<CheckIdle> = self.api(Question::get(CHECK_IDLE)).await;
        if let Some(CheckIdle { idle_since: Some(since) }) = answer {
            return Ok(Some(since.milliseconds()));
        }
        let error = match self.version().await {
            Ok(Some(version)) if !version.knows_idleness() => unsupported("check_idle"),
            // Nothing speaks against what it said by HTTP.
            _ if answer.is_some() => return Ok(None),
            Ok(Some(_)) => match self.rpc::<Option<IdleSince>>(&Request::plain("check_idle")).await {
                Ok(since) => return Ok(since.map(IdleSince::milliseconds)),
                Err(error) => error,
            },
            Ok(None) => unsupported("check_idle"),
            Err(error) => error,
        };
        let counts: Counts = self.http(Question::get(COUNTS)).await.ok_or(error)?;
        if !counts.is_idle() {
            return Ok(None);
        }
        let identity: Option<Identity> = self.rpc(&Request::plain("identity")).await.ok();
        self.session.idle_clock = clock;
        Ok(Some(self.session.idle_since(identity.map(|identity| identity.id.0), now())))
    }

    /// Those of the addresses that are empty now. By HTTP the scheduler strikes them off at once, and their processes end by
    /// themselves; by RPC they stay.
    pub(super) async fn retire(mut self, addresses: &[String]) -> Result<Vec<String>, SchedulerError> {
        let answer = match self.retire_by_rpc(addresses).await {
            Ok(answer) => answer,
            Err(error) => {
                let question = Question::post(RETIRE_WORKERS, &json!({ "workers": addresses })).about_workers();
                self.deadlines.call = self.deadlines.retire;
                self.api(question).await.ok_or(error)?
            }
        };
        Ok(answer.among(addresses))
    }

    async fn retire_by_rpc(&mut self, addresses: &[String]) -> Result<RetireWorkers, SchedulerError> {
        let mut connection = self.connect().await?;
        let answer = connection.call(&Request::retire_workers(addresses), self.deadlines.retire).await;
        let answer: Option<RetireWorkers> = answer.map_err(|error| self.error_of(error))?;
        answer.ok_or_else(|| unsupported("retire_workers"))
    }

    /// The release of distributed; none: it can't be told.
    async fn version(&mut self) -> Result<Option<Version>, SchedulerError> {
        if let Some(version) = self.session.kept.as_ref().and_then(|kept| kept.connection.version) {
            return Ok(version);
        }
        let versions: Versions = self.rpc(&Request::plain("versions")).await?;
        let version = versions.distributed();
        if let Some(kept) = &mut self.session.kept {
            kept.connection.version = Some(version);
        }
        Ok(version)
    }

    /// Asks by RPC. Everything that is asked so may be asked twice.
    async fn rpc<A: DeserializeOwned + Send + 'static>(&mut self, request: &Request<'_>) -> Result<A, SchedulerError> {
        // Taken out, so that a connection on which a call fails or is cut off is never used again.
        if let Some(Kept { mut connection, .. }) = self.session.kept.take()
            && connection.opened.elapsed() < self.deadlines.reuse
        {
            connection.memory = self.memory.clone();
            match connection.call(request, self.deadlines.call).await {
                Ok(answer) => {
                    self.session.keep(connection);
                    return Ok(answer);
                }
                // The scheduler was restarted in between.
                Err(error) if error.is_closed() => {}
                Err(error) => return Err(self.error_of(error)),
            }
        }
        let mut connection = self.connect().await?;
        let answer = connection.call(request, self.deadlines.call).await.map_err(|error| self.error_of_new(error))?;
        self.session.keep(connection);
        Ok(answer)
    }

    async fn connect(&mut self) -> Result<Connection, SchedulerError> {
        let stream = self.connector.comm(self.scheduler).await.map_err(|error| from_connect(&error))?;
        let opened = Connection::open(stream, self.memory.clone(), self.deadlines.handshake).await;
        opened.map_err(|error| self.error_of_new(error))
    }

    /// Asks the HTTP API. None, for whatever reason: there are other ways.
    async fn api<A: DeserializeOwned + Send + 'static>(&mut self, question: Question) -> Option<A> {
        let path = question.path;
        if self.session.is_absent(path) {
            return None;
        }
        match self.ask(question).await {
            Ok(answer) => Some(answer),
            Err(error) => {
                if error.is_lasting() {
                    self.session.note_absent(path);
                }
                None
            }
        }
    }

    /// Asks by HTTP. None, for whatever reason: it was the last resort.
    async fn http<A: DeserializeOwned + Send + 'static>(&self, question: Question) -> Option<A> {
        if self.is_stuck { None } else { self.ask(question).await.ok() }
    }

    async fn ask<A: DeserializeOwned + Send + 'static>(&self, question: Question) -> Result<A, AskError> {
        let path = question.path;
        let answer = async {
            let (stream, host) = self.connector.dashboard(self.scheduler).await?;
            Ok(api::ask(stream, &host, question, self.memory, self.deadlines.call).await?)
        };
        answer.await.inspect_err(|error: &AskError| {
            let (cluster, reason) = (self.scheduler.cluster.to_string(), chain(error));
            tracing::debug!(cluster, path, reason, "a scheduler has no answer by HTTP");
        })
    }

    /// The error of a connection that was opened in this call.
    fn error_of_new(&mut self, error: RpcError) -> SchedulerError {
        self.is_stuck = matches!(error, RpcError::Silent { .. });
        self.error_of(error)
    }

    fn error_of(&self, error: RpcError) -> SchedulerError {
        let text = format!("{}: {}", self.connector.comm_address(self.scheduler), chain(&error));
        match error {
            RpcError::Broken { source, .. } if tls::is_about_certificates(&source) => {
                SchedulerError::Certificates(text)
            }
            RpcError::Closed { received: 0, .. } | RpcError::Broken { .. }
                if self.scheduler.tls_secret.is_none() && error.is_of_handshake() =>
            {
                SchedulerError::Unreachable(format!("{text}; if it uses TLS, set spec.tlsSecretName"))
            }
            RpcError::Silent { .. } | RpcError::Closed { .. } | RpcError::Broken { .. } => {
                SchedulerError::Unreachable(text)
            }
            RpcError::Frame { .. } | RpcError::Decode { .. } | RpcError::Failed { .. } => {
                SchedulerError::Unusable(text)
            }
        }
    }
}

/// Why there is no answer by HTTP.
#[derive(Debug, Error)]
enum AskError {
    /// No connection.
    #[error(transparent)]
    Connect(#[from] ConnectError),
    /// No answer.
    #[error(transparent)]
    Http(#[from] HttpError),
}

impl AskError {
    /// Whether it is likely to be so the next time, and may cost as much time again. A connection that is refused is neither,
    /// nor is a pod that is not there: the scheduler starts.
    fn is_lasting(&self) -> bool {
        let is_starting = |error: &ConnectError| {
            matches!(error, ConnectError::Tcp { .. } | ConnectError::Forward { .. } | ConnectError::NoPod(_))
        };
        !matches!(self, Self::Connect(error) if is_starting(error))
    }
}

fn from_connect(error: &ConnectError) -> SchedulerError {
    let text = chain(error);
    match error {
        ConnectError::Certificates(_) | ConnectError::Rejected { .. } => SchedulerError::Certificates(text),
        ConnectError::Tcp { .. }
        | ConnectError::Silent { .. }
        | ConnectError::Forward { .. }
        | ConnectError::NoDashboard(_)
        | ConnectError::NoPod(_)
        | ConnectError::NoPort { .. } => SchedulerError::Unreachable(text),
    }
}

/// A scheduler answers null to an operation that it does not know.
fn unsupported(operation: &str) -> SchedulerError {
    SchedulerError::Unsupported(format!("its release of distributed does not know {operation}, and it has no HTTP API"))
}

/// Milliseconds since the Unix epoch.
fn now() -> u64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use std::io;

    use ::http::StatusCode;

    use super::*;

    #[test]
    fn a_scheduler_that_is_about_to_start_is_not_given_up_for_long() {
        let refused = ConnectError::Tcp { address: "x:1".to_owned(), source: io::ErrorKind::ConnectionRefused.into() };
        assert!(!AskError::from(refused).is_lasting());
        let silent = ConnectError::Silent { address: "x:1".to_owned(), within: Deadlines::default().connect };
        assert!(AskError::from(silent).is_lasting());
        let off = HttpError::Status { path: GET_WORKERS, status: StatusCode::NOT_FOUND };
        assert!(AskError::from(off).is_lasting());
    }

    #[test]
    fn an_error_is_told_with_its_causes() {
        let source = io::Error::other("no route");
        let error = from_connect(&ConnectError::Tcp { address: "x:1".to_owned(), source });
        assert_eq!(error, SchedulerError::Unreachable("x:1: no connection: no route".to_owned()));
    }
}
