//! Whatever a guest does in a call is a named error of that call, and a healthy plugin beside it goes on.

use std::{
    path::Path,
    sync::LazyLock,
    task::{Context, Poll, Waker},
    time::Duration,
};

use dask_wasm_operator_core::{
    contract::{Call, Child, Failure, Outcome},
    plugin::Program,
    ports::{CallError, CallReport, Guest, LogLevel},
    spec::Limits,
};
use dask_wasm_operator_engine::{Engine, LoadedPlugin, PluginSettings};
use dask_wasm_operator_test_guests::{call, component, engine};
use futures::executor::block_on;
use odd_guest::{Behaviour, Config, FORGED};

static ENGINE: LazyLock<Engine> =
    LazyLock::new(|| engine(Path::new(env!("CARGO_TARGET_TMPDIR")), env!("CARGO_BIN_EXE_compile-component")));

/// Time enough on any machine for what ends by itself.
fn limits() -> Limits {
    Limits { deadline: Duration::from_secs(10), memory_bytes: 256 << 20, ..Limits::default() }
}

/// For what does not.
fn impatient() -> Limits {
    Limits { deadline: Duration::from_millis(100), ..limits() }
}

fn plugin(package: &'static str, limits: Limits) -> LoadedPlugin {
    ENGINE
        .prepare(&Program::of_component(component(package)), &PluginSettings { limits, ..PluginSettings::default() })
        .expect("it is in order")
}

fn odd_call(behaviour: Behaviour) -> Call {
    call("odd", &serde_json::to_string(&Config { behaviour }).expect("a name is JSON"))
}

fn children(result: Result<Outcome, CallError>) -> Vec<Child> {
    result.expect("it answers").children.expect("it has an opinion")
}

