//! How much may be in flight: CUBIC (RFC 9438) with an initial window of ten segments (RFC 6928).
//!
//! All arithmetic is on integers, so that every machine computes the same window.

use crate::time::{Duration, Instant};

/// Segments of the initial window (RFC 6928).
const INITIAL_SEGMENTS: u64 = 10;
/// Segments that are always allowed after a loss (RFC 5681 section 3.1).
const MINIMUM_SEGMENTS: u64 = 2;

/// The congestion window.
#[derive(Debug)]
pub(super) struct Cubic {
    mss: u64,
    /// Bytes that may be in flight.
    window: u64,
    /// Below it the window grows by slow start.
    threshold: u64,
    /// The window before the last reduction: where the curve is flat.
    w_max: u64,
    epoch: Option<Epoch>,
    /// Numerator of the growth that was not enough for a byte yet; its denominator is the window.
    credit: u128,
}

/// Congestion avoidance since the last reduction.
#[derive(Debug)]
struct Epoch {
    start: Instant,
    /// Milliseconds from the start to the flat part of the curve: K of RFC 9438.
    k: u64,
    /// What Reno would have: W_est, in units of 1/1024 byte.
    w_est: u64,
}

impl Cubic {
    /// `mss` is the payload of a full segment, in bytes.
    pub fn new(mss: u64) -> Self {
        let window = INITIAL_SEGMENTS * mss;
        Cubic { mss, window, threshold: u64::MAX, w_max: 0, epoch: None, credit: 0 }
    }

    /// Bytes that may be in flight.
    pub fn window(&self) -> u64 {
        self.window
    }

    /// Whether the window doubles in each round trip.
    pub fn in_slow_start(&self) -> bool {
        self.window < self.threshold
    }

    /// `acked` bytes were delivered while the window was in use.
    pub fn on_ack(&mut self, now: Instant, acked: u64, srtt: Duration) {
        if self.in_slow_start() {
            self.window += acked.min(self.threshold - self.window);
        } else {
            self.avoid(now, acked, srtt);
        }
    }

    /// A loss was found: multiplicative decrease by 0.7 and fast convergence (RFC 9438 section 4.6,
    /// 4.7).
    pub fn on_loss(&mut self) {
        self.w_max = if self.window < self.w_max { self.window * 17 / 20 } else { self.window };
        self.threshold = (self.window * 7 / 10).max(MINIMUM_SEGMENTS * self.mss);
        self.window = self.threshold;
        self.epoch = None;
    }

    /// The retransmission timer expired (RFC 9438 section 4.8).
    pub fn on_timeout(&mut self) {
        self.on_loss();
        self.collapse();
    }

    /// The timer expired again before anything was acknowledged.
    pub fn collapse(&mut self) {
        self.window = self.mss;
    }

    /// Nothing was sent for an RTO: the window is not known to fit any more (RFC 5681 section 4.1).
    pub fn on_idle(&mut self) {
        self.window = self.window.min(INITIAL_SEGMENTS * self.mss);
        self.epoch = None;
    }

    fn avoid(&mut self, now: Instant, acked: u64, srtt: Duration) {
        let epoch = self.epoch.get_or_insert_with(|| {
            self.w_max = self.w_max.max(self.window);
            let deficit = u128::from((self.w_max - self.window) / self.mss);
            // K^3 = deficit / 0.4, in seconds.
            let k = cube_root(deficit * 2_500_000_000);
            Epoch { start: now, k, w_est: self.window << 10 }
        });
        // 0.529 = 3 * (1 - 0.7) / (1 + 0.7): the additive increase that is fair to Reno.
        epoch.w_est += (542 * acked).saturating_mul(self.mss) / self.window.max(1);
        let elapsed = now.since(epoch.start);
        let reno = epoch.w_est >> 10;
        let at = |time: Duration| curve(self.w_max, self.mss, epoch.k, time);
        if at(elapsed) < reno {
            self.window = self.window.max(reno);
            return;
        }
        let target = at(elapsed + srtt).clamp(self.window, self.window * 3 / 2);
        self.credit += u128::from(target - self.window) * u128::from(acked);
        let denominator = u128::from(self.window.max(1));
        self.window += (self.credit / denominator) as u64;
        self.credit %= denominator;
    }
}

/// W_cubic of RFC 9438 section 4.2, in bytes.
fn curve(w_max: u64, mss: u64, k: u64, time: Duration) -> u64 {
    /// Keeps the cube in range: beyond it the window is limited by buffers anyway.
    const MILLIS_MAX: i128 = 1_000_000;
    let distance = (time.as_millis() as i128 - i128::from(k)).clamp(-MILLIS_MAX, MILLIS_MAX);
    let growth = distance.pow(3) * i128::from(mss) * 4 / 10 / 1_000_000_000;
    u64::try_from(i128::from(w_max) + growth).unwrap_or(0)
}

/// The largest integer whose cube is not above `value`.
fn cube_root(value: u128) -> u64 {
    let (mut low, mut high) = (0u128, 1u128 << 32);
    while low < high {
        let middle = (low + high).div_ceil(2);
        if middle.pow(3) <= value { low = middle } else { high = middle - 1 }
    }
    low as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    const MSS: u64 = 1000;

    #[test]
    fn rfc_6928_initial_window_doubles_in_slow_start() {
        let mut cubic = Cubic::new(MSS);
        assert_eq!(cubic.window(), 10 * MSS);
        cubic.on_ack(Instant::ZERO, 10 * MSS, Duration::from_millis(10));
        assert_eq!(cubic.window(), 20 * MSS);
    }

    #[test]
    fn rfc_9438_window_returns_to_w_max_after_k() {
        let rtt = Duration::from_millis(100);
        let mut cubic = Cubic::new(MSS);
        cubic.window = 200 * MSS;
        cubic.on_loss();
        assert_eq!(cubic.window(), 140 * MSS);
        // K = cbrt(60 / 0.4) = 5.31 s.
        let mut now = Instant::ZERO;
        for _ in 0..53 {
            cubic.on_ack(now, cubic.window(), rtt);
            now += rtt;
        }
        assert!(cubic.window().abs_diff(200 * MSS) < 4 * MSS, "{}", cubic.window());
        for _ in 0..40 {
            cubic.on_ack(now, cubic.window(), rtt);
            now += rtt;
        }
        assert!(cubic.window() > 215 * MSS, "{}", cubic.window());
    }

    #[test]
    fn rfc_9438_a_timeout_starts_over_from_one_segment() {
        let mut cubic = Cubic::new(MSS);
        cubic.on_timeout();
        assert_eq!((cubic.window(), cubic.in_slow_start()), (MSS, true));
        cubic.on_ack(Instant::ZERO, 100 * MSS, Duration::from_millis(1));
        assert_eq!((cubic.window(), cubic.in_slow_start()), (7 * MSS, false));
    }

    #[test]
    fn cube_roots() {
        for root in [0u64, 1, 2, 1000, 4_000_000] {
            assert_eq!(cube_root(u128::from(root).pow(3)), root);
        }
        assert_eq!(cube_root(26), 2);
    }
}
