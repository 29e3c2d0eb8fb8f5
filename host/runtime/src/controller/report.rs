//! What is said of reconciles: in the log, in metrics, in Events.

use std::{fmt, time::Duration};

use dask_wasm_operator_cluster::events::{Posting, Source};
use dask_wasm_operator_core::{
    contract::{EventNote, EventSeverity},
    object::{Object, ObjectKey},
    pipeline::{Report, SubjectState},
    plugin::HandlerName,
    ports::{CallReport, LogLevel, LogLine},
    retry::Retry,
    wanted::{Problem, all_of},
};

use super::Controller;

/// What problems may take of the 1,024 bytes that the API allows for an Event's note.
const EVENT_BYTES: usize = 950;

impl Controller {
    /// The one place that logs and counts what could not be done. What was said before is not said again.
    pub(super) fn report(
        &self,
        handler: &dyn fmt::Display,
        subject: &ObjectKey,
        problems: &[Problem],
        before: &[Problem],
    ) {
        for problem in problems {
            self.surroundings.metrics.reconcile_failed(&handler.to_string(), problem.reason.clone());
            if problem.is_among(before) {
                tracing::debug!(%handler, %subject, reason = &*problem.reason, problem = problem.message, "still not done");
            } else {
                tracing::warn!(%handler, %subject, reason = &*problem.reason, problem = problem.message, "not done");
            }
        }
    }

    pub(super) fn post(&self, source: &Source, subject: &ObjectKey, notes: &[EventNote]) -> Vec<Posting> {
        if notes.is_empty() {
            return Vec::new();
        }
        let object = self.surroundings.observed.get(&subject.kind, &subject.at);
        let post = |object: &Object| -> Vec<Posting> {
            notes.iter().map(|note| self.surroundings.events.post(source, object.into(), note.clone())).collect()
        };
        object.map(|object| post(&object)).unwrap_or_default()
    }

    /// Says what is left of plugins and can't be removed, on each object that stays. What was said before is not said again.
    pub(crate) fn tell_of_remains(
        &self,
        plugin: &str,
        remains: &[(ObjectKey, Problem)],
        before: &[(ObjectKey, Problem)],
    ) {
        let source = Source::Plugin(plugin.to_owned());
        for (object, problem) in remains {
            let before: Vec<_> =
                before.iter().filter(|(other, _)| other == object).map(|(_, told)| told.clone()).collect();
            let problem = std::slice::from_ref(problem);
            self.report(&"sweep", object, problem, &before);
            self.post_new(&source, object, problem, &before);
        }
    }

    /// Posts a Warning for each problem that is new.
    pub(super) fn post_new(&self, source: &Source, subject: &ObjectKey, problems: &[Problem], before: &[Problem]) {
        let new = problems.iter().filter(|problem| !problem.is_among(before));
        self.post(source, subject, &new.map(Problem::as_event).collect::<Vec<_>>());
    }

    /// Says on the subject that a plugin could not handle it, when it is given up.
    pub(super) fn warn_of(&self, source: &Source, subject: &ObjectKey, report: &Report, state: &mut SubjectState) {
        let problems = &report.findings.problems;
        let (Some(Retry::Parked(delay)), Some(first)) = (report.retry, problems.first()) else { return };
        if !state.is_news(problems) {
            return;
        }
        let again = when_tried_again(problems, delay);
        let room = EVENT_BYTES.saturating_sub(again.len());
        let note = EventNote {
            severity: EventSeverity::Warning,
            reason: first.reason.to_string(),
            message: format!("{}; {again}", all_of(problems, room)),
        };
        self.post(source, subject, &[note]);
    }
}

/// When a handler is called again for a subject that is parked. Of many objects that it waits for, one is named.
fn when_tried_again(problems: &[Problem], delay: Duration) -> String {
    let mut awaited = problems.iter().filter_map(|problem| Some((&*problem.reason, problem.waits_for.as_ref()?)));
    let changes = match awaited.next() {
        Some(("KindNotServed", object)) => format!("when {} is served, ", object.kind),
        Some((_, object)) => format!("when {object} changes or is gone, "),
        None => String::new(),
    };
    format!("tried again {changes}when the object itself changes, and in {} s at the latest", delay.as_secs())
}

/// What a plugin says is a field, never the message: nothing that it says looks like a line of the operator's own.
pub(super) fn log_guest(name: &HandlerName, subject: &ObjectKey, report: &CallReport) {
    const SAYS: &str = "the plugin says";
    for LogLine { level, message: text } in &report.log {
        match level {
            LogLevel::Debug => tracing::debug!(target: "guest", handler = %name, %subject, text, "{SAYS}"),
            LogLevel::Info => tracing::info!(target: "guest", handler = %name, %subject, text, "{SAYS}"),
            LogLevel::Warn => tracing::warn!(target: "guest", handler = %name, %subject, text, "{SAYS}"),
            LogLevel::Error => tracing::error!(target: "guest", handler = %name, %subject, text, "{SAYS}"),
        }
    }
    if report.log_dropped > 0 {
        tracing::warn!(target: "guest", handler = %name, %subject, dropped = report.log_dropped, "more lines than allowed (spec.limits.logLines)");
    }
}
