//! Three relays and a witness, and parts of the network that fail between them. Whatever is cut, and
//! while it is: no byte of any stream is sent with two values, nobody is reset, and the connection goes on.
//! Seen from the wire at both sides (`e2e::watch`).

use std::thread::sleep;
use std::time::Duration;

use anyhow::{Result, ensure};
use e2e::client::Client;
use e2e::conversation::{Conversation, Flowing};
use e2e::watch::Watch;
use e2e::{Fixture, Network, Options, SYNC_LIMIT, TAKEOVER_LIMIT, network, wait_for};

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
        await_order(&lab)
    };
    talk.stream(Flowing::Both, during).unwrap();
    talk.exchange().unwrap();
    talk.end().unwrap();
    watch.end().unwrap();
}

/// Waits until one relay owns and all others are backups in sync. Who was deposed may say for a moment
/// that it owns, until it is told.
fn await_order(lab: &Fixture) -> Result<()> {
    wait_for("one owner and two backups", SYNC_LIMIT, || {
        let statuses = lab.relays().map(|relay| lab.status(&relay));
        let statuses = statuses.collect::<Result<Vec<_>>>()?;
        let owners = statuses.iter().filter(|status| status.role == "owner").count();
        let backups = statuses.iter().filter(|status| status.is_ready_backup()).count();
        ensure!((owners, backups) == (1, statuses.len() - 1), "{statuses:?}");
        Ok(())
    })
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
