//! The ACK that wakes the peer of a connection that another node goes on with.

use crate::time::{Duration, Instant};

/// After so long without an answer the ACK is sent again: the path may have lost it. What it says is
/// news to the peer only once, so that more of them do no harm.
const REPEATS: [Duration; 2] = [Duration::from_millis(4), Duration::from_millis(16)];

/// Whether the ACK has left.
#[derive(Debug, Default)]
pub(super) struct Waking {
    /// It leaves before anything else.
    pub due: bool,
    /// It may tell news that many bytes wait for.
    is_urgent: bool,
    /// Its sequence number as an offset, when it left last.
    sent: Option<u64>,
    repeats: usize,
    again_at: Option<Instant>,
    /// Nothing was heard of the peer yet.
    is_first: bool,
    /// The peer has to say how far its window reaches.
    asks: bool,
}

impl Waking {
    /// The ACK leaves next. It is sent again when the peer has sent so much that it may be `in_swing`:
    /// others know everything.
    pub fn begin(&mut self, in_swing: bool) {
        *self = Waking { due: true, is_urgent: in_swing, is_first: true, ..Waking::default() };
    }

    /// An ACK leaves at `offset`; it counts if one was due.
    pub fn on_ack(&mut self, now: Instant, offset: u64) {
        if core::mem::take(&mut self.due) {
            self.sent = Some(offset);
            let repeat = REPEATS.get(self.repeats).filter(|_| self.is_urgent);
            self.again_at = repeat.map(|time| now + *time);
            self.repeats += 1;
        }
    }

    /// The peer has said something; true if that is the first that was heard of one that may have filled our
    /// window.
    pub fn on_heard(&mut self) -> bool {
        (self.again_at, self.asks) = (None, false);
        core::mem::take(&mut self.is_first) && self.is_urgent
    }

    /// Whether the peer is to be asked, by a segment that it has to answer. It may be silent since its window
    /// toward it is closed, and ignore the one that our ACK offers: a peer takes a window from a segment
    /// only if none with a higher sequence number has set it before (RFC 9293 section 3.10.7.4, SND.WL1),
    /// and the node before us may have known of a window of its own that reaches further.
    pub fn asks(&self) -> bool {
        self.asks && !self.due
    }

    /// The peer is asked.
    pub fn on_asked(&mut self) {
        self.asks = false;
    }

    /// The peer acknowledges up to `ack`. Above our ACK's sequence number that was old to it, so
    /// that it was ignored (rule 16).
    pub fn was_old(&self, ack: u64) -> bool {
        self.sent.is_some_and(|at| ack > at)
    }

    pub fn poll_timeout(&self) -> Option<Instant> {
        self.again_at
    }

    pub fn on_timeout(&mut self, now: Instant) {
        if self.again_at.is_some_and(|at| at <= now) {
            self.again_at = None;
            self.due = true;
            // An answer would end the repetition.
            self.asks = self.repeats == REPEATS.len();
        }
    }
}
