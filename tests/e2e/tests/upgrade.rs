//! `relay-ctl upgrade` restarts three relays and a witness under forty connections, and all of them
//! go on.

use std::fs;
use std::process::{Child, Stdio};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, ensure};
use e2e::client::Client;
use e2e::conversation::{Conversation, Flowing};
use e2e::counters::relay_ctl;
use e2e::kernel::Peers;
use e2e::plan::{CLIENT_NS, relay_name, state_file, vip, witness_host, witness_name};
use e2e::{Fixture, Options, origin};
use xtask::bench::client::{self, Tls};
use xtask::shell::inside;

/// Connections that ask small questions all the time.
const CHATS: u32 = 30;
const INTERVAL: Duration = Duration::from_millis(300);
const FILE: &str = "1k.bin";

/// What the others do, each over TLS 1.3 and 1.2: ten of them.
const STREAMS: [Flowing; 5] =
    [Flowing::Down, Flowing::Up, Flowing::Both, Flowing::Down, Flowing::Up];

/// How long all of it may take.
const LIMIT: Duration = Duration::from_secs(300);

/// Says whose turn it is, and waits until the test has restarted that node.
const HOOK: &str = "rm -f done; echo $RELAY_NODE > asked.new; mv asked.new asked; \
                    for i in $(seq 1200); do test -e done && exit; sleep 0.1; done; exit 1";

/// Asks until it is told to end; how often it did.
fn chat(mut client: client::Client, beat: Duration, ends: &AtomicBool) -> Result<u32> {
    let expected = fs::read(origin::root().join(FILE))?;
    let mut answers = 0;
    thread::sleep(beat);
    while !ends.load(Relaxed) {
        let asked = Instant::now();
        ensure!(client.fetch(FILE)? == expected, "a wrong answer");
        answers += 1;
        thread::sleep(INTERVAL.saturating_sub(asked.elapsed()));
    }
    client.close()?;
    Ok(answers)
}

/// Streams on all connections, and `during` happens in the midst of all of them.
fn stream(talks: &mut [Conversation], during: &mut dyn FnMut() -> Result<()>) -> Result<()> {
    let index = talks.len();
    let Some((talk, others)) = talks.split_first_mut() else { return during() };
    talk.stream(STREAMS[index % STREAMS.len()], || stream(others, during))
}

/// The upgrade as an operator starts it; this process is who restarts nodes.
fn upgrade(lab: &mut Fixture) -> Result<()> {
    let directory = state_file("hooks");
    fs::create_dir_all(&directory)?;
    let before = Peers::now()?;
    let pids = pids(lab);
    let mut command = relay_ctl(lab, &relay_name(1))?;
    command.args(["upgrade", "--hook", HOOK]).current_dir(&directory).stdout(Stdio::piped());
    let mut child = command.spawn()?;
    let served = serve_hooks(lab, &mut child);
    if served.is_err() {
        child.kill()?;
    }
    let output = child.wait_with_output()?;
    let said = String::from_utf8(output.stdout)?;
    println!("{said}kernels of the peers since: {:?}", Peers::now()?.since(&before));
    ensure!(output.status.success(), "the upgrade ended with {}", output.status);
    let nodes: Vec<&str> = said.lines().filter_map(|line| line.split(':').next()).collect();
    let witness = format!("node {} (witness)", witness_host(1));
    ensure!(nodes == [&witness, "node 2 (relay)", "node 3 (relay)", "node 1 (relay)"], "{said}");
    ensure!(self::pids(lab).iter().zip(&pids).all(|(now, then)| now != then), "the same process");
    served
}

fn serve_hooks(lab: &mut Fixture, child: &mut Child) -> Result<()> {
    let (asked, done) = (state_file("hooks/asked"), state_file("hooks/done"));
    let deadline = Instant::now() + LIMIT;
    while child.try_wait()?.is_none() {
        ensure!(Instant::now() < deadline, "the upgrade does not end");
        if let Ok(node) = fs::read_to_string(&asked) {
            fs::remove_file(&asked)?;
            let id: u8 = node.trim().parse().context("the hook says a node")?;
            let name = if id == witness_host(1) { witness_name(1) } else { relay_name(id) };
            let since = Instant::now();
            lab.terminate(&name)?;
            let ended = since.elapsed();
            lab.start(&name)?;
            println!("{name} ended within {ended:.1?} and answered after {:.1?}", since.elapsed());
            fs::write(&done, "")?;
        }
        thread::sleep(Duration::from_millis(20));
    }
    Ok(())
}

fn pids(lab: &Fixture) -> Vec<i32> {
    lab.description().relays.iter().map(|relay| relay.pid).collect()
}

#[test]
fn an_upgrade_of_every_node_drops_nothing() {
    let options = Options { relays: 3, witnesses: 1, ..Options::default() };
    let mut lab = Fixture::up(&options).unwrap();
    // One relay is a backup more than lab.up() waits for.
    for relay in lab.relays().filter(|name| *name != lab.owner(None).unwrap()) {
        lab.await_backup(&relay).unwrap();
    }
    let listener = lab.backend_listener().unwrap();
    let mut talks = Vec::new();
    for version in ["1.3", "1.2"] {
        for _ in STREAMS {
            let seconds = LIMIT.as_secs() as usize;
            let client = Client::patient(&lab, version, seconds).unwrap();
            talks.push(Conversation::accept(&listener, client).unwrap());
        }
    }
    let tls = Tls::new(vip(false)).unwrap();
    let connect = || (0..CHATS).map(|_| tls.connect()).collect::<Result<Vec<_>>>();
    let chats = inside(CLIENT_NS, connect).unwrap();
    let ends = AtomicBool::new(false);
    let (upgraded, answers) = thread::scope(|scope| {
        let ends = &ends;
        let talk = |(index, client)| {
            let beat = INTERVAL * index / CHATS;
            scope.spawn(move || chat(client, beat, ends))
        };
        let chats: Vec<_> = (0..CHATS).zip(chats).map(talk).collect();
        let upgraded = stream(&mut talks, &mut || upgrade(&mut lab));
        ends.store(true, Relaxed);
        let ended = chats.into_iter().map(|chat| chat.join());
        let answers = ended.map(|ended| ended.unwrap_or_else(|_| Err(anyhow!("a chat panicked"))));
        (upgraded, answers.collect::<Result<Vec<u32>>>())
    });
    upgraded.unwrap();
    let answers = answers.unwrap();
    println!("answers of {} chats: {}", answers.len(), answers.iter().sum::<u32>());
    assert!(answers.iter().all(|count| *count > 0));
    talks.into_iter().try_for_each(Conversation::end).unwrap();
}
