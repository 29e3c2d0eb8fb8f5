//! One call of a plugin in a fresh sandbox, against the same function called natively: one that reads its object whole and returns
//! a changed copy, as handlers in dynamic languages do, and the example, which reads the few fields that it needs.
//!
//! Both are called in turn in one run, because a machine's speed changes between runs. `cargo xtask bench call`

use std::{
    collections::BTreeMap,
    error::Error,
    fs,
    hint::black_box,
    process::ExitCode,
    time::{Duration, Instant},
};

use dask_operator_sdk::{Call, Plugin, Value, json, testing};
use dask_wasm_operator_core::{contract, plugin::Program};
use dask_wasm_operator_engine::{COMPILE_SUBCOMMAND, Compiler, Engine, EngineSettings, PluginSettings, compile_child};

/// Calls that are not counted, and calls that are.
const WARM_UP: usize = 500;
const CALLS: usize = 5_000;

/// The most for a call in a fresh sandbox, at p50.
const MOST: Duration = Duration::from_micros(250);

/// The most in times of the native function, at p50, for one that reads its object whole. Where that does little, what the
/// sandbox takes by itself is all there is.
const MOST_TIMES_NATIVE: f64 = 3.0;

/// Bytes of the subject.
const SUBJECT: usize = 4 << 10;

fn main() -> Result<ExitCode, Box<dyn Error>> {
    let mut arguments = std::env::args_os().skip(1);
    if arguments.next().is_some_and(|first| first == COMPILE_SUBCOMMAND) {
        return Ok(compile_child(arguments));
    }
    let directory = tempfile::tempdir()?;
    let engine = Engine::new(EngineSettings {
        cache_directory: directory.path().join("compiled"),
        cache_capacity: 1 << 30,
        compiler: Compiler::current_executable()?,
    })?;
    println!("one call about an object of {SUBJECT} bytes, {CALLS} calls in turn; p50, p95, p99");
    let service = service();
    let whole = Call { config: json!({"do": "Copy"}).to_string(), ..testing::call("odd", &service) };
    let copy = measure(&engine, "odd-guest", odd_guest::plugin, &whole)?;
    let example = measure(
        &engine,
        "istio-virtual-service",
        istio_virtual_service::plugin,
        &testing::call("dashboard", &service),
    )?;
    let times_native = copy.wasm.as_secs_f64() / copy.native.as_secs_f64();
    let slowest = copy.wasm.max(example.wasm);
    let mut code = ExitCode::SUCCESS;
    for (what, figure, most) in [
        ("µs, the slower one", slowest.as_secs_f64() * 1e6, MOST.as_secs_f64() * 1e6),
        ("times native, odd-guest", times_native, MOST_TIMES_NATIVE),
    ] {
        println!("p50 in {what}: {figure:.2}, at most {most:.2}");
        if figure > most {
            eprintln!("error: beyond the bounds: p50 in {what}: {figure:.2}, at most {most:.2}");
            code = ExitCode::FAILURE;
        }
    }
    Ok(code)
}

/// Times of one call at p50.
struct Middle {
    native: Duration,
    wasm: Duration,
}

