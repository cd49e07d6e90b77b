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
}

impl Waking {
    /// The ACK leaves next. It is sent again when the peer has sent so much that it may be `in_swing`:
    /// others know everything.
    pub fn begin(&mut self, in_swing: bool) {
        *self = Waking { due: true, is_urgent: in_swing, ..Waking::default() };
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

    /// The peer has said something.
    pub fn on_heard(&mut self) {
        self.again_at = None;
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
        }
    }
}
