//! Two hosts and a network in virtual time.
//!
//! Everything crosses as Ethernet frames, so that the frame layer is tested along. The network is
//! seeded: it loses, doubles and delays, and the same seed gives the same run.

mod complaints;
mod cookies;
mod host;
mod lag;
mod netsim;
mod overlaps;
mod recovery;
mod rules;
mod smoltcp_peer;
mod takeover;
mod transfer;

use std::collections::BTreeMap;

use crate::frame::{EthernetAddress, IpAddress, IpEndpoint, TcpRepr, Tuple};
use crate::tcp::Config;
use crate::time::{Duration, Instant};

pub(super) use host::Host;

/// Where virtual time begins: no clock is at zero, and the timestamps wrap within the tests.
pub(super) const START: Instant = Instant::from_millis((1 << 32) - 2_000);
/// A run that lasts for longer (in virtual time) is stuck.
const PATIENCE: Duration = Duration::from_secs(3600);

pub(super) const MACS: [EthernetAddress; 2] =
    [EthernetAddress([2, 0, 0, 0, 0, 1]), EthernetAddress([2, 0, 0, 0, 0, 2])];

/// What the tests put on either side of the network.
pub(super) trait Peer {
    fn receive(&mut self, now: Instant, frame: &[u8]);
    /// Does what is due and appends the frames that leave.
    fn poll(&mut self, now: Instant, out: &mut Vec<Vec<u8>>);
    fn deadline(&self) -> Option<Instant>;
    /// Nothing more is expected to happen.
    fn is_done(&self) -> bool;
}

/// A xorshift generator.
pub(super) struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Self {
        Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    pub fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 16) % bound
    }
}

/// What the network does to frames; chances are in thousandths.
#[derive(Clone, Copy)]
pub(super) struct Weather {
    pub delay: Duration,
    /// Frames take up to so much longer, so they overtake each other.
    pub jitter: Duration,
    pub loss: u64,
    pub duplication: u64,
}

pub(super) const CALM: Weather =
    Weather { delay: Duration::from_millis(5), jitter: Duration::ZERO, loss: 0, duplication: 0 };

/// Two peers and the frames between them.
pub(super) struct Network<A, B> {
    pub a: A,
    pub b: B,
    pub now: Instant,
    pub weather: Weather,
    pub frames: u64,
    random: Random,
    flying: BTreeMap<(Instant, u64), (usize, Vec<u8>)>,
}

impl<A: Peer, B: Peer> Network<A, B> {
    pub fn new(a: A, b: B, weather: Weather, seed: u64) -> Self {
        let random = Random::new(seed);
        Network { a, b, now: START, weather, frames: 0, random, flying: BTreeMap::new() }
    }

    /// Runs until both are done.
    pub fn run(&mut self) {
        let end = self.now + PATIENCE;
        while !(self.a.is_done() && self.b.is_done()) {
            let goes_on = self.step() || (self.a.is_done() && self.b.is_done());
            assert!(goes_on && self.now < end, "stuck at {:?}", self.now.since(START));
        }
    }

    /// Runs while `condition` does not hold.
    pub fn run_until(&mut self, mut condition: impl FnMut(&mut A, &mut B) -> bool) {
        let end = self.now + PATIENCE;
        while !condition(&mut self.a, &mut self.b) {
            let goes_on = self.step() || condition(&mut self.a, &mut self.b);
            assert!(goes_on && self.now < end, "stuck at {:?}", self.now.since(START));
        }
    }

    /// Runs for a while; silence is fine.
    pub fn run_for(&mut self, time: Duration) {
        let end = self.now + time;
        loop {
            self.poll();
            match self.next_event() {
                Some(at) if at <= end => self.now = self.now.max(at),
                _ => break,
            }
            self.deliver();
        }
        self.now = end;
    }

    /// Loses everything that is under way.
    pub fn lose_flying(&mut self) {
        self.flying.clear();
    }

    /// Advances to the next event; false when there is none.
    fn step(&mut self) -> bool {
        self.poll();
        let Some(at) = self.next_event() else { return false };
        self.now = self.now.max(at);
        self.deliver();
        true
    }

    fn next_event(&self) -> Option<Instant> {
        let flying = self.flying.keys().next().map(|(at, _)| *at);
        [flying, self.a.deadline(), self.b.deadline()].into_iter().flatten().min()
    }

    fn deliver(&mut self) {
        while let Some(entry) = self.flying.first_entry() {
            if entry.key().0 > self.now {
                break;
            }
            let (to, frame) = entry.remove();
            if to == 0 {
                self.a.receive(self.now, &frame)
            } else {
                self.b.receive(self.now, &frame)
            }
        }
    }

    fn poll(&mut self) {
        let mut out = Vec::new();
        self.a.poll(self.now, &mut out);
        let from_a = out.len();
        self.b.poll(self.now, &mut out);
        for (i, frame) in out.into_iter().enumerate() {
            self.launch(usize::from(i < from_a), frame);
        }
    }

    fn launch(&mut self, to: usize, frame: Vec<u8>) {
        let Weather { delay, jitter, loss, duplication } = self.weather;
        if self.random.below(1000) < loss {
            return;
        }
        let copies = 1 + u64::from(self.random.below(1000) < duplication);
        for _ in 0..copies {
            let extra = self.random.below(jitter.as_nanos() as u64 + 1);
            self.frames += 1;
            let at = self.now + delay + Duration::from_nanos(extra);
            self.flying.insert((at, self.frames), (to, frame.clone()));
        }
    }
}

/// The ends of a connection as `side` sees them; side 0 listens on port 443.
pub(super) fn tuple(side: usize, v6: bool) -> Tuple {
    let end = |side: usize| {
        let port = [443, 50_000][side];
        let last = side as u8 + 1;
        let address = if v6 {
            IpAddress::v6(0xfd99, 0, 0, 0, 0, 0, 0, u16::from(last))
        } else {
            IpAddress::v4(10, 99, 0, last)
        };
        IpEndpoint::new(address, port)
    };
    Tuple { local: end(side), remote: end(1 - side) }
}

/// Bytes that tell their own position.
pub(super) fn pattern(from: u64, length: usize) -> Vec<u8> {
    (from..from + length as u64).map(|i| (i ^ i >> 8 ^ i >> 16) as u8).collect()
}

pub(super) fn small_config() -> Config {
    Config { mss: 1460, receive_buffer: 100_000, send_buffer: 70_000, ..Config::default() }
}

/// A segment with its own copy of the payload.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Owned {
    header: TcpRepr<'static>,
    payload: Vec<u8>,
}

impl Owned {
    pub fn new(segment: &TcpRepr) -> Self {
        // Field by field, since the rest of a struct keeps the lifetime of its payload.
        let header = TcpRepr {
            src_port: segment.src_port,
            dst_port: segment.dst_port,
            control: segment.control,
            seq_number: segment.seq_number,
            ack_number: segment.ack_number,
            window_len: segment.window_len,
            window_scale: segment.window_scale,
            max_seg_size: segment.max_seg_size,
            sack_permitted: segment.sack_permitted,
            sack_ranges: segment.sack_ranges,
            timestamp: segment.timestamp,
            payload: &[],
        };
        Owned { header, payload: segment.payload.to_vec() }
    }

    pub fn get(&self) -> TcpRepr<'_> {
        TcpRepr { payload: &self.payload, ..self.header }
    }
}
