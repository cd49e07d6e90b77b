//! How much may be in flight, and how fast it leaves.

mod bbr;
mod cubic;
mod hystart;
mod prr;
#[cfg(test)]
mod reference;

use core::fmt;

use super::rate::Sample;
use super::rtt::Rtt;
use crate::time::{Duration, Instant};

use bbr::Bbr;
use cubic::Cubic;
pub(super) use prr::Prr;

/// Segments of the initial window (RFC 6928).
pub(super) const INITIAL_SEGMENTS: u64 = 10;
/// Segments that are always allowed after a loss (RFC 5681 section 3.1).
const MINIMUM_SEGMENTS: u64 = 2;

/// An algorithm of congestion control.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Algorithm {
    /// CUBIC (RFC 9438): what is lost is a sign of congestion.
    #[default]
    Cubic,
    /// BBR: the delivery rate and the round trip time are; for paths that lose at random.
    Bbr,
    /// What it shares bottlenecks with.
    #[cfg(test)]
    Linux,
}

impl Algorithm {
    /// A connection begins with segments of up to `mss` bytes.
    pub(super) fn begin(self, mss: u64) -> Box<dyn Congestion> {
        match self {
            Algorithm::Cubic => Box::new(Cubic::new(mss)),
            Algorithm::Bbr => Box::new(Bbr::new(mss)),
            #[cfg(test)]
            Algorithm::Linux => Box::new(reference::Reference::new(mss)),
        }
    }
}

/// What an algorithm learns from an acknowledgement.
#[derive(Debug)]
pub(super) struct Ack<'a> {
    pub now: Instant,
    /// Bytes that were not known to be delivered before.
    pub bytes: u64,
    /// SND.UNA.
    pub una: u64,
    /// SND.NXT.
    pub next: u64,
    /// Bytes in flight before it came.
    pub in_flight_before: u64,
    /// Bytes in flight now.
    pub in_flight: u64,
    /// The window was in use, so that it may grow.
    pub is_limited: bool,
    /// Losses are being repaired, other than after a timeout.
    pub in_recovery: bool,
    /// The round trip of the newest segment that it delivers.
    pub round_trip: Option<Duration>,
    pub rtt: &'a Rtt,
    /// Bytes that were found lost by it.
    pub lost: u64,
    pub sample: Option<Sample>,
}

/// An algorithm of congestion control.
pub(super) trait Congestion: fmt::Debug + Send {
    /// Bytes that may be in flight.
    fn window(&self) -> u64;

    /// Whether the window doubles in each round trip.
    fn in_slow_start(&self) -> bool;

    /// Bytes delivered, and what they tell.
    fn on_ack(&mut self, ack: &Ack<'_>);

    /// Losses were found, and a recovery begins. The window to reach until its end, unless the
    /// algorithm sees to that itself.
    fn on_loss(&mut self, in_flight: u64) -> Option<u64>;

    /// The recovery ended.
    fn on_recovered(&mut self);

    /// The retransmission timer expired; `anew` if no recovery was under way.
    fn on_timeout(&mut self, anew: bool, in_flight: u64);

    /// Nothing had been lost: the last reduction is taken back.
    fn undo(&mut self);

    /// Nothing was in flight for `idle`.
    fn on_idle(&mut self, idle: Duration, rto: Duration);

    /// Bytes per second at which segments leave; none if they need not be spread.
    fn pacing_rate(&self, rtt: &Rtt) -> Option<u64>;
}
