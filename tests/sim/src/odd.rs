//! A second TCP for clients, written for its timing: segments of a few bytes, in any order,
//! overlapping and doubled; ACKs late or rarely; windows that are tiny, or closed at first; silence
//! when a relay has just failed. See [`Habits`].
//!
//! It is odd and correct (RFC 9293): its bytes are right, its window never shrinks, what is lost it
//! sends again by a timer, and what it must not accept it refuses. It is stricter than smoltcp
//! where Linux is: it compares timestamps (PAWS, RFC 7323 section 5), refuses segments without
//! them once they are agreed on, ignores the ACK of a segment that it does not accept, and resets
//! only at the exact sequence number (RFC 5961 section 3.2).

mod habits;
mod path;
mod receiver;
mod sender;

use std::collections::VecDeque;

use relay_core::time::{Duration, Instant};
use smoltcp::socket::tcp::State;
use smoltcp::wire::{TcpControl, TcpRepr, TcpSeqNumber, TcpTimestampRepr};

use crate::random::Random;
use crate::transport::Transport;
pub use habits::Habits;
pub use path::Path;
use receiver::Receiver;
use sender::Sender;

/// The first retransmission timeout, and the least (RFC 6298 sections 2.1 and 2.4 say one second;
/// Linux takes less).
const TIMEOUT: Duration = Duration::from_millis(300);

/// The largest one: less than the 60 seconds that RFC 6298 section 2.5 asks for, so that runs end
/// soon after their faults, and long enough for a record in tiny segments, since with an endless hold
/// nothing is acknowledged before it is whole.
const TIMEOUT_MAX: Duration = Duration::from_secs(24);

/// One connection. Offsets count the bytes of a stream from the first one behind the SYN.
pub struct Tcp {
    habits: Habits,
    random: Random,
    path: Path,
    state: State,
    sender: Sender,
    receiver: Receiver,
    timestamps: bool,
    /// The last that came in order (TS.Recent).
    recent: u32,
    clock_offset: u32,
    begin: Instant,
    /// When what is not acknowledged is sent again, and after which time.
    timer: Option<Instant>,
    timeout: Duration,
    /// When an ACK leaves that waits.
    ack_at: Option<Instant>,
    /// The machine sleeps until then.
    asleep_until: Option<Instant>,
    inbox: VecDeque<Vec<u8>>,
    outbox: VecDeque<Vec<u8>>,
}

impl Tcp {
    /// A connection that is not opened yet.
    pub fn new(path: Path, mut random: Random) -> Self {
        let habits = Habits::draw(&mut random);
        let iss = random.next() as u32;
        Tcp {
            state: State::Closed,
            sender: Sender::new(iss),
            receiver: Receiver::default(),
            timestamps: false,
            recent: 0,
            clock_offset: random.next() as u32,
            begin: Instant::from_millis(0),
            timer: None,
            timeout: TIMEOUT,
            ack_at: None,
            asleep_until: None,
            inbox: VecDeque::new(),
            outbox: VecDeque::new(),
            habits,
            random,
            path,
        }
    }

    /// Opens it.
    pub fn connect(&mut self, now: Instant) {
        (self.begin, self.state) = (now, State::SynSent);
        self.send_syn(now);
    }

    /// A relay has failed just now.
    pub fn startle(&mut self, now: Instant) {
        if !self.habits.sulks.is_zero() && self.random.chance(600) {
            let time = self.random.duration(self.habits.sulks);
            self.asleep_until = Some(now + time);
        }
    }

    /// Takes in a frame; [`Tcp::poll`] handles it.
    pub fn receive(&mut self, frame: Vec<u8>) {
        self.inbox.push_back(frame);
    }

    /// The next frame to send.
    pub fn transmit(&mut self) -> Option<Vec<u8>> {
        self.outbox.pop_front()
    }

    /// Handles what came in and sends what can be sent.
    pub fn poll(&mut self, now: Instant) {
        if self.asleep_until.is_some_and(|until| now < until) {
            return;
        }
        self.asleep_until = None;
        while let Some(frame) = self.inbox.pop_front() {
            if let Some(segment) = self.path.segment(&frame) {
                self.handle(now, &segment);
            }
        }
        if self.timer.is_some_and(|at| at <= now) {
            self.time_out(now);
        }
        self.send_data(now);
        let opens = self.is_open() && self.receiver.wants_update(self.buffer_size(now));
        if opens || self.ack_at.is_some_and(|at| at <= now) {
            self.send_ack(now);
        }
    }

    /// When [`Tcp::poll`] has something to do.
    pub fn poll_at(&self, now: Instant) -> Option<Instant> {
        if self.asleep_until.is_some() {
            return self.asleep_until;
        }
        let opens = Some(self.begin + self.habits.opens_after);
        let opens = opens.filter(|at| self.is_open() && *at > now);
        let sends = (self.is_open() && self.sender.can_send()).then_some(self.sender.burst_at);
        [self.timer, self.ack_at, opens, sends].into_iter().flatten().min()
    }

