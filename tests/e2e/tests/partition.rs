//! Three relays and a witness, and parts of the network that fail between them. Whatever is cut, and
//! while it is: no byte of any stream is sent with two values, nobody is reset, and the connection goes on.
//! Seen from the wire at both sides (`e2e::watch`).

use std::thread::sleep;
use std::time::Duration;

use anyhow::Result;
use e2e::client::Client;
use e2e::conversation::{Conversation, Flowing};
use e2e::watch::Watch;
use e2e::{Fixture, Network, Options, TAKEOVER_LIMIT, network, wait_for};

/// Long enough for every timeout, and for views about it.
const CUT: Duration = Duration::from_secs(2);

/// What is done to the network around `owner`, and undone.
fn endures(cut: impl Fn(&str, bool) -> Result<()>, deposes: bool) {
    let options = Options { relays: 3, witnesses: 1, ..Options::default() };
    let lab = Fixture::up(&options).unwrap();
    let watch = Watch::begin().unwrap();
    let listener = lab.backend_listener().unwrap();
    let client = Client::raw(&lab, false, "1.3").unwrap();
    let mut talk = Conversation::accept(&listener, client).unwrap();
    talk.exchange().unwrap();
    let during = || {
        let owner = lab.owner(None)?;
        cut(&owner, true)?;
        sleep(CUT);
        if deposes {
            wait_for("takeover", TAKEOVER_LIMIT, || lab.owner(Some(&owner)))?;
        }
        cut(&owner, false)?;
        let relays: Vec<_> = lab.relays().collect();
        let present = wait_for("one owner", TAKEOVER_LIMIT, || lab.owner(None))?;
        relays
            .iter()
            .filter(|relay| **relay != present)
            .try_for_each(|relay| lab.await_backup(relay))
    };
    talk.stream(Flowing::Both, during).unwrap();
    talk.exchange().unwrap();
    talk.end().unwrap();
    watch.end().unwrap();
}

#[test]
fn the_owner_is_cut_off_from_the_cluster() {
    endures(|owner, cut| network::set_cut(Network::Cluster, owner, cut), true);
}

#[test]
fn the_owner_is_cut_off_from_the_clients() {
    // Nobody in the cluster knows: the connection waits until the network is back.
    endures(|owner, cut| network::set_cut(Network::Client, owner, cut), false);
}

#[test]
fn the_owner_is_cut_off_from_the_cluster_and_the_clients() {
    let cut_both = |owner: &str, cut| {
        network::set_cut(Network::Cluster, owner, cut)?;
        network::set_cut(Network::Client, owner, cut)
    };
    endures(cut_both, true);
}

#[test]
fn the_owner_is_not_heard_by_the_cluster() {
    endures(|owner, cut| network::set_one_way(Network::Cluster, owner, false, cut), true);
}

#[test]
fn the_owner_does_not_hear_the_cluster() {
    endures(|owner, cut| network::set_one_way(Network::Cluster, owner, true, cut), true);
}

#[test]
fn the_witness_is_cut_off() {
    endures(|_, cut| network::set_cut(Network::Cluster, "witness-1", cut), false);
}
