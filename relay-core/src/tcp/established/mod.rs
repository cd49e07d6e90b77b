//! A synchronized connection: the checks that every segment goes through (RFC 9293 section
//! 3.10.7.4, RFC 5961, RFC 7323), in their order.

mod acks;
mod congestion;
mod episode;
mod flow_control;
mod lag;
mod offer;
mod pacing;
mod patience;
mod rack;
mod rate;
mod receiver;
mod rtt;
mod scoreboard;
mod sender;
mod timers;

use smoltcp::wire::TcpControl;

use super::close::Cause;
use super::connection::Connection;
use super::sequence::is_before;
use crate::frame::TcpRepr;
use crate::reason::Reason;
use crate::time::{Duration, Instant};

use acks::Acknowledgement;
pub use congestion::Algorithm;
pub use lag::Mark;
pub use patience::Limits;
pub(super) use patience::Patience;
pub(super) use receiver::{Receiver, Start as ReceiverStart};
use scoreboard::Blocks;
pub(super) use sender::{Piece, Sender, Start as SenderStart};

/// Least time between two challenge ACKs of a connection (RFC 5961 section 7): enough for every
/// honest use, and it ends any exchange of ACKs about ACKs.
const CHALLENGE_INTERVAL: Duration = Duration::from_millis(100);
/// After so long without a segment timestamps may have wrapped (RFC 7323 section 5.5).
const TIMESTAMP_AGE_MAX: Duration = Duration::from_secs(24 * 24 * 3600);

impl Connection {
    pub(super) fn handle_open(&mut self, now: Instant, segment: &TcpRepr) -> Result<(), Reason> {
        let start = self.inbound.offset(segment.seq_number, self.receiver.wire_ack());
        self.check_timestamp(now, segment)?;
        self.check_sequence(now, start, segment)?;
        match segment.control {
            TcpControl::Rst => return self.handle_reset(now, start),
            TcpControl::Syn => {
                self.challenge(now);
                return Err(Reason::SynChallenged);
            }
            TcpControl::None | TcpControl::Psh | TcpControl::Fin => {}
        }
        let ack = self.check_ack(now, segment)?;
        self.patience.on_heard(now);
        let is_first = self.waking.on_heard();
        self.note_timestamp(now, start, segment);
        if let Some(ack) = ack {
            let right = self.sender.window.right();
            self.handle_ack(now, (start, ack), segment);
            if is_first && segment.payload.is_empty() && self.sender.window.right() > right {
                // What was said before may have been old to the peer, see `Waking::asks`.
                self.receiver.ack_now();
            }
        }
        self.receiver.set_round_trip(self.sender.round_trip());
        let fin = segment.control == TcpControl::Fin;
        let mut taken = Ok(());
        if fin || !segment.payload.is_empty() {
            taken = self.receiver.take(now, start, segment.payload, fin);
        }
        self.observe(now);
        taken
    }

    /// A reset or a SYN at `start` that says exactly what we expect cannot be forged blindly.
    /// Since ACKs are withheld, the peer's idea of our RCV.NXT may be either of three.
    pub(super) fn is_exact(&self, start: i64) -> bool {
        let expected = [self.receiver.acked(), self.receiver.wire_ack(), self.receiver.next()];
        u64::try_from(start).is_ok_and(|start| expected.contains(&start))
    }

    /// Answers something suspicious with an ACK, now and then.
    pub(super) fn challenge(&mut self, now: Instant) {
        if self.challenge_at <= now {
            self.challenge_at = now + CHALLENGE_INTERVAL;
            self.receiver.ack_now();
        }
    }

    /// What follows from a segment that leaves.
    pub(super) fn after_transmit(&mut self, now: Instant) {
        self.observe(now);
    }

    fn observe(&mut self, now: Instant) {
        self.sender.watch_window(now);
        self.patience.watch(now, self.sender.una(), self.sender.is_quiet());
        self.settle(now);
    }

    /// PAWS: RFC 7323 section 5.3.
    fn check_timestamp(&mut self, now: Instant, segment: &TcpRepr) -> Result<(), Reason> {
        let Some(timestamps) = self.options.timestamps else { return Ok(()) };
        if segment.control == TcpControl::Rst {
            return Ok(());
        }
        let Some(theirs) = segment.timestamp else { return Err(Reason::PawsRejected) };
        let is_fresh = now.since(self.timestamp_at) < TIMESTAMP_AGE_MAX;
        if is_fresh && is_before(theirs.tsval, timestamps.recent) {
            self.answer_old(now, segment);
            return Err(Reason::PawsRejected);
        }
        Ok(())
    }

