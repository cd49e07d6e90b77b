//! Floods toward the VIP leave established transfers alone, take no memory, and are counted.

use std::collections::BTreeMap;
use std::fs;

use anyhow::{Context, Result};
use e2e::client::Client;
use e2e::conversation::{Conversation, Flowing};
use e2e::counters::{await_count, counters};
use e2e::flood::Flood;
use e2e::{Fixture, Options};

/// Packets of each flood.
const PACKETS: u32 = 200_000;
/// Packets that are counted at least: the rings of a busy machine may overflow.
const COUNTED_MIN: u64 = 100_000;
/// Floods of one kind at most, one after the other, until that many are counted.
const ROUNDS_MAX: u32 = 6;
/// What a relay may grow by during all floods, in KiB: buffers of the transfers, and arenas that
/// the allocator keeps.
const GROWTH_MAX: u64 = 16 << 10;

/// Resident memory of each relay, in KiB.
fn memory(lab: &Fixture) -> Result<Vec<u64>> {
    let one = |pid: i32| {
        let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let digits = line.and_then(|line| line.trim().strip_suffix(" kB")).context("VmRSS")?;
        Ok(digits.parse()?)
    };
    lab.description().relays.iter().map(|relay| one(relay.pid)).collect()
}

/// By how much a counter of `relay` has grown.
fn count(lab: &Fixture, relay: &str, before: &BTreeMap<String, u64>, name: &str) -> Result<u64> {
    let now = counters(lab, relay)?;
    let value = |counters: &BTreeMap<String, u64>| counters.get(name).copied().unwrap_or(0);
    Ok(value(&now) - value(before))
}

/// The counter in which the owner shows what it did not want. (The kernel of the client answers
/// each SYN-ACK with a reset, which belongs to no flow.)
fn counter(flood: Flood) -> &'static str {
    match flood {
        Flood::Syn | Flood::Rst => "dropped/unknown_flow",
        Flood::Ack | Flood::Fin => "dropped/cookie_invalid",
        Flood::ChristmasTree => "dropped/malformed",
        Flood::Fragments => "xdp client0/xdp_fragment",
    }
}

#[test]
fn transfers_go_on_under_floods_and_memory_stays_flat() {
    let lab = Fixture::up(&Options::default()).unwrap();
    let listener = lab.backend_listener().unwrap();
    let owner = lab.owner(None).unwrap();
    let client = Client::raw(&lab, false, "1.3").unwrap();
    let mut talk = Conversation::accept(&listener, client).unwrap();
    // Whatever a first transfer takes is there before memory is measured.
    talk.stream(Flowing::Both, || Ok(())).unwrap();
    let before = memory(&lab).unwrap();
    for flood in Flood::ALL {
        let counted = counters(&lab, &owner).unwrap();
        let stream = talk.stream(Flowing::Both, || {
            // How much of a flood a relay takes in is a matter of speed: it goes on until enough is.
            for _ in 1..ROUNDS_MAX {
                flood.send(PACKETS)?;
                if count(&lab, &owner, &counted, counter(flood))? >= COUNTED_MIN {
                    return Ok(());
                }
            }
            flood.send(PACKETS)?;
            await_count(&lab, &owner, &counted, (counter(flood), COUNTED_MIN))
        });
        stream.with_context(|| format!("{flood:?}")).unwrap();
        for (now, before) in memory(&lab).unwrap().iter().zip(&before) {
            assert!(*now < before + GROWTH_MAX, "{flood:?}: {before} KiB have become {now}");
        }
    }
    talk.exchange().unwrap();
    talk.end().unwrap();
    assert_eq!(lab.owner(None).unwrap(), owner, "a flood looks like a failure");
}
