//! Samples of the delivery rate (draft-cheng-iccrg-delivery-rate-estimation).

use super::scoreboard::Sent;
use crate::time::{Duration, Instant};

/// What a segment remembers of the moment when it was sent.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Stamp {
    /// Bytes that were delivered by then: P.delivered.
    delivered: u64,
    delivered_at: Instant,
    /// When the first segment of the flight left that the sample covers.
    first_sent_at: Instant,
    /// Bytes that were lost by then.
    lost: u64,
    /// Bytes in flight, this segment included.
    in_flight: u32,
    limited: bool,
}

/// The rate at which the newest delivered segment's flight was delivered.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sample {
    /// In bytes per second; none if the interval was too short to tell.
    pub rate: Option<u64>,
    /// Bytes that were delivered while the segment was on its way.
    pub delivered: u64,
    /// Bytes that had been delivered when it was sent: tells round trips apart.
    pub prior: u64,
    /// Bytes that were found lost in the meantime.
    pub lost: u64,
    /// Bytes that were in flight when it was sent.
    pub in_flight: u64,
    /// The application had too little to send.
    pub limited: bool,
}

/// The newest segment of the acknowledgement that is being taken.
#[derive(Clone, Copy, Debug)]
struct Newest {
    stamp: Stamp,
    sent_at: Instant,
    end: u64,
}

/// State of the estimation.
#[derive(Debug, Default)]
pub(crate) struct Rate {
    /// Bytes that were delivered so far.
    pub delivered: u64,
    /// Bytes that were taken for lost so far.
    pub lost: u64,
    delivered_at: Instant,
    first_sent_at: Instant,
    /// Until so much is delivered, samples are limited by the application.
    limited_until: u64,
    newest: Option<Newest>,
}

impl Rate {
    /// What a segment of `length` bytes that leaves now has to remember.
    pub fn stamp(&mut self, now: Instant, in_flight: u64, length: u64) -> Stamp {
        if in_flight == 0 {
            (self.first_sent_at, self.delivered_at) = (now, now);
        }
        Stamp {
            delivered: self.delivered,
            delivered_at: self.delivered_at,
            first_sent_at: self.first_sent_at,
            lost: self.lost,
            in_flight: u32::try_from(in_flight + length).unwrap_or(u32::MAX),
            limited: self.delivered < self.limited_until,
        }
    }

    /// A segment was delivered.
    pub fn deliver(&mut self, now: Instant, sent: &Sent) {
        self.delivered += sent.len();
        self.delivered_at = now;
        let is_newer = |newest: &Newest| (sent.sent_at, sent.end) > (newest.sent_at, newest.end);
        if self.newest.as_ref().is_none_or(is_newer) {
            let (stamp, sent_at, end) = (sent.stamp, sent.sent_at, sent.end);
            self.newest = Some(Newest { stamp, sent_at, end });
        }
    }

    /// The application has nothing more to send, with this much in flight.
    pub fn on_starved(&mut self, in_flight: u64) {
        self.limited_until = (self.delivered + in_flight).max(1);
    }

    /// The sample of the acknowledgement whose deliveries were just noted.
    pub fn sample(&mut self, now: Instant, min_rtt: Duration) -> Option<Sample> {
        let Newest { stamp, sent_at, .. } = self.newest.take()?;
        self.first_sent_at = sent_at;
        let sending = sent_at.since(stamp.first_sent_at);
        let interval = sending.max(now.since(stamp.delivered_at));
        let delivered = self.delivered - stamp.delivered;
        let micros = interval.as_micros() as u64;
        // An interval below the least RTT is too short to be true: it comes from retransmissions.
        let rate = (micros > 0 && interval >= min_rtt).then(|| delivered * 1_000_000 / micros);
        Some(Sample {
            rate,
            delivered,
            prior: stamp.delivered,
            lost: self.lost - stamp.lost,
            in_flight: u64::from(stamp.in_flight),
            limited: stamp.limited,
        })
    }
}
