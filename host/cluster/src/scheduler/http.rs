//! One request to a scheduler's HTTP server, which is Dask's dashboard: plain HTTP, a connection each.

use std::{pin::pin, time::Duration};

use bytes::Bytes;
use futures::future::{Either, select};
use http::{Method, Request, StatusCode, header};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper_util::rt::TokioIo;
use serde::de::DeserializeOwned;
use thiserror::Error;

use super::connect::BoxStream;

/// The longest body that is taken, in bytes: a worker takes 100 bytes in `get_workers`.
const MAX_BODY: usize = 16 << 20;

/// Why there is no answer.
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
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// It refuses or does not have it.
    #[error("{path} is answered with {status}")]
    Status {
        /// What was asked for.
        path: &'static str,
        /// Not 200.
        status: StatusCode,
    },
    /// The answer is not what was asked for.
    #[error("the answer to {path} is not what it should be")]
    Decode {
        /// What was asked for.
        path: &'static str,
        /// Why.
        #[source]
        source: serde_json::Error,
    },
}

/// Something to ask an HTTP server for.
pub(super) struct Question {
    pub(super) method: Method,
    pub(super) path: &'static str,
    pub(super) body: Bytes,
}

impl Question {
    /// A read.
    pub(super) fn get(path: &'static str) -> Self {
        Self { method: Method::GET, path, body: Bytes::new() }
    }
}

/// Asks one thing and decodes the answer.
pub(super) async fn ask<A: DeserializeOwned>(
    stream: BoxStream,
    host: &str,
    question: Question,
    deadline: Duration,
) -> Result<A, HttpError> {
    let path = question.path;
    let body = tokio::time::timeout(deadline, exchange(stream, host, question))
        .await
        .map_err(|_| HttpError::Silent { path, within: deadline })??;
    serde_json::from_slice(&body).map_err(|source| HttpError::Decode { path, source })
}

async fn exchange(stream: BoxStream, host: &str, question: Question) -> Result<Bytes, HttpError> {
    let Question { method, path, body } = question;
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
        let body = Limited::new(response.into_body(), MAX_BODY).collect().await;
        body.map(|body| body.to_bytes()).map_err(|source| HttpError::Body { path, source })
    });
    // The connection makes no progress unless it is polled; it may end before the answer has been taken out of it.
    match select(answer, pin!(connection)).await {
        Either::Left((answer, _)) => answer,
        Either::Right((_, answer)) => answer.await,
    }
}
