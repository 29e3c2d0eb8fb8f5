//! One connection to a scheduler's comm port: a handshake, then one request and one answer after the other.
//!
//! Only msgpack is read and written. Nothing is ever pickled or unpickled, and no request makes a scheduler run code.

use std::{io, pin::pin, time::Duration};

use serde::{Deserialize, Serialize, de::DeserializeOwned, de::IgnoredAny};
use thiserror::Error;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    time::Instant,
};

use super::{
    answer::{Answer, LONG, Memory, PIECE, SHORT},
    frame::{self, FrameError, Progress},
    reply::Version,
    stream::BoxStream,
};

/// How deep values may be nested. The deepest that is expected is 6, in the metrics of a worker.
const MAX_DEPTH: usize = 64;

/// What is said of the handshake in messages.
const HANDSHAKE: &str = "handshake";

/// Why there is no answer. None of it is in the words of who answers.
#[derive(Debug, Error)]
pub(super) enum RpcError {
    /// It takes too long.
    #[error("no answer to {to} within {within:?}")]
    Silent {
        /// The handshake or an operation.
        to: &'static str,
        /// The deadline.
        within: Duration,
    },
    /// The connection was closed by the other side.
    #[error("it closed the connection after {received} bytes of its answer to {to}")]
    Closed {
        /// The handshake or an operation.
        to: &'static str,
        /// How much of the answer had come.
        received: usize,
    },
    /// The connection broke.
    #[error("the connection broke before its answer to {to}")]
    Broken {
        /// The handshake or an operation.
        to: &'static str,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The answer is no message.
    #[error("no answer to {to}")]
    Frame {
        /// The handshake or an operation.
        to: &'static str,
        /// Why.
        #[source]
        source: FrameError,
    },
    /// The answer is a message, but not one that was asked for.
    #[error("the answer to {to} ({bytes} bytes) is not what it should be")]
    Decode {
        /// The handshake or an operation.
        to: &'static str,
        /// Its length.
        bytes: usize,
    },
    /// The scheduler tried and failed.
    #[error("{to} failed there; its log tells why")]
    Failed {
        /// The operation.
        to: &'static str,
    },
}

impl RpcError {
    /// Whether it happened before anything was asked.
    pub(super) fn is_of_handshake(&self) -> bool {
        matches!(self, Self::Closed { to: HANDSHAKE, .. } | Self::Broken { to: HANDSHAKE, .. })
    }

    /// Whether the connection was gone, as one is that was kept while the scheduler restarted.
    pub(super) fn is_closed(&self) -> bool {
        matches!(self, Self::Closed { .. } | Self::Broken { .. })
    }
}

/// An operation with its arguments.
#[derive(Clone, Debug, Default, Serialize)]
pub(super) struct Request<'a> {
    op: &'static str,
    reply: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    n: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    attribute: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    workers: Option<&'a [String]>,
    #[serde(skip_serializing_if = "Option::is_none")]
    remove: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    close_workers: Option<bool>,
}

impl<'a> Request<'a> {
    /// An operation without arguments.
    pub(super) fn plain(op: &'static str) -> Self {
        Self { op, reply: true, ..Self::default() }
    }

    /// The longest answer to it, in bytes.
    fn longest_answer(&self) -> usize {
        match self.op {
            // They describe workers.
            "identity" | "retire_workers" => LONG,
            _ => SHORT,
        }
    }

    /// All addresses, the worker that the scheduler can best do without first. A number larger than there are workers lifts
    /// the scheduler's own idea of how many may go.
    pub(super) fn workers_to_close() -> Self {
        Self { n: Some(1_000_000), attribute: Some("address"), ..Self::plain("workers_to_close") }
    }

    /// What these workers have not finished of what they were given.
    pub(super) fn processing(addresses: &'a [String]) -> Self {
        Self { workers: Some(addresses), ..Self::plain("processing") }
    }

    /// Moves what these workers hold to others and gives them nothing more to do. They stay registered and running, so that
    /// whoever comes after a crash of ours sees what has been begun.
    pub(super) fn retire_workers(addresses: &'a [String]) -> Self {
        Self {
            workers: Some(addresses),
            remove: Some(false),
            close_workers: Some(false),
            ..Self::plain("retire_workers")
        }
    }
}

/// What both sides say first. Neither compression nor pickles are used for what we ask, but a scheduler hangs without the
/// keys.
#[derive(Serialize)]
struct Greeting {
    compression: Option<&'static str>,
    python: [u8; 3],
    #[serde(rename = "pickle-protocol")]
    pickle_protocol: u8,
}

/// By this it is known for Dask's.
#[derive(Deserialize)]
struct TheirGreeting {
    #[serde(rename = "pickle-protocol")]
    _pickle_protocol: IgnoredAny,
}

/// How an exception in an operation is reported; it has pickles beside it, which stay closed.
#[derive(Deserialize)]
struct UncaughtError {
    status: String,
    #[serde(rename = "exception_text")]
    _exception_text: IgnoredAny,
}

/// An open connection after the handshake. Not to be used again after an error.
pub(super) struct Connection {
    stream: BoxStream,
    /// Of the call that uses it.
    pub(super) memory: Memory,
    pub(super) opened: Instant,
    /// The release of distributed, once it is known: none if it could not be told.
    pub(super) version: Option<Option<Version>>,
}

