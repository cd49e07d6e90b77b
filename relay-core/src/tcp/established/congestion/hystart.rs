//! HyStart++ (RFC 9406): slow start ends when round trips become longer, before anything is lost.
//!
//! The limit L on growth per ACK is left out: paced senders need none, and kernels acknowledge
//! tens of segments at once.
//!
//! RFC 9406 looks at the first samples of a round, which were sent a round earlier, when the queue was
//! still empty: by the time it sees one, the window is three times what the path holds. A paced
//! sender has a use for later samples, too: it builds no queue within a round before it is too fast.

use crate::time::Duration;

/// Bounds of the increase that counts, and its share of the round trip (RFC 9406 section 4.3).
const THRESHOLD_MIN: Duration = Duration::from_millis(4);
const THRESHOLD_MAX: Duration = Duration::from_millis(16);
const THRESHOLD_DIVISOR: u32 = 8;
/// Samples of a round before it says anything: N_RTT_SAMPLE.
const SAMPLES_MIN: u32 = 8;
/// Rounds of conservative slow start: CSS_ROUNDS.
const ROUNDS: u32 = 5;
/// The last samples, all of which have to be late.
const LATE_SAMPLES: usize = 8;
/// Rounds of conservative slow start that are left then.
const LATE_ROUNDS: u32 = 3;

/// How the window grows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Growth {
    /// By every byte that arrives.
    Full,
    /// By a quarter of it: conservative slow start.
    Conservative,
    /// Slow start is over.
    Over,
}

/// State of one slow start.
#[derive(Debug, Default)]
pub(super) struct HyStart {
    round_end: u64,
    last: Option<Duration>,
    current: Option<Duration>,
    samples: u32,
    conservative: Option<Conservative>,
    recent: [Duration; LATE_SAMPLES],
    least: Option<Duration>,
    /// All of the last samples were late at some time in this round.
    was_late: bool,
}

#[derive(Debug)]
struct Conservative {
    /// Zero when late samples were the reason.
    baseline: Duration,
    rounds: u32,
}

impl HyStart {
    /// An acknowledgement up to `una`, with everything below `next` sent.
    pub fn on_ack(&mut self, una: u64, next: u64, round_trip: Option<Duration>) -> Growth {
        if let Some(sample) = round_trip {
            self.current = Some(self.current.map_or(sample, |least| least.min(sample)));
            self.samples += 1;
            self.recent.rotate_right(1);
            self.recent[0] = sample;
            self.least = Some(self.least.map_or(sample, |least| least.min(sample)));
        }
        if self.samples >= SAMPLES_MIN {
            self.judge();
        }
        if una >= self.round_end {
            self.round_end = next;
            self.last = self.current.take().or(self.last);
            self.samples = 0;
            let was_late = core::mem::take(&mut self.was_late);
            if let Some(conservative) = &mut self.conservative {
                conservative.rounds += 1;
                if conservative.baseline == Duration::ZERO && !was_late {
                    // A queue would have been there in this round, too.
                    self.conservative = None;
                }
            }
        }
        match &self.conservative {
            None => Growth::Full,
            Some(conservative) if conservative.rounds > ROUNDS => Growth::Over,
            Some(_) => Growth::Conservative,
        }
    }

    /// Whether round trips of `sample` are longer than those of `before`.
    fn is_longer(before: Duration, sample: Duration) -> bool {
        sample >= before + (before / THRESHOLD_DIVISOR).clamp(THRESHOLD_MIN, THRESHOLD_MAX)
    }

    fn judge(&mut self) {
        let (Some(current), Some(last)) = (self.current, self.last) else { return };
        let lately = self.recent.into_iter().min().unwrap_or_default();
        let is_late = self.least.is_some_and(|least| Self::is_longer(least, lately));
        self.was_late |= is_late;
        match &self.conservative {
            Some(conservative) if current < conservative.baseline => self.conservative = None,
            Some(_) => {}
            None if Self::is_longer(last, current) => {
                self.conservative = Some(Conservative { baseline: current, rounds: 0 });
            }
            None if is_late => {
                let (baseline, rounds) = (Duration::ZERO, ROUNDS - LATE_ROUNDS);
                self.conservative = Some(Conservative { baseline, rounds });
            }
            None => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A round of ten acknowledgements; what the last one says.
    fn round(hystart: &mut HyStart, number: u64, millis: u64) -> Growth {
        let rtt = Some(Duration::from_millis(millis));
        (1..=10).map(|i| hystart.on_ack(number * 10 + i, number * 10 + i + 10, rtt)).last().unwrap()
    }

    #[test]
    fn rfc_9406_slow_start_goes_on_while_round_trips_stay() {
        let mut hystart = HyStart::default();
        assert!((0..9).all(|i| round(&mut hystart, i, 20 + i % 3) == Growth::Full));
    }

    #[test]
    fn rfc_9406_longer_round_trips_end_it_after_five_rounds() {
        let mut hystart = HyStart::default();
        round(&mut hystart, 0, 20);
        round(&mut hystart, 1, 20);
        let growth: Vec<_> = (2..9).map(|i| round(&mut hystart, i, 25)).collect();
        assert_eq!(growth[0], Growth::Conservative);
        assert_eq!(growth.last(), Some(&Growth::Over), "{growth:?}");
    }

    #[test]
    fn a_queue_that_grows_within_a_round_is_noticed_and_a_hiccup_forgotten() {
        let mut hystart = HyStart::default();
        round(&mut hystart, 0, 20);
        round(&mut hystart, 1, 20);
        let grow = |hystart: &mut HyStart, number: u64, millis: [u64; 20]| {
            let mut una = number * 20;
            millis.map(|millis| {
                una += 1;
                hystart.on_ack(una, una + 20, Some(Duration::from_millis(millis)))
            })
        };
        let rising = core::array::from_fn(|i| 20 + i as u64);
        let growth = grow(&mut hystart, 1, rising);
        assert_eq!((growth[10], growth[11]), (Growth::Full, Growth::Conservative));
        assert_eq!(grow(&mut hystart, 2, [20; 20])[1], Growth::Conservative);
        assert_eq!(grow(&mut hystart, 3, rising)[0], Growth::Full, "nothing came of it");
        let ends = (4..9).map(|number| grow(&mut hystart, number, rising)[19]);
        assert_eq!(ends.last(), Some(Growth::Over));
    }

    #[test]
    fn rfc_9406_a_mistake_is_taken_back() {
        let mut hystart = HyStart::default();
        round(&mut hystart, 0, 20);
        round(&mut hystart, 1, 20);
        assert_eq!(round(&mut hystart, 2, 30), Growth::Conservative);
        assert_eq!(round(&mut hystart, 3, 21), Growth::Full);
    }
}
