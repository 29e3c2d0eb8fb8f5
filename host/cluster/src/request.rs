//! One request and its answer, with a deadline. Retrying is the caller's business: only it knows what may be sent twice.

use std::{borrow::Cow, time::Duration};

use bytes::Bytes;
use dask_wasm_operator_core::{error::chain, identity::Identity, object::WireObject};
use http::{Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt, Limited};
use kube::{Client, client::Body, core::Status};
use serde::Deserialize;
use thiserror::Error;

/// How long any request may take, its retries included.
pub(crate) const TOTAL_DEADLINE: Duration = Duration::from_secs(15);

/// The largest answer: more than a page of objects that are as large as etcd takes them.
const LARGEST: usize = 1 << 30;

/// The longest wait that a server can ask of us.
const RETRY_AFTER_LIMIT: Duration = Duration::from_secs(30);

/// Names the user in whose name a request is made, if that is not the one who sends it.
const IMPERSONATE_USER: &str = "Impersonate-User";

/// Why a request has no good answer.
#[derive(Clone, Debug, Error)]
pub enum RequestError {
    /// The server answered with a refusal.
    #[error("{}", describe(.0))]
    Status(Box<Status>),
    /// The server asks to try again, after some time if it said so.
    #[error("{}", describe(.0))]
    TryAgain(Box<Status>, Option<Duration>),
    /// No connection, or it broke.
    #[error("{0}")]
    Transport(String),
    /// No answer in time.
    #[error("no answer within {0:?}")]
    Timeout(Duration),
    /// The answer is not what was asked for.
    #[error("the answer can't be decoded: {0}")]
    Decode(String),
}

impl RequestError {
    /// The server's code; 0 without an answer.
    pub fn code(&self) -> u16 {
        match self {
            Self::Status(status) | Self::TryAgain(status, _) => status.code,
            Self::Transport(_) | Self::Timeout(_) | Self::Decode(_) => 0,
        }
    }

    /// From what stands in the place of an event of a watch.
    pub(crate) fn in_stream(status: Status) -> Self {
        Self::from_status(status, None)
    }

    /// From an error of kube's client.
    pub(crate) fn from_kube(error: kube::Error) -> Self {
        match error {
            kube::Error::Api(status) => Self::from_status(*status, None),
            kube::Error::SerdeError(error) => Self::Decode(error.to_string()),
            other => Self::Transport(chain(&other)),
        }
    }

    fn from_status(status: Status, retry_after: Option<Duration>) -> Self {
        let code = StatusCode::from_u16(status.code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        // What Kubernetes answers, with 500, to an apply of what is no object of the kind: a field that the schema does not know,
        // a value of another type.
        let is_bad_object = ["failed to create typed patch object", "failed to convert new object"]
            .iter()
            .any(|words| status.message.starts_with(words));
        if code == StatusCode::TOO_MANY_REQUESTS || (code.is_server_error() && !is_bad_object) {
            Self::TryAgain(Box::new(status), retry_after)
        } else {
            Self::Status(Box::new(status))
        }
    }
}

/// The server's words, or at least its reason or code: some answers have no message.
fn describe(status: &Status) -> String {
    match (status.message.as_str(), status.reason.as_str()) {
        ("", "") => format!("HTTP status {}", status.code),
        ("", reason) => reason.to_owned(),
        (message, _) => message.to_owned(),
    }
}

/// A good answer.
pub(crate) struct Answer {
    body: Bytes,
}

impl Answer {
    /// Reads the object in the answer, whatever is in it.
    pub(crate) fn object(&self) -> Result<WireObject, RequestError> {
        WireObject::read_bytes(&self.body).map_err(|error| RequestError::Decode(error.to_string()))
    }

    /// The answer as it came.
    pub(crate) fn text(&self) -> Cow<'_, str> {
        String::from_utf8_lossy(&self.body)
    }

    /// Decodes the answer.
    pub(crate) fn decode<'a, T: Deserialize<'a>>(&'a self) -> Result<T, RequestError> {
        serde_json::from_slice(&self.body).map_err(|error| RequestError::Decode(error.to_string()))
    }
}

/// A request with a JSON body, or none.
pub(crate) struct Call<'a> {
    pub(crate) method: Method,
    pub(crate) path: &'a str,
    pub(crate) content_type: &'static str,
    pub(crate) accept: &'static str,
    pub(crate) body: Bytes,
    pub(crate) identity: Identity,
}

