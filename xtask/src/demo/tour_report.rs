//! The table at the end of the tour, and its line of JSON.

use std::fmt;
use std::time::Duration;

use anyhow::{Result, bail};
use serde::Serialize;

use super::report::{percentile, show};
use super::transfer::Outcome;

/// What was done, and what the clients noticed of it.
pub struct Step {
    /// In a word.
    pub what: String,
    /// The relay to which it was done.
    pub from: String,
    /// The relay that has its connections since.
    pub to: String,
    /// How many flows moved.
    pub moved: u64,
    /// The longest pause of each connection, ascending.
    pub pauses: Vec<Duration>,
}

/// The whole tour.
pub struct Report {
    /// One of each connection.
    pub outcomes: Vec<Outcome>,
    /// The steps that were done.
    pub steps: Vec<Step>,
    /// Connections that ended before the last step did.
    pub early: usize,
    /// Why a step could not be done.
    pub failure: Option<String>,
}

/// The line of JSON. Times are in milliseconds, null where there is none.
#[derive(Debug, Serialize)]
pub struct Summary<'a> {
    connections: usize,
    survived: usize,
    resets: usize,
    bytes_ok: bool,
    bytes_verified: u64,
    ended_early: usize,
    failure: Option<&'a str>,
    steps: Vec<StepSummary<'a>>,
}

#[derive(Debug, Serialize)]
struct StepSummary<'a> {
    what: &'a str,
    from: &'a str,
    to: &'a str,
    moved_flows: u64,
    connections: usize,
    pause_p50_ms: Option<f64>,
    pause_p99_ms: Option<f64>,
}

impl Report {
    /// The same for programs.
    pub fn summary(&self) -> Summary<'_> {
        Summary {
            connections: self.outcomes.len(),
            survived: self.count(|outcome| outcome.survived() && outcome.exact),
            resets: self.count(Outcome::was_reset),
            bytes_ok: self.outcomes.iter().all(|outcome| outcome.exact),
            bytes_verified: self.verified(),
            ended_early: self.early,
            failure: self.failure.as_deref(),
            steps: self.steps.iter().map(Step::summary).collect(),
        }
    }

    /// An error unless all steps were done, under connections that all survived them.
    pub fn verdict(&self) -> Result<()> {
        let total = self.outcomes.len();
        let survived = self.count(|outcome| outcome.survived() && outcome.exact);
        if let Some(failure) = &self.failure {
            bail!("the tour did not come to its end: {failure}");
        }
        if survived < total {
            bail!("{survived} of {total} connections survived byte-exact");
        }
        if self.early > 0 {
            bail!(
                "{} of {total} transfers ended before the tour did, so they show nothing: this \
                 machine is slower than the tour expects, run it with less beside it",
                self.early
            );
        }
        Ok(())
    }

    fn count(&self, which: impl Fn(&Outcome) -> bool) -> usize {
        self.outcomes.iter().filter(|outcome| which(outcome)).count()
    }

    fn verified(&self) -> u64 {
        self.outcomes.iter().filter(|outcome| outcome.exact).map(|outcome| outcome.bytes).sum()
    }
}

impl Step {
    fn summary(&self) -> StepSummary<'_> {
        StepSummary {
            what: &self.what,
            from: &self.from,
            to: &self.to,
            moved_flows: self.moved,
            connections: self.pauses.len(),
            pause_p50_ms: percentile(&self.pauses, 50),
            pause_p99_ms: percentile(&self.pauses, 99),
        }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let Summary { connections, survived, resets, bytes_verified, .. } = self.summary();
        writeln!(f)?;
        writeln!(
            f,
            "  {:<4} {:<27} {:<8} {:<8} {:>6} {:>10} {:>10}",
            "step", "what", "from", "to", "moved", "p50 ms", "p99 ms"
        )?;
        for (step, number) in self.steps.iter().zip(1..) {
            let line = step.summary();
            writeln!(
                f,
                "  {number:<4} {:<27} {:<8} {:<8} {:>6} {:>10} {:>10}",
                line.what,
                line.from,
                line.to,
                line.moved_flows,
                show(line.pause_p50_ms),
                show(line.pause_p99_ms)
            )?;
        }
        writeln!(f)?;
        writeln!(f, "  survived byte-exact       {survived} of {connections}")?;
        writeln!(f, "  resets                    {resets}")?;
        writeln!(f, "  bytes verified            {:.1} MB", bytes_verified as f64 / 1e6)?;
        writeln!(f, "  ended before the tour did {}", self.early)?;
        let failed = |outcome: &&Outcome| !(outcome.survived() && outcome.exact);
        for outcome in self.outcomes.iter().filter(failed).take(5) {
            writeln!(f, "  failed after {} bytes: {}", outcome.bytes, outcome.said)?;
        }
        writeln!(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::demo::transfer::Pauses;

    fn report(exact: bool, early: usize) -> Report {
        let (said, pauses) = (String::new(), Pauses::new());
        let outcomes = vec![Outcome { exit: Some(0), said, bytes: 1, exact, pauses }];
        Report { outcomes, steps: Vec::new(), early, failure: None }
    }

    #[test]
    fn only_exact_connections_that_saw_everything_count() {
        assert!(report(true, 0).verdict().is_ok());
        assert!(report(false, 0).verdict().is_err());
        let early = report(true, 1).verdict().unwrap_err().to_string();
        assert!(early.contains("ended before the tour did"), "{early}");
        let failed = Report { failure: Some("a step".to_owned()), ..report(true, 0) };
        assert!(failed.verdict().is_err());
    }
}