    /// Whether both ends know of the connection.
    fn is_open(&self) -> bool {
        !matches!(self.state, State::Closed | State::SynSent)
    }

    /// Bytes that the receive buffer has now.
    fn buffer_size(&self, now: Instant) -> u64 {
        let is_small = now < self.begin + self.habits.opens_after;
        if is_small { self.habits.small_window } else { self.habits.window }
    }

    fn handle(&mut self, now: Instant, segment: &TcpRepr<'_>) {
        match self.state {
            State::Closed => self.refuse(segment),
            State::SynSent => self.handle_syn_ack(now, segment),
            _ => self.handle_open(now, segment),
        }
    }

    /// Nobody is here any more (RFC 9293 section 3.10.7.1).
    fn refuse(&mut self, segment: &TcpRepr<'_>) {
        if segment.control == TcpControl::Rst {
            return;
        }
        let seq_number = segment.ack_number.unwrap_or_default();
        let reset = TcpRepr { seq_number, control: TcpControl::Rst, ..blank() };
        self.outbox.push_back(self.path.frame(&reset));
    }

    fn handle_syn_ack(&mut self, now: Instant, segment: &TcpRepr<'_>) {
        let expected = TcpSeqNumber(self.sender.iss.wrapping_add(1) as i32);
        if segment.ack_number != Some(expected) {
            return;
        }
        match segment.control {
            TcpControl::Rst => self.end(),
            TcpControl::Syn => {
                self.state = State::Established;
                self.timestamps = self.habits.timestamps && segment.timestamp.is_some();
                self.recent = segment.timestamp.map_or(0, |timestamp| timestamp.tsval);
                let shifts = self.habits.scale.zip(segment.window_scale);
                let (own, peers) = shifts.unwrap_or((0, 0));
                let sack = self.habits.sack && segment.sack_permitted;
                self.receiver.begin(segment.seq_number.0 as u32, own, sack);
                let mss = u64::from(segment.max_seg_size.unwrap_or(536));
                self.sender.begin(mss, peers, segment.window_len.into());
                (self.timer, self.timeout) = (None, TIMEOUT);
                self.ack_at = Some(now + self.habits.third_ack_delay);
            }
            _ => {}
        }
    }

    /// RFC 9293 section 3.10.7.4.
    fn handle_open(&mut self, now: Instant, segment: &TcpRepr<'_>) {
        let is_reset = segment.control == TcpControl::Rst;
        let start = self.receiver.offset(segment.seq_number);
        let length = segment.payload.len() as i64 + i64::from(segment.control == TcpControl::Fin);
        if !is_reset && self.is_stale(segment) {
            self.ack_at = segment.timestamp.map(|_| now).or(self.ack_at);
            return;
        }
        if !self.receiver.accepts(start, length) {
            self.ack_at = if is_reset { self.ack_at } else { Some(now) };
            return;
        }
        if is_reset && start == self.receiver.next as i64 {
            self.end();
            return;
        }
        if is_reset || segment.control == TcpControl::Syn {
            self.ack_at = Some(now); // a challenge (RFC 5961)
            return;
        }
        let Some(ack) = segment.ack_number else { return };
        if start <= self.receiver.next as i64
            && let Some(timestamp) = segment.timestamp
        {
            self.recent = timestamp.tsval;
        }
        if !self.handle_ack(now, ack, segment) {
            self.ack_at = Some(now);
            return;
        }
        if length > 0 {
            self.handle_data(now, start, segment);
        }
    }

    /// Whether a segment is older than another one that came (PAWS), or of another connection.
    fn is_stale(&self, segment: &TcpRepr<'_>) -> bool {
        let older =
            |timestamp: TcpTimestampRepr| (timestamp.tsval.wrapping_sub(self.recent) as i32) < 0;
        self.timestamps && segment.timestamp.is_none_or(older)
    }

    /// False when it acknowledges what was never sent.
    fn handle_ack(&mut self, now: Instant, ack: TcpSeqNumber, segment: &TcpRepr<'_>) -> bool {
        let Some(is_new) = self.sender.acknowledge(ack, segment) else { return false };
        if is_new {
            self.timeout = TIMEOUT;
            self.timer = None;
        }
        if self.sender.is_settled() {
            self.state = match self.state {
                State::FinWait1 => State::FinWait2,
                State::Closing => State::TimeWait,
                State::LastAck => State::Closed,
                other => other,
            };
            if self.state == State::Closed {
                self.end();
            }
        }
        self.arm(now);
        true
    }

