//! Relays with several workers: connections are spread over them, frames reach the worker that they
//! belong to whichever queue they come to, and nothing else is different.

use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use anyhow::{Context, Result, ensure};
use e2e::client::Client;
use e2e::conversation::{Conversation, Flowing};
use e2e::counters::counters;
use e2e::crowd::Crowd;
use e2e::{Fixture, HANG_THREAD, How, Options, SYNC_LIMIT, wait_for};
use xtask::lab::serving;

/// What each conversation does in turn.
const STREAMS: [Flowing; 3] = [Flowing::Down, Flowing::Up, Flowing::Both];

fn lab(workers: u8, queues: u8) -> Fixture {
    let units = 4 * workers;
    let options = Options { relays: 3, witnesses: 1, units, workers, queues, ..Options::default() };
    Fixture::up(&options).unwrap()
}

fn await_shares(lab: &Fixture, relays: &[String]) {
    wait_for("equal shares", SYNC_LIMIT, || serving::shares(lab, relays)).unwrap();
}

fn strays(lab: &Fixture) -> Result<(u64, u64)> {
    let mut sums = (0, 0);
    for name in lab.relays() {
        let counters = counters(lab, &name)?;
        let of = |counter: &str| counters.get(&format!("worker/{counter}")).copied().unwrap_or(0);
        sums = (sums.0 + of("strays"), sums.1 + of("strays_lost"));
    }
    Ok(sums)
}

/// So many conversations, over both families and both versions of TLS.
fn converse(lab: &Fixture, count: usize) -> Vec<Conversation> {
    let listener = lab.backend_listener().unwrap();
    let begin = |n: usize| {
        let version = if n.is_multiple_of(3) { "1.2" } else { "1.3" };
        let client = Client::raw(lab, n % 2 == 1, version).unwrap();
        Conversation::accept(&listener, client).unwrap()
    };
    (0..count).map(begin).collect()
}

/// Streams on all conversations, and `during` happens in the midst of all of them.
fn stream(talks: &mut [Conversation], during: &mut dyn FnMut() -> Result<()>) -> Result<()> {
    let index = talks.len();
    let Some((talk, others)) = talks.split_first_mut() else { return during() };
    talk.stream(STREAMS[index % STREAMS.len()], || stream(others, during))
}

/// A thread that does not run.
struct Hung(Child);

impl Hung {
    fn thread(lab: &Fixture, relay: &str, name: &str) -> Result<Hung> {
        let description = lab.description();
        let relay = description.relays.iter().find(|one| one.name == relay).context("no relay")?;
        let threads = std::fs::read_dir(format!("/proc/{}/task", relay.pid))?;
        let mut threads = threads.filter_map(|task| task.ok().map(|task| task.path()));
        let is_it = |path: &PathBuf| {
            std::fs::read_to_string(path.join("comm")).is_ok_and(|comm| comm.trim() == name)
        };
        let thread = threads.find(is_it).context("no such thread")?;
        let mut command = Command::new("python3");
        command.args(["-c", HANG_THREAD]).arg(thread.file_name().context("a directory")?);
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
        let mut said = String::new();
        BufReader::new(child.stdout.take().context("piped")?).read_line(&mut said)?;
        let hung = Hung(child);
        ensure!(said == "hangs\n", "{said}");
        Ok(hung)
    }
}

impl Drop for Hung {
    fn drop(&mut self) {
        drop(self.0.stdin.take());
        let _ = self.0.wait();
    }
}

/// CPU time of the threads of a relay that carry traffic, in nanoseconds.
fn cpu_of_workers(pid: i32, workers: u8) -> Result<Vec<(String, u64)>> {
    let mut all = Vec::new();
    for task in std::fs::read_dir(format!("/proc/{pid}/task"))? {
        let path = task?.path();
        let name = std::fs::read_to_string(path.join("comm"))?.trim().to_owned();
        let schedstat = std::fs::read_to_string(path.join("schedstat"))?;
        let nanos = schedstat.split(' ').next().unwrap_or_default().parse()?;
        if name.starts_with("worker-") || path.ends_with(pid.to_string()) {
            all.push((name, nanos));
        }
    }
    ensure!(all.len() == usize::from(workers), "{all:?}");
    Ok(all)
}

fn survives(workers: u8, queues: u8) {
    let mut lab = lab(workers, queues);
    let all: Vec<String> = lab.relays().collect();
    await_shares(&lab, &all);
    let mut talks = converse(&lab, 8);
    for (lost, how) in [(&all[0], How::Sigkill), (&all[1], How::Powercut)] {
        let crowd = Crowd::start(&lab).unwrap();
        stream(&mut talks, &mut || lab.kill(lost, how)).unwrap();
        println!("{lost} is lost by {how:?}: {:?}", crowd.wait().unwrap());
        let left: Vec<String> = all.iter().filter(|name| *name != lost).cloned().collect();
        await_shares(&lab, &left);
        lab.start(lost).unwrap();
        await_shares(&lab, &all);
        stream(&mut talks, &mut || Ok(())).unwrap();
    }
    for relay in &lab.description().relays {
        println!("{}: {:?}", relay.name, cpu_of_workers(relay.pid, workers).unwrap());
    }
    let (crossed, lost) = strays(&lab).unwrap();
    println!("{crossed} frames crossed over between workers, {lost} were lost on the way");
    assert!(crossed > 1000, "a queue has the flows of all workers");
    for talk in talks {
        talk.end().unwrap();
    }
}

/// A planned end, which all workers leave together, in the midst of streams.
#[test]
fn a_relay_with_several_units_ends_unnoticed() {
    let mut lab = lab(2, 2);
    let all: Vec<String> = lab.relays().collect();
    await_shares(&lab, &all);
    let mut talks = converse(&lab, 8);
    // Whoever is left has just come back from a loss.
    for (lost, how) in [(&all[0], How::Sigkill), (&all[1], How::Powercut)] {
        stream(&mut talks, &mut || lab.kill(lost, how)).unwrap();
        await_shares(&lab, &all.iter().filter(|name| *name != lost).cloned().collect::<Vec<_>>());
        lab.start(lost).unwrap();
        await_shares(&lab, &all);
    }
    for relay in all.iter().rev() {
        stream(&mut talks, &mut || lab.terminate(relay)).unwrap();
        lab.start(relay).unwrap();
        await_shares(&lab, &all);
    }
    for talk in talks {
        talk.end().unwrap();
    }
}

/// Queues are dealt out: each worker has some, and one of them more than the other.
#[test]
fn two_workers_on_three_queues_carry_connections_as_one_does() {
    survives(2, 3);
}

#[test]
fn four_workers_carry_connections_as_one_does() {
    survives(4, 4);
}

/// One worker that hangs is a relay that hangs.
#[test]
fn a_worker_that_hangs_takes_its_relay_out() {
    let mut lab = lab(2, 2);
    let all: Vec<String> = lab.relays().collect();
    await_shares(&lab, &all);
    let mut talks = converse(&lab, 12);
    let hung = Hung::thread(&lab, &all[0], "worker-1").unwrap();
    await_shares(&lab, &all[1..]);
    for talk in &mut talks {
        talk.exchange().unwrap();
    }
    drop(hung);
    await_shares(&lab, &all);
    stream(&mut talks, &mut || lab.kill(&all[1], How::Sigkill)).unwrap();
    for talk in talks {
        talk.end().unwrap();
    }
}