/// What a call must come to: an answer with a child of this object or a patch of this body, or an error of this kind whose
/// text holds this.
enum Expected {
    Child(&'static str),
    NoChildren,
    Patch(&'static str),
    NoPatches,
    Event(&'static str),
    Nothing,
    Error(&'static str, &'static str),
}

/// The answer to [`Behaviour::Remember`] in a fresh sandbox.
const NOTHING_LEFT: &str = "0 calls, 0 bytes";

fn expected(behaviour: Behaviour) -> Expected {
    use Expected::{Child, Error, Event, NoChildren, NoPatches, Nothing, Patch};
    match behaviour {
        Behaviour::Answer => Child(r#"{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"simple"}}"#),
        Behaviour::Loop | Behaviour::Fill | Behaviour::LoopLog => Error("DeadlineExceeded", "its deadline of 100ms"),
        Behaviour::Hog => Error("MemoryExceeded", "268435456 bytes"),
        Behaviour::Panic => Error("Trap", "boom while handling"),
        Behaviour::Unreachable => Error("Trap", "unreachable"),
        Behaviour::Output | Behaviour::Children | Behaviour::LogLarge => Error("OutputExceeded", "4194304 bytes"),
        Behaviour::InvalidUtf8 => Error("BadAnswer", "utf-8"),
        // What a child is made of is the pipeline's to check, against kinds and grants.
        Behaviour::InvalidJson => Child("{\"kind\":"),
        Behaviour::LogMany => Nothing,
        Behaviour::Recurse => Error("StackExceeded", "524288 bytes"),
        Behaviour::RecurseInMemory => Error("Trap", "out of bounds"),
        Behaviour::Temporary => Error("TemporaryFailure", "not yet"),
        Behaviour::Permanent => Error("PermanentFailure", "never"),
        Behaviour::Flaky => Error("TemporaryFailure", "attempt 1 fails on purpose"),
        // The subject has no data.
        Behaviour::Mirror | Behaviour::Told => NoChildren,
        Behaviour::Note => NoPatches,
        Behaviour::Copy => Child(
            r#"{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"simple-copy","namespace":"default","uid":"8c2f"}}"#,
        ),
        Behaviour::Remember => Child(NOTHING_LEFT),
        Behaviour::Ungranted => Child(concat!(
            r#"{"apiVersion":"batch/v1","kind":"Job","metadata":{"name":"simple"},"spec":{"template":{"spec":"#,
            r#"{"containers":[{"image":"a","name":"a"}],"restartPolicy":"Never"}}}}"#
        )),
        Behaviour::Flip => Patch(r#"{"metadata":{"annotations":{"side":"heads"}}}"#),
        // It is made harmless where it is shown.
        Behaviour::Forge => Event(FORGED),
        Behaviour::ForgePanic => Error("Trap", r"boom while forged\r\nready"),
        Behaviour::ForgeFailure => Error("PermanentFailure", FORGED),
        Behaviour::ForgeKey => Child("{}"),
    }
}

#[test]
fn each_behaviour_has_its_named_answer_and_a_healthy_plugin_goes_on() {
    let [impatient, patient, healthy] = [impatient(), limits(), limits()].map(|limits| plugin("odd-guest", limits));
    for behaviour in Behaviour::ALL {
        let expected = expected(behaviour);
        let odd = if matches!(expected, Expected::Error("DeadlineExceeded", _)) { &impatient } else { &patient };
        let CallReport { result, .. } = block_on(odd.call(odd_call(behaviour)));
        match (expected, result) {
            (Expected::Child(object), result) => assert_eq!(children(result)[0].object, object, "{behaviour:?}"),
            (Expected::NoChildren, result) => assert_eq!(children(result), [], "{behaviour:?}"),
            (Expected::Patch(body), result) => {
                assert_eq!(result.unwrap().patches.unwrap()[0].body, body, "{behaviour:?}");
            }
            (Expected::Event(text), result) => {
                let note = &result.unwrap().events[0];
                assert_eq!((&*note.reason, &*note.message), (text, text), "{behaviour:?}");
            }
            (Expected::NoPatches, result) => assert_eq!(result.unwrap().patches, Some(vec![]), "{behaviour:?}"),
            (Expected::Nothing, result) => assert_eq!(result, Ok(Outcome::default()), "{behaviour:?}"),
            (Expected::Error(kind, text), Err(error)) => {
                assert_eq!(error.kind(), kind, "{behaviour:?}: {error}");
                assert!(error.to_string().contains(text), "{behaviour:?}: {error}");
            }
            (Expected::Error(kind, _), Ok(_)) => panic!("{behaviour:?}: answered instead of {kind}"),
        }
        assert!(block_on(healthy.call(odd_call(Behaviour::Answer))).result.is_ok(), "after {behaviour:?}");
    }
}

#[test]
fn a_call_finds_nothing_of_the_calls_before_however_they_ended() {
    let plugin = plugin("odd-guest", limits());
    for behaviour in [Behaviour::Remember, Behaviour::Panic, Behaviour::Hog, Behaviour::RecurseInMemory] {
        for _ in 0..10 {
            // How it ends is another test's subject.
            drop(block_on(plugin.call(odd_call(behaviour))));
            let report = block_on(plugin.call(odd_call(Behaviour::Remember)));
            assert_eq!(children(report.result)[0].object, NOTHING_LEFT, "after {behaviour:?}");
        }
    }
}

#[test]
fn a_temporary_failure_carries_its_delay() {
    let report = block_on(plugin("odd-guest", limits()).call(odd_call(Behaviour::Temporary)));
    let Err(CallError::Handler(Failure::Temporary { retry_after, .. })) = report.result else {
        panic!("expected a failure")
    };
    assert_eq!(retry_after, Some(Duration::from_secs(60)));
}

#[test]
fn a_hundred_thousand_lines_of_log_are_counted_and_dropped() {
    let report = block_on(plugin("odd-guest", limits()).call(odd_call(Behaviour::LogMany)));
    assert_eq!(report.log.len(), 100);
    assert_eq!(report.log_dropped, 99_900);
    assert_eq!((report.log[99].level, report.log[99].message.as_str()), (LogLevel::Info, "99"));
}

#[test]
fn a_looping_plugin_delays_only_itself() {
    let (looping, healthy) = (plugin("odd-guest", limits()), plugin("odd-guest", limits()));
    let mut context = Context::from_waker(Waker::noop());

    let mut first = looping.call(odd_call(Behaviour::Loop));
    let mut second = looping.call(odd_call(Behaviour::Answer));
    for _ in 0..50 {
        assert!(block_on(healthy.call(odd_call(Behaviour::Answer))).result.is_ok());
    }
    assert!(matches!(first.as_mut().poll(&mut context), Poll::Pending));
    assert!(matches!(second.as_mut().poll(&mut context), Poll::Pending));

    assert_eq!(block_on(first).result.unwrap_err().kind(), "DeadlineExceeded");
    assert!(block_on(second).result.is_ok());
}

#[test]
fn a_call_that_nobody_waits_for_disturbs_no_other() {
    let plugin = plugin("odd-guest", limits());
    drop(plugin.call(odd_call(Behaviour::LogMany)));
    drop(plugin.call(odd_call(Behaviour::LogMany)));
    assert!(block_on(plugin.call(odd_call(Behaviour::Answer))).result.is_ok());
}

fn wasi(config: &str, change: impl FnOnce(&mut Call)) -> CallReport {
    let mut call = call("look", config);
    change(&mut call);
    block_on(plugin("wasi-guest", limits()).call(call))
}

fn seen(change: impl FnOnce(&mut Call)) -> serde_json::Value {
    let report = wasi("null", change);
    assert_eq!(report.log.iter().map(|line| line.message.as_str()).collect::<Vec<_>>(), ["looking around"]);
    serde_json::from_str(&children(report.result)[0].object).expect("it answers JSON")
}

#[test]
fn wasi_has_nothing_to_give_and_the_time_of_the_call() {
    let mut seen = seen(|_| {});
    let random = seen["random"].take();
    assert_ne!(random[0], random[1]);
    let expected = serde_json::json!({
        "wall": [1_700_000_000, 250_000_000],
        "monotonic": 1_700_000_000_250_000_000_u64,
        "ready": [0, 1],
        "environment": [],
        "arguments": [],
        "directory": null,
        "preopens": 0,
        "random": null,
        "lookup": "access-denied",
        "socket": "access-denied",
    });
    assert_eq!(seen, expected);
}

#[test]
fn randomness_depends_on_the_subject_and_not_on_the_call() {
    let random = |change: fn(&mut Call)| seen(change)["random"].clone();
    let first = random(|_| {});
    assert_eq!(first, random(|call| (call.now, call.attempt) = (1_800_000_000_000, 2)));
    assert_ne!(first, random(|call| call.subject.uid = "another".into()));
}

#[test]
fn what_wasi_refuses_is_named() {
    let cases = [
        ("\"exit\"", "ended itself by calling exit"),
        ("\"refused\"", "called wasi:clocks/timezone#utc-offset, which plugins can't use"),
        ("\"random\"", "asked for 1099511627776 random bytes at once"),
    ];
    for (config, text) in cases {
        let error = wasi(config, |_| {}).result.unwrap_err();
        assert_eq!(error.kind(), "Trap");
        assert!(error.to_string().contains(text), "{error}");
    }
}

#[test]
fn what_a_runtime_writes_to_stderr_comes_with_the_trap_and_into_the_log() {
    let report = wasi("\"traceback\"", |_| {});
    let lines: Vec<_> = report.log.iter().map(|line| (line.level, line.message.as_str())).collect();
    let expected =
        ["Traceback:", "  File \"plugin.py\", line 12", "ValueError: boom"].map(|line| (LogLevel::Warn, line));
    assert_eq!(lines, expected);
    let Err(CallError::Trap { last_words, .. }) = report.result else { panic!("expected a trap") };
    assert!(last_words.ends_with("ValueError: boom"), "{last_words}");
}
