//! The sending half: what is queued, what may leave, and what must leave again.

use super::congestion::Cubic;
use super::flow_control::SendWindow;
use super::recovery::{Delivered, Scoreboard};
use super::rtt::{RTO_MAX, Rtt};
use crate::tcp::ring::Ring;
use crate::time::{Duration, Instant};

/// Retransmissions of one segment, or unanswered window probes, before the peer counts as gone
/// (eight minutes or more; RFC 9293
/// section 3.8.3 asks for at least 100 s).
const ATTEMPTS_MAX: u32 = 15;
/// Duplicate ACKs that mean a loss when the peer has no SACK (RFC 5681 section 3.2).
const DUP_ACKS: u32 = 3;
/// How long a peer may delay the ACK of a lone segment (RFC 8985 section 7.2).
const PEER_ACK_DELAY: Duration = Duration::from_millis(200);
/// How long segments of the node before us, and the answers to them, may still be under way.
const PREDECESSOR: Duration = Duration::from_secs(1);
/// Lower bound of the probe timeout: below it timers are noise.
const PROBE_MIN: Duration = Duration::from_millis(10);

/// What the opening, or a snapshot, tells the sender.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Start {
    /// Payload of a full segment, in bytes.
    pub mss: u16,
    /// The peer understands SACK.
    pub sack: bool,
    /// Offset that the peer has acknowledged; counts the FIN.
    pub acked: u64,
    /// Offset below which another node may have sent; counts the FIN.
    pub known: u64,
    /// The peer's window above `acked`, in bytes.
    pub window: u64,
    /// Where our stream ends, when that is decided.
    pub fin: Option<u64>,
}

/// An acceptable acknowledgement, in offsets.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Acknowledgement {
    pub offset: u64,
    pub sacks: [Option<(u64, u64)>; 3],
    /// It carries neither data nor a new window: the duplicate ACK of RFC 5681 section 2.
    pub bare: bool,
}

/// A piece of the stream that leaves now; the FIN is the byte behind the last one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Piece {
    pub start: u64,
    pub end: u64,
    /// It was sent before by this node.
    pub again: bool,
}

/// A period in which losses are repaired.
#[derive(Debug)]
struct Recovery {
    /// It ends when everything below is acknowledged.
    end: u64,
    /// It began with a timeout, so the window grows meanwhile.
    timeout: bool,
}

/// The sending half of a connection. All offsets count the FIN as one byte.
#[derive(Debug)]
pub(crate) struct Sender {
    ring: Ring,
    mss: u64,
    sack: bool,
    /// SND.UNA.
    una: u64,
    /// SND.NXT of this node.
    next: u64,
    written: u64,
    fin: Option<u64>,
    limit: u64,
    known: u64,
    /// What lies below was possibly sent by another node.
    restored_below: u64,
    /// From then on the peer's acknowledgements answer this node only.
    settled_at: Instant,
    pub window: SendWindow,
    board: Scoreboard,
    congestion: Cubic,
    rtt: Rtt,
    recovery: Option<Recovery>,
    duplicates: u32,
    /// RTO or, when `probe_armed`, PTO.
    retransmit_at: Option<Instant>,
    probe_armed: bool,
    probe_due: bool,
    /// One tail loss probe in each flight.
    probe_used: bool,
    reorder_at: Option<Instant>,
    persist_at: Option<Instant>,
    persist_due: bool,
    backoff: u32,
    persist_backoff: u32,
    attempts: u32,
    last_sent: Option<Instant>,
}

impl Sender {
    /// `capacity` is the size of the send buffer in bytes.
    pub fn new(now: Instant, start: &Start, capacity: usize) -> Self {
        let written = start.fin.map_or(start.acked, |fin| fin.min(start.acked));
        let mss = u64::from(start.mss);
        Sender {
            ring: Ring::new(capacity),
            mss,
            sack: start.sack,
            una: start.acked,
            next: start.acked,
            written,
            fin: start.fin,
            limit: 0,
            known: start.known.max(start.acked),
            restored_below: start.known,
            settled_at: now + PREDECESSOR,
            window: SendWindow::new(start.acked, start.window),
            board: Scoreboard::default(),
            congestion: Cubic::new(mss),
            rtt: Rtt::default(),
            recovery: None,
            duplicates: 0,
            retransmit_at: None,
            probe_armed: false,
            probe_due: false,
            probe_used: false,
            reorder_at: None,
            persist_at: None,
            persist_due: false,
            backoff: 0,
            persist_backoff: 0,
            attempts: 0,
            last_sent: None,
        }
    }

