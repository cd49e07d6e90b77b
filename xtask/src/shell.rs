//! Running programs: every failure names the command and what it said.

use std::ffi::OsStr;
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::os::fd::AsFd;
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

/// Runs `command` to its end and returns its standard output.
pub fn output(command: &mut Command) -> Result<String> {
    let result = command
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("cannot run {}; run ./scripts/setup", describe(command)))?;
    if !result.status.success() {
        let said = String::from_utf8_lossy(&result.stderr);
        bail!("{} failed ({}): {}", describe(command), result.status, said.trim());
    }
    Ok(String::from_utf8_lossy(&result.stdout).into_owned())
}

/// Runs `program` with `args` to its end and returns its standard output.
pub fn run<A: AsRef<OsStr>>(program: &str, args: impl IntoIterator<Item = A>) -> Result<String> {
    output(Command::new(program).args(args))
}

/// Runs `command` with `text` as its standard input.
pub fn feed(command: &mut Command, text: &str) -> Result<()> {
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| format!("cannot run {}; run ./scripts/setup", describe(command)))?;
    let stdin = child.stdin.take().context("no standard input")?;
    // A program that fails early closes its input; its own words say more than EPIPE.
    let _ = { stdin }.write_all(text.as_bytes());
    let result = child.wait_with_output()?;
    if !result.status.success() {
        let said = String::from_utf8_lossy(&result.stderr);
        bail!("{} failed: {}\n{text}", describe(command), said.trim());
    }
    Ok(())
}

/// A command that will run inside the network namespace `namespace`.
pub fn in_namespace(namespace: &str, program: impl AsRef<OsStr>) -> Command {
    let mut command = Command::new("ip");
    command.args(["netns", "exec", namespace]).arg(program);
    command
}

/// Runs `work` on a thread inside the network namespace `namespace`. Sockets that it opens stay in
/// that namespace wherever they are used.
pub fn inside<T, W>(namespace: &str, work: W) -> Result<T>
where
    T: Send,
    W: FnOnce() -> Result<T> + Send,
{
    let path = format!("/run/netns/{namespace}");
    let handle = File::open(&path).with_context(|| format!("no namespace {path}: run lab up"))?;
    thread::scope(|scope| {
        scope
            .spawn(|| {
                move_into_link_name_space(handle.as_fd(), Some(LinkNameSpaceType::Network))
                    .with_context(|| format!("cannot enter {path}: root is needed"))?;
                work()
            })
            .join()
            .unwrap_or_else(|_| bail!("a thread inside {path} panicked"))
    })
}

/// Opens `path` for appending, as the log of a process.
pub fn log_file(path: &Path) -> Result<File> {
    OpenOptions::new()
        .create(true)
        .append(true)
        .open(path)
        .with_context(|| format!("cannot open the log {}", path.display()))
}

/// Calls `attempt` until it returns a value, for at most `limit`. The error is that of the last
/// attempt, under the heading `what`.
pub fn wait_for<T>(
    what: &str,
    limit: Duration,
    mut attempt: impl FnMut() -> Result<T>,
) -> Result<T> {
    const INTERVAL: Duration = Duration::from_millis(20);
    let deadline = Instant::now() + limit;
    loop {
        match attempt() {
            Ok(value) => return Ok(value),
            Err(error) if Instant::now() >= deadline => {
                return Err(error.context(format!("{what}: gave up after {limit:?}")));
            }
            Err(_) => thread::sleep(INTERVAL),
        }
    }
}

fn describe(command: &Command) -> String {
    let mut text = command.get_program().to_string_lossy().into_owned();
    for arg in command.get_args() {
        text.push(' ');
        text.push_str(&arg.to_string_lossy());
    }
    text
}
