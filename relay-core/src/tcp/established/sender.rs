//! The sending half: what is queued, what may leave, and what must leave again.

use super::congestion::{Algorithm, Congestion, INITIAL_SEGMENTS};
use super::episode::{Frto, Kind, Probe, Recovery, Undo};
use super::flow_control::SendWindow;
use super::pacing::Pacer;
use super::rtt::Rtt;
use super::scoreboard::Scoreboard;
use crate::tcp::ring::{Memory, Ring};
use crate::time::{Duration, Instant};

/// How long segments of the node before us, and the answers to them, may still be under way.
const PREDECESSOR: Duration = Duration::from_secs(1);
/// Bytes above the congestion window, and its share above, that are asked for: what is written has
/// to be committed before it leaves, and the window is to be in use in the meantime. While the share
/// is there, there is room for two whole records.
const BUDGET_EXTRA: u64 = 32 * 1024;
const BUDGET_SHARE: u64 = 4;
/// Duplicate ACKs of a peer without SACK that each let a new segment out (RFC 3042).
const LIMITED_TRANSMIT: u32 = 2;

/// Timeouts in a row after which segments are tried that are smaller (Linux: `tcp_retries1`).
const BLACK_HOLE_TIMEOUTS: u32 = 3;

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
    pub congestion: Algorithm,
}

/// A piece of the stream that leaves now; the FIN is the byte behind the last one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Piece {
    pub start: u64,
    pub end: u64,
    /// It was sent before by this node.
    pub again: bool,
}

/// The sending half of a connection. All offsets count the FIN as one byte.
#[derive(Debug)]
pub(crate) struct Sender {
    ring: Ring,
    pub(super) mss: u64,
    pub(super) sack: bool,
    /// SND.UNA.
    pub(super) una: u64,
    /// SND.NXT of this node.
    pub(super) next: u64,
    written: u64,
    fin: Option<u64>,
    limit: u64,
    pub(super) known: u64,
    /// What lies below was possibly sent by another node.
    pub(super) restored_below: u64,
    /// From then on the peer's acknowledgements answer this node only.
    pub(super) settled_at: Instant,
    pub window: SendWindow,
    pub(super) board: Scoreboard,
    pub(super) congestion: Box<dyn Congestion>,
    pub(super) pacer: Pacer,
    pub(super) rtt: Rtt,
    pub(super) recovery: Option<Recovery>,
    pub(super) undo: Option<Undo>,
    /// Of a peer without SACK.
    pub(super) duplicates: u32,
    /// Segments that this node sent again.
    pub(super) resent: u64,
    /// Segments that the peer reported as duplicates.
    pub(super) duplicated: u64,
    /// Most bytes in flight since `peak_end` was the next offset, until it is acknowledged.
    pub(super) peak: u64,
    peak_end: u64,
    /// RTO or, when `probe_armed`, PTO.
    pub(super) retransmit_at: Option<Instant>,
    pub(super) probe_armed: bool,
    pub(super) probe_due: bool,
    /// One tail loss probe in each flight.
    pub(super) probe_used: bool,
    pub(super) probe: Option<Probe>,
    pub(super) reorder_at: Option<Instant>,
    pub(super) persist_at: Option<Instant>,
    pub(super) persist_due: bool,
    pub(super) backoff: u32,
    pub(super) persist_backoff: u32,
    pub(super) attempts: u32,
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
            congestion: start.congestion.begin(mss),
            pacer: Pacer::default(),
            rtt: Rtt::default(),
            recovery: None,
            undo: None,
            duplicates: 0,
            resent: 0,
            duplicated: 0,
            peak: 0,
            peak_end: 0,
            retransmit_at: None,
            probe_armed: false,
            probe_due: false,
            probe_used: false,
            probe: None,
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

