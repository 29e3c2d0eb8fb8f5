//! Golden scripts: what the operator does, step by step, as text files that anybody can read. See docs/dev/golden-scripts.md.
//!
//! They run the real pipeline over the cluster in memory. Each file in `golden` is a test of its own, named after it.
#![expect(clippy::panic, clippy::unwrap_used, reason = "the helpers of a test fail as a test does")]

mod api;
mod plugin;
mod pods;
mod scheduler;
mod script;
mod stage;
mod steps;
mod told;

#[expect(dead_code, reason = "scripts have a world of their own")]
#[path = "../plugin/world.rs"]
mod guests;
#[expect(dead_code, reason = "scripts kill no process between two writes")]
#[path = "../update/kubernetes.rs"]
mod kubernetes;
#[expect(dead_code, reason = "scripts look at what is written, and not at single fields")]
#[path = "../asked/world.rs"]
mod world;

use std::{collections::BTreeSet, env, fs, path::PathBuf};

use script::Script;
use stage::Stage;

/// Set to 1, it has each script write down what really happens.
const UPDATE: &str = "UPDATE";

fn directory() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/scripts/golden")
}

fn check(name: &str) {
    let path = directory().join(name.replace('_', "-")).with_extension("txt");
    let text = fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let shown = format!("host/core/tests/scripts/golden/{}", path.file_name().unwrap().display());
    let script = Script::parse(&shown, &text).unwrap_or_else(|error| panic!("{error}"));
    let mut stage = Stage::new(directory().join("objects"));
    let told: Vec<_> = script.steps.iter().map(|step| stage.perform(step)).collect();
    if env::var(UPDATE).is_ok_and(|value| value == "1") {
        return fs::write(&path, script.with_told(&told)).unwrap();
    }
    if let Some(difference) = script.difference(&told) {
        panic!("{difference}\n\nIf that is as it should be, run the tests with {UPDATE}=1, and read what has changed.");
    }
}

macro_rules! scripts {
    ($($name:ident)*) => {
        $(#[test] fn $name() { check(stringify!($name)); })*

        #[test]
        fn each_file_is_listed() {
            let files = fs::read_dir(directory()).unwrap().filter_map(|entry| {
                let path = entry.unwrap().path();
                let is_script = path.extension().is_some_and(|extension| extension == "txt");
                is_script.then(|| path.file_stem().unwrap().display().to_string().replace('-', "_"))
            });
            let listed = [$(stringify!($name)),*].map(str::to_owned);
            assert_eq!(files.collect::<BTreeSet<_>>(), BTreeSet::from(listed));
        }
    };
}

scripts! {
    a_changed_template_restarts_nothing
    a_cluster_is_created
    a_deleted_cluster_leaves_nothing_behind
    a_finished_job_is_cleaned_up
    a_foreign_object_is_left_alone
    a_group_without_its_cluster
    a_job_fails
    a_job_is_retried
    a_job_is_suspended
    a_job_loses_its_pod
    a_job_misses_its_deadline
    a_job_succeeds
    a_job_with_a_wrong_image_is_corrected
    a_number_set_by_hand_stands_until_the_next_decision
    a_paused_cluster_is_not_changed
    a_plugin_says_what_it_wants
    a_quota_refuses_and_is_raised
    a_rolling_update_keeps_its_bounds
    a_spoilt_record_is_recovered
    an_autoscaler_scales_down_slowly
    an_autoscaler_scales_up
    an_autoscaler_with_a_silent_scheduler
    an_idle_cluster_ends
    an_invalid_annotation_counts_as_none
    an_invalid_field_stops_nothing_else
    an_invalid_name
    an_unknown_field_is_named
    an_unreadable_object_is_left_alone
    labels_follow_to_objects_and_never_to_pods
    only_workers_of_the_own_group_go
    pods_that_a_quota_refuses
    restart_in_the_middle_of_scaling_down
    scale_down_lets_tasks_finish
    scale_down_retires_first
    scale_down_to_nothing
    scale_down_waits_for_data_that_cannot_be_moved
    scale_down_with_a_silent_scheduler
    scale_up
    scaled_up_again_while_a_worker_retires
    taken_over_from_the_python_operator
    the_python_operator_is_still_at_work
    what_is_deleted_is_recreated
    what_is_edited_is_repaired
    what_never_ran_gets_a_corrected_template
    workers_that_never_started_go_first
}
