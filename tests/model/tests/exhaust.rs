//! Every state of small runs.

use std::collections::BTreeSet;
use std::hash::{DefaultHasher, Hash, Hasher};

use model::explore::{Limits, visit};
use model::runs;
use model::state::{Config, Direction, State};

/// Even and odd sizes apart: one half for each of two cores.
fn every_second(remainder: usize) {
    let runs = runs::exhaustive();
    for run in runs.iter().enumerate().filter(|(at, _)| at % 2 == remainder).map(|(_, run)| run) {
        let summary = run.search();
        if let Some(found) = &summary.found {
            panic!("{}\n{found}", run.title());
        }
        assert!(summary.complete, "{} is too large", run.title());
        assert!(summary.finished > 0, "{}: nothing was brought to an end", run.title());
    }
}

#[test]
fn small_runs_hold_1() {
    every_second(0);
}

#[test]
fn small_runs_hold_2() {
    every_second(1);
}

/// Messages that are left out because they can have no effect indeed have none: the nodes, the
/// views and both ends reach the same states with them.
#[test]
fn spent_messages_have_no_effect() {
    for direction in [Direction::Down, Direction::Up] {
        let runs = runs::exhaustive().into_iter();
        let run = runs.filter(|run| run.config.direction == direction && run.config.nodes == 2);
        let Some(run) = run.max_by_key(|run| run.config.joins) else { panic!("no such run") };
        let config = Config { bytes: 1, controls: 0, views: 3, crashes: 0, ..run.config };
        let (with, more) = reached(&Config { keep_spent: true, ..config.clone() });
        let (without, fewer) = reached(&config);
        assert!(with == without, "{} and {}", with.len(), without.len());
        assert!(more > fewer, "{more} and {fewer} states");
    }
}

/// What is reached, the network aside, and in how many states.
fn reached(config: &Config) -> (BTreeSet<u64>, usize) {
    let limits = Limits { states: 5_000_000, finish_every: 64 };
    let mut reached = BTreeSet::new();
    let summary = visit(config, limits, |state| {
        let mut hasher = DefaultHasher::new();
        State { net: Vec::new(), ..state.clone() }.hash(&mut hasher);
        reached.insert(hasher.finish());
    });
    assert!(summary.complete && summary.found.is_none(), "{:?}", summary.found);
    (reached, summary.states)
}
