//! Processes that outlive the program that started them, and are ended by nobody else's mistake.

use std::fs;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use rustix::process::{Pid, PidfdFlags, pidfd_open, pidfd_send_signal};
use serde::{Deserialize, Serialize};

pub use rustix::process::Signal;

use crate::shell::{log_file, wait_for};

/// How long a process may take to end after a signal that asks for it.
const END_LIMIT: Duration = Duration::from_secs(10);

/// A process that the lab started. Pid, start time and boot name one process for ever: a pid that
/// was given to somebody else is never signalled. (The executable's path would name it only until
/// the next build replaces the file.)
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Process {
    /// Process id in the lab's own pid namespace.
    pub pid: i32,
    start_ticks: u64,
    boot: String,
}

impl Process {
    /// Starts `command` in a process group of its own, with its output appended to `log`.
    pub fn spawn(command: &mut Command, log: &Path) -> Result<Process> {
        let mut child = command
            .process_group(0)
            .stdin(Stdio::null())
            .stdout(log_file(log)?)
            .stderr(log_file(log)?)
            .spawn()
            .with_context(|| format!("cannot start {}", command.get_program().display()))?;
        let pid = i32::try_from(child.id())?;
        let stat = read_stat(pid).context("the process ended at once")?;
        // Reaped as soon as it ends; when this program ends first, init does it.
        thread::spawn(move || child.wait());
        Ok(Process { pid, start_ticks: stat.start_ticks, boot: boot_id()? })
    }

    /// Whether it runs or is stopped; a zombie does neither.
    pub fn is_alive(&self) -> bool {
        self.stat().is_some_and(|stat| !matches!(stat.state, 'Z' | 'X'))
    }

    /// Whether it was stopped by a signal.
    pub fn is_stopped(&self) -> bool {
        self.stat().is_some_and(|stat| stat.state == 'T')
    }

    /// Sends `signal`. It is an error when the process is gone.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        let pid = Pid::from_raw(self.pid).context("a pid is positive")?;
        let handle = pidfd_open(pid, PidfdFlags::empty())
            .with_context(|| format!("process {} is gone", self.pid))?;
        // The handle is bound to one process; whether it is ours can be asked from here on.
        if !self.is_alive() {
            bail!("process {} is gone", self.pid);
        }
        Ok(pidfd_send_signal(handle, signal)?)
    }

    /// Ends it with `signal`, and with SIGKILL when it does not obey. Returns when it is gone.
    pub fn end(&self, signal: Signal) -> Result<()> {
        for signal in [signal, Signal::KILL] {
            if !self.is_alive() {
                return Ok(());
            }
            // It may end by itself between the question and the signal.
            let _ = self.signal(signal);
            let gone = || if self.is_alive() { bail!("it still runs") } else { Ok(()) };
            if wait_for("end of a process", END_LIMIT, gone).is_ok() {
                return Ok(());
            }
        }
        bail!("process {} does not end", self.pid)
    }

    fn stat(&self) -> Option<Stat> {
        let stat = read_stat(self.pid)?;
        (stat.start_ticks == self.start_ticks && boot_id().ok()? == self.boot).then_some(stat)
    }
}

struct Stat {
    state: char,
    start_ticks: u64,
}

/// proc_pid_stat(5): the state is field 3, the start time field 22, counted from 1. The name in
/// field 2 may hold anything, so fields are counted from its last parenthesis.
fn read_stat(pid: i32) -> Option<Stat> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let mut fields = text.rsplit_once(')')?.1.split_whitespace();
    let state = fields.next()?.chars().next()?;
    Some(Stat { state, start_ticks: fields.nth(18)?.parse().ok()? })
}

fn boot_id() -> Result<String> {
    Ok(fs::read_to_string("/proc/sys/kernel/random/boot_id")?.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sleeper() -> Process {
        Process::spawn(Command::new("sleep").arg("60"), Path::new("/dev/null")).unwrap()
    }

    #[test]
    fn stops_goes_on_and_ends() {
        let process = sleeper();
        assert!(process.is_alive() && !process.is_stopped());
        process.signal(Signal::STOP).unwrap();
        wait_for("stop", END_LIMIT, || process.is_stopped().then_some(()).context("runs")).unwrap();
        process.end(Signal::KILL).unwrap();
        assert!(!process.is_alive());
        assert!(process.signal(Signal::KILL).is_err());
    }

    #[test]
    fn a_reused_pid_is_somebody_else() {
        let process = sleeper();
        let stranger = Process { start_ticks: process.start_ticks - 1, ..process.clone() };
        assert!(!stranger.is_alive());
        assert!(stranger.signal(Signal::KILL).is_err());
        assert!(process.is_alive());
        process.end(Signal::KILL).unwrap();
    }
}
