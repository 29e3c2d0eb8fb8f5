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

/// What is wrong with a field, without the place in the text that was decoded, which nobody has seen, and without the names of
/// this program's types.
pub fn of_field(error: &serde_json::Error) -> String {
    let words = error.to_string();
    let position = format!(" at line {} column {}", error.line(), error.column());
    let words = words.strip_suffix(&position).unwrap_or(&words);
    let Some((found, expected)) = words.rsplit_once(", expected ") else { return words.to_owned() };
    let expected = match expected {
        "u32" => "a whole number from 0 to 4294967295",
        "u64" => "a whole number of at least 0",
        "i32" | "i64" => "a whole number",
        other if other.starts_with("struct ") => "a map",
        other => other,
    };
    format!("{found}, expected {expected}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_words_about_a_field_have_no_position_and_no_type_of_this_program() {
        let decode = |json: &str| of_field(&serde_json::from_str::<u32>(json).unwrap_err());
        assert_eq!(decode("-1"), "invalid value: integer `-1`, expected a whole number from 0 to 4294967295");
        assert_eq!(decode("\"3\""), "invalid type: string \"3\", expected a whole number from 0 to 4294967295");
        let spec = serde_json::from_str::<crate::spec::DaskAutoscalerSpec>("[]x").unwrap_err();
        assert!(!of_field(&spec).contains("struct"), "{spec}");
        let map = serde_json::from_str::<crate::spec::DaskAutoscalerSpec>("3").unwrap_err();
        assert_eq!(of_field(&map), "invalid type: integer `3`, expected a map");
    }

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
