//! How fast our sender is, in virtual time: throughput over loss, rate and round-trip time.
//!
//! The tables are checked in beside this file, so that a change of speed is a difference in
//! review. `NETSIM_WRITE=1 cargo test -p relay-core netsim` writes them anew.

mod compare;
mod link;
mod receiver;

use core::fmt::Write;

use smoltcp::wire::{TcpControl, TcpSeqNumber, TcpTimestampRepr};

use super::{START, pattern, tuple};
use crate::frame::TcpRepr;
use crate::tcp::segment::blank;
use crate::tcp::{Accepted, Algorithm, Config, Connection, Timestamps};
use crate::time::{Duration, Instant};
use link::{Link, Loss, Path};
use receiver::{Ack, Data, Receiver};

const ISS: u32 = 1_000;
const IRS: u32 = 2_000;
/// Shift of the receiver's window, which limits nobody.
const SCALE: u8 = 14;
/// The buffers limit nobody either.
const BUFFER: usize = 48 << 20;
/// Runs with different losses, of which the mean is shown.
const SEEDS: u64 = 2;

/// One of our senders with its receiver, and what went over the path.
struct Flow {
    sender: Connection,
    receiver: Receiver,
    begins: Instant,
    /// End of what was sent.
    highest: u64,
    /// Bytes that were sent again.
    again: u64,
}

impl Flow {
    fn new(config: &Config, begins: Instant) -> Self {
        let accepted = Accepted {
            iss: ISS,
            irs: IRS,
            peer_mss: 1460,
            send_wscale: Some(SCALE),
            receive_wscale: 4,
            sack: true,
            timestamps: Some(Timestamps { recent: START.as_millis() as u32, offset: 0 }),
        };
        let sender = Connection::accept(config, tuple(0, false), &accepted, begins);
        let receiver = Receiver::new(START.as_millis() as u32);
        let mut flow = Flow { sender, receiver, begins, highest: 0, again: 0 };
        let echo = START.as_millis() as u32;
        flow.acknowledge(begins, &Ack { flow: 0, ack: 0, blocks: [None; 3], echo });
        flow.sender.set_send_limit(u64::MAX);
        flow
    }

    fn acknowledge(&mut self, now: Instant, ack: &Ack) {
        let wire = |offset: u64| ISS.wrapping_add(1).wrapping_add(offset as u32);
        let segment = TcpRepr {
            control: TcpControl::None,
            seq_number: TcpSeqNumber(IRS.wrapping_add(1) as i32),
            ack_number: Some(TcpSeqNumber(wire(ack.ack) as i32)),
            window_len: u16::MAX,
            sack_ranges: ack.blocks.map(|block| block.map(|(start, end)| (wire(start), wire(end)))),
            timestamp: Some(TcpTimestampRepr::new(now.as_millis() as u32, ack.echo)),
            ..blank()
        };
        self.sender.handle_segment(now, &segment).expect("an ACK");
    }

    /// Does what the relay does in a turn, with an application that never runs dry.
    fn poll(&mut self, now: Instant, data: &[u8], index: usize, link: &mut Link<Data>) {
        if now < self.begins {
            return;
        }
        if self.sender.poll_timeout().is_some_and(|at| at <= now) {
            self.sender.handle_timeout(now);
        }
        while self.sender.send_budget() > 0 {
            let count = self.sender.send_budget().min(data.len());
            self.sender.write(&data[..count]);
        }
        while let Some(segment) = self.sender.poll_transmit(now) {
            let start = u64::from(segment.seq_number.0.wrapping_sub(ISS as i32 + 1) as u32);
            let end = start + segment.payload.len() as u64;
            let stamp = segment.timestamp.expect("a timestamp").tsval;
            self.again += self.highest.min(end).saturating_sub(start);
            self.highest = self.highest.max(end);
            link.send(now, end - start, Data { flow: index, start, end, stamp });
        }
    }

