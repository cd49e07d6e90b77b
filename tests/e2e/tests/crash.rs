//! A relay is lost in the middle, and the connection goes on: no reset, no wrong byte, no new
//! handshake, and at the end both sides' close_notify.

use std::time::Duration;

use anyhow::{Result, ensure};
use e2e::client::Client;
use e2e::conversation::{Conversation, Flowing};
use e2e::{Congestion, Fixture, How, Options, network, plan, wait_for};

fn begin(lab: &Fixture, ipv6: bool, version: &str) -> Result<Conversation> {
    let listener = lab.backend_listener()?;
    Conversation::accept(&listener, Client::raw(lab, ipv6, version)?)
}

/// A conversation in whose streams the owner is lost.
fn outlives(lab: &mut Fixture, (ipv6, version): (bool, &str), flowing: Flowing, how: How) {
    let mut talk = begin(lab, ipv6, version).unwrap();
    talk.exchange().unwrap();
    talk.stream(flowing, || lab.lose_owner(how).map(drop)).unwrap();
    talk.exchange().unwrap();
    talk.end().unwrap();
}

fn lab() -> Fixture {
    Fixture::up(&Options::default()).unwrap()
}

#[test]
fn a_download_outlives_its_relay() {
    outlives(&mut lab(), (false, "1.3"), Flowing::Down, How::Sigkill);
}

#[test]
fn an_upload_outlives_its_relay() {
    outlives(&mut lab(), (false, "1.3"), Flowing::Up, How::Sigkill);
}

#[test]
fn both_directions_outlive_a_power_cut() {
    outlives(&mut lab(), (false, "1.3"), Flowing::Both, How::Powercut);
}

#[test]
fn tls12_outlives_its_relay() {
    outlives(&mut lab(), (false, "1.2"), Flowing::Both, How::Sigkill);
}

#[test]
fn ipv6_outlives_its_relay() {
    outlives(&mut lab(), (true, "1.3"), Flowing::Both, How::Sigkill);
}

#[test]
fn long_frames_outlive_their_relay() {
    let mut lab = Fixture::up(&Options { mtu: 9000, ..Options::default() }).unwrap();
    outlives(&mut lab, (false, "1.3"), Flowing::Both, How::Sigkill);
}

#[test]
fn several_queues_outlive_their_relay() {
    let mut lab = Fixture::up(&Options { queues: 2, ..Options::default() }).unwrap();
    outlives(&mut lab, (false, "1.3"), Flowing::Both, How::Sigkill);
}

#[test]
fn a_peer_with_bbr_outlives_a_relay() {
    let options = Options { congestion: Congestion::Bbr, ..Options::default() };
    let mut lab = Fixture::up(&options).unwrap();
    outlives(&mut lab, (false, "1.3"), Flowing::Both, How::Sigkill);
}

#[test]
fn random_loss_and_a_lost_relay_together_are_endured() {
    let mut lab = lab();
    network::set_loss(1.0).unwrap();
    outlives(&mut lab, (false, "1.3"), Flowing::Both, How::Sigkill);
}

#[test]
fn small_requests_go_on_while_the_relay_is_lost() {
    let mut lab = lab();
    let mut talk = begin(&lab, false, "1.3").unwrap();
    let lost = lab.owner(None).unwrap();
    (0..200).try_for_each(|_| talk.exchange()).unwrap();
    lab.kill(&lost, How::Sigkill).unwrap();
    (0..200).try_for_each(|_| talk.exchange()).unwrap();
    lab.owner(Some(&lost)).unwrap();
    talk.end().unwrap();
}

#[test]
fn an_idle_connection_goes_on_when_it_is_used_again() {
    let mut lab = lab();
    let mut talk = begin(&lab, false, "1.3").unwrap();
    talk.exchange().unwrap();
    lab.lose_owner(How::Sigkill).unwrap();
    talk.exchange().unwrap();
    talk.end().unwrap();
}

#[test]
fn a_server_that_speaks_first_after_the_loss_is_heard() {
    let mut lab = lab();
    let mut talk = begin(&lab, false, "1.3").unwrap();
    lab.lose_owner(How::Powercut).unwrap();
    talk.tell(b"unasked\n").unwrap();
    talk.exchange().unwrap();
    talk.end().unwrap();
}

#[test]
fn a_client_that_has_ended_its_direction_still_gets_the_rest() {
    let mut lab = lab();
    let mut talk = begin(&lab, false, "1.3").unwrap();
    talk.exchange().unwrap();
    talk.client.shut_input();
    talk.await_end_at_server().unwrap();
    talk.stream(Flowing::Down, || lab.lose_owner(How::Sigkill).map(drop)).unwrap();
    talk.end().unwrap();
}

#[test]
fn a_server_that_has_ended_its_direction_still_gets_the_rest() {
    let mut lab = lab();
    let mut talk = begin(&lab, false, "1.3").unwrap();
    talk.exchange().unwrap();
    talk.server.shutdown(std::net::Shutdown::Write).unwrap();
    assert!(talk.client.read_to_end().unwrap().is_empty());
    talk.stream(Flowing::Up, || lab.lose_owner(How::Sigkill).map(drop)).unwrap();
    talk.end().unwrap();
}

#[test]
fn ends_while_the_relay_is_dead_are_understood() {
    let mut lab = lab();
    let mut talk = begin(&lab, false, "1.3").unwrap();
    talk.exchange().unwrap();
    let lost = lab.owner(None).unwrap();
    lab.kill(&lost, How::Sigkill).unwrap();
    talk.end().unwrap();
}

