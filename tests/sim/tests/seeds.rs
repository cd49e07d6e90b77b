//! Random seeds: a failing one is repeated by the command that the failure names.

use sim::{Report, Swarm, run_swarm};

/// Seeds of one test run.
const SEEDS: u64 = 60;

fn check(seed: u64) -> Report {
    let report = run_swarm(seed, Swarm::Long);
    let again = format!("cargo xtask sim --seed {seed}");
    let log = report.log.join("\n");
    assert!(report.failures.is_empty(), "{log}\n{:#?}\nrepeat: {again}", report.failures);
    report
}

/// Runs a range of seeds, and each fourth twice.
#[test]
fn seeded() {
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
