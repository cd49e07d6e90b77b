//! A connection, a peer that says anything, and a relay that does anything it may do.

use relay_core::frame::{Complaint, IpAddress, IpEndpoint, TcpRepr, Tuple};
use relay_core::reason::Reason;
use relay_core::tcp::{Config, Connection, Phase};
use relay_core::time::{Duration, Instant};
use smoltcp::wire::{TcpControl, TcpSeqNumber, TcpTimestampRepr};

use crate::input::Input;
use crate::model::Model;

/// Virtual time at the start: no clock is at zero.
pub const START: Instant = Instant::from_millis(5_000_000);
/// Segments that may leave at once: more than the send buffer has.
const SEGMENTS_MAX: usize = 5_000;
/// Timers that may run at one instant.
const SPINS_MAX: usize = 1_000;
/// Ranges beyond the stream that are kept at most.
const RANGES_MAX: usize = 33;

/// A connection under test.
pub struct Driver {
    pub config: Config,
    pub connection: Connection,
    pub iss: u32,
    pub irs: u32,
    pub now: Instant,
    /// What was acknowledged before this node, which may not have all of it.
    pub acknowledged: u64,
    /// The most that was allowed.
    pub ack_limit: u64,
    pub send_limit: u64,
    /// The most that the peer has ever offered to take, as an offset.
    pub peer_edge: u64,
    /// The shift of the peer's window, and of ours.
    pub scales: (u8, u8),
    /// The highest right edge that was advertised.
    pub edge: u64,
    /// What was taken, if the connection is known from its beginning.
    pub model: Option<Model>,
}

/// The connection's ends.
pub fn tuple() -> Tuple {
    let end = |last, port| IpEndpoint::new(IpAddress::v4(10, 99, 0, last), port);
    Tuple { local: end(1, 443), remote: end(2, 50_000) }
}

/// A configuration out of a few.
pub fn config(input: &mut Input) -> Config {
    let choice = input.u8();
    let receive_buffer = [4_000, 60_000, 150_000, 400_000][usize::from(choice & 3)];
    let mut config = Config { receive_buffer, send_buffer: 100_000, ..Config::default() };
    config.wake.lag = choice & 4 != 0;
    if choice & 8 != 0 {
        config.patience.keepalive = Some(Duration::from_secs(30));
        config.patience.stall_max = Some(Duration::from_secs(60));
    }
    config
}

/// Bytes that tell their own position in a stream.
pub fn pattern(from: u64, length: usize) -> Vec<u8> {
    (from..from + length as u64).map(|i| (i ^ i >> 8 ^ i >> 16) as u8).collect()
}

/// `base` moved by a choice.
fn near(base: u64, input: &mut Input) -> i64 {
    base as i64 + (input.distance() >> 1)
}

fn sequence(initial: u32, offset: i64) -> u32 {
    initial.wrapping_add(1).wrapping_add(offset as u32)
}

impl Driver {
    /// Does what the input says until it ends.
    pub fn run(&mut self, input: &mut Input) {
        while !input.is_empty() {
            self.step(input);
            self.poll();
            self.check();
        }
        self.advance(Duration::from_secs(5));
        self.check();
        if let Some(model) = &self.model {
            model.compare(&self.connection);
        }
    }

    fn step(&mut self, input: &mut Input) {
        match input.u8() % 16 {
            0..=7 => self.receive(input),
            8 => self.advance(Duration::from_millis(input.u16().into())),
            9 => self.advance(Duration::from_micros(input.u16().into())),
            10 => {
                let limit = near(self.connection.received(), input).max(0) as u64;
                self.ack_limit = self.ack_limit.max(limit);
                self.connection.set_ack_limit(limit);
            }
            11 => {
                let limit = near(self.connection.written(), input).max(0) as u64;
                self.send_limit = self.send_limit.max(limit);
                self.connection.set_send_limit(limit);
            }
            12 => {
                let count = usize::from(input.u16() % 20_000);
                self.connection.write(&pattern(self.connection.written(), count));
            }
            13 => self.release(input),
            14 => self.set_sackable(input),
            _ => self.seldom(input),
        }
    }

    fn release(&mut self, input: &mut Input) {
        let (from, to) = (self.connection.retained(), self.connection.received());
        let to = if input.bool() { to } else { to.min(from + u64::from(input.u16())) };
        if let Some(model) = &self.model {
            model.compare(&self.connection);
        }
        self.connection.release(to);
    }

    fn set_sackable(&mut self, input: &mut Input) {
        let ranges: Vec<_> = (0..input.u8() % 4)
            .map(|_| {
                let start = near(self.connection.received(), input).max(0) as u64;
                start..start + u64::from(input.u16())
            })
            .collect();
        self.connection.set_sackable(&ranges);
    }

    fn seldom(&mut self, input: &mut Input) {
        match input.u8() % 16 {
            0 => self.connection.finish(),
            1 => self.connection.abort(),
            2 => {
                let sequence = sequence(self.iss, near(self.connection.acked(), input));
                let complaint = match input.bool() {
                    true => Complaint::TooBig { mtu: input.u16().into() },
                    false => Complaint::Unreachable,
                };
                let _ = self.connection.handle_complaint(self.now, sequence, complaint);
            }
            3 => self.connection.set_receive_window(input.u16().into()),
            4 => self.connection.set_receive_demand(input.u32().into()),
            5 => {
                let mark = self.connection.mark(self.ack_limit);
                self.connection.wake(mark);
            }
            6 => self.connection.skip(input.u16().into()),
            7 => self.advance(Duration::from_secs(u64::from(input.u16()))),
            _ => {
                // Everything is allowed, as on a connection that is not replicated.
                self.ack_limit = u64::MAX;
                self.send_limit = u64::MAX;
                self.connection.set_ack_limit(u64::MAX);
                self.connection.set_send_limit(u64::MAX);
            }
        }
    }

