//! What can't be loaded has a named error that says what to do.

use std::{
    collections::BTreeSet,
    env, fs,
    io::Write,
    os::unix::process::ExitStatusExt,
    path::{Path, PathBuf},
    process::{Command, ExitStatus, Stdio},
    time::Duration,
};

use dask_wasm_operator_core::{
    plugin::Program,
    ports::CallError,
    spec::{Limits, Profile},
};
use dask_wasm_operator_engine::{Compiler, Engine, EngineSettings, LoadError, LoadedPlugin, PluginSettings};
use dask_wasm_operator_test_guests::{call, component, engine};
use odd_guest::Description;

const COMPILER: &str = env!("CARGO_BIN_EXE_compile-component");

fn shared_engine() -> Engine {
    engine(Path::new(env!("CARGO_TARGET_TMPDIR")), COMPILER)
}

fn refusal(bytes: &[u8], settings: &PluginSettings) -> LoadError {
    shared_engine().prepare(&Program::of_component(bytes), settings).map(|_| ()).expect_err("it must not be loaded")
}

/// The texts of wasm, in the checkout that is tested: builds may be shared between several.
fn wats() -> PathBuf {
    PathBuf::from(env::var_os("CARGO_MANIFEST_DIR").expect("cargo runs the tests")).join("wat")
}

fn wat(name: &str) -> Vec<u8> {
    wat::parse_file(wats().join(name)).expect("the file is there and is text of wasm")
}

/// File in `wat/`, kind, and what the message must say.
const REFUSED: [(&str, &str, &str); 18] = [
    ("core-module.wat", "CoreModule", "wasm-tools component new"),
    ("other-world.wat", "WrongWorld", "does not export dask:operator/handler@0.1.0, but [\"run\"]"),
    ("http.wat", "ImportsRefused", "what plugins can't have: acme:secrets/read, wasi:http/outgoing-handler@0.2.6;"),
    ("newer.wat", "InterfaceVersion", "uses dask:operator/host@0.1.7"),
    ("next-minor.wat", "InterfaceVersion", "uses dask:operator/handler@0.2.0"),
    ("no-functions.wat", "InterfaceMismatch", "build it against the wit files"),
    ("composed.wat", "Composed", "mount each as a plugin"),
    ("utf16.wat", "StringEncoding", "choose UTF-8"),
    ("many-instances.wat", "CoreInstancesExceeded", "65 core instances, more than the 64"),
    ("type-import.wat", "InterfaceMismatch", "acme"),
    ("unknown-function.wat", "InterfaceMismatch", "read-secret"),
    ("other-signature.wat", "InterfaceMismatch", "wasi:random/random"),
    ("large-memory.wat", "MemoryExceeded", "536936448 bytes of memory, more than the 134217728"),
    ("many-memories.wat", "MemoriesExceeded", "5 memories, more than the 4"),
    ("large-table.wat", "TableExceeded", "100001 table elements, more than the 100000"),
    ("many-tables.wat", "TablesExceeded", "17 tables, more than the 16"),
    ("tables.wat", "InterfaceMismatch", "build it against the wit files"),
    ("simd.wat", "InvalidComponent", "SIMD"),
];

#[test]
fn each_file_has_its_named_error() {
    for (file, kind, message) in REFUSED {
        let error = refusal(&wat(file), &PluginSettings::default());
        assert_eq!(error.kind(), kind, "{file}: {error}");
        assert!(error.to_string().contains(message), "{file}: {error}");
    }
}

#[test]
fn every_file_is_claimed() {
    let files = fs::read_dir(wats()).unwrap().map(|file| file.unwrap().file_name().into_string().unwrap());
    assert_eq!(files.collect::<BTreeSet<_>>(), REFUSED.iter().map(|(file, ..)| (*file).to_owned()).collect());
}

#[test]
fn what_is_not_wasm_says_what_it_is() {
    for bytes in [&b""[..], b"\0asn", b"<html>not found</html>", b"apiVersion: v1"] {
        let error = refusal(bytes, &PluginSettings::default());
        assert_eq!(error.kind(), "NotWasm", "{error}");
    }
    let html = refusal(b"<html>404", &PluginSettings::default()).to_string();
    assert!(html.contains("it looks like HTML") && !html.contains("404"), "{html}");
}

#[test]
fn a_component_that_is_cut_short_or_changed_anywhere_does_no_harm() {
    let whole = component("istio-virtual-service");
    for length in [8, 9, 100, whole.len() / 2, whole.len() - 1] {
        let error = refusal(&whole[..length], &PluginSettings::default());
        assert!(matches!(error.kind(), "Malformed" | "WrongWorld" | "InvalidComponent"), "{length}: {error}");
    }
    let settings = PluginSettings::default();
    for position in (8..whole.len()).step_by(whole.len() / 16) {
        let mut changed = whole.to_vec();
        changed[position] ^= 0x55;
        // Any answer is right as long as there is one: some bytes are names or data.
        if let Err(error) = shared_engine().prepare(&Program::of_component(changed), &settings) {
            assert_ne!(error.kind(), "HostFailure", "{position}: {error}");
        }
    }
}

