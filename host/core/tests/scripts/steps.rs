//! The steps that there are. docs/dev/golden-scripts.md has the same list.

/// What stands for a word that a script gives; at the end of a step for all words that are left.
const PLACES: [&str; 12] =
    ["CODE", "DEPLOYMENT", "FIELDS", "FILE", "KIND", "N", "NAME", "PATH", "UNIT", "VALUE", "WORDS", "WORKER"];

/// All steps.
const STEPS: [&str; 41] = [
    "begin with FILE",
    "apply FILE",
    "apply:",
    "change KIND NAME: PATH = VALUE",
    "remove PATH of KIND NAME",
    "scale KIND NAME to N",
    "delete KIND NAME",
    "show KIND NAME: PATH",
    "pods start when a step says so",
    "all pods run",
    "the pod of DEPLOYMENT runs",
    "the pod of DEPLOYMENT is not ready",
    "the pod of DEPLOYMENT waits: WORDS",
    "no pods can be made: WORDS",
    "pods can be made again",
    "pod NAME waits: WORDS",
    "pod NAME runs",
    "pod NAME succeeds",
    "pod NAME fails with exit code N",
    "the API server refuses NAME: CODE WORDS",
    "the API server accepts everything again",
    "the API server knows of containers: FIELDS",
    "KIND NAME can't be read at PATH",
    "KIND NAME can be read again",
    "the scheduler does not answer",
    "the scheduler answers again",
    "the scheduler asks for N workers",
    "the scheduler is idle",
    "the scheduler is busy",
    "the scheduler can't empty WORKER",
    "the scheduler can empty WORKER",
    "the scheduler can do without WORKER",
    "WORKER begins a long task",
    "WORKER ends its task",
    "the plugin wants:",
    "the plugin wants nothing",
    "the plugin fails: WORDS",
    "stop the operator",
    "start the operator",
    "restart the operator",
    "advance N UNIT",
];

/// A step with the words that a script has given.
#[derive(Debug, PartialEq)]
pub(crate) struct Call {
    /// One of [`STEPS`].
    pub(crate) step: &'static str,
    /// The words, in the order of their places.
    pub(crate) words: Vec<String>,
}

impl Call {
    pub(crate) fn parse(text: &str) -> Option<Self> {
        STEPS.iter().find_map(|step| Some(Self { step, words: words(step, text)? }))
    }
}

/// The words that a text gives for the places of a step; none: it is another step.
fn words(step: &str, text: &str) -> Option<Vec<String>> {
    let mut words = Vec::new();
    let mut rest = text;
    let mut parts = step.split(' ').peekable();
    while let Some(part) = parts.next() {
        let is_last = parts.peek().is_none();
        let (word, left) = if is_last { (rest, "") } else { rest.split_once(' ')? };
        let place = part.trim_end_matches(':');
        if PLACES.contains(&place) {
            let word = if part.ends_with(':') { word.strip_suffix(':')? } else { word };
            if word.is_empty() {
                return None;
            }
            words.push(word.to_owned());
        } else if part != word {
            return None;
        }
        rest = left;
    }
    Some(words)
}

/// The steps that there are, for somebody who has written another one.
pub(crate) fn all() -> String {
    format!("The steps are:\n  {}", STEPS.join("\n  "))
}

#[test]
fn a_step_is_found_by_its_words() {
    let call = |text: &str| Call::parse(text).map(|call| (call.step, call.words.join("|")));
    assert_eq!(call("delete Pod a"), Some(("delete KIND NAME", "Pod|a".to_owned())));
    assert_eq!(
        call("change Pod a: spec.b = [1, 2]"),
        Some(("change KIND NAME: PATH = VALUE", "Pod|a|spec.b|[1, 2]".to_owned()))
    );
    assert_eq!(
        call("the API server refuses a: 403 exceeded quota: b"),
        Some(("the API server refuses NAME: CODE WORDS", "a|403|exceeded quota: b".to_owned()))
    );
    for unknown in ["", "delete Pod", "change Pod a spec.b = 1", "advance 30", "pods start when they like"] {
        assert_eq!(call(unknown), None, "{unknown}");
    }
}

#[test]
fn each_step_is_told_in_the_docs() {
    let docs = include_str!("../../../../docs/dev/golden-scripts.md");
    for step in STEPS {
        assert!(docs.contains(&format!("`{step}`")), "docs/dev/golden-scripts.md does not tell of `{step}`");
    }
}
