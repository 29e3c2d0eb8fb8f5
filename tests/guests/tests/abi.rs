//! Code that runs before a call begins and after it has ended is under the limits of the call, too.
#![expect(clippy::unwrap_used, reason = "the helpers of a test fail as a test does")]

use std::{env, path::Path, time::Duration};

use dask_wasm_operator_core::{plugin::Program, ports::Guest, spec::Limits};
use dask_wasm_operator_engine::{Engine, LoadError, LoadedPlugin, PluginSettings};
use dask_wasm_operator_test_guests::{call, component, engine};
use futures::executor::block_on;
use wit_component::{StringEncoding, embed_component_metadata};
use wit_parser::Resolve;

const ENDLESS: &str = "(loop br 0)";

/// Bodies of what the canonical ABI calls besides the functions of the interface.
#[derive(Clone, Copy, Default)]
struct Bodies {
    start: &'static str,
    realloc: &'static str,
    post_return: &'static str,
}

/// A plugin by hand: it describes itself as one handler of Services.
fn plugin(bodies: Bodies) -> Vec<u8> {
    let Bodies { start, realloc, post_return } = bodies;
    let words = |words: &[u32]| {
        words.iter().flat_map(|word| word.to_le_bytes()).map(|byte| format!("\\{byte:02x}")).collect::<String>()
    };
    // Texts are where they are put below; a list or text is its place and its length, an option three words.
    let (none, no_list, letter) = ([0; 3], [0; 2], [512, 1]);
    let manifest = [&letter[..], &letter, &[520, 5], &[1100, 1], &no_list, &no_list, &no_list, &[0]].concat();
    let kind = [&none[..], &none, &[528, 7]].concat();
    let subscription = [&kind[..], &no_list, &none, &no_list, &no_list, &none].concat();
    let handler = [&letter[..], &subscription, &[1304, 1], &none, &no_list].concat();
    let module = format!(
        r#"(module
            (memory (export "memory") 2)
            (data (i32.const 512) "p")
            (data (i32.const 520) "0.1.0")
            (data (i32.const 528) "Service")
            (data (i32.const 1024) "{}")
            (data (i32.const 1100) "{}")
            (func $start {start})
            (start $start)
            (func (export "cabi_realloc") (param i32 i32 i32 i32) (result i32) {realloc} i32.const 65536)
            (func (export "dask:operator/handler@0.1.0#describe") (result i32) i32.const 1024)
            (func (export "dask:operator/handler@0.1.0#handle") (param i32) (result i32) unreachable)
            (func (export "cabi_post_dask:operator/handler@0.1.0#describe") (param i32) {post_return}))"#,
        words(&manifest),
        words(&handler),
    );
    let mut module = wat::parse_str(module).unwrap();
    let mut resolve = Resolve::default();
    let root = env::var_os("CARGO_MANIFEST_DIR").expect("cargo runs the tests");
    let (package, _) = resolve.push_dir(Path::new(&root).join("../../wit")).unwrap();
    let world = resolve.select_world(&[package], Some("plugin")).unwrap();
    embed_component_metadata(&mut module, &resolve, world, StringEncoding::UTF8).unwrap();
    dask_operator_componentize::componentize(&module).unwrap()
}

fn shared_engine() -> Engine {
    engine(Path::new(env!("CARGO_TARGET_TMPDIR")), env!("CARGO_BIN_EXE_compile-component"))
}

fn load(engine: &Engine, component: &[u8], deadline: Duration) -> Result<LoadedPlugin, LoadError> {
    let limits = Limits { deadline, ..Limits::default() };
    engine.prepare(&Program::of_component(component), &PluginSettings { limits, ..PluginSettings::default() })
}

#[test]
fn a_start_function_and_what_cleans_up_after_a_call_end_at_the_deadline() {
    let engine = shared_engine();
    let deadline = Duration::from_millis(100);
    for endless in
        [Bodies { start: ENDLESS, ..Bodies::default() }, Bodies { post_return: ENDLESS, ..Bodies::default() }]
    {
        let error = load(&engine, &plugin(endless), deadline).map(|_| ()).unwrap_err();
        assert_eq!(error.kind(), "DeadlineExceeded", "{error}");
    }
}

#[test]
fn an_allocator_ends_at_the_deadline_and_a_healthy_plugin_goes_on() {
    let engine = shared_engine();
    let endless = plugin(Bodies { realloc: ENDLESS, ..Bodies::default() });
    let endless = load(&engine, &endless, Duration::from_secs(1)).unwrap();
    assert_eq!(endless.manifest().handlers[0].subscription.kind.name, "Service");
    let error = block_on(endless.call(call("p", "null"))).result.unwrap_err();
    assert_eq!(error.kind(), "DeadlineExceeded", "{error}");

    let healthy = load(&engine, component("odd-guest"), Duration::from_secs(10)).unwrap();
    assert!(block_on(healthy.call(call("odd", r#"{"do":"Answer"}"#))).result.is_ok());
}