/// The odd guest with another `describe`.
fn describing(description: Description) -> Vec<u8> {
    description.of(component("odd-guest"))
}

fn expected(description: Description) -> Result<(), (&'static str, &'static str)> {
    match description {
        Description::Honest
        | Description::Newer
        | Description::Unserved
        | Description::Edges
        | Description::Puppet
        | Description::Services => Ok(()),
        Description::Loop => Err(("DeadlineExceeded", "`describe` failed")),
        Description::Panic => Err(("Trap", "`describe` failed")),
        Description::OtherVersion => {
            Err(("ManifestInvalid", "interface-version: is \"9.9.9\", but the component exports version 0.1.0"))
        }
        Description::Path => Err(("ManifestInvalid", "handlers[0].name: \"../../odd\" must be lower-case letters")),
        Description::Twice => Err(("ManifestInvalid", "handlers: two are named \"odd\"")),
        Description::Empty => Err(("ManifestInvalid", "handlers: is empty")),
        Description::Large => Err(("OutputExceeded", "`describe` failed")),
    }
}

fn first_handler(description: Description) -> &'static str {
    match description {
        Description::Puppet => "cluster",
        Description::Services => "services-1",
        _ => "odd",
    }
}

#[test]
fn each_way_to_describe_has_its_answer() {
    for description in Description::ALL {
        let deadline = Duration::from_millis(if description == Description::Loop { 100 } else { 10_000 });
        let limits = Limits { deadline, memory_bytes: 256 << 20, ..Limits::default() };
        let settings = PluginSettings { limits, ..PluginSettings::default() };
        match (
            shared_engine().prepare(&Program::of_component(describing(description)), &settings),
            expected(description),
        ) {
            (Ok(plugin), Ok(())) => assert_eq!(plugin.manifest().handlers[0].name, first_handler(description)),
            (Err(error), Err((kind, message))) => {
                assert_eq!(error.kind(), kind, "{description:?}: {error}");
                assert!(error.to_string().contains(message), "{description:?}: {error}");
            }
            (Ok(_), Err((kind, _))) => panic!("{description:?}: loaded instead of {kind}"),
            (Err(error), Ok(())) => panic!("{description:?}: {error}"),
        }
    }
}

#[test]
fn a_panic_in_describe_tells_its_message() {
    let LoadError::Describe { source: CallError::Trap { last_words, .. } } =
        refusal(&describing(Description::Panic), &PluginSettings::default())
    else {
        panic!("expected a trap");
    };
    assert!(last_words.contains("boom while describing"), "{last_words}");
}

#[test]
fn limits_below_what_a_component_begins_with_are_told_with_the_figure() {
    let with = |limits| refusal(component("odd-guest"), &PluginSettings { limits, ..PluginSettings::default() });
    for (limits, kind, figure) in [
        (Limits { memory_bytes: 64 << 10, ..Limits::default() }, "MemoryExceeded", "the 65536 allowed"),
        (Limits { table_elements: 1, ..Limits::default() }, "TableExceeded", "the 1 allowed"),
    ] {
        let error = with(limits);
        assert_eq!(error.kind(), kind, "{error}");
        assert!(error.to_string().contains(figure), "{error}");
    }
}

/// What the engine keeps of each function and global has its place, too.
#[test]
fn a_component_beyond_a_call_s_place_in_memory_is_refused_by_name() {
    let globals = "(global (mut i64) (i64.const 0))".repeat(200_000);
    let component = format!(
        r#"(component (core module $code {globals}) (core instance (instantiate $code)) (instance $handler)
            (export "dask:operator/handler@0.1.0" (instance $handler)))"#
    );
    let error = refusal(&wat::parse_str(component).unwrap(), &PluginSettings::default());
    assert_eq!(error.kind(), "ComponentTooLarge", "{error}");
}

#[test]
fn the_strict_profile_has_no_wasi() {
    let strict = PluginSettings { profile: Profile::Strict, ..PluginSettings::default() };
    let error = refusal(component("wasi-guest"), &strict);
    assert_eq!(error.kind(), "NotStrict");
    assert!(error.to_string().contains("wasi:random/random@0.2.6"), "{error}");
    assert!(shared_engine().prepare(&Program::of_component(component("istio-virtual-service")), &strict).is_ok());
}

