//! Reads the audit log of kube-apiserver: which identity sent which request.

use std::fs;
use std::ops::RangeBounds;
use std::path::PathBuf;

use anyhow::Context;
use jiff::Timestamp;
use serde::Deserialize;

/// The audit log of one control plane.
#[derive(Clone, Debug)]
pub struct AuditLog {
    path: PathBuf,
}

/// A request that was answered, or one whose answer is a stream (a watch) that has been closed.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct AuditedRequest {
    /// `get`, `list`, `watch`, `create`, `update`, `patch`, `delete` and so on.
    pub verb: String,
    /// Path and query.
    pub uri: String,
    /// `system:serviceaccount:NAMESPACE:NAME` for ServiceAccounts.
    pub user: String,
    /// The one in whose name it was sent, if that is another.
    pub impersonated: Option<String>,
    /// Status code of the answer.
    pub code: u16,
    /// When the API server received it.
    pub received: Timestamp,
}

impl AuditedRequest {
    /// Whether it asked for a change.
    pub fn is_write(&self) -> bool {
        !matches!(self.verb.as_str(), "get" | "list" | "watch")
    }
}

impl AuditLog {
    pub(crate) fn new(path: PathBuf) -> Self {
        Self { path }
    }

    /// All requests so far, in the order of their completion. The API server writes an entry right after the answer
    /// was sent: whoever has just got an answer waits for its entry with [`wait_for`](crate::wait_for).
    ///
    /// # Errors
    /// When the log cannot be read.
    pub fn requests(&self) -> anyhow::Result<Vec<AuditedRequest>> {
        let text = fs::read_to_string(&self.path).with_context(|| format!("reading {}", self.path.display()))?;
        parse(&text).with_context(|| format!("parsing {}", self.path.display()))
    }

    /// The requests that `user` sent and the API server received in `window`.
    ///
    /// # Errors
    /// When the log cannot be read.
    pub fn requests_of(&self, user: &str, window: impl RangeBounds<Timestamp>) -> anyhow::Result<Vec<AuditedRequest>> {
        let mut requests = self.requests()?;
        requests.retain(|request| request.user == user && window.contains(&request.received));
        Ok(requests)
    }
}

/// An entry of the log, schema audit.k8s.io/v1 Event.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Event {
    stage: String,
    verb: String,
    #[serde(rename = "requestURI")]
    request_uri: String,
    user: User,
    impersonated_user: Option<User>,
    response_status: Option<ResponseStatus>,
    request_received_timestamp: Timestamp,
}

#[derive(Deserialize)]
struct User {
    #[serde(default)]
    username: String,
}

#[derive(Deserialize)]
struct ResponseStatus {
    #[serde(default)]
    code: u16,
}

fn parse(text: &str) -> anyhow::Result<Vec<AuditedRequest>> {
    // What follows the last line feed is an entry that is being written.
    let entries = text.rsplit_once('\n').map_or("", |(entries, _)| entries);
    let mut requests = Vec::new();
    for line in entries.lines() {
        let event: Event = serde_json::from_str(line).with_context(|| format!("in the entry {line}"))?;
        if event.stage == "ResponseComplete" {
            requests.push(AuditedRequest {
                verb: event.verb,
                uri: event.request_uri,
                user: event.user.username,
                impersonated: event.impersonated_user.map(|user| user.username),
                code: event.response_status.map_or(0, |status| status.code),
                received: event.request_received_timestamp,
            });
        }
    }
    Ok(requests)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_completed_requests_of_whole_lines_count() {
        let entry = |stage: &str| {
            format!(
                r#"{{"kind":"Event","stage":"{stage}","verb":"create","requestURI":"/api/v1/pods?x=y",
                "user":{{"username":"admin","groups":[]}},"impersonatedUser":{{"username":"robot"}},"responseStatus":{{"metadata":{{}},"code":201}},
                "requestReceivedTimestamp":"2026-11-22T18:00:00.123456Z"}}"#
            )
            .replace('\n', "")
        };
        let text = format!(
            "{}\n{}\n{}",
            entry("ResponseStarted"),
            entry("ResponseComplete"),
            &entry("ResponseComplete")[..40]
        );
        let requests = parse(&text).unwrap();
        assert_eq!(
            requests,
            [AuditedRequest {
                verb: "create".into(),
                uri: "/api/v1/pods?x=y".into(),
                user: "admin".into(),
                impersonated: Some("robot".into()),
                code: 201,
                received: "2026-11-22T18:00:00.123456Z".parse().unwrap(),
            }]
        );
        assert!(requests[0].is_write());
    }
}
