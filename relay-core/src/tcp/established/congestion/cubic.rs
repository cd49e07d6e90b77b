//! CUBIC (RFC 9438) with an initial window of ten segments (RFC 6928) and HyStart++.
//!
//! All arithmetic is on integers, so that every machine computes the same window.

use super::hystart::{Growth, HyStart};
use super::{Ack, Congestion, INITIAL_SEGMENTS, MINIMUM_SEGMENTS};
use crate::tcp::established::rtt::Rtt;
use crate::time::{Duration, Instant};

/// Below this round trip segments are not spread: timers are no finer.
const PACED_RTT_MIN: Duration = Duration::from_millis(1);
/// Growth of the estimate of Reno's window in 1/1024 segments a window: 3 * (1 - 0.7) / (1 + 0.7)
/// until it has caught up with the window before the reduction, then what Reno does (RFC 9438
/// section 4.3).
const ALPHA: u64 = 542;
const ALPHA_CAUGHT_UP: u64 = 1024;

/// The congestion window.
#[derive(Debug)]
pub(in crate::tcp::established) struct Cubic {
    mss: u64,
    /// Bytes that may be in flight.
    window: u64,
    /// Below it the window grows by slow start.
    threshold: u64,
    /// The window before the last reduction, or less: where the curve is flat.
    w_max: u64,
    epoch: Option<Epoch>,
    /// Numerator of the growth that was not enough for a byte yet; its denominator is the window.
    credit: u128,
    hystart: HyStart,
    /// What the last reduction took away.
    prior: Option<Prior>,
}

/// Congestion avoidance since the last reduction.
#[derive(Clone, Debug)]
struct Epoch {
    start: Instant,
    /// Milliseconds from the start to the flat part of the curve: K of RFC 9438.
    k: u64,
    /// What Reno would have: W_est, in units of 1/1024 byte.
    w_est: u64,
}

/// What there was before a reduction (RFC 9438 section 4.9).
#[derive(Clone, Debug)]
struct Prior {
    window: u64,
    threshold: u64,
    w_max: u64,
    epoch: Option<Epoch>,
}

impl Cubic {
    /// `mss` is the payload of a full segment, in bytes.
    pub fn new(mss: u64) -> Self {
        Cubic {
            mss,
            window: INITIAL_SEGMENTS * mss,
            threshold: u64::MAX,
            w_max: 0,
            epoch: None,
            credit: 0,
            hystart: HyStart::default(),
            prior: None,
        }
    }

    /// Multiplicative decrease by 0.7 and fast convergence (RFC 9438 section 4.6, 4.7).
    fn reduce(&mut self) {
        self.prior = Some(Prior {
            window: self.window,
            threshold: self.threshold,
            w_max: self.w_max,
            epoch: self.epoch.take(),
        });
        self.w_max = if self.window < self.w_max { self.window * 17 / 20 } else { self.window };
        self.threshold = (self.window * 7 / 10).max(MINIMUM_SEGMENTS * self.mss);
        self.hystart = HyStart::default();
    }

    fn start_slowly(&mut self, ack: &Ack<'_>) {
        let growth = self.hystart.on_ack(ack.una, ack.next, ack.round_trip);
        if growth == Growth::Over {
            self.threshold = self.window;
        } else if ack.is_limited {
            let bytes = if growth == Growth::Full { ack.bytes } else { ack.bytes / 4 };
            self.window += bytes.min(self.threshold - self.window);
        }
    }

