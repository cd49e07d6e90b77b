//! Round-trip time and retransmission timeout: RFC 6298.

use crate::time::{Duration, Instant};

/// RTO before the first sample (RFC 6298 section 2.1).
const RTO_INITIAL: Duration = Duration::from_secs(1);
/// Lower bound of the RTO. RFC 6298 asks for a second; every system in use takes 200 ms, and a
/// takeover should not have to wait for longer.
const RTO_MIN: Duration = Duration::from_millis(200);
/// Upper bound of the RTO (RFC 6298 section 2.4).
pub(super) const RTO_MAX: Duration = Duration::from_secs(60);
/// How long a minimum counts before a newer sample replaces it: a path may become longer.
const MIN_RTT_AGE: Duration = Duration::from_secs(30);

/// What is known of the path's round-trip time.
#[derive(Debug, Default)]
pub(super) struct Rtt {
    smoothed: Option<Duration>,
    variation: Duration,
    minimum: Option<(Duration, Instant)>,
}

impl Rtt {
    /// Takes a sample; never one of a retransmitted segment (Karn's algorithm).
    pub fn sample(&mut self, rtt: Duration) {
        match self.smoothed {
            None => {
                self.smoothed = Some(rtt);
                self.variation = rtt / 2;
            }
            Some(smoothed) => {
                self.variation = (self.variation * 3 + smoothed.abs_diff(rtt)) / 4;
                self.smoothed = Some((smoothed * 7 + rtt) / 8);
            }
        }
    }

    /// Takes a sample for the minimum: that of the newest segment, whose ACK waited least.
    pub fn sample_minimum(&mut self, now: Instant, rtt: Duration) {
        match self.minimum {
            Some((least, since)) if least <= rtt && now.since(since) < MIN_RTT_AGE => {}
            _ => self.minimum = Some((rtt, now)),
        }
    }

    /// SRTT, when there was a sample.
    pub fn smoothed(&self) -> Option<Duration> {
        self.smoothed
    }

    /// The least sample of late; zero before the first.
    pub fn minimum(&self) -> Duration {
        self.minimum.map_or(Duration::ZERO, |(least, _)| least)
    }

    /// RTO after `backoff` expiries in a row (RFC 6298 section 5.5).
    pub fn timeout(&self, backoff: u32) -> Duration {
        let base = match self.smoothed {
            None => RTO_INITIAL,
            // The four variations are bounded from below as in Linux, so that a path without
            // any jitter does not time out on the first delayed ACK.
            Some(smoothed) => smoothed + (self.variation * 4).max(RTO_MIN),
        };
        base.saturating_mul(1 << backoff.min(16)).min(RTO_MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rfc_6298_timeout_follows_samples_and_backs_off() {
        let mut rtt = Rtt::default();
        assert_eq!(rtt.timeout(0), RTO_INITIAL);
        rtt.sample(Duration::from_millis(100));
        assert_eq!(rtt.timeout(0), Duration::from_millis(300));
        assert_eq!(rtt.timeout(1), Duration::from_millis(600));
        assert_eq!(rtt.timeout(30), RTO_MAX);
        rtt.sample_minimum(Instant::ZERO, Duration::from_millis(20));
        assert_eq!(rtt.minimum(), Duration::from_millis(20));
        rtt.sample_minimum(Instant::ZERO + MIN_RTT_AGE, Duration::from_millis(50));
        assert_eq!(rtt.minimum(), Duration::from_millis(50));
    }
}