    /// SND.UNA as an offset; counts the FIN.
    pub fn una(&self) -> u64 {
        self.una
    }

    /// SND.NXT as an offset; counts the FIN.
    pub fn next(&self) -> u64 {
        self.next
    }

    /// The highest offset that any node may have sent; counts the FIN.
    pub fn known(&self) -> u64 {
        let end = self.fin.map_or(u64::MAX, |fin| fin + 1);
        self.known.min(end).max(self.next)
    }

    /// Another node may have sent bytes that this one has not sent yet.
    pub fn is_catching_up(&self) -> bool {
        self.una < self.restored_below
    }

    pub fn written(&self) -> u64 {
        self.written
    }

    pub fn fin(&self) -> Option<u64> {
        self.fin
    }

    pub fn fin_acked(&self) -> bool {
        self.fin.is_some_and(|fin| self.una > fin)
    }

    /// The peer's window above `una`, in bytes.
    pub fn peer_window(&self) -> u64 {
        self.window.right().saturating_sub(self.una)
    }

    /// Bytes that may be in flight.
    pub fn capacity(&self) -> u64 {
        self.congestion.window().min(self.peer_window())
    }

    pub fn space(&self) -> usize {
        let end = self.fin.unwrap_or(self.una + self.ring.capacity() as u64);
        end.min(self.una + self.ring.capacity() as u64).saturating_sub(self.written) as usize
    }

    pub fn budget(&self) -> usize {
        let end = self.written.max(self.una);
        let window = self.window.right().saturating_sub(end);
        let used = self.board.in_flight() + self.board.lost() + (end - self.next.min(end));
        let room = window.min(self.congestion.window().saturating_sub(used));
        ((end - self.written + room) as usize).min(self.space())
    }

    pub fn write(&mut self, bytes: &[u8]) -> usize {
        let bytes = &bytes[..bytes.len().min(self.space())];
        let known = self.una.saturating_sub(self.written).min(bytes.len() as u64);
        let fresh = &bytes[known as usize..];
        self.ring.write(self.written + known, fresh);
        self.written += bytes.len() as u64;
        bytes.len()
    }

    pub fn skip(&mut self, count: u64) {
        self.written += count.min(self.una.saturating_sub(self.written));
    }

    pub fn finish(&mut self) {
        self.fin.get_or_insert(self.written);
    }

    pub fn set_limit(&mut self, offset: u64) {
        self.limit = self.limit.max(offset);
    }

    /// A round trip that was measured outside of the stream: the handshake's.
    pub fn sample(&mut self, now: Instant, rtt: Duration) {
        self.rtt.sample(now, rtt);
    }

    /// Everything that was sent is taken for lost, and the window starts over.
    pub fn resend_all(&mut self) {
        self.board.lose_all();
    }

    /// Gives the buffer back.
    pub fn free(&mut self) {
        self.ring.free();
    }

    /// The bytes of a piece. Pieces never cross the end of the ring's storage.
    pub fn payload(&self, piece: &Piece) -> &[u8] {
        let end = self.fin.map_or(piece.end, |fin| piece.end.min(fin));
        self.ring.slice(piece.start, end.saturating_sub(piece.start) as usize)
    }

    /// Takes an acknowledgement at or above `una`, not above `known`.
    pub fn on_ack(&mut self, now: Instant, ack: &Acknowledgement) {
        let before = self.board.in_flight();
        let advanced = ack.offset > self.una;
        let delivered = self.deliver(now, ack);
        if advanced || self.window.right() <= self.una {
            // It makes progress, or it says that it cannot.
            self.attempts = 0;
        }
        if advanced {
            let ours = ack.offset <= self.next;
            self.una = ack.offset;
            self.ring.release(self.una);
            self.next = self.next.max(self.una);
            if ours && self.sack && ack.sacks.iter().all(Option::is_none) {
                self.forget_predecessor(now);
            }
            self.backoff = 0;
            self.probe_used = false;
            self.duplicates = 0;
        } else if ack.bare && !self.sack && !self.board.is_empty() {
            self.duplicates += 1;
        }
        self.probe_due &= !self.board.is_empty();
        if self.recovery.as_ref().is_some_and(|recovery| self.una >= recovery.end) {
            self.recovery = None;
        }
        if advanced && self.may_grow(before) {
            let srtt = self.rtt.smoothed().unwrap_or_default();
            self.congestion.on_ack(now, delivered.bytes, srtt);
        }
        self.find_losses(now, advanced);
        if advanced || delivered.bytes > 0 {
            self.arm(now);
        }
    }

