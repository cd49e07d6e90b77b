//! A drain under many live connections, which nobody's retransmission timer notices: the new owner
//! starts where the old one stopped. `cargo xtask e2e --flows N` asks for another number of them.

use std::env;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, ensure};
use e2e::kernel::Peers;
use e2e::plan::{CLIENT_NS, vip};
use e2e::{Fixture, Options, TAKEOVER_LIMIT, origin, wait_for};
use xtask::bench::client::{Client, Tls};
use xtask::shell::inside;

/// How many, unless the environment asks for something else.
const FLOWS: usize = 1000;

/// Between two requests on one connection: two thousand in a second over all.
const INTERVAL: Duration = Duration::from_millis(500);

/// What is asked for.
const FILE: &str = "1k.bin";

/// How long the connections are watched before the drain, and behind it.
const BEFORE: Duration = Duration::from_secs(2);
const BEHIND: Duration = Duration::from_secs(3);

/// A probe for so many connections at most: what another program on the machine may cause.
const PROBES_PER: u64 = 500;

/// Owners that are drained at most until nobody notices.
const ATTEMPTS: u32 = 3;

/// A thread of a client needs little.
const STACK: usize = 256 << 10;

fn flows() -> usize {
    let asked = env::var(xtask::suite::FLOWS_VARIABLE).ok();
    asked.and_then(|flows| flows.parse().ok()).unwrap_or(FLOWS)
}

/// When the drain began; answers that come later tell of it.
struct Stage {
    drains: AtomicBool,
    ends: AtomicBool,
}

/// The longest wait for an answer before the drain, and since.
#[derive(Default)]
struct Waits {
    before: Duration,
    since: Duration,
}

/// Asks at its own beat, so that all together ask all the time.
fn talk(mut client: Client, beat: Duration, stage: &Stage) -> Result<Waits> {
    let expected = std::fs::read(origin::root().join(FILE))?;
    let mut waits = Waits::default();
    thread::sleep(beat);
    while !stage.ends.load(Relaxed) {
        let asked = Instant::now();
        ensure!(client.fetch(FILE)? == expected, "a wrong answer");
        let longest = match stage.drains.load(Relaxed) {
            true => &mut waits.since,
            false => &mut waits.before,
        };
        *longest = asked.elapsed().max(*longest);
        thread::sleep(INTERVAL.saturating_sub(asked.elapsed()));
    }
    client.close()?;
    Ok(waits)
}

fn connect(count: usize) -> Result<Vec<Client>> {
    let connect = || {
        let tls = Tls::new(vip(false))?;
        (0..count).map(|_| tls.connect().and_then(|mut one| one.warm_up().map(|()| one))).collect()
    };
    inside(CLIENT_NS, connect).context("connections before the drain")
}

fn drain(lab: &Fixture, stage: &Stage) -> Result<()> {
    let begin = Peers::now()?;
    thread::sleep(BEFORE);
    let before = Peers::now()?;
    println!("kernels of the peers before the drain: {:?}", before.since(&begin));
    let owner = lab.owner(None)?;
    stage.drains.store(true, Relaxed);
    let said = lab.ask(&owner, &["drain", owner.trim_start_matches("relay-")])?;
    println!("{said}");
    ensure!(said.contains("carries nothing"), "{said}");
    wait_for("handover", TAKEOVER_LIMIT, || lab.owner(Some(&owner)))?;
    thread::sleep(BEHIND);
    let since = Peers::now()?.since(&before);
    println!("kernels of the peers since the drain: {since:?}");
    since.ensure_no_timeouts()?;
    // A client that has sent one segment waits for its probe as long as for a timeout: 200 ms.
    let probes = since.client_probes();
    ensure!(probes * PROBES_PER <= flows() as u64, "{probes} clients had to probe");
    Ok(())
}

/// Drains the owner. On a machine that stood still for a fifth of a second timers run out anyway: then the
/// next owner is drained. What a handover loses, it loses every time.
fn drain_until_quiet(lab: &Fixture, stage: &Stage) -> Result<()> {
    for attempt in 1.. {
        let owner = lab.owner(None)?;
        match drain(lab, stage) {
            Err(error) if attempt < ATTEMPTS => println!("attempt {attempt}: {error:#}"),
            result => return result,
        }
        lab.ask(&owner, &["undrain", owner.trim_start_matches("relay-")])?;
        lab.await_backup(&owner)?;
    }
    Ok(())
}

fn show(name: &str, mut waits: Vec<Duration>) {
    waits.sort();
    let at = |percent: usize| waits[(waits.len() * percent).div_ceil(100).max(1) - 1];
    println!(
        "longest wait of each connection {name}: p50 {:.1?}, p90 {:.1?}, p99 {:.1?}, max {:.1?}",
        at(50),
        at(90),
        at(99),
        at(100)
    );
}

#[test]
fn a_handover_makes_nobodys_timer_run_out() {
    let options = Options { relays: 3, witnesses: 1, ..Options::default() };
    let lab = Fixture::up(&options).unwrap();
    let clients = connect(flows()).unwrap();
    let stage = Stage { drains: AtomicBool::new(false), ends: AtomicBool::new(false) };
    let count = u32::try_from(clients.len()).unwrap();
    let (drained, waits) = thread::scope(|scope| {
        let stage = &stage;
        let talkers: Vec<_> = (0..count)
            .zip(clients)
            .map(|(index, client)| {
                let talk = move || talk(client, INTERVAL * index / count, stage);
                thread::Builder::new().stack_size(STACK).spawn_scoped(scope, talk).unwrap()
            })
            .collect();
        let drained = drain_until_quiet(&lab, stage);
        stage.ends.store(true, Relaxed);
        let ended = talkers.into_iter().map(|talker| talker.join());
        let waits = ended.map(|ended| ended.unwrap_or_else(|_| Err(anyhow!("a client panicked"))));
        (drained, waits.collect::<Result<Vec<Waits>>>())
    });
    let waits = waits.unwrap();
    show("before", waits.iter().map(|waits| waits.before).collect());
    show("since the drain", waits.iter().map(|waits| waits.since).collect());
    drained.unwrap();
}
