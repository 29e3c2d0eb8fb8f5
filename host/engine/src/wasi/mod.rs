//! A WASI 0.2 that has nothing to give.
//!
//! The runtimes of most languages import WASI whether a plugin uses it or not, so a component may import it, and gets: no
//! environment, no arguments, no files, no network; clocks that stand at the call's time; waiting that is over at once; random
//! numbers that depend on plugin and subject only, so that the same call gives the same answer; output to the log. Everything
//! else is refused, with WASI's own error where the function has one and with a trap that names the function where not.
//!
//! Functions are made for what a component imports, in whichever 0.2 version, so nothing here knows more of WASI than these
//! few functions.

mod random;

use std::{collections::VecDeque, time::Duration};

use dask_wasm_operator_core::ports::LogLevel;
use wasmtime::{
    StoreContextMut,
    component::{Component, ComponentType, Linker, LinkerInstance, Lower, Resource, ResourceType, Val, types},
};

pub(crate) use self::random::Random;
use crate::log::GuestLog;

/// The packages of WASI 0.2 of which something is answered.
pub(crate) const PACKAGES: [&str; 6] = ["cli", "clocks", "filesystem", "io", "random", "sockets"];

/// Bytes that one write may hold: what a stream promises to take.
const WRITE: u64 = 64 << 10;

/// Bytes of random numbers that one call gives.
const RANDOM: u64 = 64 << 10;

/// What a plugin is told when it does what it can't.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Refused {
    #[error("the guest called {interface}#{function}, which plugins can't use")]
    Function { interface: String, function: String },
    #[error("the guest ended itself by calling exit")]
    Exit,
    #[error("the guest asked for {asked} random bytes at once; {RANDOM} are the most")]
    Random { asked: u64 },
}

// What handles stand for. None has a state: a stream is told by its number.
struct InputStream;
struct OutputStream;
struct Pollable;
struct IoError;
/// Descriptors, sockets, terminals, of which no handle can come to be, and the network, with which nothing can be done.
struct Nothing;

const STDOUT: u32 = 1;
const STDERR: u32 = 2;

#[derive(ComponentType, Lower)]
#[component(variant)]
enum StreamError {
    #[component(name = "last-operation-failed")]
    #[expect(dead_code, reason = "part of the type; nothing that could fail is ever begun")]
    LastOperationFailed(Resource<IoError>),
    #[component(name = "closed")]
    Closed,
}

#[derive(ComponentType, Lower)]
#[component(record)]
struct Datetime {
    seconds: u64,
    nanoseconds: u32,
}

/// What WASI is for one call.
pub(crate) struct Wasi {
    now: Duration,
    random: Random,
    stdout: Lines,
    stderr: Lines,
}

impl Wasi {
    /// With clocks that stand at `now` since the Unix epoch.
    pub(crate) fn new(now: Duration, random: Random) -> Self {
        Self { now, random, stdout: Lines::new(LogLevel::Info), stderr: Lines::new(LogLevel::Warn) }
    }

    /// Writes the lines that were not ended, and answers the end of standard error.
    pub(crate) fn finish(&mut self, log: &mut GuestLog) -> String {
        self.stdout.finish(log);
        self.stderr.finish(log);
        String::from_utf8_lossy(self.stderr.tail.make_contiguous()).trim().to_owned()
    }
}

/// What a store holds, as far as WASI needs it.
pub(crate) trait HasWasi: 'static {
    /// WASI for this call.
    fn wasi(&mut self) -> &mut Wasi {
        self.wasi_and_log().0
    }

    /// The same, and the log that its output goes to.
    fn wasi_and_log(&mut self) -> (&mut Wasi, &mut GuestLog);
}

/// A stream of text that becomes lines of the log.
struct Lines {
    level: LogLevel,
    line: Vec<u8>,
    /// Bytes of the line that were not kept.
    more: usize,
    tail: VecDeque<u8>,
}

