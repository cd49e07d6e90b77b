//! The table of rules: every rule has its place, and the place exists.

use std::collections::BTreeSet;

use model::check::Invariant;
use model::rules::{Broken, RULES};
use model::runs;

#[test]
fn every_rule_is_modelled_or_says_why_not() {
    let numbers: Vec<u8> = RULES.iter().map(|rule| rule.number).collect();
    assert_eq!(numbers, (1..=20).collect::<Vec<_>>());
    for rule in &RULES {
        let modelled = !rule.transitions.is_empty() && !rule.invariants.is_empty();
        assert!(modelled || !rule.not_modelled.is_empty(), "rule {} has no place", rule.number);
        let line = format!("//! | {} |", rule.number);
        let listed = include_str!("../src/lib.rs").contains(&line);
        assert_eq!(listed, !rule.not_modelled.is_empty(), "rule {} at the top", rule.number);
    }
}

#[test]
fn the_rules_are_those_of_the_protocol() {
    let protocol = include_str!("../../../docs/PROTOCOL.md");
    let (_, table) = protocol.split_once("## The rules").expect("its last section");
    let cells = table.lines().filter_map(|line| line.strip_prefix("| ")?.split(' ').next());
    let numbers: Vec<u8> = cells.filter_map(|cell| cell.parse().ok()).collect();
    assert_eq!(numbers, RULES.map(|rule| rule.number));
}

#[test]
fn places_exist() {
    let runs = runs::walks(1, 2_000).into_iter();
    let taken: BTreeSet<&str> = runs.flat_map(|run| run.search().names).collect();
    let invariants = Invariant::ALL.map(|invariant| format!("{invariant:?}"));
    for rule in &RULES {
        for transition in rule.transitions {
            assert!(taken.contains(transition), "rule {}: {transition} never runs", rule.number);
        }
        for invariant in rule.invariants {
            assert!(invariants.iter().any(|one| one == invariant), "{invariant} is unknown");
        }
    }
}

#[test]
fn every_modelled_rule_can_be_broken() {
    // Rule 5 is the other side of 2 and 4.
    for rule in RULES.iter().filter(|rule| !rule.transitions.is_empty() && rule.number != 5) {
        let broken = Broken::ALL.iter().any(|broken| broken.rule() == rule.number);
        assert!(broken, "rule {} has no canary", rule.number);
    }
}
