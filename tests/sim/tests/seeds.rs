//! Random seeds: a failing one is repeated by the command that the failure names.

use sim::{Report, run_seed};

/// Seeds of one test run.
const SEEDS: u64 = 60;

fn check(seed: u64) -> Report {
    let report = run_seed(seed);
    let again = format!("SIM_SEED={seed} cargo test -p sim seeded -- --nocapture");
    let log = report.log.join("\n");
    assert!(report.failures.is_empty(), "{log}\n{:#?}\nrepeat: {again}", report.failures);
    report
}

/// Runs a range of seeds, or the one in SIM_SEED, and each fourth twice.
#[test]
fn seeded() {
    if let Ok(seed) = std::env::var("SIM_SEED") {
        let report = check(seed.parse().expect("SIM_SEED is a number"));
        println!("{}\n{report:#?}", report.log.join("\n"));
        return;
    }
    let (mut crashes, mut completed) = (0, 0);
    for seed in 0..SEEDS {
        let report = check(seed);
        (crashes, completed) = (crashes + report.crashes, completed + report.completed);
        if seed % 4 == 0 {
            assert_eq!(check(seed).digest, report.digest, "seed {seed} is not deterministic");
        }
    }
    assert!(crashes > 20 && completed > 60, "the seeds test too little: {crashes} {completed}");
}
