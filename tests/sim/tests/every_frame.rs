//! A short exchange with a crash of the owner after every single frame.

#[allow(dead_code, reason = "not every test file uses all of it")]
mod common;

use core::time::Duration;

use common::step;
use sim::plan::{End, Plan, Version};
use sim::run;
use sim::script::{Action::*, Options, When::*, Who::*};

/// More frames than the exchange has.
const FRAMES_MAX: u64 = 400;

/// Crashes after `frame` frames of the exchange; false when it was over before.
fn crash_after(frame: u64, plan: &Plan, hold: Option<Duration>) -> (bool, usize) {
    let steps = vec![step(InSync, Wait), step(Sent(frame), Crash(Owner, 0))];
    let options = Options { hold, ..Options::new(vec![plan.clone()], steps) };
    let report = run(1, &options);
    let log = report.log.join("\n");
    assert!(report.failures.is_empty(), "frame {frame}: {log}\n{:#?}", report.failures);
    // Also the last ACK of all is still given, by whoever is there.
    assert_eq!(report.resets, 0, "frame {frame}: {log}");
    (report.crashes == 1, report.survivals)
}

fn crash_everywhere(plan: &Plan, hold: Option<Duration>) {
    let mut survivals = 0;
    for frame in 0..FRAMES_MAX {
        let (crashed, survived) = crash_after(frame, plan, hold);
        survivals += survived;
        if !crashed {
            assert!(survivals > 20, "the exchange is too short: {survivals}");
            return;
        }
    }
    panic!("the exchange is longer than {FRAMES_MAX} frames");
}

fn exchange(first_to_close: End) -> Plan {
    let start = Duration::from_millis(20);
    Plan { start, first_to_close, ..Plan::new(1, 20_000, 20_000) }
}

#[test]
fn bytes_survive_a_crash_after_every_frame() {
    crash_everywhere(&exchange(End::Backend), Some(Duration::from_millis(2)));
    crash_everywhere(&exchange(End::Client), Some(Duration::from_millis(2)));
}

#[test]
fn a_tls12_connection_survives_a_crash_after_every_frame() {
    let plan = Plan { version: Version::Tls12, ..exchange(End::Backend) };
    crash_everywhere(&plan, Some(Duration::from_millis(2)));
}

#[test]
fn bytes_that_are_always_replicated_survive_a_crash_after_every_frame() {
    crash_everywhere(&exchange(End::Backend), Some(Duration::ZERO));
}

#[test]
fn bytes_that_are_never_replicated_survive_a_crash_after_every_frame() {
    crash_everywhere(&exchange(End::Client), None);
}
