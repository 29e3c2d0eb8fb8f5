//! What the code of plugins takes of the process's memory, as the kernel counts it.

#![cfg(target_os = "linux")]

use std::{
    collections::BTreeSet,
    fs,
    path::Path,
    sync::LazyLock,
    thread,
    time::{Duration, Instant},
};

use dask_wasm_operator_core::{plugin::Program, ports::Guest};
use dask_wasm_operator_engine::{Engine, LoadedPlugin, PluginSettings};
use dask_wasm_operator_test_guests::{call, component, engine};
use futures::executor::block_on;

static ENGINE: LazyLock<Engine> =
    LazyLock::new(|| engine(Path::new(env!("CARGO_TARGET_TMPDIR")), env!("CARGO_BIN_EXE_compile-component")));

/// A component that nobody else has, so that its mappings are this test's.
fn of_its_own(name: &str) -> Vec<u8> {
    let mut component = component("odd-guest").to_vec();
    let length = u8::try_from(name.len()).expect("it is short");
    // A custom section of this name, without content.
    component.extend([0, length + 1, length]);
    component.extend(name.bytes());
    component
}

fn load(component: &[u8]) -> LoadedPlugin {
    ENGINE.prepare(&Program::of_component(component), &PluginSettings::default()).expect("it is in order")
}

fn answers(plugin: &LoadedPlugin) -> bool {
    block_on(plugin.call(call("odd", r#"{"do":"Answer"}"#))).result.is_ok()
}

/// Of the mappings of a plugin's code, the memory of its calls left out.
#[derive(Debug, Default, PartialEq, Eq)]
struct Mappings {
    executable: usize,
    files: BTreeSet<String>,
    resident_kib: u64,
    /// Pages that are no longer as they are in the file.
    written_kib: u64,
}

fn mappings(plugin: &LoadedPlugin) -> Mappings {
    let digest = plugin.digest().to_string();
    let mut found = Mappings::default();
    let mut is_code = false;
    for line in fs::read_to_string("/proc/self/smaps").expect("Linux has it").lines() {
        let words: Vec<_> = line.split_whitespace().collect();
        match words[..] {
            [_, permissions, _, _, _, ref path @ ..] if permissions.len() == 4 && permissions.ends_with(['p', 's']) => {
                is_code = !permissions.contains('w') && path.iter().any(|path| path.contains(&digest));
                found.executable += usize::from(is_code && permissions.contains('x'));
                found.files.extend(path.first().filter(|_| is_code).map(|path| (*path).to_owned()));
            }
            ["Rss:", kib, _] if is_code => found.resident_kib += kib.parse::<u64>().expect("a number"),
            ["Anonymous:", kib, _] if is_code => found.written_kib += kib.parse::<u64>().expect("a number"),
            _ => {}
        }
    }
    found
}

#[track_caller]
fn wait_until(what: &str, is_so: impl Fn() -> bool) {
    let begun = Instant::now();
    while !is_so() {
        assert!(begun.elapsed() < Duration::from_secs(30), "not so after 30 s: {what}");
        thread::yield_now();
    }
}

#[test]
fn plugins_of_the_same_code_have_it_in_memory_once() {
    let component = of_its_own("once");
    let plugins: Vec<_> = thread::scope(|scope| {
        let loads: Vec<_> = (0..8).map(|_| scope.spawn(|| load(&component))).collect();
        loads.into_iter().map(|load| load.join().expect("it is loaded")).collect()
    });
    assert!(plugins.iter().all(answers));
    assert_eq!(mappings(&plugins[0]).executable, 1);
    drop(plugins);
    let again = load(&component);
    assert!(answers(&again));
    wait_until("what no plugin has is let go of", || mappings(&again).executable == 1);
}

/// The belief that is attacked: that nothing is in the memory of code that is not in its file.
#[test]
fn code_that_nobody_runs_takes_no_memory_and_is_there_again_when_it_is_called() {
    let plugin = load(&of_its_own("rest"));
    for _ in 0..3 {
        assert!(answers(&plugin));
        assert_eq!(mappings(&plugin).written_kib, 0, "a page that was written would be lost");
        wait_until("no memory is taken", || mappings(&plugin).resident_kib == 0);
    }
}

/// The belief that is attacked: that the file is there whenever its pages are needed again.
#[test]
fn code_at_rest_outlives_its_file_in_the_cache() {
    let plugin = load(&of_its_own("removed"));
    assert!(answers(&plugin));
    for file in mappings(&plugin).files {
        fs::remove_file(file).expect("it is there");
    }
    wait_until("no memory is taken", || mappings(&plugin).resident_kib == 0);
    assert!(answers(&plugin));
}
