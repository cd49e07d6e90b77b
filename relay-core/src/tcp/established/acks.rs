//! What the sender makes of an acknowledgement.

use super::congestion::{Ack, Prr};
use super::episode::{Frto, Kind, Recovery, Undo};
use super::scoreboard::{Blocks, Delivered};
use super::sender::Sender;
use crate::time::Instant;

/// Duplicate ACKs that mean a loss when the peer has no SACK (RFC 5681 section 3.2).
pub(super) const DUP_ACKS: u32 = 3;

/// An acceptable acknowledgement, in offsets.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Acknowledgement {
    pub offset: u64,
    pub sacks: Blocks,
    /// The peer holds bytes above `offset`, whoever has sent them.
    pub holds_more: bool,
    /// Bytes that arrived twice (RFC 2883).
    pub duplicate: Option<(u64, u64)>,
    /// It carries neither data nor a new window: the duplicate ACK of RFC 5681 section 2.
    pub bare: bool,
    /// When our segment was sent whose timestamp is echoed, in milliseconds.
    pub echo: Option<u64>,
}

impl Sender {
    /// Takes an acknowledgement at or above `una`, not above `known`.
    pub fn on_ack(&mut self, now: Instant, ack: &Acknowledgement) {
        let before = self.pipe();
        let advanced = ack.offset > self.una;
        let delivered = self.deliver(now, ack);
        if advanced || self.window.right() <= self.una {
            // It makes progress, or it says that it cannot.
            self.attempts = 0;
        }
        if advanced {
            self.advance(now, ack);
        } else if ack.bare && !self.sack && !self.board.is_empty() {
            self.duplicates += 1;
        }
        self.probe_due &= !self.board.is_empty();
        self.note_duplicate(ack);
        self.judge_probe(ack, advanced, &delivered);
        self.go_on_recovering(ack, advanced, &delivered);
        let lost = self.find_losses(now, advanced);
        self.control(now, (before, lost), &delivered, advanced);
        if advanced || delivered.bytes > 0 {
            self.arm(now);
        }
    }

    fn deliver(&mut self, now: Instant, ack: &Acknowledgement) -> Delivered {
        self.board.rack.echo = ack.echo;
        self.board.rack.set_min_rtt(self.rtt.minimum());
        let mut delivered = Delivered::default();
        self.board.acknowledge(now, ack.offset, &mut delivered);
        self.board.sack(now, &ack.sacks, &mut delivered);
        if let (Some(oldest), Some(newest)) = (delivered.oldest, delivered.newest) {
            self.rtt.sample(now.since(oldest));
            self.rtt.sample_minimum(now, now.since(newest));
        }
        delivered
    }

