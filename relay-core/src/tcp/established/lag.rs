//! The lag: on a leg in full swing the wire ACK stays some segments behind what may be
//! acknowledged, so that a node that takes over has something true to say that wakes the peer.
//!
//! Linux resumes at once when a few segments above SND.UNA are SACKed and one below them is not: it
//! repeats the hole, and what follows from our answer (RFC 8985 section 6) is that everything else
//! is lost, too. Without news it waits for its timeout of 200 ms or more.
//!
//! On a leg with small flights four segments would be much. There the ACK stays fewer segments behind,
//! but two if that is not much: an ACK that advances lets the peer send, and what follows from our
//! answer to that is the same. One segment does only until the peer has sent a tail loss probe, which
//! takes its place in the window (RFC 8985 section 7.3).
//!
//! While losses are being repaired the ACK stands at a hole, and news is what SACK blocks tell: those
//! end three segments below the highest, because a peer that shrinks its window (RFC 6937) sends
//! less than one segment for each that arrives.

use core::ops::RangeInclusive;
use std::collections::VecDeque;

use crate::time::{Duration, Instant};

/// Segments that the wire ACK stays behind: a hole of one, and three that are SACKed above it
/// (DupThresh of RFC 6675 section 2: with fewer of them a sender waits for reordering).
const SEGMENTS: usize = 4;
/// A leg without a segment for this long pauses: no more than one segment is kept back.
const PAUSE: Duration = Duration::from_millis(5);
/// A leg on which nothing comes for a round trip and a quarter, within these bounds, is idle:
/// everything is acknowledged. What our last ACK let out would have come by then.
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
/// For a lag of one segment a leg needs so many bytes since it was idle, and so many segments
/// without a pause between them. For every `TRAIN` of them it is one more, up to [`SEGMENTS`]: a lag
/// takes of a congestion window what it has to.
pub(super) const SWING: u64 = 32 * 1024;
const TRAIN_MIN: u64 = 4;
const TRAIN: u64 = 12;
/// Shorter segments are requests, and do not count: when a lone one is lost, an ACK of those before it
/// only starts its timeout anew.
pub(super) const REQUEST_MAX: u64 = 500;
/// Segments that SACK blocks leave out.
const RESERVE: usize = 3;
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

impl Mark {
    /// What wakes a peer whose retransmission timer has run out; everything below `limit` may be
    /// acknowledged. The peer has repeated the first segment since, and that one only: now it is younger
    /// than what is SACKed, and a hole there would not be taken for a loss (RFC 8985 section 6.2, step 5).
    /// The second one is as old as the others. None when the segments are not of one length, so that
    /// nobody knows where the second one ends.
    pub fn past_timeout(self, limit: u64) -> Option<Mark> {
        let length = self.hole_end - self.ack;
        let are_equal = self.end - self.hole_end == length * (SEGMENTS as u64 - 1);
        let hole_end = self.hole_end + length;
        are_equal.then_some(Mark { ack: self.hole_end, hole_end, end: limit })
    }
}

/// Consecutive segments of one length.
#[derive(Clone, Copy, Debug)]
struct Run {
    start: u64,
    end: u64,
    length: u64,
}

