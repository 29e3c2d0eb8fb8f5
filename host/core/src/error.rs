//! Errors as one line of text.

use std::error::Error;

/// An error with its causes, without those whose words stand there already: some libraries repeat them.
pub fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let words = error.to_string();
        if !text.contains(&words) {
            text.push_str(": ");
            text.push_str(&words);
        }
        cause = error.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("{words}")]
    struct Wrapped {
        words: &'static str,
        source: Option<Box<Wrapped>>,
    }

    #[test]
    fn each_cause_is_told_once() {
        let words = ["reading the list", "sending: no route", "no route"];
        let error = words.into_iter().rev().fold(None, |source, words| Some(Box::new(Wrapped { words, source })));
        assert_eq!(chain(&*error.unwrap()), "reading the list: sending: no route");
    }
}
