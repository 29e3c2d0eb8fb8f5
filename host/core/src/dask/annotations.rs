//! Annotations that are read back: anybody may have written them. What can't be meant is read as if it were not there, and
//! this says so; what the record of workers says is checked where it is read.

use crate::{
    dask::{
        autoscaler::{COOLDOWN_UNTIL, cooldown_until, is_cooldown},
        children::replicas::COPIED_REPLICAS,
        job::{ACTIVE_SINCE, FAILED_AT, FAILED_ATTEMPTS},
    },
    names::PAUSED,
    object::Object,
    time::{CLOCK_SKEW, epoch_millis, millis},
    wanted::Problem,
};

/// When the Python operator's finalizer was last removed, as RFC 3339.
pub(crate) const TAKEN_OVER_AT: &str = "operator.dask.org/taken-over-at";

/// How much of a value is shown, in characters.
const SHOWN: usize = 60;

/// An annotation: whether a value can be used at a time, and what it is to be.
struct Read {
    name: &'static str,
    is_usable: fn(&str, u64) -> bool,
    expected: &'static str,
}

const PAST: &str = "a time in RFC 3339 that has come";

const READ: [Read; 7] = [
    Read { name: PAUSED, is_usable: |text, _| matches!(text, "true" | "false"), expected: "\"true\" or \"false\"" },
    Read { name: TAKEN_OVER_AT, is_usable: is_past, expected: PAST },
    Read { name: COPIED_REPLICAS, is_usable: is_count, expected: "a number of workers" },
    Read { name: FAILED_ATTEMPTS, is_usable: is_count, expected: "a number of attempts" },
    Read { name: FAILED_AT, is_usable: is_past, expected: PAST },
    Read { name: ACTIVE_SINCE, is_usable: is_past, expected: PAST },
    Read {
        name: COOLDOWN_UNTIL,
        is_usable: is_cooldown,
        expected: "a time in seconds since 1970 that is at most a cooldown ahead",
    },
];

fn is_count(text: &str, _: u64) -> bool {
    text.parse::<u32>().is_ok()
}

fn is_past(text: &str, now: u64) -> bool {
    epoch_millis(text).is_some_and(|time| time <= now.saturating_add(millis(CLOCK_SKEW)))
}

/// When it was, in milliseconds since the Unix epoch, that an operator has noted in an annotation; none: the annotation is for
/// something else.
pub fn noted_time(name: &str, text: &str) -> Option<u64> {
    match name {
        TAKEN_OVER_AT | FAILED_AT | ACTIVE_SINCE => epoch_millis(text),
        COOLDOWN_UNTIL => cooldown_until(text),
        _ => None,
    }
}

/// The annotations of a Dask object that are read as if they were not there.
pub(crate) fn unusable(subject: &Object, now: u64) -> impl Iterator<Item = Problem> {
    READ.iter().filter_map(move |Read { name, is_usable, expected }| {
        let text = subject.metadata.annotations.get(*name).filter(|text| !is_usable(text, now))?;
        let shown: String = text.chars().take(SHOWN).collect();
        let message = format!(
            "{} {}: the annotation {name} is {shown:?}, which is not {expected}: it is ignored; correct or remove it",
            subject.kind.kind, subject.metadata.name
        );
        Some(Problem::permanent("InvalidAnnotation", message))
    })
}

#[cfg(test)]
mod tests {
    use dask_wasm_operator_test_properties::cases;
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    const NOW: u64 = 1_795_372_200_000;

    fn problems(name: &str, text: &str) -> Vec<String> {
        let object = json!({"apiVersion": "v1", "kind": "X", "metadata": {"name": "x", "annotations": {name: text}}});
        let object = Object::from_value(&object).unwrap();
        unusable(&object, NOW).map(|problem| problem.message).collect()
    }

    #[test]
    fn what_we_and_the_python_operator_write_is_usable() {
        for (name, text) in [
            (PAUSED, "true"),
            (PAUSED, "false"),
            (TAKEN_OVER_AT, "2026-11-22T18:30:00Z"),
            (COPIED_REPLICAS, "0"),
            (FAILED_ATTEMPTS, "4294967295"),
            (FAILED_AT, "2026-11-22T19:29:00Z"),
            (ACTIVE_SINCE, "1970-01-01T00:00:00Z"),
            (COOLDOWN_UNTIL, "1795372214.123456"),
            (COOLDOWN_UNTIL, "0"),
            ("somebody.example.org/else", "anything"),
        ] {
            assert_eq!(problems(name, text), [""; 0], "{name}: {text}");
        }
    }

    #[test]
    fn what_cannot_be_meant_is_told_with_object_annotation_and_remedy() {
        for (name, text) in [
            (PAUSED, "True"),
            (PAUSED, ""),
            (TAKEN_OVER_AT, "9999-01-01T00:00:00Z"),
            (TAKEN_OVER_AT, "soon"),
            (COPIED_REPLICAS, "-1"),
            (FAILED_ATTEMPTS, "4294967296"),
            (FAILED_AT, "2026-11-22T20:30:00Z"),
            (ACTIVE_SINCE, ""),
            (COOLDOWN_UNTIL, "inf"),
            (COOLDOWN_UNTIL, "NaN"),
            (COOLDOWN_UNTIL, "-1"),
            (COOLDOWN_UNTIL, "1e300"),
            (COOLDOWN_UNTIL, "1795400000"),
        ] {
            let [problem] = &problems(name, text)[..] else { unreachable!("{name}: {text}") };
            assert!(problem.starts_with(&format!("X x: the annotation {name} is {text:?}, which is not")), "{problem}");
            assert!(problem.ends_with("correct or remove it"), "{problem}");
        }
    }

    proptest! {
        #![proptest_config(cases(256))]

        #[test]
        fn whatever_is_written_there_the_message_is_short_and_on_one_line(text in "\\PC{0,300}|(?s).{0,300}") {
            for read in &READ {
                for problem in problems(read.name, &text) {
                    prop_assert!(problem.len() < 1_024 && !problem.contains(char::is_control), "{}", problem);
                }
            }
        }
    }
}
