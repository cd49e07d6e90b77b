//! The lag: on a leg in full swing the wire ACK stays some segments behind what may be
//! acknowledged, so that a node that takes over has something true to say that wakes the peer.
//!
//! Linux resumes at once when a few segments above SND.UNA are SACKed and one below them is not: it
//! repeats the hole, and what follows from our answer (RFC 8985 section 6) is that everything else
//! is lost, too. Without news it waits for its timeout of 200 ms or more.
//!
//! On a leg with small flights four segments would be much. There the ACK stays one segment behind:
//! an ACK that advances lets the peer send, and what follows from our answer to that is the same.

use core::ops::RangeInclusive;
use std::collections::VecDeque;

use crate::time::{Duration, Instant};

/// Segments that the wire ACK stays behind: a hole of one, and three that are SACKed above it
/// (DupThresh of RFC 6675 section 2: with fewer of them a sender waits for reordering).
const SEGMENTS: usize = 4;
/// A leg without a segment for this long pauses: no more than one segment is kept back.
const PAUSE: Duration = Duration::from_millis(5);
/// A leg without a segment for a round trip, within these bounds, is idle: everything is
/// acknowledged. The next flight would have come by then.
const IDLE: RangeInclusive<Duration> = PAUSE..=Duration::from_millis(50);
/// A leg is in full swing when so many bytes have come since it was idle. Requests and responses
/// stay below it, and are acknowledged without delay.
const BULK: u64 = 64 * 1024;
/// The same after bytes out of order: with one loss in a hundred segments, when congestion windows
/// are small, a leg hardly ever comes that far.
const BULK_AFTER_LOSS: u64 = 1024 * 1024;
/// The peer has to have shown that it sends so many segments ahead of our ACKs, lest the lag takes
/// much of a small congestion window.
const FLIGHT_MIN: u64 = 16;
/// For a lag of one segment a leg needs so many bytes in order, and so many segments without a
/// pause between them: a lag takes little of such a congestion window.
const SWING: u64 = 32 * 1024;
const TRAIN_MIN: u64 = 6;
/// Runs of segments of the same length that are remembered; with more of them there is no lag.
const RUNS_MAX: usize = 256;

/// Where a lagging acknowledgement stands. All offsets are ends of segments as they came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mark {
    /// The acknowledgement.
    pub ack: u64,
    /// End of the first segment above it.
    pub hole_end: u64,
    /// End of the segments above that one; everything below has been received.
    pub end: u64,
}

/// Consecutive segments of one length.
#[derive(Clone, Copy, Debug)]
struct Run {
    start: u64,
    end: u64,
    length: u64,
}

/// The segments of an incoming stream, and how far the wire ACK stays behind them.
#[derive(Debug)]
pub(crate) struct Lag {
    enabled: bool,
    /// Contiguous, in order.
    runs: VecDeque<Run>,
    /// Start of the bytes that have come in order and without a pause.
    since: u64,
    /// How many of them are full swing.
    bulk: u64,
    last_at: Option<Instant>,
    idle: Duration,
    /// No more than one segment is kept back until the next one comes.
    pauses: bool,
    release_at: Option<Instant>,
    /// The current flight ends when this offset is acknowledged.
    flight_end: u64,
    /// The most bytes by which the stream was ahead of our ACKs in it.
    flight: u64,
    is_long: bool,
    /// Segments without a pause between them: at present, and before the last pause.
    trains: [u64; 2],
    /// Everything that has come may be acknowledged: if nothing more comes, that is the sender's
    /// own will. (Else it may wait for our ACKs.)
    is_allowed: bool,
    limit: u64,
    mark: Option<Mark>,
    /// Where the acknowledgement stays.
    kept: Option<u64>,
}

impl Lag {
    pub fn new(enabled: bool) -> Self {
        Lag {
            enabled,
            runs: VecDeque::new(),
            since: 0,
            bulk: BULK,
            last_at: None,
            idle: PAUSE,
            pauses: false,
            release_at: None,
            flight_end: 0,
            flight: 0,
            is_long: false,
            trains: [0; 2],
            is_allowed: false,
            limit: 0,
            mark: None,
            kept: None,
        }
    }

    /// A segment has extended the stream from `start` to `end`; `acked` is our last ACK.
    pub fn on_segment(&mut self, now: Instant, (start, end): (u64, u64), acked: u64) {
        if !self.enabled || start >= end {
            return;
        }
        if self.runs.back().is_none_or(|run| run.end != start) {
            self.restart(start);
        } else if self.was_quiet(now, self.idle) {
            (self.since, self.bulk) = (start, BULK);
        }
        let pauses = self.last_at.is_none_or(|at| now.since(at) >= PAUSE);
        self.trains =
            if pauses { [1, self.trains[0]] } else { [self.trains[0] + 1, self.trains[1]] };
        self.last_at = Some(now);
        self.pauses = false;
        let length = end - start;
        match self.runs.back_mut() {
            Some(run) if run.length == length => run.end = end,
            _ => self.runs.push_back(Run { start, end, length }),
        }
        if self.runs.len() > RUNS_MAX {
            self.runs.pop_front();
        }
        self.flight = self.flight.max(end - acked.min(end));
        if acked >= self.flight_end {
            self.is_long = self.flight >= FLIGHT_MIN * length;
            (self.flight, self.flight_end) = (0, end);
        }
    }

