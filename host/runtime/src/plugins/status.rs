//! What the status of a DaskPlugin says.

use dask_wasm_operator_core::{
    contract::Manifest,
    spec::{
        Condition, ConditionStatus, DaskPluginStatus, HandlerState, HandlerStatus, LastError, PluginCounts, PluginState,
    },
    text::{MESSAGE_BYTES, into_line},
};

/// Where a plugin stands, for people.
#[derive(Debug, Default)]
pub(super) struct Standing {
    /// What serves calls now.
    pub(super) serving: Option<Serving>,
    /// What the newest specification and code came to.
    pub(super) newest: Newest,
}

/// A plugin that serves calls.
#[derive(Clone, Debug)]
pub(super) struct Serving {
    pub(super) digest: String,
    pub(super) manifest: Manifest,
    pub(super) handlers: Vec<HandlerStatus>,
}

/// What the newest specification and code came to.
#[derive(Clone, Debug)]
pub(crate) struct Newest {
    pub(super) state: PluginState,
    pub(super) reason: String,
    pub(crate) message: String,
    /// Its digest, if it is known.
    pub(super) digest: Option<String>,
}

impl Default for Newest {
    fn default() -> Self {
        Self::new(PluginState::Found, "Found", "its source is being read")
    }
}

impl Newest {
    pub(super) fn new(state: PluginState, reason: &str, message: impl Into<String>) -> Self {
        let message = into_line(message.into(), MESSAGE_BYTES);
        Self { state, reason: reason.to_owned(), message, digest: None }
    }
}

impl Standing {
    /// As it is to be written.
    pub(super) fn status(
        &self,
        figures: (PluginCounts, Option<LastError>),
        generation: Option<i64>,
        before: &[Condition],
        now: u64,
    ) -> DaskPluginStatus {
        let serving = self.serving.as_ref();
        let handlers = serving.map(|serving| serving.handlers.clone()).unwrap_or_default();
        let unserved: Vec<_> = handlers.iter().filter(|handler| handler.state == HandlerState::NotServed).collect();
        let newest = &self.newest;
        let ready = newest.state == PluginState::Ready;
        let all_served = match unserved.as_slice() {
            [] => (ConditionStatus::True, "AllServed".to_owned(), "all handlers are served".to_owned()),
            [first, ..] => {
                let why = first.message.clone().unwrap_or_default();
                let reason = first.reason.clone().unwrap_or_else(|| "NotServed".to_owned());
                (
                    ConditionStatus::False,
                    reason,
                    format!("{} of {} handlers are not served; {}: {why}", unserved.len(), handlers.len(), first.name),
                )
            }
        };
        let (counts, last_error) = figures;
        let degraded = match (&last_error, counts.parked) {
            (Some(error), parked) if parked > 0 => (
                ConditionStatus::True,
                error.reason.clone(),
                format!("given up on {parked} subjects; {}: {}", error.subject, error.message),
            ),
            _ => (ConditionStatus::False, "AsWanted".to_owned(), "no subject is given up".to_owned()),
        };
        let is_ready = if ready { ConditionStatus::True } else { ConditionStatus::False };
        let found = [
            ("Ready", (is_ready, newest.reason.clone(), newest.message.clone())),
            ("HandlersServed", all_served),
            ("Degraded", degraded),
        ];
        let conditions = found
            .into_iter()
            .map(|(type_, finding)| Condition::found(type_, finding, before, generation, now))
            .collect();
        DaskPluginStatus {
            state: Some(newest.state),
            reason: Some(newest.reason.clone()),
            message: Some(newest.message.clone()),
            digest: serving.map(|serving| serving.digest.clone()),
            pending_digest: newest
                .digest
                .clone()
                .filter(|newest| serving.is_none_or(|serving| serving.digest != *newest)),
            describes_as: serving.map(|serving| serving.manifest.name.clone()),
            version: serving.map(|serving| serving.manifest.version.clone()),
            interface_version: serving.map(|serving| serving.manifest.interface_version.clone()),
            handlers,
            counts: Some(counts),
            last_error,
            conditions,
            observed_generation: generation,
        }
    }
}
