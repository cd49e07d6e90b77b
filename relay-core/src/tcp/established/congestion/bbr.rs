//! BBR: a model of the path, bandwidth and least round trip, decides instead of single losses.
//!
//! The model, its gains and its modes are those of BBRv1 (draft-cardwell-iccrg-bbr-congestion-control-00).
//! From BBRv3 (draft-ietf-ccwg-bbr) come the bound on what is in flight when a queue overflows and
//! the gentle PROBE_RTT. BBRv3's threshold of 2 % would take random loss of 2 % for an overflow in
//! every other round; here it takes more, together with longer round trips, or very much more.

use super::{Ack, Congestion, INITIAL_SEGMENTS};
use crate::tcp::established::rate::Sample;
use crate::tcp::established::rtt::Rtt;
use crate::time::{Duration, Instant};

/// Gains in percent. 2 / ln 2 doubles the rate in every round; its inverse drains what that queued.
const STARTUP_GAIN: u64 = 289;
const DRAIN_GAIN: u64 = 35;
/// Gains of one cycle in PROBE_BW, each for a round trip: ask for more, drain it, cruise.
const CYCLE: [u64; 8] = [125, 75, 100, 100, 100, 100, 100, 100];
const UP: usize = 0;
const DOWN: usize = 1;
const CRUISE: usize = 2;
/// The window in percent of the bandwidth-delay product: ACKs may come late and together.
const WINDOW_GAIN: u64 = 200;
/// The rate stays below the estimate by 1 %, so that queues drain.
const PACING_MARGIN: u64 = 99;
/// Rounds for which a sample of the bandwidth counts.
const BANDWIDTH_ROUNDS: usize = 10;
/// The pipe is full when the bandwidth has not grown by a quarter in so many rounds.
const FULL_ROUNDS: u32 = 3;
/// After so long a round trip is measured again, with this much in flight and for so long.
const MIN_RTT_AGE: Duration = Duration::from_secs(10);
const PROBE_RTT_PERCENT: u64 = 50;
const PROBE_RTT_TIME: Duration = Duration::from_millis(200);
/// Segments that are always allowed.
const SEGMENTS_MIN: u64 = 4;
/// A queue overflows when one in 20 is lost while round trips are longer by an eighth, or one in 6.
const OVERFLOW_SHARE: u64 = 20;
const OVERFLOW_SHARE_ALONE: u64 = 6;
/// Fewer lost segments tell nothing.
const OVERFLOW_SEGMENTS: u64 = 8;
/// Percent of what was in flight at an overflow that may be in flight afterwards.
const BETA: u64 = 85;
/// Below this round trip segments are not spread: timers are no finer.
const PACED_RTT_MIN: Duration = Duration::from_millis(1);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mode {
    Startup,
    Drain,
    /// With the place in [`CYCLE`].
    ProbeBw(usize),
    /// Until then, once little enough is in flight.
    ProbeRtt(Option<Instant>),
}

/// The model and where it stands.
#[derive(Debug)]
pub(in crate::tcp::established) struct Bbr {
    mss: u64,
    window: u64,
    mode: Mode,
    /// When the place in the cycle was taken.
    cycle_at: Instant,
    /// The largest sample of each of the last rounds, in bytes per second.
    bandwidth: [u64; BANDWIDTH_ROUNDS],
    round: usize,
    /// The round ends when something is delivered that was sent after so many bytes.
    round_end: u64,
    min_rtt: Option<(Duration, Instant)>,
    /// Bandwidth when it last grew by a quarter, and rounds since.
    full: (u64, u32),
    is_full: bool,
    /// Bytes that may be in flight without an overflow: inflight_hi.
    bound: u64,
    /// Longest round trips of this round and of the one before.
    longest: [Duration; 2],
    /// An overflow counts once a round.
    overflowed: bool,
    /// Window and bound before the last recovery or PROBE_RTT.
    prior: Option<(u64, u64)>,
    rate: Option<u64>,
}

impl Bbr {
    /// `mss` is the payload of a full segment, in bytes.
    pub fn new(mss: u64) -> Self {
        Bbr {
            mss,
            window: INITIAL_SEGMENTS * mss,
            mode: Mode::Startup,
            cycle_at: Instant::ZERO,
            bandwidth: [0; BANDWIDTH_ROUNDS],
            round: 0,
            round_end: 0,
            min_rtt: None,
            full: (0, 0),
            is_full: false,
            bound: u64::MAX,
            longest: [Duration::ZERO; 2],
            overflowed: false,
            prior: None,
            rate: None,
        }
    }

