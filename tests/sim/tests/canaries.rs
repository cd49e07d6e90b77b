//! Every rule that can be broken is noticed when it is. Needs the feature `canary`.
#![cfg(feature = "canary")]

use sim::canary::run_all;

#[test]
fn every_broken_rule_is_noticed() {
    for (trial, verdict) in run_all() {
        assert!(verdict.caught.is_some(), "{:?} is not noticed", trial.canary);
        assert_eq!(verdict.control, None, "the world of {:?} fails", trial.canary);
    }
}
