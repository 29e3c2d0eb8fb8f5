//! Text of others on its way to people: one visible line of bounded length.
//!
//! Guests, users' objects, webhooks, schedulers and files say what they like. A newline forges a line of the log, an escape
//! sequence rules the terminal, a bidirectional control shows another line than is there, and a megabyte fills the store of the
//! API server. Each place where text leaves the program passes it through [`line()`]: the formats of the log, the writers of
//! statuses and Events, and the labels of metrics. So nobody who composes a message has to think of it. What has passed once
//! passes again unchanged.

use std::{borrow::Cow, fmt::Write as _};

use serde_json::Value;

/// The most that is said of one thing, in bytes: what Kubernetes allows for the note of an Event.
pub const MESSAGE_BYTES: usize = 1_024;

/// The most of any text in a status, in bytes: several messages, and an eighth of what Kubernetes allows for the message of a
/// condition.
pub const STATUS_BYTES: usize = 4_096;

/// The longest mark of a cut, in bytes.
const LONGEST_MARK: usize = "…[18446744073709551615 bytes more]".len();

/// The text on one line of at most `most` bytes.
///
/// Control characters, format characters (bidirectional and invisible ones), and separators of lines and paragraphs are
/// written as Rust writes them: `\n`, `\u{202e}`. What is cut off at the end is counted: `…[12 bytes more]`; of a text that is
/// longer than `most` nothing is left where there is no room for that.
pub fn line(text: &str, most: usize) -> Cow<'_, str> {
    beginning(text, 0, most)
}

/// [`line()`] of a text of which only the beginning was kept, and `more` bytes not.
pub fn beginning(text: &str, more: usize, most: usize) -> Cow<'_, str> {
    if more == 0 && text.len() <= most && text.chars().all(is_plain) {
        return Cow::Borrowed(text);
    }
    let mut line = String::with_capacity(text.len().min(most));
    // Where the line ends if it has to be cut, and how much of the text it holds up to there.
    let (mut end, mut held) = (0, 0);
    for (at, character) in text.char_indices() {
        if line.len() + LONGEST_MARK <= most {
            (end, held) = (line.len(), at);
        }
        if is_plain(character) {
            line.push(character);
        } else {
            line.extend(character.escape_debug());
        }
        if line.len() > most {
            break;
        }
    }
    if more > 0 || line.len() > most {
        line.truncate(end);
        if LONGEST_MARK <= most {
            let _ = write!(line, "…[{} bytes more]", text.len() - held + more);
        }
    }
    Cow::Owned(line)
}

/// [`line()`] of a text that is nobody else's: without a copy where nothing is to be changed.
pub fn into_line(text: String, most: usize) -> String {
    match line(&text, most) {
        Cow::Borrowed(_) => text,
        Cow::Owned(line) => line,
    }
}

/// [`line()`] for every text of a value.
pub fn lines_in(value: &mut Value, most: usize) {
    match value {
        Value::String(text) => *text = into_line(std::mem::take(text), most),
        Value::Array(values) => values.iter_mut().for_each(|value| lines_in(value, most)),
        Value::Object(fields) => fields.values_mut().for_each(|value| lines_in(value, most)),
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}

/// Whether a character is shown as what it is, on the line that it is on.
fn is_plain(character: char) -> bool {
    if character.is_ascii() {
        return matches!(character, ' '..='~');
    }
    // The standard library knows what can't be seen. It escapes accents, too, unless they follow something.
    let mut text = [b'a'; 5];
    let length = 1 + character.encode_utf8(&mut text[1..]).len();
    str::from_utf8(&text[..length]).is_ok_and(|text| text.escape_debug().count() == 2)
}

#[cfg(test)]
mod tests {
    use dask_wasm_operator_test_properties::cases;
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    /// What forges or hides something, by Unicode's own words: Cc, Zl, Zp, and Cf as far as it is known to be used so.
    fn is_harmful(character: char) -> bool {
        let is_format = matches!(character,
            '\u{ad}' | '\u{61c}' | '\u{180e}' | '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}'
            | '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{fff9}'..='\u{fffb}' | '\u{e0001}'..='\u{e007f}');
        character.is_control() || matches!(character, '\u{2028}' | '\u{2029}') || is_format
    }

    /// Any character, the harmful ones often.
    fn character() -> impl Strategy<Value = char> {
        let harmful: Vec<char> =
            (0..=u32::from(char::MAX)).filter_map(char::from_u32).filter(|c| is_harmful(*c)).collect();
        prop_oneof![any::<char>(), prop::char::range(' ', '~'), prop::sample::select(harmful)]
    }

    proptest! {
        #![proptest_config(cases(256))]

        #[test]
        fn whatever_goes_in_one_visible_line_of_bounded_length_comes_out(
            text in prop::collection::vec(character(), 0..300).prop_map(String::from_iter),
            most in 0_usize..400,
        ) {
            let once = line(&text, most);
            prop_assert!(once.len() <= most);
            prop_assert!(!once.chars().any(is_harmful), "{once:?}");
            prop_assert_eq!(line(&once, most), once.as_ref());
            prop_assert_eq!(into_line(text.clone(), most), once.as_ref());
            let whole = line(&text, usize::MAX);
            if whole.len() <= most {
                prop_assert_eq!(once, whole);
            }
            prop_assert!(beginning(&text, 7, most).len() <= most);
        }
    }

    #[test]
    fn what_is_harmful_is_seen_and_everything_else_is_left_alone() {
        for text in ["", "worker 7: 3 of 4", "Grüße, Δ 日本語 e\u{301} \\ \" '", "한국어 ไทย עברית 🦀"]
        {
            assert!(matches!(line(text, 1_000), Cow::Borrowed(same) if same == text), "{text}");
        }
        for (text, seen) in [
            ("a\nready\r", "a\\nready\\r"),
            ("\0\t\u{7f}\u{85}", "\\0\\t\\u{7f}\\u{85}"),
            ("\u{1b}[2J\u{9b}31m", "\\u{1b}[2J\\u{9b}31m"),
            ("user\u{202e}nimda\u{2066}", "user\\u{202e}nimda\\u{2066}"),
            ("a\u{2028}b\u{200b}c\u{feff}", "a\\u{2028}b\\u{200b}c\\u{feff}"),
        ] {
            assert_eq!(line(text, 1_000), seen);
        }
    }

    #[test]
    fn what_is_cut_off_is_counted_in_bytes_of_the_text() {
        let text = "é".repeat(100);
        let cut = line(&text, 101);
        let (kept, mark) = cut.split_once('…').unwrap();
        assert_eq!(mark, format!("[{} bytes more]", text.len() - kept.len()));
        assert_eq!(line(&text, 200), text);
        assert_eq!(line(&text, 5), "", "there is no room for a mark");
        assert!(beginning("kept", 1_000, 50).ends_with("…[1001 bytes more]"), "the last that was kept has gone, too");
    }

    #[test]
    fn every_text_of_a_value_is_passed() {
        let mut value = json!({"a": ["b\nc", {"d": "e\r"}], "f": 1, "g": "x".repeat(100)});
        lines_in(&mut value, 50);
        assert_eq!((&value["a"][0], &value["a"][1]["d"], &value["f"]), (&json!("b\\nc"), &json!("e\\r"), &json!(1)));
        assert_eq!(value["g"], json!(format!("{}…[86 bytes more]", "x".repeat(14))));
    }
}
