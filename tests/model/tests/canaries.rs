//! Whoever breaks a rule is found out.

use model::check::Invariant;
use model::rules::Broken;
use model::runs::{self, Run};
use model::state::Config;

#[test]
fn every_broken_rule_is_caught() {
    let mut run_for = Vec::new();
    for run in runs::canaries() {
        let summary = run.search();
        let broken = run.config.broken;
        let (title, states) = (run.title(), summary.states);
        assert!(summary.found.is_some(), "{broken:?} is not noticed: {title}, {states} states");
        run_for.push(broken);
    }
    for broken in Broken::ALL {
        assert!(run_for.contains(&Some(broken)), "{broken:?} is never run");
    }
}

/// What an eligible node cannot continue sooner or later shows at an end.
#[test]
fn the_ends_see_it_too() {
    let seen: Vec<Invariant> = runs::canaries()
        .into_iter()
        .map(|run| Run { config: Config { only_seen: true, ..run.config }, ..run })
        .filter(|run| run.config.broken.is_some_and(|broken| EASY.contains(&broken)))
        .filter_map(|run| run.search().found)
        .map(|found| found.violation.invariant)
        .collect();
    for invariant in Invariant::ALL.into_iter().filter(|one| *one != Invariant::CannotContinue) {
        assert!(seen.contains(&invariant), "{invariant:?} never fails: {seen:?}");
    }
}

/// Rules whose absence an end sees soon.
const EASY: [Broken; 7] = [
    Broken::TornBase,
    Broken::TermKept,
    Broken::NoSameTermCatchUp,
    Broken::NoGate,
    Broken::CommitIndexTooFar,
    Broken::EstUncommitted,
    Broken::DataAckEarly,
];