    /// The stream is out of order, or over: everything is acknowledged as soon as it may be.
    pub fn disturb(&mut self, at: u64) {
        self.restart(at);
        self.bulk = BULK_AFTER_LOSS;
    }

    fn restart(&mut self, at: u64) {
        self.runs.clear();
        self.since = at;
        self.release_at = None;
        (self.mark, self.kept) = (None, None);
    }

    /// Acknowledgements are allowed up to `limit` of what has come.
    pub fn limit(&mut self, limit: u64) {
        self.limit = limit;
        self.is_allowed = limit >= self.end();
        self.mark = self.mark_at(limit).filter(|_| !self.pauses);
        let one = || self.ends_below::<1>(limit).map(|(ack, _)| ack);
        self.kept = match self.mark {
            Some(mark) => Some(mark.ack),
            None if self.swings() => one(),
            None => None,
        };
        match (self.kept, self.last_at) {
            (Some(ack), Some(at)) => {
                while self.runs.front().is_some_and(|run| run.end <= ack) {
                    self.runs.pop_front();
                }
                let due = at + self.wait();
                self.release_at = Some(self.release_at.map_or(due, |before| before.min(due)));
            }
            _ => self.release_at = None,
        }
    }

    /// The acknowledgement that is kept, if one is.
    pub fn ack(&self) -> Option<u64> {
        self.kept
    }

    /// Where the acknowledgement will stand when the limit is `limit`.
    pub fn mark_at(&self, limit: u64) -> Option<Mark> {
        if !self.is_active() {
            return None;
        }
        let (ack, ends) = self.ends_below::<SEGMENTS>(limit)?;
        Some(Mark { ack, hole_end: ends[SEGMENTS - 1], end: ends[0] })
    }

    pub fn poll_timeout(&self) -> Option<Instant> {
        self.release_at
    }

    /// A round trip takes `rtt`.
    pub fn set_round_trip(&mut self, rtt: Duration) {
        self.idle = rtt.clamp(*IDLE.start(), *IDLE.end());
    }

    /// True when the leg pauses or is idle, so that more may be acknowledged.
    pub fn on_timeout(&mut self, now: Instant) -> bool {
        if self.release_at.is_none_or(|at| at > now) {
            return false;
        }
        let wait = self.wait();
        if !self.was_quiet(now, wait) {
            let later = self.last_at.map(|at| at + wait).filter(|at| *at > now);
            self.release_at = Some(later.unwrap_or(now + wait));
            return false;
        }
        self.release_at = None;
        if self.mark.take().is_some() && self.idle > PAUSE {
            self.pauses = true;
            self.limit(self.limit);
            return true;
        }
        (self.since, self.bulk) = (self.end(), BULK);
        self.kept = None;
        true
    }

    /// How long what is kept back waits for the next segment.
    fn wait(&self) -> Duration {
        if self.mark.is_some() { PAUSE } else { self.idle }
    }

    fn was_quiet(&self, now: Instant, time: Duration) -> bool {
        self.is_allowed && self.last_at.is_some_and(|at| now.since(at) >= time)
    }

    fn is_active(&self) -> bool {
        self.enabled && self.is_long && self.end() - self.since >= self.bulk
    }

    /// Whether the ACK stays one segment behind at least.
    fn swings(&self) -> bool {
        let is_long = self.trains.iter().any(|length| *length >= TRAIN_MIN);
        self.enabled && is_long && self.end() - self.since >= SWING
    }

    fn end(&self) -> u64 {
        self.runs.back().map_or(self.since, |run| run.end)
    }

    /// The ends of the last `N` segments up to `limit`, the highest first, and where the lowest of
    /// these segments begins.
    fn ends_below<const N: usize>(&self, limit: u64) -> Option<(u64, [u64; N])> {
        let (mut ends, mut found) = ([0; N], 0);
        for run in self.runs.iter().rev().filter(|run| run.start < limit) {
            let whole = (limit.min(run.end) - run.start) / run.length;
            let mut at = run.start + whole * run.length;
            while at > run.start && found < N {
                ends[found] = at;
                found += 1;
                at -= run.length;
            }
            if found == N {
                return Some((at, ends));
            }
        }
        None
    }
}
