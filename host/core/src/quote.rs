//! What others say, in our messages.
//!
//! A server words one and the same refusal anew at each attempt: how much of a quota is in use, the name that it drew for a
//! pod, the number of a request. Nobody is told twice because of that. So the words of others stand in quotation marks, and two
//! messages say the same when they differ in what is quoted and in numbers only: what is left names the object, the field and
//! the remedy.

use crate::text::line;

/// The most bytes of others that one message holds: an Event holds 1,024, and the remedy stands at the end.
const LONGEST: usize = 600;

/// What stands around the number of further problems.
const MORE_BEGINS: &str = " (and ";
const MORE_ENDS: &str = " more)";

const OPEN: char = '“';
const CLOSE: char = '”';

/// Somebody else's words on one line, in quotation marks of which there are none inside, cut.
pub fn quote(words: &str) -> String {
    format!("{OPEN}{}{CLOSE}", line(words.trim(), LONGEST).replace([OPEN, CLOSE], "\""))
}

/// Whether two messages are about the same: they differ at most in what they quote, in numbers, and in how many more problems
/// there are.
pub fn says_the_same(one: &str, other: &str) -> bool {
    let without_numbers = |message: &str| {
        let words = own_words(without_more(message));
        words.split_whitespace().filter(|word| !is_number(word)).map(str::to_owned).collect::<Vec<_>>()
    };
    one == other || without_numbers(one) == without_numbers(other)
}

/// A message without what [`and_more`] has put at its end.
fn without_more(message: &str) -> &str {
    let Some((first, end)) = message.rsplit_once(MORE_BEGINS) else { return message };
    let is_count = |count: &str| !count.is_empty() && count.bytes().all(|byte| byte.is_ascii_digit());
    if end.strip_suffix(MORE_ENDS).is_some_and(is_count) { first } else { message }
}

/// The message of the first of several problems, with how many more there are.
pub(crate) fn and_more(first: &str, more: usize) -> String {
    if more == 0 { first.to_owned() } else { format!("{first}{MORE_BEGINS}{more}{MORE_ENDS}") }
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
    fn a_further_problem_makes_the_first_no_other_one() {
        for more in [0, 1, 12] {
            let (one, other) = (and_more("a: correct spec.b", more), and_more("a: correct spec.b", more + 1));
            assert!(says_the_same(&one, &other) && !differs_in_quotes(&one, &other));
        }
        assert!(!says_the_same("a (and no more)", "a"), "these are words of ours");
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