    /// The peer says something.
    fn receive(&mut self, input: &mut Input) {
        let connection = &self.connection;
        let choice = input.u8();
        let base = match choice & 3 {
            0 | 1 => connection.received(),
            2 => connection.out_of_order().next().map_or(0, |range| range.start),
            _ => connection.retained() + self.config.receive_buffer as u64,
        };
        let start = near(base, input);
        let acked = connection.acked();
        let base = if choice & 4 == 0 { acked } else { connection.written() };
        let ack = near(base, input);
        let length = match choice >> 3 & 3 {
            0 => 0,
            1 => usize::from(input.u8()),
            2 => 1460,
            _ => usize::from(input.u16() % 9_000),
        };
        let mut payload: Vec<u8> =
            (start..start + length as i64).map(|i| (i ^ i >> 8) as u8).collect();
        if choice & 0x20 != 0 && !payload.is_empty() {
            // It contradicts what it said before.
            let at = usize::from(input.u16()) % payload.len();
            payload[at] ^= 0x55;
        }
        let mut segment = TcpRepr {
            src_port: 50_000,
            dst_port: 443,
            control: control(input.u8()),
            seq_number: TcpSeqNumber(sequence(self.irs, start) as i32),
            ack_number: Some(TcpSeqNumber(sequence(self.iss, ack) as i32)),
            window_len: input.u16(),
            window_scale: None,
            max_seg_size: None,
            sack_permitted: false,
            sack_ranges: [None; 3],
            timestamp: None,
            payload: &payload,
        };
        if choice & 0x40 != 0 {
            for range in &mut segment.sack_ranges {
                let (left, length) = (near(acked, input), input.u16());
                *range = Some((
                    sequence(self.iss, left),
                    sequence(self.iss, left).wrapping_add(length.into()),
                ));
            }
        }
        if choice & 0x80 != 0 {
            let (value, echo) = (input.u8(), input.u32());
            segment.timestamp = Some(TcpTimestampRepr::new(1_000 + u32::from(value), echo));
        }
        let offered = ack.max(0) as u64 + (u64::from(segment.window_len) << self.scales.0);
        self.peer_edge = self.peer_edge.max(offered);
        let result = self.connection.handle_segment(self.now, &segment);
        let taken =
            matches!(result, Ok(()) | Err(Reason::WindowExceeded | Reason::OverlapInconsistent));
        if let Some(model) = &mut self.model {
            model.follow(&self.connection, start, &payload, taken);
        }
    }

    /// Lets time pass, and runs the timers in it.
    pub fn advance(&mut self, time: Duration) {
        let end = self.now + time;
        let mut spins = 0;
        for _ in 0..SPINS_MAX {
            self.poll();
            let Some(at) = self.connection.poll_timeout().filter(|at| *at <= end) else { break };
            spins = if at <= self.now { spins + 1 } else { 0 };
            assert!(spins < 100, "a timer spins: {:?}", self.connection);
            self.now = self.now.max(at);
            self.connection.handle_timeout(self.now);
        }
        self.now = end;
    }

    /// Takes out what leaves, and checks it.
    pub fn poll(&mut self) {
        for _ in 0..SEGMENTS_MAX {
            let (iss, irs) = (self.iss, self.irs);
            let (received, acked) = (self.connection.received(), self.connection.acked());
            let Some(segment) = self.connection.poll_transmit(self.now) else { return };
            if segment.control == TcpControl::Rst {
                continue;
            }
            let offset = |number: TcpSeqNumber, initial: u32, base: u64| {
                let distance = (number.0 as u32).wrapping_sub(sequence(initial, base as i64));
                base as i64 + i64::from(distance as i32)
            };
            let ack = segment.ack_number.expect("every segment acknowledges");
            let ack = offset(ack, irs, received);
            let known = (received + 1).max(self.acknowledged);
            assert!(ack <= known as i64, "acknowledges {ack} of {received}");
            assert!(
                u64::try_from(ack).is_ok_and(|ack| ack <= self.ack_limit),
                "not allowed: {ack}"
            );
            let edge = ack as u64 + (u64::from(segment.window_len) << self.scales.1);
            assert!(edge + (1 << self.scales.1) > self.edge, "{edge} after {}", self.edge);
            self.edge = self.edge.max(edge);
            if !segment.payload.is_empty() {
                let start = offset(segment.seq_number, iss, acked) as u64;
                let end = start + segment.payload.len() as u64;
                assert!(end <= self.send_limit, "sent up to {end}: not allowed");
                assert!(end <= self.peer_edge, "sent up to {end} of {}", self.peer_edge);
                assert_eq!(segment.payload, pattern(start, segment.payload.len()), "at {start}");
            }
        }
        panic!("segments without end: {:?}", self.connection);
    }

    /// Memory stays within its bounds.
    fn check(&self) {
        let connection = &self.connection;
        let capacity = self.config.receive_buffer as u64;
        let end = connection.out_of_order().last().map_or(connection.received(), |last| last.end);
        assert!(end - connection.retained() <= capacity);
        assert!(connection.out_of_order().count() <= RANGES_MAX);
        let queued = connection.written().saturating_sub(connection.acked());
        assert!(queued <= self.config.send_buffer as u64);
        if matches!(connection.phase(), Phase::Closed(_)) {
            assert_eq!(connection.poll_timeout(), None);
        }
    }
}

fn control(choice: u8) -> TcpControl {
    match choice {
        0..=3 => TcpControl::Fin,
        4 => TcpControl::Rst,
        5 => TcpControl::Syn,
        6..=127 => TcpControl::Psh,
        _ => TcpControl::None,
    }
}
