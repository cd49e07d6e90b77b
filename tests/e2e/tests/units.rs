//! Many units of ownership: all relays carry connections at the same time, frames reach their owner
//! whichever relay they come to, and every relay can go on with the others' connections.

use anyhow::{Result, ensure};
use e2e::client::Client;
use e2e::conversation::Conversation;
use e2e::counters::counters;
use e2e::{Fixture, How, Options, SYNC_LIMIT, TAKEOVER_LIMIT, plan, wait_for};
use xtask::lab::serving;

fn lab(relays: u8) -> Fixture {
    Fixture::up(&Options { relays, witnesses: 1, units: 16, ..Options::default() }).unwrap()
}

fn await_shares(lab: &Fixture, relays: &[String]) -> Result<()> {
    wait_for("equal shares", SYNC_LIMIT, || serving::shares(lab, relays))
}

fn holder(lab: &Fixture, relays: &[String]) -> Result<String> {
    for name in relays {
        if lab.status(name)?.holds_addresses {
            return Ok(name.clone());
        }
    }
    anyhow::bail!("nobody answers for the addresses")
}

fn exchange_all(talks: &mut [Conversation]) {
    for talk in talks {
        talk.exchange().unwrap();
    }
}

#[test]
fn every_relay_carries_connections_and_goes_on_with_those_of_others() {
    let mut lab = lab(3);
    let all: Vec<String> = lab.relays().collect();
    await_shares(&lab, &all).unwrap();
    let listener = lab.backend_listener().unwrap();
    let begin = |n: usize| {
        let client = Client::raw(&lab, n % 2 == 1, "1.3").unwrap();
        Conversation::accept(&listener, client).unwrap()
    };
    let mut talks: Vec<Conversation> = (0..24).map(begin).collect();
    exchange_all(&mut talks);
    for name in &all {
        assert!(lab.status(name).unwrap().flows > 0, "{name} carries nothing");
    }
    let first = holder(&lab, &all).unwrap();
    let other = all.iter().find(|name| **name != first).unwrap().clone();
    for (lost, how) in [(other, How::Powercut), (first, How::Sigkill)] {
        lab.kill(&lost, how).unwrap();
        exchange_all(&mut talks);
        let left: Vec<String> = all.iter().filter(|name| **name != lost).cloned().collect();
        await_shares(&lab, &left).unwrap();
        exchange_all(&mut talks);
        lab.start(&lost).unwrap();
        await_shares(&lab, &all).unwrap();
        exchange_all(&mut talks);
    }
    for talk in talks {
        talk.end().unwrap();
    }
}

/// New connections fall to relays by their weights.
#[test]
fn four_relays_share_by_their_weights() {
    let lab = lab(4);
    let all: Vec<String> = lab.relays().collect();
    await_shares(&lab, &all).unwrap();
    assert_weights(&lab, &all, 4000, &[1, 1, 1, 1]);
    lab.ask("relay-2", &["weigh", "3", "200"]).unwrap();
    lab.ask("relay-1", &["weigh", "4", "400"]).unwrap();
    println!("{}", lab.ask("relay-1", &["rebalance"]).unwrap());
    assert_weights(&lab, &all, 8000, &[1, 1, 2, 4]);

    let sum = |name: &str| -> u64 {
        let of = |relay: &String| counters(&lab, relay).unwrap()[&format!("xdp client0/{name}")];
        all.iter().map(of).sum()
    };
    let (forwarded, taken) = (sum("xdp_forwarded"), sum("xdp_service"));
    println!("{forwarded} of {taken} frames were forwarded");
    assert!(forwarded > taken / 3, "at least half of the flows are elsewhere");
}

/// Each relay gets its part of new connections, to within a tenth.
fn assert_weights(lab: &Fixture, all: &[String], connections: u64, weights: &[u64]) {
    let totals = || -> Result<Vec<u64>> {
        all.iter().map(|name| Ok(lab.status(name)?.flows_total)).collect()
    };
    let before = totals().unwrap();
    for n in 0..connections {
        drop(lab.connect(n % 2 == 1, plan::PORT).unwrap());
    }
    let shares = wait_for("all connections at the relays", TAKEOVER_LIMIT, || {
        let after = totals()?;
        let shares: Vec<_> =
            after.iter().zip(&before).map(|(after, before)| after - before).collect();
        ensure!(shares.iter().sum::<u64>() >= connections, "{shares:?}");
        Ok(shares)
    });
    let shares = shares.unwrap();
    println!("connections by relay: {shares:?}");
    let sum: u64 = weights.iter().sum();
    let due = weights.iter().map(|weight| connections * weight / sum);
    assert!(
        shares.iter().zip(due).all(|(share, due)| share.abs_diff(due) <= due / 10),
        "{shares:?}"
    );
}
