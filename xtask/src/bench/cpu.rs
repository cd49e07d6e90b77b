//! Who used how much CPU time, from /proc, and on which core anything may run.

use std::fs;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use rustix::thread::{CpuSet, Pid, sched_setaffinity};

/// The proxy under test runs here and nothing else of the bench.
pub const PROXY_CORE: usize = 0;
/// Load generator, origin and backup run here.
pub const REST_CORE: usize = 1;

/// Ticks per second of /proc/stat, the same on every Linux that this runs on (USER_HZ).
const TICKS_PER_S: u64 = 100;

/// The processes of a measurement.
#[derive(Clone, Debug)]
pub struct Cast {
    /// The proxy under test.
    pub proxy: i32,
    /// Other relays: a backup, or relays that have nothing to do.
    pub relays: Vec<i32>,
    /// The origin with its workers.
    pub origin: Vec<i32>,
}

/// CPU time of everybody up to one moment.
#[derive(Clone, Copy, Debug)]
pub struct Snapshot {
    at: Instant,
    proxy: Duration,
    relays: Duration,
    origin: Duration,
    generator: Duration,
    machine_idle: Duration,
}

/// CPU time used between two snapshots.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Usage {
    /// Wall clock.
    pub wall: Duration,
    /// User and system time of the proxy under test, with all its threads.
    pub proxy: Duration,
    /// The other relays.
    pub relays: Duration,
    /// The origin.
    pub origin: Duration,
    /// This program, which makes the load.
    pub generator: Duration,
    /// The whole machine: what its cores were neither idle nor without a host's CPU.
    pub machine: Duration,
}

impl Snapshot {
    /// Reads all clocks.
    pub fn take(cast: &Cast) -> Result<Snapshot> {
        let sum = |pids: &[i32]| pids.iter().map(|pid| process(*pid)).sum::<Result<Duration>>();
        Ok(Snapshot {
            at: Instant::now(),
            proxy: process(cast.proxy)?,
            relays: sum(&cast.relays)?,
            origin: sum(&cast.origin)?,
            generator: process(i32::try_from(std::process::id())?)?,
            machine_idle: idle(&fs::read_to_string("/proc/stat")?)?,
        })
    }

    /// What was used since `earlier`, on a machine of `cores`.
    pub fn since(&self, earlier: &Snapshot, cores: usize) -> Usage {
        let wall = self.at - earlier.at;
        let idle = self.machine_idle.saturating_sub(earlier.machine_idle);
        Usage {
            wall,
            proxy: self.proxy.saturating_sub(earlier.proxy),
            relays: self.relays.saturating_sub(earlier.relays),
            origin: self.origin.saturating_sub(earlier.origin),
            generator: self.generator.saturating_sub(earlier.generator),
            machine: (wall * u32::try_from(cores).unwrap_or(u32::MAX)).saturating_sub(idle),
        }
    }
}

impl Usage {
    /// The share of the whole machine, 0 to 1, that no process of the bench accounts for: other
    /// people's work, and kernel threads that worked for the bench.
    pub fn foreign(&self, cores: usize) -> f64 {
        let own = self.proxy + self.relays + self.origin + self.generator;
        let capacity = self.wall.as_secs_f64() * cores as f64;
        self.machine.saturating_sub(own).as_secs_f64() / capacity
    }
}

/// Pins every thread of the process `pid` to `core`.
pub fn pin(pid: i32, core: usize) -> Result<()> {
    for thread in threads(pid)? {
        let thread = Pid::from_raw(thread).context("a thread's id is positive")?;
        sched_setaffinity(Some(thread), &only(core))
            .with_context(|| format!("cannot pin process {pid} to core {core}"))?;
    }
    Ok(())
}

/// Pins the calling thread, and all that it starts from now on, to `core`.
pub fn pin_self(core: usize) -> Result<()> {
    Ok(sched_setaffinity(None, &only(core))?)
}

/// The process `pid` and everything that it started.
pub fn tree(pid: i32) -> Result<Vec<i32>> {
    let mut found = vec![pid];
    for thread in threads(pid)? {
        let path = PathBuf::from(format!("/proc/{pid}/task/{thread}/children"));
        let children = match fs::read_to_string(&path) {
            // The thread has ended since it was listed; its children are another thread's now.
            Err(_) if !path.exists() => continue,
            children => children?,
        };
        for child in children.split_whitespace() {
            found.extend(tree(child.parse()?)?);
        }
    }
    Ok(found)
}

/// Cores of the machine; an error unless the proxy can have one for itself.
pub fn cores() -> Result<usize> {
    // Not available_parallelism: that counts the cores of the calling thread.
    let text = fs::read_to_string("/proc/stat")?;
    let cores = text.lines().filter(|line| line.starts_with("cpu")).count() - 1;
    ensure!(cores > REST_CORE, "the bench needs {} cores", REST_CORE + 1);
    Ok(cores)
}

fn only(core: usize) -> CpuSet {
    let mut set = CpuSet::new();
    set.set(core);
    set
}

fn threads(pid: i32) -> Result<Vec<i32>> {
    let entries = fs::read_dir(format!("/proc/{pid}/task"))
        .with_context(|| format!("process {pid} is gone"))?;
    entries.map(|entry| Ok(entry?.file_name().to_string_lossy().parse()?)).collect()
}

/// User and system time of a process with all its threads, also of those that ended
/// (proc_pid_stat(5), fields 14 and 15 counted from 1): in steps of 10 ms, so that a window should
/// hold some tenths of a second of it.
fn process(pid: i32) -> Result<Duration> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat"))
        .with_context(|| format!("process {pid} is gone"))?;
    let fields = text.rsplit_once(')').context("stat has a name")?.1;
    let times: Vec<u64> =
        fields.split_whitespace().skip(11).take(2).map(str::parse).collect::<Result<_, _>>()?;
    Ok(ticks(times.iter().sum()))
}

/// The first line of proc_stat(5): user, nice, system, idle, iowait, irq, softirq, steal. The busy
/// ones are sampled by the clock tick, which lies about work that begins with a timer; idle time is
/// measured. Stolen time is nobody's work on this machine.
fn idle(text: &str) -> Result<Duration> {
    let line = text.lines().next().context("empty /proc/stat")?;
    let times: Vec<u64> =
        line.split_whitespace().skip(1).map(str::parse).collect::<Result<_, _>>()?;
    ensure!(times.len() >= 8, "unknown /proc/stat: {line}");
    Ok(ticks(times[3] + times[4] + times[7]))
}

fn ticks(count: u64) -> Duration {
    Duration::from_millis(count * 1000 / TICKS_PER_S)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waiting_and_stolen_time_is_no_work() {
        let idle = idle("cpu  1000 1000 1000 1 2 1000 1000 4 0 0\ncpu0 0\n").unwrap();
        assert_eq!(idle, Duration::from_millis(70));
    }

    #[test]
    fn own_work_is_counted() {
        let pid = i32::try_from(std::process::id()).unwrap();
        let before = process(pid).unwrap();
        let begin = Instant::now();
        while process(pid).unwrap() == before {
            assert!(begin.elapsed() < Duration::from_secs(60));
        }
        assert!(tree(pid).unwrap().contains(&pid));
    }

    #[test]
    fn what_nobody_accounts_for_is_foreign() {
        let [second, none] = [1, 0].map(Duration::from_secs);
        let usage = Usage {
            wall: second,
            proxy: second / 4,
            relays: none,
            origin: second / 4,
            generator: second / 4,
            machine: second,
        };
        assert!((usage.foreign(2) - 0.125).abs() < 1e-9);
    }
}
