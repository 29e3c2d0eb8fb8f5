//! How the process is told to end: the first SIGTERM or SIGINT asks for it, the second ends it at once.

use std::{io, process};

use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    sync::watch,
};

/// Tells when the process is to end. Clones tell the same.
#[derive(Clone, Debug)]
pub struct Shutdown(watch::Receiver<bool>);

impl Shutdown {
    /// Takes over SIGTERM and SIGINT. Must be called in a runtime.
    ///
    /// # Errors
    /// When the operating system refuses.
    pub fn on_signals() -> io::Result<Self> {
        let mut terminate = signal(SignalKind::terminate())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        let (requested_tx, requested_rx) = watch::channel(false);
        tokio::spawn(async move {
            let signal = either(&mut terminate, &mut interrupt).await;
            tracing::info!(signal, "finishing what is under way; a second signal ends at once");
            requested_tx.send_replace(true);
            let signal = either(&mut terminate, &mut interrupt).await;
            tracing::warn!(signal, "ending at once");
            process::exit(1);
        });
        Ok(Self(requested_rx))
    }

    /// Never tells: the test ends what it started by itself.
    #[cfg(test)]
    pub(crate) fn never() -> Self {
        Self(watch::channel(false).1)
    }

    /// Has told from the beginning.
    #[cfg(test)]
    pub(crate) fn requested_already() -> Self {
        Self(watch::channel(true).1)
    }

    /// Whether the process is to end.
    pub fn is_requested(&self) -> bool {
        *self.0.borrow()
    }

    /// Returns when the process is to end: stop taking on work and finish what is under way.
    pub async fn requested(&mut self) {
        if self.0.wait_for(|requested| *requested).await.is_err() {
            // The task that listens ends with the runtime only; until then nobody asks.
            std::future::pending().await
        }
    }
}

async fn either(terminate: &mut Signal, interrupt: &mut Signal) -> &'static str {
    tokio::select! {
        _ = terminate.recv() => "SIGTERM",
        _ = interrupt.recv() => "SIGINT",
    }
}

#[cfg(test)]
mod tests {
    use std::{
        env,
        io::{BufRead as _, BufReader, Write as _},
        process::{Command, Stdio},
    };

    use rustix::process::{Pid, Signal, kill_process};

    use super::*;

    const CHILD: &str = "DASK_WASM_OPERATOR_SHUTDOWN_CHILD";

    /// Signals reach a whole process, so one of its own is asked: this very test, started anew.
    #[test]
    fn first_signal_asks_and_the_second_ends() {
        if env::var_os(CHILD).is_some() {
            child();
        }
        let mut child = Command::new(env::current_exe().unwrap())
            .args(["--exact", "process::shutdown::tests::first_signal_asks_and_the_second_ends", "--nocapture"])
            .env(CHILD, "")
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let pid = Pid::from_child(&child);
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines().map(Result::unwrap);
        lines.find(|line| line.ends_with("listening")).unwrap();
        kill_process(pid, Signal::TERM).unwrap();
        lines.find(|line| line == "requested").unwrap();
        kill_process(pid, Signal::INT).unwrap();
        assert_eq!(child.wait().unwrap().code(), Some(1));
    }

    fn child() -> ! {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let mut shutdown = Shutdown::on_signals().unwrap();
            say("listening");
            shutdown.requested().await;
            say("requested");
            std::future::pending().await
        })
    }

    fn say(word: &str) {
        let mut stdout = io::stdout().lock();
        writeln!(stdout, "{word}").unwrap();
        stdout.flush().unwrap();
    }
}
