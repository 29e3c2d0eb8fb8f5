//! One request to a scheduler's HTTP server, which is Dask's dashboard: plain HTTP, a connection each. An answer that sends us
//! elsewhere is a refusal like any other.

use std::{error::Error, pin::pin, time::Duration};

use bytes::Bytes;
use futures::future::{Either, select};
use http::{Method, Request, StatusCode, header};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use serde::de::DeserializeOwned;
use thiserror::Error;

use super::{
    answer::{Answer, LONG, Memory, SHORT},
    stream::BoxStream,
};

/// Why there is no answer. None of it is in the words of who answers.
#[derive(Debug, Error)]
pub(super) enum HttpError {
    /// It takes too long.
    #[error("no answer to {path} within {within:?}")]
    Silent {
        /// What was asked for.
        path: &'static str,
        /// The deadline.
        within: Duration,
    },
    /// The connection broke, or it does not speak HTTP.
    #[error("no answer to {path}")]
    Broken {
        /// What was asked for.
        path: &'static str,
        /// Why.
        #[source]
        source: hyper::Error,
    },
    /// The body broke off or is too long.
    #[error("no whole answer to {path}")]
    Body {
        /// What was asked for.
        path: &'static str,
        /// Why.
        #[source]
        source: Box<dyn Error + Send + Sync>,
    },
    /// It refuses or does not have it.
    #[error("{path} is answered with HTTP status {}", status.as_u16())]
    Status {
        /// What was asked for.
        path: &'static str,
        /// Not 200.
        status: StatusCode,
    },
    /// The answer is not what was asked for.
    #[error("the answer to {path} ({bytes} bytes) is not what it should be")]
    Decode {
        /// What was asked for.
        path: &'static str,
        /// Its length.
        bytes: usize,
    },
}

/// Something to ask an HTTP server for.
pub(super) struct Question {
    pub(super) method: Method,
    pub(super) path: &'static str,
    pub(super) body: Bytes,
    /// The longest answer, in bytes.
    pub(super) longest_answer: usize,
}

impl Question {
    /// A read of something short.
    pub(super) fn get(path: &'static str) -> Self {
        Self { method: Method::GET, path, body: Bytes::new(), longest_answer: SHORT }
    }

    /// The same of what describes workers.
    pub(super) fn about_workers(self) -> Self {
        Self { longest_answer: LONG, ..self }
    }

    /// A command with arguments in JSON.
    pub(super) fn post(path: &'static str, arguments: &serde_json::Value) -> Self {
        Self { method: Method::POST, body: Bytes::from(arguments.to_string()), ..Self::get(path) }
    }
}

/// Asks one thing and decodes the answer.
pub(super) async fn ask<A: DeserializeOwned + Send + 'static>(
    stream: BoxStream,
    host: &str,
    question: Question,
    memory: &Memory,
    deadline: Duration,
) -> Result<A, HttpError> {
    let path = question.path;
    let answer = async {
        let answer = exchange(stream, host, question, memory).await?;
        let bytes = answer.bytes.len();
        let decoded = answer.decode(|bytes| serde_json::from_slice(bytes)).await;
        decoded.map_err(|_| HttpError::Decode { path, bytes })
    };
    memory.timeout(deadline, pin!(answer)).await.ok_or(HttpError::Silent { path, within: deadline })?
}

async fn exchange(stream: BoxStream, host: &str, question: Question, memory: &Memory) -> Result<Answer, HttpError> {
    let Question { method, path, body, longest_answer } = question;
    let broken = |source| HttpError::Broken { path, source };
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(broken)?;
    let request = Request::builder()
        .method(method)
        .uri(path)
        .header(header::HOST, host)
        .header(header::CONNECTION, "close")
        .header(header::CONTENT_TYPE, "application/json")
        .body(Full::new(body))
        .expect("the parts are constants, and a host is made of names that Kubernetes has checked");
    let answer = pin!(async {
        let response = sender.send_request(request).await.map_err(broken)?;
        if response.status() != StatusCode::OK {
            return Err(HttpError::Status { path, status: response.status() });
        }
        let rest = memory.transfer(pin!(receive(response.into_body(), longest_answer, memory))).await;
        let body = rest.map_err(|within| HttpError::Silent { path, within })?;
        body.map_err(|source| HttpError::Body { path, source })
    });
    // The connection makes no progress unless it is polled; it may end before the answer has been taken out of it.
    match select(answer, pin!(connection)).await {
        Either::Left((answer, _)) => answer,
        Either::Right((_, answer)) => answer.await,
    }
}

async fn receive(body: Incoming, longest: usize, memory: &Memory) -> Result<Answer, Box<dyn Error + Send + Sync>> {
    let mut answer = Answer::new(memory);
    let mut body = Limited::new(body, longest);
    while let Some(frame) = body.frame().await {
        if let Ok(bytes) = frame?.into_data() {
            answer.reserve(bytes.len()).await;
            answer.bytes.extend_from_slice(&bytes);
        }
    }
    Ok(answer)
}
