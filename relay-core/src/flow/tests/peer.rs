//! One end of a flow, as a plain description of TCP that can be copied: what it will say is known
//! from the beginning, and what it has heard is kept.

use std::collections::BTreeMap;

use smoltcp::wire::{TcpControl, TcpSeqNumber, TcpTimestampRepr};

use crate::frame::TcpRepr;
use crate::tcp::{Connection, Phase};
use crate::time::Instant;

/// Bytes of a segment, to and from an end.
pub const MSS: usize = 1000;

/// Bytes that an end takes in and has not acknowledged.
const WINDOW: u64 = 20_000;

/// An end.
#[derive(Clone)]
pub struct Peer {
    /// Initial sequence numbers: its own, and the relay's.
    pub initial: (u32, u32),
    /// All that it will ever say; then it ends its stream.
    pub stream: Vec<u8>,
    /// How far it has spoken; the FIN counts, as everywhere.
    said: u64,
    /// SND.NXT: the highest that it has spoken of.
    highest: u64,
    /// What the relay has acknowledged.
    pub acked: u64,
    /// The end of the relay's window.
    edge: u64,
    /// What the relay has said without a hole, all of it.
    pub heard: Vec<u8>,
    early: BTreeMap<u64, Vec<u8>>,
    /// The relay's stream has ended there.
    pub fin: Option<u64>,
    /// What it has acknowledged, and the end of the window that it has offered.
    own_ack: u64,
    own_edge: u64,
    /// The highest timestamp that the relay has sent.
    timestamp: u32,
    /// What the relay sends is lost.
    pub is_deaf: bool,
    /// The relay has reset the connection.
    pub is_reset: bool,
    /// It has reset the connection itself.
    pub has_reset: bool,
}

impl Peer {
    /// An end behind its handshake with the relay, of which the first `acked` bytes of `stream` were
    /// a part.
    pub fn new(initial: (u32, u32), stream: Vec<u8>, acked: u64) -> Self {
        Peer {
            initial,
            stream,
            said: acked,
            acked,
            edge: acked + WINDOW,
            heard: Vec::new(),
            highest: acked,
            early: BTreeMap::new(),
            fin: None,
            own_ack: 0,
            own_edge: WINDOW,
            timestamp: 0,
            is_deaf: false,
            is_reset: false,
            has_reset: false,
        }
    }

    /// The window that a base names for it.
    pub fn window() -> u32 {
        WINDOW as u32
    }

    /// Whether both streams have ended and both ends know, or the connection has been reset.
    pub fn is_done(&self) -> bool {
        let heard = self.end().is_some_and(|end| self.own_ack > end);
        (heard && self.acked > self.stream.len() as u64) || self.is_reset || self.has_reset
    }

    /// Says at most `length` bytes more, after having kept `skipped` bytes to itself.
    pub fn say(&mut self, now: Instant, relay: &mut Connection, (skipped, length): (u64, usize)) {
        let end = self.stream.len() as u64;
        let mut from = (self.said + skipped).min(end);
        let until = (from + length as u64).min(self.edge).min(end);
        while from < until || (from == end && self.edge > from) {
            let to = until.min(from + MSS as u64).max(from);
            let ends = to == end;
            self.segment(now, relay, from..to, ends && skipped == 0);
            from = to + u64::from(ends);
            self.highest = self.highest.max(from);
        }
        if skipped == 0 {
            self.said = self.said.max(from);
        }
    }

    /// Says everything again that was not acknowledged, as far as the relay takes it.
    pub fn repeat(&mut self, now: Instant, relay: &mut Connection) {
        self.said = self.acked;
        if self.said <= self.stream.len() as u64 {
            self.say(now, relay, (0, usize::MAX >> 1));
        }
        self.acknowledge(now, relay);
    }

    /// Acknowledges everything, and opens its window.
    pub fn acknowledge(&mut self, now: Instant, relay: &mut Connection) {
        self.own_ack = self.heard.len() as u64 + u64::from(self.end().is_some());
        self.own_edge = self.own_ack + WINDOW;
        let at = self.said;
        self.segment(now, relay, at..at, false);
    }

    /// Resets the connection.
    pub fn reset(&mut self, now: Instant, relay: &mut Connection) {
        self.has_reset = true;
        self.send(now, relay, (TcpControl::Rst, self.highest), &[]);
    }

