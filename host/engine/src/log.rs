//! What a guest says during one call, within its limits.

use dask_wasm_operator_core::ports::{LogLevel, LogLine};

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
        let message = self.cut(message);
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

    fn cut(&self, message: &str) -> String {
        if message.len() <= self.line_limit {
            return message.to_owned();
        }
        format!("{}…", &message[..message.floor_char_boundary(self.line_limit)])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_beyond_the_limit_are_counted_and_the_last_error_is_kept() {
        let mut log = GuestLog::new(2, 8);
        for message in ["one", "two", "three"] {
            log.write(LogLevel::Info, message);
        }
        log.write(LogLevel::Error, "panicked at plugin.rs");
        assert_eq!(log.last_error(), "panicked…");
        let (lines, dropped) = log.into_parts();
        assert_eq!(lines.iter().map(|line| line.message.as_str()).collect::<Vec<_>>(), ["one", "two"]);
        assert_eq!(dropped, 2);
    }

    #[test]
    fn a_line_is_cut_between_characters() {
        let mut log = GuestLog::new(1, 4);
        log.write(LogLevel::Debug, "aéé€");
        assert_eq!(log.into_parts().0[0].message, "aé…");
    }
}