    fn deadline(&self) -> Option<Instant> {
        let begins = (self.highest == 0).then_some(self.begins);
        let timer = self.sender.poll_timeout().or(begins).map(|at| at.max(self.begins));
        [timer, self.receiver.deadline()].into_iter().flatten().min()
    }
}

/// Flows over one bottleneck.
struct Network {
    now: Instant,
    flows: Vec<Flow>,
    forth: Link<Data>,
    back: Link<Ack>,
    data: Vec<u8>,
}

impl Network {
    fn new(path: Path, flows: Vec<Flow>, seed: u64) -> Self {
        let (forth, back) = (Link::new(path, START, seed), Link::new(path, START, seed));
        Network { now: START, flows, forth, back, data: pattern(0, 64 * 1024) }
    }

    fn received(&self) -> u64 {
        self.flows.iter().map(|flow| flow.receiver.arrived()).sum()
    }

    /// Runs until a time, or until that much has arrived.
    fn run(&mut self, until: Instant, bytes: u64) {
        while self.now < until && self.received() < bytes {
            for (i, flow) in self.flows.iter_mut().enumerate() {
                flow.poll(self.now, &self.data, i, &mut self.forth);
            }
            let timers = self.flows.iter().filter_map(Flow::deadline).min();
            let events = [timers, self.forth.next_arrival(), self.back.next_arrival()];
            let next = events.into_iter().flatten().min().expect("something happens");
            self.now = self.now.max(next);
            self.deliver();
        }
    }

    fn deliver(&mut self) {
        let now = self.now;
        while let Some(data) = self.forth.receive(now) {
            if let Some(ack) = self.flows[data.flow].receiver.take(now, &data) {
                self.back.send_back(now, ack);
            }
        }
        for (i, flow) in self.flows.iter_mut().enumerate() {
            if let Some(ack) = flow.receiver.on_timeout(now, i) {
                self.back.send_back(now, ack);
            }
        }
        while let Some(ack) = self.back.receive(now) {
            self.flows[ack.flow].acknowledge(now, &ack);
        }
    }
}

/// Goodput in kbit/s and the share of what was sent again in 1/1000, after the first quarter.
fn measure(config: &Config, path: Path, seed: u64) -> (u64, u64) {
    let mut network = Network::new(path, vec![Flow::new(config, START)], seed);
    let time = Duration::from_secs(if path.rate > 100 { 6 } else { 10 });
    let bdp = path.rate * path.rtt.as_micros() as u64 / 8;
    let most = (path.rate.clamp(120, 240) * 100_000).max(bdp * 5);
    let bytes = (bdp * 64).clamp(4_000_000, most);
    network.run(START + time / 4, bytes / 4);
    let (from, before) = (network.now, network.received());
    let again = network.flows[0].again;
    network.run(START + time, bytes);
    let received = network.received() - before;
    let elapsed = network.now.since(from).as_micros() as u64;
    let again = network.flows[0].again - again;
    (received * 8_000 / elapsed.max(1), again * 1000 / received.max(1))
}

/// Less is measured of the algorithm that random losses do not slow down.
fn columns(algorithm: Algorithm) -> Vec<(&'static str, Loss)> {
    let all = [
        ("none", Loss::Random(0)),
        ("0.1 %", Loss::Random(100)),
        ("0.5 %", Loss::Random(500)),
        ("1 %", Loss::Random(1_000)),
        ("2 %", Loss::Random(2_000)),
        ("0.1 % bursts", Loss::Burst(100)),
        ("0.5 % bursts", Loss::Burst(500)),
        ("1 % bursts", Loss::Burst(1_000)),
        ("2 % bursts", Loss::Burst(2_000)),
        ("1 % late", Loss::Reorder(1_000)),
    ];
    let few = |name: &str| !name.starts_with("0.");
    all.into_iter().filter(|(name, _)| algorithm == Algorithm::Cubic || few(name)).collect()
}