/// The segments of an incoming stream, and how far what is told of them stays behind.
#[derive(Debug)]
pub(crate) struct Lag {
    enabled: bool,
    /// Contiguous, in order.
    runs: VecDeque<Run>,
    /// Start of the bytes that have come in order and without a pause.
    since: u64,
    /// How many of them are full swing.
    bulk: u64,
    /// Bytes that have come since the leg was idle, in order or not.
    busy: u64,
    last_at: Option<Instant>,
    /// When more was allowed to be acknowledged.
    moved_at: Instant,
    idle: Duration,
    /// No more than one segment is kept back until the next one comes.
    pauses: bool,
    /// Nothing is kept back until the next one comes.
    rests: bool,
    release_at: Option<Instant>,
    /// The current flight ends when this offset is acknowledged.
    flight_end: u64,
    /// The most bytes by which the stream was ahead of our ACKs in it.
    flight: u64,
    is_long: bool,
    /// Segments without a pause between them: at present, and before the last pause.
    trains: [u64; 2],
    /// Segments beyond a hole that came as the highest; none while everything is in order.
    early: usize,
    /// The highest segments, the highest first.
    tops: [(u64, u64); RESERVE],
    /// End of what SACK blocks have told. An ACK never stands right below something of that, lest
    /// the peer thinks that we have forgotten it (RFC 2018 section 8).
    told: u64,
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
            busy: 0,
            last_at: None,
            moved_at: Instant::ZERO,
            idle: PAUSE,
            pauses: false,
            rests: false,
            release_at: None,
            flight_end: 0,
            flight: 0,
            is_long: false,
            trains: [0; 2],
            early: 0,
            tops: [(0, 0); RESERVE],
            told: 0,
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
        self.arrive(now, end - start);
        self.append(start, end);
        let length = end - start;
        self.flight = self.flight.max(end - acked.min(end));
        if acked >= self.flight_end {
            self.is_long = self.flight >= FLIGHT_MIN * length;
            (self.flight, self.flight_end) = (0, end);
        }
    }

    /// A segment has come that is the highest, beyond a hole at `received`.
    pub fn on_early(&mut self, now: Instant, (start, end): (u64, u64), received: u64) {
        if !self.enabled {
            return;
        }
        if self.early == 0 {
            self.restart(received);
            self.bulk = BULK_AFTER_LOSS;
        }
        self.arrive(now, end - start);
        self.early += 1;
        self.tops.rotate_right(1);
        self.tops[0] = (start, end);
        self.schedule();
    }

    /// A hole was filled. The stream is in order up to `received`, and all of it is if `whole`.
    pub fn on_repair(&mut self, now: Instant, received: u64, whole: bool) {
        self.last_at = Some(now);
        if !whole || self.early == 0 {
            return;
        }
        let tops = self.tops;
        let count = self.early.min(RESERVE);
        self.restart(received);
        self.bulk = BULK_AFTER_LOSS;
        for (index, &(start, end)) in tops[..count].iter().enumerate().rev() {
            // The highest is the last one of the stream, and the others end where the next begins.
            let next = if index == 0 { received } else { tops[index - 1].0 };
            if end != next {
                self.runs.clear();
            } else if start >= self.told {
                self.append(start, end);
            }
        }
    }

    /// Bytes from `start` on have come again: a sender that repeats what was kept back waits for it.
    pub fn on_repeat(&mut self, start: u64, received: u64) {
        if self.ceiling().or(self.kept).is_some_and(|kept| start >= kept) {
            self.stop(received);
        } else if self.early == 0 {
            (self.since, self.bulk) = (self.end(), BULK_AFTER_LOSS);
        }
    }

    /// The stream is over, or its segments are not what they were: everything is acknowledged as
    /// soon as it may be.
    pub fn stop(&mut self, at: u64) {
        self.restart(at);
        self.bulk = BULK_AFTER_LOSS;
    }

    /// SACK blocks tell everything below `end`.
    pub fn on_told(&mut self, end: u64) {
        self.told = self.told.max(end);
    }

    fn restart(&mut self, at: u64) {
        self.runs.clear();
        self.early = 0;
        self.since = at;
        self.release_at = None;
        (self.mark, self.kept) = (None, None);
    }

    fn arrive(&mut self, now: Instant, length: u64) {
        let pauses = self.last_at.is_none_or(|at| now.since(at) >= PAUSE);
        self.trains =
            if pauses { [1, self.trains[0]] } else { [self.trains[0] + 1, self.trains[1]] };
        if self.was_quiet(now, self.idle * 2) {
            self.busy = 0;
        }
        self.busy += if length > REQUEST_MAX { length } else { 0 };
        self.last_at = Some(now);
        (self.pauses, self.rests) = (false, false);
    }

    fn append(&mut self, start: u64, end: u64) {
        let length = end - start;
        match self.runs.back_mut() {
            Some(run) if run.length == length => run.end = end,
            _ => self.runs.push_back(Run { start, end, length }),
        }
        if self.runs.len() > RUNS_MAX {
            self.runs.pop_front();
        }
    }

    /// Acknowledgements are allowed up to `limit` of what has come.
    pub fn limit(&mut self, now: Instant, limit: u64) {
        if limit > self.limit {
            self.moved_at = now;
        }
        self.limit = limit;
        self.keep();
    }

    fn keep(&mut self) {
        let limit = self.limit;
        self.is_allowed = limit >= self.end();
        self.mark = self.mark_at(limit).filter(|_| !self.pauses);
        self.kept = match self.mark {
            Some(mark) => Some(mark.ack),
            None => self.ack_below(limit, self.small_lag()),
        };
        if let Some(ack) = self.kept {
            while self.runs.front().is_some_and(|run| run.end <= ack) {
                self.runs.pop_front();
            }
        }
        self.schedule();
    }

    fn schedule(&mut self) {
        let keeps = self.kept.is_some() || self.ceiling().is_some();
        self.release_at = self.active_at().filter(|_| keeps).map(|at| {
            let due = at + self.wait();
            self.release_at.map_or(due, |before| before.min(due))
        });
    }

    /// The acknowledgement that is kept, if one is.
    pub fn ack(&self) -> Option<u64> {
        self.kept
    }

    /// Where SACK blocks end, if something beyond is kept back. The first segment beyond a hole is
    /// told at once: it starts the peer's clock (RFC 8985 section 6.2, step 5).
    pub fn ceiling(&self) -> Option<u64> {
        if self.early < 2 || self.small_lag() == 0 {
            return None;
        }
        let kept = RESERVE.min(self.early - 1);
        Some(self.tops[kept - 1].0.max(self.told))
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
        self.idle = (rtt * 5 / 4).clamp(*IDLE.start(), *IDLE.end());
    }

    /// True when the leg pauses or is idle, so that more may be told.
    pub fn on_timeout(&mut self, now: Instant) -> bool {
        if self.release_at.is_none_or(|at| at > now) {
            return false;
        }
        let wait = self.wait();
        if !self.was_quiet(now, wait) {
            let later = self.active_at().map(|at| at + wait).filter(|at| *at > now);
            self.release_at = Some(later.unwrap_or(now + wait));
            return false;
        }
        self.release_at = None;
        if self.mark.take().is_some() && self.idle > PAUSE {
            self.pauses = true;
            self.keep();
            return true;
        }
        (self.since, self.bulk) = (self.end(), BULK);
        self.rests = true;
        self.kept = None;
        true
    }

    /// How long what is kept back waits for the next segment.
    fn wait(&self) -> Duration {
        if self.mark.is_some() { PAUSE } else { self.idle }
    }

    /// When a segment came or could be acknowledged.
    fn active_at(&self) -> Option<Instant> {
        self.last_at.map(|at| at.max(self.moved_at))
    }

    fn was_quiet(&self, now: Instant, time: Duration) -> bool {
        self.is_allowed && self.active_at().is_some_and(|at| now.since(at) >= time)
    }

    fn is_active(&self) -> bool {
        self.enabled && self.is_long && self.end() - self.since >= self.bulk
    }

    /// Segments that are kept back although flights are small.
    fn small_lag(&self) -> usize {
        let train = self.trains[0].max(self.trains[1]);
        if !self.enabled || self.rests || self.busy < SWING || train < TRAIN_MIN {
            return 0;
        }
        // On a short way, where nothing pauses for long, a train is more than a window.
        let most = if self.pauses || self.idle == PAUSE { 1 } else { SEGMENTS };
        most.min(1 + (train / TRAIN) as usize)
    }

    /// Where the last `count` segments up to `limit` begin, or as many of them as are known.
    fn ack_below(&self, limit: u64, count: usize) -> Option<u64> {
        let (mut ack, mut left) = (None, count as u64);
        for run in self.runs.iter().rev().filter(|run| run.start < limit) {
            let whole = (limit.min(run.end) - run.start) / run.length;
            let taken = whole.min(left);
            if taken > 0 {
                ack = Some(run.start + (whole - taken) * run.length);
                left -= taken;
            }
        }
        ack
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
