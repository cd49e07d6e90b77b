//! The sender's timers: retransmission (RFC 6298), tail loss probe (RFC 8985 section 7), the end
//! of a reordering window, persist.

use super::episode::{Frto, Kind, Recovery, Undo};
use super::rtt::RTO_MAX;
use super::sender::Sender;
use crate::time::{Duration, Instant};

/// Retransmissions of one segment, or unanswered window probes, before the peer counts as gone
/// (eight minutes or more; RFC 9293
/// section 3.8.3 asks for at least 100 s).
const ATTEMPTS_MAX: u32 = 15;
/// How long a peer may delay the ACK of a lone segment (RFC 8985 section 7.2).
const PEER_ACK_DELAY: Duration = Duration::from_millis(200);
/// Lower bound of the probe timeout: below it timers are noise.
const PROBE_MIN: Duration = Duration::from_millis(10);

impl Sender {
    /// Whether the next timer is that of a tail loss probe.
    pub(super) fn may_probe(&self) -> bool {
        let is_calm = self.recovery.is_none() && self.board.sacked() == 0 && self.backoff == 0;
        self.sack && is_calm && !self.probe_used && self.probe.is_none()
    }

    /// Starts the retransmission timer (RFC 6298 section 5, RFC 8985 section 7.2).
    pub(super) fn arm(&mut self, now: Instant) {
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
            self.probe_armed = true;
            self.retransmit_at = Some(now + pto.min(rto));
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

    /// When [`on_timeout`](Self::on_timeout) has something to do, or a segment may leave.
    pub fn poll_timeout(&self) -> Option<Instant> {
        let paced = self.pacer.next_at().filter(|_| self.wanted().is_some());
        let timers = [self.retransmit_at, self.reorder_at, self.persist_at, paced];
        timers.into_iter().flatten().min()
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
        let rack = &self.board.rack;
        let patience = rack.newest().map_or(Duration::ZERO, |(_, rtt)| {
            rtt + rack.window(&self.rtt, self.recovery.is_some(), self.board.sacked())
        });
        let since = Instant::from_nanos(now.since(Instant::ZERO + patience).as_nanos() as u64);
        self.board.lose_until(since);
        let anew = self.recovery.is_none();
        self.congestion.on_timeout(anew, self.board.in_flight());
        if anew {
            self.undo = Some(Undo::new(self.una));
        }
        let frto = if self.sack { Frto::First } else { Frto::Off };
        self.recovery = Some(Recovery { end: self.next, kind: Kind::Timeout(frto) });
        self.probe = None;
        self.backoff += 1;
        self.retransmit_at = Some(now + self.rtt.timeout(self.backoff));
    }
}
