//! Which process a number meant when it was written down.

use std::path::Path;

use anyhow::Context;
use rustix::process::{Pid, Signal};
use serde::{Deserialize, Serialize};

/// A process, told apart from later ones with the same number by the time of its start.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub(crate) struct Process {
    pid: u32,
    /// In clock ticks since the machine was started: field 22 of /proc/PID/stat, see proc_pid_stat(5).
    start_ticks: u64,
    /// Distinguishes starts of the machine: the content of /proc/sys/kernel/random/boot_id.
    boot: String,
}

impl Process {
    /// The process that has this number now.
    pub(crate) fn of(pid: u32) -> anyhow::Result<Self> {
        let stat = Stat::read(pid).with_context(|| format!("process {pid} has no readable /proc/{pid}/stat"))?;
        Ok(Self { pid, start_ticks: stat.start_ticks, boot: boot()? })
    }

    /// Whether this very process still runs; one that has ended and was not waited for does not.
    pub(crate) fn is_running(&self) -> bool {
        boot().is_ok_and(|boot| boot == self.boot)
            && Stat::read(self.pid)
                .is_some_and(|stat| stat.start_ticks == self.start_ticks && !matches!(stat.state, 'Z' | 'X'))
    }

    /// Sends SIGKILL, unless the process has ended.
    pub(crate) fn kill(&self) {
        if self.is_running() {
            let pid = i32::try_from(self.pid).ok().and_then(Pid::from_raw);
            // It may end by itself in between, then there is nothing left to do.
            let _ = pid.map(|pid| rustix::process::kill_process(pid, Signal::KILL));
        }
    }
}

fn boot() -> anyhow::Result<String> {
    let path = Path::new("/proc/sys/kernel/random/boot_id");
    let text = std::fs::read_to_string(path).with_context(|| format!("reading {}", path.display()))?;
    Ok(text.trim().to_owned())
}

/// The two fields of /proc/PID/stat that matter here.
#[derive(Debug, Eq, PartialEq)]
struct Stat {
    state: char,
    start_ticks: u64,
}

impl Stat {
    fn read(pid: u32) -> Option<Self> {
        Self::parse(&std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)
    }

    fn parse(text: &str) -> Option<Self> {
        // The second field, the name, is in parentheses and may contain anything, even spaces and parentheses.
        let mut fields = text.rsplit_once(')')?.1.split_whitespace();
        Some(Self { state: fields.next()?.chars().next()?, start_ticks: fields.nth(18)?.parse().ok()? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_counted_behind_the_name() {
        let text = "4242 (a) b) S 1 4 4 0 -1 4194304 107 0 0 0 1 2 3 4 20 0 1 0 98765 9 9";
        assert_eq!(Stat::parse(text), Some(Stat { state: 'S', start_ticks: 98765 }));
    }

    #[test]
    fn a_number_taken_over_by_another_process_is_not_the_process() {
        let this = Process::of(std::process::id()).unwrap();
        assert!(this.is_running());
        let earlier = Process { start_ticks: this.start_ticks - 1, ..this.clone() };
        assert!(!earlier.is_running());
        let before_the_last_boot = Process { boot: "other".into(), ..this };
        assert!(!before_the_last_boot.is_running());
    }
}
