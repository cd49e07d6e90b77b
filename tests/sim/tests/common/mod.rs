//! What scenario tests share.

use core::time::Duration;

use sim::plan::Plan;
use sim::script::{Action, Options, Step, When};
use sim::{Report, run};

/// Runs a scenario twice: it must succeed, and both times in the same way.
pub fn check(seed: u64, options: &Options) -> Report {
    let report = run(seed, options);
    let log = report.log.join("\n");
    assert!(report.failures.is_empty(), "{log}\n{:#?}", report.failures);
    assert_eq!(run(seed, options).digest, report.digest, "the same seed gives the same bytes");
    report
}

/// A step.
pub fn step(when: When, action: Action) -> Step {
    Step::new(when, action)
}

/// A time.
pub fn ms(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

/// Connections that move bytes both ways.
pub fn transfers(count: u64, up: u64, down: u64) -> Vec<Plan> {
    (1..=count).map(|id| Plan::new(id, up, down)).collect()
}
