//! What of one incoming stream may be acknowledged to its sender (rules U1-U4, D3 and 14).
//!
//! Bytes are safe when they are settled (the far endpoint has them and every gate knows it), or
//! when every gate holds them as data. Bytes that wait longer than `hold` for the first are
//! replicated to get the second; so is everything at once when bytes arrive out of order, because
//! a sender takes held bytes with SACK for loss.

use core::ops::Range;

use super::Ranges;
use crate::canary::{Canary, breaks};
use crate::time::{Duration, Instant};

/// How long bytes wait to be settled before they are replicated as data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HoldTime {
    /// Two packet intervals as measured, from [`MEASURED_MIN`] to [`MEASURED_MAX`].
    Measured,
    /// Always the same; zero replicates everything at once.
    Fixed(Duration),
    /// For ever: the patent's pure mode, in which a sender has to be able to wait.
    Never,
}

/// The shortest measured hold: what a far end on the same network needs to acknowledge while its
/// machine is busy. Shorter, and all of a bulk transfer is replicated for nothing.
pub const MEASURED_MIN: Duration = Duration::from_millis(2);

/// The longest measured hold. A sender that waits for much longer than its path's round trip takes
/// the path for slow.
pub const MEASURED_MAX: Duration = Duration::from_millis(10);

/// After bytes out of order so many are replicated as they come, when the hold is measured. On a
/// path that loses packets the sender's window is small, and every wait of ours adds to its round
/// trip; such a stream is slow, so that its bytes cost little.
const LOSSY: u64 = 256 * 1024;

/// One in so many parts of a new interval goes into the average, as in RFC 6298 section 2.3.
const SMOOTHING: u32 = 8;

/// Since when the stream has what it has, and how long that takes from packet to packet.
#[derive(Clone, Copy, Debug)]
struct Pace {
    received: u64,
    at: Instant,
    interval: Duration,
}

/// The state of one incoming stream. Offsets count a FIN as one more byte.
#[derive(Clone, Debug)]
pub struct Hold {
    hold: HoldTime,
    free: bool,
    pace: Option<Pace>,
    /// Bytes below are replicated as they come.
    lossy_until: u64,
    /// How long the far end takes to acknowledge.
    round_trip: Duration,
    /// Handed to the replication.
    pushed: Ranges,
    /// Acknowledged by every gate.
    safe: Ranges,
    /// Settled, and every gate knows it.
    settled: u64,
    /// Bytes below the offset were waiting at that time.
    mark: Option<(u64, Instant)>,
}

impl Hold {
    /// A stream whose bytes below `settled` are settled.
    pub fn new(hold: HoldTime, settled: u64) -> Self {
        let (pushed, safe) = (Ranges::default(), Ranges::default());
        let (free, pace, lossy_until, mark) = (false, None, 0, None);
        let round_trip = Duration::ZERO;
        Hold { hold, free, pace, lossy_until, round_trip, pushed, safe, settled, mark }
    }

    /// The far end takes so long to acknowledge. When that is longer than a measured hold, nothing
    /// settles in time, and waiting for it only slows the sender down.
    pub fn set_round_trip(&mut self, round_trip: Duration) {
        self.round_trip = round_trip;
    }

    /// Packets were lost, all of those that came to another node at the latest.
    pub fn expect_losses(&mut self, from: u64) {
        self.lossy_until = from + LOSSY;
    }

    /// Says whether bytes wait for nothing that could be had at once: because replication costs
    /// nothing when nobody takes it, or because another node goes on soon.
    pub fn set_free(&mut self, free: bool) {
        self.free = free;
    }

