//! How long a silent peer is waited for: keep-alive (RFC 9293 section 3.8.4), and a limit for peers
//! that take nothing (RFC 5482 calls it the user timeout).

use crate::time::{Duration, Instant};

/// Between two keep-alive probes, when the first is not answered (the value that Linux uses).
const PROBE_INTERVAL: Duration = Duration::from_secs(75);
/// Probes without an answer before the peer counts as gone.
const PROBES_MAX: u32 = 9;

/// What the operator grants a peer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Limits {
    /// A peer that was silent for so long is asked whether it is there; None: never.
    pub keepalive: Option<Duration>,
    /// A peer that does not acknowledge for so long although it was sent something, or that keeps
    /// its window closed, is given up; None: only when it does not answer at all.
    pub stall_max: Option<Duration>,
}

#[derive(Debug)]
pub(crate) struct Patience {
    limits: Limits,
    heard_at: Instant,
    /// Probes since then.
    probes: u32,
    probe_due: bool,
    /// SND.UNA while the peer is expected to acknowledge more, and since when it stands there.
    stalled: Option<(u64, Instant)>,
    /// Nothing is under way, and the window is open: no other timer asks after the peer.
    is_quiet: bool,
}

impl Patience {
    pub fn new(limits: Limits, now: Instant) -> Self {
        let (probes, probe_due) = (0, false);
        Patience { limits, heard_at: now, probes, probe_due, stalled: None, is_quiet: true }
    }

    /// The peer has said something acceptable.
    pub fn on_heard(&mut self, now: Instant) {
        (self.heard_at, self.probes, self.probe_due) = (now, 0, false);
    }

    /// The peer has acknowledged `una`; `is_quiet`: it is not expected to acknowledge more.
    pub fn watch(&mut self, now: Instant, una: u64, is_quiet: bool) {
        self.is_quiet = is_quiet;
        if is_quiet {
            self.stalled = None;
        } else if self.stalled.is_none_or(|(before, _)| before != una) {
            self.stalled = Some((una, now));
        }
    }

    /// A segment must leave that the peer has to answer.
    pub fn probe_due(&self) -> bool {
        self.probe_due
    }

    pub fn on_probe_sent(&mut self) {
        self.probe_due = false;
    }

    pub fn poll_timeout(&self) -> Option<Instant> {
        [self.probe_at(), self.gone_at()].into_iter().flatten().min()
    }

    /// Returns false when the peer must be given up.
    pub fn on_timeout(&mut self, now: Instant) -> bool {
        if self.gone_at().is_some_and(|at| at <= now) {
            return false;
        }
        if self.probe_at().is_some_and(|at| at <= now) {
            if self.probes == PROBES_MAX {
                return false;
            }
            self.probes += 1;
            self.probe_due = true;
        }
        true
    }

    fn probe_at(&self) -> Option<Instant> {
        let first = self.heard_at + self.limits.keepalive?;
        (self.is_quiet && !self.probe_due).then_some(first + PROBE_INTERVAL * self.probes)
    }

    fn gone_at(&self) -> Option<Instant> {
        let (_, since) = self.stalled?;
        Some(since + self.limits.stall_max?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const START: Instant = Instant::from_millis(1_000_000);

    fn seconds(count: u64) -> Duration {
        Duration::from_secs(count)
    }

    #[test]
    fn rfc_9293_a_silent_peer_is_probed_and_given_up() {
        let limits = Limits { keepalive: Some(seconds(7200)), stall_max: None };
        let mut patience = Patience::new(limits, START);
        for probe in 0..u64::from(PROBES_MAX) {
            let at = patience.poll_timeout().expect("a probe");
            assert_eq!(at, START + seconds(7200 + 75 * probe));
            assert!(patience.on_timeout(at) && patience.probe_due());
            patience.on_probe_sent();
        }
        let at = patience.poll_timeout().expect("the end");
        assert!(!patience.on_timeout(at));
        patience.on_heard(at);
        assert!(patience.on_timeout(at), "an answer begins it anew");
        assert_eq!(patience.poll_timeout(), Some(at + seconds(7200)));
    }

    #[test]
    fn rfc_9293_no_keep_alive_while_other_timers_run_or_when_it_is_off() {
        let limits = Limits { keepalive: Some(seconds(10)), stall_max: None };
        let mut patience = Patience::new(limits, START);
        patience.watch(START, 0, false);
        assert_eq!(patience.poll_timeout(), None);
        assert_eq!(Patience::new(Limits::default(), START).poll_timeout(), None);
    }

    #[test]
    fn rfc_5482_a_peer_that_takes_nothing_is_given_up() {
        let limits = Limits { keepalive: None, stall_max: Some(seconds(60)) };
        let mut patience = Patience::new(limits, START);
        patience.watch(START, 7, false);
        let later = START + seconds(59);
        patience.watch(later, 8, false);
        assert!(patience.on_timeout(START + seconds(60)), "it has made progress");
        patience.on_heard(later + seconds(30));
        patience.watch(later + seconds(30), 8, false);
        assert!(!patience.on_timeout(later + seconds(60)), "answers alone are none");
        patience.watch(later, 8, true);
        assert!(patience.on_timeout(later + seconds(60)), "everything was taken");
    }
}
