//! How late a peer's signs of life may come. A machine that is busy, or a bad link, makes pauses that end
//! by themselves; who is suspected at each of them is ejected again and again.

use crate::time::{Duration, Instant};

/// A pause is remembered for this long, and for at most twice as long.
const WINDOW: Duration = Duration::from_secs(10);

/// A peer is suspected after so many times the longest pause that ended by itself.
const MARGIN: u32 = 2;

/// The longest patience, in timeouts. Longer pauses are outages, from which nothing is learned.
const TIMEOUTS_MAX: u32 = 4;

/// The longest pauses of a peer, in the present window and in the one before.
#[derive(Clone, Copy, Debug, Default)]
pub struct Punctuality {
    longest: [Duration; 2],
    since: Instant,
}

impl Punctuality {
    /// A sign of life came `pause` after the one before it.
    pub fn note(&mut self, now: Instant, pause: Duration, timeout: Duration) {
        if now - self.since > WINDOW {
            let is_recent = now - self.since <= WINDOW * 2;
            let before = if is_recent { self.longest[0] } else { Duration::ZERO };
            self.longest = [Duration::ZERO, before];
            self.since = now;
        }
        if pause <= timeout * TIMEOUTS_MAX {
            self.longest[0] = self.longest[0].max(pause);
        }
    }

    /// Silence after which the peer is suspected: `timeout`, unless it has come late before.
    pub fn patience(&self, timeout: Duration) -> Duration {
        let longest = self.longest[0].max(self.longest[1]);
        (longest * MARGIN).clamp(timeout, timeout * TIMEOUTS_MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TIMEOUT: Duration = Duration::from_millis(100);

    fn after(pauses: &[(u64, u64)]) -> Duration {
        let mut punctuality = Punctuality::default();
        for (at, pause) in pauses {
            let pause = Duration::from_millis(*pause);
            punctuality.note(Instant::from_millis(*at), pause, TIMEOUT);
        }
        punctuality.patience(TIMEOUT)
    }

    #[test]
    fn who_comes_late_is_waited_for_longer_next_time() {
        assert_eq!(after(&[(5, 5), (10, 5)]), TIMEOUT);
        assert_eq!(after(&[(5, 5), (95, 90), (100, 5)]), TIMEOUT * 9 / 5);
        assert_eq!(after(&[(400, 380)]), TIMEOUT * 4);
        assert_eq!(after(&[(5000, 4900)]), TIMEOUT, "an outage");
    }

    #[test]
    fn it_is_forgotten_after_a_while() {
        assert_eq!(after(&[(90, 90), (11_000, 5)]), TIMEOUT * 9 / 5);
        assert_eq!(after(&[(90, 90), (11_000, 5), (22_000, 5)]), TIMEOUT);
        assert_eq!(after(&[(90, 90), (40_000, 5)]), TIMEOUT);
    }
}