    /// Which ranges have to be replicated now. The caller replicates them at once.
    ///
    /// `settled` is the local settled point, which gates may not know yet; `received` is the end of
    /// the contiguous bytes; `early` are ranges above it.
    pub fn due(
        &mut self,
        now: Instant,
        settled: u64,
        received: u64,
        early: impl Iterator<Item = Range<u64>>,
    ) -> Vec<Range<u64>> {
        if breaks(Canary::AckBeforeSettled) {
            self.settled = received;
        }
        self.measure(now, received);
        let from = self.pushed.contiguous_from(settled);
        let Some(hold) = self.time(from) else { return Vec::new() };
        let mut due = Vec::new();
        for range in early {
            self.expect_losses(received);
            for part in self.pushed.missing(range) {
                if self.pushed.insert(part.clone()) {
                    due.push(part);
                }
            }
        }
        let waiting = from < received;
        let expired = match self.mark {
            Some((offset, since)) if from < offset => now >= since + hold,
            _ => false,
        };
        if !waiting {
            self.mark = None;
        } else if !due.is_empty() || expired || hold.is_zero() {
            for part in self.pushed.missing(from..received) {
                if self.pushed.insert(part.clone()) {
                    due.push(part);
                }
            }
            self.mark = None;
        } else if self.mark.is_none_or(|(offset, _)| offset <= from) {
            self.mark = Some((received, now));
        }
        due
    }

    /// From now on bytes are replicated as they come.
    pub fn hurry(&mut self) {
        self.hold = HoldTime::Fixed(Duration::ZERO);
    }

    /// Bytes that gates were given, or will be, and that are not settled.
    pub fn replicated(&self) -> u64 {
        self.pushed.members().iter().map(|range| range.end - range.start).sum()
    }

    /// When [`Hold::due`] will have something to say without new input.
    pub fn poll_timeout(&self) -> Option<Instant> {
        let (offset, since) = self.mark?;
        Some(since + self.time(offset)?)
    }

    /// Every gate holds these bytes as data.
    pub fn commit_data(&mut self, range: Range<u64>) {
        self.safe.insert(range);
    }

    /// Every gate knows that the bytes below `offset` are settled.
    pub fn commit_settled(&mut self, offset: u64) {
        self.settled = self.settled.max(offset);
        self.safe.trim(self.settled);
        self.pushed.trim(self.settled);
    }

    /// The bytes are replicated already: they came out of the replica.
    pub fn restore_data(&mut self, range: Range<u64>) {
        if self.pushed.insert(range.clone()) {
            self.safe.insert(range);
        }
    }

    /// No acknowledgement may pass this offset.
    pub fn ack_limit(&self) -> u64 {
        self.safe.contiguous_from(self.settled)
    }

    /// Where [`Hold::ack_limit`] will be when everything is committed that was replicated so far
    /// and the gates know the local settled point `settled`.
    pub fn promised_limit(&self, settled: u64) -> u64 {
        self.pushed.contiguous_from(settled)
    }

    /// Only these ranges may be reported as received out of order.
    pub fn sackable(&self) -> &[Range<u64>] {
        let safe = if breaks(Canary::SackUnreplicated) { &self.pushed } else { &self.safe };
        safe.above(self.ack_limit())
    }

    /// Everything that a new replica has to be given as data, of the bytes from `settled` on:
    /// what the sender may forget, because it is acknowledged or will be when the gates have it.
    pub fn promised(&self, settled: u64) -> Vec<Range<u64>> {
        let mut promised = self.pushed.clone();
        promised.trim(settled);
        promised.members().to_vec()
    }

    /// How long the bytes from `from` on may wait.
    fn time(&self, from: u64) -> Option<Duration> {
        match self.hold {
            HoldTime::Measured if from < self.lossy_until => Some(Duration::ZERO),
            HoldTime::Measured | HoldTime::Fixed(_) if self.free => Some(Duration::ZERO),
            HoldTime::Measured => {
                let interval = self.pace.map_or(Duration::ZERO, |pace| pace.interval);
                let hold = (interval * 2).clamp(MEASURED_MIN, MEASURED_MAX);
                Some(if self.round_trip > hold { Duration::ZERO } else { hold })
            }
            HoldTime::Fixed(hold) => Some(hold),
            HoldTime::Never => None,
        }
    }

    /// Takes packets that one turn has brought for one.
    fn measure(&mut self, now: Instant, received: u64) {
        let Some(pace) = &mut self.pace else {
            self.pace = Some(Pace { received, at: now, interval: Duration::ZERO });
            return;
        };
        if received > pace.received {
            // A pause of the sender is no pace.
            let interval = (now - pace.at).min(MEASURED_MAX);
            let interval = (pace.interval * (SMOOTHING - 1) + interval) / SMOOTHING;
            *pace = Pace { received, at: now, interval };
        }
    }
}