    /// Bytes per second.
    fn bandwidth(&self) -> u64 {
        self.bandwidth.into_iter().max().unwrap_or(0)
    }

    /// Bandwidth-delay product; none before the first samples.
    fn bdp(&self) -> Option<u64> {
        let (min_rtt, _) = self.min_rtt?;
        let bdp = u128::from(self.bandwidth()) * min_rtt.as_nanos() / 1_000_000_000;
        Some(bdp as u64).filter(|bdp| *bdp > 0)
    }

    /// Bytes in flight at a gain, not less than the path needs to deliver anything at all.
    fn target(&self, percent: u64) -> u64 {
        let bdp = self.bdp().unwrap_or(INITIAL_SEGMENTS * self.mss);
        (bdp * percent / 100).max(SEGMENTS_MIN * self.mss)
    }

    fn note_sample(&mut self, sample: &Sample) -> bool {
        let is_round = sample.prior >= self.round_end;
        if is_round {
            self.round_end = sample.prior + sample.delivered;
            self.round += 1;
            self.bandwidth[self.round % BANDWIDTH_ROUNDS] = 0;
            self.longest = [Duration::ZERO, self.longest[0]];
            self.overflowed = false;
        }
        if let Some(rate) = sample.rate
            && (!sample.limited || rate >= self.bandwidth())
        {
            let best = &mut self.bandwidth[self.round % BANDWIDTH_ROUNDS];
            *best = (*best).max(rate);
        } else if is_round && sample.limited {
            // What the application did not ask for says nothing about the path.
            self.bandwidth[self.round % BANDWIDTH_ROUNDS] =
                self.bandwidth[(self.round - 1) % BANDWIDTH_ROUNDS];
        }
        is_round
    }

    fn note_round_trip(&mut self, ack: &Ack<'_>) {
        let Some(sample) = ack.round_trip else { return };
        self.longest[0] = self.longest[0].max(sample);
        let expired = self.min_rtt.is_some_and(|(_, at)| ack.now.since(at) > MIN_RTT_AGE);
        if expired && self.is_full && !matches!(self.mode, Mode::ProbeRtt(_)) {
            self.mode = Mode::ProbeRtt(None);
            self.prior = Some((self.window, self.bound));
        }
        if expired || self.min_rtt.is_none_or(|(least, _)| sample <= least) {
            self.min_rtt = Some((sample, ack.now));
        }
    }

    fn note_full(&mut self, sample: &Sample) {
        let bandwidth = self.bandwidth();
        if self.is_full || sample.limited {
            return;
        }
        if bandwidth * 4 >= self.full.0 * 5 {
            self.full = (bandwidth, 0);
            return;
        }
        self.full.1 += 1;
        self.is_full = self.full.1 >= FULL_ROUNDS;
    }

    /// So much was lost of what was in flight that a queue has overflowed.
    fn is_overflow(&self, sample: &Sample) -> bool {
        let Some((least, _)) = self.min_rtt else { return false };
        let longest = self.longest[0].max(self.longest[1]);
        let queued = longest >= least + least / 8;
        let share = if queued { OVERFLOW_SHARE } else { OVERFLOW_SHARE_ALONE };
        sample.lost >= OVERFLOW_SEGMENTS * self.mss && sample.lost * share > sample.in_flight
    }

    fn on_overflow(&mut self, now: Instant, sample: &Sample) {
        self.overflowed = true;
        self.bound = (sample.in_flight * BETA / 100).max(self.target(100));
        match self.mode {
            Mode::Startup => self.is_full = true,
            Mode::ProbeBw(UP) => self.enter(now, DOWN),
            _ => {}
        }
    }

    fn enter(&mut self, now: Instant, place: usize) {
        self.mode = Mode::ProbeBw(place);
        self.cycle_at = now;
    }

    fn move_on(&mut self, ack: &Ack<'_>) {
        let (now, in_flight) = (ack.now, ack.in_flight);
        let least = self.min_rtt.map_or(Duration::ZERO, |(least, _)| least);
        let elapsed = now.since(self.cycle_at) > least;
        match self.mode {
            Mode::Startup if self.is_full => self.mode = Mode::Drain,
            Mode::Drain if in_flight <= self.target(100) => self.enter(now, CRUISE),
            Mode::ProbeBw(UP) => {
                let reached = ack.in_flight_before >= self.target(CYCLE[UP]).min(self.bound);
                if elapsed && (reached || ack.lost > 0) {
                    self.enter(now, DOWN);
                }
            }
            Mode::ProbeBw(DOWN) if elapsed || in_flight <= self.target(100) => {
                self.enter(now, CRUISE);
            }
            Mode::ProbeBw(place) if elapsed => self.enter(now, (place + 1) % CYCLE.len()),
            Mode::ProbeRtt(until) => self.probe_rtt(now, in_flight, until),
            _ => {}
        }
    }