impl Lines {
    /// The end of the output that is kept for an error, in bytes. What matters of a traceback is its end, so it must fit into
    /// what is quoted in a message, also with its line breaks written out.
    const TAIL: usize = 500;

    fn new(level: LogLevel) -> Self {
        Self { level, line: Vec::new(), more: 0, tail: VecDeque::new() }
    }

    fn write(&mut self, bytes: &[u8], log: &mut GuestLog) {
        let end = &bytes[bytes.len().saturating_sub(Self::TAIL)..];
        let excess = (self.tail.len() + end.len()).saturating_sub(Self::TAIL);
        self.tail.drain(..excess);
        self.tail.extend(end);

        for part in bytes.split_inclusive(|byte| *byte == b'\n') {
            let text = part.strip_suffix(b"\n").unwrap_or(part);
            let room = log.line_limit().saturating_sub(self.line.len());
            let (kept, rest) = text.split_at(text.len().min(room));
            self.line.extend(kept);
            self.more = self.more.saturating_add(rest.len());
            if part.ends_with(b"\n") {
                self.end_line(log);
            }
        }
    }

    fn end_line(&mut self, log: &mut GuestLog) {
        log.write_beginning(self.level, String::from_utf8_lossy(&self.line).trim_end(), self.more);
        self.line.clear();
        self.more = 0;
    }

    /// Writes a line that was not ended.
    fn finish(&mut self, log: &mut GuestLog) {
        if !self.line.is_empty() {
            self.end_line(log);
        }
    }
}

/// Defines every WASI function that the component imports.
pub(crate) fn link<T: HasWasi>(linker: &mut Linker<T>, component: &Component) -> wasmtime::Result<()> {
    let engine = linker.engine().clone();
    for (interface, import) in component.component_type().imports(&engine) {
        let types::ComponentItem::ComponentInstance(instance) = import.ty else { continue };
        let Some(short) = interface.strip_prefix("wasi:").and_then(|name| Some(name.split_once('@')?.0)) else {
            continue;
        };
        let mut exports = linker.instance(interface)?;
        for (name, export) in instance.exports(&engine) {
            match export.ty {
                types::ComponentItem::Resource(_) => exports.resource(name, resource(name), |_, _| Ok(()))?,
                types::ComponentItem::ComponentFunc(_) => define(&mut exports, short, name)?,
                _ => {}
            }
        }
    }
    Ok(())
}

fn resource(name: &str) -> ResourceType {
    match name {
        "input-stream" => ResourceType::host::<InputStream>(),
        "output-stream" => ResourceType::host::<OutputStream>(),
        "pollable" => ResourceType::host::<Pollable>(),
        "error" => ResourceType::host::<IoError>(),
        _ => ResourceType::host::<Nothing>(),
    }
}

type Call<'a, T> = StoreContextMut<'a, T>;

