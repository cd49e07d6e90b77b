//! The runs that the tests and the program make: sizes that can be exhausted, walks through larger
//! ones, and one run for each broken rule and stream.

use crate::explore::{Limits, Summary, exhaust, walk};
use crate::rules::Broken;
use crate::state::{Config, Direction};

/// States after which an exhaustive run is given up.
const MOST_STATES: usize = 20_000_000;
/// One of how many states of an exhaustive run is brought to an end.
const FINISH_EVERY: u64 = 64;
/// Walks within which a broken rule must be found.
const CANARY_WALKS: usize = 60_000;
/// The seed of the walks that look for broken rules.
const CANARY_SEED: u64 = 1;

/// How to search.
#[derive(Clone, Copy, Debug)]
pub enum Method {
    /// Every state.
    Exhaust,
    /// This many walks from this seed.
    Walk { seed: u64, walks: usize },
}

/// One search.
#[derive(Clone, Debug)]
pub struct Run {
    /// The size.
    pub config: Config,
    /// The way.
    pub method: Method,
}

impl Run {
    /// Searches.
    pub fn search(&self) -> Summary {
        match self.method {
            Method::Exhaust => {
                let limits = Limits { states: MOST_STATES, finish_every: FINISH_EVERY };
                exhaust(&self.config, limits)
            }
            Method::Walk { seed, walks } => walk(&self.config, seed, walks),
        }
    }

    /// Its size in a line.
    pub fn title(&self) -> String {
        let Config { direction, nodes, bytes, controls, views, .. } = &self.config;
        let Config { crashes, restarts, joins, .. } = &self.config;
        let commit_index = if self.config.commit_index { " commit-index" } else { "" };
        let mutable_peer = if self.config.mutable_peer { " mutable-peer" } else { "" };
        format!(
            "{direction:?} nodes={nodes} bytes={bytes} controls={controls} views={views} \
             crashes={crashes} restarts={restarts} joins={joins}{commit_index}{mutable_peer}"
        )
    }
}

/// No faults at all; the runs below add to it.
fn calm(direction: Direction, nodes: u8, bytes: u8, views: u8) -> Config {
    Config {
        direction,
        nodes,
        bytes,
        record: 2,
        controls: 0,
        views,
        crashes: 0,
        restarts: 0,
        joins: 0,
        commit_index: false,
        mutable_peer: false,
        keep_spent: false,
        only_seen: false,
        broken: None,
    }
}

/// One crash, a restart, and the way back into the view.
fn returning(config: Config) -> Config {
    Config { crashes: 1, restarts: 1, joins: 1, ..config }
}

/// Sizes of which every state is seen in about a minute together, on one slow core.
pub fn exhaustive() -> Vec<Run> {
    use Direction::{Down, Up};
    let configs = [
        // Two backups whose logs differ when their owner dies.
        Config { crashes: 1, ..calm(Down, 3, 1, 2) },
        calm(Up, 3, 1, 2),
        // A backup or an owner that comes back, learns, and is promoted.
        returning(calm(Down, 2, 1, 4)),
        returning(calm(Up, 2, 1, 4)),
        // Records that can be framed in more than one way.
        returning(Config { controls: 1, ..calm(Down, 2, 1, 3) }),
        Config { crashes: 1, ..calm(Up, 2, 2, 2) },
        Config { commit_index: true, ..calm(Down, 3, 1, 2) },
        Config { crashes: 1, mutable_peer: true, ..calm(Down, 2, 2, 2) },
    ];
    configs.map(|config| Run { config, method: Method::Exhaust }).to_vec()
}

/// Sizes that take minutes and some gigabytes.
pub fn large() -> Vec<Run> {
    use Direction::{Down, Up};
    let configs = [
        Config { crashes: 1, ..calm(Up, 3, 1, 2) },
        Config { crashes: 1, ..calm(Up, 2, 2, 3) },
        returning(calm(Down, 2, 2, 3)),
        Config { crashes: 1, ..calm(Down, 2, 3, 2) },
        Config { crashes: 1, mutable_peer: true, ..calm(Down, 2, 2, 3) },
    ];
    configs.map(|config| Run { config, method: Method::Exhaust }).to_vec()
}

/// Larger than can be exhausted: both streams, three nodes and four, with and without the options.
pub fn walks(seed: u64, walks: usize) -> Vec<Run> {
    let mut runs = Vec::new();
    for direction in [Direction::Down, Direction::Up] {
        for (nodes, commit_index) in [(3, false), (4, true)] {
            let mutable_peer = commit_index && direction == Direction::Down;
            let config = Config { commit_index, mutable_peer, ..stormy(direction, nodes) };
            runs.push(Run { config, method: Method::Walk { seed, walks } });
        }
    }
    runs
}

fn stormy(direction: Direction, nodes: u8) -> Config {
    let faults = Config { crashes: 2, restarts: 2, joins: 2, ..calm(direction, nodes, 3, 5) };
    Config { controls: 1, views: if nodes == 4 { 6 } else { 5 }, ..faults }
}

/// A run for each broken rule and each stream in which it can show. All must find something.
pub fn canaries() -> Vec<Run> {
    let runs = Broken::ALL.into_iter().flat_map(|broken| {
        broken.directions().iter().map(move |direction| canary(broken, *direction))
    });
    runs.collect()
}

fn canary(broken: Broken, direction: Direction) -> Run {
    let walk = Method::Walk { seed: CANARY_SEED, walks: CANARY_WALKS };
    let (config, method) = match (broken, direction) {
        // What happens between a proposal and its commit is short, and rare in walks.
        (Broken::PromoteUngated, Direction::Up) => {
            (Config { joins: 1, ..calm(direction, 2, 1, 4) }, Method::Exhaust)
        }
        (Broken::PromoteUngated | Broken::PromoteWithoutCas, _) => {
            let config = Config { controls: 1, joins: 2, ..calm(direction, 2, 1, 5) };
            (config, walk)
        }
        (Broken::StaleAcks | Broken::AckBeforeApply, _) => {
            (Config { controls: 1, ..calm(direction, 3, 1, 4) }, walk)
        }
        _ => (stormy(direction, 3), walk),
    };
    let config = Config {
        commit_index: broken == Broken::CommitIndexTooFar,
        mutable_peer: broken == Broken::TagIgnored,
        broken: Some(broken),
        ..config
    };
    Run { config, method }
}