    /// Once the peer has acknowledged exactly what this node has sent, and holds nothing beyond,
    /// what another may have sent did not arrive. An acknowledgement of more than this node has sent
    /// tells nothing: it may end at a hole.
    fn forget_predecessor(&mut self, now: Instant) {
        if self.una == self.next && now >= self.settled_at {
            self.known = self.next;
            self.restored_below = self.restored_below.min(self.una);
        }
    }

    fn deliver(&mut self, now: Instant, ack: &Acknowledgement) -> Delivered {
        let least = self.rtt.minimum();
        let mut delivered = self.board.acknowledge(now, ack.offset, least);
        for range in ack.sacks.into_iter().flatten() {
            delivered.bytes += self.board.sack(now, range, least);
        }
        if let Some(sample) = delivered.sample {
            self.rtt.sample(now, sample);
        }
        delivered
    }

    /// Growth while the window is not in use would let it become arbitrary (RFC 9438 section 4.2).
    fn may_grow(&self, in_flight_before: u64) -> bool {
        if self.recovery.as_ref().is_some_and(|recovery| !recovery.timeout) {
            return false;
        }
        let window = self.congestion.window();
        if self.congestion.in_slow_start() {
            in_flight_before * 2 >= window
        } else {
            in_flight_before + 3 * self.mss >= window
        }
    }

    fn find_losses(&mut self, now: Instant, advanced: bool) {
        let found = if self.sack {
            let losses = self.board.detect(now, &self.rtt, self.recovery.is_some());
            self.reorder_at = losses.again_at;
            losses.found
        } else if self.duplicates == DUP_ACKS || (advanced && self.recovery.is_some()) {
            self.board.lose_first();
            self.board.lost() > 0
        } else {
            false
        };
        if found && self.recovery.is_none() {
            self.recovery = Some(Recovery { end: self.next, timeout: false });
            self.congestion.on_loss();
        }
    }

    /// What may leave now, if anything: losses first, then a tail loss probe, then new bytes.
    pub fn next_piece(&self) -> Option<Piece> {
        if let Some((start, end)) = self.board.next_lost() {
            let piece = Piece { start, end, again: true };
            return self.fits(end - start).then_some(piece);
        }
        let fresh = self.fresh();
        if self.probe_due {
            let last = || self.board.last().map(|(start, end)| Piece { start, end, again: true });
            return fresh.or_else(last);
        }
        fresh.filter(|piece| self.fits(piece.end - piece.start))
    }

    /// Notes that `piece` leaves.
    pub fn on_sent(&mut self, now: Instant, piece: &Piece) {
        if piece.again {
            self.board.resend(now, piece.start);
        } else {
            let idle = self.last_sent.is_some_and(|at| now.since(at) > self.rtt.timeout(0));
            if self.board.is_empty() && idle {
                self.congestion.on_idle();
            }
            let ambiguous = piece.start < self.restored_below;
            self.board.push(now, (piece.start, piece.end), ambiguous);
            self.next = piece.end;
        }
        self.last_sent = Some(now);
        let probed = core::mem::take(&mut self.probe_due);
        if self.retransmit_at.is_none() || (self.may_probe() && !piece.again) || probed {
            self.arm(now);
        }
    }

    fn fits(&self, length: u64) -> bool {
        let in_flight = self.board.in_flight();
        in_flight == 0 || in_flight + length <= self.congestion.window()
    }