fn define<T: HasWasi>(exports: &mut LinkerInstance<'_, T>, interface: &str, name: &str) -> wasmtime::Result<()> {
    match (interface, name) {
        ("cli/environment", "get-environment") => {
            exports.func_wrap(name, |_, ()| Ok((Vec::<(String, String)>::new(),)))
        }
        ("cli/environment", "get-arguments") => exports.func_wrap(name, |_, ()| Ok((Vec::<String>::new(),))),
        ("cli/environment", "initial-cwd") => exports.func_wrap(name, |_, ()| Ok((None::<String>,))),
        ("cli/exit", "exit") => exports.func_wrap(name, |_, (_,): (Result<(), ()>,)| exit()),
        ("cli/exit", "exit-with-code") => exports.func_wrap(name, |_, (_,): (u8,)| exit()),
        ("cli/stdin", "get-stdin") => exports.func_wrap(name, |_, ()| Ok((Resource::<InputStream>::new_own(0),))),
        ("cli/stdout", "get-stdout") => {
            exports.func_wrap(name, |_, ()| Ok((Resource::<OutputStream>::new_own(STDOUT),)))
        }
        ("cli/stderr", "get-stderr") => {
            exports.func_wrap(name, |_, ()| Ok((Resource::<OutputStream>::new_own(STDERR),)))
        }
        ("cli/terminal-stdin" | "cli/terminal-stdout" | "cli/terminal-stderr", _) => {
            exports.func_wrap(name, |_, ()| Ok((None::<Resource<Nothing>>,)))
        }
        ("clocks/monotonic-clock", "now") => exports.func_wrap(name, |mut call: Call<'_, T>, ()| {
            Ok((u64::try_from(call.data_mut().wasi().now.as_nanos()).unwrap_or(u64::MAX),))
        }),
        ("clocks/monotonic-clock", "resolution") => exports.func_wrap(name, |_, ()| Ok((1_000_000_u64,))),
        ("clocks/monotonic-clock", _) => {
            exports.func_wrap(name, |_, (_,): (u64,)| Ok((Resource::<Pollable>::new_own(0),)))
        }
        ("clocks/wall-clock", "now") => exports.func_wrap(name, |mut call: Call<'_, T>, ()| {
            let now = call.data_mut().wasi().now;
            Ok((Datetime { seconds: now.as_secs(), nanoseconds: now.subsec_nanos() },))
        }),
        ("clocks/wall-clock", "resolution") => {
            exports.func_wrap(name, |_, ()| Ok((Datetime { seconds: 0, nanoseconds: 1_000_000 },)))
        }
        ("random/random", "get-random-bytes") | ("random/insecure", "get-insecure-random-bytes") => {
            exports.func_wrap(name, |mut call: Call<'_, T>, (length,): (u64,)| match usize::try_from(length) {
                Ok(bytes) if length <= RANDOM => Ok((call.data_mut().wasi().random.bytes(bytes),)),
                _ => Err(Refused::Random { asked: length }.into()),
            })
        }
        ("random/random", "get-random-u64") | ("random/insecure", "get-insecure-random-u64") => {
            exports.func_wrap(name, |mut call: Call<'_, T>, ()| Ok((call.data_mut().wasi().random.next(),)))
        }
        ("random/insecure-seed", _) => exports.func_wrap(name, |mut call: Call<'_, T>, ()| {
            let random = &mut call.data_mut().wasi().random;
            Ok(((random.next(), random.next()),))
        }),
        ("filesystem/preopens", "get-directories") => {
            exports.func_wrap(name, |_, ()| Ok((Vec::<(Resource<Nothing>, String)>::new(),)))
        }
        // Asked for before each look-up, which is then refused.
        ("sockets/instance-network", _) => exports.func_wrap(name, |_, ()| Ok((Resource::<Nothing>::new_own(0),))),
        ("io/poll" | "io/streams", _) => define_io(exports, interface, name),
        _ => refuse(exports, interface, name),
    }
}

