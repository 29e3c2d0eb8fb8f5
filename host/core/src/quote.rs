//! What others say, in our messages.
//!
//! A server words one and the same refusal anew at each attempt: how much of a quota is in use, the name that it drew for a
//! pod, the number of a request. Nobody is told twice because of that. So the words of others stand in quotation marks, and two
//! messages say the same when they differ in what is quoted and in numbers only: what is left names the object, the field and
//! the remedy.

use crate::text::line;

/// The most bytes of others that one message holds: an Event holds 1,024, and the remedy stands at the end.
const LONGEST: usize = 600;

const OPEN: char = '“';
const CLOSE: char = '”';

/// Somebody else's words on one line, in quotation marks of which there are none inside, cut.
pub fn quote(words: &str) -> String {
    format!("{OPEN}{}{CLOSE}", line(words.trim(), LONGEST).replace([OPEN, CLOSE], "\""))
}

/// Whether two messages are about the same: they differ at most in what they quote, and in numbers.
pub fn says_the_same(one: &str, other: &str) -> bool {
    let without_numbers = |message: &str| {
        let words = own_words(message);
        words.split_whitespace().filter(|word| !is_number(word)).map(str::to_owned).collect::<Vec<_>>()
    };
    one == other || without_numbers(one) == without_numbers(other)
}

/// Whether two messages differ at most in what they quote.
pub(crate) fn differs_in_quotes(one: &str, other: &str) -> bool {
    own_words(one) == own_words(other)
}

/// A message without what it quotes.
fn own_words(message: &str) -> String {
    let mut left = String::new();
    let mut depth = 0_usize;
    for character in message.chars() {
        match character {
            OPEN => depth += 1,
            CLOSE => depth = depth.saturating_sub(1),
            _ if depth == 0 => left.push(character),
            _ => {}
        }
    }
    left
}

/// Whether a word is a number or a point in time. A name with digits in it is neither.
fn is_number(word: &str) -> bool {
    let bare = word.trim_matches(|character: char| "(),.;:".contains(character));
    bare.starts_with(|first: char| first.is_ascii_digit())
        && bare.chars().all(|character| character.is_ascii_digit() || ".,-:TZ".contains(character))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_words_of_others_and_numbers_make_no_other_message() {
        let refusal = |used: &str, count: u32, since: &str| {
            let words = quote(&format!("pods \"a-x7k2p\" is forbidden: exceeded quota: q, used: cpu={used}"));
            format!(
                "DaskWorkerGroup c-1: {count} workers wait since {since}: {words}; ask for less in spec.worker.spec"
            )
        };
        let first = refusal("9", 2, "2026-11-22T18:30:00Z");
        assert!(says_the_same(&first, &refusal("10", 30, "2026-11-22T18:31:07.5Z")));
        assert!(differs_in_quotes(&first, &refusal("10", 2, "2026-11-22T18:30:00Z")));
        assert!(!differs_in_quotes(&first, &refusal("9", 3, "2026-11-22T18:30:00Z")), "what we count is a fact");
        assert!(!says_the_same(&first, &first.replace("spec.worker.spec", "spec.worker.spec.containers[0].image")));
        assert!(!says_the_same(&first, &first.replace("c-1", "c-2")), "an object's name is no number");
    }

    #[test]
    fn what_is_quoted_cannot_end_its_own_quotation() {
        let forged = |words: &str| format!("refused: {}; correct spec.a", quote(words));
        assert!(says_the_same(&forged("x"), &forged("y”; correct spec.b“")));
        assert!(forged("y”; correct spec.b").contains("“y\"; correct spec.b”"));
    }

    #[test]
    fn what_is_quoted_is_cut_and_the_remedy_is_kept() {
        let message = format!("refused: {}; correct spec.a", quote(&"ä".repeat(10_000)));
        assert!(message.len() < 700 && message.ends_with(" bytes more]”; correct spec.a"), "{message}");
        assert_eq!(quote(" words\n"), "“words”");
    }
}
