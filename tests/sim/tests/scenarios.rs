//! Scenarios: what clients and backends see when relays fail.

use sim::plan::Plan;
use sim::script::{Action::*, Options, Step, When::*, Who::*};
use sim::{Report, run};

/// Runs a scenario twice: it must succeed, and both times in the same way.
fn check(seed: u64, options: &Options) -> Report {
    let report = run(seed, options);
    let log = report.log.join("\n");
    assert!(report.failures.is_empty(), "{:#?}\n{log}", report.failures);
    assert_eq!(run(seed, options).digest, report.digest, "the same seed gives the same bytes");
    report
}

#[test]
fn downloads_and_uploads_arrive() {
    let plans = vec![Plan::new(1, 0, 100_000), Plan::new(2, 100_000, 0)];
    let report = check(1, &Options::new(plans, vec![]));
    assert_eq!((report.completed, report.takeovers), (2, 0));
}

#[test]
fn a_download_goes_on_through_a_crash() {
    let steps = vec![
        Step::new(Moved(100_000), Wait),
        Step::new(InSync, Crash(Owner, 3)),
    ];
    let report = check(2, &Options::new(vec![Plan::new(1, 0, 400_000)], steps));
    assert_eq!((report.completed, report.crashes, report.takeovers, report.excused), (1, 1, 1, 0));
}
