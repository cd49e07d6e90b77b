//! Three relays and a witness: a council decides who owns. Whatever is lost or cut off, there is one
//! owner, and the connection goes on.

use std::time::Duration;

use anyhow::{Result, ensure};
use e2e::client::Client;
use e2e::conversation::{Conversation, Flowing};
use e2e::{Fixture, How, Network, Options, TAKEOVER_LIMIT, network, relay, wait_for};

fn lab() -> Fixture {
    Fixture::up(&Options { relays: 3, witnesses: 1, ..Options::default() }).unwrap()
}

fn begin(lab: &Fixture) -> Conversation {
    let listener = lab.backend_listener().unwrap();
    let client = Client::raw(lab, false, "1.3").unwrap();
    let mut talk = Conversation::accept(&listener, client).unwrap();
    talk.exchange().unwrap();
    talk
}

fn end(mut talk: Conversation) {
    talk.exchange().unwrap();
    talk.end().unwrap();
}

/// Waits until nobody but `owner` says that it owns.
fn await_one_owner(lab: &Fixture, owner: &str) -> Result<()> {
    wait_for("one owner", TAKEOVER_LIMIT, || {
        for relay in lab.relays() {
            let is_owner = lab.status(&relay)?.role == "owner";
            ensure!(is_owner == (relay == owner), "{relay} owns: {is_owner}");
        }
        Ok(())
    })
}

#[test]
fn two_of_three_relays_are_lost_one_after_the_other() {
    let mut lab = lab();
    let mut talk = begin(&lab);
    let lose_two = || {
        let (first, second) = lab.lose_owner(How::Powercut)?;
        ensure!(first != second);
        lab.await_margin(&second)?;
        let (_, third) = lab.lose_owner(How::Sigkill)?;
        ensure!(third != first && third != second);
        lab.bring_back(&first)?;
        lab.bring_back(&second)
    };
    talk.stream(Flowing::Both, lose_two).unwrap();
    end(talk);
}

#[test]
fn an_owner_that_is_cut_off_from_the_others_owns_no_more() {
    let lab = lab();
    let mut talk = begin(&lab);
    let cut = || {
        let owner = lab.owner(None)?;
        network::set_cut(Network::Cluster, &owner, true)?;
        let successor = wait_for("takeover", TAKEOVER_LIMIT, || lab.owner(Some(&owner)))?;
        network::set_cut(Network::Cluster, &owner, false)?;
        await_one_owner(&lab, &successor)?;
        lab.await_backup(&owner)
    };
    talk.stream(Flowing::Both, cut).unwrap();
    end(talk);
}

#[test]
fn an_owner_without_clients_leaves_its_connections_to_another() {
    let lab = lab();
    let mut talk = begin(&lab);
    let cut = || {
        let owner = lab.owner(None)?;
        network::set_port(Network::Client, &owner, false)?;
        let successor = wait_for("handover", TAKEOVER_LIMIT, || lab.owner(Some(&owner)))?;
        network::set_port(Network::Client, &owner, true)?;
        await_one_owner(&lab, &successor)?;
        lab.await_backup(&owner)
    };
    talk.stream(Flowing::Both, cut).unwrap();
    end(talk);
}

#[test]
fn an_owner_that_was_stopped_comes_back_as_a_backup() {
    let mut lab = lab();
    let mut talk = begin(&lab);
    let stop = || {
        let (owner, successor) = lab.lose_owner(How::Sigstop)?;
        // Several timeouts, so that all of its leases are over.
        std::thread::sleep(Duration::from_secs(1));
        lab.resume(&owner)?;
        await_one_owner(&lab, &successor)?;
        lab.await_backup(&owner)
    };
    talk.stream(Flowing::Both, stop).unwrap();
    end(talk);
}

#[test]
fn a_drained_relay_carries_nothing_and_nobody_notices() {
    let lab = lab();
    let mut talk = begin(&lab);
    let drain = || {
        let owner = lab.owner(None)?;
        let id = owner.trim_start_matches("relay-");
        let said = lab.ask(&owner, &["drain", id])?;
        ensure!(said.contains("carries nothing"), "{said}");
        let successor = lab.owner(Some(&owner))?;
        await_one_owner(&lab, &successor)?;
        lab.ask(&successor, &["undrain", id])?;
        // It is a backup again, and may be drained to.
        lab.await_backup(&owner)?;
        let id = successor.trim_start_matches("relay-");
        lab.ask(&owner, &["drain", id]).map(drop)
    };
    talk.stream(Flowing::Both, drain).unwrap();
    end(talk);
}

#[test]
fn an_owner_that_is_asked_to_end_hands_over_first() {
    let mut lab = lab();
    let mut talk = begin(&lab);
    let stop = || {
        let (owner, successor) = lab.lose_owner(How::Sigterm)?;
        let log = std::fs::read_to_string(relay::log(&owner))?;
        ensure!(log.contains("hands over before it ends"), "{log}");
        lab.bring_back(&owner)?;
        // In its new life it may own again: a drain ends with the life that was drained.
        let (lost, _) = lab.lose_owner(How::Sigkill)?;
        ensure!(lost == successor);
        Ok(())
    };
    talk.stream(Flowing::Both, stop).unwrap();
    end(talk);
}