fn table(algorithm: Algorithm) -> String {
    let columns = columns(algorithm);
    let config = &config(algorithm);
    let mut text = String::from("Mbit/s (sent again, %)\n  rate  rtt queue");
    for (name, _) in &columns {
        write!(text, " {name:>14}").expect("a string");
    }
    text.push('\n');
    for (rate, rtt) in [(100, 1), (100, 20), (100, 100), (1000, 1), (1000, 20), (1000, 100)] {
        for queue in [100, 25] {
            let queue_bdp = format!("{}.{:02}", queue / 100, queue % 100);
            write!(text, "{rate:>6} {rtt:>4} {queue_bdp:>5}").expect("a string");
            for &(_, loss) in &columns {
                let path = Path { rate, rtt: Duration::from_millis(rtt), queue, loss };
                let once = loss == Loss::Random(0) || algorithm == Algorithm::Bbr;
                let seeds = if once { 1 } else { SEEDS };
                let all: Vec<_> = (1..=seeds).map(|seed| measure(config, path, seed)).collect();
                let speed = all.iter().map(|(speed, _)| speed).sum::<u64>() / seeds / 100;
                let again = all.iter().map(|(_, again)| again).sum::<u64>() / seeds;
                let cell = format!("{}.{} ({}.{})", speed / 10, speed % 10, again / 10, again % 10);
                write!(text, " {cell:>14}").expect("a string");
            }
            text.push('\n');
        }
    }
    text
}

/// Compares with what is checked in, or writes it.
fn compare(name: &str, now: &str, before: &str) {
    if std::env::var_os("NETSIM_WRITE").is_some() {
        let directory = concat!(env!("CARGO_MANIFEST_DIR"), "/src/tcp/tests/netsim/");
        std::fs::write(format!("{directory}{name}"), now).expect("a file that can be written");
        return;
    }
    assert!(now == before, "the table changed: look at it, then NETSIM_WRITE=1 writes it\n{now}");
}

fn config(congestion: Algorithm) -> Config {
    let send_buffer = BUFFER;
    Config { mss: 1460, receive_buffer: 1 << 16, send_buffer, congestion, ..Config::default() }
}

#[test]
fn throughput_of_cubic() {
    compare("cubic.txt", &table(Algorithm::Cubic), include_str!("cubic.txt"));
}

#[test]
fn throughput_of_bbr() {
    compare("bbr.txt", &table(Algorithm::Bbr), include_str!("bbr.txt"));
}

/// What each of two flows delivers in ten seconds, after the second has had five to find its share.
fn shares(algorithms: [Algorithm; 2]) -> [u64; 2] {
    let rtt = Duration::from_millis(20);
    let path = Path { rate: 100, rtt, queue: 100, loss: Loss::Random(0) };
    let flow = |i: usize| Flow::new(&config(algorithms[i]), START + Duration::from_secs(i as u64));
    let mut network = Network::new(path, vec![flow(0), flow(1)], 1);
    network.run(START + Duration::from_secs(6), u64::MAX);
    let arrived = |network: &Network| [0, 1].map(|i| network.flows[i].receiver.arrived());
    let before = arrived(&network);
    network.run(START + Duration::from_secs(16), u64::MAX);
    let after = arrived(&network);
    [after[0] - before[0], after[1] - before[1]]
}

/// Jain's index in percent.
fn jain([a, b]: [u64; 2]) -> u64 {
    let (a, b) = (u128::from(a), u128::from(b));
    ((a + b).pow(2) * 100 / (2 * (a * a + b * b))) as u64
}

#[test]
fn two_flows_share_a_bottleneck_fairly() {
    for algorithm in [Algorithm::Cubic, Algorithm::Bbr] {
        let shares = shares([algorithm; 2]);
        assert!(jain(shares) >= 90, "{algorithm:?}: {shares:?}");
        assert!(shares[0] + shares[1] > 110_000_000, "{algorithm:?}: {shares:?}");
    }
}

#[test]
fn neither_algorithm_starves_the_other() {
    let shares = shares([Algorithm::Cubic, Algorithm::Bbr]);
    assert!(shares.iter().all(|share| *share > 20_000_000), "{shares:?}");
}