#[cfg(test)]
#[expect(clippy::single_range_in_vec_init, reason = "lists of one range are what is compared")]
mod tests {
    use super::*;

    const HOLD: HoldTime = HoldTime::Fixed(Duration::from_millis(2));

    fn at(micros: u64) -> Instant {
        Instant::from_micros(micros)
    }

    fn none() -> core::iter::Empty<Range<u64>> {
        core::iter::empty()
    }

    #[test]
    fn bytes_that_settle_in_time_are_not_replicated() {
        let mut hold = Hold::new(HOLD, 0);
        for step in 0..100 {
            // Ten bytes a millisecond, each settled a millisecond later.
            assert_eq!(hold.due(at(step * 1000), step * 10, step * 10 + 10, none()), []);
        }
    }

    #[test]
    fn bytes_that_wait_are_replicated_and_then_acknowledged() {
        let mut hold = Hold::new(HOLD, 0);
        assert_eq!(hold.due(at(0), 0, 100, none()), []);
        assert_eq!(hold.poll_timeout(), Some(at(2000)));
        assert_eq!(hold.due(at(1999), 0, 150, none()), []);
        assert_eq!(hold.due(at(2000), 0, 150, none()), [0..150]);
        assert_eq!(hold.ack_limit(), 0, "not before every gate has them");
        hold.commit_data(0..150);
        assert_eq!(hold.ack_limit(), 150);
        assert_eq!(hold.due(at(9000), 0, 150, none()), []);
        assert_eq!(hold.promised(40), [40..150]);
    }

    #[test]
    fn out_of_order_bytes_are_replicated_at_once() {
        let mut hold = Hold::new(HOLD, 0);
        assert_eq!(hold.due(at(0), 0, 100, [200..300].into_iter()), [200..300, 0..100]);
        hold.commit_data(200..300);
        assert_eq!(hold.sackable(), [200..300]);
        hold.commit_data(0..100);
        assert_eq!(hold.ack_limit(), 100);
        assert_eq!(hold.due(at(1), 0, 100, [200..400].into_iter()), [300..400]);
    }

    #[test]
    fn hold_zero_always_replicates_and_infinite_never() {
        assert_eq!(Hold::new(HoldTime::Fixed(Duration::ZERO), 0).due(at(0), 0, 9, none()), [0..9]);
        let mut never = Hold::new(HoldTime::Never, 0);
        assert_eq!(never.due(at(1_000_000), 0, 9, [20..30].into_iter()), []);
        never.commit_settled(9);
        assert_eq!(never.ack_limit(), 9);
    }

    #[test]
    fn nothing_waits_for_a_replica_that_is_not_there() {
        let mut hold = Hold::new(HOLD, 0);
        hold.set_free(true);
        assert_eq!(hold.due(at(0), 0, 100, none()), [0..100]);
        hold.set_free(false);
        assert_eq!(hold.due(at(0), 0, 200, none()), []);
    }

    #[test]
    fn nothing_waits_for_a_far_end_that_takes_longer() {
        let mut hold = Hold::new(HoldTime::Measured, 0);
        hold.set_round_trip(MEASURED_MIN);
        assert_eq!(hold.due(at(0), 0, 100, none()), []);
        hold.set_round_trip(MEASURED_MIN + Duration::from_micros(1));
        assert_eq!(hold.due(at(1), 0, 200, none()), [0..200]);
    }

    #[test]
    fn two_packet_intervals_are_measured_within_bounds() {
        let waits = |interval: u64| {
            let mut hold = Hold::new(HoldTime::Measured, 0);
            for step in 0..100 {
                // The bytes settle as they come, until the last ones.
                hold.due(at(step * interval), step * 10, step * 10, none());
            }
            hold.due(at(100 * interval), 990, 1000, none());
            hold.poll_timeout().unwrap() - at(100 * interval)
        };
        assert_eq!(waits(10), MEASURED_MIN);
        let steady = waits(3_000);
        assert!((5_900..=6_000).contains(&steady.as_micros()), "{steady:?}");
        assert_eq!(waits(40_000), MEASURED_MAX);
    }
}
