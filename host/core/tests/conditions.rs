//! `docs/conditions.md` is what users look a reason up in: it has each reason of the code and no other, and of each problem there
//! is a test that provokes it.
#![expect(clippy::panic, clippy::unwrap_used, reason = "the helpers of a test fail as a test does")]

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

/// Where each problem is provoked: its remedy is carried out there, if there is one, and the condition clears.
const PROVOKED: &[(&str, &str, &str)] = &[
    ("InvalidName", "host/core/tests/pipeline.rs", "names_that_nothing_can_be_made_from_are_named_whatever_the_kind"),
    (
        "InvalidAnnotation",
        "host/core/tests/outside.rs",
        "an_annotation_that_cannot_be_meant_is_told_and_counts_for_nothing",
    ),
    ("InvalidSpec", "host/core/tests/pipeline.rs", "bad_input_is_named_and_stops_nothing_else"),
    (
        "Unreadable",
        "host/core/tests/unreadable.rs",
        "fault_01_a_child_that_can_not_be_read_is_neither_made_again_nor_changed_nor_removed",
    ),
    ("UnknownField", "host/core/tests/update/unknown.rs", "everything_else_is_made_and_each_field_is_named"),
    ("ClusterNotFound", "tests/integration/tests/served/pipeline/groups.rs", "ClusterNotFound"),
    ("ClusterDeleting", "tests/integration/tests/served/pipeline/groups.rs", "ClusterDeleting"),
    (
        "WorkerGroupDegraded",
        "host/core/tests/update/refused.rs",
        "a_problem_of_the_default_group_is_one_of_its_cluster_until_it_is_gone",
    ),
    (
        "SchedulerFailed",
        "host/core/tests/update/never_ran.rs",
        "pods_that_could_not_be_made_are_made_from_the_corrected_template",
    ),
    (
        "WorkersFailed",
        "host/core/tests/update/never_ran.rs",
        "pods_that_could_not_be_made_are_made_from_the_corrected_template",
    ),
    (
        "ServiceMisdirected",
        "host/core/tests/update/refused.rs",
        "a_service_that_leads_elsewhere_is_told_until_it_is_corrected",
    ),
    ("WorkerGroupNotFound", "host/core/tests/asked/autoscaler.rs", "what_is_wrong_is_named_with_its_remedy"),
    ("MinimumAboveMaximum", "host/core/tests/asked/autoscaler.rs", "what_is_wrong_is_named_with_its_remedy"),
    (
        "TemplateOutdated",
        "host/core/tests/update/left_alone.rs",
        "on_delete_restarts_nothing_and_still_propagates_labels",
    ),
    ("ScaleDownWaiting", "host/core/tests/removal/silent.rs", "ScaleDownWaiting"),
    ("WorkersNotRecognized", "host/core/tests/removal/names.rs", "WorkersNotRecognized"),
    ("RetireIncomplete", "host/core/tests/removal/retiring.rs", "RetireIncomplete"),
    (
        "SchedulerUnreachable",
        "host/core/tests/asked/autoscaler/silent.rs",
        "what_keeps_a_scheduler_from_answering_is_told_with_its_remedy_until_it_answers",
    ),
    (
        "SchedulerAnswerUnusable",
        "host/core/tests/asked/autoscaler/silent.rs",
        "what_keeps_a_scheduler_from_answering_is_told_with_its_remedy_until_it_answers",
    ),
    (
        "SchedulerUnsupported",
        "host/core/tests/asked/autoscaler/silent.rs",
        "what_keeps_a_scheduler_from_answering_is_told_with_its_remedy_until_it_answers",
    ),
    (
        "SchedulerCertificates",
        "host/core/tests/asked/autoscaler/silent.rs",
        "what_keeps_a_scheduler_from_answering_is_told_with_its_remedy_until_it_answers",
    ),
    ("PythonOperatorActive", "host/core/tests/takeover.rs", "nothing_is_written_while_the_python_operator_is_at_work"),
    (
        "ForeignObject",
        "tests/integration/tests/served/pipeline/refusals.rs",
        "what_a_stranger_has_under_our_name_is_left_as_it_is",
    ),
    (
        "Refused",
        "tests/integration/tests/served/pipeline/refusals.rs",
        "a_worker_without_image_is_told_by_field_and_remedy",
    ),
    (
        "Forbidden",
        "tests/integration/tests/served/pipeline/refusals.rs",
        "fault_21_a_quota_is_named_and_its_end_is_noticed",
    ),
    (
        "FieldConflict",
        "host/core/tests/update/refused.rs",
        "each_problem_of_a_write_is_told_and_clears_when_its_cause_is_gone",
    ),
    (
        "ApiUnavailable",
        "host/core/tests/update/refused.rs",
        "each_problem_of_a_write_is_told_and_clears_when_its_cause_is_gone",
    ),
    (
        "KindNotServed",
        "host/core/tests/update/refused.rs",
        "each_problem_of_a_write_is_told_and_clears_when_its_cause_is_gone",
    ),
    ("RunnerFailed", "host/core/tests/job/life.rs", "a_job_that_fails_says_why"),
    ("RunnerLost", "host/core/tests/job/attempts.rs", "a_runner_that_is_lost_fails_the_job"),
    (
        "BackoffLimitExceeded",
        "host/core/tests/job/attempts.rs",
        "restarts_of_containers_count_only_with_a_limit_and_on_failure",
    ),
    ("DeadlineExceeded", "host/core/tests/job/limits.rs", "a_job_that_takes_too_long_fails_and_its_runner_is_removed"),
    (
        "RunnerUnschedulable",
        "host/core/tests/job/attempts.rs",
        "trouble_that_may_pass_is_told_with_its_remedy_and_ends_nothing",
    ),
    (
        "RunnerImage",
        "host/core/tests/job/attempts.rs",
        "trouble_that_may_pass_is_told_with_its_remedy_and_ends_nothing",
    ),
    (
        "RunnerCrashLoop",
        "host/core/tests/job/attempts.rs",
        "trouble_that_may_pass_is_told_with_its_remedy_and_ends_nothing",
    ),
    (
        "RunnerNotStarting",
        "host/core/tests/job/attempts.rs",
        "trouble_that_may_pass_is_told_with_its_remedy_and_ends_nothing",
    ),
    ("RunnerNotEnding", "host/core/tests/job/life.rs", "a_container_that_outlives_the_jobs_own_is_told_after_a_while"),
    ("ClusterDegraded", "host/core/tests/job/life.rs", "what_is_wrong_with_the_cluster_is_told_on_the_job"),
    (
        "RunnerTerminating",
        "host/core/tests/job/attempts.rs",
        "trouble_that_may_pass_is_told_with_its_remedy_and_ends_nothing",
    ),
];