    fn handle_data(&mut self, now: Instant, start: i64, segment: &TcpRepr<'_>) {
        let is_fin = segment.control == TcpControl::Fin;
        let is_next = start == self.receiver.next as i64;
        let was_over = self.receiver.is_over;
        self.receiver.take(start, segment.payload, is_fin);
        let is_over = self.receiver.is_over && !was_over;
        if is_over {
            self.state = match self.state {
                State::Established => State::CloseWait,
                State::FinWait1 => State::Closing,
                State::FinWait2 => State::TimeWait,
                other => other,
            };
        }
        self.receiver.unacked += 1;
        let at_once = !is_next
            || is_over
            || self.receiver.has_hole()
            || self.receiver.unacked >= self.habits.acks_each;
        let at = if at_once { now } else { now + self.habits.ack_delay };
        self.ack_at = Some(self.ack_at.map_or(at, |known| known.min(at)));
    }

    fn end(&mut self) {
        self.state = State::Closed;
        (self.timer, self.ack_at) = (None, None);
    }

    /// Starts the timer if something waits for an answer.
    fn arm(&mut self, now: Instant) {
        let waits = self.is_open() && self.state != State::TimeWait && self.sender.waits();
        self.timer = waits.then(|| self.timer.unwrap_or(now + self.timeout));
    }

    fn time_out(&mut self, now: Instant) {
        self.timeout = (self.timeout * 2).min(TIMEOUT_MAX);
        self.timer = Some(now + self.timeout);
        if self.state == State::SynSent {
            self.send_syn(now);
        } else {
            self.sender.go_back();
            let probe = self.sender.probe(&self.habits, &mut self.random);
            self.emit(now, probe);
        }
    }

    fn send_syn(&mut self, now: Instant) {
        self.timer = Some(now + self.timeout);
        let syn = TcpRepr {
            seq_number: TcpSeqNumber(self.sender.iss as i32),
            control: TcpControl::Syn,
            window_len: self.buffer_size(now) as u16,
            window_scale: self.habits.scale,
            max_seg_size: self.habits.mss,
            sack_permitted: self.habits.sack,
            timestamp: self.habits.timestamps.then(|| self.timestamp(now)),
            ..blank()
        };
        self.outbox.push_back(self.path.frame(&syn));
    }

    fn timestamp(&self, now: Instant) -> TcpTimestampRepr {
        let clock = (now.as_millis() as u32).wrapping_add(self.clock_offset);
        TcpTimestampRepr::new(clock, self.recent)
    }

    fn send_data(&mut self, now: Instant) {
        if !self.is_open() || self.state == State::TimeWait {
            return;
        }
        for piece in self.sender.burst(now, &self.habits, &mut self.random) {
            self.emit(now, piece);
        }
        self.arm(now);
    }

    fn send_ack(&mut self, now: Instant) {
        if self.is_open() {
            let at = self.sender.ack_from();
            self.emit(now, sender::Piece { start: at, length: 0, fin: false });
        }
        self.ack_at = None;
    }

    /// Sends a segment of ours, with an ACK.
    fn emit(&mut self, now: Instant, piece: sender::Piece) {
        let size = self.buffer_size(now);
        let window_len = self.receiver.advertise(size);
        let payload = self.sender.bytes(&piece);
        let segment = TcpRepr {
            seq_number: self.sender.sequence(piece.start),
            ack_number: Some(self.receiver.sequence()),
            window_len,
            control: if piece.fin { TcpControl::Fin } else { TcpControl::None },
            sack_ranges: self.receiver.sacks(),
            timestamp: self.timestamps.then(|| self.timestamp(now)),
            payload: &payload,
            ..blank()
        };
        self.outbox.push_back(self.path.frame(&segment));
        self.ack_at = None;
    }
}

impl Transport for Tcp {
    fn state(&self) -> State {
        self.state
    }

    fn can_recv(&self) -> bool {
        !self.receiver.readable.is_empty()
    }

    fn recv(&mut self, out: &mut [u8]) -> usize {
        let length = out.len().min(self.receiver.readable.len());
        for (slot, byte) in out.iter_mut().zip(self.receiver.readable.drain(..length)) {
            *slot = byte;
        }
        length
    }

    fn may_send(&self) -> bool {
        matches!(self.state, State::Established | State::CloseWait)
    }

    fn send(&mut self, bytes: &[u8]) -> usize {
        self.sender.push(bytes)
    }

    fn close(&mut self) {
        self.state = match self.state {
            State::Established => State::FinWait1,
            State::CloseWait => State::LastAck,
            other => other,
        };
        self.sender.finish();
    }

    fn abort(&mut self) {
        if self.is_open() {
            let seq_number = self.sender.sequence(self.sender.ack_from());
            let ack_number = Some(self.receiver.sequence());
            let reset = TcpRepr { seq_number, ack_number, control: TcpControl::Rst, ..blank() };
            self.outbox.push_back(self.path.frame(&reset));
        }
        self.end();
    }
}

/// A segment with nothing in it.
fn blank() -> TcpRepr<'static> {
    TcpRepr {
        src_port: 0,
        dst_port: 0,
        control: TcpControl::None,
        seq_number: TcpSeqNumber(0),
        ack_number: None,
        window_len: 0,
        window_scale: None,
        max_seg_size: None,
        sack_permitted: false,
        sack_ranges: [None; 3],
        timestamp: None,
        payload: &[],
    }
}