    /// RFC 9293 section 3.10.7.4, first. RCV.NXT is the wire ACK: a peer whose ACK is withheld
    /// sends again what lies above it, and its acknowledgements there are news.
    fn check_sequence(
        &mut self,
        now: Instant,
        start: i64,
        segment: &TcpRepr,
    ) -> Result<(), Reason> {
        // A FIN or a SYN occupies sequence space like a byte.
        let end = start + segment.segment_len() as i64;
        let expected = self.receiver.wire_ack() as i64;
        let limit = self.receiver.limit_of_window() as i64;
        let is_old = if end == start { start < expected } else { end <= expected };
        if start <= limit && !is_old {
            return Ok(());
        }
        if segment.control == TcpControl::Rst && !self.is_exact(start) {
            return Err(Reason::OutOfWindow);
        }
        if segment.control == TcpControl::Rst {
            return Ok(());
        }
        if is_old && matches!(segment.control, TcpControl::Fin | TcpControl::None | TcpControl::Psh)
        {
            self.receiver.note_old(start, end);
        }
        if is_old && segment.segment_len() == 0 {
            self.learn_window(start, segment);
        }
        self.answer_old(now, segment);
        let reason = match segment.control {
            TcpControl::Syn => Reason::SynChallenged,
            _ => Reason::OutOfWindow,
        };
        Err(reason)
    }

    /// Whose window is closed asks for it by an empty segment that is old (as Linux does). It tells its
    /// own window, which may reach further than we know: then the answer has to come from there, see
    /// `Waking::asks`.
    fn learn_window(&mut self, start: i64, segment: &TcpRepr) {
        let Some(ack) = segment.ack_number else { return };
        let una = self.sender.una();
        let ack = self.outbound.offset(ack, una);
        let Ok(ack) = u64::try_from(ack) else { return };
        let scale = self.options.send_wscale.unwrap_or(0);
        let window = u64::from(segment.window_len) << scale;
        let is_known = (una..=self.sender.known()).contains(&ack);
        if is_known && ack + window > self.sender.window.right() {
            self.sender.window.update(start, ack, una, window);
            self.receiver.ack_now();
        }
    }

    /// An unacceptable segment is answered with an ACK: at once when it repeats something, since
    /// the ACK may have been lost; rarely when it is empty, since it may answer our own.
    fn answer_old(&mut self, now: Instant, segment: &TcpRepr) {
        if segment.payload.is_empty() && segment.control != TcpControl::Fin {
            self.challenge(now);
        } else {
            self.receiver.ack_now();
        }
    }

    /// RFC 5961 section 3.2.
    fn handle_reset(&mut self, now: Instant, start: i64) -> Result<(), Reason> {
        if self.is_exact(start) {
            match self.outlives_peer && self.receiver.fin_received() && self.sender.is_fin_sent() {
                true => self.outlive(now),
                false => self.close(Cause::Reset),
            }
            return Ok(());
        }
        self.challenge(now);
        Err(Reason::RstChallenged)
    }

    /// A reset in CLOSING or LAST-ACK is no failure (RFC 9293 section 3.10.7.4): the peer was done, and has
    /// forgotten the connection when a new owner woke it. It needs nothing more; what it said stays.
    fn outlive(&mut self, now: Instant) {
        let everything = Acknowledgement {
            offset: self.sender.known(),
            sacks: [None; 3],
            holds_more: false,
            duplicate: None,
            bare: false,
            echo: None,
        };
        self.sender.on_ack(now, &everything);
        self.settle(now);
    }

    /// RFC 5961 section 5: what lies beyond all that was ever sent, or before the largest window,
    /// is a guess. Returns the offset, or none when only the segment's data counts: after a
    /// takeover the peer may acknowledge more than this node has heard of.
    fn check_ack(&mut self, now: Instant, segment: &TcpRepr) -> Result<Option<u64>, Reason> {
        let una = self.sender.una();
        let ack = segment.ack_number.ok_or(Reason::AckUnacceptable)?;
        let ack = self.outbound.offset(ack, una);
        if ack > self.sender.known() as i64 {
            self.challenge(now);
            let clamped = self.sender.is_catching_up();
            return if clamped { Ok(None) } else { Err(Reason::AckUnacceptable) };
        }
        if ack < una as i64 - self.sender.window.largest() as i64 {
            self.challenge(now);
            return Err(Reason::AckUnacceptable);
        }
        // Not older than `una`, so not negative.
        Ok(u64::try_from(ack).ok().filter(|ack| *ack >= una))
    }