/// Ends of reasons that are put together in the code: what fails of a scheduler or of workers.
const OF_PODS: [&str; 4] = ["Unschedulable", "Image", "NotStarting", "CrashLoop"];

fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

fn read(path: &str) -> String {
    fs::read_to_string(repository().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

fn is_reason(word: &str) -> bool {
    word.len() > 3
        && word.starts_with(|first: char| first.is_ascii_uppercase())
        && word.chars().all(|letter| letter.is_ascii_alphabetic())
        && word.chars().any(|letter| letter.is_ascii_lowercase())
}

/// The reasons in the tables under a heading of the page; none: all of it.
fn documented(heading: Option<&str>) -> BTreeSet<String> {
    let page = read("docs/conditions.md");
    let mut is_within = heading.is_none();
    let mut reasons = BTreeSet::new();
    for line in page.lines() {
        if let Some(title) = line.strip_prefix("## ") {
            is_within = heading.is_none_or(|heading| heading == title);
        }
        if !is_within || !line.starts_with('|') {
            continue;
        }
        // A table has its reasons before their meanings: in the first cell or, where that is a kind or a status, in a later one.
        let cells = line.split('|').filter(|cell| cell.trim_start().starts_with('`'));
        let cell = cells.into_iter().next().unwrap_or_default();
        reasons.extend(cell.split('`').skip(1).step_by(2).filter(|word| is_reason(word)).map(str::to_owned));
    }
    reasons
}

/// What comes before the first test of each source file of a directory.
fn sources(directory: &Path, found: &mut Vec<String>) {
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            sources(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") && !path.ends_with("tests.rs") {
            let text = fs::read_to_string(&path).unwrap();
            found.push(text.split("#[cfg(test)]").next().unwrap_or_default().to_owned());
        }
    }
}

/// The literals in the code that are reasons of problems, by where they stand.
fn of_problems(text: &str) -> BTreeSet<String> {
    let makers = ["Problem::permanent(", "Problem::passing(", "Obstacle::new("];
    let calls = makers.iter().flat_map(|maker| text.split(maker).skip(1));
    let literals = calls.filter_map(|rest| rest.trim_start().strip_prefix('"')?.split_once('"'));
    literals.map(|(literal, _)| literal.to_owned()).filter(|literal| is_reason(literal)).collect()
}

#[test]
fn the_page_has_each_reason_of_the_code_and_no_other() {
    let (mut native, mut all) = (Vec::new(), Vec::new());
    for part in ["dask", "template.rs", "pipeline/native.rs", "plan.rs"] {
        let path = repository().join("host/core/src").join(part);
        if path.is_dir() { sources(&path, &mut native) } else { native.push(fs::read_to_string(path).unwrap()) }
    }
    sources(&repository().join("host/core/src"), &mut all);
    let page = documented(None);
    let missing: Vec<_> =
        native.iter().flat_map(|text| of_problems(text)).filter(|reason| !page.contains(reason)).collect();
    assert_eq!(missing, [""; 0], "reasons that docs/conditions.md does not have");

    let is_in_code = |reason: &String| {
        let is_of_pods = ["Scheduler", "Workers"]
            .iter()
            .any(|who| reason.strip_prefix(who).is_some_and(|end| OF_PODS.contains(&end)));
        is_of_pods || all.iter().any(|text| text.contains(&format!("\"{reason}\"")))
    };
    let phases = ["Created", "Pending", "Running", "Error"];
    let unknown: Vec<_> =
        page.iter().filter(|reason| !phases.contains(&reason.as_str()) && !is_in_code(reason)).collect();
    assert_eq!(unknown, Vec::<&String>::new(), "reasons that no code gives");
}

#[test]
fn each_problem_is_provoked_by_a_test() {
    let mut problems = documented(Some("Degraded"));
    problems.extend(documented(Some("DaskJob")));
    for fine in ["AsWanted", "JobCreated", "JobSucceeded", "JobFailed", "JobSuspended"] {
        problems.remove(fine);
    }
    for (reason, file, test) in PROVOKED.iter() {
        let text = read(file);
        assert!(text.contains(test) && text.contains(reason), "{file} has no {test} that is about {reason}");
    }
    let provoked = PROVOKED.iter().map(|(reason, ..)| (*reason).to_owned()).collect();
    let left: Vec<_> = problems.difference(&provoked).collect();
    assert_eq!(left, Vec::<&String>::new(), "problems that no test provokes");
    let gone: Vec<_> = provoked.difference(&problems).collect();
    assert_eq!(gone, Vec::<&String>::new(), "tests of problems that the page does not have");
}
