//! How many new connections are let in.

use crate::time::Instant;

/// A token bucket that holds the allowance of one second.
#[derive(Debug, Default)]
pub(super) struct Admission {
    /// What is left of the allowance, in nanoseconds of it; None: nobody has come yet.
    left: Option<(u64, Instant)>,
}

/// The allowance of a second, in nanoseconds.
const FULL: u64 = 1_000_000_000;

impl Admission {
    /// Whether one more may come in, of at most `per_second`; None: there is no limit.
    pub fn admit(&mut self, now: Instant, per_second: Option<u32>) -> bool {
        let Some(per_second) = per_second else { return true };
        let price = FULL / u64::from(per_second.max(1));
        let (left, at) = self.left.unwrap_or((FULL, now));
        let gained = u64::try_from(now.since(at).as_nanos()).unwrap_or(u64::MAX);
        let left = left.saturating_add(gained).min(FULL);
        let admitted = left >= price;
        self.left = Some((if admitted { left - price } else { left }, now));
        admitted
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::time::Duration;

    #[test]
    fn a_burst_of_one_second_passes_and_then_the_rate_counts() {
        let mut admission = Admission::default();
        let start = Instant::from_millis(77_000);
        let mut count = |at, calls: u32| {
            (0..calls)
                .filter(|_| admission.admit(start + Duration::from_millis(at), Some(100)))
                .count()
        };
        assert_eq!(count(0, 500), 100);
        assert_eq!(count(50, 500), 5);
        assert_eq!(count(10_000, 500), 100, "no more is saved up");
        assert!((0..500).all(|_| admission.admit(start, None)));
    }
}