/// The usual encoding of requests and answers.
pub(crate) const JSON: &str = "application/json";

/// Answers that hold only metadata, of one object and of a list.
pub(crate) const METADATA: &str = "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1";
pub(crate) const METADATA_LIST: &str = "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1";

impl<'a> Call<'a> {
    /// A read.
    pub(crate) fn get(path: &'a str) -> Self {
        Self {
            method: Method::GET,
            path,
            content_type: JSON,
            accept: JSON,
            body: Bytes::new(),
            identity: Identity::Operator,
        }
    }

    /// A request with a JSON body.
    pub(crate) fn json(method: Method, path: &'a str, body: &impl serde::Serialize) -> Self {
        let body = serde_json::to_vec(body).expect("requests are made of maps with text keys, which can be encoded");
        Self { method, path, content_type: JSON, accept: JSON, body: body.into(), identity: Identity::Operator }
    }

    /// Sends the request once.
    pub(crate) async fn send(&self, client: &Client, deadline: Duration) -> Result<Answer, RequestError> {
        let exchange = async {
            let body = whole(self.open(client).await?.into_body()).await?;
            Ok(Answer { body })
        };
        tokio::time::timeout(deadline, exchange).await.unwrap_or(Err(RequestError::Timeout(deadline)))
    }

    /// Sends the request once, and answers a success with what is still to come of it.
    pub(crate) async fn open(&self, client: &Client) -> Result<Response<Body>, RequestError> {
        let mut request = Request::builder()
            .method(self.method.clone())
            .uri(self.path)
            .header(header::CONTENT_TYPE, self.content_type)
            .header(header::ACCEPT, self.accept);
        if let Identity::Impersonated(account) = &self.identity {
            // The API server adds the groups that every account of its namespace has.
            request = request.header(IMPERSONATE_USER, account.user());
        }
        let request =
            request.body(Body::from(self.body.clone())).map_err(|error| RequestError::Transport(error.to_string()))?;
        let response = client.send(request).await.map_err(RequestError::from_kube)?;
        if response.status().is_success() {
            return Ok(response);
        }
        let (head, body) = response.into_parts();
        let body = whole(body).await?;
        let retry_after = head
            .headers
            .get(header::RETRY_AFTER)
            .and_then(|value| value.to_str().ok()?.parse().ok())
            .map(|seconds| Duration::from_secs(seconds).min(RETRY_AFTER_LIMIT));
        // Proxies between us and the server answer with text or HTML.
        let mut status = serde_json::from_slice::<Status>(&body)
            .unwrap_or_else(|_| Status::failure(String::from_utf8_lossy(&body).trim(), ""));
        status.code = head.status.as_u16();
        Err(RequestError::from_status(status, retry_after))
    }
}

async fn whole(body: Body) -> Result<Bytes, RequestError> {
    let collected = Limited::new(body, LARGEST).collect().await;
    Ok(collected.map_err(|error| RequestError::Transport(chain(&*error)))?.to_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_that_ask_to_try_again_are_told_apart() {
        for (code, again) in
            [(400, false), (404, false), (409, false), (422, false), (429, true), (500, true), (504, true)]
        {
            let error = RequestError::from_status(Status::default().with_code(code), None);
            assert_eq!(matches!(error, RequestError::TryAgain(..)), again, "{code}");
            assert_eq!(error.code(), code);
        }
    }

    #[test]
    fn what_is_no_object_of_its_kind_stays_so() {
        for words in [
            "failed to create typed patch object (n/a; /v1, Kind=ConfigMap): .x: field not declared in schema",
            "failed to convert new object (n/a; apps/v1, Kind=Deployment) to proper version: unable to convert unstructured \
             object to apps/v1, Kind=Deployment: cannot convert float64 to int32",
        ] {
            let error = RequestError::from_status(Status::failure(words, "").with_code(500), None);
            assert!(matches!(error, RequestError::Status(_)), "{words}");
        }
    }

    #[test]
    fn an_answer_without_words_is_described_by_its_code() {
        let error = RequestError::from_status(Status::default().with_code(418), None);
        assert_eq!(error.to_string(), "HTTP status 418");
    }
}
