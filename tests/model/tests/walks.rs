//! Fixed walks through runs that are too large to be exhausted.

use model::runs;

/// Per size; there are four sizes.
const WALKS: usize = 10_000;
/// Any will do; always the same.
const SEED: u64 = 7;

#[test]
fn walks_find_nothing() {
    for run in runs::walks(SEED, WALKS) {
        let summary = run.search();
        if let Some(found) = &summary.found {
            panic!("{}\n{found}", run.title());
        }
        assert!(summary.depth == WALKS && summary.finished > summary.lost, "{}", run.title());
    }
}

#[test]
fn the_same_seed_gives_the_same_walks() {
    let seen = |seed| {
        let runs = runs::walks(seed, 200).into_iter().map(|run| run.search());
        runs.map(|summary| (summary.states, summary.transitions)).collect::<Vec<_>>()
    };
    assert_eq!(seen(SEED), seen(SEED));
    assert_ne!(seen(SEED), seen(SEED + 1));
}
