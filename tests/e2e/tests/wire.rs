//! Connections over a line that does everything to frames that a line can do.

use std::time::{Duration, Instant};

use e2e::client::Client;
use e2e::conversation::{Conversation, Flowing};
use e2e::counters::{await_count, counters};
use e2e::{Fixture, Options, plan};
use wire::plan::{Both, Plan};
use xtask::lab::wire::Wire;

const DELAY: Duration = Duration::from_millis(2);

fn bad_line() -> Plan {
    Plan {
        delay: Both::same(DELAY),
        rate: Some(Both::same(200_000_000)),
        queue: Some(Both::same(100_000)),
        loss: Both::same(0.005),
        burst: Both::same(0.002),
        reorder: Both::same(0.01),
        reorder_by: Both::same(Duration::from_millis(1)),
        duplicate: Both::same(0.01),
        corrupt: Both::same(0.005),
        seed: 5,
        ..Plan::default()
    }
}

#[test]
fn every_byte_is_right_behind_a_bad_line() {
    let lab = Fixture::up(&Options::default()).unwrap();
    let owner = lab.owner(None).unwrap();
    let before = counters(&lab, &owner).unwrap();
    let listener = lab.backend_listener().unwrap();
    let wire = Wire::insert(&bad_line(), lab.options().mtu).unwrap();
    let client = Client::raw(&lab, false, "1.3").unwrap();
    let mut talk = Conversation::accept(&listener, client).unwrap();
    talk.exchange().unwrap();
    talk.stream(Flowing::Both, || Ok(())).unwrap();
    talk.exchange().unwrap();
    talk.end().unwrap();
    await_count(&lab, &owner, &before, ("dropped/bad_checksum", 1)).unwrap();
    let report = wire.remove().unwrap();
    for line in [report.right, report.left] {
        assert!(line.lost > 0 && line.lost_in_bursts > 0, "{line:?}");
        assert!(line.reordered > 0 && line.duplicated > 0 && line.corrupted > 0, "{line:?}");
    }
}

#[test]
fn a_wire_is_as_long_as_it_was_asked_to_be() {
    let lab = Fixture::up(&Options { relays: 1, ..Options::default() }).unwrap();
    let connect = || {
        let begin = Instant::now();
        lab.connect(false, plan::PORT).unwrap();
        begin.elapsed()
    };
    connect();
    let delay = Both { right: Duration::from_millis(30), left: Duration::from_millis(20) };
    let wire = Wire::insert(&Plan { delay, ..Plan::default() }, lab.options().mtu).unwrap();
    let time = connect();
    assert!(time >= Duration::from_millis(50), "{time:?}");
    drop(wire);
    // Without it everything is as before.
    connect();
}
