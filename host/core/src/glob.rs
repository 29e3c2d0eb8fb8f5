//! Shell patterns, as Python's `fnmatch` has them, of the names of namespaces.

/// A pattern. However it is made, comparing takes time in proportion to the lengths of both.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Glob(Vec<Token>);

#[derive(Clone, Debug, PartialEq, Eq)]
enum Token {
    /// Any number of characters.
    Any,
    /// One character, of these ranges or, negated, of none of them.
    One { negated: bool, ranges: Vec<(char, char)> },
}

impl Glob {
    /// The pattern that every name matches.
    pub fn any() -> Self {
        Self(vec![Token::Any])
    }

    /// Parses `team-*`, `a?`, `[a-c]`, `[!a]`.
    ///
    /// # Errors
    /// The first character that can't be in a name.
    pub fn parse(text: &str) -> Result<Self, char> {
        let characters: Vec<char> = text.chars().collect();
        let mut rest = &*characters;
        let mut tokens = Vec::new();
        while let Some((&character, behind)) = rest.split_first() {
            rest = behind;
            tokens.push(match character {
                '*' => Token::Any,
                '?' => Token::One { negated: true, ranges: Vec::new() },
                '[' => {
                    let (class, behind) = class(behind).ok_or('[')?;
                    rest = behind;
                    class
                }
                'a'..='z' | '0'..='9' | '-' => Token::One { negated: false, ranges: vec![(character, character)] },
                other => return Err(other),
            });
        }
        Ok(Self(tokens))
    }

    /// Whether a name matches as a whole.
    pub fn matches(&self, name: &str) -> bool {
        let characters: Vec<char> = name.chars().collect();
        // Which numbers of characters the tokens so far may stand for.
        let mut reached = vec![false; characters.len() + 1];
        reached[0] = true;
        for token in &self.0 {
            match token {
                Token::Any => {
                    let first = reached.iter().position(|reached| *reached).unwrap_or(reached.len());
                    reached[first..].fill(true);
                }
                Token::One { negated, ranges } => {
                    let is_in = |character: &char| ranges.iter().any(|(from, to)| (from..=to).contains(&character));
                    let step = |(reached, character): (&bool, &char)| *reached && is_in(character) != *negated;
                    let stepped: Vec<bool> = reached.iter().zip(&characters).map(step).collect();
                    reached = [vec![false], stepped].concat();
                }
            }
        }
        reached.last() == Some(&true)
    }
}

/// A class of characters behind its `[`, and what follows it; none if nothing closes it.
fn class(text: &[char]) -> Option<(Token, &[char])> {
    let negated = text.first() == Some(&'!');
    let text = &text[usize::from(negated)..];
    // A bracket that comes first stands for itself.
    let end = text.iter().skip(1).position(|character| *character == ']')? + 1;
    let (mut members, mut ranges) = (&text[..end], Vec::new());
    while let Some((&from, behind)) = members.split_first() {
        (ranges, members) = match behind {
            ['-', to, behind @ ..] => ([ranges, vec![(from, *to)]].concat(), behind),
            _ => ([ranges, vec![(from, from)]].concat(), behind),
        };
    }
    Some((Token::One { negated, ranges }, &text[end + 1..]))
}

#[cfg(test)]
mod tests {
    use dask_wasm_operator_test_properties::cases;
    use proptest::prelude::*;

    use super::*;

    fn matches(glob: &str, name: &str) -> bool {
        Glob::parse(glob).unwrap().matches(name)
    }

    /// What a pattern of letters and `*` means, in time that grows exponentially with their number.
    fn is_meant(glob: &str, name: &str) -> bool {
        match glob.split_once('*') {
            None => glob == name,
            Some((head, tail)) => {
                name.strip_prefix(head).is_some_and(|rest| (0..=rest.len()).any(|at| is_meant(tail, &rest[at..])))
            }
        }
    }

    #[test]
    fn globs_match_as_in_python() {
        for (glob, name, matched) in [
            ("*", "a", true),
            ("a*", "a", true),
            ("a*c*", "abcb", true),
            ("a*c", "abcb", false),
            ("**b", "ab", true),
            ("a?", "ab", true),
            ("a?", "a", false),
            ("?", "ab", false),
            ("[ab]", "b", true),
            ("[ab]", "c", false),
            ("team-[0-9]", "team-7", true),
            ("team-[0-9]", "team-a", false),
            ("[!a]b", "cb", true),
            ("[!a]b", "ab", false),
            ("a[a-]b", "a-b", true),
            ("a[-a]b", "a-b", true),
            ("a[]x]b", "axb", true),
            ("[z-a]", "b", false),
        ] {
            assert_eq!(matches(glob, name), matched, "{glob} {name}");
        }
    }

    #[test]
    fn many_stars_take_no_time() {
        assert!(!matches(&"*a".repeat(31), &format!("{}b", "a".repeat(62))));
        assert!(!matches(&format!("{}b", "*".repeat(62)), &"a".repeat(63)));
    }

    proptest! {
        #![proptest_config(cases(256))]

        #[test]
        fn a_pattern_matches_what_it_means(glob in "[ab*]{0,6}", name in "[ab]{0,8}") {
            prop_assert_eq!(matches(&glob, &name), is_meant(&glob, &name));
        }
    }
}
