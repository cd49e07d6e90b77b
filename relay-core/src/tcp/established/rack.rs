//! RACK's view of time: the newest delivery, and how much reordering to expect (RFC 8985 section
//! 6.2, steps 1 to 4).

use super::rtt::Rtt;
use super::scoreboard::Sent;
use crate::time::{Duration, Instant};

/// SACKed segments above a hole that prove a loss without any waiting (RFC 8985 section 6.2).
const DUP_THRESH: usize = 3;
/// Recoveries for which a window that duplicates have widened stays wide (RFC 8985 section 7.1).
const PERSIST: u32 = 16;

/// State of RACK (RFC 8985 section 5.2).
#[derive(Debug)]
pub(crate) struct Rack {
    /// Of the delivered segments the one that was sent last: when, and its end.
    newest: Option<(Instant, u64)>,
    rtt: Duration,
    min_rtt: Duration,
    /// Highest end that was delivered: RACK.fack.
    highest: u64,
    reordering_seen: bool,
    /// The reordering window in quarters of the least RTT.
    multiplier: u32,
    /// Recoveries until the multiplier returns to one.
    persist: u32,
    /// No second duplicate counts before this is acknowledged.
    round_end: Option<u64>,
    /// What the acknowledgement echoes was sent at this time, in milliseconds.
    pub echo: Option<u64>,
}

impl Default for Rack {
    fn default() -> Self {
        Rack {
            newest: None,
            rtt: Duration::ZERO,
            min_rtt: Duration::ZERO,
            highest: 0,
            reordering_seen: false,
            multiplier: 1,
            persist: PERSIST,
            round_end: None,
            echo: None,
        }
    }
}

impl Rack {
    /// The least round trip, which no retransmission can undercut.
    pub fn set_min_rtt(&mut self, min_rtt: Duration) {
        self.min_rtt = min_rtt;
    }

    /// Steps 2 and 3: `sent` was delivered.
    pub fn deliver(&mut self, now: Instant, sent: &Sent) {
        let rtt = now.since(sent.sent_at);
        let is_older = self.echo.is_some_and(|echo| echo < sent.sent_at.as_millis());
        if sent.ambiguous && (rtt < self.min_rtt || is_older) {
            return; // The earlier copy was acknowledged.
        }
        self.reordering_seen |= !sent.ambiguous && sent.end < self.highest;
        self.highest = self.highest.max(sent.end);
        if self.newest.is_none_or(|newest| (sent.sent_at, sent.end) > newest) {
            self.newest = Some((sent.sent_at, sent.end));
            self.rtt = rtt;
        }
    }

    /// RACK.xmit_ts with RACK.end_seq, and RACK.rtt.
    pub fn newest(&self) -> Option<((Instant, u64), Duration)> {
        self.newest.map(|newest| (newest, self.rtt))
    }

    /// A duplicate was reported: something was taken for lost too early. `next` ends the round in
    /// which no other counts.
    pub fn on_duplicate(&mut self, una: u64, next: u64) {
        if self.round_end.is_some_and(|end| una < end) {
            return;
        }
        self.round_end = Some(next);
        self.multiplier = self.multiplier.saturating_add(1);
        self.persist = PERSIST;
    }

    /// A segment that was taken for lost was only late.
    pub fn on_late(&mut self) {
        self.reordering_seen = true;
    }

    /// A recovery ended.
    pub fn on_recovered(&mut self) {
        self.persist = self.persist.saturating_sub(1);
        if self.persist == 0 {
            self.multiplier = 1;
        }
    }

    /// Step 4: how much later than its successors a segment may arrive.
    pub fn window(&self, rtt: &Rtt, in_recovery: bool, sacked: usize) -> Duration {
        if !self.reordering_seen && (in_recovery || sacked >= DUP_THRESH) {
            return Duration::ZERO;
        }
        let window = (rtt.minimum() / 4).saturating_mul(self.multiplier);
        window.min(rtt.smoothed().unwrap_or_default())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rfc_8985_duplicates_widen_the_window_once_a_round_and_sixteen_recoveries_narrow_it() {
        let mut rtt = Rtt::default();
        rtt.sample(Duration::from_millis(100));
        rtt.sample_minimum(Instant::ZERO, Duration::from_millis(100));
        let mut rack = Rack { reordering_seen: true, ..Rack::default() };
        assert_eq!(rack.window(&rtt, false, 0), Duration::from_millis(25));
        rack.on_duplicate(10, 50);
        rack.on_duplicate(20, 60);
        assert_eq!(rack.window(&rtt, true, 9), Duration::from_millis(50));
        for end in [60, 70, 80, 90] {
            rack.on_duplicate(end, end);
        }
        assert_eq!(rack.window(&rtt, true, 9), Duration::from_millis(100), "SRTT is the limit");
        (0..16).for_each(|_| rack.on_recovered());
        assert_eq!(rack.window(&rtt, true, 9), Duration::from_millis(25));
    }
}
