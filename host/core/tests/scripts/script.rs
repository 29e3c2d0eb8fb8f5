//! A script as a file: prose, steps, and what is expected after each.

use std::fmt::Write as _;

use crate::steps::{self, Call};

/// How a step begins.
const STEP: &str = "> ";
/// How a remark between two steps begins.
const REMARK: char = '#';

/// See the module.
pub(crate) struct Script<'a> {
    path: &'a str,
    prose: Vec<&'a str>,
    pub(crate) steps: Vec<Step<'a>>,
}

/// One step.
pub(crate) struct Step<'a> {
    /// `file:line`.
    pub(crate) at: String,
    pub(crate) text: &'a str,
    pub(crate) call: Call,
    /// The indented lines below it.
    pub(crate) block: Vec<&'a str>,
    /// What is expected to be told.
    told: Vec<&'a str>,
    /// Remarks and blank lines before the next step.
    tail: Vec<&'a str>,
}

impl<'a> Script<'a> {
    pub(crate) fn parse(path: &'a str, text: &'a str) -> Result<Self, String> {
        let lines: Vec<_> = text.lines().collect();
        let first = lines.iter().position(|line| line.starts_with(STEP)).unwrap_or(lines.len());
        let prose = lines[..first].to_vec();
        if prose.first().is_none_or(|line| line.trim().is_empty()) {
            return Err(format!("{path}:1: a script begins with a sentence on what it shows"));
        }
        let mut script = Self { path, prose, steps: Vec::new() };
        let mut rest = lines[first..].iter().enumerate().map(|(number, line)| (first + number + 1, *line)).peekable();
        while let Some((number, line)) = rest.next() {
            let at = format!("{path}:{number}");
            let Some(text) = line.strip_prefix(STEP) else {
                return Err(format!(
                    "{at}: {line:?} is no step ({STEP}…), no remark ({REMARK} …), and stands below no step"
                ));
            };
            let call = Call::parse(text).ok_or_else(|| format!("{at}: there is no step {text:?}. {}", steps::all()))?;
            let mut take = |is_one: &dyn Fn(&str) -> bool| {
                let mut taken = Vec::new();
                while let Some((_, line)) = rest.next_if(|(_, line)| is_one(line)) {
                    taken.push(line);
                }
                taken
            };
            let block = take(&|line| text.ends_with(':') && line.starts_with("    "));
            let told = take(&|line| !line.is_empty() && !line.starts_with(STEP) && !line.starts_with(REMARK));
            let tail = take(&|line| line.is_empty() || line.starts_with(REMARK));
            script.steps.push(Step { at, text, call, block, told, tail });
        }
        Ok(script)
    }

    /// The file with what was told in the place of what was expected.
    pub(crate) fn with_told(&self, told: &[Vec<String>]) -> String {
        let mut text = self.prose.join("\n") + "\n";
        for (number, (step, told)) in self.steps.iter().zip(told).enumerate() {
            let is_last = number + 1 == self.steps.len();
            let head = format!("{STEP}{}", step.text);
            let lines = std::iter::once(head.as_str()).chain(step.block.iter().copied());
            let lines = lines.chain(told.iter().map(String::as_str));
            let gap = if step.tail.is_empty() && !is_last { &[""][..] } else { &step.tail[..] };
            lines.chain(gap.iter().copied()).for_each(|line| {
                let _ = writeln!(text, "{line}");
            });
        }
        text.trim_end().to_owned() + "\n"
    }

    /// Where something else was told than is expected, for people.
    pub(crate) fn difference(&self, told: &[Vec<String>]) -> Option<String> {
        let mut text = String::new();
        for (step, told) in self.steps.iter().zip(told).filter(|(step, told)| step.told != **told) {
            let _ = write!(text, "\n{}: after \"{}\" (- expected, + told)\n", step.at, step.text);
            let same = step.told.iter().zip(told).take_while(|(one, other)| *one == *other).count();
            let (expected, new) = (&step.told[same..], &told[same..]);
            let end = expected.iter().rev().zip(new.iter().rev()).take_while(|(one, other)| *one == *other).count();
            let mut add = |sign: char, lines: &mut dyn Iterator<Item = &str>| {
                lines.for_each(|line| {
                    let _ = writeln!(text, "  {sign} {line}");
                });
            };
            add(' ', &mut step.told[..same].iter().copied());
            add('-', &mut expected[..expected.len() - end].iter().copied());
            add('+', &mut new[..new.len() - end].iter().map(String::as_str));
            add(' ', &mut expected[expected.len() - end..].iter().copied());
        }
        (!text.is_empty()).then(|| format!("{} tells another story:\n{text}", self.path))
    }
}

#[test]
fn what_is_no_step_is_an_error_with_file_line_and_the_steps_that_there_are() {
    let error = |text: &str| Script::parse("a.txt", text).err().unwrap();
    let unknown = error("It shows this.\n\n> delete Pod a\n\n> fly to the moon\n");
    assert!(unknown.starts_with("a.txt:5: there is no step \"fly to the moon\""), "{unknown}");
    assert!(unknown.contains("delete KIND NAME"), "{unknown}");
    let stray = error("It shows this.\n\n> delete Pod a\nnothing\n\nnothing\n");
    assert!(stray.starts_with("a.txt:6: \"nothing\" is no step"), "{stray}");
    assert!(error("\n> delete Pod a\n").starts_with("a.txt:1: a script begins with a sentence"));
}

#[test]
fn a_difference_is_told_by_line_and_what_was_told_can_take_the_place_of_what_was_expected() {
    let text = "It shows this.\n\n> delete Pod a\none\ntwo\nthree\n\n# Why.\n> apply:\n    kind: Pod\nfour\n";
    let script = Script::parse("a.txt", text).unwrap();
    let told = |lines: &[&str]| lines.iter().map(|line| (*line).to_owned()).collect::<Vec<_>>();
    assert_eq!(script.difference(&[told(&["one", "two", "three"]), told(&["four"])]), None);
    let other = [told(&["one", "2", "three"]), told(&["four"])];
    let difference = script.difference(&other).unwrap();
    assert!(difference.contains("a.txt:3: after \"delete Pod a\""), "{difference}");
    assert!(difference.ends_with("    one\n  - two\n  + 2\n    three\n"), "{difference}");
    assert_eq!(script.with_told(&other), text.replace("two", "2"));
}
