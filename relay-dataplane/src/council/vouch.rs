//! Whether the node's worker lives. A council that vouches for a node whose worker hangs would keep
//! it in the view for as long as only councils are asked.

use std::time::Duration;

use relay_views::council::TICK;

/// What one look at the worker may add to its silence: a council that was paused itself, with its
/// process or its machine, must not blame the worker for that.
const LOOK_MAX: Duration = Duration::from_millis(2 * TICK.as_millis() as u64);

/// Watches one worker's calls. A witness has none, and is always vouched for.
#[derive(Debug)]
pub struct Vouch {
    /// Silence after which the worker hangs; `None`: there is no worker.
    limit: Option<Duration>,
    calls: u64,
    silence: Duration,
    looked: Duration,
    vouches: bool,
}

impl Vouch {
    /// Before the first call there is nobody to vouch for.
    pub fn new(limit: Option<Duration>, now: Duration) -> Self {
        let vouches = limit.is_none();
        Vouch { limit, calls: 0, silence: Duration::ZERO, looked: now, vouches }
    }

    /// Looks at how often the worker has called; true if the answer to [`Vouch::vouches`] changed.
    pub fn look(&mut self, now: Duration, calls: u64) -> bool {
        let Some(limit) = self.limit else { return false };
        self.silence += now.saturating_sub(self.looked).min(LOOK_MAX);
        self.looked = now;
        if calls != self.calls {
            (self.calls, self.silence) = (calls, Duration::ZERO);
        }
        let before = self.vouches;
        self.vouches = self.calls > 0 && self.silence <= limit;
        before != self.vouches
    }

    /// Whether the node may be a member.
    pub fn vouches(&self) -> bool {
        self.vouches
    }

    /// Whether the worker called before, and then ceased to.
    pub fn hangs(&self) -> bool {
        self.calls > 0 && !self.vouches
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MILLI: Duration = Duration::from_millis(1);

    #[test]
    fn a_worker_that_calls_is_vouched_for_and_one_that_hangs_is_not() {
        let mut vouch = Vouch::new(Some(100 * MILLI), MILLI);
        assert!(!vouch.look(500 * MILLI, 0), "it has not begun yet");
        assert!(!vouch.vouches() && !vouch.hangs());
        assert!(vouch.look(505 * MILLI, 1) && vouch.vouches());
        let hangs = (1..).find(|tick| vouch.look((505 + 5 * tick) * MILLI, 1)).unwrap();
        assert_eq!(hangs, 21, "the first look after more than 100 ms");
        assert!(vouch.hangs());
        assert!(vouch.look(700 * MILLI, 2) && vouch.vouches() && !vouch.hangs());
    }

    #[test]
    fn a_pause_of_the_whole_process_is_not_the_workers_fault() {
        let mut vouch = Vouch::new(Some(100 * MILLI), MILLI);
        vouch.look(5 * MILLI, 1);
        assert!(!vouch.look(5_000 * MILLI, 1), "the council did not run either");
        assert!(vouch.vouches());
    }

    #[test]
    fn a_witness_needs_no_worker() {
        let mut vouch = Vouch::new(None, MILLI);
        assert!(vouch.vouches() && !vouch.look(900 * MILLI, 0) && vouch.vouches());
    }
}
