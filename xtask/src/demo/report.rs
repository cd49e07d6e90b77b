//! The table at the end of the demo, and its line of JSON.

use std::fmt;
use std::time::Duration;

use anyhow::{Result, bail};
use serde::Serialize;

use super::transfer::Outcome;
use crate::lab::How;

/// What the clients noticed.
pub struct Report {
    /// One of each connection.
    pub outcomes: Vec<Outcome>,
    /// The longest pause of each connection after the loss, ascending.
    pub pauses: Vec<Duration>,
    /// The relay that was lost.
    pub lost: String,
    /// How it was lost.
    pub how: How,
    /// From the loss until another relay said that it was the owner.
    pub takeover: Option<Duration>,
}

/// The line of JSON. Times are in milliseconds, null where there is none.
#[derive(Debug, Serialize)]
pub struct Summary {
    connections: usize,
    survived: usize,
    resets: usize,
    bytes_ok: bool,
    pause_ms: Pauses,
    takeover_ms: Option<f64>,
}

#[derive(Debug, PartialEq, Serialize)]
struct Pauses {
    p50: Option<f64>,
    p99: Option<f64>,
    max: Option<f64>,
}

impl Report {
    /// The same for programs.
    pub fn summary(&self) -> Summary {
        Summary {
            connections: self.outcomes.len(),
            survived: self.count(Outcome::survived),
            resets: self.count(Outcome::was_reset),
            bytes_ok: self.all_exact(),
            pause_ms: Pauses { p50: self.pause(50), p99: self.pause(99), max: self.pause(100) },
            takeover_ms: self.takeover.map(millis),
        }
    }

    /// An error unless every connection survived and every byte was right.
    pub fn verdict(&self) -> Result<()> {
        let survived = self.count(Outcome::survived);
        if survived < self.outcomes.len() || !self.all_exact() {
            bail!("{survived} of {} connections survived", self.outcomes.len());
        }
        Ok(())
    }

    fn count(&self, which: impl Fn(&Outcome) -> bool) -> usize {
        self.outcomes.iter().filter(|outcome| which(outcome)).count()
    }

    fn all_exact(&self) -> bool {
        self.outcomes.iter().all(|outcome| outcome.exact)
    }

    /// The smallest pause that `percent` of the connections do not exceed.
    fn pause(&self, percent: usize) -> Option<f64> {
        percentile(&self.pauses, percent)
    }
}

/// In milliseconds, the smallest of the ascending `pauses` that `percent` of them do not exceed.
pub(super) fn percentile(pauses: &[Duration], percent: usize) -> Option<f64> {
    let rank = (pauses.len() * percent).div_ceil(100).max(1);
    pauses.get(rank - 1).copied().map(millis)
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let exact = self.outcomes.iter().filter(|outcome| outcome.exact);
        let verified: u64 = exact.clone().map(|outcome| outcome.bytes).sum();
        let total = self.outcomes.len();
        writeln!(f)?;
        writeln!(f, "  lost relay                {} ({:?})", self.lost, self.how)?;
        writeln!(f, "  connections               {total}")?;
        writeln!(f, "  survived                  {}", self.count(Outcome::survived))?;
        writeln!(f, "  resets                    {}", self.count(Outcome::was_reset))?;
        writeln!(
            f,
            "  bytes verified by sha256  {:.1} MB, {} of {total} bodies",
            verified as f64 / 1e6,
            exact.count()
        )?;
        let pause = |percent| show(self.pause(percent));
        writeln!(f, "  pause p50/p99/max         {}/{}/{} ms", pause(50), pause(99), pause(100))?;
        writeln!(f, "  takeover                  {} ms", show(self.takeover.map(millis)))?;
        for outcome in self.outcomes.iter().filter(|outcome| !outcome.survived()).take(5) {
            writeln!(f, "  failed after {} bytes: {}", outcome.bytes, outcome.said)?;
        }
        writeln!(f)
    }
}

/// For people.
pub(super) fn show(millis: Option<f64>) -> String {
    millis.map_or("-".to_owned(), |millis| format!("{millis:.1}"))
}

/// With one decimal.
pub(super) fn millis(duration: Duration) -> f64 {
    (duration.as_secs_f64() * 1e4).round() / 10.0
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::demo::transfer;

    fn outcome(exit: i32, exact: bool) -> Outcome {
        Outcome {
            exit: Some(exit),
            said: String::new(),
            bytes: 1,
            exact,
            pauses: transfer::Pauses::new(),
        }
    }

    fn report(outcomes: Vec<Outcome>) -> Report {
        let pauses = (1..=200).map(Duration::from_millis).collect();
        Report { outcomes, pauses, lost: "relay-1".into(), how: How::Sigkill, takeover: None }
    }

    #[test]
    fn percentiles_are_nearest_ranks() {
        let pauses = report(vec![outcome(0, true)]).summary().pause_ms;
        assert_eq!(pauses, Pauses { p50: Some(100.0), p99: Some(198.0), max: Some(200.0) });
    }

    #[test]
    fn one_wrong_byte_or_one_reset_fails() {
        assert!(report(vec![outcome(0, true)]).verdict().is_ok());
        assert!(report(vec![outcome(0, true), outcome(0, false)]).verdict().is_err());
        let broken = report(vec![outcome(0, true), outcome(56, false)]);
        assert!(broken.verdict().is_err());
        assert_eq!(broken.summary().resets, 1);
    }
}