impl Connection {
    /// Greets the scheduler.
    pub(super) async fn open(stream: BoxStream, memory: Memory, deadline: Duration) -> Result<Self, RpcError> {
        let mut connection = Self { stream, memory, opened: Instant::now(), version: None };
        let greeting = Greeting { compression: None, python: [3, 11, 0], pickle_protocol: 4 };
        let _: TheirGreeting = connection.exchange(HANDSHAKE, &greeting, SHORT, deadline).await?;
        Ok(connection)
    }

    /// Asks one thing.
    pub(super) async fn call<A: DeserializeOwned + Send + 'static>(
        &mut self,
        request: &Request<'_>,
        deadline: Duration,
    ) -> Result<A, RpcError> {
        self.exchange(request.op, request, request.longest_answer(), deadline).await
    }

    async fn exchange<A: DeserializeOwned + Send + 'static>(
        &mut self,
        to: &'static str,
        message: &impl Serialize,
        longest_answer: usize,
        deadline: Duration,
    ) -> Result<A, RpcError> {
        let bytes = rmp_serde::to_vec_named(message).expect("our own messages are maps of numbers, words and lists");
        let memory = self.memory.clone();
        let exchange = async {
            self.send(&frame::encode(&bytes)).await.map_err(|source| RpcError::Broken { to, source })?;
            let answer = self.receive(to, longest_answer).await?;
            answer.decode(move |bytes| decode(to, bytes)).await
        };
        memory.timeout(deadline, pin!(exchange)).await.ok_or(RpcError::Silent { to, within: deadline })?
    }

    async fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.stream.write_all(bytes).await?;
        self.stream.flush().await
    }

    /// The first frame of the next message.
    async fn receive(&mut self, to: &'static str, longest: usize) -> Result<Answer, RpcError> {
        let memory = self.memory.clone();
        let mut answer = Answer::new(&memory);
        self.read(to, frame::NUMBER, &mut answer).await?;
        let rest = memory.transfer(pin!(self.receive_rest(to, longest, answer))).await;
        rest.map_err(|within| RpcError::Silent { to, within })?
    }

    async fn receive_rest(&mut self, to: &'static str, longest: usize, mut answer: Answer) -> Result<Answer, RpcError> {
        loop {
            match frame::decode(&answer.bytes, longest).map_err(|source| RpcError::Frame { to, source })? {
                Progress::Complete(frame) => {
                    answer.bytes.truncate(frame.end);
                    answer.bytes.drain(..frame.start);
                    return Ok(answer);
                }
                Progress::Missing(count) => self.read(to, count.min(PIECE), &mut answer).await?,
            }
        }
    }

    /// So many bytes more.
    async fn read(&mut self, to: &'static str, count: usize, answer: &mut Answer) -> Result<(), RpcError> {
        answer.reserve(count).await;
        let mut piece = (&mut self.stream).take(count as u64);
        let read = piece.read_to_end(&mut answer.bytes).await;
        if read.map_err(|source| RpcError::Broken { to, source })? < count {
            return Err(RpcError::Closed { to, received: answer.bytes.len() });
        }
        Ok(())
    }
}

/// Like [`rmp_serde::from_slice`], which follows nested values for longer than a stack may last.
fn from_slice<A: DeserializeOwned>(frame: &[u8]) -> Result<A, rmp_serde::decode::Error> {
    let mut deserializer = rmp_serde::Deserializer::from_read_ref(frame);
    deserializer.set_max_depth(MAX_DEPTH);
    A::deserialize(&mut deserializer)
}

/// What the first frame of an answer says.
fn decode<A: DeserializeOwned>(to: &'static str, frame: &[u8]) -> Result<A, RpcError> {
    if let Ok(UncaughtError { status, .. }) = from_slice(frame)
        && status == "uncaught-error"
    {
        return Err(RpcError::Failed { to });
    }
    from_slice(frame).map_err(|_| RpcError::Decode { to, bytes: frame.len() })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    #[test]
    fn requests_have_no_arguments_but_those_that_every_release_takes() {
        let keys = |request: &Request<'_>| {
            let map: BTreeMap<String, IgnoredAny> =
                rmp_serde::from_slice(&rmp_serde::to_vec_named(request).unwrap()).unwrap();
            map.into_keys().collect::<Vec<_>>()
        };
        assert_eq!(keys(&Request::plain("identity")), ["op", "reply"]);
        assert_eq!(keys(&Request::workers_to_close()), ["attribute", "n", "op", "reply"]);
        assert_eq!(keys(&Request::processing(&[])), ["op", "reply", "workers"]);
        assert_eq!(keys(&Request::retire_workers(&[])), ["close_workers", "op", "remove", "reply", "workers"]);
    }

    #[test]
    fn an_exception_is_told_without_its_text() {
        let answer = BTreeMap::from([("status", "uncaught-error"), ("exception_text", "words")]);
        let error = decode::<u64>("adaptive_target", &rmp_serde::to_vec(&answer).unwrap()).unwrap_err();
        assert_eq!(error.to_string(), "adaptive_target failed there; its log tells why");
    }

    #[test]
    fn a_value_of_another_type_is_no_answer() {
        for bytes in [&b"\xa1x"[..], b"\xc1", b"\x93\x01", b""] {
            assert!(matches!(decode::<u64>("adaptive_target", bytes), Err(RpcError::Decode { .. })), "{bytes:?}");
        }
        assert_eq!(decode::<Option<u64>>("adaptive_target", b"\xc0").unwrap(), None);
    }

    #[test]
    fn an_array_within_an_array_does_not_overflow_the_stack() {
        let deep = vec![0x91; 1 << 20];
        assert!(decode::<IgnoredAny>("identity", &deep).is_err());
    }
}
