//! HyStart++ (RFC 9406): slow start ends when round trips become longer, before anything is lost.
//!
//! The limit L on growth per ACK is left out: paced senders need none, and kernels acknowledge
//! tens of segments at once.

use crate::time::Duration;

/// Bounds of the increase that counts, and its share of the round trip (RFC 9406 section 4.3).
const THRESHOLD_MIN: Duration = Duration::from_millis(4);
const THRESHOLD_MAX: Duration = Duration::from_millis(16);
const THRESHOLD_DIVISOR: u32 = 8;
/// Samples of a round before it says anything: N_RTT_SAMPLE.
const SAMPLES_MIN: u32 = 8;
/// Rounds of conservative slow start: CSS_ROUNDS.
const ROUNDS: u32 = 5;

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
}

#[derive(Debug)]
struct Conservative {
    baseline: Duration,
    rounds: u32,
}

impl HyStart {
    /// An acknowledgement up to `una`, with everything below `next` sent.
    pub fn on_ack(&mut self, una: u64, next: u64, round_trip: Option<Duration>) -> Growth {
        if let Some(sample) = round_trip {
            self.current = Some(self.current.map_or(sample, |least| least.min(sample)));
            self.samples += 1;
        }
        if self.samples >= SAMPLES_MIN {
            self.judge();
        }
        if una >= self.round_end {
            self.round_end = next;
            self.last = self.current.take().or(self.last);
            self.samples = 0;
            if let Some(conservative) = &mut self.conservative {
                conservative.rounds += 1;
            }
        }
        match &self.conservative {
            None => Growth::Full,
            Some(conservative) if conservative.rounds > ROUNDS => Growth::Over,
            Some(_) => Growth::Conservative,
        }
    }

    fn judge(&mut self) {
        let (Some(current), Some(last)) = (self.current, self.last) else { return };
        match &self.conservative {
            Some(conservative) if current < conservative.baseline => self.conservative = None,
            Some(_) => {}
            None => {
                let threshold = (last / THRESHOLD_DIVISOR).clamp(THRESHOLD_MIN, THRESHOLD_MAX);
                if current >= last + threshold {
                    self.conservative = Some(Conservative { baseline: current, rounds: 0 });
                }
            }
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
    fn rfc_9406_a_mistake_is_taken_back() {
        let mut hystart = HyStart::default();
        round(&mut hystart, 0, 20);
        round(&mut hystart, 1, 20);
        assert_eq!(round(&mut hystart, 2, 30), Growth::Conservative);
        assert_eq!(round(&mut hystart, 3, 21), Growth::Full);
    }
}
