//! What an odd client sends.

use std::collections::VecDeque;

use relay_core::time::Instant;
use smoltcp::wire::{TcpRepr, TcpSeqNumber};

use super::Habits;
use crate::random::Random;

/// Bytes that wait to be sent or acknowledged.
const BUFFER: usize = 30_000;

/// Bytes in flight at most: more than a record has, because relays that never replicate bytes
/// acknowledge whole records only.
const FLIGHT_MAX: u64 = 24_000;

/// Options of a segment at most: MSS is without them (RFC 6691).
const OPTIONS_MAX: u64 = 40;

/// Our stream.
pub struct Sender {
    pub iss: u32,
    mss: u64,
    shift: u8,
    /// From `una` on.
    buffer: VecDeque<u8>,
    /// Everything below was acknowledged.
    una: u64,
    next: u64,
    /// Everything below was sent once; a FIN counts as one.
    sent: u64,
    /// The peer's right edge, which never shrinks.
    edge: u64,
    /// Where it ends, once that is known.
    fin: Option<u64>,
    duplicates: u32,
    /// When the next burst leaves.
    pub burst_at: Instant,
}

/// A part of the stream.
#[derive(Clone, Copy, Debug)]
pub struct Piece {
    pub start: u64,
    pub length: u64,
    pub fin: bool,
}

impl Sender {
    /// A stream with this initial sequence number.
    pub fn new(iss: u32) -> Self {
        Sender {
            iss,
            mss: 536,
            shift: 0,
            buffer: VecDeque::new(),
            una: 0,
            next: 0,
            sent: 0,
            edge: 0,
            fin: None,
            duplicates: 0,
            burst_at: Instant::from_millis(0),
        }
    }

    /// The peer has answered.
    pub fn begin(&mut self, mss: u64, shift: u8, window: u64) {
        (self.mss, self.shift, self.edge) = (mss.saturating_sub(OPTIONS_MAX).max(1), shift, window);
    }

    /// Takes bytes as far as there is room.
    pub fn push(&mut self, bytes: &[u8]) -> usize {
        let length = bytes.len().min(BUFFER.saturating_sub(self.buffer.len()));
        self.buffer.extend(&bytes[..length]);
        length
    }

    /// Nothing follows.
    pub fn finish(&mut self) {
        self.fin = Some(self.una + self.buffer.len() as u64);
    }

    /// The wire's name for an offset.
    pub fn sequence(&self, at: u64) -> TcpSeqNumber {
        TcpSeqNumber(self.iss.wrapping_add(1).wrapping_add(at as u32) as i32)
    }

    /// The offset from which a pure ACK is sent: it has to be in the peer's window.
    pub fn ack_from(&self) -> u64 {
        self.sent.min(self.edge.max(self.una))
    }

    /// Takes in an ACK and its window: whether it is new; None: it is of what was never sent.
    pub fn acknowledge(&mut self, ack: TcpSeqNumber, segment: &TcpRepr<'_>) -> Option<bool> {
        let distance = ack.0.wrapping_sub(self.sequence(self.una).0);
        let at = u64::try_from(self.una as i64 + i64::from(distance)).ok();
        let Some(at) = at.filter(|at| *at >= self.una) else { return Some(false) };
        if at > self.sent {
            return None;
        }
        let edge = at + (u64::from(segment.window_len) << self.shift);
        let is_same = edge <= self.edge && segment.payload.is_empty();
        self.edge = self.edge.max(edge);
        if at > self.una {
            let bytes = ((at - self.una) as usize).min(self.buffer.len());
            self.buffer.drain(..bytes);
            self.una = at;
            self.next = self.next.max(at);
            self.duplicates = 0;
            return Some(true);
        }
        if is_same && self.sent > self.una {
            self.duplicates += 1;
            if self.duplicates == 3 {
                self.go_back();
            }
        }
        Some(false)
    }

    /// Whether the FIN was acknowledged.
    pub fn is_settled(&self) -> bool {
        self.fin.is_some() && self.una > self.data_end()
    }

    /// Whether something is not acknowledged, or cannot be sent.
    pub fn waits(&self) -> bool {
        !self.is_settled() && (self.sent > self.una || self.una < self.end())
    }

    /// Everything that is not acknowledged is sent again.
    pub fn go_back(&mut self) {
        self.next = self.una;
    }

    /// Where the bytes end.
    fn data_end(&self) -> u64 {
        self.fin.unwrap_or(self.una + self.buffer.len() as u64)
    }

    /// Where everything ends; the FIN counts as one.
    fn end(&self) -> u64 {
        self.data_end() + u64::from(self.fin.is_some())
    }

    fn limit(&self) -> u64 {
        self.edge.min(self.una + FLIGHT_MAX).min(self.end())
    }

    /// Whether a burst can leave.
    pub fn can_send(&self) -> bool {
        self.next < self.limit()
    }

    /// What leaves now.
    pub fn burst(&mut self, now: Instant, habits: &Habits, random: &mut Random) -> Vec<Piece> {
        let mut pieces = Vec::new();
        if now < self.burst_at {
            return pieces;
        }
        while pieces.len() < habits.burst as usize && self.can_send() {
            let piece = self.piece(habits, random);
            pieces.push(piece);
            if random.chance(habits.doubles) {
                pieces.push(piece);
            }
        }
        if pieces.is_empty() {
            return pieces; // and nothing is drawn: how often it is looked at must not show
        }
        self.burst_at = now + random.duration(habits.gap);
        if random.chance(habits.shuffles) {
            for at in (1..pieces.len()).rev() {
                pieces.swap(at, random.below(at as u64 + 1) as usize);
            }
        }
        pieces
    }

    fn piece(&mut self, habits: &Habits, random: &mut Random) -> Piece {
        let (mut start, data_end) = (self.next, self.data_end());
        let most = if start < habits.tiny { 3 } else { habits.segment_max.min(self.mss) };
        let length = 1 + random.below(most);
        let end = (start + length).min(self.limit()).min(data_end).max(start);
        if random.chance(habits.overlaps) {
            let room = self.mss - (end - start).min(self.mss);
            start -= random.below((start - self.una).min(room) + 1);
        }
        // A FIN alone, or with the last bytes.
        let is_last = end == data_end && self.fin.is_some() && self.limit() > data_end;
        let fin = is_last && (end == self.next || habits.fin_with_data);
        self.next = end + u64::from(fin);
        self.sent = self.sent.max(self.next);
        Piece { start, length: end - start, fin }
    }

    /// What the timer sends: the first bytes, though the window be closed.
    pub fn probe(&mut self, habits: &Habits, random: &mut Random) -> Piece {
        if self.can_send() {
            return self.piece(habits, random);
        }
        let length = (self.data_end() - self.una).min(1);
        let fin = length == 0 && self.fin.is_some();
        self.next = self.una + length + u64::from(fin);
        self.sent = self.sent.max(self.next);
        Piece { start: self.una, length, fin }
    }

    /// The bytes of a piece.
    pub fn bytes(&self, piece: &Piece) -> Vec<u8> {
        let start = piece.start.saturating_sub(self.una) as usize;
        self.buffer.iter().skip(start).take(piece.length as usize).copied().collect()
    }
}
