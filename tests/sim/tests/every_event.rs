//! A short exchange whose owner dies at every event boundary of the world.

use sim::every_event::{cover, exchanges};

#[test]
fn a_connection_survives_a_crash_at_every_event() {
    for (name, exchange) in exchanges() {
        let covered = cover(name, &exchange);
        println!("{name}: {} points, survived {}", covered.points, covered.survivals);
        assert!(covered.failures.is_empty(), "{name}: {:#?}", covered.failures);
        assert!(covered.survivals > 100, "{name} is too short: {covered:?}");
    }
}