    /// Whether any node may have sent the FIN.
    pub fn is_fin_sent(&self) -> bool {
        self.fin.is_some_and(|fin| self.known() > fin)
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

    /// What the buffer takes.
    pub fn memory(&self) -> Memory {
        self.ring.memory(self.written.saturating_sub(self.una))
    }

    pub fn space(&self) -> usize {
        let end = self.fin.unwrap_or(self.una + self.ring.capacity() as u64);
        end.min(self.una + self.ring.capacity() as u64).saturating_sub(self.written) as usize
    }

    /// Bytes that should be written: those that the peer's window takes and that congestion control
    /// will let out soon.
    pub fn budget(&self) -> usize {
        let end = self.written.max(self.una);
        let window = self.window.right().saturating_sub(end);
        let used = self.board.in_flight() + self.board.lost() + (end - self.next.min(end));
        let allowed = self.allowed();
        let allowed = allowed + allowed / BUDGET_SHARE + BUDGET_EXTRA;
        let room = window.min(allowed.saturating_sub(used));
        ((end - self.written + room) as usize).min(self.space())
    }

    /// Whether so much is queued that the congestion window stays in use for a while, even if nothing
    /// is written now.
    pub fn is_supplied(&self) -> bool {
        self.written.saturating_sub(self.next) >= self.allowed() / BUDGET_SHARE
    }

    pub fn write(&mut self, bytes: &[u8]) -> usize {
        let bytes = &bytes[..bytes.len().min(self.space())];
        self.note_starved();
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

    /// What lies below may leave.
    pub fn limit(&self) -> u64 {
        self.limit
    }

    pub fn set_limit(&mut self, offset: u64) {
        self.note_starved();
        self.limit = self.limit.max(offset);
    }

    /// A round trip that was measured outside of the stream: the handshake's.
    pub fn sample(&mut self, now: Instant, rtt: Duration) {
        self.rtt.sample(rtt);
        self.rtt.sample_minimum(now, rtt);
    }

    /// The smoothed round trip; zero before the first sample.
    pub fn round_trip(&self) -> Duration {
        self.rtt.smoothed().unwrap_or_default()
    }

    /// Everything that was sent is taken for lost, and the window starts over.
    pub fn resend_all(&mut self) {
        self.board.lose_until(Instant::from_nanos(u64::MAX));
    }

    /// Forgets what is acknowledged.
    pub(super) fn release_acked(&mut self) {
        self.ring.release(self.una);
    }

    /// The path takes segments of `mss` bytes at most.
    pub fn shrink(&mut self, mss: u16) {
        self.mss = self.mss.min(mss.into());
        self.board.refit(self.mss);
    }

    /// The oldest bytes that are under way have not arrived however often they were sent, and fill a
    /// segment: a router may drop what is so large, and keep it to itself (RFC 2923 section 2.1).
    pub fn is_swallowed(&self) -> bool {
        self.backoff >= BLACK_HOLE_TIMEOUTS
            && self.board.first().is_some_and(|(start, end)| end - start >= self.mss)
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

    /// What may leave now, if anything: losses first, then a tail loss probe, then new bytes.
    pub fn next_piece(&self, now: Instant) -> Option<Piece> {
        if self.probe_due && self.board.lost() == 0 {
            let last = || self.board.last().map(|(start, end)| Piece { start, end, again: true });
            return self.fresh().or_else(last);
        }
        self.wanted().filter(|_| self.pacer.permits(now))
    }

    /// What the windows let out.
    pub(super) fn wanted(&self) -> Option<Piece> {
        let frto = match self.recovery {
            Some(Recovery { kind: Kind::Timeout(frto), .. }) => frto,
            _ => Frto::Off,
        };
        let fits = |piece: &Piece| self.fits(piece.end - piece.start);
        if let Some((start, end)) = self.board.next_lost().filter(|_| frto != Frto::SendNew) {
            return Some(Piece { start, end, again: true }).filter(fits);
        }
        self.fresh().filter(fits)
    }

    /// Notes that `piece` leaves.
    pub fn on_sent(&mut self, now: Instant, piece: &Piece) {
        let probed = core::mem::take(&mut self.probe_due);
        if piece.again {
            self.board.resend(now, piece.start);
            self.resent += 1;
            if let Some(undo) = self.undo.as_mut().filter(|_| self.recovery.is_some()) {
                undo.on_resent(now);
            }
        } else {
            self.note_idle(now);
            let ambiguous = piece.start < self.restored_below;
            self.board.push(now, (piece.start, piece.end), ambiguous);
            self.next = piece.end;
        }
        if probed {
            self.probe = Some(Probe { end: self.next, again: piece.again });
        }
        self.last_sent = Some(now);
        self.note_sent(now, piece.end - piece.start);
        if self.retransmit_at.is_none() || (self.may_probe() && !piece.again) || probed {
            self.arm(now);
        }
    }

    fn note_idle(&mut self, now: Instant) {
        if let Some(last) = self.last_sent.filter(|_| self.board.is_empty()) {
            self.congestion.on_idle(now.since(last), self.rtt.timeout(0));
            self.pacer.set_rate(self.congestion.pacing_rate(&self.rtt));
            let burst = INITIAL_SEGMENTS * self.mss;
            if self.resent == 0 && self.congestion.window() < 2 * burst {
                // An initial window need not be spread (RFC 6928): that would cost half a round
                // trip, which slow start never makes up for.
                self.pacer.grant(burst);
            }
        }
    }

    fn note_sent(&mut self, now: Instant, bytes: u64) {
        self.pacer.on_sent(now, bytes, self.mss);
        let in_flight = self.pipe();
        if self.una >= self.peak_end {
            (self.peak, self.peak_end) = (in_flight, self.next);
        }
        self.peak = self.peak.max(in_flight);
        if let Some(Recovery { kind: Kind::Fast(Some(prr)), .. }) = &mut self.recovery {
            prr.on_sent(bytes);
        }
    }

    /// The rate at which is delivered what the application is slow to write tells nothing.
    fn note_starved(&mut self) {
        let end = self.written.min(self.limit);
        if self.next >= end && self.board.lost() == 0 && self.pipe() < self.allowed() {
            self.board.rate.on_starved(self.pipe());
        }
    }

    /// Bytes in flight, as far as the peer tells. Without SACK a duplicate ACK tells that a segment
    /// has arrived; before a recovery that lets two new ones out.
    pub(super) fn pipe(&self) -> u64 {
        let most = if self.recovery.is_some() { u32::MAX } else { LIMITED_TRANSMIT };
        let arrived = u64::from(self.duplicates.min(most)) * self.mss;
        self.board.in_flight().saturating_sub(arrived)
    }

    /// Bytes that may be in flight.
    pub(super) fn allowed(&self) -> u64 {
        match &self.recovery {
            Some(Recovery { kind: Kind::Fast(Some(prr)), .. }) => prr.window(),
            _ => self.congestion.window(),
        }
    }

    fn fits(&self, length: u64) -> bool {
        self.board.in_flight() == 0 || self.pipe() + length <= self.allowed()
    }

    /// The next bytes that were never sent by this node.
    pub(super) fn fresh(&self) -> Option<Piece> {
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
}