    fn avoid(&mut self, ack: &Ack<'_>) {
        let epoch = self.epoch.get_or_insert_with(|| {
            self.w_max = self.w_max.max(self.window);
            let deficit = u128::from((self.w_max - self.window) / self.mss);
            // K^3 = deficit / 0.4, in seconds.
            let k = cube_root(deficit * 2_500_000_000);
            Epoch { start: ack.now, k, w_est: self.window << 10 }
        });
        let prior = self.prior.as_ref().map_or(0, |prior| prior.window);
        let alpha = if epoch.w_est >> 10 >= prior { ALPHA_CAUGHT_UP } else { ALPHA };
        epoch.w_est += (alpha * ack.bytes).saturating_mul(self.mss) / self.window.max(1);
        let elapsed = ack.now.since(epoch.start);
        let reno = epoch.w_est >> 10;
        let at = |time: Duration| curve(self.w_max, self.mss, epoch.k, time);
        if at(elapsed) < reno {
            self.window = self.window.max(reno);
            return;
        }
        let srtt = ack.rtt.smoothed().unwrap_or_default();
        let target = at(elapsed + srtt).clamp(self.window, self.window * 3 / 2);
        self.credit += u128::from(target - self.window) * u128::from(ack.bytes);
        let denominator = u128::from(self.window.max(1));
        self.window += (self.credit / denominator) as u64;
        self.credit %= denominator;
    }
}

impl Congestion for Cubic {
    fn window(&self) -> u64 {
        self.window
    }

    fn in_slow_start(&self) -> bool {
        self.window < self.threshold
    }

    fn on_ack(&mut self, ack: &Ack<'_>) {
        if ack.in_recovery {
            return;
        }
        if self.in_slow_start() {
            self.start_slowly(ack);
        } else if ack.is_limited {
            self.avoid(ack);
        }
    }

    fn on_loss(&mut self, _: u64) -> Option<u64> {
        self.reduce();
        self.window = self.threshold;
        Some(self.window)
    }

    fn on_recovered(&mut self) {}

    /// RFC 9438 section 4.8. The first segment leaves, whatever else is in flight.
    fn on_timeout(&mut self, anew: bool, in_flight: u64) {
        if anew {
            self.reduce();
        }
        self.window = in_flight + self.mss;
        self.epoch = None;
    }

    fn undo(&mut self) {
        let Some(prior) = self.prior.take() else { return };
        self.window = self.window.max(prior.window);
        self.threshold = self.threshold.max(prior.threshold);
        self.w_max = prior.w_max;
        self.epoch = prior.epoch;
    }

    /// The window is halved for every RTO in which it was not used, and the curve does not go on
    /// in the meantime (RFC 2861 section 3.1, RFC 9438 section 5.8).
    fn on_idle(&mut self, idle: Duration, rto: Duration) {
        if let Some(epoch) = &mut self.epoch {
            epoch.start += idle;
        }
        let restart = (INITIAL_SEGMENTS * self.mss).min(self.window);
        if idle > rto && self.threshold != u64::MAX {
            self.threshold = self.threshold.max(self.window * 3 / 4);
        }
        let mut left = idle;
        while left > rto && self.window > restart {
            self.window = (self.window / 2).max(restart);
            left = left.saturating_sub(rto);
        }
    }

    /// Twice the rate of the window while it doubles, else a fifth more, so that it is the window
    /// that limits, as in Linux.
    fn pacing_rate(&self, rtt: &Rtt) -> Option<u64> {
        let srtt = rtt.smoothed().filter(|srtt| *srtt >= PACED_RTT_MIN)?;
        let percent = if self.window < self.threshold / 2 { 200 } else { 120 };
        Some(self.window * percent * 10_000 / srtt.as_micros() as u64)
    }
}

/// W_cubic of RFC 9438 section 4.2, in bytes.
pub(super) fn curve(w_max: u64, mss: u64, k: u64, time: Duration) -> u64 {
    /// Keeps the cube in range: beyond it the window is limited by buffers anyway.
    const MILLIS_MAX: i128 = 1_000_000;
    let distance = (time.as_millis() as i128 - i128::from(k)).clamp(-MILLIS_MAX, MILLIS_MAX);
    let growth = distance.pow(3) * i128::from(mss) * 4 / 10 / 1_000_000_000;
    u64::try_from(i128::from(w_max) + growth).unwrap_or(0)
}