    fn segment(
        &mut self,
        now: Instant,
        relay: &mut Connection,
        range: core::ops::Range<u64>,
        fin: bool,
    ) {
        let control = if fin { TcpControl::Fin } else { TcpControl::None };
        let bytes = self.stream.get(range.start as usize..range.end as usize).unwrap_or_default();
        let bytes = bytes.to_vec();
        self.send(now, relay, (control, range.start), &bytes);
    }

    fn send(
        &mut self,
        now: Instant,
        relay: &mut Connection,
        (control, at): (TcpControl, u64),
        payload: &[u8],
    ) {
        let number = |initial: u32, at: u64| initial.wrapping_add(1).wrapping_add(at as u32) as i32;
        let (own, theirs) = self.initial;
        let segment = TcpRepr {
            src_port: relay.tuple().remote.port,
            dst_port: relay.tuple().local.port,
            control,
            seq_number: TcpSeqNumber(number(own, at)),
            ack_number: Some(TcpSeqNumber(number(theirs, self.own_ack))),
            window_len: (self.own_edge - self.own_ack) as u16,
            window_scale: None,
            max_seg_size: None,
            sack_permitted: false,
            sack_ranges: [None; 3],
            timestamp: Some(TcpTimestampRepr::new(now.as_millis() as u32, self.timestamp)),
            payload,
        };
        // A relay that is done with the connection may refuse it.
        let _ = relay.handle_segment(now, &segment);
    }

    /// Takes in what the relay has to say.
    pub fn hear(&mut self, now: Instant, relay: &mut Connection) {
        let mut is_asked = false;
        while let Some(segment) = relay.poll_transmit(now) {
            if !self.is_deaf {
                is_asked |= segment.control != TcpControl::Rst;
                self.take(&segment);
            }
        }
        if self.has_reset && is_asked && !matches!(relay.phase(), Phase::Closed(_)) {
            // RFC 9293 section 3.10.7.1: there, where the relay expects it.
            self.send(now, relay, (TcpControl::Rst, self.acked), &[]);
        }
    }

    fn take(&mut self, segment: &TcpRepr<'_>) {
        if segment.control == TcpControl::Rst {
            self.is_reset = true;
            return;
        }
        let (own, theirs) = self.initial;
        let offset = |number: TcpSeqNumber, initial: u32| {
            u64::from((number.0 as u32).wrapping_sub(initial).wrapping_sub(1))
        };
        let timestamp = segment.timestamp.expect("timestamps were agreed on").tsval;
        assert!(timestamp >= self.timestamp, "a timestamp runs backwards (RFC 7323 section 5)");
        self.timestamp = timestamp;
        let ack = offset(segment.ack_number.expect("an ACK"), own);
        assert!(ack >= self.acked, "the relay forgets that it acknowledged {}: {ack}", self.acked);
        assert!(ack <= self.stream.len() as u64 + 1, "{ack} was never sent");
        self.acked = ack;
        self.edge = self.edge.max(ack + u64::from(segment.window_len));
        let from = offset(segment.seq_number, theirs);
        let end = from + segment.payload.len() as u64;
        assert!(segment.payload.len() <= MSS, "{} bytes", segment.payload.len());
        assert!(end <= self.own_edge + 1 || segment.payload.is_empty(), "beyond the window");
        if segment.control == TcpControl::Fin {
            assert!(self.fin.is_none_or(|fin| fin == end), "two ends of one stream");
            self.fin = Some(end);
        }
        if !segment.payload.is_empty() {
            self.keep(from, segment.payload);
        }
    }

    /// No byte of a stream ever has two values.
    fn keep(&mut self, from: u64, bytes: &[u8]) {
        let known = self.heard.len() as u64;
        let end = from + bytes.len() as u64;
        let both = from.min(known) as usize..end.min(known) as usize;
        assert_eq!(self.heard[both.clone()], bytes[..both.len()], "from {from} on");
        self.early.insert(from, bytes.to_vec());
        while let Some(entry) = self.early.first_entry() {
            let (from, known) = (*entry.key(), self.heard.len() as u64);
            if from > known {
                break;
            }
            let bytes = entry.remove();
            let skip = ((known - from) as usize).min(bytes.len());
            self.heard.extend_from_slice(&bytes[skip..]);
        }
    }

    /// Where the relay's stream has ended, if everything before that was heard.
    pub fn end(&self) -> Option<u64> {
        self.fin.filter(|fin| *fin == self.heard.len() as u64)
    }
}
