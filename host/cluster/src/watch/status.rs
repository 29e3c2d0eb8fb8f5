//! How a watch is doing, and why it gets no news.

use std::fmt;

use tokio::time::Instant;

use crate::request::RequestError;

/// Why a watch gets no news at the moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WatchProblem {
    /// The server does not serve the kind.
    NotServed,
    /// We have no right to list or watch it, in the server's words.
    Forbidden(String),
    /// The server does not take the request, in its words: the selector, most likely.
    Refused(String),
    /// No answer, or one that says to try again.
    Unavailable(String),
    /// Something was told that can't be understood, in words of ours. The other news are heard.
    Undecodable(String),
}

impl From<&RequestError> for WatchProblem {
    fn from(error: &RequestError) -> Self {
        match (error.code(), error) {
            (_, RequestError::Decode(message)) => Self::Undecodable(message.clone()),
            (404, _) => Self::NotServed,
            (401 | 403, error) => Self::Forbidden(error.to_string()),
            (400, error) => Self::Refused(error.to_string()),
            (_, error) => Self::Unavailable(error.to_string()),
        }
    }
}

impl WatchProblem {
    /// A constant word for condition reasons, labels and log fields.
    pub const fn kind(&self) -> &'static str {
        match self {
            Self::NotServed => "NotServed",
            Self::Forbidden(_) => "Forbidden",
            Self::Refused(_) => "Refused",
            Self::Unavailable(_) => "ApiUnavailable",
            Self::Undecodable(_) => "Undecodable",
        }
    }
}

impl fmt::Display for WatchProblem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotServed => {
                f.write_str("the API server does not serve this kind; is its CustomResourceDefinition installed?")
            }
            Self::Forbidden(message) => write!(f, "a permission to list or watch is missing: {message}"),
            Self::Refused(message) => write!(f, "the API server refuses the watch: {message}"),
            Self::Unavailable(message) => write!(f, "the API server can't be reached: {message}"),
            Self::Undecodable(message) => write!(f, "what the API server says can't be understood: {message}"),
        }
    }
}

/// How a watch is doing.
#[derive(Clone, Debug)]
pub struct WatchStatus {
    /// Whether everything that it covers has been listed once. It stays so when the connection is lost later: what is known
    /// then is old, not wrong.
    pub is_synced: bool,
    /// What is wrong at the moment.
    pub problem: Option<WatchProblem>,
    /// How often more had been asked for of the objects when they were last listed.
    pub(crate) grown: u64,
    /// When something was last tried or heard: a list, a connection, an event.
    pub last_attempt: Instant,
}

impl WatchStatus {
    /// Whether it is in sync, or can't be for a reason that is its own (not served, forbidden, refused).
    pub fn is_settled(&self) -> bool {
        let is_its_own =
            |problem: &WatchProblem| !matches!(problem, WatchProblem::Unavailable(_) | WatchProblem::Undecodable(_));
        self.is_synced || self.problem.as_ref().is_some_and(is_its_own)
    }
}
