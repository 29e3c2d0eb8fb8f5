//! Compiling in a child process.
//!
//! Compiling is the one thing whose cost a plugin's bytes decide and no epoch ends, and whose memory stays with the process that
//! did it. So the operator starts its own executable again, with a hidden subcommand, and gives that process limits. The child
//! gets the component on its standard input, writes native code to its standard output, and knows nothing else: no environment,
//! no arguments but its limits.

use std::{
    ffi::OsString,
    fmt::Display,
    fs::File,
    io::{self, Read, Write},
    os::unix::process::ExitStatusExt,
    path::PathBuf,
    process::{Child, Command, ExitCode, ExitStatus, Stdio},
    sync::mpsc,
    thread,
    time::Duration,
};

use dask_wasm_operator_core::spec::{COMPILE_CPU_TIME, COMPILE_MEMORY_BYTES};
use rustix::process::{Resource, Rlimit, Signal};

use crate::wasmtime_settings::compiling_engine;

/// The hidden subcommand: a program whose first argument is this must answer [`compile_child`] with the arguments after it.
pub const COMPILE_SUBCOMMAND: &str = "compile-component";

/// CPU time of one compilation. CPython needs 20 s.
const CPU_SECONDS: u64 = COMPILE_CPU_TIME.as_secs();

/// Wall time of one compilation: the CPU time, on a machine that is busy with other things.
const WALL: Duration = Duration::from_secs(5 * CPU_SECONDS);

/// Threads of the compiler: each more makes it faster and takes memory.
const THREADS: &str = "2";

/// How much of what the child says goes into an error.
const MESSAGE: u64 = 2 << 10;

/// How a process says that it got no memory: Rust's allocator, Rust's I/O, the operating system.
const OUT_OF_MEMORY: [&str; 3] = ["memory allocation of", "out of memory", "Cannot allocate memory"];

/// Exit code of a child whose component does not compile; standard error says why.
const INVALID: u8 = 3;

/// How to start the compiling process: a program that calls [`compile_child`].
pub struct Compiler {
    executable: PathBuf,
    arguments: Vec<OsString>,
}

impl Compiler {
    /// Runs `executable` with `arguments`, the hidden subcommand among them.
    pub fn new(executable: impl Into<PathBuf>, arguments: impl IntoIterator<Item = OsString>) -> Self {
        Self { executable: executable.into(), arguments: arguments.into_iter().collect() }
    }

    /// Runs the program that is running now with [`COMPILE_SUBCOMMAND`].
    ///
    /// # Errors
    /// When the operating system does not tell which program that is.
    pub fn current_executable() -> io::Result<Self> {
        Ok(Self::new(std::env::current_exe()?, [COMPILE_SUBCOMMAND.into()]))
    }

    /// Compiles a component into a file.
    pub(crate) fn compile(&self, wasm: &[u8], output: &File) -> Result<(), CompileError> {
        let start = || {
            Command::new(&self.executable)
                .args(&self.arguments)
                .args([CPU_SECONDS.to_string(), COMPILE_MEMORY_BYTES.to_string()])
                .env_clear()
                .env("RAYON_NUM_THREADS", THREADS)
                .stdin(Stdio::piped())
                .stdout(output.try_clone()?)
                .stderr(Stdio::piped())
                .spawn()
        };
        let child = start().map_err(|source| CompileError::Start { executable: self.executable.clone(), source })?;
        let Ended { status, message, in_time } = feed(child, wasm).map_err(|source| CompileError::Lost { source })?;
        // As numbers: what the child died of is told by the kernel.
        let (code, signal) = (status.code(), status.signal());
        if status.success() {
            Ok(())
        } else if !in_time || signal == Some(Signal::XCPU.as_raw()) {
            Err(CompileError::Time { seconds: CPU_SECONDS })
        } else if signal == Some(Signal::KILL.as_raw()) {
            Err(CompileError::Killed { bytes: COMPILE_MEMORY_BYTES })
        } else if code == Some(INVALID.into()) {
            Err(CompileError::Invalid { message })
        } else if OUT_OF_MEMORY.iter().any(|words| message.contains(words)) {
            Err(CompileError::Memory { bytes: COMPILE_MEMORY_BYTES })
        } else {
            Err(CompileError::Crashed { status, message })
        }
    }
}

struct Ended {
    status: ExitStatus,
    message: String,
    in_time: bool,
}

/// Gives the child its input and waits for its end, for so long.
fn feed(mut child: Child, wasm: &[u8]) -> io::Result<Ended> {
    let stdin = child.stdin.take();
    let stderr = child.stderr.take();
    thread::scope(|scope| {
        // A child that ends early closes the pipe; why it ended is told by its status.
        scope.spawn(move || stdin.map(|mut stdin| stdin.write_all(wasm)));
        let (message_tx, message_rx) = mpsc::channel();
        scope.spawn(move || {
            let mut message = Vec::new();
            if let Some(mut stderr) = stderr {
                let _ = stderr.by_ref().take(MESSAGE).read_to_end(&mut message);
                let _ = io::copy(&mut stderr, &mut io::sink());
            }
            // The pipe is closed: the child has ended, or is about to.
            let _ = message_tx.send(message);
        });
        let message = message_rx.recv_timeout(WALL);
        if message.is_err() {
            child.kill()?;
        }
        let status = child.wait()?;
        let in_time = message.is_ok();
        let message = String::from_utf8_lossy(&message.unwrap_or_default()).trim().to_owned();
        Ok(Ended { status, message, in_time })
    })
}

