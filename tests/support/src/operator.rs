//! The operator as a process of its own.

use std::{
    fs::File,
    path::{Path, PathBuf},
    process::{Child, ChildStdin, ExitStatus, Stdio},
    time::Duration,
};

use anyhow::{Context, bail, ensure};
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use crate::{Kubeconfig, control_plane::supervised, wait_for};

/// Environment variable that names the program, for tests that are not run by `cargo xtask`.
pub const PROGRAM_VARIABLE: &str = "DASK_WASM_OPERATOR_TEST_PROGRAM";

/// A running operator. It ends with this value, and with the process that started it.
#[derive(Debug)]
pub struct Operator {
    child: Child,
    _lifeline: Option<ChildStdin>,
    directory: TempDir,
}

/// The program: the one of the environment, or the one beside the running test.
///
/// # Errors
/// When it has not been built.
pub fn program() -> anyhow::Result<PathBuf> {
    if let Some(program) = std::env::var_os(PROGRAM_VARIABLE) {
        return Ok(program.into());
    }
    let executable = std::env::current_exe().context("finding the running program")?;
    let beside = executable.ancestors().skip(1).take(2).map(|directory| directory.join("dask-wasm-operator"));
    beside
        .into_iter()
        .find(|path| path.is_file())
        .context("the operator is not built: cargo build --workspace --bin dask-wasm-operator")
}

/// Whether this is the line `ready`, in any format of the log.
fn is_ready(line: &str) -> bool {
    line == "ready" || line.ends_with(": ready") || line.contains(r#""message":"ready""#)
}

impl Operator {
    /// Starts `dask-wasm-operator run` with more arguments, and a cache for compiled plugins that is shared between runs.
    ///
    /// # Errors
    /// When it can't be started.
    pub fn start(kubeconfig: &Kubeconfig, arguments: &[&str]) -> anyhow::Result<Self> {
        Self::start_program(&program()?, kubeconfig, arguments)
    }

    /// As [`Self::start`], for a given program.
    ///
    /// # Errors
    /// When it can't be started.
    pub fn start_program(program: &Path, kubeconfig: &Kubeconfig, arguments: &[&str]) -> anyhow::Result<Self> {
        let directory = tempfile::tempdir().context("making a directory for the operator")?;
        let path = directory.path().join("kubeconfig");
        kubeconfig.write(&path)?;
        let log = File::create(directory.path().join("log")).context("making a file for the operator's log")?;
        let cache = crate::control_plane::cache_directory("compiled-plugins")?;
        let mut child = supervised("dask-wasm-operator", program)
            .arg("run")
            .arg("--kubeconfig")
            .arg(&path)
            .arg("--cache-dir")
            .arg(cache)
            .args(arguments)
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .with_context(|| format!("starting {}", program.display()))?;
        Ok(Self { _lifeline: child.stdin.take(), child, directory })
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Everything that it has logged.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.directory.path().join("log")).unwrap_or_default()
    }

    /// Waits for a line with all of these words.
    ///
    /// # Errors
    /// When there is none within a minute; with the log.
    pub async fn until_logged(&self, words: &[&str]) -> anyhow::Result<()> {
        let line = format!("a line with {words:?}");
        let logged = wait_for(&line, Duration::from_secs(60), async || {
            let log = self.log();
            Ok(log.lines().any(|line| words.iter().all(|word| line.contains(word))).then_some(()))
        });
        logged.await.with_context(|| format!("its log:\n{}", self.log()))
    }

    /// Waits for the line `ready`.
    ///
    /// # Errors
    /// When it ends before, or takes longer than a minute; with its log.
    pub async fn ready(&mut self) -> anyhow::Result<()> {
        let ready = wait_for("the operator to be ready", Duration::from_secs(60), async || {
            if let Some(status) = self.child.try_wait()? {
                return Ok(Some(Err(status)));
            }
            Ok(self.log().lines().any(is_ready).then_some(Ok(())))
        });
        match ready.await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(status)) => bail!("the operator ended ({status}):\n{}", self.log()),
            Err(error) => Err(error.context(format!("its log:\n{}", self.log()))),
        }
    }

    /// Whether it is still running.
    ///
    /// # Errors
    /// When the operating system does not say.
    pub fn is_running(&mut self) -> anyhow::Result<bool> {
        Ok(self.child.try_wait().context("looking at the operator's process")?.is_none())
    }

    /// Ends it as `kill -9` does.
    ///
    /// # Errors
    /// When the operating system refuses.
    pub fn kill(&mut self) -> anyhow::Result<()> {
        self.child.kill().context("killing the operator")?;
        self.child.wait().context("waiting for the operator's end")?;
        Ok(())
    }

    /// Asks it to end, and waits for it.
    ///
    /// # Errors
    /// When it does not end within 30 s.
    pub async fn stop(&mut self) -> anyhow::Result<ExitStatus> {
        let pid = Pid::from_child(&self.child);
        kill_process(pid, Signal::TERM).context("asking the operator to end")?;
        self.ended(Duration::from_secs(30)).await
    }

    /// Waits for its end.
    ///
    /// # Errors
    /// When it does not end in time.
    pub async fn ended(&mut self, timeout: Duration) -> anyhow::Result<ExitStatus> {
        let ended = wait_for("the operator to end", timeout, async || Ok(self.child.try_wait()?)).await;
        ended.with_context(|| format!("its log:\n{}", self.log()))
    }

    /// Fails with its log if it is not running any more.
    ///
    /// # Errors
    /// When it has ended.
    pub fn must_run(&mut self) -> anyhow::Result<()> {
        let running = self.is_running()?;
        ensure!(running, "the operator has ended:\n{}", self.log());
        Ok(())
    }
}

impl Drop for Operator {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
