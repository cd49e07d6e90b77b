//! A short exchange with a crash of the owner after every single frame.

#[allow(dead_code, reason = "not every test file uses all of it")]
mod common;

use core::time::Duration;

use common::step;
use relay_core::relay::HoldTime;
use sim::plan::{End, Plan, Version};
use sim::run;
use sim::script::{Action::*, Options, When::*, Who::*};

/// More frames than the exchange has.
const FRAMES_MAX: u64 = 400;

/// Crashes after `frame` frames of the exchange; false when it was over before.
fn crash_after(frame: u64, exchange: &Options) -> (bool, usize) {
    let steps = vec![step(InSync, Wait), step(Sent(frame), Crash(Owner, 0))];
    let report = run(1, &Options { steps, ..exchange.clone() });
    let log = report.log.join("\n");
    assert!(report.failures.is_empty(), "frame {frame}: {log}\n{:#?}", report.failures);
    // Also the last ACK of all is still given, by whoever is there.
    assert_eq!(report.resets, 0, "frame {frame}: {log}");
    (report.crashes == 1, report.survivals)
}

fn crash_everywhere(exchange: &Options) {
    let mut survivals = 0;
    for frame in 0..FRAMES_MAX {
        let (crashed, survived) = crash_after(frame, exchange);
        survivals += survived;
        if !crashed {
            println!("{frame} instants of a crash, the connection went on at {survivals} of them");
            assert!(survivals > 20, "the exchange is too short: {survivals}");
            return;
        }
    }
    panic!("the exchange is longer than {FRAMES_MAX} frames");
}

fn exchange(first_to_close: End) -> Options {
    let start = Duration::from_millis(20);
    let plan = Plan { start, first_to_close, ..Plan::new(1, 20_000, 20_000) };
    Options::new(vec![plan], Vec::new())
}

#[test]
fn bytes_survive_a_crash_after_every_frame() {
    crash_everywhere(&exchange(End::Backend));
    crash_everywhere(&exchange(End::Client));
}

#[test]
fn ipv6_survives_a_crash_after_every_frame() {
    crash_everywhere(&Options { ipv6: true, ..exchange(End::Backend) });
}

#[test]
fn a_tls12_connection_survives_a_crash_after_every_frame() {
    for first_to_close in [End::Backend, End::Client] {
        let mut exchange = exchange(first_to_close);
        exchange.plans[0].version = Version::Tls12;
        crash_everywhere(&exchange);
    }
}

#[test]
fn bytes_that_are_always_replicated_survive_a_crash_after_every_frame() {
    let hold = HoldTime::Fixed(Duration::ZERO);
    crash_everywhere(&Options { hold, ..exchange(End::Backend) });
}

#[test]
fn bytes_that_are_never_replicated_survive_a_crash_after_every_frame() {
    crash_everywhere(&Options { hold: HoldTime::Never, ..exchange(End::Client) });
}