    fn probe_rtt(&mut self, now: Instant, in_flight: u64, until: Option<Instant>) {
        match until {
            None if in_flight <= self.target(PROBE_RTT_PERCENT) => {
                self.mode = Mode::ProbeRtt(Some(now + PROBE_RTT_TIME));
            }
            Some(until) if until <= now => {
                if let Some((least, _)) = self.min_rtt {
                    self.min_rtt = Some((least, now));
                }
                if let Some((window, _)) = self.prior.take() {
                    self.window = self.window.max(window);
                }
                self.enter(now, CRUISE);
            }
            _ => {}
        }
    }

    fn set_window(&mut self, ack: &Ack<'_>) {
        // Room for what a kernel acknowledges at once.
        let extra = 6 * self.mss;
        let target = self.target(if self.is_full { WINDOW_GAIN } else { STARTUP_GAIN }) + extra;
        if self.mode == Mode::ProbeBw(UP) && ack.in_flight_before + extra >= self.bound {
            self.bound = self.bound.saturating_add(ack.bytes / 4);
        }
        if self.is_full {
            self.window = (self.window + ack.bytes).min(target);
        } else if self.window < target || self.bdp().is_none() {
            self.window += ack.bytes;
        }
        let bound = match self.mode {
            Mode::ProbeRtt(_) => self.target(PROBE_RTT_PERCENT),
            Mode::Startup | Mode::Drain | Mode::ProbeBw(UP) => self.bound,
            // Room for others, as long as the pipe is full.
            Mode::ProbeBw(_) => (self.bound / 100 * BETA).max(self.target(100) + extra),
        };
        self.window = self.window.min(bound).max(SEGMENTS_MIN * self.mss);
    }

    fn set_rate(&mut self, rtt: &Rtt) {
        let gain = match self.mode {
            Mode::Startup => STARTUP_GAIN,
            Mode::Drain => DRAIN_GAIN,
            Mode::ProbeBw(place) => CYCLE[place],
            Mode::ProbeRtt(_) => 100,
        };
        let srtt = rtt.smoothed().map_or(0, |srtt| srtt.as_micros() as u64).max(1);
        let initial = INITIAL_SEGMENTS * self.mss * 1_000_000 / srtt;
        let bandwidth = if self.is_full { self.bandwidth() } else { self.bandwidth().max(initial) };
        let rate = bandwidth * gain / 100 * PACING_MARGIN / 100;
        self.rate = Some(rate).filter(|_| srtt >= PACED_RTT_MIN.as_micros() as u64);
    }
}

impl Congestion for Bbr {
    fn window(&self) -> u64 {
        self.window
    }

    fn in_slow_start(&self) -> bool {
        self.mode == Mode::Startup
    }

    fn on_ack(&mut self, ack: &Ack<'_>) {
        if let Some(sample) = &ack.sample {
            let is_round = self.note_sample(sample);
            self.note_round_trip(ack);
            if is_round {
                self.note_full(sample);
            }
            if !self.overflowed && self.is_overflow(sample) {
                self.on_overflow(ack.now, sample);
            }
        }
        self.move_on(ack);
        self.set_window(ack);
        self.set_rate(ack.rtt);
    }

    fn on_loss(&mut self, _: u64) -> Option<u64> {
        self.prior = Some((self.window, self.bound));
        None
    }

    fn on_recovered(&mut self) {
        if let Some((window, _)) = self.prior.take() {
            self.window = self.window.max(window);
        }
    }

    fn on_timeout(&mut self, anew: bool, in_flight: u64) {
        if anew {
            self.prior = Some((self.window, self.bound));
        }
        self.window = in_flight + self.mss;
    }

    fn undo(&mut self) {
        if let Some((window, bound)) = self.prior.take() {
            self.window = self.window.max(window);
            self.bound = self.bound.max(bound);
        }
    }

    /// The model stays: the window is what it allows, and segments are spread from the first on.
    fn on_idle(&mut self, _: Duration, _: Duration) {}

    fn pacing_rate(&self, _: &Rtt) -> Option<u64> {
        self.rate
    }
}
