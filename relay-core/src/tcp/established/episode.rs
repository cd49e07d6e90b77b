//! A period in which losses are repaired, and the signs that nothing had been lost: DSACK (RFC
//! 2883, 3708), old timestamps (Eifel, RFC 3522) and F-RTO (RFC 5682).

use super::congestion::Prr;
use crate::time::Instant;

/// A period in which losses are repaired.
#[derive(Debug)]
pub(super) struct Recovery {
    /// It ends when everything below is acknowledged.
    pub end: u64,
    pub kind: Kind,
}

/// What began it.
#[derive(Debug)]
pub(super) enum Kind {
    /// Losses that acknowledgements told of. The window follows PRR, unless the algorithm of
    /// congestion control has its own way.
    Fast(Option<Prr>),
    /// The retransmission timer: the window grows meanwhile.
    Timeout(Frto),
}

/// F-RTO with SACK (RFC 5682 section 3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Frto {
    /// The first segment was sent again; the next acknowledgement tells more.
    First,
    /// It advanced, so new segments leave, and nothing else before they are answered.
    SendNew,
    /// The timeout was real, or nobody can tell.
    Off,
}

/// What it takes to see that a recovery was for nothing.
#[derive(Debug)]
pub(super) struct Undo {
    /// SND.UNA when it began.
    marker: u64,
    /// Segments that were sent again and not reported as duplicates; none before the first.
    resent: Option<u64>,
    /// When the first of them left.
    first_resent: Option<Instant>,
    /// The recovery is over, and what was sent by then is not acknowledged yet.
    pub until: Option<u64>,
}

impl Undo {
    pub fn new(una: u64) -> Self {
        Undo { marker: una, resent: None, first_resent: None, until: None }
    }

    pub fn on_resent(&mut self, now: Instant) {
        self.first_resent.get_or_insert(now);
        self.resent = Some(self.resent.unwrap_or(0) + 1);
    }

    /// The peer reports bytes up to `end` as duplicates: so many segments.
    pub fn on_duplicate(&mut self, end: u64, segments: u64) {
        if end > self.marker
            && let Some(resent) = &mut self.resent
        {
            *resent = resent.saturating_sub(segments);
        }
    }

    /// Everything that was sent again was a duplicate.
    pub fn all_duplicates(&self) -> bool {
        self.resent == Some(0)
    }

    /// An acknowledgement that advances answers something that was sent at `echo` (in
    /// milliseconds), before anything was sent again.
    pub fn is_answer_to_first(&self, echo: Option<u64>) -> bool {
        match (echo, self.first_resent) {
            (Some(echo), Some(first)) => echo < first.as_millis(),
            _ => false,
        }
    }
}

/// The outstanding tail loss probe (RFC 8985 section 7.4).
#[derive(Clone, Copy, Debug)]
pub(super) struct Probe {
    /// TLP.end_seq.
    pub end: u64,
    /// It repeats the last segment: TLP.is_retrans.
    pub again: bool,
}
