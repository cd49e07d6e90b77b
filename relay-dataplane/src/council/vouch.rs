//! Whether the node's workers live. A council that vouches for a node of which a worker hangs would keep
//! it in the view for as long as only councils are asked.

use std::time::Duration;

use relay_views::council::TICK;

/// What one look at the worker may add to its silence: a council that was paused itself, with its
/// process or its machine, must not blame the worker for that.
const LOOK_MAX: Duration = Duration::from_millis(2 * TICK.as_millis() as u64);

/// Watches the workers' calls. A witness has no workers, and is always vouched for.
#[derive(Debug)]
pub struct Vouch {
    /// Silence after which a worker hangs; `None`: there is no worker.
    limit: Option<Duration>,
    workers: Vec<Watched>,
    looked: Duration,
    vouches: bool,
}

/// How often one worker has called, and for how long it has not.
#[derive(Clone, Copy, Debug, Default)]
struct Watched {
    calls: u64,
    silence: Duration,
}

impl Vouch {
    /// Before the first calls there is nobody to vouch for.
    pub fn new(limit: Option<Duration>, now: Duration) -> Self {
        let vouches = limit.is_none();
        Vouch { limit, workers: Vec::new(), looked: now, vouches }
    }

    /// Looks at how often each worker has called (`None`: it has ended, as it was asked to); true if the
    /// answer to [`Vouch::vouches`] changed.
    pub fn look(&mut self, now: Duration, calls: impl Iterator<Item = Option<u64>>) -> bool {
        let Some(limit) = self.limit else { return false };
        let passed = now.saturating_sub(self.looked).min(LOOK_MAX);
        self.looked = now;
        for (worker, calls) in calls.enumerate() {
            if worker == self.workers.len() {
                self.workers.push(Watched::default());
            }
            let watched = &mut self.workers[worker];
            match calls {
                Some(calls) if calls == watched.calls => watched.silence += passed,
                Some(calls) => *watched = Watched { calls, silence: Duration::ZERO },
                None => watched.silence = Duration::ZERO,
            }
        }
        let before = self.vouches;
        let lives = |worker: &Watched| worker.calls > 0 && worker.silence <= limit;
        self.vouches = !self.workers.is_empty() && self.workers.iter().all(lives);
        before != self.vouches
    }

    /// Whether the node may be a member.
    pub fn vouches(&self) -> bool {
        self.vouches
    }

    /// Whether a worker called before, and then ceased to.
    pub fn hangs(&self) -> bool {
        let began = self.workers.iter().all(|worker| worker.calls > 0);
        !self.vouches && began && !self.workers.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MILLI: Duration = Duration::from_millis(1);

    fn look(vouch: &mut Vouch, at: Duration, calls: &[u64]) -> bool {
        vouch.look(at, calls.iter().copied().map(Some))
    }

    #[test]
    fn a_worker_that_calls_is_vouched_for_and_one_that_hangs_is_not() {
        let mut vouch = Vouch::new(Some(100 * MILLI), MILLI);
        assert!(!look(&mut vouch, 500 * MILLI, &[0]), "it has not begun yet");
        assert!(!vouch.vouches() && !vouch.hangs());
        assert!(look(&mut vouch, 505 * MILLI, &[1]) && vouch.vouches());
        let mut hangs = |tick: u32| look(&mut vouch, (505 + 5 * tick) * MILLI, &[1]);
        assert_eq!(
            (1..).find(|tick| hangs(*tick)),
            Some(21),
            "the first look after more than 100 ms"
        );
        assert!(vouch.hangs());
        assert!(look(&mut vouch, 700 * MILLI, &[2]) && vouch.vouches() && !vouch.hangs());
    }

    #[test]
    fn a_pause_of_the_whole_process_is_not_the_workers_fault() {
        let mut vouch = Vouch::new(Some(100 * MILLI), MILLI);
        look(&mut vouch, 5 * MILLI, &[1]);
        assert!(!look(&mut vouch, 5_000 * MILLI, &[1]), "the council did not run either");
        assert!(vouch.vouches());
    }

    #[test]
    fn one_worker_of_several_that_hangs_is_enough() {
        let mut vouch = Vouch::new(Some(20 * MILLI), MILLI);
        assert!(!look(&mut vouch, 5 * MILLI, &[1, 0]), "one has not begun yet");
        assert!(look(&mut vouch, 10 * MILLI, &[2, 1]) && vouch.vouches());
        let mut hangs =
            |tick: u32| look(&mut vouch, (10 + 5 * tick) * MILLI, &[2 + u64::from(tick), 1]);
        assert_eq!((1..).find(|tick| hangs(*tick)), Some(5));
        assert!(vouch.hangs());
        // What has ended is not expected to call.
        assert!(vouch.look(40 * MILLI, [Some(9), None].into_iter()) && vouch.vouches());
        assert!(!vouch.look(500 * MILLI, [Some(10), None].into_iter()) && vouch.vouches());
    }

    #[test]
    fn a_witness_needs_no_worker() {
        let mut vouch = Vouch::new(None, MILLI);
        assert!(vouch.vouches() && !look(&mut vouch, 900 * MILLI, &[0]) && vouch.vouches());
    }
}
