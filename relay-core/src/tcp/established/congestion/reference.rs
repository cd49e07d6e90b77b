//! CUBIC as Linux has it (`tcp_cubic.c`), for comparison: no pacing, HyStart by the length of trains
//! of ACKs and by delay, the increase beside Reno always that of an AIMD(0.53, 0.7).

use super::cubic::{cube_root, curve};
use super::{Ack, Congestion, INITIAL_SEGMENTS, MINIMUM_SEGMENTS};
use crate::tcp::established::rtt::Rtt;
use crate::time::{Duration, Instant};

/// ACKs that are not further apart belong to one train: `hystart_ack_delta`.
const TRAIN_GAP: Duration = Duration::from_millis(2);
const LOW_WINDOW: u64 = 16;
const SAMPLES: u32 = 8;

#[derive(Debug, Default)]
struct Round {
    end: u64,
    start: Instant,
    last_ack: Instant,
    current: Option<Duration>,
    samples: u32,
}

#[derive(Debug)]
pub(in crate::tcp::established) struct Reference {
    mss: u64,
    window: u64,
    threshold: u64,
    /// `last_max_cwnd`.
    w_max: u64,
    epoch: Option<(Instant, u64, u64)>,
    /// `tcp_cwnd`, in units of 1/1024 byte.
    reno: u64,
    credit: u64,
    round: Round,
    delay_min: Option<Duration>,
}

impl Reference {
    pub fn new(mss: u64) -> Self {
        Reference {
            mss,
            window: INITIAL_SEGMENTS * mss,
            threshold: u64::MAX,
            w_max: 0,
            epoch: None,
            reno: 0,
            credit: 0,
            round: Round::default(),
            delay_min: None,
        }
    }

    fn reduce(&mut self) {
        self.epoch = None;
        self.w_max = if self.window < self.w_max { self.window * 17 / 20 } else { self.window };
        self.threshold = (self.window * 717 / 1024).max(MINIMUM_SEGMENTS * self.mss);
    }

    fn watch(&mut self, ack: &Ack<'_>) {
        if ack.una >= self.round.end {
            self.round =
                Round { end: ack.next, start: ack.now, last_ack: ack.now, ..Round::default() };
        }
        let Some(rtt) = ack.round_trip else { return };
        let least = self.delay_min.map_or(rtt, |least| least.min(rtt));
        self.delay_min = Some(least);
        if self.window < LOW_WINDOW * self.mss {
            return;
        }
        if ack.now.since(self.round.last_ack) <= TRAIN_GAP {
            self.round.last_ack = ack.now;
            if ack.now.since(self.round.start) > least / 2 {
                self.threshold = self.window;
            }
        }
        if self.round.samples < SAMPLES {
            self.round.samples += 1;
            self.round.current = Some(self.round.current.map_or(rtt, |least| least.min(rtt)));
        } else {
            let (low, high) = (Duration::from_millis(4), Duration::from_millis(16));
            if self.round.current.is_some_and(|at| at > least + (least / 8).clamp(low, high)) {
                self.threshold = self.window;
            }
        }
    }

    fn avoid(&mut self, ack: &Ack<'_>) {
        let (window, mss) = (self.window, self.mss);
        let w_max = self.w_max;
        let (start, k, origin) = *self.epoch.get_or_insert_with(|| {
            self.reno = window << 10;
            let deficit = u128::from(w_max.saturating_sub(window) / mss);
            (ack.now, cube_root(deficit * 2_500_000_000), w_max.max(window))
        });
        let time = ack.now.since(start) + self.delay_min.unwrap_or_default();
        let target = curve(origin, mss, k, time);
        // Segments to be acknowledged for one of growth.
        let segments = window / mss;
        let mut count =
            if target > window { window / (target - window).max(1) } else { 100 * segments };
        if w_max == 0 {
            count = count.min(20);
        }
        self.reno += (ack.bytes * mss / window.max(1)) * 1024 * 8 / 15;
        let reno = self.reno >> 10;
        if reno > window {
            count = count.min(segments * mss / (reno - window).max(1));
        }
        let count = count.max(2);
        self.credit += ack.bytes;
        if self.credit >= count * mss {
            self.window += self.credit / (count * mss) * mss;
            self.credit %= count * mss;
        }
    }
}

impl Congestion for Reference {
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
            self.watch(ack);
        }
        if !ack.is_limited {
            return;
        }
        if self.in_slow_start() {
            self.window += ack.bytes.min(self.threshold - self.window);
        } else {
            self.avoid(ack);
        }
    }

    fn on_loss(&mut self, _: u64) -> Option<u64> {
        self.reduce();
        self.window = self.threshold;
        Some(self.window)
    }

    fn on_recovered(&mut self) {}

    fn on_timeout(&mut self, anew: bool, in_flight: u64) {
        if anew {
            self.reduce();
        }
        self.window = in_flight + self.mss;
        self.epoch = None;
    }

    fn undo(&mut self) {}

    fn on_idle(&mut self, _: Duration, _: Duration) {}

    fn pacing_rate(&self, _: &Rtt) -> Option<u64> {
        None
    }
}