    fn advance(&mut self, now: Instant, ack: &Acknowledgement) {
        let ours = ack.offset <= self.next;
        self.una = ack.offset;
        self.release_acked();
        self.next = self.next.max(self.una);
        if ours && self.sack && !ack.holds_more {
            self.forget_predecessor(now);
        }
        self.backoff = 0;
        self.probe_used = false;
        self.duplicates = 0;
        if self.undo.as_ref().and_then(|undo| undo.until).is_some_and(|until| self.una >= until) {
            self.undo = None;
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

    /// A duplicate that the network did not make is one of ours (RFC 3708): RACK gets more patient,
    /// unless it was a tail loss probe.
    fn note_duplicate(&mut self, ack: &Acknowledgement) {
        let Some((start, end)) = ack.duplicate else { return };
        let segments = (end - start).div_ceil(self.mss);
        self.duplicated += segments;
        if self.duplicated > self.resent || start < self.restored_below {
            return;
        }
        if !self.probe.is_some_and(|probe| probe.again && probe.end == end) {
            self.board.rack.on_duplicate(self.una, self.next);
        }
        if let Some(undo) = &mut self.undo {
            undo.on_duplicate(end, segments);
        }
    }

    /// A tail loss probe that repaired a loss is a sign of congestion like any other (RFC 8985
    /// section 7.4.2).
    fn judge_probe(&mut self, ack: &Acknowledgement, advanced: bool, delivered: &Delivered) {
        let Some(probe) = self.probe.filter(|probe| ack.offset >= probe.end) else { return };
        let both_arrived = ack.duplicate.is_some_and(|(_, end)| end == probe.end);
        let is_repeated = !advanced && ack.bare && delivered.bytes == 0;
        if !probe.again || both_arrived {
            self.probe = None;
        } else if ack.offset > probe.end {
            self.probe = None;
            if self.recovery.is_none() {
                let _ = self.congestion.on_loss(self.pipe());
                self.congestion.on_recovered();
            }
        } else if is_repeated {
            self.probe = None;
        }
    }

    fn go_on_recovering(&mut self, ack: &Acknowledgement, advanced: bool, delivered: &Delivered) {
        let (duplicates, late) = self.undo.as_ref().map_or((false, false), |undo| {
            let late = advanced && undo.is_answer_to_first(ack.echo);
            (undo.all_duplicates(), late && self.may_be_late())
        });
        if late {
            self.board.rack.on_late();
        }
        if duplicates || late || self.was_spurious(advanced, delivered) {
            self.take_back();
        }
        if self.recovery.as_ref().is_some_and(|recovery| self.una >= recovery.end) {
            self.recovery = None;
            self.congestion.on_recovered();
            self.board.rack.on_recovered();
            if let Some(undo) = &mut self.undo {
                undo.until = Some(self.next);
            }
        }
    }

    /// Whether an answer to what was sent before all retransmissions takes everything back: while some
    /// are on their way, other segments may have been lost.
    fn may_be_late(&self) -> bool {
        match &self.recovery {
            Some(Recovery { kind: Kind::Fast(_), end }) => {
                self.una >= *end || self.board.flying_again() == 0
            }
            Some(Recovery { kind: Kind::Timeout(_), .. }) => true,
            None => false,
        }
    }

    /// F-RTO, steps 2 and 3: whether the timeout was spurious, because something arrived that was
    /// sent just once.
    fn was_spurious(&mut self, advanced: bool, delivered: &Delivered) -> bool {
        let can_send_new = self.fresh().is_some();
        let (una, next) = (self.una, self.next);
        let Some(Recovery { end, kind: Kind::Timeout(frto) }) = &mut self.recovery else {
            return false;
        };
        if *frto == Frto::Off || una >= *end {
            return *frto != Frto::Off && delivered.original.is_some_and(|at| at <= *end);
        }
        if delivered.original.is_some_and(|at| at <= *end) {
            return true;
        }
        match *frto {
            Frto::First if advanced && can_send_new => {
                *frto = Frto::SendNew;
                *end = next;
            }
            Frto::SendNew if next <= *end && !advanced => {}
            _ => *frto = Frto::Off,
        }
        false
    }

    /// Nothing had been lost.
    fn take_back(&mut self) {
        self.congestion.undo();
        self.board.unlose();
        self.undo = None;
        self.recovery = None;
        self.backoff = 0;
    }

    /// Bytes that were found lost.
    pub(super) fn find_losses(&mut self, now: Instant, advanced: bool) -> u64 {
        let lost = if self.sack {
            let window =
                self.board.rack.window(&self.rtt, self.recovery.is_some(), self.board.sacked());
            let losses = self.board.detect(now, window);
            self.reorder_at = losses.again_at;
            losses.bytes
        } else if self.duplicates == DUP_ACKS || (advanced && self.recovery.is_some()) {
            self.board.lose_first()
        } else {
            0
        };
        if lost > 0 && self.recovery.is_none() {
            let before = self.congestion.window();
            let target = self.congestion.on_loss(self.pipe() + lost);
            let prr = target.map(|target| Prr::new(self.mss, before, target));
            self.recovery = Some(Recovery { end: self.next, kind: Kind::Fast(prr) });
            self.undo = Some(Undo::new(self.una));
        }
        lost
    }

    /// What congestion control makes of it.
    fn control(
        &mut self,
        now: Instant,
        (before, lost): (u64, u64),
        delivered: &Delivered,
        advanced: bool,
    ) {
        // A duplicate ACK without SACK tells that one segment has arrived.
        let is_duplicate = !self.sack && !advanced && self.duplicates > 0 && self.pipe() > 0;
        let bytes = if is_duplicate { self.mss } else { delivered.bytes };
        let in_flight = self.pipe();
        let ack = Ack {
            now,
            bytes: delivered.bytes,
            una: self.una,
            next: self.next,
            in_flight_before: before,
            in_flight,
            is_limited: self.is_limited(),
            in_recovery: matches!(&self.recovery, Some(Recovery { kind: Kind::Fast(_), .. })),
            round_trip: delivered.newest.map(|at| now.since(at)),
            rtt: &self.rtt,
            lost,
            sample: self.board.rate.sample(now, self.rtt.minimum()),
        };
        if delivered.bytes > 0 || lost > 0 {
            self.congestion.on_ack(&ack);
        }
        if let Some(Recovery { kind: Kind::Fast(Some(prr)), .. }) = &mut self.recovery {
            prr.on_ack(bytes, in_flight, advanced && lost == 0);
        }
        self.pacer.set_rate(self.congestion.pacing_rate(&self.rtt));
    }

    /// Growth while the window is not in use would let it become arbitrary (RFC 9438 section 4.2,
    /// RFC 7661).
    fn is_limited(&self) -> bool {
        let window = self.congestion.window();
        if self.congestion.in_slow_start() {
            self.peak * 2 >= window
        } else {
            self.peak + 3 * self.mss >= window
        }
    }
}
