//! What a guest says during one call, within its limits.

use dask_wasm_operator_core::{
    ports::{LogLevel, LogLine},
    text::beginning,
};

pub(crate) struct GuestLog {
    lines: Vec<LogLine>,
    dropped: u32,
    /// The last line of level error, even if it was dropped: the words of a guest that panics.
    last_error: String,
    lines_limit: u32,
    line_limit: usize,
}

impl GuestLog {
    pub(crate) fn new(lines_limit: u32, line_limit: usize) -> Self {
        Self { lines: Vec::new(), dropped: 0, last_error: String::new(), lines_limit, line_limit }
    }

    pub(crate) fn line_limit(&self) -> usize {
        self.line_limit
    }

    pub(crate) fn write(&mut self, level: LogLevel, message: &str) {
        self.write_beginning(level, message, 0);
    }

    /// Writes a line of which only the beginning was kept, and `more` bytes not.
    pub(crate) fn write_beginning(&mut self, level: LogLevel, message: &str, more: usize) {
        let message = beginning(message, more, self.line_limit).into_owned();
        if level == LogLevel::Error {
            message.clone_into(&mut self.last_error);
        }
        if self.lines.len() < self.lines_limit as usize {
            self.lines.push(LogLine { level, message });
        } else {
            self.dropped = self.dropped.saturating_add(1);
        }
    }

    pub(crate) fn last_error(&self) -> &str {
        &self.last_error
    }

    /// The lines, and the number of dropped ones.
    pub(crate) fn into_parts(self) -> (Vec<LogLine>, u32) {
        (self.lines, self.dropped)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_beyond_the_limit_are_counted_and_the_last_error_is_kept() {
        let mut log = GuestLog::new(2, 100);
        for message in ["one", "two", "three"] {
            log.write(LogLevel::Info, message);
        }
        log.write(LogLevel::Error, "panicked at plugin.rs\nready");
        assert_eq!(log.last_error(), "panicked at plugin.rs\\nready");
        let (lines, dropped) = log.into_parts();
        assert_eq!(lines.iter().map(|line| line.message.as_str()).collect::<Vec<_>>(), ["one", "two"]);
        assert_eq!(dropped, 2);
    }

    #[test]
    fn what_a_guest_writes_is_one_line_within_the_limit() {
        let mut log = GuestLog::new(1, 100);
        log.write(LogLevel::Debug, &"ready\n\u{202e}".repeat(1_000));
        let message = &log.into_parts().0[0].message;
        assert!(message.len() <= 100 && !message.contains(['\n', '\u{202e}']), "{message}");
        assert!(message.starts_with("ready\\n\\u{202e}") && message.ends_with(" bytes more]"), "{message}");
    }
}