/// Streams and waiting. Everything is ready, reading finds the end, writing goes to the log.
fn define_io<T: HasWasi>(exports: &mut LinkerInstance<'_, T>, interface: &str, name: &str) -> wasmtime::Result<()> {
    let Some(method) = name.strip_prefix("[method]") else {
        return match name {
            "poll" => exports.func_wrap(name, |_, (pollables,): (Vec<Resource<Pollable>>,)| {
                Ok(((0_u32..).zip(&pollables).map(|(index, _)| index).collect::<Vec<_>>(),))
            }),
            _ => refuse(exports, interface, name),
        };
    };
    match method {
        "pollable.ready" => exports.func_wrap(name, |_, (_,): (Resource<Pollable>,)| Ok((true,))),
        "pollable.block" => exports.func_wrap(name, |_, (_,): (Resource<Pollable>,)| Ok(())),
        "input-stream.subscribe" => {
            exports.func_wrap(name, |_, (_,): (Resource<InputStream>,)| Ok((Resource::<Pollable>::new_own(0),)))
        }
        "input-stream.read" | "input-stream.blocking-read" => {
            exports.func_wrap(name, |_, _: (Resource<InputStream>, u64)| Ok((Err::<Vec<u8>, _>(StreamError::Closed),)))
        }
        "output-stream.subscribe" => {
            exports.func_wrap(name, |_, (_,): (Resource<OutputStream>,)| Ok((Resource::<Pollable>::new_own(0),)))
        }
        "output-stream.check-write" => {
            exports.func_wrap(name, |_, (_,): (Resource<OutputStream>,)| Ok((Ok::<_, StreamError>(WRITE),)))
        }
        "output-stream.write" | "output-stream.blocking-write-and-flush" => {
            exports.func_wrap(name, |mut call: Call<'_, T>, (stream, bytes): (Resource<OutputStream>, Vec<u8>)| {
                let (wasi, log) = call.data_mut().wasi_and_log();
                let lines = if stream.rep() == STDERR { &mut wasi.stderr } else { &mut wasi.stdout };
                lines.write(&bytes, log);
                Ok((Ok::<_, StreamError>(()),))
            })
        }
        "output-stream.flush" | "output-stream.blocking-flush" => {
            exports.func_wrap(name, |_, (_,): (Resource<OutputStream>,)| Ok((Ok::<_, StreamError>(()),)))
        }
        _ => refuse(exports, interface, name),
    }
}

fn exit() -> wasmtime::Result<()> {
    Err(Refused::Exit.into())
}

/// The cases by which WASI's error codes say that something is not allowed.
const DENIALS: [&str; 2] = ["access-denied", "access"];

fn refuse<T: HasWasi>(exports: &mut LinkerInstance<'_, T>, interface: &str, name: &str) -> wasmtime::Result<()> {
    let (interface, function) = (format!("wasi:{interface}"), name.to_owned());
    exports.func_new(name, move |mut call: Call<'_, T>, ty, parameters, results| {
        // A handle that was lent must be given back.
        for parameter in parameters {
            if let Val::Resource(handle) = parameter {
                handle.resource_drop(&mut call)?;
            }
        }
        let denial = ty.results().next().and_then(|result| denial(&result));
        match (denial, results.first_mut()) {
            (Some(denial), Some(result)) => {
                *result = Val::Result(Err(Some(Box::new(denial))));
                Ok(())
            }
            _ => Err(Refused::Function { interface: interface.clone(), function: function.clone() }.into()),
        }
    })
}

fn denial(result: &types::Type) -> Option<Val> {
    let types::Type::Result(result) = result else { return None };
    let Some(types::Type::Enum(codes)) = result.err() else { return None };
    let name = DENIALS.into_iter().find(|denial| codes.names().any(|name| name == *denial))?;
    Some(Val::Enum(name.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(limit: usize, parts: &[&[u8]]) -> (Vec<String>, String) {
        let mut log = GuestLog::new(10, limit);
        let mut wasi = Wasi::new(Duration::ZERO, Random::new(&[]));
        parts.iter().for_each(|part| wasi.stderr.write(part, &mut log));
        let tail = wasi.finish(&mut log);
        (log.into_parts().0.into_iter().map(|line| line.message).collect(), tail)
    }

    #[test]
    fn fragments_are_joined_to_lines() {
        let (lines, tail) = written(100, &[b"Trace", b"back\n  File \"x\"", b"\n", b"\nboom"]);
        assert_eq!(lines, ["Traceback", "  File \"x\"", "", "boom"]);
        assert_eq!(tail, "Traceback\n  File \"x\"\n\nboom");
    }

    #[test]
    fn a_line_and_the_tail_are_bounded() {
        let (lines, tail) = written(40, &[&[b'a'; 3000], &[b'b'; 3000], b"\n"]);
        assert_eq!(lines, ["aaaa…[5996 bytes more]"]);
        assert_eq!(tail.len(), Lines::TAIL - 1);
        assert!(tail.bytes().all(|byte| byte == b'b'));
    }
}