    /// RFC 7323 section 4.3, and our own timestamps after a takeover.
    fn note_timestamp(&mut self, now: Instant, start: i64, segment: &TcpRepr) {
        let (Some(ours), Some(theirs)) = (&mut self.options.timestamps, segment.timestamp) else {
            return;
        };
        let is_fresh = now.since(self.timestamp_at) < TIMESTAMP_AGE_MAX;
        let is_newer = !is_fresh || !is_before(theirs.tsval, ours.recent);
        if start <= self.receiver.acked() as i64 && is_newer {
            ours.recent = theirs.tsval;
            self.timestamp_at = now;
        }
        if self.sender.is_catching_up() {
            // The node before us may have had a clock that was ahead.
            ours.raise(now, theirs.tsecr);
        }
    }

    fn handle_ack(&mut self, now: Instant, (start, ack): (i64, u64), segment: &TcpRepr) {
        let una = self.sender.una();
        let scale = self.options.send_wscale.unwrap_or(0);
        let window = u64::from(segment.window_len) << scale;
        let bare = segment.payload.is_empty()
            && segment.control != TcpControl::Fin
            && ack + window == self.sender.window.right();
        let (sacks, duplicate) = self.sack_blocks(segment, ack);
        let catching_up = self.sender.is_catching_up();
        self.sender.window.update(start, ack, una, window);
        let echo = self.echo(now, segment);
        let holds_more = self.holds_more(segment, ack);
        let ack_now = Acknowledgement { offset: ack, sacks, holds_more, duplicate, bare, echo };
        self.sender.on_ack(now, &ack_now);
        // Our waking ACK was old to this peer, so it was ignored.
        self.waking.due |= catching_up && ack > una && self.waking.was_old(ack);
    }

    /// The SACK blocks as offsets, cut to what was sent, and the duplicate that the first of them may
    /// report instead: it lies below the acknowledgement or within the second (RFC 2883 section 4).
    fn sack_blocks(&self, segment: &TcpRepr, ack: u64) -> (Blocks, Option<(u64, u64)>) {
        if !self.options.sack {
            return ([None; 3], None);
        }
        let [first, second, third] = segment.sack_ranges.map(|range| self.sack_block(range?, ack));
        let is_sack = |block: &(u64, u64)| ack < block.0;
        let repeats = |(start, end): &(u64, u64)| {
            let within = |outer: (u64, u64)| outer.0 <= *start && *end <= outer.1;
            *end <= ack || second.filter(is_sack).is_some_and(within)
        };
        let sacks = [first, second, third].map(|block| block.filter(is_sack));
        (sacks, first.filter(repeats))
    }

    /// Whether the peer reports bytes above `ack`: those that only a former node has sent, too.
    fn holds_more(&self, segment: &TcpRepr, ack: u64) -> bool {
        let offset = |sequence: u32| {
            let sequence = smoltcp::wire::TcpSeqNumber(sequence as i32);
            self.outbound.offset(sequence, ack)
        };
        segment.sack_ranges.iter().flatten().any(|(_, right)| offset(*right) > ack as i64)
    }

    fn sack_block(&self, (left, right): (u32, u32), ack: u64) -> Option<(u64, u64)> {
        let offset = |sequence: u32| {
            let sequence = smoltcp::wire::TcpSeqNumber(sequence as i32);
            u64::try_from(self.outbound.offset(sequence, ack)).ok()
        };
        let (start, end) = (offset(left)?, offset(right)?.min(self.sender.next()));
        (start < end).then_some((start, end))
    }

    /// When our segment was sent whose timestamp is echoed, in milliseconds. Timestamps of the node
    /// before us tell nothing.
    fn echo(&self, now: Instant, segment: &TcpRepr) -> Option<u64> {
        let (ours, theirs) = (self.options.timestamps?, segment.timestamp?);
        if self.sender.is_catching_up() {
            return None;
        }
        let age = ours.value(now).wrapping_sub(theirs.tsecr);
        // What seems to come from the future was never sent.
        (age < 1 << 31).then(|| now.as_millis().saturating_sub(u64::from(age)))
    }
}