#[test]
fn keys_are_updated_before_and_after_the_loss() {
    let mut lab = lab();
    let listener = lab.backend_listener().unwrap();
    let client = Client::openssl(&lab, false, plan::RAW_PORT, &["-brief", "-tls1_3"]).unwrap();
    let mut talk = Conversation::accept(&listener, client).unwrap();
    let mut updates = 0;
    for turn in 0..3 {
        if turn > 0 {
            let (lost, _) = lab.lose_owner(How::Sigkill).unwrap();
            lab.bring_back(&lost).unwrap();
        }
        // s_client takes a line that begins with k or K as a command: update the client's key, and
        // with K ask the server to update its own.
        for command in ["k\n", "K\n", "K\n"] {
            talk.exchange().unwrap();
            talk.client.send(command.as_bytes()).unwrap();
            updates += 1;
            talk.client.await_word("KEYUPDATE", updates).unwrap();
            talk.exchange().unwrap();
        }
    }
    drop(talk.server);
    assert!(talk.client.read_to_end().unwrap().is_empty());
    talk.client.wait().unwrap().cleanly().unwrap();
}

#[test]
fn one_connection_outlives_both_relays_one_after_the_other() {
    let mut lab = lab();
    let mut talk = begin(&lab, false, "1.3").unwrap();
    talk.stream(Flowing::Both, || {
        let (first, second) = lab.lose_owner(How::Sigkill)?;
        lab.bring_back(&first)?;
        let (lost, successor) = lab.lose_owner(How::Powercut)?;
        ensure!((lost, successor) == (second.clone(), first), "it is not the other one's turn");
        lab.bring_back(&second)
    })
    .unwrap();
    talk.end().unwrap();
}

/// Linux takes a window only from a segment that is not below the one that set it last (SND.WL1 of RFC 9293).
/// An owner that does not know how far its predecessor had sent acknowledges from the right edge of
/// the backend's window, and the next one may have been told of a smaller window.
#[test]
fn a_window_that_closed_before_the_loss_opens_again() {
    let options = Options { relays: 3, witnesses: 1, ..Options::default() };
    let mut lab = Fixture::up(&options).unwrap();
    let mut talk = begin(&lab, false, "1.3").unwrap();
    talk.exchange().unwrap();
    let (_, second) = lab.lose_owner(How::Sigkill).unwrap();
    talk.exchange().unwrap();
    lab.await_margin(&second).unwrap();
    let bytes = talk.fill().unwrap();
    lab.lose_owner(How::Sigkill).unwrap();
    talk.client.expect(&bytes).unwrap();
    talk.exchange().unwrap();
    talk.end().unwrap();
}

#[test]
fn a_relay_that_paused_wakes_up_and_disturbs_nothing() {
    let mut lab = lab();
    let mut talk = begin(&lab, false, "1.3").unwrap();
    talk.stream(Flowing::Both, || {
        let (paused, successor) = lab.lose_owner(How::Sigstop)?;
        lab.resume(&paused)?;
        lab.await_backup(&paused)?;
        ensure!(lab.owner(None)? == successor, "the paused relay took the connections back");
        let (_, successor) = lab.lose_owner(How::Sigkill)?;
        ensure!(successor == paused, "nobody else is left");
        Ok(())
    })
    .unwrap();
    talk.end().unwrap();
}

#[test]
fn a_relay_without_links_comes_back_as_backup() {
    let mut lab = lab();
    let mut talk = begin(&lab, false, "1.3").unwrap();
    talk.stream(Flowing::Both, || {
        let (cut, successor) = lab.lose_owner(How::Linkdown)?;
        lab.bring_back(&cut)?;
        ensure!(lab.owner(None)? == successor, "the old owner took the connections back");
        Ok(())
    })
    .unwrap();
    talk.end().unwrap();
}

#[test]
fn the_loss_of_the_backup_is_not_noticed() {
    let mut lab = lab();
    let mut talk = begin(&lab, false, "1.3").unwrap();
    talk.stream(Flowing::Both, || {
        let owner = lab.owner(None)?;
        let backup = lab.relays().find(|name| *name != owner).unwrap_or_default();
        lab.kill(&backup, How::Powercut)?;
        wait_for("a view without the backup", Duration::from_secs(20), || {
            let status = lab.status(&owner)?;
            ensure!(status.is_owner() && !status.in_sync, "{status:?}");
            Ok(())
        })?;
        lab.bring_back(&backup)?;
        ensure!(lab.owner(None)? == owner, "the owner changed");
        Ok(())
    })
    .unwrap();
    talk.end().unwrap();
}

#[test]
fn many_connections_outlive_their_relay() {
    const CONNECTIONS: usize = 40;
    let mut lab = lab();
    let mut talks: Vec<_> = (0..CONNECTIONS).map(|_| begin(&lab, false, "1.3").unwrap()).collect();
    talks.iter_mut().try_for_each(Conversation::exchange).unwrap();
    lab.lose_owner(How::Powercut).unwrap();
    talks.iter_mut().try_for_each(Conversation::exchange).unwrap();
    talks.into_iter().try_for_each(Conversation::end).unwrap();
}

#[test]
fn new_connections_are_taken_by_the_successor() {
    let mut lab = lab();
    lab.lose_owner(How::Sigkill).unwrap();
    for ipv6 in [false, true] {
        let mut talk = begin(&lab, ipv6, "1.3").unwrap();
        talk.stream(Flowing::Both, || Ok(())).unwrap();
        talk.end().unwrap();
    }
}
