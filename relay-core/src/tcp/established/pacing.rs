//! When segments leave: spread over the round trip, in small bursts.
//!
//! A burst may leave when the time of the one before has passed. Who comes late sends more at once,
//! so that a coarse timer costs smoothness and not rate.

use crate::time::{Duration, Instant};

/// Time whose bytes leave together, at least two segments and at most what a kernel would hand to
/// its card at once.
const BURST_TIME: Duration = Duration::from_micros(500);
const BURST_SEGMENTS_MIN: u64 = 2;
const BURST_MAX: u64 = 64 * 1024;
/// Delay of whoever sends that is made up for.
const LATE_MAX: Duration = Duration::from_millis(2);

/// A pacer of segments.
#[derive(Debug, Default)]
pub(super) struct Pacer {
    /// Bytes per second; none: at once.
    rate: Option<u64>,
    /// Bytes of the current burst that have not left.
    burst: u64,
    /// Bytes that need not wait.
    granted: u64,
    /// When the next burst may begin.
    next_at: Instant,
}

impl Pacer {
    pub fn set_rate(&mut self, rate: Option<u64>) {
        self.rate = rate.filter(|rate| *rate > 0);
    }

    /// So many bytes may leave at once, whatever the rate.
    pub fn grant(&mut self, bytes: u64) {
        self.granted = self.granted.max(bytes);
    }

    /// Whether a segment may leave.
    pub fn permits(&self, now: Instant) -> bool {
        self.rate.is_none() || self.burst + self.granted > 0 || self.next_at <= now
    }

    /// When a segment may leave, if it must wait at all.
    pub fn next_at(&self) -> Option<Instant> {
        (self.rate.is_some() && self.burst + self.granted == 0).then_some(self.next_at)
    }

    /// A segment of `bytes` leaves.
    pub fn on_sent(&mut self, now: Instant, bytes: u64, mss: u64) {
        let granted = self.granted.min(bytes);
        self.granted -= granted;
        let Some(rate) = self.rate.filter(|_| granted < bytes) else { return };
        let in_time = |time: Duration| (time.as_nanos() * u128::from(rate) / 1_000_000_000) as u64;
        let time_of = |bytes: u64| Duration::from_nanos(bytes.saturating_mul(1_000_000_000) / rate);
        if self.next_at <= now {
            let late = now.since(self.next_at).min(LATE_MAX);
            let burst = in_time(BURST_TIME).clamp(BURST_SEGMENTS_MIN * mss, BURST_MAX);
            self.burst = burst + in_time(late);
            self.next_at = now + time_of(burst);
        }
        if bytes > self.burst {
            self.next_at += time_of(bytes - self.burst);
        }
        self.burst = self.burst.saturating_sub(bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MSS: u64 = 1_000;

    /// Bytes that leave within a second when somebody looks every `step`.
    fn sent_in_a_second(rate: u64, step: Duration) -> u64 {
        let mut pacer = Pacer::default();
        pacer.set_rate(Some(rate));
        let mut now = Instant::from_millis(5);
        let end = now + Duration::from_secs(1);
        let mut sent = 0;
        while now < end {
            while pacer.permits(now) {
                pacer.on_sent(now, MSS, MSS);
                sent += MSS;
            }
            now += step;
        }
        sent
    }

    #[test]
    fn the_rate_is_kept_however_coarse_the_timer() {
        for rate in [100_000u64, 10_000_000, 1_000_000_000] {
            for micros in [10, 100, 1_000, 1_900] {
                let sent = sent_in_a_second(rate, Duration::from_micros(micros));
                assert!(sent.abs_diff(rate) <= rate / 100 + 70_000, "{rate} {micros}: {sent}");
            }
        }
    }

    #[test]
    fn an_initial_window_leaves_at_once() {
        let mut pacer = Pacer::default();
        pacer.set_rate(Some(1_000_000));
        pacer.grant(10 * MSS);
        let mut sent = 0;
        let now = Instant::from_millis(5);
        while pacer.permits(now) {
            pacer.on_sent(now, MSS, MSS);
            sent += MSS;
        }
        assert_eq!(sent, 10_000 + 4_000, "and a burst of whoever is late");
    }

    #[test]
    fn silence_saves_up_no_more_than_two_milliseconds() {
        let mut pacer = Pacer::default();
        pacer.set_rate(Some(10_000_000));
        let mut sent = 0;
        let now = Instant::from_millis(10_000);
        while pacer.permits(now) {
            pacer.on_sent(now, MSS, MSS);
            sent += MSS;
        }
        assert_eq!(sent, 25_000);
    }
}
