//! One running program of the control plane, which never outlives the process that started it.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};

use anyhow::Context;

/// Becomes the program, after forking a watcher that reads the lifeline: a line sets the program free, the end of the
/// file means that whoever started it is gone, and kills the process group.
///
/// The group consists of the program and the watcher alone, and exists as long as the watcher lives: no process
/// identifier is stored that another process could have taken over in the meantime. The watcher does not keep the
/// program's output open.
const SUPERVISED: &str = r#"exec 3<&0; { read -r _ <&3 || kill -KILL 0; } >/dev/null 2>&1 & exec "$@" 3<&- </dev/null"#;

/// A command for `binary` that ends with its standard input, the lifeline: with whoever holds the other end.
pub(crate) fn supervised(name: &str, binary: &Path) -> Command {
    let mut command = Command::new("sh");
    command.args(["-c", SUPERVISED, name]).arg(binary).stdin(Stdio::piped());
    // Its own group, so that Ctrl-C in a terminal reaches only the starter, whose end then ends the program.
    command.process_group(0);
    command
}

/// A program that ends when it is dropped, and when this process ends for whatever reason, SIGKILL included.
#[derive(Debug)]
pub(crate) struct Program {
    name: &'static str,
    child: Child,
    lifeline: Option<ChildStdin>,
    log: PathBuf,
}

impl Program {
    /// Starts `binary`, its output going to `{name}.log` in `directory`.
    pub(crate) fn start(
        name: &'static str,
        binary: &Path,
        arguments: &[String],
        directory: &Path,
    ) -> anyhow::Result<Self> {
        let log = directory.join(format!("{name}.log"));
        let output = File::create(&log).with_context(|| format!("creating {}", log.display()))?;
        let mut child = supervised(name, binary)
            .args(arguments)
            .current_dir(directory)
            .stdout(output.try_clone().context("duplicating a file descriptor")?)
            .stderr(output)
            .spawn()
            .with_context(|| format!("starting {name}"))?;
        Ok(Self { name, lifeline: child.stdin.take(), child, log })
    }

    pub(crate) fn name(&self) -> &'static str {
        self.name
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// How the program ended, if it did.
    pub(crate) fn exit_status(&mut self) -> anyhow::Result<Option<ExitStatus>> {
        self.child.try_wait().with_context(|| format!("asking for the state of {}", self.name))
    }

    /// The last lines that the program wrote.
    pub(crate) fn log_tail(&self) -> String {
        const BYTES: u64 = 4096;
        let read = || -> std::io::Result<String> {
            let mut file = File::open(&self.log)?;
            let length = file.metadata()?.len();
            file.seek(SeekFrom::Start(length.saturating_sub(BYTES)))?;
            let mut tail = Vec::new();
            file.read_to_end(&mut tail)?;
            Ok(String::from_utf8_lossy(&tail).into_owned())
        };
        read().unwrap_or_else(|error| format!("({} cannot be read: {error})", self.log.display()))
    }

    /// Lets the program live on after this process.
    pub(crate) fn release(mut self) -> anyhow::Result<()> {
        let mut lifeline = self.lifeline.take().expect("taken only here and by drop");
        lifeline.write_all(b"\n").with_context(|| format!("releasing {}", self.name))
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        if self.lifeline.take().is_some() {
            // Killing the child as well makes `wait` return even if somebody has killed the watcher.
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control_plane::process::Process;

    fn start(script: &str, directory: &Path) -> Program {
        let arguments = ["-c".to_owned(), script.to_owned()];
        Program::start("program", Path::new("/bin/sh"), &arguments, directory).unwrap()
    }

    #[test]
    fn dropping_ends_the_program_and_what_it_started() {
        let directory = tempfile::tempdir().unwrap();
        let program = start("sleep 600 & echo $!; wait", directory.path());
        let grandchild = loop {
            if let Some(pid) = program.log_tail().strip_suffix('\n') {
                break Process::of(pid.parse().unwrap()).unwrap();
            }
        };
        assert!(grandchild.is_running());
        drop(program);
        while grandchild.is_running() {
            std::thread::yield_now();
        }
    }

    #[test]
    fn the_end_of_a_program_is_seen_together_with_its_last_words() {
        let directory = tempfile::tempdir().unwrap();
        let mut program = start("echo last words; exit 7", directory.path());
        let status = loop {
            if let Some(status) = program.exit_status().unwrap() {
                break status;
            }
        };
        assert_eq!(status.code(), Some(7));
        assert_eq!(program.log_tail(), "last words\n");
    }
}