/// Calls a plugin in the sandbox and natively, in turn.
fn measure(
    engine: &Engine,
    package: &str,
    native_plugin: fn() -> Plugin,
    call: &Call,
) -> Result<Middle, Box<dyn Error>> {
    let component = fs::read(dask_operator_componentize::build(package)?)?;
    let program = Program::of_component(component.as_slice());
    let (first, plugin) = timed(|| engine.prepare(&program, &PluginSettings::default()));
    let plugin = plugin?;
    let (cached, again) = timed(|| engine.prepare(&program, &PluginSettings::default()));
    drop(again?);

    let wasm_call = same(call);
    let (mut native, mut wasm) = (Vec::with_capacity(CALLS), Vec::with_capacity(CALLS));
    for round in 0..WARM_UP + CALLS {
        let (call, copy) = (call.clone(), wasm_call.clone());
        let (native_time, native_answer) = timed(|| native_plugin().handle(black_box(&call)));
        let (wasm_time, report) = timed(|| plugin.call_blocking(black_box(copy)));
        let (native_answer, wasm_answer) = (native_answer.map_err(|failure| format!("{failure:?}"))?, report.result?);
        let same_answer = native_answer.children.iter().flatten().map(|child| &child.object).eq(wasm_answer
            .children
            .iter()
            .flatten()
            .map(|child| &child.object));
        if !same_answer {
            return Err("the plugin answers otherwise than the native function".into());
        }
        if round >= WARM_UP {
            native.push(native_time);
            wasm.push(wasm_time);
        }
    }

    println!("{package}: {} bytes, {first:.1?} to compile, {cached:.1?} from the cache", component.len());
    let mut middle = [Duration::ZERO; 2];
    for ((name, times), middle) in
        [("native", &mut native), ("wasm, fresh sandbox", &mut wasm)].into_iter().zip(&mut middle)
    {
        times.sort_unstable();
        let at = |percent: usize| times[times.len() * percent / 100];
        println!("{name:>22} {:>10.1?} {:>10.1?} {:>10.1?}", at(50), at(95), at(99));
        *middle = at(50);
    }
    let [native, wasm] = middle;
    println!(
        "{:>22} {:.2} ×, {:.1?} more",
        "p50",
        wasm.as_secs_f64() / native.as_secs_f64(),
        wasm.saturating_sub(native)
    );
    Ok(Middle { native, wasm })
}

fn timed<T>(function: impl FnOnce() -> T) -> (Duration, T) {
    let started = Instant::now();
    let answer = function();
    (started.elapsed(), answer)
}

/// A Service such as cloud load balancers leave behind: many ports, each with its fields, and notes of many controllers, as many
/// as make the object this large.
fn service() -> Value {
    let ports: Vec<_> = (0..12)
        .map(|number| {
            let (name, port) = (format!("port-{number}"), 8786 + number);
            json!({"name": name, "port": port, "protocol": "TCP", "targetPort": name, "nodePort": 30_000 + number})
        })
        .collect();
    let with_notes = |notes: usize| {
        let note = |number| {
            let state = json!({"observed": number}).to_string();
            (format!("controller-{number}.example.org/state"), state)
        };
        let annotations: BTreeMap<_, _> = (0..notes).map(note).collect();
        json!({
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": {
                "name": "simple-scheduler",
                "namespace": "default",
                "uid": "0f4f2b6e-7b0a-4f0e-9a53-2f6f2f1f7a11",
                "labels": {"dask.org/cluster-name": "simple", "dask.org/component": "scheduler"},
                "annotations": annotations,
            },
            "spec": {
                "type": "LoadBalancer",
                "selector": {"dask.org/cluster-name": "simple", "dask.org/component": "scheduler"},
                "ports": ports,
            },
            "status": {"loadBalancer": {"ingress": [{"ip": "192.0.2.1"}, {"ip": "192.0.2.2"}]}},
        })
    };
    (0..).map(with_notes).find(|service| service.to_string().len() >= SUBJECT).unwrap_or_default()
}

/// The guest's call as the host has it.
fn same(call: &Call) -> contract::Call {
    contract::Call {
        handler: call.handler.clone(),
        trigger: contract::Trigger::Created,
        redelivery: false,
        attempt: 1,
        now: 0,
        subject: contract::Subject {
            api_version: call.subject.api_version.clone(),
            kind: call.subject.kind.clone(),
            namespace: call.subject.namespace.clone(),
            name: call.subject.name.clone(),
            uid: call.subject.uid.clone(),
            object: call.subject.object.clone(),
        },
        related: Vec::new(),
        children: Vec::new(),
        conflicts: Vec::new(),
        config: call.config.clone(),
    }
}