fn load_with(directory: &Path, compiler: Compiler) -> Result<LoadedPlugin, LoadError> {
    let settings = EngineSettings { cache_directory: directory.join("compiled"), cache_capacity: 1 << 30, compiler };
    Engine::new(settings)
        .expect("the directory can be written")
        .prepare(&Program::of_component(component("istio-virtual-service")), &PluginSettings::default())
}

#[test]
fn a_compiled_component_is_used_again_and_a_damaged_one_is_made_again() {
    let directory = tempfile::tempdir().unwrap();
    let absent = || Compiler::new("/nowhere/compiler", []);
    let error = load_with(directory.path(), absent()).map(|_| ()).unwrap_err();
    assert_eq!(error.kind(), "HostFailure", "{error}");

    load_with(directory.path(), Compiler::new(COMPILER, [])).map(|_| ()).unwrap();
    load_with(directory.path(), absent()).map(|_| ()).unwrap();

    let entry = fs::read_dir(directory.path().join("compiled")).unwrap().next().unwrap().unwrap().path();
    let mut file = fs::File::options().write(true).open(&entry).unwrap();
    file.write_all(b"damaged").unwrap();
    assert!(load_with(directory.path(), absent()).is_err());
    load_with(directory.path(), Compiler::new(COMPILER, [])).map(|_| ()).unwrap();
}

#[test]
fn the_same_plugin_can_be_loaded_by_many_at_once() {
    let directory = tempfile::tempdir().unwrap();
    let engines = [engine(directory.path(), COMPILER), engine(directory.path(), COMPILER)];
    std::thread::scope(|scope| {
        for engine in engines.iter().cycle().take(8) {
            scope.spawn(|| {
                engine
                    .prepare(&Program::of_component(component("istio-virtual-service")), &PluginSettings::default())
                    .map(|_| ())
                    .unwrap()
            });
        }
    });
    assert_eq!(fs::read_dir(directory.path().join("compiled")).unwrap().count(), 1);
}

#[test]
fn a_compiler_that_fails_is_told_and_leaves_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let shell = |script: &str| Compiler::new("/bin/sh", ["-c".into(), script.into()]);
    let cases = [
        ("cat > /dev/null; echo of no use >&2; exit 1", "CompileCrashed", "of no use"),
        ("cat > /dev/null; kill -XCPU $$", "CompileTimeExceeded", "120 CPU seconds"),
        ("cat > /dev/null; kill -KILL $$", "HostFailure", "short of memory"),
        (
            "cat > /dev/null; echo memory allocation of 64 bytes failed >&2; kill -ABRT $$",
            "CompileMemoryExceeded",
            "1073741824 bytes",
        ),
        ("exec < /dev/null; echo half an answer", "HostFailure", "can't be loaded"),
    ];
    for (script, kind, message) in cases {
        let error = load_with(directory.path(), shell(script)).map(|_| ()).unwrap_err();
        assert_eq!(error.kind(), kind, "{error}");
        assert!(error.to_string().contains(message), "{error}");
    }
}

/// The compiling process by itself, with limits of the test's choice: how it ended, and what it said.
fn compile_within(cpu_seconds: &str, memory: &str) -> (ExitStatus, String) {
    let mut child = Command::new(COMPILER)
        .args([cpu_seconds, memory])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .expect("it can be started");
    // It may end before it has read everything.
    let _ = child.stdin.take().expect("it has one").write_all(component("odd-guest"));
    let output = child.wait_with_output().expect("it ends");
    (output.status, String::from_utf8_lossy(&output.stderr).into_owned())
}

#[test]
fn the_compiling_process_keeps_to_its_limits() {
    let (status, _) = compile_within("120", "1073741824");
    assert!(status.success());
    let (status, message) = compile_within("120", "1048576");
    assert!(!status.success() && message.contains("memory"), "{status}: {message}");
    let (status, message) = compile_within("0", "1073741824");
    assert!(status.signal().is_some(), "{status}: {message}");
    let (status, message) = compile_within("", "");
    assert!(status.code() == Some(1) && message.contains("internal command"), "{status}: {message}");
}

#[test]
fn a_packed_plugin_answers_like_a_plain_one() {
    let directory = tempfile::tempdir().unwrap();
    let engine = engine(directory.path(), COMPILER);
    let plain = component("odd-guest");
    let packed = ruzstd_of(plain);
    let program = Program { component: vec![packed[..100].to_vec(), packed[100..].to_vec()] };
    let plugin = engine.prepare(&program, &PluginSettings::default()).unwrap();
    plugin.call_blocking(call("odd", r#"{"do":"Answer"}"#)).result.unwrap();
}

fn ruzstd_of(plain: &[u8]) -> Vec<u8> {
    ruzstd::encoding::compress_to_vec(plain, ruzstd::encoding::CompressionLevel::Fastest)
}