    /// The next bytes that were never sent by this node.
    fn fresh(&self) -> Option<Piece> {
        if self.board.is_full() {
            return None;
        }
        let start = self.next;
        let queued = match self.fin {
            Some(fin) if self.written >= fin => fin + 1,
            _ => self.written,
        };
        let bytes_end = self.written.min(self.limit);
        let mut end = (start + self.mss).min(bytes_end);
        let window = self.window.right();
        if end > window {
            // A part of what the peer's small window takes goes only when nothing else is on its
            // way (RFC 9293 section 3.8.6.2.1).
            if !self.board.is_empty() {
                return None;
            }
            end = window;
        }
        end = end.max(start);
        end = end.min(start + self.ring.until_boundary(start) as u64).max(start);
        let fin = queued > self.written && end == self.written.max(start) && self.limit >= queued;
        if fin && start < queued && (end < window || self.board.is_empty()) {
            end = queued;
        }
        (end > start).then_some(Piece { start, end, again: false })
    }

    fn may_probe(&self) -> bool {
        self.sack && self.recovery.is_none() && !self.probe_used && self.backoff == 0
    }

    /// Starts the retransmission timer (RFC 6298 section 5, RFC 8985 section 7.2).
    fn arm(&mut self, now: Instant) {
        self.probe_armed = false;
        if self.board.is_empty() {
            self.retransmit_at = None;
            return;
        }
        let rto = self.rtt.timeout(self.backoff);
        self.retransmit_at = Some(now + rto);
        if let Some(srtt) = self.rtt.smoothed().filter(|_| self.may_probe()) {
            let delay = if self.board.is_single() { PEER_ACK_DELAY } else { Duration::ZERO };
            let pto = (srtt * 2 + delay).max(PROBE_MIN);
            if pto < rto {
                self.probe_armed = true;
                self.retransmit_at = Some(now + pto);
            }
        }
    }

    /// Starts or stops the persist timer: a closed window is asked after for as long as the peer
    /// answers, whether or not anything is queued, because what is queued depends on the window.
    pub fn watch_window(&mut self, now: Instant) {
        let closed = self.window.right() <= self.una && self.board.is_empty() && !self.fin_acked();
        if !closed {
            self.persist_at = None;
            self.persist_due = false;
            self.persist_backoff = 0;
        } else if self.persist_at.is_none() && !self.persist_due {
            self.persist_at = Some(now + self.rtt.timeout(self.persist_backoff));
        }
    }

    /// A window probe must leave. It carries no byte: its sequence number is an old one, which
    /// makes every peer answer (RFC 9293 section 3.10.7.4).
    pub fn persist_due(&self) -> bool {
        self.persist_due
    }

    /// Notes that a window probe leaves.
    pub fn on_persist_sent(&mut self, now: Instant) {
        self.persist_due = false;
        self.persist_backoff += 1;
        let delay = self.rtt.timeout(self.persist_backoff).min(RTO_MAX);
        self.persist_at = Some(now + delay);
    }

    /// Nothing is under way, and the peer's window is not closed: no timer asks after the peer.
    pub fn is_quiet(&self) -> bool {
        self.board.is_empty() && self.persist_at.is_none() && !self.persist_due
    }

    pub fn poll_timeout(&self) -> Option<Instant> {
        [self.retransmit_at, self.reorder_at, self.persist_at].into_iter().flatten().min()
    }

    /// Returns false when the peer must be given up.
    pub fn on_timeout(&mut self, now: Instant) -> bool {
        let expired = |at: Option<Instant>| at.is_some_and(|at| at <= now);
        if expired(self.reorder_at) {
            self.reorder_at = None;
            self.find_losses(now, false);
        }
        if expired(self.persist_at) {
            self.persist_at = None;
            self.persist_due = true;
            self.attempts += 1;
        }
        if expired(self.retransmit_at) {
            if core::mem::take(&mut self.probe_armed) {
                self.probe_due = true;
                self.probe_used = true;
                self.retransmit_at = Some(now + self.rtt.timeout(self.backoff));
            } else {
                self.on_retransmission_timeout(now);
            }
        }
        self.attempts <= ATTEMPTS_MAX
    }

    fn on_retransmission_timeout(&mut self, now: Instant) {
        self.attempts += 1;
        self.board.lose_all();
        if self.backoff == 0 {
            self.congestion.on_timeout();
        } else {
            self.congestion.collapse();
        }
        self.recovery = Some(Recovery { end: self.next, timeout: true });
        self.backoff += 1;
        self.retransmit_at = Some(now + self.rtt.timeout(self.backoff));
    }
}
