//! What an odd client receives.

use std::collections::{BTreeMap, VecDeque};

use smoltcp::wire::TcpSeqNumber;

/// The peer's stream.
#[derive(Default)]
pub struct Receiver {
    irs: u32,
    shift: u8,
    sack: bool,
    /// Everything below was received.
    pub next: u64,
    /// The right edge of the window, which only grows.
    edge: u64,
    /// Bytes above a hole.
    above: BTreeMap<u64, Vec<u8>>,
    /// What came last, which SACK names first.
    latest: u64,
    /// Where the stream ends, once that is known.
    fin: Option<u64>,
    /// All of it has come.
    pub is_over: bool,
    pub readable: VecDeque<u8>,
    /// Segments since the last ACK.
    pub unacked: u32,
}

impl Receiver {
    /// Begins with the peer's initial sequence number and the shift of our windows.
    pub fn begin(&mut self, irs: u32, shift: u8, sack: bool) {
        (self.irs, self.shift, self.sack) = (irs, shift, sack);
    }

    /// The offset of a sequence number, which may lie before the stream.
    pub fn offset(&self, sequence: TcpSeqNumber) -> i64 {
        let expected = self.sequence().0 as u32;
        let (fin, distance) = (i64::from(self.is_over), sequence.0.wrapping_sub(expected as i32));
        self.next as i64 + i64::from(distance) + fin
    }

    /// The next sequence number that is expected.
    pub fn sequence(&self) -> TcpSeqNumber {
        let at = (self.next as u32).wrapping_add(u32::from(self.is_over));
        TcpSeqNumber(self.irs.wrapping_add(1).wrapping_add(at) as i32)
    }

    /// Whether a segment touches the window. What does not fit into a closed one is looked at for
    /// its ACK all the same (RFC 9293 section 3.10.7.4).
    pub fn accepts(&self, start: i64, length: i64) -> bool {
        let next = self.next as i64 + i64::from(self.is_over);
        let edge = (self.edge as i64).max(next);
        if start == next {
            return true;
        }
        let touches = start < edge && start + length > next;
        if length == 0 { start > next && start < edge } else { touches }
    }

    /// Takes in bytes, as far as they are new and in the window.
    pub fn take(&mut self, start: i64, bytes: &[u8], fin: bool) {
        let end = start + bytes.len() as i64;
        let (from, to) = (start.max(self.next as i64), end.min(self.edge as i64));
        if from < to {
            let piece = &bytes[(from - start) as usize..(to - start) as usize];
            let slot = self.above.entry(from as u64).or_default();
            if slot.len() < piece.len() {
                *slot = piece.to_vec();
            }
            self.latest = from as u64;
        }
        if fin && end <= self.edge as i64 {
            self.fin = Some(end as u64);
        }
        while let Some(entry) = self.above.first_entry().filter(|entry| *entry.key() <= self.next) {
            let (at, piece) = entry.remove_entry();
            let known = (self.next - at) as usize;
            if let Some(new) = piece.get(known..) {
                self.readable.extend(new);
                self.next += new.len() as u64;
            }
        }
        self.is_over |= self.fin == Some(self.next);
    }

    /// Whether something came that lies above something missing.
    pub fn has_hole(&self) -> bool {
        !self.above.is_empty()
    }

    /// The right edge that a buffer of `size` bytes allows.
    fn allowed(&self, size: u64) -> u64 {
        self.edge.max(self.next + size.saturating_sub(self.readable.len() as u64))
    }

    /// Whether the window has grown so much that the peer should know.
    pub fn wants_update(&self, size: u64) -> bool {
        let grown = self.allowed(size) - self.edge;
        grown > 0 && grown >= (size / 2).min(1_000)
    }

    /// The window field of a segment that leaves now.
    pub fn advertise(&mut self, size: u64) -> u16 {
        let unit = 1 << self.shift;
        // Rounded up: rounded down it would shrink.
        let units = (self.allowed(size) - self.next).div_ceil(unit).min(u64::from(u16::MAX));
        self.edge = self.edge.max(self.next + units * unit);
        self.unacked = 0;
        units as u16
    }

    /// What lies above holes, the latest first (RFC 2018 section 4).
    pub fn sacks(&self) -> [Option<(u32, u32)>; 3] {
        let mut ranges: Vec<(u64, u64)> = Vec::new();
        if self.sack {
            for (start, piece) in &self.above {
                let end = start + piece.len() as u64;
                match ranges.last_mut().filter(|(_, last)| *last >= *start) {
                    Some((_, last)) => *last = end.max(*last),
                    None => ranges.push((*start, end)),
                }
            }
        }
        ranges.sort_by_key(|(start, end)| !(*start..*end).contains(&self.latest));
        let wire = |at: u64| self.irs.wrapping_add(1).wrapping_add(at as u32);
        let mut out = [None; 3];
        for (slot, (start, end)) in out.iter_mut().zip(ranges) {
            *slot = Some((wire(start), wire(end)));
        }
        out
    }
}