/// The largest integer whose cube is not above `value`.
pub(super) fn cube_root(value: u128) -> u64 {
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

    fn ack(cubic: &mut Cubic, now: Instant, bytes: u64, rtt: &Rtt) {
        cubic.on_ack(&Ack {
            now,
            bytes,
            una: 0,
            next: 0,
            in_flight_before: bytes,
            in_flight: 0,
            is_limited: true,
            in_recovery: false,
            round_trip: rtt.smoothed(),
            rtt,
            lost: 0,
            sample: None,
        });
    }

    fn rtt(millis: u64) -> Rtt {
        let mut rtt = Rtt::default();
        rtt.sample(Duration::from_millis(millis));
        rtt
    }

    #[test]
    fn rfc_6928_initial_window_doubles_in_slow_start() {
        let mut cubic = Cubic::new(MSS);
        assert_eq!(cubic.window(), 10 * MSS);
        ack(&mut cubic, Instant::ZERO, 10 * MSS, &rtt(10));
        assert_eq!(cubic.window(), 20 * MSS);
    }

    #[test]
    fn rfc_9438_window_returns_to_w_max_after_k() {
        let rtt = rtt(100);
        let step = Duration::from_millis(100);
        let mut cubic = Cubic::new(MSS);
        cubic.window = 400 * MSS;
        assert_eq!(cubic.on_loss(0), Some(280 * MSS));
        // K = cbrt(120 / 0.4) = 6.69 s.
        let mut now = Instant::ZERO;
        for _ in 0..67 {
            let window = cubic.window();
            ack(&mut cubic, now, window, &rtt);
            now += step;
        }
        assert!(cubic.window().abs_diff(400 * MSS) < 4 * MSS, "{}", cubic.window());
        for _ in 0..40 {
            let window = cubic.window();
            ack(&mut cubic, now, window, &rtt);
            now += step;
        }
        assert!(cubic.window() > 415 * MSS, "{}", cubic.window());
    }

    #[test]
    fn rfc_9438_beside_reno_the_window_grows_at_least_as_its_estimate() {
        let rtt = rtt(10);
        let mut cubic = Cubic::new(MSS);
        cubic.window = 20 * MSS;
        cubic.on_loss(0);
        let mut now = Instant::ZERO;
        for _ in 0..30 {
            let window = cubic.window();
            ack(&mut cubic, now, window, &rtt);
            now += Duration::from_millis(10);
        }
        // 6 segments by 0.53 a window, which takes 11 or 12, then one a window.
        assert!(cubic.window().abs_diff(38 * MSS) <= 2 * MSS, "{}", cubic.window());
    }

    #[test]
    fn rfc_9438_a_timeout_starts_over_from_one_segment() {
        let mut cubic = Cubic::new(MSS);
        cubic.on_timeout(true, 0);
        assert_eq!((cubic.window(), cubic.in_slow_start()), (MSS, true));
        ack(&mut cubic, Instant::ZERO, 100 * MSS, &rtt(1));
        assert_eq!((cubic.window(), cubic.in_slow_start()), (7 * MSS, false));
    }

    #[test]
    fn rfc_9438_a_spurious_reduction_is_taken_back() {
        let mut cubic = Cubic::new(MSS);
        cubic.on_timeout(true, 0);
        cubic.on_timeout(false, 0);
        cubic.undo();
        assert_eq!((cubic.window(), cubic.in_slow_start()), (10 * MSS, true));
    }

    #[test]
    fn rfc_2861_an_unused_window_is_halved_for_every_timeout() {
        let mut cubic = Cubic::new(MSS);
        cubic.window = 100 * MSS;
        let rto = Duration::from_millis(200);
        cubic.on_idle(rto, rto);
        assert_eq!(cubic.window(), 100 * MSS);
        cubic.on_idle(rto * 5 / 2, rto);
        assert_eq!(cubic.window(), 25 * MSS);
        cubic.on_idle(rto * 99, rto);
        assert_eq!(cubic.window(), 10 * MSS);
    }

    #[test]
    fn cube_roots() {
        for root in [0u64, 1, 2, 1000, 4_000_000] {
            assert_eq!(cube_root(u128::from(root).pow(3)), root);
        }
        assert_eq!(cube_root(26), 2);
    }
}