/// The compiling process: called by the program's `main` when its first argument is [`COMPILE_SUBCOMMAND`], with the arguments
/// after it.
pub fn compile_child(arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    let (code, message) = match compile_here(arguments) {
        Ok(()) => return ExitCode::SUCCESS,
        Err(ChildError::Invalid(message)) => (INVALID, message),
        Err(ChildError::Failed(message)) => (1, message),
    };
    let _ = writeln!(io::stderr(), "{message}");
    ExitCode::from(code)
}

enum ChildError {
    Invalid(String),
    Failed(String),
}

impl ChildError {
    fn failed(operation: &'static str) -> impl Fn(&dyn Display) -> Self {
        move |error| Self::Failed(format!("{operation}: {error}"))
    }
}

fn compile_here(arguments: impl IntoIterator<Item = OsString>) -> Result<(), ChildError> {
    let mut arguments = arguments.into_iter().map(|argument| argument.to_str()?.parse::<u64>().ok());
    let (Some(Some(cpu_seconds)), Some(Some(memory)), None) = (arguments.next(), arguments.next(), arguments.next())
    else {
        return Err(ChildError::Failed("this is an internal command: CPU_SECONDS MEMORY_BYTES < WASM > CODE".into()));
    };
    confine(cpu_seconds, memory).map_err(|error| ChildError::failed("limits")(&error))?;
    let mut wasm = Vec::new();
    io::stdin().lock().read_to_end(&mut wasm).map_err(|error| ChildError::failed("standard input")(&error))?;
    let engine = compiling_engine().map_err(|error| ChildError::failed("engine")(&error))?;
    let code = engine.precompile_component(&wasm).map_err(|error| ChildError::Invalid(format!("{error:#}")))?;
    io::stdout().lock().write_all(&code).map_err(|error| ChildError::failed("standard output")(&error))
}

/// Limits this process, and ties it to the operator's life.
fn confine(cpu_seconds: u64, memory: u64) -> io::Result<()> {
    let limit = |resource, soft, hard| {
        rustix::process::setrlimit(resource, Rlimit { current: Some(soft), maximum: Some(hard) })
    };
    limit(Resource::Cpu, cpu_seconds, cpu_seconds + 1)?;
    limit(Resource::As, memory, memory)?;
    limit(Resource::Core, 0, 0)?;
    #[cfg(target_os = "linux")]
    rustix::process::set_parent_process_death_signal(Some(Signal::KILL))?;
    Ok(())
}

/// Why a component has no compiled form.
#[derive(Debug, thiserror::Error)]
pub enum CompileError {
    /// The component is not valid, or uses what the engine does not offer.
    #[error("the component can't be compiled: {message}")]
    Invalid {
        /// The compiler's words.
        message: String,
    },
    /// It takes too long.
    #[error("compiling takes more than {seconds} CPU seconds; make the component smaller")]
    Time {
        /// The limit.
        seconds: u64,
    },
    /// It takes too much memory.
    #[error(
        "compiling takes more than {bytes} bytes of memory; make the component smaller, or split its largest functions"
    )]
    Memory {
        /// The limit.
        bytes: u64,
    },
    /// Somebody ended it by SIGKILL, as the operating system does where memory is short: the host's fault.
    #[error(
        "the compiling process was killed, most likely because the container or the machine is short of memory; \
         allow the operator {bytes} bytes more for it"
    )]
    Killed {
        /// What compiling may take.
        bytes: u64,
    },
    /// The compiler failed.
    #[error("the compiling process ended with {status}: {message}")]
    Crashed {
        /// How it ended.
        status: ExitStatus,
        /// Its last words.
        message: String,
    },
    /// The process can't be started: the host's fault.
    #[error("the compiling process {} can't be started", executable.display())]
    Start {
        /// The program.
        executable: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The process can't be waited for: the host's fault.
    #[error("the compiling process was lost")]
    Lost {
        /// Why.
        source: io::Error,
    },
    /// More functions or globals than an instance may have.
    #[error(
        "the component is larger than a call's place in memory; make it smaller, or split its largest module: {message}"
    )]
    Large {
        /// The engine's words.
        message: String,
    },
    /// The result can't be kept: the host's fault.
    #[error(transparent)]
    Cache(#[from] crate::cache::CacheError),
    /// The result can't be loaded: the host's fault.
    #[error("the compiled component can't be loaded: {message}")]
    Load {
        /// The engine's words.
        message: String,
    },
}

impl CompileError {
    pub(crate) fn kind(&self) -> &'static str {
        match self {
            Self::Invalid { .. } => "InvalidComponent",
            Self::Time { .. } => "CompileTimeExceeded",
            Self::Memory { .. } => "CompileMemoryExceeded",
            Self::Crashed { .. } => "CompileCrashed",
            Self::Large { .. } => "ComponentTooLarge",
            Self::Killed { .. } | Self::Start { .. } | Self::Lost { .. } | Self::Cache(_) | Self::Load { .. } => {
                "HostFailure"
            }
        }
    }
}
